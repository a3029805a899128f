//! Runs plans: arena memory, thread pool, matrix products.

//! Scalar table, graph IR, kernel IR, verifiers, text form and the f64 reference interpreter.

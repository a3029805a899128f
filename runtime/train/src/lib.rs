//! Data sources, batching, checkpoints, logs, plots and reports.

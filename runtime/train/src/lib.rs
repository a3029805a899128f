//! Data sources, batching, checkpoints, logs, plots and reports: everything around compiled programs that needs files or formats.

pub mod batch;
pub mod data;
pub mod error;
pub mod series;
pub mod split;

pub use batch::Batches;
pub use data::{Column, DataSet, Text};
pub use error::{Result, TrainError};
pub use series::Series;

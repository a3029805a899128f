//! Data sources, batching, checkpoints, logs, plots and reports: everything around compiled programs that needs files or formats.

pub mod array_file;
pub mod atomic;
pub mod batch;
pub mod board;
pub mod checkpoint;
pub mod data;
pub mod error;
pub mod log;
pub mod package;
pub mod pages;
pub mod plot;
pub mod png;
pub mod process;
pub mod progress;
pub mod report;
pub mod save;
pub mod series;
pub mod split;
pub mod table;
pub mod tfevents;

pub use array_file::ArrayFile;
pub use batch::Batches;
pub use checkpoint::{Checkpoint, Checkpoints};
pub use data::{Fact, Source, Text};
pub use error::{Result, TrainError};
pub use log::{Format, Logger};
pub use package::Package;
pub use plot::{Line, Plot};
pub use progress::Progress;
pub use report::Report;
pub use series::Series;
pub use table::{Cell, Table};

//! Data sources and the columns they give: arrays of examples, in memory or mapped from a file.

pub mod column;
pub mod csv;
pub mod idx;
pub mod npy;
pub mod set;
pub mod text;
pub mod zip;

pub use column::Column;
pub use set::DataSet;
pub use text::Text;

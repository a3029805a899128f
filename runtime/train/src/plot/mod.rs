//! Line charts, scatter plots and heat maps as PNG and SVG.

mod draw;
mod heat;
mod scale;

use crate::atomic;
use crate::error::{Result, TrainError};
use crate::series::Series;
use std::path::Path;

/// Width of a chart in pixels.
pub const WIDTH: usize = 900;
/// Height of a chart in pixels.
pub const HEIGHT: usize = 560;

/// A chart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plot {
    /// Above the chart; may be empty.
    pub title: String,
    /// Below the x axis; may be empty.
    pub x_label: String,
    /// Beside the y axis; may be empty.
    pub y_label: String,
    /// Whether the x axis is logarithmic; points with x at or below 0 are left out.
    pub log_x: bool,
    /// Whether the y axis is logarithmic; points with y at or below 0 are left out.
    pub log_y: bool,
    /// What is drawn, in order of color.
    pub lines: Vec<Line>,
    /// Points are drawn one by one, without a line through them: a scatter plot.
    pub points: bool,
    /// A matrix to draw instead of lines; with `log_y` its colors are logarithmic.
    pub heat: Option<Heat>,
}

/// A matrix drawn as a heat map.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heat {
    /// Its number of rows.
    pub rows: usize,
    /// Its elements, row by row. NaN and infinities are left gray.
    pub values: Vec<f64>,
}

impl Heat {
    /// Its number of columns.
    pub fn columns(&self) -> usize {
        self.values.len() / self.rows.max(1)
    }
}

/// One entry of the legend: a curve, or several (one a seed) drawn as their mean with a band from the least to the greatest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// Name in the legend.
    pub name: String,
    /// Points of each curve, x ascending. NaN and infinities leave a gap.
    pub curves: Vec<Vec<(f64, f64)>>,
}

impl Line {
    /// A recorded series over its steps.
    pub fn series(name: impl Into<String>, series: &Series) -> Self {
        Line { name: name.into(), curves: vec![series.points().collect()] }
    }
    /// The same series of several runs.
    pub fn runs<'a>(name: impl Into<String>, runs: impl IntoIterator<Item = &'a Series>) -> Self {
        Line { name: name.into(), curves: runs.into_iter().map(|s| s.points().collect()).collect() }
    }
    /// Values over x. Panics if their numbers differ.
    pub fn xy(name: impl Into<String>, x: &[f64], y: &[f64]) -> Self {
        assert_eq!(x.len(), y.len(), "compiler bug: points of a line");
        Line { name: name.into(), curves: vec![x.iter().copied().zip(y.iter().copied()).collect()] }
    }
    /// Values over 0, 1, 2, ….
    pub fn values(name: impl Into<String>, y: &[f64]) -> Self {
        Line { name: name.into(), curves: vec![y.iter().enumerate().map(|(i, &v)| (i as f64, v)).collect()] }
    }
}

impl Plot {
    /// As an SVG document of [`WIDTH`] by [`HEIGHT`]. `R0119` if there is no finite point to draw.
    pub fn svg(&self) -> Result<String> {
        draw::svg(self)
    }
    /// As the bytes of a PNG image of [`WIDTH`] by [`HEIGHT`]. `R0119` if there is no finite point to draw.
    pub fn png(&self) -> Result<Vec<u8>> {
        draw::png(self)
    }
    /// Writes a `.png` or `.svg` file, atomically. `R0120` for another extension.
    pub fn write(&self, path: &Path) -> Result<()> {
        match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("svg") => atomic::write(path, self.svg().map_err(|e| e.at(path))?.as_bytes()),
            Some("png") => atomic::write(path, &self.png().map_err(|e| e.at(path))?),
            _ => Err(TrainError::new("R0120", "a plot is written as .png or .svg").at(path)),
        }
    }
}

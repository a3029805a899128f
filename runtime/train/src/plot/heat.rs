//! Heat maps: a matrix as a grid of colored cells, the first row on top, with a scale of colors beside it.

use super::draw::{Canvas, Frame, LABEL, WHITE, failed};
use super::scale::Scale;
use super::{HEIGHT, Heat, Plot, WIDTH};
use crate::error::{Result, TrainError};
use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, VPos};
use plotters::style::{Color, RGBColor};

/// Rows or columns beyond which neighbors are drawn as their mean.
const MOST: usize = 240;
/// Width of the scale of colors and its distance from the cells, in pixels.
const BAR: (f64, f64) = (16.0, 14.0);
/// Steps of the scale of colors.
const STEPS: usize = 64;
/// A cell without a finite value.
const NONE: RGBColor = RGBColor(214, 218, 222);
/// The viridis scale (van der Walt & Smith 2015) at equal distances: even in lightness, readable for the color-blind.
const VIRIDIS: [[f64; 3]; 9] = [
    [68.0, 1.0, 84.0],
    [71.0, 44.0, 122.0],
    [59.0, 81.0, 139.0],
    [44.0, 113.0, 142.0],
    [33.0, 144.0, 141.0],
    [39.0, 173.0, 129.0],
    [92.0, 200.0, 99.0],
    [170.0, 220.0, 50.0],
    [253.0, 231.0, 37.0],
];

/// The color of a place on the scale, from 0 to 1.
fn color(at: f64) -> RGBColor {
    let place = at.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f64;
    let k = (place as usize).min(VIRIDIS.len() - 2);
    let mix = |c: usize| (VIRIDIS[k][c] + (place - k as f64) * (VIRIDIS[k + 1][c] - VIRIDIS[k][c])).round() as u8;
    RGBColor(mix(0), mix(1), mix(2))
}

/// The matrix with at most [`MOST`] rows and columns, each the mean of the finite values it stands for; NaN where there are none.
fn thinned(heat: &Heat) -> (usize, usize, Vec<f64>) {
    let (rows, columns) = (heat.rows.min(MOST), heat.columns().min(MOST));
    let cut = |k: usize, parts: usize, n: usize| k * n / parts..(k + 1) * n / parts;
    let mut cells = Vec::with_capacity(rows * columns);
    for r in 0..rows {
        for c in 0..columns {
            let (mut sum, mut count) = (0.0, 0);
            for row in cut(r, rows, heat.rows) {
                for column in cut(c, columns, heat.columns()) {
                    let v = heat.values[row * heat.columns() + column];
                    if v.is_finite() {
                        (sum, count) = (sum + v, count + 1);
                    }
                }
            }
            cells.push(sum / f64::from(count));
        }
    }
    (rows, columns, cells)
}

impl<DB: DrawingBackend> Canvas<'_, DB> {
    /// Draws a heat map.
    pub(super) fn heat(&self, plot: &Plot, heat: &Heat) -> Result<()> {
        self.area.fill(&WHITE).map_err(failed)?;
        let (rows, columns, cells) = thinned(heat);
        let drawn = |v: f64| if plot.log_y { (v > 0.0).then(|| v.log10()) } else { v.is_finite().then_some(v) };
        let values = cells.iter().filter_map(|&v| drawn(v));
        let (least, greatest) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        if least > greatest {
            return Err(TrainError::new("R0119", "nothing to draw: no finite values"));
        }
        // Cells lie around their numbers; rows run downward.
        let (x, y) = (Scale::new(false, -0.5, heat.columns() as f64 - 0.5, 0.0), Scale::new(false, -0.5, heat.rows as f64 - 0.5, 0.0));
        let whole = |scale: &Scale, wanted: usize, n: usize| {
            let ticks = scale.ticks(wanted).into_iter().filter(|t| t.label.parse::<f64>().is_ok_and(|v| v.fract() == 0.0 && v < n as f64));
            ticks.collect::<Vec<_>>()
        };
        let (x_ticks, mut y_ticks) = (whole(&x, 8, heat.columns()), whole(&y, 8, heat.rows));
        y_ticks.iter_mut().for_each(|t| t.at = 1.0 - t.at);
        let levels = if plot.log_y {
            Scale::new(true, 10f64.powf(least), 10f64.powf(greatest), 0.0)
        } else {
            Scale::new(false, least, greatest, 0.0)
        };
        let marks = levels.ticks(6);
        let widest = |ticks: &[super::scale::Tick]| ticks.iter().map(|t| self.width(&t.label, LABEL)).fold(0.0, f64::max);
        let frame = Frame {
            left: 16.0 + widest(&y_ticks) + 10.0 + if plot.y_label.is_empty() { 0.0 } else { 24.0 },
            top: if plot.title.is_empty() { 28.0 } else { 58.0 },
            right: WIDTH as f64 - 26.0 - widest(&marks) - 8.0 - BAR.0 - BAR.1,
            bottom: HEIGHT as f64 - if plot.x_label.is_empty() { 36.0 } else { 60.0 },
        };
        self.axes(plot, frame, &x_ticks, &y_ticks)?;
        let cell = |row: usize, column: usize| {
            let (left, top) = frame.point((column as f64 / columns as f64, 1.0 - row as f64 / rows as f64));
            let (right, bottom) = frame.point(((column + 1) as f64 / columns as f64, 1.0 - (row + 1) as f64 / rows as f64));
            Frame { left, top, right, bottom }
        };
        for row in 0..rows {
            for column in 0..columns {
                let value = cells[row * columns + column];
                let shade = drawn(value).map_or(NONE, |_| levels.place(value).map_or(NONE, color));
                self.rect(cell(row, column), shade.filled())?;
            }
        }
        let (left, right) = (frame.right + BAR.1, frame.right + BAR.1 + BAR.0);
        let bar = Frame { left, right, ..frame };
        for k in 0..STEPS {
            let (low, high) = (k as f64 / STEPS as f64, (k + 1) as f64 / STEPS as f64);
            let piece = Frame { top: bar.point((0.0, high)).1, bottom: bar.point((0.0, low)).1, ..bar };
            self.rect(piece, color((low + high) / 2.0).filled())?;
        }
        for mark in &marks {
            let (px, py) = bar.point((1.0, mark.at));
            self.text(&mark.label, (px + 6.0, py), LABEL, HPos::Left, VPos::Center)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(rows: usize, values: Vec<f64>) -> Plot {
        Plot { title: "map".into(), x_label: "j".into(), y_label: "i".into(), heat: Some(Heat { rows, values }), ..Plot::default() }
    }

    #[test]
    fn cells_have_the_colors_of_their_values() {
        assert_eq!((color(0.0), color(1.0), color(0.5)), (RGBColor(68, 1, 84), RGBColor(253, 231, 37), RGBColor(33, 144, 141)));
        let svg = map(2, vec![0.0, 1.0, f64::NAN, 0.5, 0.25, 1.0]).svg().unwrap();
        assert_eq!(svg.matches("<rect").count(), 1 + 6 + STEPS, "the ground, the cells, the scale");
        assert!(svg.contains("#440154") && svg.contains("#FDE725") && !svg.contains("NaN"));
        let (_, _, _, pixels) = crate::png::tests::decode(&map(1, vec![0.0, 1.0]).png().unwrap());
        assert!(pixels.chunks(3).filter(|p| *p == [68, 1, 84]).count() > 10_000);
    }

    #[test]
    fn large_and_odd_matrices_draw_or_say_why_not() {
        let large = Heat { rows: 1000, values: (0..1000 * 700).map(f64::from).collect() };
        let (rows, columns, cells) = thinned(&large);
        assert_eq!((rows, columns, cells.len()), (MOST, MOST, MOST * MOST));
        assert!(cells.windows(2).all(|w| w[0] < w[1] || w[0] - w[1] < 701.0));
        for constant in [vec![3.0; 4], vec![0.0; 4], vec![1e300, -1e300, 0.0, 1.0]] {
            assert!(!map(2, constant).svg().unwrap().contains("NaN"));
        }
        assert_eq!(map(1, vec![f64::NAN]).svg().unwrap_err().code, "R0119");
        assert_eq!(map(0, vec![]).svg().unwrap_err().code, "R0119");
        let log = Plot { log_y: true, ..map(1, vec![1.0, 10.0, -1.0]) };
        assert!(log.svg().unwrap().contains("#440154"));
    }
}

//! Drawing a chart with plotters. Everything is laid out in pixels of the final image and drawn larger: PNG images are then averaged
//! down, which smooths their edges, and SVG images get fractions of pixels, which plotters' whole numbers do not allow.

use super::scale::{self, Point, Scale};
use super::{HEIGHT, Line, Plot, WIDTH};
use crate::error::{Result, TrainError};
use crate::png;
use plotters::backend::{BitMapBackend, SVGBackend};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, EmptyElement, PathElement, Polygon, Rectangle, Text};
use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontFamily, FontStyle, FontTransform, IntoFont, RGBColor, ShapeStyle, TextStyle, register_font};
use std::sync::Once;

/// How much larger PNG images are drawn than they end up.
const PNG_SCALE: usize = 3;
/// Fractions of a pixel in SVG images.
const SVG_SCALE: usize = 10;
/// Points of a curve beyond which neighbors are drawn as their mean and range.
const DENSE: usize = 300;
/// Entries of the legend that are shown.
const LEGEND: usize = 16;

pub(super) const WHITE: RGBColor = RGBColor(255, 255, 255);
const INK: RGBColor = RGBColor(33, 37, 41);
const SOFT: RGBColor = RGBColor(96, 103, 112);
const GRID: RGBColor = RGBColor(226, 230, 234);
const FAINT: RGBColor = RGBColor(241, 243, 245);
/// Distinct for color-blind readers too, dark enough on white.
const COLORS: [RGBColor; 8] = [
    RGBColor(31, 111, 235),
    RGBColor(217, 83, 25),
    RGBColor(38, 146, 75),
    RGBColor(142, 68, 173),
    RGBColor(12, 133, 153),
    RGBColor(201, 42, 98),
    RGBColor(176, 124, 12),
    RGBColor(73, 80, 87),
];

fn register_fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let fonts = [
            (FontStyle::Normal, &include_bytes!("../../assets/DejaVuSans.ttf")[..]),
            (FontStyle::Bold, &include_bytes!("../../assets/DejaVuSans-Bold.ttf")[..]),
        ];
        for (style, bytes) in fonts {
            assert!(register_font("sans-serif", style, bytes).is_ok(), "compiler bug: the embedded font is damaged");
        }
    });
}

pub(super) fn svg(plot: &Plot) -> Result<String> {
    register_fonts();
    let (w, h) = (WIDTH * SVG_SCALE, HEIGHT * SVG_SCALE);
    let mut out = String::new();
    {
        let area = SVGBackend::with_string(&mut out, (w as u32, h as u32)).into_drawing_area();
        Canvas { area: &area, scale: SVG_SCALE as f64, vector: true }.chart(plot)?;
        area.present().map_err(failed)?;
    }
    // The image keeps its size in pixels; only its coordinates are finer.
    let size = format!("<svg width=\"{w}\" height=\"{h}\"");
    let out = out.replacen(&size, &format!("<svg width=\"{WIDTH}\" height=\"{HEIGHT}\""), 1);
    let out = out.replace("<polyline ", "<polyline stroke-linejoin=\"round\" stroke-linecap=\"round\" ");
    Ok(out.replace("font-family=\"sans-serif\"", "font-family=\"DejaVu Sans, Verdana, Helvetica, Arial, sans-serif\""))
}

pub(super) fn png(plot: &Plot) -> Result<Vec<u8>> {
    register_fonts();
    let (w, h) = (WIDTH * PNG_SCALE, HEIGHT * PNG_SCALE);
    let mut large = vec![255; w * h * 3];
    {
        let area = BitMapBackend::with_buffer(&mut large, (w as u32, h as u32)).into_drawing_area();
        Canvas { area: &area, scale: PNG_SCALE as f64, vector: false }.chart(plot)?;
        area.present().map_err(failed)?;
    }
    let mut small = Vec::with_capacity(WIDTH * HEIGHT * 3);
    for y in 0..HEIGHT {
        for x in 0..WIDTH * 3 {
            let (column, channel) = (x / 3, x % 3);
            let mut sum = 0;
            for dy in 0..PNG_SCALE {
                for dx in 0..PNG_SCALE {
                    sum += usize::from(large[((y * PNG_SCALE + dy) * w + column * PNG_SCALE + dx) * 3 + channel]);
                }
            }
            small.push(((sum + PNG_SCALE * PNG_SCALE / 2) / (PNG_SCALE * PNG_SCALE)) as u8);
        }
    }
    Ok(png::encode(WIDTH, HEIGHT, 3, &small))
}

pub(super) fn failed(e: impl std::fmt::Display) -> TrainError {
    TrainError::new("R0102", format!("drawing failed: {e}"))
}

/// A box in pixels of the final image.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

impl Frame {
    pub fn point(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.left + x * (self.right - self.left), self.bottom - y * (self.bottom - self.top))
    }
}

/// A text's look.
#[derive(Clone, Copy)]
pub(super) struct Look {
    size: f64,
    color: RGBColor,
    bold: bool,
    upright: bool,
}

pub(super) const LABEL: Look = Look { size: 13.0, color: SOFT, bold: false, upright: false };

pub(super) struct Canvas<'a, DB: DrawingBackend> {
    pub(super) area: &'a DrawingArea<DB, Shift>,
    scale: f64,
    vector: bool,
}

impl<DB: DrawingBackend> Canvas<'_, DB> {
    fn at(&self, (x, y): (f64, f64)) -> (i32, i32) {
        ((x * self.scale).round() as i32, (y * self.scale).round() as i32)
    }
    pub(super) fn rect(&self, f: Frame, style: ShapeStyle) -> Result<()> {
        self.area.draw(&Rectangle::new([self.at((f.left, f.top)), self.at((f.right, f.bottom))], style)).map_err(failed)
    }
    fn polygon(&self, points: &[(f64, f64)], style: ShapeStyle) -> Result<()> {
        if points.len() < 3 {
            return Ok(());
        }
        let points: Vec<_> = points.iter().map(|&p| self.at(p)).collect();
        self.area.draw(&Polygon::new(points, style)).map_err(failed)
    }
    fn line(&self, points: &[(f64, f64)], color: RGBColor, width: f64) -> Result<()> {
        let thick = (width * self.scale).round().max(1.0) as u32;
        let style = ShapeStyle { color: color.to_rgba(), filled: true, stroke_width: thick };
        let points: Vec<_> = points.iter().map(|&p| self.at(p)).collect();
        if self.vector || thick == 1 {
            return self.area.draw(&PathElement::new(points, style)).map_err(failed);
        }
        // The bitmap's mitered corners stick out at sharp turns: segments with round joints instead.
        for pair in points.windows(2).filter(|p| p[0] != p[1]) {
            self.area.draw(&PathElement::new(pair.to_vec(), style)).map_err(failed)?;
        }
        if points.len() > 2 {
            for &p in &points[1..points.len() - 1] {
                self.area.draw(&Circle::new(p, (thick / 2) as i32, style)).map_err(failed)?;
            }
        }
        Ok(())
    }
    fn dot(&self, p: (f64, f64), radius: f64, color: RGBColor) -> Result<()> {
        self.area.draw(&Circle::new(self.at(p), (radius * self.scale) as i32, color.filled())).map_err(failed)
    }
    fn style(&self, look: Look) -> TextStyle<'static> {
        let style = if look.bold { FontStyle::Bold } else { FontStyle::Normal };
        // Plotters counts the line height as the size.
        let font = (FontFamily::SansSerif, look.size * self.scale * 1.2, style).into_font();
        let font = if look.upright { font.transform(FontTransform::Rotate270) } else { font };
        let mut style = TextStyle::from(font);
        style.color = look.color.to_backend_color();
        style
    }
    pub(super) fn text(&self, text: &str, at: (f64, f64), look: Look, h: HPos, v: VPos) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        // Plotters centers the line, which hangs below the digits.
        let lower = if matches!(v, VPos::Center) && !self.vector { 0.1 * look.size } else { 0.0 };
        let at = (at.0, at.1 + lower);
        let style = self.style(look).pos(Pos::new(h, v));
        self.area.draw(&(EmptyElement::at(self.at(at)) + Text::new(text.to_string(), (0, 0), style))).map_err(failed)
    }
    pub(super) fn width(&self, text: &str, look: Look) -> f64 {
        let (w, _) = self.area.estimate_text_size(text, &self.style(look)).unwrap_or((0, 0));
        f64::from(w) / self.scale
    }

    fn chart(&self, plot: &Plot) -> Result<()> {
        if let Some(heat) = &plot.heat {
            return self.heat(plot, heat);
        }
        self.area.fill(&WHITE).map_err(failed)?;
        let single = |&(x, y): &(f64, f64)| Point { x, low: y, mid: y, high: y };
        let points = |l: &Line| if plot.points { l.curves.iter().flatten().map(single).collect() } else { scale::mean(&l.curves) };
        let lines: Vec<Vec<Point>> = plot.lines.iter().map(points).collect();
        let drawable = |p: &&Point| scale::drawable(plot.log_x, p.x) && scale::drawable(plot.log_y, p.mid);
        let range = |of: fn(&Point) -> [f64; 2], log: bool| {
            let values = lines.iter().flatten().filter(drawable).flat_map(of).filter(|v| scale::drawable(log, *v));
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)))
        };
        let ((x0, x1), (y0, y1)) = (range(|p| [p.x, p.x], plot.log_x), range(|p| [p.low.min(p.mid), p.high.max(p.mid)], plot.log_y));
        if x0 > x1 || y0 > y1 {
            let positive = if plot.log_x || plot.log_y { " (a logarithmic axis shows positive values only)" } else { "" };
            return Err(TrainError::new("R0119", format!("nothing to draw: no finite values{positive}")));
        }
        let (x, y) = (Scale::new(plot.log_x, x0, x1, 0.015), Scale::new(plot.log_y, y0, y1, 0.05));
        let (x_ticks, y_ticks) = (x.ticks(8), y.ticks(6));
        let labels = y_ticks.iter().map(|t| self.width(&t.label, LABEL)).fold(0.0, f64::max);
        let frame = Frame {
            left: 16.0 + labels + 10.0 + if plot.y_label.is_empty() { 0.0 } else { 24.0 },
            top: if plot.title.is_empty() { 28.0 } else { 58.0 },
            right: WIDTH as f64 - 26.0,
            bottom: HEIGHT as f64 - if plot.x_label.is_empty() { 36.0 } else { 60.0 },
        };
        self.axes(plot, frame, &x_ticks, &y_ticks)?;

        let mut notes = std::collections::BTreeSet::new();
        let mut drawn = Vec::new();
        for (i, points) in lines.into_iter().enumerate() {
            if plot.points {
                drawn.extend(self.scatter(&points, (&x, &y), frame, COLORS[i % COLORS.len()])?);
                continue;
            }
            let (points, together) = scale::thin(points, &y, DENSE);
            if together > 1 {
                notes.insert(if plot.lines[i].curves.len() > 1 {
                    "band: range over runs and steps"
                } else {
                    "line: mean of neighboring points, band: their range"
                });
            } else if plot.lines[i].curves.len() > 1 {
                notes.insert("line: mean over runs, band: their range");
            }
            drawn.extend(self.curve(&points, (&x, &y), frame, COLORS[i % COLORS.len()])?);
        }
        let notes: Vec<&str> = notes.into_iter().collect();
        let look = Look { size: 11.0, ..LABEL };
        self.text(&notes.join("; "), (frame.right, frame.top - 7.0), look, HPos::Right, VPos::Bottom)?;
        self.legend(plot, frame, &drawn)
    }

    pub(super) fn axes(&self, plot: &Plot, f: Frame, x_ticks: &[scale::Tick], y_ticks: &[scale::Tick]) -> Result<()> {
        let style = |minor: bool| if minor { (FAINT, 1.0) } else { (GRID, 1.0) };
        for minor in [true, false] {
            let (color, width) = style(minor);
            for t in x_ticks.iter().filter(|t| t.label.is_empty() == minor) {
                self.line(&[f.point((t.at, 0.0)), f.point((t.at, 1.0))], color, width)?;
            }
            for t in y_ticks.iter().filter(|t| t.label.is_empty() == minor) {
                self.line(&[f.point((0.0, t.at)), f.point((1.0, t.at))], color, width)?;
            }
        }
        for t in x_ticks {
            let (px, py) = f.point((t.at, 0.0));
            self.text(&t.label, (px, py + 8.0), LABEL, HPos::Center, VPos::Top)?;
        }
        for t in y_ticks {
            let (px, py) = f.point((0.0, t.at));
            self.text(&t.label, (px - 8.0, py), LABEL, HPos::Right, VPos::Center)?;
        }
        self.line(&[f.point((0.0, 1.0)), f.point((0.0, 0.0)), f.point((1.0, 0.0))], SOFT, 1.2)?;
        let (middle, center) = ((f.left + f.right) / 2.0, (f.top + f.bottom) / 2.0);
        let (mut title, mut look) = (plot.title.clone(), Look { size: 17.0, color: INK, bold: true, upright: false });
        while self.width(&title, look) > f.right - f.left {
            if look.size > 13.0 {
                look.size -= 1.0;
            } else {
                let shorter = title.chars().count().saturating_sub(4);
                title = title.chars().take(shorter).chain(['…']).collect();
            }
        }
        self.text(&title, (f.left, 16.0), look, HPos::Left, VPos::Top)?;
        let axis = Look { size: 14.0, color: INK, ..LABEL };
        self.text(&plot.x_label, (middle, HEIGHT as f64 - 12.0), axis, HPos::Center, VPos::Bottom)?;
        self.text(&plot.y_label, (12.0, center), Look { upright: true, ..axis }, HPos::Center, VPos::Top)
    }

    /// Draws the band and the line, in pieces between gaps. Gives the points drawn, in pixels.
    fn curve(&self, points: &[Point], (x, y): (&Scale, &Scale), f: Frame, color: RGBColor) -> Result<Vec<(f64, f64)>> {
        let place = |px: f64, py: f64| Some(f.point((x.place(px)?, y.place(py)?.clamp(-0.2, 1.2))));
        let pieces: Vec<Vec<Point>> =
            points.split(|p| place(p.x, p.mid).is_none()).filter(|piece| !piece.is_empty()).map(<[Point]>::to_vec).collect();
        let mut drawn = Vec::new();
        for piece in &pieces {
            if piece.iter().any(|p| p.high > p.low) {
                // A band that reaches zero has no place on a logarithmic axis: it goes to the lower edge.
                let floor = |p: &Point| place(p.x, p.low).unwrap_or((place(p.x, p.mid).unwrap_or_default().0, f.bottom));
                let upper = piece.iter().filter_map(|p| place(p.x, p.high));
                let outline: Vec<_> = upper.chain(piece.iter().rev().map(floor)).collect();
                self.polygon(&outline, color.mix(0.16).filled())?;
            }
        }
        for piece in &pieces {
            let path: Vec<_> = piece.iter().filter_map(|p| place(p.x, p.mid)).collect();
            if path.len() > 1 {
                self.line(&path, color, 2.0)?;
            }
            if path.len() == 1 || points.len() <= 25 {
                for &p in &path {
                    self.dot(p, 3.2, color)?;
                }
            }
            drawn.extend(path);
        }
        Ok(drawn)
    }

    /// Draws points one by one, smaller where there are many. Gives those drawn, in pixels.
    fn scatter(&self, points: &[Point], (x, y): (&Scale, &Scale), f: Frame, color: RGBColor) -> Result<Vec<(f64, f64)>> {
        let drawn: Vec<_> = points.iter().filter_map(|p| Some(f.point((x.place(p.x)?, y.place(p.mid)?)))).collect();
        let radius = if drawn.len() > 2000 { 1.4 } else { 2.8 };
        drawn.iter().try_for_each(|&p| self.dot(p, radius, color))?;
        Ok(drawn)
    }

    /// The legend goes to the corner where it hides the fewest points. A single line without a name of its own needs none.
    fn legend(&self, plot: &Plot, f: Frame, drawn: &[(f64, f64)]) -> Result<()> {
        let named = plot.lines.iter().any(|l| !l.name.is_empty());
        if !named || (plot.lines.len() == 1 && plot.lines[0].name == plot.y_label) {
            return Ok(());
        }
        let mut names: Vec<String> = plot.lines.iter().take(LEGEND).map(|l| shorten(&l.name)).collect();
        let more = plot.lines.len().saturating_sub(LEGEND);
        if more > 0 {
            names.push(format!("and {more} more"));
        }
        let look = Look { color: INK, ..LABEL };
        let widest = names.iter().map(|n| self.width(n, look)).fold(0.0, f64::max);
        let (w, h) = (widest + 54.0, names.len() as f64 * 21.0 + 10.0);
        let gap = 12.0;
        let corners = [
            (f.right - gap - w, f.top + gap),
            (f.right - gap - w, f.bottom - gap - h),
            (f.left + gap, f.bottom - gap - h),
            (f.left + gap, f.top + gap),
        ];
        let hidden = |&(cx, cy): &(f64, f64)| {
            drawn.iter().filter(|(px, py)| (cx - 6.0..cx + w + 6.0).contains(px) && (cy - 6.0..cy + h + 6.0).contains(py)).count()
        };
        let (left, top) = corners.into_iter().min_by_key(hidden).expect("there are four corners");
        let frame = Frame { left, top, right: left + w, bottom: top + h };
        self.rect(frame, RGBColor(255, 255, 255).mix(0.88).filled())?;
        let outline = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.0, 0.0)].map(|p| frame.point(p));
        self.line(&outline, GRID, 1.0)?;
        for (i, name) in names.iter().enumerate() {
            let cy = top + 15.5 + 21.0 * i as f64;
            if i < LEGEND {
                let color = COLORS[i % COLORS.len()];
                if plot.lines[i].curves.len() > 1 && !plot.points {
                    self.rect(Frame { left: left + 10.0, top: cy - 6.0, right: left + 34.0, bottom: cy + 6.0 }, color.mix(0.16).filled())?;
                }
                if plot.points {
                    self.dot((left + 22.0, cy), 3.2, color)?;
                } else {
                    self.line(&[(left + 10.0, cy), (left + 34.0, cy)], color, 2.5)?;
                }
            }
            self.text(name, (left + 42.0, cy), look, HPos::Left, VPos::Center)?;
        }
        Ok(())
    }
}

/// A name of at most 40 characters.
fn shorten(name: &str) -> String {
    if name.chars().count() <= 40 { name.to_string() } else { name.chars().take(39).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Plot {
        let curve = |k: f64| (0..200).map(|i| (f64::from(i), 1.0 / (1.0 + k * f64::from(i)))).collect::<Vec<_>>();
        Plot {
            title: "a < b & c".into(),
            y_label: "loss".into(),
            log_y: true,
            lines: vec![
                Line { name: "one".into(), curves: vec![curve(0.1)] },
                Line { name: "three".into(), curves: vec![curve(0.2), curve(0.3), curve(0.4)] },
            ],
            ..Plot::default()
        }
    }

    #[test]
    fn an_svg_holds_its_texts_escaped_and_its_curves() {
        let svg = sample().svg().unwrap();
        assert!(svg.starts_with("<svg width=\"900\" height=\"560\" viewBox=\"0 0 9000 5600\""));
        assert!(svg.contains("a &lt; b &amp; c") && svg.contains("three"));
        assert!(svg.matches("<polyline").count() >= 4 && svg.matches("<polygon").count() == 1);
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn a_png_has_its_size_and_colors() {
        let (w, h, c, pixels) = png::tests::decode(&sample().png().unwrap());
        assert_eq!((w, h, c, &pixels[..3]), (WIDTH, HEIGHT, 3, &[255, 255, 255][..]));
        for color in &COLORS[..2] {
            let near = |p: &&[u8]| p.iter().zip([color.0, color.1, color.2]).all(|(a, b)| a.abs_diff(b) < 20);
            assert!(pixels.chunks(3).filter(near).count() > 100);
        }
    }

    #[test]
    fn odd_values_draw_or_say_why_not() {
        let one = |points: Vec<(f64, f64)>, log: bool| Plot {
            log_y: log,
            log_x: log,
            lines: vec![Line { name: String::new(), curves: vec![points] }],
            ..Plot::default()
        };
        for log in [false, true] {
            for nothing in [vec![], vec![(f64::NAN, 1.0)], vec![(1.0, f64::INFINITY)]] {
                assert_eq!(one(nothing, log).svg().unwrap_err().code, "R0119");
            }
            for something in [
                vec![(1.0, 1.0)],
                vec![(1.0, 5.0), (2.0, f64::NAN), (3.0, 5.0)],
                vec![(1.0, 1e300), (2.0, -1e300), (3.0, 1e-300), (f64::MAX, f64::MAX), (4.0, 1.0)],
                (1..10_000).map(|i| (f64::from(i), f64::from(i % 7) - 1.0)).collect(),
            ] {
                assert!(!one(something, log).svg().unwrap().contains("NaN"));
            }
        }
        assert_eq!(one(vec![(1.0, -1.0)], true).png().unwrap_err().code, "R0119");
        assert_eq!(Plot::default().svg().unwrap_err().code, "R0119");
    }

    #[test]
    fn files_are_written_by_extension() {
        let dir = tempfile::tempdir().unwrap();
        sample().write(&dir.path().join("a.SVG")).unwrap();
        assert_eq!(sample().write(&dir.path().join("a.gif")).unwrap_err().code, "R0120");
    }
}

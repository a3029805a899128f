//! Axes: ranges, nice ticks, and the summary of curves that is drawn.

/// Whether a value has a place on an axis. Differences of larger numbers than these would overflow.
pub(super) fn drawable(log: bool, v: f64) -> bool {
    v.abs() <= 1e300 && (!log || v > 0.0)
}

/// Maps values of one axis to 0..1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scale {
    log: bool,
    /// Ends of the axis, in logarithms to base 10 if `log`.
    low: f64,
    high: f64,
}

/// A mark on an axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    /// From 0 to 1.
    pub at: f64,
    /// Empty for a minor mark.
    pub label: String,
}

impl Scale {
    /// An axis for values between these, with a margin of this share of its length.
    pub fn new(log: bool, least: f64, greatest: f64, margin: f64) -> Self {
        let (mut low, mut high) = if log { (least.log10(), greatest.log10()) } else { (least, greatest) };
        let size = low.abs().max(high.abs());
        if high - low <= 1e-9 * size || high == low {
            let half = if log {
                0.5
            } else if size > 0.0 {
                0.1 * size
            } else {
                1.0
            };
            (low, high) = (low - half, high + half);
        }
        let pad = (high - low) * margin;
        Scale { log, low: low - pad, high: high + pad }
    }
    /// Where a value lies, from 0 to 1; none if it has no place on the axis.
    pub fn place(&self, v: f64) -> Option<f64> {
        drawable(self.log, v).then(|| (self.coordinate(v) - self.low) / (self.high - self.low))
    }
    /// The axis's own coordinate of a value: itself or its logarithm.
    pub fn coordinate(&self, v: f64) -> f64 {
        if self.log { v.log10() } else { v }
    }
    /// The value with this coordinate.
    pub fn value(&self, c: f64) -> f64 {
        if self.log { 10f64.powf(c) } else { c }
    }
    /// Marks in order, about `wanted` of them labeled.
    pub fn ticks(&self, wanted: usize) -> Vec<Tick> {
        if !self.log {
            return linear(self.low, self.high, wanted).into_iter().map(|(v, label)| self.tick(v, label)).collect();
        }
        let decades = self.high - self.low;
        if decades < 0.7 {
            // Too short for powers of ten: nice numbers on the logarithmic axis.
            let values = linear(10f64.powf(self.low), 10f64.powf(self.high), wanted);
            return values.into_iter().filter(|(v, _)| *v > 0.0).map(|(v, label)| self.tick(v, label)).collect();
        }
        let every = (decades / wanted as f64).ceil().max(1.0) as i64;
        let labeled: &[i64] = if decades < 1.5 {
            &[1, 2, 3, 5]
        } else if decades < 3.0 {
            &[1, 2, 5]
        } else {
            &[1]
        };
        let mut out = Vec::new();
        for e in (self.low.floor() as i64)..=(self.high.ceil() as i64) {
            for m in 1..10 {
                if every > 1 && (m > 1 || (every > 3 && e.rem_euclid(every) != 0)) {
                    continue;
                }
                let coordinate = e as f64 + (m as f64).log10();
                if coordinate < self.low - 1e-9 || coordinate > self.high + 1e-9 {
                    continue;
                }
                let at = (coordinate - self.low) / decades;
                let named = labeled.contains(&m) && e.rem_euclid(every) == 0;
                out.push(Tick { at, label: if named { power(m, e) } else { String::new() } });
            }
        }
        out
    }
    fn tick(&self, v: f64, label: String) -> Tick {
        Tick { at: self.place(v).unwrap_or(0.0), label }
    }
}

/// `m * 10^e` as a label.
fn power(m: i64, e: i64) -> String {
    if (-4..0).contains(&e) {
        return format!("{:.*}", e.unsigned_abs() as usize, m as f64 * 10f64.powi(e as i32));
    }
    if (0..=4).contains(&e) {
        return (m * 10i64.pow(e as u32)).to_string();
    }
    scientific(&format!("{m}e{e}"))
}

/// `2.50e-8` as `2.5·10⁻⁸`.
fn scientific(text: &str) -> String {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let exponent: String = exponent
        .chars()
        .map(|c| match c {
            '-' => '⁻',
            '1' => '¹',
            '2' => '²',
            '3' => '³',
            c => char::from_u32(0x2070 + c.to_digit(10).unwrap_or(0)).unwrap_or(c),
        })
        .collect();
    match trim(mantissa.replace('-', "−")).as_str() {
        "1" => format!("10{exponent}"),
        "−1" => format!("−10{exponent}"),
        m => format!("{m}·10{exponent}"),
    }
}

/// Multiples of 1, 2, 2.5 or 5 times a power of ten between two ends, with labels that show just the digits needed.
fn linear(low: f64, high: f64, wanted: usize) -> Vec<(f64, String)> {
    let rough = (high / wanted as f64 - low / wanted as f64).max(f64::MIN_POSITIVE);
    let exponent = rough.log10().floor();
    let unit = 10f64.powf(exponent);
    let steps = [(1.0, 0.0), (2.0, 0.0), (2.5, 1.0), (5.0, 0.0), (10.0, -1.0)];
    let (factor, extra) = steps.into_iter().find(|(f, _)| f * unit >= rough * 0.999).unwrap_or((10.0, -1.0));
    let step = factor * unit;
    let decimals = (extra - exponent).max(0.0) as usize;
    let first = (low / step - 1e-9).ceil();
    let count = ((high / step + 1e-9).floor() - first).clamp(-1.0, 4.0 * wanted as f64 + 4.0);
    let largest = low.abs().max(high.abs());
    (0..=(count as i64))
        .map(|i| {
            let v = (first + i as f64) * step;
            let label = if v == 0.0 {
                "0".to_string()
            } else if largest >= 1e7 || step < 1e-5 {
                let digits = (extra + (v.abs().log10() + 1e-9).floor() - exponent).clamp(0.0, 6.0) as usize;
                scientific(&format!("{v:.digits$e}"))
            } else if largest >= 1e4 && step >= 100.0 {
                format!("{}k", trim(format!("{:.*}", (3.0 - exponent + extra).clamp(0.0, 2.0) as usize, v / 1e3))).replace('-', "−")
            } else {
                format!("{v:.decimals$}").replace('-', "−")
            };
            (v, label)
        })
        .collect()
}

fn trim(s: String) -> String {
    if s.contains('.') { s.trim_end_matches('0').trim_end_matches('.').to_string() } else { s }
}

/// A point of what is drawn: x, the line, and the band around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub x: f64,
    pub mid: f64,
    pub low: f64,
    pub high: f64,
}

/// The mean of several curves, with their range: at each x of any curve, over the curves that reach there (interpolated linearly).
/// One curve keeps its gaps as NaN.
pub(super) fn mean(curves: &[Vec<(f64, f64)>]) -> Vec<Point> {
    if let [curve] = curves {
        return curve.iter().map(|&(x, y)| Point { x, mid: y, low: y, high: y }).collect();
    }
    let mut xs: Vec<f64> = curves.iter().flatten().map(|p| p.0).filter(|x| x.is_finite()).collect();
    xs.sort_by(f64::total_cmp);
    xs.dedup();
    let mut cursors = vec![0; curves.len()];
    let mut out = Vec::with_capacity(xs.len());
    for x in xs {
        let (mut sum, mut count, mut low, mut high) = (0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY);
        for (curve, at) in curves.iter().zip(&mut cursors) {
            while *at < curve.len() && curve[*at].0 < x {
                *at += 1;
            }
            let y = match (curve.get(at.wrapping_sub(1)), curve.get(*at)) {
                (_, Some(&(x1, y1))) if x1 == x => y1,
                (Some(&(x0, y0)), Some(&(x1, y1))) => y0 + (y1 - y0) * ((x - x0) / (x1 - x0)),
                _ => continue,
            };
            if y.is_finite() {
                (sum, count, low, high) = (sum + y, count + 1.0, low.min(y), high.max(y));
            }
        }
        let mid = if count > 0.0 { sum / count } else { f64::NAN };
        out.push(Point { x, mid, low, high });
    }
    out
}

/// Fewer points of a long curve. If it is noisy, runs of neighbors become their mean (in the coordinate of the y axis) and range, about
/// `limit` of them; gaps stay gaps. If it is smooth, of which there is nothing to average, points are left out where there are more than
/// pixels. Also says how many neighbors were taken together.
pub(super) fn thin(points: Vec<Point>, y: &Scale, limit: usize) -> (Vec<Point>, usize) {
    if points.len() <= 2 * limit {
        return (points, 1);
    }
    let size = points.len().div_ceil(limit);
    let (mut net, mut spread) = (0.0, 0.0);
    for chunk in points.chunks(size) {
        let good = || chunk.iter().map(|p| y.coordinate(p.mid)).filter(|c| c.is_finite());
        if let (Some(first), Some(last)) = (good().next(), good().next_back()) {
            net += (last - first).abs();
            spread += good().fold(f64::NEG_INFINITY, f64::max) - good().fold(f64::INFINITY, f64::min);
        }
    }
    if net >= 0.8 * spread {
        let every = points.len().div_ceil(3000);
        let last = points.len() - 1;
        return (points.into_iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last).map(|(_, p)| p).collect(), 1);
    }
    let thinned = points
        .chunks(size)
        .map(|chunk| {
            let good = || chunk.iter().filter(|p| y.coordinate(p.mid).is_finite());
            let count = good().count() as f64;
            let mid = good().map(|p| y.coordinate(p.mid) / count).sum::<f64>();
            let low = good().map(|p| if y.coordinate(p.low).is_finite() { p.low } else { p.mid }).fold(f64::INFINITY, f64::min);
            let high = good().map(|p| p.high).fold(f64::NEG_INFINITY, f64::max);
            let x = chunk.iter().map(|p| p.x / chunk.len() as f64).sum();
            Point { x, mid: if count > 0.0 { y.value(mid) } else { f64::NAN }, low, high }
        })
        .collect();
    (thinned, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(log: bool, low: f64, high: f64) -> Vec<String> {
        Scale::new(log, low, high, 0.0).ticks(6).into_iter().map(|t| t.label).filter(|l| !l.is_empty()).collect()
    }

    #[test]
    fn ticks_are_nice() {
        assert_eq!(labels(false, 0.0, 1.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"].map(|s| if s == "0.0" { "0" } else { s }));
        assert_eq!(labels(false, 0.0, 2000.0), ["0", "500", "1000", "1500", "2000"]);
        assert_eq!(labels(false, 0.0, 30_000.0), ["0", "5k", "10k", "15k", "20k", "25k", "30k"]);
        assert_eq!(labels(false, -0.03, 0.03), ["−0.03", "−0.02", "−0.01", "0", "0.01", "0.02", "0.03"]);
        assert_eq!(labels(true, 1e-3, 10.0), ["0.001", "0.01", "0.1", "1", "10"]);
        assert_eq!(labels(true, 0.1, 10.0), ["0.1", "0.2", "0.5", "1", "2", "5", "10"]);
        assert_eq!(labels(true, 1e-8, 1e-5), ["10⁻⁸", "10⁻⁷", "10⁻⁶", "10⁻⁵"]);
        assert!(labels(true, 0.5, 0.6).len() >= 3);
        assert_eq!(labels(false, -1e-7, 1e-7), ["−10⁻⁷", "−5·10⁻⁸", "0", "5·10⁻⁸", "10⁻⁷"]);
        assert_eq!(labels(false, 0.0, 1e-7), ["0", "2·10⁻⁸", "4·10⁻⁸", "6·10⁻⁸", "8·10⁻⁸", "10⁻⁷"]);
    }

    #[test]
    fn no_range_is_too_strange_for_ticks() {
        let ends = [0.0f64, -0.0, 1e-320, 1e-12, 1.0, 1.0 + 1e-15, 12345.678, 1e15, 1e300];
        for a in ends {
            for b in ends {
                let (low, high) = (a.min(b), a.max(b));
                for (low, high) in [(low, high), (-high, low)] {
                    for log in [false, true] {
                        if log && low <= 0.0 {
                            continue;
                        }
                        let s = Scale::new(log, low, high, 0.04);
                        assert!(s.ticks(6).len() < 60, "{low} {high}");
                        assert!(s.place(low).is_some_and(|p| (-0.01..=1.01).contains(&p)), "{log} {low} {high} {s:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn curves_are_averaged_where_they_reach() {
        let p = mean(&[vec![(0.0, 1.0), (2.0, 3.0)], vec![(0.0, 3.0), (1.0, 5.0)], vec![]]);
        assert_eq!(p[0], Point { x: 0.0, mid: 2.0, low: 1.0, high: 3.0 });
        assert_eq!(p[1], Point { x: 1.0, mid: 3.5, low: 2.0, high: 5.0 });
        assert_eq!(p[2], Point { x: 2.0, mid: 3.0, low: 3.0, high: 3.0 });
    }

    #[test]
    fn long_curves_are_thinned_and_keep_their_range() {
        let y = Scale::new(false, 0.0, 10.0, 0.0);
        let points: Vec<Point> =
            (0..1000).map(|i| f64::from(i * 7 % 10)).enumerate().map(|(i, v)| Point { x: i as f64, mid: v, low: v, high: v }).collect();
        let (thinned, size) = thin(points, &y, 100);
        assert_eq!((thinned.len(), size), (100, 10));
        assert!(thinned.iter().all(|p| (p.low, p.high) == (0.0, 9.0) && (p.mid - 4.5).abs() < 1e-9));
        let smooth: Vec<Point> = (0..10_000).map(|i| f64::from(i) / 1000.0).map(|v| Point { x: v, mid: v, low: v, high: v }).collect();
        let (kept, size) = thin(smooth.clone(), &y, 100);
        assert_eq!((kept.len(), size, kept.last()), (2501, 1, smooth.last()));
    }
}

//! Numbers that read well: whole ones, small fractions, these times or through pi, and their roots.

use std::f64::consts::PI;

/// A number that reads well.
#[derive(Clone, Debug, PartialEq)]
pub struct Readable {
    /// Its value.
    pub value: f64,
    /// How it is written.
    pub text: String,
    /// It is one number without operators.
    pub atom: bool,
    /// How long it is to read.
    pub cost: usize,
}

/// How long a text is to read: digits and operators; pi and roots count as one.
fn cost(text: &str) -> usize {
    let mantissa = text.split('e').next().unwrap_or(text);
    let digits = mantissa.trim_start_matches('-').trim_start_matches("0.").trim_start_matches('0');
    let short = if text.contains(' ') || text.contains("pi") || text.contains("sqrt") { text } else { digits };
    let words = short.matches("sqrt").count() + short.matches("pi").count();
    let signs = short.chars().filter(|c| c.is_ascii_digit() || matches!(c, '/' | '*' | '^')).count();
    let point = usize::from(text.contains('.') || text.contains('e'));
    words + signs + point
}

/// Largest whole number that is tried for its own sake.
const LARGEST: f64 = 1000.0;
/// Largest denominator of a fraction, and of one under a root or beside pi.
const DENOMINATORS: (i64, i64) = (12, 8);

fn fraction(x: f64, most: i64) -> Option<(i64, i64)> {
    let near = |q: i64| ((x * q as f64).round(), q);
    let small = (1..=most).map(near).filter(|(p, _)| (1.0..=99.0).contains(&p.abs())).map(|(p, q)| (p as i64, q));
    small.min_by(|a, b| {
        let off = |(p, q): &(i64, i64)| (*p as f64 / *q as f64 - x).abs();
        // A larger denominator must be clearly nearer.
        off(a).total_cmp(&off(b)).then(a.1.cmp(&b.1))
    })
}

fn ratio(p: i64, q: i64) -> (f64, String, bool) {
    if q == 1 { (p as f64, format!("{p}"), true) } else { (p as f64 / q as f64, format!("{p} / {q}"), false) }
}

/// Candidates near a number, the plainest first.
pub fn near(x: f64) -> Vec<Readable> {
    let mut out: Vec<Readable> = Vec::new();
    let mut push = |value: f64, text: String, atom: bool| {
        // Near is within a hundredth; what is far from it is another number.
        if value.is_finite() && (value - x).abs() <= 0.01 * x.abs() && !out.iter().any(|r| r.value == value) {
            let cost = cost(&text);
            out.push(Readable { value, text, atom, cost });
        }
    };
    if !x.is_finite() || x == 0.0 {
        return out;
    }
    let sign = if x < 0.0 { "-" } else { "" };
    let size = x.abs();
    if size < LARGEST {
        push(x.round(), format!("{}", x.round()), true);
    }
    if let Some((p, q)) = fraction(x, DENOMINATORS.0) {
        let (value, text, atom) = ratio(p, q);
        push(value, text, atom);
    }
    let s = x.signum();
    for q in 1..=DENOMINATORS.1 {
        let p = (size * q as f64).round();
        if (1.0..=99.0).contains(&p) {
            let (value, text, atom) = ratio(p as i64, q);
            push(s * value, format!("{sign}{text}"), atom);
        }
    }
    let one_over = |text: String| format!("{sign}1 / {text}");
    if let Some((p, q)) = fraction(size / PI, DENOMINATORS.1) {
        let value = p as f64 * PI / q as f64;
        let top = if p == 1 { "pi".to_string() } else { format!("{p} * pi") };
        let text = if q == 1 { top } else { format!("{top} / {q}") };
        push(s * value, format!("{sign}{text}"), false);
    }
    if let Some((q, p)) = fraction(1.0 / (size * PI), DENOMINATORS.1) {
        // x = p / (q pi)
        let below = if q == 1 { "pi".to_string() } else { format!("({q} * pi)") };
        push(s * p as f64 / (q as f64 * PI), format!("{sign}{p} / {below}"), false);
    }
    let square = size * size;
    if let Some((p, q)) = fraction(square, DENOMINATORS.1) {
        let (value, text, _) = ratio(p, q);
        push(s * value.sqrt(), format!("{sign}sqrt({text})"), false);
    }
    if let Some((p, q)) = fraction(1.0 / square, DENOMINATORS.1) {
        let (value, text, _) = ratio(p, q);
        push(s / value.sqrt(), one_over(format!("sqrt({text})")), false);
    }
    if let Some((p, q)) = fraction(square / PI, DENOMINATORS.1).filter(|(p, q)| *p <= 8 && *q <= 8) {
        let top = if p == 1 { "pi".to_string() } else { format!("{p} * pi") };
        let text = if q == 1 { top } else { format!("{top} / {q}") };
        push(s * (p as f64 * PI / q as f64).sqrt(), format!("{sign}sqrt({text})"), false);
    }
    if let Some((p, q)) = fraction(1.0 / (square * PI), DENOMINATORS.1).filter(|(p, q)| *p <= 8 && *q <= 8) {
        let top = if p == 1 { "pi".to_string() } else { format!("{p} * pi") };
        let text = if q == 1 { top } else { format!("{top} / {q}") };
        push(s / (p as f64 * PI / q as f64).sqrt(), one_over(format!("sqrt({text})")), false);
    }
    if let Some((p, q)) = fraction(size / (PI * PI), 4).filter(|(p, _)| *p <= 8) {
        let top = if p == 1 { "pi^2".to_string() } else { format!("{p} * pi^2") };
        let text = if q == 1 { top } else { format!("{top} / {q}") };
        push(s * p as f64 * PI * PI / q as f64, format!("{sign}{text}"), false);
    }
    // As few digits as do.
    for digits in 1..=4 {
        if let Ok(value) = format!("{x:.digits$e}").parse::<f64>() {
            push(value, crate::print::number(value), true);
        }
    }
    out.sort_by_key(|r| r.cost);
    out
}

/// How a number is written: as it reads best, if it is exactly such a number, otherwise with all its digits. Also whether it is a single token.
pub fn written(x: f64) -> (String, bool) {
    match near(x).into_iter().find(|r| r.value.to_bits() == x.to_bits()) {
        Some(found) => (found.text, found.atom),
        None => (crate::print::number(x), true),
    }
}

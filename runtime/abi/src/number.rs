//! Numbers as text, the one place where it is decided how they look: in prints, messages, tables, reports and logs.

/// A number for people, to so many significant digits (at least 1): `0.9722`, `1235`, `1.5e-5`, `nan`. Whole numbers below 1e15 stand in full.
pub fn shown(x: f64, digits: usize) -> String {
    if let Some(word) = word(x) {
        return word.into();
    }
    if x.fract() == 0.0 && x.abs() < 1e15 {
        return format!("{x}");
    }
    let digits = digits.max(1);
    // The exponent after rounding, so that 9999.9 is laid out as 1e4.
    let scientific = format!("{x:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').expect("the e format has an e");
    let exponent: i32 = exponent.parse().expect("the e format has an exponent");
    if (-4..7).contains(&exponent) {
        trimmed(&format!("{x:.*}", (digits as i32 - 1 - exponent).max(0) as usize)).to_string()
    } else {
        format!("{}e{exponent}", trimmed(mantissa))
    }
}

/// The shortest decimal that reads back as the same number.
pub fn exact(x: f64) -> String {
    match word(x) {
        Some(word) => word.into(),
        None if in_full(x) => format!("{x}"),
        None => format!("{x:e}"),
    }
}

/// The shortest decimal that reads back as the same `f32`.
pub fn exact_f32(x: f32) -> String {
    match word(f64::from(x)) {
        Some(word) => word.into(),
        None if in_full(f64::from(x)) => format!("{x}"),
        None => format!("{x:e}"),
    }
}

/// [`exact_f32`] for a number that is an `f32`, else [`exact`]: for values whose type is not at hand.
pub fn exact_as_stored(x: f64) -> String {
    if f64::from(x as f32) == x { exact_f32(x as f32) } else { exact(x) }
}

/// What the language calls numbers that have no digits; zero has no sign.
fn word(x: f64) -> Option<&'static str> {
    match x {
        x if x.is_nan() => Some("nan"),
        f64::INFINITY => Some("inf"),
        f64::NEG_INFINITY => Some("-inf"),
        0.0 => Some("0"),
        _ => None,
    }
}

fn in_full(x: f64) -> bool {
    (1e-4..1e16).contains(&x.abs())
}

/// Without zeros at the end of a fraction.
fn trimmed(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_to_some_digits() {
        let cases = [
            (0.972222, "0.9722"),
            (1234.56, "1235"),
            (1_234_567.0, "1234567"),
            (0.000123456, "0.0001235"),
            (1.5e-5, "1.5e-5"),
            (3.21987e8, "321987000"),
            (3.219876543e17, "3.22e17"),
            (-2.0, "-2"),
            (0.99999, "1"),
            (9_999_999.9, "1e7"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
            (-0.0, "0"),
            (100.0, "100"),
        ];
        for (x, expected) in cases {
            assert_eq!(shown(x, 4), expected);
        }
        assert_eq!([123.456789, 1e-7, 0.1].map(|x| shown(x, 6)), ["123.457", "1e-7", "0.1"]);
        assert_eq!([0.26, 260.7].map(|x| shown(x, 1)), ["0.3", "261"]);
    }

    #[test]
    fn exact_numbers_read_back() {
        assert_eq!((exact(0.1), exact_f32(0.1), exact_as_stored(f64::from(0.1f32))), ("0.1".into(), "0.1".into(), "0.1".into()));
        assert_ne!(exact(f64::from(0.1f32)), "0.1");
        for x in [0.1, 1.0 / 3.0, 1e-300, 1e300, -5.0, 2e-5, 1.5e15, f64::from(1e-20f32), f64::INFINITY, f64::MIN_POSITIVE] {
            assert_eq!(exact(x).parse::<f64>().expect("a number"), x);
            let back: f64 = exact_as_stored(x).parse().expect("a number");
            let narrow = f64::from(exact_as_stored(x).parse::<f32>().expect("a number"));
            assert!(back == x || narrow == x, "{x} as {}", exact_as_stored(x));
        }
    }
}

//! How finely numbers of a column are known: what is below that is no part of a law, and no formula explains it.

/// The spacing of the numbers of a column.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Grain {
    /// Digits behind the point, and significant digits, of numbers that were written in decimals.
    digits: Option<(i32, i32)>,
    /// Whether they were f32 before they were written or widened.
    single: bool,
}

/// Rows that are looked at.
const LOOK: usize = 10_000;
/// Significant digits below which decimals are taken for exact: steps of a grid, counts, settings of an instrument.
const EXACT: i32 = 7;
/// Significant digits from which on decimals are all that an f64 has.
const WHOLE: i32 = 16;

/// The exponent of the first significant digit of a number, and how many such digits its shortest decimal form has.
fn decimals(x: f64) -> (i32, i32) {
    let text = format!("{:e}", x.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    (exponent.parse().unwrap_or(0), mantissa.bytes().filter(u8::is_ascii_digit).count() as i32)
}

impl Grain {
    /// That of a column: numbers that are all f32 (to the digits that they are written with) were rounded to f32; others that are all written with 7 to 15 digits, to these.
    pub fn of(column: &[f64]) -> Grain {
        let look = || column.iter().take(LOOK).copied().filter(|x| *x != 0.0);
        let (mut behind, mut significant) = (i32::MIN, 0);
        for x in look() {
            let (exponent, digits) = decimals(x);
            behind = behind.max(digits - 1 - exponent);
            significant = significant.max(digits);
        }
        if significant < EXACT {
            return Grain::default();
        }
        let digits = (significant < WHOLE).then_some((behind, significant));
        let written = Grain { digits, single: false };
        // The shortest decimals of an f32 may be further from it than half of their last digit.
        let shortest = |x: f64| format!("{:e}", x as f32) == format!("{x:e}");
        let single = look().all(|x| (f64::from(x as f32) - x).abs() <= 0.51 * written.at(x) || shortest(x));
        Grain { digits, single }
    }

    /// The distance from a number to the next; 0 for numbers in full precision.
    pub fn at(&self, x: f64) -> f64 {
        let decimal = self.digits.map_or(0.0, |(behind, significant)| {
            let exponent = if x == 0.0 { i32::MIN / 2 } else { decimals(x).0 };
            10f64.powi((exponent - significant + 1).max(-behind))
        });
        let single = if self.single && x != 0.0 {
            let near = (x as f32).abs();
            f64::from(f32::from_bits(near.to_bits() + 1)) - f64::from(near)
        } else {
            0.0
        };
        decimal.max(if single.is_finite() { single } else { 0.0 })
    }

    /// The variance of what rounding to it adds to a number: that of an even distribution over its spacing.
    pub fn variance(&self, x: f64) -> f64 {
        let spacing = self.at(x);
        spacing * spacing / 12.0
    }
}

#[cfg(test)]
mod tests {
    use super::Grain;

    #[test]
    fn columns_tell_how_they_were_rounded() {
        let numbers: Vec<f64> = (1..300).map(|k| (f64::from(k) * 0.731).sin() * 3.0).collect();
        let near = |grain: Grain, x: f64, want: f64| assert!((grain.at(x) / want - 1.0).abs() < 1e-6, "{grain:?} at {x}: {}", grain.at(x));
        let mapped = |f: &dyn Fn(f64) -> f64| Grain::of(&numbers.iter().map(|x| f(*x)).collect::<Vec<_>>());
        let parsed = |text: String| text.parse::<f64>().unwrap_or(f64::NAN);
        assert_eq!(Grain::of(&numbers).at(1.5), 0.0);
        // f32, widened, in its shortest decimals, and in nine digits.
        near(mapped(&|x| f64::from(x as f32)), 1.5, f64::from(f32::EPSILON));
        near(mapped(&|x| parsed(format!("{}", x as f32))), 1.5, f64::from(f32::EPSILON));
        near(mapped(&|x| parsed(format!("{:.8e}", x as f32))), 1.5, f64::from(f32::EPSILON));
        // Decimals behind the point, and significant ones.
        let fixed = mapped(&|x| parsed(format!("{x:.9}")));
        near(fixed, 1.5, 1e-9);
        near(fixed, 0.01, 1e-9);
        let digits = mapped(&|x| parsed(format!("{x:.9e}")));
        near(digits, 1.5, 1e-9);
        near(digits, 0.015, 1e-11);
        // Grids and counts are exact.
        assert_eq!(Grain::of(&[0.1, 0.2, 0.3, 12.5]).at(0.3), 0.0);
        assert_eq!(Grain::of(&[1.0, 2.0, 365.0, 0.0]).at(2.0), 0.0);
        assert_eq!(Grain::of(&[]).at(2.0), 0.0);
        assert!(mapped(&|x| f64::from(x as f32)).at(0.0) == 0.0 && mapped(&|x| f64::from(x as f32)).variance(f64::MAX).is_finite());
    }
}

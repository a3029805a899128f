//! Computed hyperparameters that left their range.

use optc_abi::Tensor;
use optc_base::{Code, Diagnostic};
use optc_elab::program::Ranged;

/// The first hyperparameter whose value (an f64 scalar each) is outside its range; `when` names the step, `count` is `step` in the spec.
pub fn out_of_range_error(ranged: &[Ranged], values: &[Tensor], when: &str, count: Option<u64>) -> Option<Diagnostic> {
    ranged.iter().zip(values).find_map(|(ranged, value)| {
        let x = value.get_f64(0);
        let must = ranged.limits.broken_by_computed(x)?;
        let message = format!("{when}: `{}` of `{}` is {}, but must be {must}", ranged.name, ranged.optimizer, shown(ranged, x));
        Some(
            Diagnostic::error(Code("R0205"), ranged.span, message)
                .at(count.map_or_else(|| "outside the range".into(), |step| format!("outside the range when `step` is {step}")))
                .label(ranged.range, "its range")
                .help("the step was not made; change the schedule so that it stays inside, or bound it with `clip`"),
        )
    })
}

/// As short as it can be and still be outside.
fn shown(ranged: &Ranged, x: f64) -> String {
    let short = optc_abi::number::shown(x, 6);
    let outside = short.parse().is_ok_and(|rounded| ranged.limits.broken_by_computed(rounded).is_some());
    if outside { short } else { x.to_string() }
}

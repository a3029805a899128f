//! How the work of the parser grows, in calls of grammar rules. In a file of its own, because the limit on calls holds for the whole process.

use optc_base::SourceId;
use std::num::NonZeroUsize;

/// The least number of calls of rules that the text can be parsed with, to a part in 64.
fn calls(text: &str) -> usize {
    let fits = |limit: usize| {
        pest::set_call_limit(NonZeroUsize::new(limit));
        optc_front::parse(SourceId(0), text).1.is_empty()
    };
    let (mut low, mut high) = (1, 1 << 26);
    assert!(fits(high), "{text:.100}");
    while high - low > (low / 64).max(1) {
        let middle = low + (high - low) / 2;
        if fits(middle) { high = middle } else { low = middle }
    }
    high
}

#[test]
fn calls_of_rules_grow_with_the_length_and_not_with_the_depth() {
    for (name, text) in [
        ("parentheses", &(|n: usize| format!("const c = {}x{}\n", "(".repeat(n), ")".repeat(n))) as &dyn Fn(usize) -> String),
        ("names in parentheses", &|n| format!("const c = {}x{}\n", "(x, ".repeat(n), ")".repeat(n))),
        ("calls", &|n| format!("const c = {}x{}\n", "f(x, ".repeat(n), ")".repeat(n))),
        ("brackets", &|n| format!("const c = {}x{}\n", "max[".repeat(n), "]".repeat(n))),
        ("lists", &|n| format!("const c = {}x{}\n", "[(x), ".repeat(n), "]".repeat(n))),
        ("records", &|n| format!("const c = {}x{}\n", "{ x, y = (x) + ".repeat(n), "}".repeat(n))),
        ("functions", &|n| format!("const c = {}x\n", "((x, y), { w }) -> ".repeat(n))),
        ("blocks", &|n| format!("fn f(x: f32) -> f32 = {}x{}\n", "{ (x); ".repeat(n), " }".repeat(n))),
        ("branches", &|n| format!("fn f(x: f32) -> f32 = {}{{ x }}\n", "if (x) { (x) } else ".repeat(n))),
        ("operators", &|n| format!("const c = x{}\n", " + (x) * x[0]".repeat(n))),
    ] {
        let (short, long) = (calls(&text(60)), calls(&text(240)));
        assert!(long < 5 * short, "{name}: {short} calls for 60, {long} for 240");
    }
}

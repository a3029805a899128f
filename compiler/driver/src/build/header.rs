//! The C header of an object file.

use super::rule::{Built, GRADIENT, HyperDecl, MOMENTS, STATES, StateDecl, Variant, WEIGHT};
use optc_abi::DType;
use optc_cranelift::object::{ABI, Function};
use std::fmt::Write;

/// The type of an element in C.
pub(super) fn c_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::F64 => "double",
        DType::BF16 | DType::F16 => "uint16_t",
        DType::I32 => "int32_t",
        DType::I64 => "int64_t",
        DType::U32 => "uint32_t",
        DType::U8 | DType::Bool => "uint8_t",
    }
}

/// Names of the arrays of a leaf, by number.
pub fn array_names(states: &[StateDecl]) -> Vec<String> {
    let fixed = ["w", "g"].map(String::from);
    let delta = if states.iter().any(|s| s.name == "delta") { "change" } else { "delta" };
    fixed.into_iter().chain(states.iter().map(|s| s.name.clone())).chain([delta.to_string()]).collect()
}

/// A number as C reads it back, bit for bit.
fn shown(x: f64) -> String {
    format!("{x:?}")
}

/// Declarations of the arrays that a function takes.
fn arrays(variant: &Variant, function: &Function) -> Vec<String> {
    let names = array_names(&variant.states);
    let all = names.len();
    let number = |k: usize| if (STATES..all - 1).contains(&k) { variant.states[k - STATES].dtype } else { variant.stored.dtype() };
    let read = |k: usize| k == GRADIENT || (k == WEIGHT && function.name != "step");
    function.takes.iter().map(|&k| format!("{}{} *{}", if read(k) { "const " } else { "" }, c_type(number(k)), names[k])).collect()
}

/// What the header says first: how the functions are called.
fn introduction(built: &Built) -> String {
    let (name, upper) = (&built.library.name, built.library.name.to_uppercase());
    let mut lines: Vec<String> = vec![
        "A leaf is an array of n weights with its gradient and its states; any n, also 0, the elements of an array of several axes in order.".to_string(),
        format!("Begin with {name}_defaults, call _init for each leaf once, then _step (or _delta, which leaves the weights alone and writes what is"),
        "to be added to them) for each leaf with the number of the step, t = 1, 2, ... Functions that end in _many take a list of leaves in one call.".to_string(),
    ];
    if built.rounds() > 1 {
        lines.extend([
            String::new(),
            "This rule combines numbers over all leaves of a call (a norm of all gradients, a distance): give _many all leaves of the optimizer. The".to_string(),
            "functions without _many have one leaf as all there is. Where the leaves are in several lists (groups with hyperparameters of their own),".to_string(),
            format!("set {upper}_FOLDS doubles to 0, then for each round from 0 to {upper}_ROUNDS - 1 call _round for each list, with the same lists in the"),
            "same order; weights and states are written in the last round.".to_string(),
        ]);
    }
    let shared = built.variants.iter().any(|v| v.states.iter().any(|s| s.scalar));
    lines.push(String::new());
    lines.push(match built.variants.iter().all(|v| v.change_in_place) {
        true => "Arrays of a leaf must not overlap, except that _delta may write over the gradient; they need no more than the alignment of their elements.".to_string(),
        false => "Arrays of a leaf must not overlap (_delta reads the gradient twice); they need no more than the alignment of their elements.".to_string(),
    });
    let parts = match (built.reduces(), shared) {
        (true, _) => "A leaf must be whole, since its elements are combined: parts of one would be leaves of their own.",
        (false, true) => "A leaf must be whole, since it has states that belong to all of it.",
        (false, false) => "A leaf may be cut anywhere, and its parts given as leaves.",
    };
    lines.push(parts.to_string());
    lines.push("Nothing is allocated. Which instructions the processor has is found in the first call and kept in one word; nothing else is kept from call".to_string());
    lines.push(
        "to call, so calls on different leaves may run in different threads. All functions return 0 or one of the codes below.".to_string(),
    );
    let text: String = lines.iter().map(|l| if l.is_empty() { " *\n".to_string() } else { format!(" * {l}\n") }).collect();
    format!(" *\n{text} */\n")
}

/// The header.
pub fn header(built: &Built) -> String {
    let name = &built.library.name;
    let upper = name.to_uppercase();
    let mut h = String::new();
    let _ = writeln!(
        h,
        "/* {name}: an optimizer, made by optc {} from `{}`.",
        env!("CARGO_PKG_VERSION"),
        built.expression.replace("*/", "* /")
    );
    h.push_str(&introduction(built));
    let _ = write!(
        h,
        "#ifndef OPTC_{upper}_H\n#define OPTC_{upper}_H\n\n#include <stddef.h>\n#include <stdint.h>\n\n#ifdef __cplusplus\nextern \"C\" {{\n#endif\n\n#define {upper}_ABI {ABI}\n"
    );
    if built.rounds() > 1 {
        let folds = built.functions("step").map(|f| f.flat.folds()).max().unwrap_or(0);
        let _ = writeln!(h, "#define {upper}_ROUNDS {}\n#define {upper}_FOLDS {} /* doubles */", built.rounds(), 2 * folds);
    }
    h.push('\n');
    declarations(&mut h, name, &built.hyper, &built.library.messages);
    for (rule, variant) in built.library.rules.iter().zip(&built.variants) {
        let bytes: usize = variant.states.iter().filter(|s| !s.scalar).map(|s| s.dtype.size()).sum();
        let _ = writeln!(h, "\n/* {}: {bytes} bytes of state per parameter */", variant.stored.dtype().name());
        for function in rule.functions.iter().filter(|f| f.name != MOMENTS) {
            let full = format!("{}_{}", rule.name, function.name);
            let arrays = arrays(variant, function);
            let _ = writeln!(h, "typedef struct {full}_leaf {{\n  size_t n;");
            for array in &arrays {
                let _ = writeln!(h, "  {array};");
            }
            let more = if function.stepping { format!(", int32_t t, const {name}_hyper *hyper") } else { String::new() };
            let _ = writeln!(h, "}} {full}_leaf;");
            let _ = writeln!(h, "int32_t {full}(size_t n, {}{more});", arrays.join(", "));
            let _ = writeln!(h, "int32_t {full}_many(size_t count, const {full}_leaf *leaves{more});");
            if function.flat.rounds() > 1 {
                let _ = writeln!(h, "int32_t {full}_round(size_t count, const {full}_leaf *leaves{more}, int32_t round, double *folds);");
            }
        }
    }
    h.push_str("\n#ifdef __cplusplus\n}\n#endif\n\n#endif\n");
    h
}

/// The structure of hyperparameters, the codes, and the functions that all element types share.
pub(super) fn declarations(h: &mut String, name: &str, hyper: &[HyperDecl], messages: &[(i32, String)]) {
    let upper = name.to_uppercase();
    let _ = writeln!(
        h,
        "/* Hyperparameters. size and version are set by {name}_defaults. */\ntypedef struct {name}_hyper {{\n  uint32_t size;\n  uint32_t version;"
    );
    for d in hyper {
        let end = |end: Option<(f64, bool)>, strict: &str, wide: &str| {
            end.map(|(x, inclusive)| format!(", {} {x}", if inclusive { wide } else { strict }))
        };
        let ends: String = [end(d.value.low, ">", ">="), end(d.value.high, "<", "<=")].into_iter().flatten().collect();
        let _ = writeln!(h, "  double {}; /* default {}{ends} */", d.name, shown(d.value.default));
    }
    let _ = writeln!(h, "}} {name}_hyper;\n\nenum {{");
    for (code, words) in messages {
        let constant = match code {
            0 => "OK".to_string(),
            1 => "NULL".to_string(),
            2 => "VERSION".to_string(),
            3 => "STEP".to_string(),
            4 => "ROUND".to_string(),
            5 => "INDEX".to_string(),
            k => format!("RANGE_{}", hyper[(*k - optc_cranelift::object::code::RANGE) as usize].name.to_uppercase()),
        };
        let _ = writeln!(h, "  {upper}_{constant} = {code}, /* {words} */");
    }
    let _ = writeln!(h, "}};\n\nint32_t {name}_defaults({name}_hyper *hyper);\nconst char *{name}_error(int32_t code);");
}

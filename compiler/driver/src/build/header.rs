//! The C header of an object file.

use super::rule::{Built, GRADIENT, STATES, StateDecl, Variant, WEIGHT};
use optc_abi::DType;
use optc_cranelift::object::{ABI, Function};
use std::fmt::Write;

/// The type of an element in C.
fn c_type(dtype: DType) -> &'static str {
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
    h.push_str(&format!(
        r#" *
 * A leaf is an array of n weights with its gradient and its states; any n, also 0. Begin with {name}_defaults, call _init for each leaf once, then
 * _step (or _delta, which leaves the weights alone and writes what is to be added to them) for each leaf with the number of the step, t = 1, 2, ...
 * Functions that end in _many take a list of leaves in one call. Arrays of a leaf must not overlap, except that _delta may write over the gradient{};
 * they need no more than the alignment of their elements. Nothing is allocated and nothing is kept from call to call, so calls on different leaves, or on parts of a
 * leaf that are cut anywhere, may run in different threads{}. All functions return 0 or one of the codes below.
 */
#ifndef OPTC_{upper}_H
#define OPTC_{upper}_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define {upper}_ABI {ABI}

"#,
        if built.variants.iter().all(|v| v.change_in_place) { "" } else { " (not for this rule: it reads it twice)" },
        if built.variants.iter().any(|v| v.states.iter().any(|s| s.scalar)) { " (not the parts of one leaf: it has states of the whole leaf)" } else { "" },
    ));
    let _ = writeln!(
        h,
        "/* Hyperparameters. size and version are set by {name}_defaults. */\ntypedef struct {name}_hyper {{\n  uint32_t size;\n  uint32_t version;"
    );
    for d in &built.hyper {
        let end = |end: Option<(f64, bool)>, strict: &str, wide: &str| {
            end.map(|(x, inclusive)| format!(", {} {x}", if inclusive { wide } else { strict }))
        };
        let ends: String = [end(d.value.low, ">", ">="), end(d.value.high, "<", "<=")].into_iter().flatten().collect();
        let _ = writeln!(h, "  double {}; /* default {}{ends} */", d.name, shown(d.value.default));
    }
    let _ = writeln!(h, "}} {name}_hyper;\n\nenum {{");
    for (code, words) in &built.library.messages {
        let constant = match code {
            0 => "OK".to_string(),
            1 => "NULL".to_string(),
            2 => "VERSION".to_string(),
            3 => "STEP".to_string(),
            k => format!("RANGE_{}", built.hyper[(*k - optc_cranelift::object::code::RANGE) as usize].name.to_uppercase()),
        };
        let _ = writeln!(h, "  {upper}_{constant} = {code}, /* {words} */");
    }
    let _ = writeln!(h, "}};\n\nint32_t {name}_defaults({name}_hyper *hyper);\nconst char *{name}_error(int32_t code);");
    for (rule, variant) in built.library.rules.iter().zip(&built.variants) {
        let bytes: usize = variant.states.iter().filter(|s| !s.scalar).map(|s| s.dtype.size()).sum();
        let _ = writeln!(h, "\n/* {}: {bytes} bytes of state per parameter */", variant.stored.dtype().name());
        for function in &rule.functions {
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
        }
    }
    h.push_str("\n#ifdef __cplusplus\n}\n#endif\n\n#endif\n");
    h
}

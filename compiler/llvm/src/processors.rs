//! Processors of x86-64 that host code is made for, by LLVM's names.

use crate::Error;
use crate::unit::{self, Host};
use inkwell::context::Context;
use inkwell::passes::PassBuilderOptions;

/// LLVM's names, as `llc -mtriple=x86_64 -mcpu=help` of LLVM 22 lists them, without those that have no 64-bit mode. LLVM takes another name for the oldest of processors, without a word.
pub const CPUS: &[&str] = &[
    "alderlake",
    "amdfam10",
    "arrowlake",
    "arrowlake-s",
    "arrowlake_s",
    "athlon-fx",
    "athlon64",
    "athlon64-sse3",
    "atom",
    "atom_sse4_2",
    "atom_sse4_2_movbe",
    "barcelona",
    "bdver1",
    "bdver2",
    "bdver3",
    "bdver4",
    "bonnell",
    "broadwell",
    "btver1",
    "btver2",
    "cannonlake",
    "cascadelake",
    "clearwaterforest",
    "cooperlake",
    "core-avx-i",
    "core-avx2",
    "core2",
    "core_2_duo_sse4_1",
    "core_2_duo_ssse3",
    "core_2nd_gen_avx",
    "core_3rd_gen_avx",
    "core_4th_gen_avx",
    "core_4th_gen_avx_tsx",
    "core_5th_gen_avx",
    "core_5th_gen_avx_tsx",
    "core_aes_pclmulqdq",
    "core_i7_sse4_2",
    "corei7",
    "corei7-avx",
    "diamondrapids",
    "emeraldrapids",
    "generic",
    "goldmont",
    "goldmont-plus",
    "goldmont_plus",
    "gracemont",
    "grandridge",
    "graniterapids",
    "graniterapids-d",
    "graniterapids_d",
    "haswell",
    "icelake-client",
    "icelake-server",
    "icelake_client",
    "icelake_server",
    "ivybridge",
    "k8",
    "k8-sse3",
    "knl",
    "knm",
    "lunarlake",
    "meteorlake",
    "mic_avx512",
    "nehalem",
    "nocona",
    "novalake",
    "opteron",
    "opteron-sse3",
    "pantherlake",
    "penryn",
    "raptorlake",
    "rocketlake",
    "sandybridge",
    "sapphirerapids",
    "sierraforest",
    "silvermont",
    "skx",
    "skylake",
    "skylake-avx512",
    "skylake_avx512",
    "slm",
    "tigerlake",
    "tremont",
    "westmere",
    "wildcatlake",
    "x86-64",
    "x86-64-v2",
    "x86-64-v3",
    "x86-64-v4",
    "znver1",
    "znver2",
    "znver3",
    "znver4",
    "znver5",
];

/// The name of the processor under the program.
pub const NATIVE: &str = "native";

/// Whether code can be made for a processor of this name.
///
/// # Errors
/// It is none.
pub fn check_cpu(name: &str) -> Result<(), Error> {
    if name == NATIVE || CPUS.contains(&name) {
        return Ok(());
    }
    let near = CPUS.iter().filter(|known| known.starts_with(name) || name.starts_with(**known)).copied().collect::<Vec<_>>();
    let near = if near.is_empty() { String::new() } else { format!(": {}", near.join(", ")) };
    Err(Error::asked(format!("LLVM knows no processor `{name}`{near}")))
}

/// Whether code for a processor of this name, or the one under the program, runs here.
///
/// # Errors
/// It is none; this one lacks instructions that it has.
pub fn check_cpu_here(name: Option<&str>) -> Result<(), Error> {
    // The processor's own code runs, and asking takes LLVM a millisecond.
    name.map_or(Ok(()), |name| Host::here(Some(name)).map(|_| ()))
}

/// Whether a processor has all instructions that another one has: LLVM puts a function into another one only then.
pub(crate) fn covers(host: &Host, wanted: (&str, &str)) -> Result<bool, Error> {
    let machine = host.machine()?;
    let context = Context::create();
    let module = unit::module(&context, "probe", &host.triple, &machine);
    let (builder, word) = (context.create_builder(), context.i32_type());
    let ty = word.fn_type(&[word.into()], false);
    let attributes = |function: inkwell::values::FunctionValue<'_>, (cpu, features): (&str, &str)| {
        for (name, value) in [("target-cpu", cpu), ("target-features", features)] {
            if !value.is_empty() {
                function.add_attribute(inkwell::attributes::AttributeLoc::Function, context.create_string_attribute(name, value));
            }
        }
    };
    let bug = |e: inkwell::builder::BuilderError| Error::new(format!("compiler bug: {e}"));
    let inner = module.add_function("inner", ty, Some(inkwell::module::Linkage::Internal));
    attributes(inner, wanted);
    builder.position_at_end(context.append_basic_block(inner, ""));
    let x = inner.get_nth_param(0).ok_or_else(|| Error::new("compiler bug: a function without its parameter"))?.into_int_value();
    builder.build_return(Some(&builder.build_int_add(x, x, "").map_err(bug)?)).map_err(bug)?;
    let outer = module.add_function("outer", ty, None);
    attributes(outer, (&host.cpu, &host.features));
    builder.position_at_end(context.append_basic_block(outer, ""));
    let x = outer.get_nth_param(0).ok_or_else(|| Error::new("compiler bug: a function without its parameter"))?;
    let call = builder.build_call(inner, &[x.into()], "").map_err(bug)?;
    let result = call.try_as_basic_value().basic().ok_or_else(|| Error::new("compiler bug: a call without its result"))?;
    builder.build_return(Some(&result)).map_err(bug)?;
    module
        .run_passes("cgscc(inline),globaldce", &machine, PassBuilderOptions::create())
        .map_err(|e| Error::new(format!("compiler bug: {}", e.to_string_lossy())))?;
    Ok(module.get_function("inner").is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(cpu: &str) -> Host {
        Host::new(Some(cpu)).expect("a name")
    }

    #[test]
    fn instructions_of_processors_are_compared() {
        let levels = ["x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4"];
        for (k, &have) in levels.iter().enumerate() {
            for (n, &want) in levels.iter().enumerate() {
                assert_eq!(covers(&host(have), (want, "")).expect("probes"), n <= k, "{want} on {have}");
            }
        }
        assert!(covers(&host("znver5"), ("x86-64-v4", "")).expect("probes"));
        assert!(!covers(&host("haswell"), ("znver4", "")).expect("probes"));
        assert!(covers(&host(NATIVE), ("x86-64", "")).expect("probes"));
    }

    /// By what processors have, not by their names.
    #[test]
    fn fused_products_are_those_of_the_processor() {
        for (cpu, has) in
            [("x86-64-v2", false), ("x86-64-v3", true), ("haswell", true), ("znver3", true), ("ivybridge", false), ("bdver1", false)]
        {
            assert_eq!(host(cpu).fma().expect("probes"), has, "{cpu}");
        }
        assert_eq!(host(NATIVE).fma().expect("probes"), host(NATIVE).features.split(',').any(|f| f == "+fma"));
    }

    #[test]
    fn unknown_names_are_refused() {
        let words = check_cpu("znver9").expect_err("no such processor").to_string();
        assert!(words.contains("no processor `znver9`"), "{words}");
        assert!(check_cpu("x86-64-v").expect_err("none").to_string().contains("x86-64-v3"));
        CPUS.iter().for_each(|name| check_cpu(name).expect("known"));
    }
}

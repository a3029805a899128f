//! Functions of a spec, compiled for given arguments.

use crate::module::{Module, environment, module, spec_fault};
use crate::shared::{Lazy, locked};
use crate::{Fault, handles, wrong};
use optc::pipeline::CompileOptions;
use optc::trainer::run_error;
use optc_abi::DType;
use optc_base::Span;
use optc_elab::args::Limits;
use optc_elab::given::{Given, GivenArg, Returned};
use optc_elab::script;
use optc_front::ast::{FnKind, ItemKind};
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::{Arc, Mutex};

/// An element type by name.
///
/// # Errors
/// There is none.
pub fn dtype(name: &str) -> Result<DType, Fault> {
    DType::parse(name).ok_or_else(|| wrong(format!("there is no element type `{name}`")))
}

/// An argument in words, for messages.
fn words(given: &Given) -> String {
    let all = |items: &[Given]| items.iter().map(words).collect::<Vec<_>>().join(", ");
    match given {
        Given::Array(ty) => ty.to_string(),
        Given::Number => "number".into(),
        Given::Int(n) => n.to_string(),
        Given::Float(x) => optc_abi::number::exact_as_stored(*x),
        Given::Bool(b) => b.to_string(),
        Given::Str(s) => format!("{s:?}"),
        Given::None => "none".into(),
        Given::Tuple(items) => format!("({})", all(items)),
        Given::List(items) => format!("[{}]", all(items)),
        Given::Record(fields) => {
            format!("{{ {} }}", fields.iter().map(|(n, g)| format!("{n} = {}", words(g))).collect::<Vec<_>>().join(", "))
        }
    }
}

/// A compiled function.
pub struct Call {
    name: String,
    of: Arc<Module>,
    inputs: usize,
    outputs: usize,
    limits: Vec<(usize, String, Limits)>,
    scalars: Vec<DType>,
    program: Mutex<Lazy>,
    place: Span,
}

/// Lowers a call of a function and compiles it: its number, and what it gives back.
///
/// # Errors
/// There is no such function; arguments that do not fit.
pub fn compile(number: u64, name: &str, args: &[(Option<String>, Given)]) -> Result<Value, Fault> {
    let of = module(number)?;
    let mut session = locked(&of.session);
    let is_function = |kind: &ItemKind| matches!(kind, ItemKind::Fn(f) if matches!(f.kind, FnKind::Fn | FnKind::Loss));
    let found = session.items().find(|(at, item)| is_function(&item.kind) && session.name(*at) == name).map(|(at, _)| at);
    let item = found.ok_or_else(|| wrong(format!("there is no function `{name}`")))?;
    // The call as a text, so that messages have a place to point to.
    let mut text = format!("{name}(");
    let mut given = Vec::new();
    for (k, (name, value)) in args.iter().enumerate() {
        let start = text.len() + if k > 0 { 2 } else { 0 };
        let _ = write!(
            text,
            "{}{}{}",
            if k > 0 { ", " } else { "" },
            name.as_ref().map_or_else(String::new, |n| format!("{n} = ")),
            words(value)
        );
        given.push((name.clone(), value.clone(), start..text.len()));
    }
    text.push(')');
    let source = session.program.sources.add("the call", text.clone());
    let place = Span::new(source, 0, text.len());
    let given: Vec<GivenArg> =
        given.into_iter().map(|(name, value, at)| GivenArg { name, value, span: Span::new(source, at.start, at.end) }).collect();
    let session = &*session;
    let lowered = {
        let mut host = environment(session, 1, true);
        script::lower_function(&session.program, item, &given, place, &session.settings, &mut host)
            .map_err(|d| spec_fault(&d, &session.program.sources))?
    };
    let outputs: Vec<Value> = lowered
        .graph
        .outputs
        .iter()
        .map(|&node| {
            let ty = lowered.graph.ty(node);
            json!([ty.dtype.name(), ty.shape.to_vec()])
        })
        .collect();
    let result = returned(&lowered.result);
    let scalars = lowered.graph.input_types().iter().map(|ty| ty.dtype).collect();
    let mut call = Call {
        name: name.to_string(),
        of: of.clone(),
        inputs: lowered.graph.inputs.len(),
        outputs: lowered.graph.outputs.len(),
        limits: lowered.limits,
        scalars,
        program: Mutex::new(Lazy::new(lowered.graph, CompileOptions::default())),
        place,
    };
    call.program.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).get()?;
    Ok(json!({ "call": handles::add(handles::Thing::Call(call)), "outputs": outputs, "result": result }))
}

fn returned(result: &Returned) -> Value {
    let all = |items: &[Returned]| items.iter().map(returned).collect::<Vec<_>>();
    match result {
        Returned::Array(k) => json!({ "array": k }),
        Returned::Int(n) => json!({ "constant": n }),
        // JSON has no infinities.
        Returned::Float(x) => json!({ "float": x.to_string() }),
        Returned::Bool(b) => json!({ "constant": b }),
        Returned::Str(s) => json!({ "constant": s }),
        Returned::None => json!({ "constant": null }),
        Returned::Tuple(items) => json!({ "tuple": all(items) }),
        Returned::List(items) => json!({ "list": all(items) }),
        Returned::Record(fields) => json!({ "record": fields.iter().map(|(n, r)| json!([n, returned(r)])).collect::<Vec<_>>() }),
    }
}

impl Call {
    /// Runs on addresses of inputs, then of outputs.
    ///
    /// # Errors
    /// A number outside the range of its parameter; an index out of range.
    ///
    /// # Safety
    /// The addresses are of arrays of the function's types, which outlive the call; nothing else writes to them meanwhile.
    pub unsafe fn run(&self, addresses: &[*mut u8]) -> Result<(), Fault> {
        if addresses.len() != self.inputs + self.outputs {
            return Err(wrong(format!(
                "`{}` takes {} arrays and gives {}, not {} in all",
                self.name,
                self.inputs,
                self.outputs,
                addresses.len()
            )));
        }
        for (input, parameter, limits) in &self.limits {
            // SAFETY: inputs with limits are scalars of this type.
            let x = unsafe { scalar(self.scalars[*input], addresses[*input]) };
            if let Some(must) = limits.broken_by(x) {
                return Err(wrong(format!("`{parameter}` of `{}` is {x}, but must be {must}", self.name)));
            }
        }
        let mut lazy = locked(&self.program);
        let (program, _) = lazy.get()?;
        // SAFETY: the caller's promise.
        let ran = unsafe {
            for (k, &address) in addresses[..self.inputs].iter().enumerate() {
                program.bind_input(k, address);
            }
            for (k, &address) in addresses[self.inputs..].iter().enumerate() {
                program.bind_output(k, address);
            }
            program.run_bound()
        };
        ran.map_err(|e| {
            let diagnostic = run_error(&e, &format!("`{}`", self.name), self.place);
            spec_fault(&[diagnostic], &locked(&self.of.session).program.sources)
        })
    }
}

/// A scalar of this type.
///
/// # Safety
/// The address is one of it.
unsafe fn scalar(dtype: DType, address: *const u8) -> f64 {
    let mut t = optc_abi::Tensor::zeros(dtype, &[]);
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts(address, dtype.size()) };
    t.bytes_mut().copy_from_slice(bytes);
    t.get_f64(0)
}

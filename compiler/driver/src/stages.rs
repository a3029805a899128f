//! What the compiler makes of a spec, stage by stage, as text.

use crate::backend;
use crate::cli::Stage;
use crate::pipeline::{self, CompileOptions, Stages, Timings};
use crate::session::{Session, kind, params};
use optc_base::{SourceMap, Span};
use optc_elab::TrainProgram;
use optc_elab::program::SlotKind;
use optc_front::ast::{File, Item, ItemKind};
use optc_front::{Def, ItemRef};
use optc_ir::Graph;
use optc_ir::graph::Op;
use optc_ir::kernel::Kernel;
use optc_mid::partition::Partitioned;
use optc_train::TrainError;
use std::fmt::Write;

/// How the step of a train is compiled: slots in place; a loss that is not finite, or a hyperparameter outside its range, stops it before anything is overwritten.
pub fn step_options(program: &TrainProgram) -> CompileOptions {
    let slots = program.slots.len();
    CompileOptions {
        alias: (0..slots).map(|k| (k, k)).collect(),
        guards: program.guards(),
        watch: program.weights(),
        swap: program.swap(),
        offload: program.offloaded(),
        ..CompileOptions::default()
    }
}

/// The step of a train, simplified and planned.
pub fn plan_step(program: &TrainProgram) -> Stages {
    pipeline::plan(program.step.graph.clone(), &step_options(program), &mut Timings::default())
}

/// A stage from the graph on of the step of a train, for a GPU if one is named. Where several devices are named, behind [`Stage::Graph`] that of each of them.
///
/// # Errors
/// A stage that this build or the chosen back end has not; a batch that several devices cannot share out.
pub fn step(program: &TrainProgram, stage: Stage, gpu: Option<&str>) -> Result<String, TrainError> {
    match for_each_device(program)? {
        Some((each, _)) if stage != Stage::Graph => compiled(&each.graph, &step_options(program), stage, gpu),
        _ => compiled(&program.step.graph, &step_options(program), stage, gpu),
    }
}

/// The step of each device, and how many there are, if the train or the command line names several.
fn for_each_device(program: &TrainProgram) -> Result<Option<(Partitioned, usize)>, TrainError> {
    let devices = crate::device::chosen().unwrap_or(program.device).devices();
    let split = crate::stepper::shared_out(program, devices)?;
    if split.is_empty() {
        return Ok(None);
    }
    let options = CompileOptions { split, ..step_options(program) };
    Ok(Some((pipeline::for_each_device(program.step.graph.clone(), &options, devices), devices)))
}

/// How several devices share out a step: what they add up, and which arrays they put together because all of them need the whole. Nothing for one device.
///
/// # Errors
/// As [`step`].
pub fn sharing(program: &TrainProgram, sources: &SourceMap) -> Result<String, TrainError> {
    let Some((each, devices)) = for_each_device(program)? else { return Ok(String::new()) };
    let graph = optc_mid::simplify::simplify(each.graph, &optc_mid::simplify::Config::default());
    let Sums { meetings, arrays, bytes } = sums(&graph, 1);
    let (share, plural) = (program.batch / devices, if meetings == 1 { "" } else { "s" });
    let mut out =
        format!("  on {devices} devices: {share} examples each, {arrays} arrays of {bytes} bytes added up in {meetings} meeting{plural}\n");
    for gathered in &each.gathered {
        let _ = writeln!(out, "    whole on each: {} bytes, for {}", gathered.bytes, place(sources, gathered.origin.span));
    }
    Ok(out)
}

/// What devices add up in a step.
#[derive(Default)]
struct Sums {
    meetings: usize,
    arrays: usize,
    bytes: usize,
}

fn sums(graph: &Graph, times: usize) -> Sums {
    let mut all = Sums::default();
    for id in graph.ids() {
        let node = graph.node(id);
        let inside = match &node.op {
            Op::AllReduce => {
                let bytes = node.operands.iter().map(|&o| graph.ty(o).len() * graph.ty(o).dtype.size()).sum::<usize>();
                vec![Sums { meetings: times, arrays: times * node.operands.len(), bytes: times * bytes }]
            }
            Op::Loop(l) => vec![sums(&l.body, times * l.trip.unwrap_or(1))],
            Op::Cond { then, otherwise } => vec![sums(then, times), sums(otherwise, times)],
            _ => continue,
        };
        for s in inside {
            all = Sums { meetings: all.meetings + s.meetings, arrays: all.arrays + s.arrays, bytes: all.bytes + s.bytes };
        }
    }
    all
}

/// A stage from the graph on, for a GPU if one is named.
///
/// # Errors
/// As [`step`].
pub fn compiled(graph: &Graph, options: &CompileOptions, stage: Stage, gpu: Option<&str>) -> Result<String, TrainError> {
    if stage == Stage::Graph {
        return Ok(optc_ir::text::print(graph));
    }
    // PTX is for a GPU in any case.
    let options = &CompileOptions { apart: options.apart || gpu.is_some() || stage == Stage::Ptx, ..options.clone() };
    let Stages { simplified, planned } = pipeline::plan(graph.clone(), options, &mut Timings::default());
    if stage == Stage::Simplified {
        return Ok(optc_ir::text::print(&simplified));
    }
    if stage == Stage::Plan {
        return Ok(optc_plan::print(&planned));
    }
    let kernels: Vec<Kernel> = planned.kernels.iter().map(|k| k.kernel.clone()).collect();
    match stage {
        Stage::Clif => Ok(optc_cranelift::clif(&kernels, &planned.plan)),
        Stage::Llvm => {
            let text = backend::llvm(&[("kernel", &kernels, &planned.plan)], backend::Llvm::Text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        }
        Stage::Ptx => backend::device_text(&kernels, &planned.plan, gpu.unwrap_or("sm_80")),
        Stage::Asm => backend::assembly(backend::chosen(), &kernels, &planned.plan),
        _ => Ok(planned.kernels.iter().map(|k| optc_ir::text::print_kernel(&k.name, &k.kernel)).collect::<Vec<_>>().join("\n")),
    }
}

/// The syntax tree of the root file, or of one item.
pub fn ast(session: &Session, item: Option<ItemRef>) -> String {
    match item {
        Some(item) => optc_front::print_ast(&File { items: vec![session.program.item(item).clone()] }),
        None => session.program.modules.first().map_or_else(String::new, |m| optc_front::print_ast(&m.file)),
    }
}

/// What each name at top level of each file stands for.
pub fn names(session: &Session) -> String {
    let program = &session.program;
    let mut out = String::new();
    for module in &program.modules {
        if module.scope.is_empty() {
            continue;
        }
        let _ = writeln!(out, "{}", module.name);
        let width = module.scope.keys().map(|k| k.chars().count()).max().unwrap_or(0);
        for (name, def) in &module.scope {
            let meaning = match def {
                Def::Item(item) => {
                    let found = program.item(*item);
                    let span = found.name().map_or(found.span, |n| n.span);
                    format!("{} at {}", kind(found), place(&program.sources, span))
                }
                Def::Module(id) => format!("module {}", program.module(*id).name),
            };
            let _ = writeln!(out, "  {name:width$}  {meaning}");
        }
    }
    out
}

fn place(sources: &SourceMap, span: Span) -> String {
    let (line, column) = sources.line_column(span);
    let file = sources.get(span.source).map_or("", |s| s.name.as_str());
    format!("{file}:{line}:{column}")
}

/// The signature of an item, as written.
pub struct Signature {
    /// `optimizer lion`; of a constant or a type all of it.
    pub head: String,
    /// `lr: float >= 0 = 1e-4`, …; none where there are no parentheses.
    pub params: Option<Vec<String>>,
    /// ` -> f32`, or nothing.
    pub result: String,
}

impl Signature {
    /// On one line.
    pub fn line(&self) -> String {
        let list = self.params.as_ref().map_or_else(String::new, |p| format!("({})", p.join(", ")));
        format!("{}{list}{}", self.head, self.result)
    }
    /// On one line of at most so many characters, or with a line for each parameter.
    pub fn lines(&self, width: usize) -> String {
        match &self.params {
            Some(params) if self.line().chars().count() > width => {
                format!("{}(\n{}\n){}", self.head, params.iter().map(|p| format!("  {p}")).collect::<Vec<_>>().join(",\n"), self.result)
            }
            _ => self.line(),
        }
    }
}

/// The signature of an item; nothing for imports.
pub fn signature(sources: &SourceMap, item: &Item) -> Option<Signature> {
    let name = item.name()?;
    let words = |span: Span| sources.slice(span).split_whitespace().collect::<Vec<_>>().join(" ");
    let mut out = Signature { head: format!("{} {}", kind(item), name.text), params: None, result: String::new() };
    match &item.kind {
        ItemKind::Const { ty, value, .. } => {
            if let Some(ty) = ty {
                let _ = write!(out.head, ": {}", words(ty.span));
            }
            let _ = write!(out.head, " = {}", words(value.span));
        }
        ItemKind::TypeAlias { ty, .. } => {
            let _ = write!(out.head, " = {}", words(ty.span));
        }
        _ => {
            let list: Vec<String> = params(item).iter().map(|p| words(p.span)).collect();
            if !list.is_empty() || matches!(item.kind, ItemKind::Fn(_) | ItemKind::Extern(_)) {
                out.params = Some(list);
            }
            let result = match &item.kind {
                ItemKind::Fn(f) => f.result.as_ref(),
                ItemKind::Extern(e) => Some(&e.result),
                _ => None,
            };
            if let Some(result) = result {
                out.result = format!(" -> {}", words(result.span));
            }
        }
    }
    Some(out)
}

/// The persistent arrays of a train with their types, and what its step reads besides.
pub fn slots(program: &TrainProgram) -> String {
    let mut out = String::new();
    for (k, player) in program.players.iter().enumerate() {
        let how_often = match (player.every, player.times) {
            (1, 1) => "once in every step".to_string(),
            (1, n) => format!("{n} times in every step"),
            (k, 1) => format!("once in every {k} steps"),
            (k, n) => format!("{n} times in every {k} steps"),
        };
        let sees = match (k, program.simultaneous) {
            (0, _) | (_, true) => "the weights that came in",
            _ => "the newest weights",
        };
        let of_player = |name: &str| name.strip_prefix(player.name.as_str()).is_some_and(|rest| rest.starts_with('.'));
        let elements: usize = program.slots.iter().filter(|s| s.kind == SlotKind::Param && of_player(&s.name)).map(|s| s.ty.len()).sum();
        let _ = writeln!(out, "  player {}: {elements} parameters, steps {how_often}, sees {sees}", player.name);
    }
    for slot in &program.slots {
        let _ = writeln!(out, "  {} {}: {}", format!("{:?}", slot.kind).to_lowercase(), slot.name, slot.ty);
    }
    if let Some(data) = &program.data {
        for (name, ty) in data.fields.iter().zip(&data.example) {
            let _ = writeln!(out, "  field {name}: {ty} per example");
        }
    }
    for (name, value) in &program.step.hyper {
        let _ = writeln!(out, "  hyperparameter {name} = {}", optc_abi::number::exact_as_stored(*value));
    }
    out
}

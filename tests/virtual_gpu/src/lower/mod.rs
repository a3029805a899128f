//! From the tree of a module to programs: every instruction's modifiers and operands are checked here, so that execution needs not.

mod compare;
mod control;
mod convert;
mod float;
mod memory;
mod operands;
mod together;
mod whole;

use crate::exec::alu::{pair, three, two};
use crate::exec::program::*;
use crate::ptx::{Error, Function, Instruction, Module, Operand, Space, Statement, Ty};
use std::collections::HashMap;

/// Modifiers of an opcode that nobody has taken yet.
#[derive(Clone)]
pub(super) struct Mods<'a> {
    left: Vec<&'a str>,
}

impl<'a> Mods<'a> {
    /// Takes a modifier if it is there.
    pub(super) fn take(&mut self, name: &str) -> bool {
        let found = self.left.iter().position(|m| *m == name);
        found.map(|n| self.left.remove(n)).is_some()
    }
    /// Takes the first modifier that is one of these.
    pub(super) fn choose(&mut self, names: &[&'static str]) -> Option<&'static str> {
        let (at, name) = self.left.iter().enumerate().find_map(|(at, m)| names.iter().find(|n| *n == m).map(|n| (at, *n)))?;
        self.left.remove(at);
        Some(name)
    }
    /// Takes all types.
    pub(super) fn types(&mut self) -> Vec<Ty> {
        let types = self.left.iter().filter_map(|m| Ty::parse(m)).collect();
        self.left.retain(|m| Ty::parse(m).is_none());
        types
    }
    /// Takes those that only say how memory is cached or how widely an operation counts.
    pub(super) fn hints(&mut self) {
        const HINTS: &[&str] = &[
            "relaxed",
            "acquire",
            "release",
            "acq_rel",
            "volatile",
            "weak",
            "mmio",
            "cta",
            "cluster",
            "gpu",
            "sys",
            "ca",
            "cg",
            "cs",
            "lu",
            "cv",
            "wb",
            "wt",
            "noftz",
            "L1::evict_normal",
            "L1::evict_unchanged",
            "L1::evict_first",
            "L1::evict_last",
            "L1::no_allocate",
            "L2::64B",
            "L2::128B",
            "L2::256B",
            "L2::cache_hint",
            "unified",
        ];
        self.left.retain(|m| !HINTS.contains(m));
    }
    /// Whether other threads may meet the access.
    pub(super) fn strong(&self) -> bool {
        self.left.iter().any(|m| matches!(*m, "volatile" | "relaxed" | "acquire" | "release" | "mmio" | "cg" | "cv"))
    }
    fn done(&self) -> bool {
        self.left.is_empty()
    }
}

/// What an instruction computes, and the types of its result and operands.
pub(super) struct Compute {
    alu: Alu,
    d: Ty,
    sources: Vec<Ty>,
    /// Whether it reads and writes the carry flag.
    carry: bool,
    /// Whether it leaves the carry flag as it is.
    keeps_carry: bool,
    /// Whether registers may be wider than the types.
    loose: bool,
}

impl Compute {
    fn new(alu: Alu, d: Ty, sources: Vec<Ty>) -> Compute {
        Compute { alu, d, sources, carry: false, keeps_carry: false, loose: false }
    }
}

/// Addresses of variables in global and constant memory.
pub type Symbols = HashMap<String, u64>;

struct Lower<'a> {
    module: &'a Module,
    symbols: &'a Symbols,
    /// Numbers of functions that are reached.
    routine_of: HashMap<String, usize>,
    shared: HashMap<String, u64>,
    code: Vec<Ins>,
    consts: Vec<Row>,
    numbered: HashMap<u64, i32>,
    // Of the function under way:
    function: &'a Function,
    /// Types of registers, those made here included.
    registers: Vec<Ty>,
    frame: HashMap<String, usize>,
    frame_bytes: usize,
    /// Parameters of the kernel.
    entry_params: HashMap<String, Parameter>,
    labels: HashMap<String, u32>,
    targets: HashMap<String, Vec<String>>,
    jumps: Vec<(usize, Vec<String>, u32)>,
    scratch: Option<i32>,
    carry: Option<i32>,
    line: u32,
    guard: Option<(u32, bool)>,
}

fn aligned(at: usize, align: usize) -> usize {
    at.div_ceil(align.max(1)) * align.max(1)
}

/// Lowers a kernel with the functions that it reaches.
pub fn lower(module: &Module, entry: &Function, symbols: &Symbols) -> Result<Program, Error> {
    let reached = reach(module, entry)?;
    let mut shared = HashMap::new();
    let mut shared_bytes = 0;
    let mut dynamic = Vec::new();
    let declared = module.variables.iter().filter(|v| mentioned(&reached, &v.name)).chain(reached.iter().flat_map(|f| &f.variables));
    for variable in declared.filter(|v| v.space == Space::Shared) {
        if variable.bytes() == 0 {
            dynamic.push(variable);
            continue;
        }
        shared_bytes = aligned(shared_bytes, variable.align);
        shared.insert(variable.name.clone(), SHARED_START + shared_bytes as u64);
        shared_bytes += variable.bytes();
    }
    if let Some(align) = dynamic.iter().map(|v| v.align).max() {
        shared_bytes = aligned(shared_bytes, align);
        for variable in dynamic {
            shared.insert(variable.name.clone(), SHARED_START + shared_bytes as u64);
        }
    }
    let routine_of = reached.iter().enumerate().map(|(n, f)| (f.name.clone(), n)).collect();
    let mut params = Vec::new();
    let mut entry_params = HashMap::new();
    let mut bytes = 0;
    for param in &entry.params {
        bytes = aligned(bytes, param.align);
        let place = Parameter { offset: bytes, bytes: param.bytes() };
        entry_params.insert(param.name.clone(), place);
        params.push(place);
        bytes += param.bytes();
    }
    let mut l = Lower {
        module,
        symbols,
        routine_of,
        shared,
        code: Vec::new(),
        consts: Vec::new(),
        numbered: HashMap::new(),
        function: entry,
        registers: Vec::new(),
        frame: HashMap::new(),
        frame_bytes: 0,
        entry_params,
        labels: HashMap::new(),
        targets: HashMap::new(),
        jumps: Vec::new(),
        scratch: None,
        carry: None,
        line: 0,
        guard: None,
    };
    let mut routines = Vec::new();
    for function in &reached {
        routines.push(l.function(function)?);
    }
    let recursive = calls_itself(&l.code, &routines);
    let frames: usize = routines.iter().map(|r| r.frame).sum();
    Ok(Program {
        name: entry.name.clone(),
        code: l.code,
        consts: l.consts,
        local: if recursive { frames + RECURSIVE_BYTES } else { frames },
        routines,
        shared: shared_bytes,
        params,
        param_bytes: bytes,
        max_threads: entry.max_threads,
        required_threads: entry.required_threads,
    })
}

fn names(operand: &Operand, found: &mut dyn FnMut(&str)) {
    match operand {
        Operand::Name(name, _) => found(name),
        Operand::Vector(all) | Operand::List(all) => all.iter().for_each(|o| names(o, found)),
        Operand::Memory(base, _) => names(base, found),
        Operand::Pair(a, b) => {
            names(a, found);
            names(b, found);
        }
        _ => {}
    }
}

fn mentioned_in(function: &Function, found: &mut dyn FnMut(&str)) {
    for statement in function.body.iter().flatten() {
        if let Statement::Instruction(ins) = statement {
            ins.args.iter().for_each(|o| names(o, found));
        }
    }
}

fn mentioned(functions: &[&Function], name: &str) -> bool {
    let mut hit = false;
    functions.iter().for_each(|f| mentioned_in(f, &mut |n| hit |= n == name));
    hit
}

/// The kernel and the functions that it may call, it first.
fn reach<'a>(module: &'a Module, entry: &'a Function) -> Result<Vec<&'a Function>, Error> {
    let mut reached = vec![entry];
    let mut next = 0;
    while next < reached.len() {
        let function = reached[next];
        next += 1;
        let mut called = Vec::new();
        mentioned_in(function, &mut |name| called.push(name.to_string()));
        for name in called {
            let mut all = module.functions.iter().filter(|f| f.name == name && !f.entry);
            let Some(first) = all.next() else { continue };
            if reached.iter().any(|f| f.name == name) {
                continue;
            }
            let defined = module.functions.iter().find(|f| f.name == name && f.body.is_some());
            match defined {
                Some(f) => reached.push(f),
                None => return Err(Error::new(first.line, format!("the function `{name}` is called and has no body"))),
            }
        }
    }
    Ok(reached)
}

/// Whether a function may be under way twice.
fn calls_itself(code: &[Ins], routines: &[Routine]) -> bool {
    let mut edges = vec![Vec::new(); routines.len()];
    for (at, ins) in code.iter().enumerate() {
        if let Op::Call(call) = &ins.op {
            let from = routines.iter().rposition(|r| r.start as usize <= at).unwrap_or(0);
            match call.target {
                Some(to) => edges[from].push(to),
                None => return true,
            }
        }
    }
    // A walk of more steps than there are functions goes around.
    let mut at: Vec<usize> = (0..routines.len()).collect();
    for _ in 0..=routines.len() {
        at = at.iter().flat_map(|&n| edges[n].iter().copied()).collect();
        at.sort_unstable();
        at.dedup();
    }
    !at.is_empty()
}

impl<'a> Lower<'a> {
    fn fail<T>(&self, words: impl Into<String>) -> Result<T, Error> {
        Err(Error::new(self.line, words))
    }

    fn function(&mut self, function: &'a Function) -> Result<Routine, Error> {
        self.function = function;
        self.registers = function.registers.clone();
        self.frame.clear();
        self.frame_bytes = 0;
        self.labels.clear();
        self.targets.clear();
        self.scratch = None;
        self.carry = None;
        let start = self.code.len() as u32;
        let own = function.variables.iter().filter(|v| matches!(v.space, Space::Local | Space::Param));
        let formal = function.params.iter().chain(&function.results).filter(|v| !function.entry && v.register.is_none());
        for variable in own.chain(formal) {
            self.frame_bytes = aligned(self.frame_bytes, variable.align);
            self.frame.insert(variable.name.clone(), self.frame_bytes);
            self.frame_bytes += variable.bytes();
        }
        self.frame_bytes = aligned(self.frame_bytes, 16);
        self.line = function.line;
        for statement in function.body.iter().flatten() {
            match statement {
                Statement::Label(name) => {
                    let here = self.code.len() as u32;
                    if self.labels.insert(name.clone(), here).is_some() {
                        return self.fail(format!("the label `{name}` stands twice in `{}`", function.name));
                    }
                    self.guard = None;
                    self.push(Op::Label);
                }
                Statement::Targets(name, list) => drop(self.targets.insert(name.clone(), list.clone())),
                Statement::Instruction(ins) => {
                    self.line = ins.line;
                    self.guard = ins.guard;
                    self.instruction(ins)?;
                }
            }
        }
        self.guard = None;
        self.push(Op::Ret);
        for (at, names, line) in std::mem::take(&mut self.jumps) {
            let mut found = Vec::new();
            for name in &names {
                match self.labels.get(name) {
                    Some(pc) => found.push(*pc),
                    None => return Err(Error::new(line, format!("there is no label `{name}`"))),
                }
            }
            match &mut self.code[at].op {
                Op::Bra(to) => *to = found[0],
                Op::Brx(to) => *to = found,
                _ => {}
            }
        }
        let place = |v: &crate::ptx::Variable| match v.register {
            Some(r) => (Place::Reg(r as i32), v.bytes()),
            None => (Place::Frame(self.frame.get(&v.name).copied().unwrap_or(0)), v.bytes()),
        };
        Ok(Routine {
            name: function.name.clone(),
            start,
            registers: self.registers.len(),
            frame: self.frame_bytes,
            params: if function.entry { Vec::new() } else { function.params.iter().map(place).collect() },
            results: function.results.iter().map(place).collect(),
        })
    }

    /// Adds an instruction without operands; they are filled in through the reference.
    fn push(&mut self, op: Op) -> &mut Ins {
        let (guard, negated) = self.guard.map_or((NONE, false), |(r, negated)| (r as i32, negated));
        let line = self.line;
        self.code.push(Ins { op, guard, negated, d: NONE, e: NONE, a: !0, b: !0, c: !0, line });
        self.code.last_mut().expect("pushed")
    }

    /// Adds an instruction that computes, without a guard.
    fn helper(&mut self, alu: Alu, d: i32, [a, b, c]: [i32; 3]) {
        let guard = self.guard.take();
        let ins = self.push(Op::Alu(alu));
        (ins.d, ins.a, ins.b, ins.c) = (d, a, b, c);
        self.guard = guard;
    }

    fn instruction(&mut self, ins: &Instruction) -> Result<(), Error> {
        if self.consts.is_empty() {
            // Operands that are not there are constant 0.
            self.constant(0);
        }
        let mut parts = ins.op.split('.');
        let op = parts.next().unwrap_or("");
        let mods = Mods { left: parts.collect() };
        let done = self.compute(op, mods.clone(), ins)?
            || self.moves(op, mods.clone(), ins)?
            || self.control(op, mods.clone(), ins)?
            || self.memory(op, mods.clone(), ins)?
            || self.together(op, mods, ins)?;
        if done { Ok(()) } else { self.fail(format!("the instruction `{}` is not known", ins.op)) }
    }

    /// Instructions that only compute.
    fn compute(&mut self, op: &str, mods: Mods, ins: &Instruction) -> Result<bool, Error> {
        let try_one = |f: &dyn Fn(&mut Mods) -> Option<Compute>| {
            let mut mods = mods.clone();
            f(&mut mods).filter(|_| mods.done())
        };
        let found = match op {
            "cvt" => try_one(&convert::compute),
            "selp" | "slct" => try_one(&|m| compare::choice(op, m)),
            "setp" | "set" => return self.question(op, mods.clone(), ins),
            _ => try_one(&|m| whole::compute(op, m)).or_else(|| try_one(&|m| float::compute(op, m))),
        };
        let Some(compute) = found else { return Ok(false) };
        if ins.args.len() != compute.sources.len() + 1 {
            return self.fail(format!("`{}` has {} operands, not {}", ins.op, compute.sources.len() + 1, ins.args.len()));
        }
        let mut operands = [!0; 4];
        for (n, ty) in compute.sources.iter().enumerate() {
            operands[n] = self.source(&ins.args[n + 1], *ty, compute.loose)?;
        }
        let d = self.target(&ins.args[0], compute.d, compute.loose)?;
        let mut e = operands[3];
        if compute.carry {
            let carry = self.carry_register();
            operands[2] = carry;
            e = if compute.keeps_carry { self.scratch_register() } else { carry };
        }
        let new = self.push(Op::Alu(compute.alu));
        (new.d, new.e, new.a, new.b, new.c) = (d, e, operands[0], operands[1], operands[2]);
        Ok(true)
    }

    /// `setp` and `set`.
    fn question(&mut self, op: &str, mut mods: Mods, ins: &Instruction) -> Result<bool, Error> {
        let Some(question) = compare::question(op, &mut mods).filter(|_| mods.done()) else { return Ok(false) };
        let wanted = 3 + usize::from(question.combine.is_some());
        if ins.args.len() != wanted {
            return self.fail(format!("`{}` has {wanted} operands, not {}", ins.op, ins.args.len()));
        }
        let a = self.source(&ins.args[1], question.ty, false)?;
        let b = self.source(&ins.args[2], question.ty, false)?;
        let c = if question.combine.is_some() { self.source(&ins.args[3], Ty::Pred, false)? } else { !0 };
        let (p, q) = match &ins.args[0] {
            Operand::Pair(p, q) if op == "setp" => (self.target(p, Ty::Pred, false)?, Some(self.target(q, Ty::Pred, false)?)),
            p if op == "setp" => (self.target(p, Ty::Pred, false)?, None),
            _ => (self.new_register(Ty::Pred), None),
        };
        if question.combine.is_none() && q.is_none() && op == "setp" {
            let new = self.push(Op::Alu(question.alu));
            (new.d, new.a, new.b) = (p, a, b);
            return Ok(true);
        }
        let answer = self.new_register(Ty::Pred);
        self.helper(question.alu, answer, [a, b, !0]);
        if let Some(result) = question.result {
            let combined = self.new_register(Ty::Pred);
            self.helper(combination(question.combine), combined, [answer, c, !0]);
            let d = self.target(&ins.args[0], result, false)?;
            let new = self.push(Op::Alu(match result {
                Ty::F32 => two(|a, _| if a & 1 != 0 { u64::from(1f32.to_bits()) } else { 0 }),
                _ => two(|a, _| if a & 1 != 0 { 0xFFFF_FFFF } else { 0 }),
            }));
            (new.d, new.a) = (d, combined);
            return Ok(true);
        }
        let q = match q {
            Some(q) => q,
            None => self.scratch_register(),
        };
        let alu = match question.combine {
            None => pair(|a, _, _| (a & 1, !a & 1)),
            Some("and") => pair(|a, b, _| (a & b & 1, !a & b & 1)),
            Some("or") => pair(|a, b, _| ((a | b) & 1, (!a | b) & 1)),
            _ => pair(|a, b, _| ((a ^ b) & 1, (!a ^ b) & 1)),
        };
        let new = self.push(Op::Alu(alu));
        (new.d, new.e, new.a, new.b) = (p, q, answer, c);
        Ok(true)
    }
}

fn combination(name: Option<&str>) -> Alu {
    match name {
        None => three(|a, _, _| a & 1),
        Some("and") => three(|a, b, _| a & b & 1),
        Some("or") => three(|a, b, _| (a | b) & 1),
        _ => three(|a, b, _| (a ^ b) & 1),
    }
}

//! The statements of a printed body: what gets a name, and when a state may be overwritten.

use super::expr::{Text, Tight, applied, constant, is_truth};
use crate::fun::{Fun, Ty};
use crate::genome::{Arg, Genome, Reg, Registers};
use optc_ir::scalar::ScalarOp;
use std::fmt::Write;

/// A value of the body.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    /// A register as the step finds it.
    First(Reg),
    Const(u64),
    Applied(Fun, Vec<usize>),
}

/// Longest line that is not broken up by a name.
const LONG: usize = 90;

/// The values of a program, equal ones once.
struct Values {
    all: Vec<Value>,
}

impl Values {
    fn push(&mut self, value: Value) -> usize {
        if let Some(k) = self.all.iter().position(|v| *v == value) {
            return k;
        }
        self.all.push(value);
        self.all.len() - 1
    }
    /// The type of each; operands come before their users.
    fn types(&self) -> Vec<Ty> {
        let mut types: Vec<Ty> = Vec::with_capacity(self.all.len());
        for value in &self.all {
            types.push(match value {
                Value::Const(_) | Value::First(Reg::Lr | Reg::T) => Ty::Scalar,
                Value::First(_) => Ty::Leaf,
                Value::Applied(fun, x) => {
                    let of: Vec<Ty> = x.iter().map(|x| types[*x]).collect();
                    fun.result(&of).unwrap_or(Ty::Leaf)
                }
            });
        }
        types
    }
    fn operands(&self, k: usize) -> &[usize] {
        match &self.all[k] {
            Value::Applied(_, x) => x,
            _ => &[],
        }
    }
}

/// The statements of a program without dead code.
pub(super) fn body(genome: &Genome) -> String {
    let mut values = Values { all: Vec::new() };
    let mut held: Registers<usize> = Registers::empty();
    let at_first = |values: &mut Values, held: &mut Registers<usize>, reg: Reg| {
        let value = if reg == Reg::Update { Value::Const(0f64.to_bits()) } else { Value::First(reg) };
        let k = values.push(value);
        held.set(reg, k);
        k
    };
    for stmt in &genome.body {
        let mut args = Vec::new();
        for arg in stmt.args() {
            args.push(match arg {
                Arg::Const(x) => values.push(Value::Const(x.to_bits())),
                Arg::Reg(r) => match held.get(*r) {
                    Some(k) => k,
                    None => at_first(&mut values, &mut held, *r),
                },
            });
        }
        let k = if stmt.fun == Fun::Copy { args[0] } else { values.push(Value::Applied(stmt.fun, args)) };
        held.set(stmt.out, k);
    }
    let result = |values: &mut Values, reg: Reg| held.get(reg).unwrap_or_else(|| at_first(values, &mut held.clone(), reg));
    let update = result(&mut values, Reg::Update);
    let next: Vec<usize> = (0..genome.states.len() as u8).map(|k| result(&mut values, Reg::State(k))).collect();
    Printer::new(genome, values, update, next).print()
}

struct Printer<'a> {
    genome: &'a Genome,
    values: Values,
    types: Vec<Ty>,
    update: usize,
    next: Vec<usize>,
    /// The expression that stands for a value.
    names: Vec<Option<Text>>,
    uses: Vec<usize>,
    out: String,
    lets: usize,
}

impl<'a> Printer<'a> {
    fn new(genome: &'a Genome, values: Values, update: usize, next: Vec<usize>) -> Self {
        let mut uses = vec![0; values.all.len()];
        for k in 0..values.all.len() {
            values.operands(k).iter().for_each(|x| uses[*x] += 1);
        }
        next.iter().chain([&update]).for_each(|k| uses[*k] += 1);
        let names = vec![None; values.all.len()];
        let types = values.types();
        Printer { genome, values, types, update, next, names, uses, out: String::new(), lets: 0 }
    }

    fn state(&self, k: usize) -> &'a str {
        &self.genome.states[k].name
    }

    fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "  {text}");
    }

    /// A name for a value that no register of the language and no state has.
    fn fresh(&mut self) -> String {
        loop {
            let k = self.lets;
            self.lets += 1;
            let letter = [b'u', b'p', b'q', b'r', b's', b'x', b'y', b'z'][k % 8] as char;
            let name = if k < 8 { letter.to_string() } else { format!("{letter}{}", k / 8) };
            if !self.genome.states.iter().any(|s| s.name == name) {
                return name;
            }
        }
    }

    /// The expression of a value, names of others used where they have one.
    fn text(&self, k: usize) -> Text {
        if let Some(name) = &self.names[k] {
            return name.clone();
        }
        match &self.values.all[k] {
            Value::First(Reg::State(s)) => Text::atom(self.state(*s as usize)),
            Value::First(reg) => Text::atom(match reg {
                Reg::W => "w",
                Reg::G => "g",
                Reg::Lr => "lr",
                _ => "t",
            }),
            Value::Const(bits) => constant(f64::from_bits(*bits)),
            Value::Applied(fun, x) => {
                // A selection looks at a truth; everything else computes with numbers.
                let looked_at = |k: usize| k == 0 && *fun == Fun::Plain(ScalarOp::Select);
                let args: Vec<Text> =
                    x.iter().enumerate().map(|(k, x)| if looked_at(k) { self.text(*x) } else { self.number(*x) }).collect();
                let truths: Vec<bool> = x.iter().map(|x| self.is_truth(*x)).collect();
                let types: Vec<Ty> = x.iter().map(|x| self.types[*x]).collect();
                applied(*fun, &args, &types, &truths)
            }
        }
    }

    fn is_truth(&self, k: usize) -> bool {
        matches!(self.values.all[k], Value::Applied(f, _) if is_truth(f))
    }

    /// As [`Self::text`], a truth as 1 or 0.
    fn number(&self, k: usize) -> Text {
        let text = self.text(k);
        if self.is_truth(k) { Text::atom(format!("({} as float)", text.within(Tight::Atom))) } else { text }
    }

    /// Whether a walk from a value to what it is computed from finds one. It does not go on where `stop` says so.
    fn finds(&self, from: usize, found: impl Fn(usize) -> bool, stop: impl Fn(usize) -> bool) -> bool {
        let (mut seen, mut open) = (vec![false; self.values.all.len()], vec![from]);
        while let Some(k) = open.pop() {
            if std::mem::replace(&mut seen[k], true) || stop(k) {
                continue;
            }
            if found(k) {
                return true;
            }
            open.extend_from_slice(self.values.operands(k));
        }
        false
    }

    fn is_first(&self, k: usize, state: u8) -> bool {
        self.values.all[k] == Value::First(Reg::State(state))
    }

    /// Whether the expression of a value, as it would be printed now, mentions a state as the step found it.
    fn mentions(&self, k: usize, state: u8) -> bool {
        self.finds(k, |k| self.is_first(k, state), |k| self.names[k].is_some())
    }

    fn print(mut self) -> String {
        for k in 0..self.genome.states.len() {
            let init = constant(self.genome.states[k].init).text;
            let line = format!("state {} = {init}", self.state(k));
            self.line(&line);
        }
        // A state that takes over another one's old value needs it before that is overwritten.
        let olds: Vec<usize> = (0..self.values.all.len())
            .filter(|k| matches!(self.values.all[*k], Value::First(Reg::State(s)) if self.next.iter().enumerate().any(|(j, n)| n == k && j != s as usize)))
            .collect();
        for k in olds {
            self.name(k);
        }
        let mut done = vec![false; self.next.len()];
        for k in 0..self.values.all.len() {
            if !matches!(self.values.all[k], Value::Applied(..)) || self.names[k].is_some() {
                continue;
            }
            let owner = self.next.iter().position(|n| *n == k);
            let short = self.uses[k] == 1 && self.text(k).text.len() <= LONG;
            match owner {
                Some(s) => {
                    // A step that looks at the old state is named in front of the new one.
                    if self.needs_old(self.update, k, s as u8) && !self.reaches(self.update, k) {
                        self.name_with_parts(self.update);
                    }
                    // A number or truth that a state takes over is read as such: sums of a number are others than those of the state.
                    let other = self.types[k] != Ty::Leaf || self.is_truth(k);
                    if self.read_later(k, s as u8) || other && self.uses[k] > 1 {
                        self.name(k);
                    } else {
                        let line = format!("{} <- {}", self.state(s), self.number(k).text);
                        self.line(&line);
                        self.names[k] = Some(Text::atom(self.state(s)));
                        done[s] = true;
                    }
                }
                None if k == self.update && self.uses[k] == 1 => {}
                None if short || self.values.operands(k).is_empty() => {}
                None => self.name(k),
            }
        }
        let assigned = |p: &Self, s: usize| !done[s] && p.values.all[p.next[s]] != Value::First(Reg::State(s as u8));
        if (0..self.next.len()).any(|s| assigned(&self, s) && self.mentions(self.update, s as u8)) {
            self.name(self.update);
        }
        for s in 0..self.next.len() {
            if assigned(&self, s) {
                let line = format!("{} <- {}", self.state(s), self.number(self.next[s]).text);
                self.line(&line);
            }
        }
        let update = self.number(self.update);
        let line = format!("w <- w - {}", if update.tight >= Tight::Product { update.text } else { format!("({})", update.text) });
        self.line(&line);
        self.out
    }

    /// Names a value before its turn: what it uses more than once comes first.
    fn name_with_parts(&mut self, k: usize) {
        for part in 0..k {
            let shared = self.uses[part] > 1 && self.names[part].is_none() && !self.values.operands(part).is_empty();
            if shared && self.reaches(k, part) {
                self.name(part);
            }
        }
        self.name(k);
    }

    /// Whether a value is computed from another.
    fn reaches(&self, from: usize, to: usize) -> bool {
        self.finds(from, |k| k == to, |_| false)
    }

    fn name(&mut self, k: usize) {
        let text = self.text(k).text;
        let name = self.fresh();
        let line = format!("let {name} = {text}");
        self.line(&line);
        self.names[k] = Some(Text::atom(name));
    }

    /// Whether a state as the step found it is still needed once value `k` has overwritten it: by a value that is not printed yet.
    fn read_later(&self, k: usize, state: u8) -> bool {
        let roots = self.next.iter().chain([&self.update]);
        let pending = |root: &&usize| **root != k && self.names[**root].is_none() && self.needs_old(**root, k, state);
        roots.filter(pending).count() > 0
    }

    /// Whether printing a value later would mention the state, where value `done` is then known by name.
    fn needs_old(&self, root: usize, done: usize, state: u8) -> bool {
        self.finds(root, |k| self.is_first(k, state), |k| k == done || self.names[k].is_some())
    }
}

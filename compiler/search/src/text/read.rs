//! Reads a program's text.

use super::lex::{Token, Word, words};
use crate::fun::{ALIASES, Fun, HERO, Mismatch};
use crate::genome::{Arg, Fault, Genome, MAX_NAMED, MAX_STATES, Reg, State, Stmt};
use optc_base::{Code, Diagnostic, SourceId, Span, nearest};

/// A program that was read.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The name of the function.
    pub name: String,
    /// The program.
    pub genome: Genome,
    /// The place of each statement's text.
    pub spans: Vec<Span>,
}

/// Longest program that is read, in statements.
const LONGEST: usize = 10_000;
/// Deepest nesting of an expression.
const DEEPEST: usize = 100;

type Read<T> = Result<T, Diagnostic>;

/// Reads a program.
///
/// # Errors
/// What is not in the subset (E0801), names nobody knows (E0802), what the parameters and results must be (E0803), values a function is not defined for (E0804).
pub fn read(source: SourceId, text: &str) -> Read<Imported> {
    let tokens = words(source, text)?;
    let mut reader = Reader { tokens, at: 0, names: Vec::new(), genome: Genome::default(), spans: Vec::new(), temps: 0, depth: 0 };
    let imported = reader.program()?;
    if let Err(fault) = imported.genome.check() {
        let span = imported.spans.get(fault.statement()).copied().unwrap_or_default();
        return Err(match fault {
            Fault::Types { why: Mismatch::Different, .. } => Diagnostic::error(Code("E0804"), span, "the operands are not of one kind")
                .at("one is an array for each leaf, the other a number")
                .help("`dot` and `cosine_sim` take two arrays, or two numbers"),
            Fault::Unset { .. } => Diagnostic::error(Code("E0802"), span, "a name is used before it has a value"),
        });
    }
    Ok(imported)
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    names: Vec<(String, Reg)>,
    genome: Genome,
    spans: Vec<Span>,
    /// Which intermediate values are in use.
    temps: u64,
    depth: usize,
}

fn outside(span: Span, what: impl Into<String>) -> Diagnostic {
    Diagnostic::error(Code("E0801"), span, what)
        .help("a program is `def train(w, g, m, v, lr):`, assignments of one expression each, and `return update, m, v`")
}

impl Reader {
    fn peek(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }
    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }
    fn is(&self, sign: char) -> bool {
        self.peek().word == Word::Sign(sign)
    }
    fn eat(&mut self, sign: char) -> bool {
        let found = self.is(sign);
        self.at += usize::from(found);
        found
    }
    fn expect(&mut self, sign: char, where_: &str) -> Read<Span> {
        let token = self.next();
        if token.word == Word::Sign(sign) { Ok(token.span) } else { Err(outside(token.span, format!("`{sign}` is expected {where_}"))) }
    }
    fn name(&mut self, what: &str) -> Read<(String, Span)> {
        let token = self.next();
        match token.word {
            Word::Name(name) => Ok((name, token.span)),
            _ => Err(outside(token.span, format!("{what} is expected here"))),
        }
    }
    fn skip_ends(&mut self) {
        while self.peek().word == Word::End && self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
    }

    fn program(&mut self) -> Read<Imported> {
        self.skip_ends();
        let (word, span) = self.name("`def`")?;
        if word != "def" {
            return Err(outside(span, format!("a program begins with `def`, not with `{word}`")));
        }
        let (name, _) = self.name("the name of the function")?;
        let head = self.parameters()?;
        loop {
            self.skip_ends();
            let token = self.peek().clone();
            match &token.word {
                Word::Name(word) if word == "return" => break,
                Word::Name(word) if ["if", "for", "while", "def", "class", "import", "from", "lambda", "with"].contains(&word.as_str()) => {
                    return Err(outside(token.span, format!("`{word}` is not in the subset: a program is a straight line of assignments")));
                }
                Word::End => return Err(outside(token.span, "the program ends without `return`")),
                _ => self.assignment()?,
            }
        }
        self.returns(head)?;
        self.skip_ends();
        let rest = self.peek().clone();
        if rest.word != Word::End {
            return Err(outside(rest.span, "nothing follows `return`: a file holds one program"));
        }
        Ok(Imported { name, genome: std::mem::take(&mut self.genome), spans: std::mem::take(&mut self.spans) })
    }

    /// `(w, g, m = 0.5, lr: Float):`; the place of the list.
    fn parameters(&mut self) -> Read<Span> {
        let open = self.expect('(', "after the name of the function")?;
        while !self.is(')') {
            let (name, span) = self.name("a parameter")?;
            if self.eat(':') {
                self.name("a type")?;
            }
            let init = if self.eat('=') { Some(self.signed_number()?) } else { None };
            let role = match name.as_str() {
                "w" | "weight" | "weights" | "param" | "params" => Some(Reg::W),
                "g" | "grad" | "grads" | "gradient" | "gradients" => Some(Reg::G),
                "lr" | "learning_rate" => Some(Reg::Lr),
                "t" | "step" => Some(Reg::T),
                "update" => Some(Reg::Update),
                _ => None,
            };
            if self.names.iter().any(|(n, r)| *n == name || Some(*r) == role) {
                return Err(Diagnostic::error(Code("E0803"), span, format!("`{name}` is a parameter twice"))
                    .note("`w`, `weights`, `params` all mean the weights, `g`, `gradient` their gradient"));
            }
            if role == Some(Reg::Update) && init != Some(0.0) {
                return Err(Diagnostic::error(Code("E0803"), span, "the update starts at 0").help("`update=0.0`"));
            }
            if role.is_some_and(|r| r != Reg::Update) && init.is_some() {
                return Err(Diagnostic::error(Code("E0803"), span, format!("`{name}` is no state and has no first value")));
            }
            let reg = match role {
                Some(reg) => reg,
                None if self.genome.states.len() == MAX_STATES => {
                    return Err(Diagnostic::error(Code("E0803"), span, format!("a program has at most {MAX_STATES} states")));
                }
                None => {
                    // Names that intermediate values are written with.
                    let apart = if super::temp_number(&name).is_some() { "_" } else { "" };
                    self.genome.states.push(State { name: format!("{name}{apart}"), init: init.unwrap_or(0.0) });
                    Reg::State(self.genome.states.len() as u8 - 1)
                }
            };
            self.names.push((name, reg));
            if !self.eat(',') {
                break;
            }
        }
        let close = self.expect(')', "after the parameters")?;
        if self.peek().word == Word::Long("->".to_string()) {
            self.at += 1;
            self.name("a type")?;
        }
        self.expect(':', "after the parameters")?;
        let head = Span { end: close.end, ..open };
        if !self.names.iter().any(|(_, r)| *r == Reg::G) {
            return Err(Diagnostic::error(Code("E0803"), head, "no parameter is the gradient").help("name it `g` or `gradient`"));
        }
        Ok(head)
    }

    fn signed_number(&mut self) -> Read<f64> {
        let minus = self.eat('-');
        let token = self.next();
        let value = match &token.word {
            Word::Number(x) => *x,
            Word::Name(n) if n == "inf" => f64::INFINITY,
            Word::Name(n) if n == "nan" => f64::NAN,
            _ => return Err(outside(token.span, "a number is expected here")),
        };
        Ok(if minus { -value } else { value })
    }

    fn known(&self, name: &str) -> Option<Reg> {
        self.names.iter().find(|(n, _)| n == name).map(|(_, r)| *r)
    }

    fn fresh(&mut self, span: Span) -> Read<Reg> {
        let Some(k) = (0..MAX_NAMED as u8).find(|k| self.temps & (1 << k) == 0) else {
            return Err(Diagnostic::error(Code("E0803"), span, format!("a program has at most {MAX_NAMED} names of intermediate values"))
                .help("use a name again where its value is not needed any more"));
        };
        self.temps |= 1 << k;
        Ok(Reg::Temp(k))
    }

    /// The register for a new name.
    fn named(&mut self, name: &str, span: Span) -> Read<Reg> {
        if name == "update" {
            return Ok(Reg::Update);
        }
        match super::temp_number(name) {
            Some(k) if usize::from(k) < MAX_NAMED && self.temps & (1 << k) == 0 => {
                self.temps |= 1 << k;
                Ok(Reg::Temp(k))
            }
            _ => self.fresh(span),
        }
    }

    fn push(&mut self, stmt: Stmt, span: Span) -> Read<()> {
        if self.genome.body.len() == LONGEST {
            return Err(Diagnostic::error(Code("E0803"), span, format!("a program has at most {LONGEST} statements")));
        }
        self.genome.body.push(stmt);
        self.spans.push(span);
        Ok(())
    }

    fn assignment(&mut self) -> Read<()> {
        let (name, span) = self.name("a name")?;
        self.expect('=', &format!("after `{name}`"))?;
        let value = self.value()?;
        let end = self.next();
        if end.word != Word::End {
            return Err(outside(end.span, "a statement ends here"));
        }
        let out = match self.known(&name) {
            Some(reg) => reg,
            None => {
                let reg = self.named(&name, span)?;
                self.names.push((name, reg));
                reg
            }
        };
        let whole = Span { end: end.span.start, ..span };
        match value {
            Value::Call(fun, args) => self.push(Stmt::new(out, fun, &args), whole),
            Value::Arg(arg) => self.push(Stmt::new(out, Fun::Copy, &[arg]), whole),
        }
    }

    /// An argument; what is more than a name or a number gets a register of its own.
    fn argument(&mut self, value: Value, span: Span) -> Read<Arg> {
        match value {
            Value::Arg(arg) => Ok(arg),
            Value::Call(fun, args) => {
                let out = self.fresh(span)?;
                self.push(Stmt::new(out, fun, &args), span)?;
                Ok(Arg::Reg(out))
            }
        }
    }

    /// Sums.
    fn value(&mut self) -> Read<Value> {
        let start = self.peek().span;
        if self.depth == DEEPEST {
            return Err(outside(start, format!("expressions nest at most {DEEPEST} deep")));
        }
        self.depth += 1;
        let mut left = self.product()?;
        while self.is('+') || self.is('-') {
            let fun = if self.next().word == Word::Sign('+') { "add" } else { "sub" };
            let right = self.product()?;
            left = self.binary(fun, left, right, start)?;
        }
        self.depth -= 1;
        if let Word::Long(sign) | Word::Name(sign) = &self.peek().word {
            return Err(outside(self.peek().span, format!("`{sign}` is not in the subset")));
        }
        Ok(left)
    }

    fn product(&mut self) -> Read<Value> {
        let start = self.peek().span;
        let mut left = self.unary()?;
        while self.is('*') || self.is('/') {
            let fun = if self.next().word == Word::Sign('*') { "mul" } else { "div" };
            let right = self.unary()?;
            left = self.binary(fun, left, right, start)?;
        }
        Ok(left)
    }

    fn binary(&mut self, fun: &str, left: Value, right: Value, start: Span) -> Read<Value> {
        let span = Span { end: self.peek().span.start.max(start.end), ..start };
        let args = vec![self.argument(left, span)?, self.argument(right, span)?];
        Ok(Value::Call(Fun::named(fun).expect("an operator's function"), args))
    }

    fn unary(&mut self) -> Read<Value> {
        let start = self.peek().span;
        if !self.eat('-') {
            return self.primary();
        }
        if self.depth == DEEPEST {
            return Err(outside(start, format!("expressions nest at most {DEEPEST} deep")));
        }
        self.depth += 1;
        let value = self.unary()?;
        self.depth -= 1;
        if let Value::Arg(Arg::Const(x)) = value {
            return Ok(Value::Arg(Arg::Const(-x)));
        }
        let arg = self.argument(value, start)?;
        Ok(Value::Call(Fun::named("negative").expect("a function"), vec![arg]))
    }

    fn primary(&mut self) -> Read<Value> {
        let token = self.next();
        match token.word {
            Word::Number(x) => Ok(Value::Arg(Arg::Const(x))),
            Word::Sign('(') => {
                let value = self.value()?;
                self.expect(')', "here")?;
                Ok(value)
            }
            Word::Name(name) if self.is('(') => self.call(&name, token.span),
            Word::Name(name) => match self.known(&name) {
                Some(reg) => Ok(Value::Arg(Arg::Reg(reg))),
                None if name == "inf" => Ok(Value::Arg(Arg::Const(f64::INFINITY))),
                None if name == "nan" => Ok(Value::Arg(Arg::Const(f64::NAN))),
                None => {
                    let d = Diagnostic::error(Code("E0802"), token.span, format!("nothing has been assigned to `{name}`"));
                    Err(match nearest(&name, self.names.iter().map(|(n, _)| n.as_str())) {
                        Some(near) => d.help(format!("did you mean `{near}`")),
                        None => d,
                    })
                }
            },
            _ => Err(outside(token.span, "a value is expected here")),
        }
    }

    fn call(&mut self, name: &str, span: Span) -> Read<Value> {
        let Some(fun) = Fun::named(name) else {
            let d = Diagnostic::error(Code("E0802"), span, format!("there is no function `{name}`"));
            return Err(match nearest(name, HERO.iter().chain(ALIASES).map(|(n, _)| *n)) {
                Some(near) => d.help(format!("did you mean `{near}`")),
                None => d.help("the functions are Hero's 45: `optc show std.search.hero`"),
            });
        };
        self.expect('(', "after the name of a function")?;
        let mut args = Vec::new();
        while !self.is(')') {
            let start = self.peek().span;
            let value = self.value()?;
            args.push(self.argument(value, start)?);
            if !self.eat(',') {
                break;
            }
        }
        let close = self.expect(')', "after the arguments")?;
        if args.len() != fun.arity() {
            let message = format!("`{name}` takes {} arguments, not {}", fun.arity(), args.len());
            return Err(Diagnostic::error(Code("E0802"), Span { end: close.end, ..span }, message));
        }
        Ok(Value::Call(fun, args))
    }

    fn returns(&mut self, head: Span) -> Read<()> {
        let word = self.next().span;
        let parens = self.eat('(');
        let mut results = Vec::new();
        while !matches!(self.peek().word, Word::End) && !self.is(')') {
            let (name, span) = self.name("a name")?;
            let Some(reg) = self.known(&name) else {
                return Err(Diagnostic::error(Code("E0802"), span, format!("nothing has been assigned to `{name}`")));
            };
            results.push((reg, span));
            if !self.eat(',') {
                break;
            }
        }
        if parens {
            self.expect(')', "after the results")?;
        }
        let expected = 1 + self.genome.states.len();
        if results.len() != expected {
            let message = format!("{} values are returned where the update and {} states are expected", results.len(), expected - 1);
            return Err(
                Diagnostic::error(Code("E0803"), word, message).label(head, "states are what is neither weights, gradient, rate nor step")
            );
        }
        // Results are assigned at once: none may be overwritten before it is read.
        let targets: Vec<Reg> = [Reg::Update].into_iter().chain((0..expected as u8 - 1).map(Reg::State)).collect();
        let moves: Vec<(Reg, Reg, Span)> =
            targets.iter().zip(&results).filter(|(to, (from, _))| **to != *from).map(|(to, (from, s))| (*to, *from, *s)).collect();
        let mut held = Vec::new();
        for (to, from, span) in &moves {
            let overwritten = moves.iter().any(|(other, ..)| other == from);
            let from = if overwritten {
                let temp = self.fresh(*span)?;
                self.push(Stmt::new(temp, Fun::Copy, &[Arg::Reg(*from)]), *span)?;
                temp
            } else {
                *from
            };
            held.push((*to, from, *span));
        }
        for (to, from, span) in held {
            self.push(Stmt::new(to, Fun::Copy, &[Arg::Reg(from)]), span)?;
        }
        Ok(())
    }
}

/// A value that is read.
enum Value {
    Arg(Arg),
    Call(Fun, Vec<Arg>),
}

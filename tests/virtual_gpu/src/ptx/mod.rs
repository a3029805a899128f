//! PTX as text: words, and the tree of a module with registers and names resolved.

mod lex;
mod parse;
mod types;

pub use parse::parse;
pub use types::Ty;

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Line, from 1.
    pub line: u32,
    /// What is wrong.
    pub words: String,
}

impl Error {
    pub(crate) fn new(line: u32, words: impl Into<String>) -> Error {
        Error { line, words: words.into() }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.words)
    }
}

/// Where a variable lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
    Generic,
}

/// One element of an initializer.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// A number; its bits are those of the variable's type.
    Bits(u64),
    /// The address of a variable and an offset.
    Address { name: String, offset: i64, generic: bool },
}

/// A variable of a module or function, or a parameter.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub space: Space,
    pub ty: Ty,
    pub align: usize,
    /// Elements; none if the declaration leaves that open (`extern`).
    pub len: Option<usize>,
    pub init: Vec<Init>,
    /// Number of the register, for a parameter that is one.
    pub register: Option<u32>,
    pub line: u32,
}

impl Variable {
    /// Bytes; none where left open.
    pub fn bytes(&self) -> usize {
        self.ty.bytes() * self.len.unwrap_or(0)
    }
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    Reg(u32),
    /// A special register.
    Special(String),
    Int(u64),
    Single(u32),
    Double(f64),
    /// A name (variable, label or function) and an offset.
    Name(String, i64),
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `[base+offset]`.
    Memory(Box<Operand>, i64),
    /// `p|q`.
    Pair(Box<Operand>, Box<Operand>),
    /// `!p`.
    Not(Box<Operand>),
    /// `(a, b)` of a call.
    List(Vec<Operand>),
    /// `_`.
    Sink,
}

/// An instruction as written.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// Predicate register and whether it is negated.
    pub guard: Option<(u32, bool)>,
    pub op: String,
    pub args: Vec<Operand>,
    pub line: u32,
}

/// A statement of a body.
#[derive(Clone, Debug)]
pub enum Statement {
    Label(String),
    Instruction(Instruction),
    /// A list of labels of `brx.idx`.
    Targets(String, Vec<String>),
}

/// A kernel or a device function.
#[derive(Clone, Debug)]
pub struct Function {
    pub name: String,
    pub entry: bool,
    pub params: Vec<Variable>,
    pub results: Vec<Variable>,
    /// None for a declaration.
    pub body: Option<Vec<Statement>>,
    /// Variables declared inside, and `.param` variables of calls; names made unique.
    pub variables: Vec<Variable>,
    /// Types of registers.
    pub registers: Vec<Ty>,
    /// `.maxntid`.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`.
    pub required_threads: Option<[u32; 3]>,
    pub line: u32,
}

/// A whole text.
#[derive(Clone, Debug, Default)]
pub struct Module {
    pub version: (u32, u32),
    pub target: String,
    pub variables: Vec<Variable>,
    pub functions: Vec<Function>,
}

impl Operand {
    fn each_register(&mut self, f: &mut dyn FnMut(&mut u32)) {
        match self {
            Operand::Reg(r) => f(r),
            Operand::Vector(all) | Operand::List(all) => all.iter_mut().for_each(|o| o.each_register(f)),
            Operand::Memory(base, _) | Operand::Not(base) => base.each_register(f),
            Operand::Pair(a, b) => {
                a.each_register(f);
                b.each_register(f);
            }
            _ => {}
        }
    }
}

impl Function {
    /// Numbers registers anew, without those that are declared and nowhere named.
    fn forget_unused_registers(&mut self) {
        let mut numbers = vec![None; self.registers.len()];
        let mut kept = Vec::new();
        let registers = &self.registers;
        let mut renumber = |r: &mut u32| {
            let number = *numbers[*r as usize].get_or_insert_with(|| {
                kept.push(registers[*r as usize]);
                kept.len() as u32 - 1
            });
            *r = number;
        };
        self.params.iter_mut().chain(&mut self.results).filter_map(|v| v.register.as_mut()).for_each(&mut renumber);
        for statement in self.body.iter_mut().flatten() {
            if let Statement::Instruction(ins) = statement {
                ins.args.iter_mut().for_each(|o| o.each_register(&mut renumber));
                if let Some((r, _)) = &mut ins.guard {
                    renumber(r);
                }
            }
        }
        self.registers = kept;
    }
}

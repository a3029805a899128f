//! From words to the tree of a module.

use super::lex::{Token, lex};
use super::{Error, Function, Init, Instruction, Module, Operand, Space, Statement, Ty, Variable};
use std::collections::HashMap;

/// What a name inside a function stands for.
#[derive(Clone, Debug)]
enum Meaning {
    Reg(u32),
    /// The first of a numbered run, and how many there are.
    Run(u32, u32),
    /// A variable, by its unique name.
    Variable(String),
}

struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
    scopes: Vec<HashMap<String, Meaning>>,
    registers: Vec<Ty>,
    variables: Vec<Variable>,
}

/// Reads a module.
pub fn parse(text: &str) -> Result<Module, Error> {
    let tokens = lex(text)?;
    let mut p = Parser { tokens, at: 0, scopes: Vec::new(), registers: Vec::new(), variables: Vec::new() };
    let mut module = Module::default();
    while p.at < p.tokens.len() {
        p.directive(&mut module)?;
    }
    if module.target.is_empty() {
        return Err(Error::new(1, "a module begins with `.version` and `.target`"));
    }
    Ok(module)
}

impl Parser {
    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.1)
    }
    fn fail<T>(&self, words: impl Into<String>) -> Result<T, Error> {
        Err(Error::new(self.line(), words))
    }
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|t| &t.0)
    }
    fn next(&mut self) -> Result<Token, Error> {
        let token = self.peek().cloned();
        let Some(token) = token else { return self.fail("the text ends too early") };
        self.at += 1;
        Ok(token)
    }
    fn is(&self, sign: char) -> bool {
        self.peek() == Some(&Token::Sign(sign))
    }
    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Token::Word(w)) if w == word)
    }
    fn accept(&mut self, sign: char) -> bool {
        let found = self.is(sign);
        self.at += usize::from(found);
        found
    }
    fn accept_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }
    fn expect(&mut self, sign: char) -> Result<(), Error> {
        if self.accept(sign) {
            return Ok(());
        }
        let found = self.peek().cloned();
        self.fail(format!("`{sign}` expected, {found:?} found"))
    }
    fn word(&mut self) -> Result<String, Error> {
        match self.next()? {
            Token::Word(w) => Ok(w),
            other => {
                self.at -= 1;
                self.fail(format!("a name expected, {other:?} found"))
            }
        }
    }
    fn int(&mut self) -> Result<u64, Error> {
        let negative = self.accept('-');
        match self.next()? {
            Token::Int(n) => Ok(if negative { n.wrapping_neg() } else { n }),
            other => {
                self.at -= 1;
                self.fail(format!("a whole number expected, {other:?} found"))
            }
        }
    }
    fn size(&mut self) -> Result<usize, Error> {
        let n = self.int()?;
        if n > 1 << 40 {
            return self.fail(format!("{n} is too large"));
        }
        Ok(n as usize)
    }

    fn directive(&mut self, module: &mut Module) -> Result<(), Error> {
        let word = self.word()?;
        match word.as_str() {
            ".version" => match self.next()? {
                Token::Double(v) => module.version = (v as u32, ((v * 10.0).round() as u32) % 10),
                other => return self.fail(format!("a version expected, {other:?} found")),
            },
            ".target" => {
                module.target = self.word()?;
                while self.accept(',') {
                    self.word()?;
                }
            }
            ".address_size" => {
                if self.int()? != 64 {
                    return self.fail("only addresses of 64 bits");
                }
            }
            ".file" | ".loc" => self.skip_line(),
            ".section" => {
                while !self.is('{') {
                    self.next()?;
                }
                self.braces()?;
            }
            _ => {
                self.at -= 1;
                let mut external = false;
                loop {
                    match self.peek() {
                        Some(Token::Word(w)) if matches!(w.as_str(), ".visible" | ".weak" | ".common") => self.at += 1,
                        Some(Token::Word(w)) if w == ".extern" => {
                            external = true;
                            self.at += 1;
                        }
                        _ => break,
                    }
                }
                match self.peek() {
                    Some(Token::Word(w)) if w == ".entry" || w == ".func" => {
                        let function = self.function()?;
                        module.functions.push(function);
                    }
                    Some(Token::Word(w)) if matches!(w.as_str(), ".global" | ".const" | ".shared") => {
                        let variables = self.declarations(external)?;
                        module.variables.extend(variables);
                        self.expect(';')?;
                    }
                    other => {
                        let other = format!("unknown directive {other:?}");
                        return self.fail(other);
                    }
                }
            }
        }
        Ok(())
    }

    fn skip_line(&mut self) {
        let line = self.tokens[self.at.saturating_sub(1)].1;
        while self.at < self.tokens.len() && self.tokens[self.at].1 == line {
            self.at += 1;
        }
    }

    fn braces(&mut self) -> Result<(), Error> {
        self.expect('{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                Token::Sign('{') => depth += 1,
                Token::Sign('}') => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// `.global .align 4 .b8 a[3] = {…}, b`, without the semicolon.
    fn declarations(&mut self, external: bool) -> Result<Vec<Variable>, Error> {
        let mut space = None;
        let mut align = 0;
        let ty = loop {
            let word = self.word()?;
            match word.as_str() {
                ".global" => space = Some(Space::Global),
                ".const" => space = Some(Space::Const),
                ".shared" => space = Some(Space::Shared),
                ".local" => space = Some(Space::Local),
                ".param" => space = Some(Space::Param),
                ".align" => align = self.size()?,
                ".ptr" | ".managed" => {}
                ".v2" | ".v4" => return self.fail("variables of vectors are not supported"),
                w => match w.strip_prefix('.').and_then(Ty::parse) {
                    Some(ty) => break ty,
                    None => return self.fail(format!("unknown attribute `{w}` of a variable")),
                },
            }
        };
        let Some(space) = space else { return self.fail("a variable without a space") };
        // Attributes of pointers that parameters have after their type.
        let mut pointer = false;
        loop {
            match self.peek() {
                Some(Token::Word(w)) if w == ".ptr" => pointer = true,
                Some(Token::Word(w)) if pointer && matches!(w.as_str(), ".global" | ".shared" | ".const" | ".local") => {}
                Some(Token::Word(w)) if pointer && w == ".align" => {
                    self.at += 1;
                    self.size()?;
                    continue;
                }
                _ => break,
            }
            self.at += 1;
        }
        let mut all = Vec::new();
        loop {
            let line = self.line();
            let name = self.word()?;
            let mut len = Some(1);
            while self.accept('[') {
                if self.accept(']') {
                    len = None;
                } else {
                    let n = self.size()?;
                    len = len.map(|l: usize| l * n);
                    self.expect(']')?;
                }
            }
            let mut init = Vec::new();
            if self.accept('=') {
                self.initializer(ty, &mut init)?;
                len = len.or(Some(init.len()));
            }
            if len.is_none() && !(external && space == Space::Shared) {
                return self.fail(format!("`{name}` has no length"));
            }
            if external && len.is_some() && space != Space::Shared {
                return self.fail(format!("`{name}` is defined in another module; modules are not linked"));
            }
            all.push(Variable { name, space, ty, align: align.max(ty.bytes()), len, init, register: None, line });
            if space == Space::Param || !self.accept(',') {
                return Ok(all);
            }
        }
    }

    fn initializer(&mut self, ty: Ty, init: &mut Vec<Init>) -> Result<(), Error> {
        if self.accept('{') {
            while !self.accept('}') {
                self.initializer(ty, init)?;
                self.accept(',');
            }
            return Ok(());
        }
        let negative = self.accept('-');
        let value = match self.next()? {
            Token::Int(n) if ty == Ty::F32 => Init::Bits(u64::from((if negative { -(n as f32) } else { n as f32 }).to_bits())),
            Token::Int(n) if ty == Ty::F64 => Init::Bits((if negative { -(n as f64) } else { n as f64 }).to_bits()),
            Token::Int(n) => Init::Bits(if negative { n.wrapping_neg() } else { n }),
            Token::Single(bits) => Init::Bits(u64::from(bits) ^ (u64::from(negative) << 31)),
            Token::Double(x) => {
                let x = if negative { -x } else { x };
                Init::Bits(if ty == Ty::F32 { u64::from((x as f32).to_bits()) } else { x.to_bits() })
            }
            Token::Word(w) if w == "generic" => {
                self.expect('(')?;
                let name = self.word()?;
                self.expect(')')?;
                Init::Address { name, offset: self.offset()?, generic: true }
            }
            Token::Word(name) => Init::Address { name, offset: self.offset()?, generic: false },
            other => return self.fail(format!("{other:?} in an initializer")),
        };
        init.push(value);
        Ok(())
    }

    /// `+4`, `-4`, `+-4`, or nothing.
    fn offset(&mut self) -> Result<i64, Error> {
        if self.accept('+') {
            return Ok(self.int()? as i64);
        }
        if self.is('-') {
            return Ok(self.int()? as i64);
        }
        Ok(0)
    }

    fn triple(&mut self) -> Result<[u32; 3], Error> {
        let mut all = [1; 3];
        for n in 0..3 {
            all[n] = self.int()? as u32;
            if !self.accept(',') {
                break;
            }
        }
        Ok(all)
    }

    fn parameters(&mut self) -> Result<Vec<Variable>, Error> {
        let mut all = Vec::new();
        self.expect('(')?;
        while !self.accept(')') {
            if self.accept_word(".reg") {
                let line = self.line();
                let word = self.word()?;
                let Some(ty) = word.strip_prefix('.').and_then(Ty::parse) else { return self.fail(format!("unknown type `{word}`")) };
                let name = self.word()?;
                let register = Some(self.new_register(&name, ty));
                all.push(Variable { name, space: Space::Param, ty, align: ty.bytes(), len: Some(1), init: Vec::new(), register, line });
            } else {
                let variable = self.declarations(false)?.remove(0);
                self.scopes.last_mut().expect("a scope").insert(variable.name.clone(), Meaning::Variable(variable.name.clone()));
                all.push(variable);
            }
            self.accept(',');
        }
        Ok(all)
    }

    fn new_register(&mut self, name: &str, ty: Ty) -> u32 {
        let id = self.registers.len() as u32;
        self.registers.push(ty);
        self.scopes.last_mut().expect("a scope").insert(name.to_string(), Meaning::Reg(id));
        id
    }

    fn function(&mut self) -> Result<Function, Error> {
        self.scopes = vec![HashMap::new()];
        self.registers = Vec::new();
        self.variables = Vec::new();
        let entry = self.word()? == ".entry";
        let results = if !entry && self.is('(') { self.parameters()? } else { Vec::new() };
        let line = self.line();
        let name = self.word()?;
        let params = if self.is('(') { self.parameters()? } else { Vec::new() };
        let (mut max_threads, mut required_threads) = (None, None);
        let body = loop {
            match self.peek() {
                Some(Token::Sign(';')) => {
                    self.at += 1;
                    break None;
                }
                Some(Token::Sign('{')) => {
                    self.at += 1;
                    let mut body = Vec::new();
                    self.block(&mut body)?;
                    break Some(body);
                }
                Some(Token::Word(w)) => {
                    let w = w.clone();
                    self.at += 1;
                    match w.as_str() {
                        ".maxntid" => max_threads = Some(self.triple()?),
                        ".reqntid" => required_threads = Some(self.triple()?),
                        ".minnctapersm" | ".maxnreg" | ".maxnctapersm" | ".maxclusterrank" => drop(self.int()?),
                        ".noreturn" => {}
                        ".pragma" => {
                            self.next()?;
                            self.accept(';');
                        }
                        w => return self.fail(format!("unknown directive `{w}` of a function")),
                    }
                }
                other => {
                    let words = format!("the body of a function expected, {other:?} found");
                    return self.fail(words);
                }
            }
        };
        let (registers, variables) = (std::mem::take(&mut self.registers), std::mem::take(&mut self.variables));
        let mut function = Function { name, entry, params, results, body, variables, registers, max_threads, required_threads, line };
        function.forget_unused_registers();
        Ok(function)
    }

    fn block(&mut self, body: &mut Vec<Statement>) -> Result<(), Error> {
        self.scopes.push(HashMap::new());
        loop {
            if self.accept('}') {
                break;
            }
            if self.accept('{') {
                self.block(body)?;
                continue;
            }
            if self.accept(';') {
                continue;
            }
            if matches!((self.peek(), self.tokens.get(self.at + 1)), (Some(Token::Word(_)), Some((Token::Sign(':'), _)))) {
                let label = self.word()?;
                self.at += 1;
                if self.accept_word(".branchtargets") {
                    let mut targets = vec![self.word()?];
                    while self.accept(',') {
                        targets.push(self.word()?);
                    }
                    self.expect(';')?;
                    body.push(Statement::Targets(label, targets));
                } else if self.is_word(".callprototype") || self.is_word(".calltargets") {
                    while !self.accept(';') {
                        self.next()?;
                    }
                } else {
                    body.push(Statement::Label(label));
                }
                continue;
            }
            match self.peek() {
                Some(Token::Word(w)) if w == ".reg" => self.registers()?,
                Some(Token::Word(w)) if w == ".loc" || w == ".file" => {
                    self.at += 1;
                    self.skip_line();
                }
                Some(Token::Word(w)) if w == ".pragma" => {
                    while !self.accept(';') {
                        self.next()?;
                    }
                }
                Some(Token::Word(w)) if w.starts_with('.') => {
                    let external = self.accept_word(".extern");
                    for mut variable in self.declarations(external)? {
                        let name = variable.name.clone();
                        let taken = self.variables.iter().any(|v| v.name == name);
                        if taken {
                            variable.name = format!("{name}#{}", self.variables.len());
                        }
                        self.scopes.last_mut().expect("a scope").insert(name, Meaning::Variable(variable.name.clone()));
                        self.variables.push(variable);
                    }
                    self.expect(';')?;
                }
                _ => {
                    let instruction = self.instruction()?;
                    body.push(Statement::Instruction(instruction));
                }
            }
        }
        self.scopes.pop();
        Ok(())
    }

    fn registers(&mut self) -> Result<(), Error> {
        self.at += 1;
        let word = self.word()?;
        let Some(ty) = word.strip_prefix('.').and_then(Ty::parse) else { return self.fail(format!("unknown type `{word}` of registers")) };
        loop {
            let name = self.word()?;
            if self.accept('<') {
                let n = self.size()?;
                self.expect('>')?;
                if n > 1 << 20 {
                    return self.fail(format!("{n} registers"));
                }
                let first = self.registers.len() as u32;
                self.registers.extend(std::iter::repeat_n(ty, n));
                self.scopes.last_mut().expect("a scope").insert(format!("{name}<"), Meaning::Run(first, n as u32));
            } else {
                self.new_register(&name, ty);
            }
            if !self.accept(',') {
                break;
            }
        }
        self.expect(';')
    }

    fn meaning(&self, name: &str) -> Option<Meaning> {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let run = format!("{stem}<");
        for scope in self.scopes.iter().rev() {
            if let Some(found) = scope.get(name) {
                return Some(found.clone());
            }
            if let (Some(Meaning::Run(first, n)), Ok(number)) = (scope.get(&run), name[stem.len()..].parse::<u32>())
                && number < *n
            {
                return Some(Meaning::Reg(first + number));
            }
        }
        None
    }

    fn instruction(&mut self) -> Result<Instruction, Error> {
        let line = self.line();
        let mut guard = None;
        if self.accept('@') {
            let negated = self.accept('!');
            let name = self.word()?;
            match self.meaning(&name) {
                Some(Meaning::Reg(r)) if self.registers[r as usize] == Ty::Pred => guard = Some((r, negated)),
                _ => return self.fail(format!("`{name}` is no predicate")),
            }
        }
        let op = self.word()?;
        let mut args = Vec::new();
        if !self.is(';') {
            args.push(self.operand()?);
            while self.accept(',') {
                args.push(self.operand()?);
            }
        }
        self.expect(';')?;
        Ok(Instruction { guard, op, args, line })
    }

    fn operand(&mut self) -> Result<Operand, Error> {
        let first = self.single()?;
        if self.accept('|') {
            let second = self.single()?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn list(&mut self, end: char) -> Result<Vec<Operand>, Error> {
        let mut all = Vec::new();
        while !self.accept(end) {
            all.push(self.operand()?);
            if !self.accept(',') {
                self.expect(end)?;
                break;
            }
        }
        Ok(all)
    }

    fn single(&mut self) -> Result<Operand, Error> {
        Ok(match self.next()? {
            Token::Int(n) => Operand::Int(n),
            Token::Single(bits) => Operand::Single(bits),
            Token::Double(x) => Operand::Double(x),
            Token::Sign('-') => match self.next()? {
                Token::Int(n) => Operand::Int(n.wrapping_neg()),
                Token::Single(bits) => Operand::Single(bits ^ 1 << 31),
                Token::Double(x) => Operand::Double(-x),
                other => return self.fail(format!("a number expected, {other:?} found")),
            },
            Token::Sign('!') => Operand::Not(Box::new(self.single()?)),
            Token::Sign('{') => Operand::Vector(self.list('}')?),
            Token::Sign('(') => Operand::List(self.list(')')?),
            Token::Sign('[') => {
                let base = self.single()?;
                let (base, at) = match base {
                    Operand::Name(name, offset) => (Operand::Name(name, 0), offset),
                    base => (base, 0),
                };
                let offset = at + self.offset()?;
                self.expect(']')?;
                Operand::Memory(Box::new(base), offset)
            }
            Token::Word(w) if w == "_" => Operand::Sink,
            Token::Word(w) => match self.meaning(&w) {
                Some(Meaning::Reg(r)) => Operand::Reg(r),
                Some(Meaning::Variable(name)) => Operand::Name(name, self.offset()?),
                _ if special(&w) => Operand::Special(w),
                _ if w.starts_with('%') => return self.fail(format!("unknown register `{w}`")),
                _ => Operand::Name(w, self.offset()?),
            },
            other => return self.fail(format!("{other:?} where an operand should stand")),
        })
    }
}

fn special(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name);
    matches!(
        stem,
        "%tid"
            | "%ntid"
            | "%ctaid"
            | "%nctaid"
            | "%laneid"
            | "%warpid"
            | "%nwarpid"
            | "%smid"
            | "%nsmid"
            | "%gridid"
            | "%clock"
            | "%clock_hi"
            | "%clock64"
            | "%globaltimer"
            | "%globaltimer_lo"
            | "%globaltimer_hi"
            | "%lanemask_eq"
            | "%lanemask_lt"
            | "%lanemask_le"
            | "%lanemask_gt"
            | "%lanemask_ge"
            | "%dynamic_smem_size"
            | "%total_smem_size"
    ) || matches!(name, "WARP_SZ")
}

//! Branches, calls and ends.

use super::{Lower, Mods};
use crate::exec::program::*;
use crate::ptx::{Error, Instruction, Operand, Ty};

impl Lower<'_> {
    pub(super) fn control(&mut self, op: &str, mut mods: Mods, ins: &Instruction) -> Result<bool, Error> {
        mods.take("uni");
        match op {
            "bra" if mods.done() => {
                let [Operand::Name(label, 0)] = &ins.args[..] else { return self.fail("`bra` has a label") };
                self.jump(Op::Bra(0), vec![label.clone()]);
                Ok(true)
            }
            "brx" if mods.take("idx") && mods.done() => {
                let [index, Operand::Name(list, 0)] = &ins.args[..] else {
                    return self.fail("`brx.idx` has an index and a list of labels");
                };
                let Some(labels) = self.targets.get(list).cloned() else {
                    return self.fail(format!("there is no list `{list}` of labels"));
                };
                let a = self.source(index, Ty::U32, false)?;
                self.jump(Op::Brx(Vec::new()), labels);
                self.code.last_mut().expect("pushed").a = a;
                Ok(true)
            }
            "ret" if mods.done() => {
                self.push(Op::Ret);
                Ok(true)
            }
            "exit" if mods.done() => {
                self.push(Op::Exit);
                Ok(true)
            }
            "trap" if mods.done() => {
                self.push(Op::Trap);
                Ok(true)
            }
            "call" if mods.done() => {
                self.call(ins)?;
                Ok(true)
            }
            // Nothing that could be observed here.
            "membar" | "fence" | "nanosleep" | "prefetch" | "prefetchu" | "discard" | "brkpt" | "pmevent" | "griddepcontrol"
            | "applypriority" => Ok(true),
            _ => Ok(false),
        }
    }

    fn jump(&mut self, op: Op, labels: Vec<String>) {
        self.jumps.push((self.code.len(), labels, self.line));
        self.push(op);
    }

    fn places(&mut self, list: &[Operand]) -> Result<Vec<(Place, usize)>, Error> {
        let mut all = Vec::new();
        for operand in list {
            all.push(match operand {
                Operand::Reg(r) => (Place::Reg(*r as i32), self.registers[*r as usize].bytes()),
                Operand::Name(name, 0) => {
                    let Some(at) = self.frame.get(name).copied() else { return self.fail(format!("`{name}` is no parameter of a call")) };
                    let bytes = self.function.variables.iter().find(|v| v.name == *name).map_or(0, |v| v.bytes());
                    (Place::Frame(at), bytes)
                }
                other => {
                    let ty = Ty::B64;
                    let a = self.source(other, ty, true)?;
                    let r = self.new_register(ty);
                    self.helper(crate::exec::alu::one(|a| a), r, [a, !0, !0]);
                    (Place::Reg(r), 8)
                }
            });
        }
        Ok(all)
    }

    fn call(&mut self, ins: &Instruction) -> Result<(), Error> {
        let mut args = &ins.args[..];
        let mut results = Vec::new();
        if let [Operand::List(list), rest @ ..] = args {
            results = self.places(list)?;
            args = rest;
        }
        let [callee, rest @ ..] = args else { return self.fail("`call` names a function") };
        let passed = match rest {
            [Operand::List(list), ..] => self.places(list)?,
            _ => Vec::new(),
        };
        let (target, register) = match callee {
            Operand::Name(name, 0) => match self.routine_of.get(name) {
                Some(n) => (Some(*n), !0),
                None => return self.fail(format!("there is no function `{name}`")),
            },
            Operand::Reg(r) => (None, *r as i32),
            other => return self.fail(format!("{other:?} cannot be called")),
        };
        if let Operand::Name(name, _) = callee {
            let function = self.module.functions.iter().find(|f| f.name == *name && f.body.is_some());
            if let Some(f) = function
                && (f.params.len() != passed.len() || f.results.len() != results.len())
            {
                return self.fail(format!(
                    "`{name}` has {} parameters and {} results; {} and {} are given",
                    f.params.len(),
                    f.results.len(),
                    passed.len(),
                    results.len()
                ));
            }
        }
        self.push(Op::Call(Box::new(Call { target, args: passed, results }))).a = register;
        Ok(())
    }
}

//! Bindings in scope: a persistent chain, cheap to copy and to capture.

use crate::value::Value;
use optc_base::Span;
use optc_front::ModuleId;
use optc_front::ast::LetKind;
use std::rc::Rc;
use std::sync::Arc;

/// One binding.
#[derive(Clone, Debug)]
pub struct Binding {
    /// Its value now.
    pub value: Value,
    /// Whether it may be updated.
    pub kind: LetKind,
    /// Where it was introduced.
    pub span: Span,
}

/// The names visible at a place. Cloning is cheap (frames are shared until one is changed).
#[derive(Clone, Debug)]
pub struct Scope {
    /// The module whose items are visible.
    pub module: ModuleId,
    /// Innermost last.
    frames: Vec<Rc<Vec<(Arc<str>, Binding)>>>,
    /// How many frames, from the outermost, are the surroundings of the function literal at hand, of which it has a copy.
    captured: usize,
}

impl Scope {
    /// Nothing but the items of a module.
    pub fn new(module: ModuleId) -> Scope {
        Scope { module, frames: vec![Rc::default()], captured: 0 }
    }
    /// Enters a block.
    pub fn push(&mut self) {
        self.frames.push(Rc::default());
    }
    /// Enters the body of a function literal, whose surroundings these are.
    pub fn enter_literal(&mut self) {
        self.captured = self.frames.len();
        self.push();
    }
    /// Whether a name is bound in the surroundings of the function literal at hand.
    pub fn is_captured(&self, name: &str) -> bool {
        self.frames.iter().rposition(|f| f.iter().any(|(n, _)| &**n == name)).is_some_and(|at| at < self.captured)
    }
    /// Leaves a block: its bindings vanish, updates of outer ones stay.
    pub fn pop(&mut self) {
        self.frames.pop();
    }
    /// Binds a name in the innermost block; a second binding of a name hides the first.
    pub fn bind(&mut self, name: impl Into<Arc<str>>, value: Value, kind: LetKind, span: Span) {
        let frame = self.frames.last_mut().expect("a scope has a frame");
        Rc::make_mut(frame).push((name.into(), Binding { value, kind, span }));
    }
    /// Binds a name in an outer block, counted from the outermost (0).
    pub fn bind_at(&mut self, depth: usize, name: impl Into<Arc<str>>, value: Value, kind: LetKind, span: Span) {
        let last = self.frames.len() - 1;
        Rc::make_mut(&mut self.frames[depth.min(last)]).push((name.into(), Binding { value, kind, span }));
    }
    /// The binding of a name.
    pub fn get(&self, name: &str) -> Option<&Binding> {
        self.frames.iter().rev().find_map(|f| f.iter().rev().find(|(n, _)| &**n == name).map(|(_, b)| b))
    }
    /// Replaces the value of a name where it is bound. Returns whether it is bound.
    pub fn set(&mut self, name: &str, value: Value) -> bool {
        for frame in self.frames.iter_mut().rev() {
            if let Some(at) = frame.iter().rposition(|(n, _)| &**n == name) {
                Rc::make_mut(frame)[at].1.value = value;
                return true;
            }
        }
        false
    }
    /// All visible names, innermost first, for suggestions.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.frames.iter().rev().flat_map(|f| f.iter().rev().map(|(n, _)| n))
    }
    /// Number of open blocks.
    pub fn depth(&self) -> usize {
        self.frames.len()
    }
}

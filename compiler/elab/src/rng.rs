//! Randomness: where a draw stands decides its numbers.
//!
//! Each body that is evaluated has a place, a hash of the calls that lead to it; each call and draw in it has a number, given by the text ([`crate::sites`]). A draw's key is
//! the key in force, folded with the indices of the loops around it, then with its place.

use crate::evaluator::{Eval, Evaluator, Instance};
use crate::sites::Sites;
use crate::value::Value;
use optc_abi::{DType, Tensor};
use optc_base::Span;
use optc_ir::ScalarOp;
use optc_ir::graph::{Op, Ty};
use optc_ops::{Array, Dim, Val};
use rustc_hash::FxHashMap;
use std::rc::Rc;

const LOOP_PLACE: u32 = 0x9e37_79b9;
/// Above the numbers that the text gives.
const OTHER: u64 = 1 << 32;

/// Numbers of calls that the text does not show (operators, lists of functions), in order of first evaluation.
#[derive(Clone, Debug, Default)]
pub(crate) struct OtherSites {
    numbers: FxHashMap<(u64, Span), u64>,
    counts: FxHashMap<u64, u64>,
}

/// Mixes two numbers into one (the finalizer of splitmix64).
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let mut z = a ^ b.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_add(a << 6).wrapping_add(a >> 2);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A hash of a text that is the same everywhere.
pub(crate) fn text_hash(text: &str) -> u64 {
    bytes_hash(text.as_bytes())
}

/// A hash of bytes that is the same everywhere (FNV-1a).
pub(crate) fn bytes_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl Evaluator<'_> {
    /// The number of a call or draw within the body at hand.
    pub(crate) fn site(&mut self, span: Span) -> u64 {
        if !self.cx.emitting() {
            return 0;
        }
        let program = self.program;
        if self.by_text
            && let Some(n) = self.sites.get_or_insert_with(|| Rc::new(Sites::of(program))).number(span)
        {
            return n;
        }
        let place = self.instance.place;
        if let Some(&n) = self.other_sites.numbers.get(&(place, span)) {
            return n;
        }
        let count = self.other_sites.counts.entry(place).or_insert(0);
        *count += 1;
        let n = OTHER + *count;
        self.other_sites.numbers.insert((place, span), n);
        n
    }
    /// The place of a body that is called where `span` stands.
    pub(crate) fn place_at(&mut self, span: Span) -> u64 {
        mix(self.instance.place, self.site(span))
    }
    /// Evaluates `f` at the place of a body that is called where `span` stands.
    pub(crate) fn placed<T>(&mut self, span: Span, f: impl FnOnce(&mut Self) -> T) -> T {
        let place = self.place_at(span);
        let outer = std::mem::replace(&mut self.instance.place, place);
        let result = f(self);
        self.instance.place = outer;
        result
    }
    /// Evaluates `f` where draws depend on `key` (that of seed 0 if none is given) and on `place`, on nothing that stands around it.
    pub(crate) fn isolated<T>(&mut self, place: u64, key: Option<Array>, f: impl FnOnce(&mut Self) -> T) -> T {
        let key = std::mem::replace(&mut self.key, key);
        let counters = std::mem::take(&mut self.counters);
        let instance = std::mem::replace(&mut self.instance, Instance { place, ..Instance::default() });
        let others = std::mem::take(&mut self.other_sites);
        let result = f(self);
        (self.key, self.counters, self.instance, self.other_sites) = (key, counters, instance, others);
        result
    }
    /// The key made from a seed: its low and high word.
    pub fn seed_key(&mut self, seed: u64) -> Array {
        let words = [seed as u32, (seed >> 32) as u32];
        self.literal(Tensor::from_slice::<u32>(&[2], &words))
    }
    /// The key of a run-time seed, an integer scalar.
    pub(crate) fn run_time_key(&mut self, seed: &Array, span: Span) -> Eval<Array> {
        let result = optc_ops::cast(&mut self.cx, &Val::Array(seed.clone()), DType::U32);
        let low = self.lift(result, span)?;
        let (Val::Array(low), true) = (low, self.cx.emitting()) else { return Ok(self.key_type()) };
        let origin = self.cx.origin;
        let (node, whole) = (self.cx.node(&low), self.cx.node(seed));
        let graph = self.cx.graph();
        let low = graph.reshape(node, &[1], origin);
        let high = match seed.dtype {
            // The sign goes on into the high word, as in a seed known at compile time.
            DType::I32 | DType::I64 => {
                let wide = graph.cast(whole, DType::I64, origin);
                let bits = graph.scalar(DType::I64, 32.0, origin);
                let high = graph.map(ScalarOp::Shr, &[wide, bits], origin);
                let high = graph.cast(high, DType::U32, origin);
                graph.reshape(high, &[1], origin)
            }
            _ => graph.constant(Tensor::zeros(DType::U32, &[1]), origin),
        };
        let key = graph.concat(&[low, high], 0, origin);
        Ok(self.cx.array(key))
    }
    /// The type of a key, while checking.
    pub(crate) fn key_type(&self) -> Array {
        Array { dtype: DType::U32, shape: vec![Dim::from(2i64)], weak: false, node: None }
    }
    /// A key folded with a number (an i32 or u32 scalar) and a place.
    pub fn key_fold(&mut self, key: &Array, number: &Value, place: u32) -> Array {
        if !self.cx.emitting() {
            return self.key_type();
        }
        let origin = self.cx.origin;
        let key = self.cx.node(key);
        let number = match number {
            Value::Array(a) => {
                let node = self.cx.node(a);
                self.cx.graph().cast(node, DType::U32, origin)
            }
            Value::Int(d) => {
                let n = d.known().unwrap_or(0) as u32;
                self.cx.graph().scalar(DType::U32, f64::from(n), origin)
            }
            _ => self.cx.graph().scalar(DType::U32, 0.0, origin),
        };
        let ty = Ty::new(DType::U32, [2]);
        let node = self.cx.graph().op_as(Op::RandomFold { place }, &[key, number], ty, origin);
        self.cx.array(node)
    }
    /// The key in force.
    pub fn current_key(&mut self) -> Array {
        match &self.key {
            Some(key) => key.clone(),
            None => self.seed_key(0),
        }
    }
    /// The key of a draw at a place in the text.
    pub fn draw_key(&mut self, span: Span) -> Array {
        self.draws += 1;
        if !self.cx.emitting() {
            return self.key_type();
        }
        let mut key = self.current_key();
        for counter in self.counters.clone() {
            key = self.key_fold(&key, &counter, LOOP_PLACE);
        }
        let place = self.place_at(span) as u32;
        self.key_fold(&key, &Value::Int(Dim::from(0i64)), place)
    }
}

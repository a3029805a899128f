//! Arrays that must be finite: those a kernel writes are looked at there ([`crate::stage`]), the others here; scalars for guards.

use crate::block::{Block, node_dims};
use crate::emit::{Emitter, Slot};
use crate::index::Idx;
use crate::lin::Lin;
use crate::net::{CHUNK, N};
use crate::rows::Class;
use crate::stage::{NS_PER_OP, chunk_calls, finish};
use optc_abi::DType;
use optc_abi::plan::{BufRef, Instr, KernelCall};
use optc_ir::kernel::{Access, Extent, LoopKind};
use optc_ir::{Op, ScalarOp};

impl Block<'_> {
    /// Which results of a loop or conditional are to be watched: they are where they are written, inside.
    pub fn watched_results(&self, n: N) -> Vec<usize> {
        let watched = self.results_of(n).into_iter().filter(|&r| self.grouping.watched[r]);
        watched.filter_map(|r| if let Op::Result { index } = self.net.nodes[r].op { Some(index) } else { None }).collect()
    }

    /// Looks at what no kernel of its own writes: products, library calls, parts put together.
    pub fn watch_rest(&mut self) {
        let net = self.net;
        for n in (0..net.nodes.len()).filter(|&n| self.grouping.watched[n]) {
            let elsewhere = match net.nodes[n].op {
                Op::Result { .. } => matches!(net.nodes[net.nodes[n].operands[0]].op, Op::Loop(_) | Op::Cond { .. }),
                _ => self.grouping.class[n] == Class::Elem,
            };
            if elsewhere || net.nodes[n].ty.is_empty() {
                continue;
            }
            let len = net.len_of(n);
            let mut e = Emitter::new(net, self.grouping, None, &mut self.store.origins);
            e.b.kernel.sizes = 2;
            let chunk = e.b.open(Extent::Size(1), LoopKind::Parallel);
            let finite = e.finite(net.nodes[n].ty.dtype);
            let i = e.b.open(Extent::Size(0), LoopKind::Vector);
            let at = Lin::axis(chunk).scaled(CHUNK as i64).add_scaled(&Lin::axis(i), 1);
            let Ok(value) = e.emit(n, &Idx::Flat(at), None) else { panic!("compiler bug: an array in memory that is not read in order") };
            e.note(finite, value);
            e.b.close();
            e.check(finite, net.nodes[n].ty.dtype);
            e.b.close();
            let emitted = finish(e, chunk_calls(len, 8), len, len as f64 * NS_PER_OP, format!("finite.{}", node_dims(net, n)), n);
            let unit = self.kernel_unit(emitted, net.nodes.len() + n);
            self.units.push(unit);
        }
    }

    /// A kernel that tells whether a scalar is not finite, and where it tells it.
    pub fn failed(&mut self, node: N) -> (Instr, BufRef) {
        let net = self.net;
        let flag = BufRef::whole(self.store.temporary(DType::Bool, 1, self.within));
        let value = self.place(node);
        let mut e = Emitter::new(net, self.grouping, None, &mut self.store.origins);
        let dtype = e.dtype(node);
        let from = e.buffer(Slot::Node(node), Access::Read);
        e.scratch.push((DType::Bool, 1));
        let to = e.buffer(Slot::Scratch(0), Access::Write);
        let (x, _) = e.b.load(from, dtype, &Lin::default(), None);
        let zero = e.b.literal(dtype, 0.0, 0);
        let none = e.b.map(ScalarOp::Mul, dtype, &[x, zero]);
        let bad = e.b.map(ScalarOp::IsNan, DType::Bool, &[none]);
        e.b.store(to, &Lin::default(), bad);
        let code = e.b.finish();
        let kernel = self.store.kernel(code, "not_finite".into(), net.nodes[node].origin, NS_PER_OP, 0);
        let call = KernelCall { buffers: vec![value, flag.clone()], sizes: Vec::new(), range: 1, grain: 1 };
        (Instr::Kernel { kernel, calls: vec![call] }, flag)
    }
}

//! Sums over devices.

use crate::block::{Block, aligned};
use crate::net::N;
use crate::schedule::Unit;
use optc_abi::DType;
use optc_abi::plan::{BufRef, Instr, LibOp};
use optc_ir::Op;

impl Block<'_> {
    /// Sums over devices: arrays of one type lie one after the other, so that they are summed in one piece, and what makes them writes them there.
    pub(crate) fn all_reduce(&mut self, n: N) -> Unit {
        let net = self.net;
        let operands = &net.nodes[n].operands;
        let mut unit = Unit::new(n);
        self.reads_all(&mut unit, operands.iter().copied());
        let mut pieces: Vec<(DType, usize)> = Vec::new();
        let mut at = Vec::new();
        for &o in operands {
            let ty = &net.nodes[o].ty;
            let piece = pieces.iter().position(|p| p.0 == ty.dtype).unwrap_or_else(|| {
                pieces.push((ty.dtype, 0));
                pieces.len() - 1
            });
            at.push((piece, pieces[piece].1));
            pieces[piece].1 += aligned(ty.len() * ty.dtype.size()) / ty.dtype.size();
        }
        let buffers: Vec<usize> = pieces.iter().map(|&(dtype, len)| self.store.temporary(dtype, len, self.within)).collect();
        let mut results = Vec::new();
        for (&o, (piece, offset)) in operands.iter().zip(at) {
            let to = BufRef { offset: (offset * pieces[piece].0.size()) as i64, ..BufRef::whole(buffers[piece]) };
            let from = self.place(o);
            let theirs = &self.store.buffers[from.buffer];
            let free = theirs.place.is_none() && theirs.forward.is_none() && theirs.within == self.within;
            if free && from == BufRef::whole(from.buffer) && self.is_read_once(o) {
                self.store.buffers[from.buffer].forward = Some(to.clone());
            } else {
                unit.code.push(Instr::Copy { src: from, dst: to.clone(), bytes: self.bytes(o) });
            }
            results.push(to);
        }
        for (&(dtype, len), &buffer) in pieces.iter().zip(&buffers) {
            unit.code.push(Instr::Lib { op: LibOp::AllReduce { len }, dtype, buffers: vec![BufRef::whole(buffer)] });
        }
        self.take_results(n, &results, &mut unit);
        unit
    }

    /// Whether an array that has been computed is read once, and not for an output.
    fn is_read_once(&self, n: N) -> bool {
        let mine = self.net.strip(n);
        let same = |&&o: &&N| self.net.strip(o) == mine;
        // A reshape reads nothing: whoever reads it does.
        let readers = (0..self.net.nodes.len()).filter(|&m| self.net.strip(m) == m);
        let count: usize = readers.map(|m| self.net.nodes[m].operands.iter().filter(same).count()).sum();
        let made = !matches!(self.net.nodes[mine].op, Op::Input { .. } | Op::Const(_));
        made && count == 1 && !self.net.outputs.iter().any(|o| self.net.strip(*o) == mine)
    }

    /// Whether a node is a result of sums over devices, which have memory of their own.
    pub(crate) fn is_sum_of_devices(&self, n: N) -> bool {
        let node = &self.net.nodes[n];
        matches!(node.op, Op::Result { .. }) && matches!(self.net.nodes[node.operands[0]].op, Op::AllReduce)
    }
}

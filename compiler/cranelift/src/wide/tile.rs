//! A tile of a matrix product in 256-bit registers: 6 rows of two registers, twelve sums that are under way at a time, which is what two units for fused multiply-adds need.

use super::asm::{self, Assembler, Gpr, Mem, Operand, RCX, RDI, RDX, RSI};

/// Rows of a tile.
pub(crate) const ROWS: usize = 6;
/// Registers of a row.
const VECTORS: usize = 2;
/// Bytes of a row.
pub(crate) const ROW_BYTES: usize = 32 * VECTORS;
/// Steps of one pass of the loop; both operands have a multiple of it.
pub(crate) const STEPS: usize = 4;

/// The function (System V): panels of the left and right operand, where the tile lies, the bytes between its rows, the end of the left panel. For every step the left panel has a
/// number for each row, the right one for each column. Sums overwrite what is there or are added to it.
pub(crate) fn tile(doubles: bool, add: bool) -> Vec<u8> {
    const END: Gpr = Gpr(8);
    const THRICE: Gpr = Gpr(9);
    const FIVEFOLD: Gpr = Gpr(10);
    const RIGHT: [u8; VECTORS] = [12, 13];
    const LEFT: [u8; 2] = [14, 15];
    let size = if doubles { 8 } else { 4 };
    let sum = |row: usize, v: usize| (VECTORS * row + v) as u8;
    let mut code = Assembler::new(false, false);
    code.lea(THRICE, Mem::Indexed(RCX, RCX, 1, 0));
    code.lea(FIVEFOLD, Mem::Indexed(RCX, RCX, 2, 0));
    let place = |row: usize, v: usize| {
        let disp = 32 * v as i32;
        match row {
            0 => Mem::At(RDX, disp),
            1 => Mem::Indexed(RDX, RCX, 0, disp),
            2 => Mem::Indexed(RDX, RCX, 1, disp),
            3 => Mem::Indexed(RDX, THRICE, 0, disp),
            4 => Mem::Indexed(RDX, RCX, 2, disp),
            _ => Mem::Indexed(RDX, FIVEFOLD, 0, disp),
        }
    };
    if add {
        (0..ROWS).for_each(|row| code.prefetch(place(row, 0)));
    }
    for k in 0..(ROWS * VECTORS) as u8 {
        code.three(asm::XOR, k, k, Operand::Reg(k), None);
    }
    let top = code.loop_head();
    for step in 0..STEPS {
        for (v, &to) in RIGHT.iter().enumerate() {
            code.two(asm::LOAD, to, Operand::Mem(Mem::At(RSI, (ROW_BYTES * step + 32 * v) as i32)), None);
        }
        for row in 0..ROWS {
            let left = LEFT[row % 2];
            let from = Operand::Mem(Mem::At(RDI, ((ROWS * step + row) * size) as i32));
            code.two(if doubles { asm::BROADCAST_DOUBLE } else { asm::BROADCAST }, left, from, None);
            for (v, &right) in RIGHT.iter().enumerate() {
                if doubles {
                    code.fused_doubles(sum(row, v), left, right);
                } else {
                    code.three(asm::FMA231, sum(row, v), left, Operand::Reg(right), None);
                }
            }
        }
    }
    code.add(RDI, (ROWS * STEPS * size) as i32);
    code.add(RSI, (ROW_BYTES * STEPS) as i32);
    code.compare(RDI, END);
    code.loop_while_less(top);
    for row in 0..ROWS {
        for v in 0..VECTORS {
            let (k, to) = (sum(row, v), Operand::Mem(place(row, v)));
            if add {
                code.three(if doubles { asm::ADD_DOUBLES } else { asm::ADD }, k, k, to, None);
            }
            code.store(asm::STORE, to, k, None);
        }
    }
    code.zero_upper();
    code.ret();
    code.finish().0
}

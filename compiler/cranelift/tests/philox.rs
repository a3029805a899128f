//! The published vectors of Philox 4x32-10, by the interpreter and by compiled code.

mod common;

use common::{at, bind, check, load, read, write};
use optc_abi::{DType, Tensor};
use optc_ir::kernel::{Expr, Extent, Kernel, LoopKind, Stmt};
use optc_ir::kernel_interp::run_kernel_on;

/// Counter, key, words: the lines `philox4x32 10` of `kat_vectors` of Random123 1.14 (Salmon, Moraes, Dror, Shaw 2011).
const VECTORS: [[[u32; 4]; 3]; 3] = [
    [[0; 4], [0; 4], [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]],
    [[0xFFFF_FFFF; 4], [0xFFFF_FFFF; 4], [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]],
    [
        [0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344],
        [0xA409_3822, 0x299F_31D0, 0, 0],
        [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1],
    ],
];

/// The four words of each counter and key: buffers 0 to 3 hold counters, 4 and 5 keys, 6 to 9 take the words.
fn kernel(n: i64, kind: LoopKind) -> Kernel {
    let here = || at(&[(0, 1)]);
    let mut body: Vec<Stmt> = (0..6).map(|k| bind(k, DType::U32, load(k, here()))).collect();
    for word in 0..4 {
        let expr = Expr::Philox { key: [4, 5], counter: [0, 1, 2, 3], word: word as u8 };
        body.push(bind(6 + word, DType::U32, expr));
        body.push(Stmt::Store { buffer: 6 + word, index: here(), value: 6 + word });
    }
    let mut buffers = vec![read(DType::U32); 6];
    buffers.extend(vec![write(DType::U32); 4]);
    Kernel { buffers, axes: 1, values: 10, body: vec![Stmt::For { axis: 0, extent: Extent::Const(n), kind, body }], ..Kernel::default() }
}

#[test]
fn known_answers_of_random123() {
    // Whole vectors of lanes and a rest.
    let n = 43;
    let column = |part: usize, word: usize| -> Tensor {
        Tensor::from_slice(&[n], &(0..n).map(|i| VECTORS[i % 3][part][word]).collect::<Vec<u32>>())
    };
    let mut tensors: Vec<Tensor> = (0..4).map(|w| column(0, w)).chain((0..2).map(|w| column(1, w))).collect();
    tensors.extend((0..4).map(|_| Tensor::zeros(DType::U32, &[n])));
    for kind in [LoopKind::Vector, LoopKind::Parallel, LoopKind::Serial] {
        let kernel = kernel(n as i64, kind);
        let mut found = tensors.clone();
        run_kernel_on(&kernel, &mut found, &[]).expect("the interpreter runs it");
        for word in 0..4 {
            assert!(found[6 + word].as_slice::<u32>() == column(2, word).as_slice::<u32>(), "word {word}");
        }
        // Compiled code, wide and not, on one thread and several, gives what the interpreter gives.
        check(&kernel, &tensors, &[]);
    }
}

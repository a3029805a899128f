//! Partitioned graphs, run for all devices in step, against the original.

use super::partition;
use crate::simplify::{Config, simplify};
use optc_abi::{DType, Tensor};
use optc_ir::graph::{Graph, Guard, LoopOp, NodeTy, Op, Ty};
use optc_ir::interp::{evaluate, interpret, library_call};
use optc_ir::text::read;
use optc_ir::verify::verify;

/// Numbers of a reproducible mess.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / (1u64 << 31) as f64
    }
    fn tensor(&mut self, ty: &Ty, limit: f64) -> Tensor {
        let values: Vec<f64> = (0..ty.len())
            .map(|_| match ty.dtype {
                DType::Bool => (self.next() * 2.0).floor(),
                d if d.is_float() => self.next() * 2.0 - 1.0,
                _ => (self.next() * limit).floor(),
            })
            .collect();
        Tensor::from_f64(ty.dtype, &ty.shape, &values)
    }
}

/// Part `k` of an array.
fn rows(t: &Tensor, axis: usize, parts: usize, k: usize) -> Tensor {
    let count = t.shape[axis] / parts;
    let (outer, inner): (usize, usize) = (t.shape[..axis].iter().product(), t.shape[axis + 1..].iter().product());
    let mut shape = t.shape.clone();
    shape[axis] = count;
    let mut out = Tensor::zeros(t.dtype, &shape);
    let (size, from) = (t.dtype.size() * inner * count, t.bytes());
    for o in 0..outer {
        let at = (o * parts + k) * size;
        out.bytes_mut()[o * size..(o + 1) * size].copy_from_slice(&from[at..at + size]);
    }
    out
}

/// Sums over devices, and how often these have met.
fn all_devices(g: &Graph, inputs: &[Vec<Tensor>], meetings: &mut usize) -> Vec<Vec<Tensor>> {
    let parts = inputs.len();
    let live = g.live();
    let mut values: Vec<Vec<Vec<Tensor>>> = vec![vec![Vec::new(); g.len()]; parts];
    for id in g.ids().filter(|id| live[id.index()] || matches!(g.node(*id).op, Op::Input { .. })) {
        let node = g.node(id);
        let of = |k: usize| -> Vec<Tensor> { node.operands.iter().map(|o| values[k][o.index()][0].clone()).collect() };
        let made: Vec<Vec<Tensor>> = match &node.op {
            Op::Input { index } => (0..parts).map(|k| vec![inputs[k][*index as usize].clone()]).collect(),
            Op::Result { index } => (0..parts).map(|k| vec![values[k][node.operands[0].index()][*index].clone()]).collect(),
            Op::AllReduce => {
                *meetings += 1;
                let all: Vec<Vec<Tensor>> = (0..parts).map(of).collect();
                let sum = |n: usize| {
                    let mut out = all[0][n].clone();
                    for other in &all[1..] {
                        let ty = Ty::new(out.dtype, out.shape.iter().copied());
                        out = evaluate(&Op::Map(optc_ir::ScalarOp::Add), &[&out, &other[n]], &ty).unwrap();
                    }
                    out
                };
                let sums: Vec<Tensor> = (0..node.operands.len()).map(sum).collect();
                vec![sums; parts]
            }
            Op::Loop(l) => all_passes(l, &(0..parts).map(of).collect::<Vec<_>>(), meetings),
            Op::Cond { then, otherwise } => {
                let args: Vec<Vec<Tensor>> = (0..parts).map(of).collect();
                let takes: Vec<bool> = args.iter().map(|a| a[0].get_f64(0) != 0.0).collect();
                assert!(takes.iter().all(|t| *t == takes[0]), "devices take different branches");
                let branch = if takes[0] { then } else { otherwise };
                all_devices(branch, &args.into_iter().map(|mut a| a.split_off(1)).collect::<Vec<_>>(), meetings)
            }
            Op::Lib(call) => (0..parts).map(|k| library_call(*call, &of(k).iter().collect::<Vec<_>>(), &node.ty)).collect(),
            op => {
                let NodeTy::Array(ty) = &node.ty else { panic!("{op:?}") };
                (0..parts).map(|k| vec![evaluate(op, &of(k).iter().collect::<Vec<_>>(), ty).unwrap()]).collect()
            }
        };
        for (k, made) in made.into_iter().enumerate() {
            values[k][id.index()] = made;
        }
    }
    (0..parts).map(|k| g.outputs.iter().map(|o| values[k][o.index()][0].clone()).collect()).collect()
}

fn all_passes(l: &LoopOp, args: &[Vec<Tensor>], meetings: &mut usize) -> Vec<Vec<Tensor>> {
    let skip = usize::from(l.trip.is_none());
    let trip = l.trip.unwrap_or_else(|| args[0][0].get_f64(0) as usize);
    let mut carried: Vec<Vec<Tensor>> = args.iter().map(|a| a[skip..skip + l.carried].to_vec()).collect();
    let mut stacked: Vec<Vec<Vec<Tensor>>> = vec![vec![vec![]; trip]; args.len()];
    for pass in 0..trip {
        if matches!(l.guard, Some(Guard { .. })) && carried[0][0].get_f64(0) == 0.0 {
            break;
        }
        let at = if l.reverse { trip - 1 - pass } else { pass };
        let inputs: Vec<Vec<Tensor>> = args
            .iter()
            .zip(&carried)
            .map(|(a, carried)| {
                let scanned = a[skip + l.carried..][..l.scanned].iter().map(|t| {
                    let row = rows(t, 0, trip, at);
                    Tensor::from_f64(row.dtype, &row.shape[1..], &row.to_f64())
                });
                let rest = a[skip + l.carried + l.scanned..].iter().cloned();
                std::iter::once(Tensor::scalar(at as i32)).chain(carried.iter().cloned()).chain(scanned).chain(rest).collect()
            })
            .collect();
        for (k, mut out) in all_devices(&l.body, &inputs, meetings).into_iter().enumerate() {
            stacked[k][at] = out.split_off(l.carried);
            carried[k] = out;
        }
    }
    carried
        .into_iter()
        .zip(stacked)
        .map(|(mut results, rows)| {
            for n in 0..l.body.outputs.len() - l.carried {
                let first = &rows[0][n];
                let shape: Vec<usize> = std::iter::once(trip).chain(first.shape.iter().copied()).collect();
                let all: Vec<f64> = rows.iter().flat_map(|r| r[n].to_f64()).collect();
                results.push(Tensor::from_f64(first.dtype, &shape, &all));
            }
            results
        })
        .collect()
}

/// Partitions for 2 and 4 devices with these inputs split, and compares. Gives how often devices meet, and how many arrays they put together.
fn check(text: &str, split: &[(usize, usize)]) -> (usize, usize) {
    let graph = read(text).unwrap_or_else(|e| panic!("{e:?}"));
    verify(&graph).expect("a test graph");
    let graph = simplify(graph, &Config::default());
    let mut found = (0, 0);
    for parts in [2, 4] {
        let axes: Vec<Option<usize>> = (0..graph.inputs.len()).map(|k| split.iter().find(|s| s.0 == k).map(|s| s.1)).collect();
        let made = partition(&graph, &axes, parts);
        verify(&made.graph).unwrap_or_else(|e| panic!("{e:?} in\n{}", optc_ir::text::print(&made.graph)));
        let again = simplify(made.graph.clone(), &Config::default());
        verify(&again).expect("a simplified partition");
        let mut noise = Noise(parts as u64 * 77 + 5);
        let args: Vec<Tensor> = graph.input_types().iter().map(|ty| noise.tensor(ty, 4.0)).collect();
        let want = interpret(&graph, &args).expect("a run");
        let inputs: Vec<Vec<Tensor>> = (0..parts)
            .map(|k| {
                let own = args.iter().zip(&axes).map(|(t, axis)| axis.map_or_else(|| t.clone(), |a| rows(t, a, parts, k)));
                own.chain([Tensor::scalar(k as i32)]).collect()
            })
            .collect();
        for graph in [&made.graph, &again] {
            let mut meetings = 0;
            for got in all_devices(graph, &inputs, &mut meetings) {
                for (got, want) in got.iter().zip(&want) {
                    assert_eq!(got.shape, want.shape);
                    for (a, b) in got.to_f64().iter().zip(want.to_f64()) {
                        let same = a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-12 * (1.0 + b.abs());
                        assert!(same, "{a} is not {b} on {parts} devices:\n{}", optc_ir::text::print(graph));
                    }
                }
            }
            found = (meetings, made.gathered.len());
        }
    }
    found
}

#[test]
fn a_gradient_step_meets_once() {
    let text = r#"graph {
  %0 = input "w" : f64[3, 5]
  %1 = input "m" : f64[3, 5]
  %2 = input "x" : f64[8, 3]
  %3 = input "y" : f64[8, 5]
  %4 = dot lhs_batch=[] rhs_batch=[] lhs_contract=[1] rhs_contract=[0] %2, %0 : f64[8, 5]
  %5 = sub %4, %3 : f64[8, 5]
  %6 = mul %5, %5 : f64[8, 5]
  %7 = reduce kind=sum axes=[0, 1] %6 : f64
  %8 = const (0.125) : f64
  %9 = mul %7, %8 : f64
  %10 = const (0.25) : f64
  %11 = broadcast dims=[] %10 : f64[8, 5]
  %12 = mul %5, %11 : f64[8, 5]
  %13 = dot lhs_batch=[] rhs_batch=[] lhs_contract=[0] rhs_contract=[0] %2, %12 : f64[3, 5]
  %14 = mul %13, %13 : f64[3, 5]
  %15 = broadcast dims=[] %10 : f64[3, 5]
  %16 = mul %13, %15 : f64[3, 5]
  %17 = add %1, %16 : f64[3, 5]
  %18 = sub %0, %17 : f64[3, 5]
  return %18, %17, %14, %9
}"#;
    // Loss and gradient are one sum, though the gradient is used twice.
    assert_eq!(check(text, &[(2, 0), (3, 0)]), (1, 0));
}

#[test]
fn statistics_of_a_batch_are_those_of_the_whole() {
    // Normalized by mean and largest value of the batch; largest values meet as rows, bit by bit.
    let text = r#"graph {
  %0 = input "x" : f64[8, 3]
  %1 = reduce kind=sum axes=[0] %0 : f64[3]
  %2 = const (0.125) : f64
  %3 = broadcast dims=[] %2 : f64[3]
  %4 = mul %1, %3 : f64[3]
  %5 = broadcast dims=[1] %4 : f64[8, 3]
  %6 = sub %0, %5 : f64[8, 3]
  %7 = reduce kind=max axes=[0] %6 : f64[3]
  %8 = broadcast dims=[1] %7 : f64[8, 3]
  %9 = div %6, %8 : f64[8, 3]
  %10 = reduce kind=sum axes=[0, 1] %9 : f64
  %11 = reduce kind=sum axes=[1] %9 : f64[8]
  %12 = reduce kind=max axes=[0] %11 : f64
  %13 = arg_reduce max=true axis=1 %9 : i32[8]
  return %10, %12, %13, %9
}"#;
    // The mean; the largest; then all results together.
    assert_eq!(check(text, &[(0, 0)]).0, 3);
}

#[test]
fn rows_are_found_and_added_up() {
    let text = r#"graph {
  %0 = input "table" : f64[4, 3]
  %1 = input "ids" : i32[8, 2]
  %2 = gather axis=0 %0, %1 : f64[8, 2, 3]
  %3 = mul %2, %2 : f64[8, 2, 3]
  %4 = const (0.0) : f64
  %5 = broadcast dims=[] %4 : f64[4, 3]
  %6 = scatter axis=0 mode=add %5, %1, %3 : f64[4, 3]
  %7 = scatter axis=0 mode=add %0, %1, %3 : f64[4, 3]
  %8 = scatter axis=0 mode=set %0, %1, %3 : f64[4, 3]
  return %6, %7, %8
}"#;
    assert_eq!(check(text, &[(1, 0)]), (1, 2));
}

#[test]
fn axes_move() {
    // As in attention: heads are taken apart, turned, and joined again.
    let text = r#"graph {
  %0 = input "x" : f64[4, 3, 8]
  %1 = input "w" : f64[8, 8]
  %2 = reshape %0 : f64[12, 8]
  %3 = dot lhs_batch=[] rhs_batch=[] lhs_contract=[1] rhs_contract=[0] %2, %1 : f64[12, 8]
  %4 = reshape %3 : f64[4, 3, 2, 4]
  %5 = permute perm=[0, 2, 1, 3] %4 : f64[4, 2, 3, 4]
  %6 = dot lhs_batch=[0, 1] rhs_batch=[0, 1] lhs_contract=[3] rhs_contract=[3] %5, %5 : f64[4, 2, 3, 3]
  %7 = reshape %6 : f64[8, 3, 3]
  %8 = slice start=[0, 0, 0] stop=[8, 2, 3] step=[1, 1, 2] %7 : f64[8, 2, 2]
  %9 = flip axes=[1] %8 : f64[8, 2, 2]
  %10 = concat axis=2 %8, %9 : f64[8, 2, 4]
  %11 = const (1.5) : f64
  %12 = pad lo=[0, 1, 0] hi=[0, 0, 2] interior=[0, 0, 1] %10, %11 : f64[8, 3, 9]
  %13 = scan kind=sum axis=2 reverse=true %12 : f64[8, 3, 9]
  %14 = window axis=2 size=3 stride=2 dilation=1 %13 : f64[8, 3, 4, 3]
  %15 = exp %14 : f64[8, 3, 4, 3]
  %16 = reduce kind=sum axes=[0, 2] %15 : f64[3, 3]
  return %16
}"#;
    assert_eq!(check(text, &[(0, 0)]), (1, 0));
}

#[test]
fn what_has_no_rule_is_done_on_whole_arrays() {
    let text = r#"graph {
  %0 = input "x" : f64[8, 2]
  %1 = input "flags" : bool[8]
  %2 = arg_sort axis=0 descending=true %0 : i32[8, 2]
  %3 = scan kind=prod axis=0 reverse=false %0 : f64[8, 2]
  %4 = flip axes=[0] %0 : f64[8, 2]
  %5 = concat axis=0 %0, %4 : f64[16, 2]
  %6 = slice start=[1, 0] stop=[7, 2] step=[2, 1] %0 : f64[3, 2]
  %7 = dot lhs_batch=[] rhs_batch=[] lhs_contract=[1] rhs_contract=[1] %0, %0 : f64[8, 8]
  %8 = reduce kind=or axes=[0] %1 : bool
  %9 = iota axis=0 : i32[8]
  %10 = cast %1 : i32[8]
  %11 = mul %9, %10 : i32[8]
  %12 = reduce kind=sum axes=[0] %11 : i32
  return %2, %3, %5, %6, %7, %8, %1, %12
}"#;
    // x, the flags, the one flag of all; the product is put together for the output.
    let (_, gathered) = check(text, &[(0, 0), (1, 0)]);
    assert!(gathered >= 4, "{gathered}");
}

#[test]
fn accumulated_sums_meet_after_the_loop() {
    let text = r#"graph {
  %0 = input "w" : f64[3]
  %1 = input "x" : f64[2, 8, 3]
  %2 = const (0.0) : f64
  %3 = broadcast dims=[] %2 : f64[3]
  %4 = loop trip=2 reverse=false carried=2 scanned=1 %2, %3, %1, %0 : (f64, f64[3]) body {
      %0 = input "i" : i32
      %1 = input "loss" : f64
      %2 = input "g" : f64[3]
      %3 = input "x" : f64[8, 3]
      %4 = input "w" : f64[3]
      %5 = dot lhs_batch=[] rhs_batch=[] lhs_contract=[1] rhs_contract=[0] %3, %4 : f64[8]
      %6 = reduce kind=sum axes=[0] %5 : f64
      %7 = add %1, %6 : f64
      %8 = exp %5 : f64[8]
      %9 = dot lhs_batch=[] rhs_batch=[] lhs_contract=[0] rhs_contract=[0] %3, %8 : f64[3]
      %10 = add %2, %9 : f64[3]
      return %7, %10
    }
  %5 = result index=0 %4 : f64
  %6 = result index=1 %4 : f64[3]
  %7 = mul %6, %6 : f64[3]
  return %5, %7
}"#;
    assert_eq!(check(text, &[(1, 1)]), (1, 0));
}

#[test]
fn loops_hand_on_rows_and_go_through_them() {
    // A recurrent state of the batch; and a loop over the batch whose passes have nothing to do with each other.
    let text = r#"graph {
  %0 = input "x" : f64[3, 8, 2]
  %1 = input "w" : f64[2, 2]
  %2 = input "y" : f64[8, 2]
  %3 = const (0.0) : f64
  %4 = broadcast dims=[] %3 : f64[8, 2]
  %5 = loop trip=3 reverse=true carried=1 scanned=1 %4, %0, %1 : (f64[8, 2], f64[3, 8]) body {
      %0 = input "i" : i32
      %1 = input "h" : f64[8, 2]
      %2 = input "x" : f64[8, 2]
      %3 = input "w" : f64[2, 2]
      %4 = dot lhs_batch=[] rhs_batch=[] lhs_contract=[1] rhs_contract=[0] %1, %3 : f64[8, 2]
      %5 = add %4, %2 : f64[8, 2]
      %6 = tanh %5 : f64[8, 2]
      %7 = reduce kind=sum axes=[1] %6 : f64[8]
      return %6, %7
    }
  %6 = result index=0 %5 : f64[8, 2]
  %7 = result index=1 %5 : f64[3, 8]
  %8 = loop trip=8 reverse=false carried=0 scanned=1 %2, %1 : (f64[8, 2]) body {
      %0 = input "i" : i32
      %1 = input "y" : f64[2]
      %2 = input "w" : f64[2, 2]
      %3 = dot lhs_batch=[] rhs_batch=[] lhs_contract=[0] rhs_contract=[0] %1, %2 : f64[2]
      %4 = cast %0 : f64
      %5 = broadcast dims=[] %4 : f64[2]
      %6 = mul %3, %5 : f64[2]
      return %6
    }
  %9 = result index=0 %8 : f64[8, 2]
  %10 = add %6, %9 : f64[8, 2]
  %11 = mul %10, %10 : f64[8, 2]
  %12 = reduce kind=sum axes=[0, 1] %11 : f64
  %13 = reduce kind=sum axes=[0, 1] %7 : f64
  return %12, %13
}"#;
    assert_eq!(check(text, &[(0, 1), (2, 0)]), (1, 0));
}

#[test]
fn branches_agree_on_how_results_lie() {
    let text = r#"graph {
  %0 = input "x" : f64[8, 2]
  %1 = input "w" : f64[2]
  %2 = reduce kind=sum axes=[0, 1] %0 : f64
  %3 = const (0.0) : f64
  %4 = lt %2, %3 : bool
  %5 = cond %4, %0, %1 : (f64[8, 2], f64[2], f64) then {
      %0 = input "x" : f64[8, 2]
      %1 = input "w" : f64[2]
      %2 = exp %0 : f64[8, 2]
      %3 = reduce kind=sum axes=[0] %0 : f64[2]
      %4 = reduce kind=max axes=[0, 1] %0 : f64
      return %2, %3, %4
    } else {
      %0 = input "x" : f64[8, 2]
      %1 = input "w" : f64[2]
      %2 = broadcast dims=[1] %1 : f64[8, 2]
      %3 = const (1.0) : f64
      return %2, %1, %3
    }
  %6 = result index=0 %5 : f64[8, 2]
  %7 = result index=1 %5 : f64[2]
  %8 = result index=2 %5 : f64
  %9 = reduce kind=prod axes=[0] %6 : f64[2]
  return %9, %7, %8
}"#;
    check(text, &[(0, 0)]);
}

#[test]
fn images_are_shared_out() {
    let text = r#"graph {
  %0 = input "x" : f64[4, 5, 5, 2]
  %1 = input "w" : f64[3, 3, 2, 3]
  %2 = conv kind=forward batch=4 in_channels=2 out_channels=3 groups=1 input=[5, 5] filter=[3, 3] output=[3, 3] stride=[1, 1] dilation=[1, 1] pad_lo=[0, 0] pad_hi=[0, 0] %0, %1 : f64[4, 3, 3, 3]
  %3 = mul %2, %2 : f64[4, 3, 3, 3]
  %4 = conv kind=filter_grad batch=4 in_channels=2 out_channels=3 groups=1 input=[5, 5] filter=[3, 3] output=[3, 3] stride=[1, 1] dilation=[1, 1] pad_lo=[0, 0] pad_hi=[0, 0] %0, %3 : f64[3, 3, 2, 3]
  %5 = conv kind=input_grad batch=4 in_channels=2 out_channels=3 groups=1 input=[5, 5] filter=[3, 3] output=[3, 3] stride=[1, 1] dilation=[1, 1] pad_lo=[0, 0] pad_hi=[0, 0] %3, %1 : f64[4, 5, 5, 2]
  %6 = reduce kind=sum axes=[0, 1, 2, 3] %5 : f64
  return %4, %6
}"#;
    assert_eq!(check(text, &[(0, 0)]), (1, 0));
}

#[test]
fn draws_are_those_of_the_whole_batch() {
    let text = r#"graph {
  %0 = input "x" : f64[8, 2]
  %1 = input "key" : u32[2]
  %2 = random_bits start=4 %1 : u32[8, 2]
  %3 = cast %2 : f64[8, 2]
  %4 = const (0.0000000002) : f64
  %5 = broadcast dims=[] %4 : f64[8, 2]
  %6 = mul %3, %5 : f64[8, 2]
  %7 = mul %0, %6 : f64[8, 2]
  %8 = reduce kind=sum axes=[0] %7 : f64[2]
  return %8
}"#;
    assert_eq!(check(text, &[(0, 0)]), (1, 0));
    // Each device makes the words of its rows.
    let each = simplify(partition(&read(text).unwrap(), &[Some(0), None], 2).graph, &Config::default());
    let draws = each.ids().filter(|id| matches!(each.node(*id).op, Op::RandomBits { .. })).map(|id| each.ty(id).len());
    assert_eq!(draws.collect::<Vec<_>>(), [8]);
    // Along another axis rows are no run of words.
    let turned = text
        .replace("u32[8, 2]", "u32[2, 8]")
        .replace("  %3 = cast %2 : f64[8, 2]", "  %9 = permute perm=[1, 0] %2 : u32[8, 2]\n  %3 = cast %9 : f64[8, 2]");
    assert_eq!(check(&turned, &[(0, 0)]), (1, 0));
}

#[test]
fn matrices_of_a_batch_are_shared_out() {
    let text = r#"graph {
  %0 = input "a" : f64[8, 3, 3]
  %1 = permute perm=[0, 2, 1] %0 : f64[8, 3, 3]
  %2 = dot lhs_batch=[0] rhs_batch=[0] lhs_contract=[2] rhs_contract=[1] %0, %1 : f64[8, 3, 3]
  %3 = qr %2 : (f64[8, 3, 3], f64[8, 3, 3])
  %4 = result index=1 %3 : f64[8, 3, 3]
  %5 = reduce kind=sum axes=[0] %4 : f64[3, 3]
  return %5
}"#;
    assert_eq!(check(text, &[(0, 0)]), (1, 0));
}

//! Index notation: values, the operations it becomes, and mistakes.

use super::*;
use optc_ir::Op;
use optc_ops::{IxExpr, IxId, IxKind, IxLeft, IxVar, indexed, reduce_indexed};

fn ex(kind: IxKind) -> IxExpr {
    IxExpr { kind, span: Span::default() }
}
fn ix(name: &str) -> IxExpr {
    ex(IxKind::Index(id(name)))
}
fn id(name: &str) -> IxId {
    IxId(name.bytes().fold(0, |h, b| h * 256 + u32::from(b)))
}
fn val(v: Val) -> IxExpr {
    ex(IxKind::Value(v))
}
fn var(name: &str) -> IxVar {
    IxVar { id: id(name), name: Arc::from(name), extent: None, span: Span::default() }
}
fn below(name: &str, n: Dim) -> IxVar {
    IxVar { extent: Some(n), ..var(name) }
}
fn ap(op: &'static str, args: &[IxExpr]) -> IxExpr {
    ex(IxKind::Apply { op, args: args.to_vec() })
}
fn mul(a: IxExpr, b: IxExpr) -> IxExpr {
    ap("mul", &[a, b])
}
fn plus(a: IxExpr, b: IxExpr) -> IxExpr {
    ap("add", &[a, b])
}
fn of(base: &Val, subscripts: &[IxExpr]) -> IxExpr {
    ex(IxKind::Access { base: base.clone(), subscripts: subscripts.iter().cloned().map(Some).collect() })
}
fn reduce(op: &str, indices: &[IxVar], body: IxExpr) -> IxExpr {
    ex(IxKind::Reduce { op: Arc::from(op), indices: indices.to_vec(), body: Box::new(body) })
}
fn vars(names: &[&str]) -> Vec<IxVar> {
    names.iter().map(|n| var(n)).collect()
}
fn left(names: &[&str]) -> Vec<IxLeft> {
    names.iter().map(|n| IxLeft::Var(var(n))).collect()
}

/// Names of the operations of a graph, constants and their like left out.
fn ops(cx: &mut Cx) -> Vec<String> {
    let g = cx.graph();
    g.ids()
        .map(|n| &g.node(n).op)
        .filter(|op| !matches!(op, Op::Const(_) | Op::Iota { .. }))
        .map(|op| format!("{op:?}").split([' ', '(']).next().unwrap_or_default().to_string())
        .collect()
}

/// Values of a notation, and the operations it took.
fn go(f: impl FnOnce(&mut Cx) -> Result<Val, OpError>) -> (Vec<usize>, Vec<f64>, Vec<String>) {
    let mut names = Vec::new();
    let (shape, values) = run(|cx| {
        let v = f(cx);
        names = ops(cx);
        v
    });
    (shape, values, names)
}

#[test]
fn product_sums_are_matrix_products() {
    let (shape, values, ops) = go(|cx| {
        let (a, b) = (ramp(cx, &[2, 3]), ramp(cx, &[3, 2]));
        indexed(cx, &left(&["i", "j"]), &reduce("sum", &vars(&["k"]), mul(of(&a, &[ix("i"), ix("k")]), of(&b, &[ix("k"), ix("j")]))))
    });
    assert_eq!((shape, values), (vec![2, 2], vec![10.0, 13.0, 28.0, 40.0]));
    assert_eq!(ops, ["Dot"]);
    // The transposed result swaps the operands instead of the result.
    let (_, values, ops) = go(|cx| {
        let (a, b) = (ramp(cx, &[2, 3]), ramp(cx, &[3, 2]));
        indexed(cx, &left(&["j", "i"]), &reduce("sum", &vars(&["k"]), mul(of(&a, &[ix("i"), ix("k")]), of(&b, &[ix("k"), ix("j")]))))
    });
    assert_eq!(values, [10.0, 28.0, 13.0, 40.0]);
    assert_eq!(ops, ["Dot"]);
}

#[test]
fn attention_is_two_batched_products() {
    let (shape, values, ops) = go(|cx| {
        let (q, k) = (ramp(cx, &[1, 2, 2, 2]), ramp(cx, &[1, 3, 2, 2]));
        let body = mul(of(&q, &[ix("b"), ix("i"), ix("h"), ix("e")]), of(&k, &[ix("b"), ix("j"), ix("h"), ix("e")]));
        indexed(cx, &left(&["b", "h", "i", "j"]), &reduce("sum", &vars(&["e"]), body))
    });
    assert_eq!(shape, [1, 2, 2, 3]);
    // q[0, i, h, :] . k[0, j, h, :]
    let (q, k) = (|i: usize, h: usize, e: usize| (i * 4 + h * 2 + e) as f64, |j: usize, h: usize, e: usize| (j * 4 + h * 2 + e) as f64);
    let want: Vec<f64> =
        (0..12).map(|n| (n / 6, n / 3 % 2, n % 3)).map(|(h, i, j)| (0..2).map(|e| q(i, h, e) * k(j, h, e)).sum()).collect();
    assert_eq!(values, want);
    assert_eq!(ops, ["Dot"]);
}

#[test]
fn factors_that_do_not_depend_are_taken_out() {
    let (_, values, ops) = go(|cx| {
        let (a, b, s) = (ramp(cx, &[2, 3]), ramp(cx, &[3, 2]), f32s(cx, &[2], &[2.0, 3.0]));
        let body = mul(mul(of(&a, &[ix("i"), ix("k")]), of(&s, &[ix("i")])), of(&b, &[ix("k"), ix("j")]));
        let body = ap("div", &[body, val(float(2.0))]);
        indexed(cx, &left(&["i", "j"]), &reduce("sum", &vars(&["k"]), body))
    });
    assert_eq!(values, [10.0, 13.0, 42.0, 60.0]);
    assert_eq!(ops.iter().filter(|o| *o == "Dot").count(), 1);
    assert!(!ops.contains(&"Reduce".to_string()), "{ops:?}");
}

#[test]
fn chains_are_contracted_two_at_a_time() {
    let (shape, values, ops) = go(|cx| {
        let (a, b, c) = (ramp(cx, &[2, 3]), ramp(cx, &[3, 4]), ramp(cx, &[4, 2]));
        let body = mul(mul(of(&a, &[ix("i"), ix("k")]), of(&b, &[ix("k"), ix("l")])), of(&c, &[ix("l"), ix("j")]));
        indexed(cx, &left(&["i", "j"]), &reduce("sum", &vars(&["k", "l"]), body))
    });
    assert_eq!(shape, [2, 2]);
    assert_eq!(values, [324.0, 422.0, 1008.0, 1304.0]);
    assert_eq!(ops.iter().filter(|o| *o == "Dot").count(), 2);
}

#[test]
fn sums_over_what_no_factor_mentions_repeat() {
    let (_, values, _) = go(|cx| {
        let a = ramp(cx, &[3]);
        let body = mul(of(&a, &[ix("i")]), of(&a, &[ix("i")]));
        reduce_indexed(cx, &reduce("sum", &[var("i"), below("k", 4i64.into())], body))
    });
    assert_eq!(values, [20.0]);
    let (_, values, _) = go(|cx| reduce_indexed(cx, &reduce("sum", &[below("k", 4i64.into())], ix("k"))));
    assert_eq!(values, [6.0]);
}

fn convolution(cx: &mut Cx, stride: i64, dilation: i64, rows: Option<i64>) -> Result<Val, OpError> {
    let (x, w) = (ramp(cx, &[1, 5, 5, 2]), ramp(cx, &[2, 2, 2, 3]));
    let at = |i: &str, u: &str| plus(mul(val(int(stride)), ix(i)), mul(val(int(dilation)), ix(u)));
    let body = mul(of(&x, &[ix("n"), at("i", "u"), at("j", "v"), ix("c")]), of(&w, &[ix("u"), ix("v"), ix("c"), ix("o")]));
    let mut names = left(&["n", "i", "j", "o"]);
    if let Some(r) = rows {
        names[1] = IxLeft::Var(below("i", r.into()));
    }
    indexed(cx, &names, &reduce("sum", &vars(&["u", "v", "c"]), body))
}

#[test]
fn windows_times_weights_are_convolutions() {
    let want = |stride: usize, dilation: usize, rows: usize, cols: usize| -> Vec<f64> {
        let mut out = Vec::new();
        for (i, j, o) in (0..rows).flat_map(|i| (0..cols).flat_map(move |j| (0..3).map(move |o| (i, j, o)))) {
            let mut sum = 0.0;
            for (u, v, c) in (0..8).map(|k| (k / 4, k / 2 % 2, k % 2)) {
                let x = ((stride * i + dilation * u) * 10 + (stride * j + dilation * v) * 2 + c) as f64;
                sum += x * (u * 12 + v * 6 + c * 3 + o) as f64;
            }
            out.push(sum);
        }
        out
    };
    for (stride, dilation, rows, size) in [(1, 1, None, 4), (2, 1, None, 2), (1, 2, None, 3), (1, 1, Some(2), 4)] {
        let (shape, values, ops) = go(|cx| convolution(cx, stride, dilation, rows));
        let r = rows.map_or(size, |r| r as usize);
        assert_eq!(shape, [1, r, size, 3]);
        assert_eq!(values, want(stride as usize, dilation as usize, r, size), "stride {stride}, dilation {dilation}");
        assert!(ops.contains(&"Conv".to_string()) && !ops.contains(&"Window".to_string()), "{ops:?}");
    }
}

#[test]
fn convolutions_of_any_order_and_rank() {
    // Channels first, as in the reference.
    let (shape, values, ops) = go(|cx| {
        let (x, w) = (ramp(cx, &[1, 2, 3, 3]), f32s(cx, &[1, 2, 2, 2], &[1.0; 8]));
        let body =
            mul(of(&x, &[ix("b"), ix("c"), plus(ix("i"), ix("u")), plus(ix("j"), ix("v"))]), of(&w, &[ix("o"), ix("c"), ix("u"), ix("v")]));
        indexed(cx, &left(&["b", "o", "i", "j"]), &reduce("sum", &vars(&["c", "u", "v"]), body))
    });
    assert_eq!((shape, values), (vec![1, 1, 2, 2], vec![52.0, 60.0, 76.0, 84.0]));
    assert!(ops.contains(&"Conv".to_string()));
    // One axis, no batch, no channels; the weights come first.
    let (shape, values, ops) = go(|cx| {
        let (x, w) = (ramp(cx, &[5]), f32s(cx, &[2], &[1.0, 10.0]));
        indexed(cx, &left(&["i"]), &reduce("sum", &vars(&["u"]), mul(of(&w, &[ix("u")]), of(&x, &[plus(ix("u"), ix("i"))]))))
    });
    assert_eq!((shape, values), (vec![4], vec![10.0, 21.0, 32.0, 43.0]));
    assert!(ops.contains(&"Conv".to_string()));
    // Depthwise: a shared index that is not summed.
    let (shape, values, _) = go(|cx| {
        let (x, w) = (ramp(cx, &[1, 3, 2]), f32s(cx, &[2, 2], &[1.0, 10.0, 1.0, 10.0]));
        let body = mul(of(&x, &[ix("n"), plus(ix("i"), ix("u")), ix("g")]), of(&w, &[ix("u"), ix("g")]));
        indexed(cx, &left(&["n", "i", "g"]), &reduce("sum", &vars(&["u"]), body))
    });
    assert_eq!((shape, values), (vec![1, 2, 2], vec![2.0, 40.0, 6.0, 80.0]));
}

#[test]
fn pools_are_windows() {
    let pool = |op: &str| {
        go(|cx| {
            let x = ramp(cx, &[1, 4, 4, 1]);
            let at = |i: &str, u: &str| plus(mul(val(int(2)), ix(i)), ix(u));
            let body = of(&x, &[ix("b"), at("i", "u"), at("j", "v"), ix("c")]);
            let names = [var("b"), below("i", 2i64.into()), below("j", 2i64.into()), var("c")].map(IxLeft::Var);
            indexed(cx, &names, &reduce(op, &[below("u", 2i64.into()), below("v", 2i64.into())], body))
        })
    };
    let (_, values, ops) = pool("max");
    assert_eq!(values, [5.0, 7.0, 13.0, 15.0]);
    assert_eq!(ops.iter().filter(|o| *o == "Reduce").count(), 1, "{ops:?}");
    assert_eq!(pool("mean").1, [2.5, 4.5, 10.5, 12.5]);
}

#[test]
fn distances_are_elementwise() {
    let (shape, values, _) = go(|cx| {
        let (x, c) = (ramp(cx, &[2, 2]), f32s(cx, &[1, 2], &[1.0, 1.0]));
        let d = ap("sub", &[of(&x, &[ix("i"), ix("k")]), of(&c, &[ix("j"), ix("k")])]);
        indexed(cx, &left(&["i", "j"]), &reduce("sum", &vars(&["k"]), ap("pow", &[d, val(int(2))])))
    });
    assert_eq!((shape, values), (vec![2, 1], vec![1.0, 5.0]));
}

#[test]
fn indices_are_numbers() {
    let n = 2i64;
    let square = [below("i", n.into()), below("j", n.into())].map(IxLeft::Var);
    let (shape, values, _) = go(|cx| indexed(cx, &square, &ap("where", &[ap("ge", &[ix("i"), ix("j")]), val(int(1)), val(int(0))])));
    assert_eq!((shape, values), (vec![2, 2], vec![1.0, 0.0, 1.0, 1.0]));
    let (_, values, _) = go(|cx| {
        let x = ramp(cx, &[3]);
        indexed(cx, &left(&["i"]), &mul(of(&x, &[ix("i")]), plus(ix("i"), val(int(1)))))
    });
    assert_eq!(values, [0.0, 2.0, 6.0]);
    let (_, values, _) = go(|cx| indexed(cx, &[IxLeft::Var(below("i", 3i64.into()))], &ap("div", &[ix("i"), val(int(2))])));
    assert_eq!(values, [0.0, 0.5, 1.0]);
    let seen = checked(|cx| {
        let (t, s) = (sym("T"), sym("S"));
        let names = [below("i", t.clone()), below("j", s.clone())].map(IxLeft::Var);
        indexed(cx, &names, &ap("le", &[ix("j"), plus(ix("i"), val(Val::Int(s.sub(&t))))]))
    });
    assert_eq!(seen, "bool[T, S]");
}

#[test]
fn subscripts_shift_reverse_and_look_up() {
    let on = |n: usize, sub: IxExpr, extent: Option<i64>| {
        go(|cx| {
            let x = ramp(cx, &[n]);
            let v = extent.map_or(var("i"), |e| below("i", e.into()));
            indexed(cx, &[IxLeft::Var(v)], &of(&x, &[sub]))
        })
    };
    assert_eq!(on(4, plus(ix("i"), val(int(1))), None).1, [1.0, 2.0, 3.0]);
    assert_eq!(on(4, ap("sub", &[val(int(3)), ix("i")]), None).1, [3.0, 2.0, 1.0, 0.0]);
    assert_eq!(on(5, mul(val(int(2)), ix("i")), None).1, [0.0, 2.0, 4.0]);
    assert_eq!(on(5, ix("i"), Some(2)).1, [0.0, 1.0]);
    let (shape, values, _) = go(|cx| {
        let (x, ids) = (ramp(cx, &[3, 2]), i32s(cx, &[2], &[2.0, 0.0]));
        indexed(cx, &left(&["i", "j"]), &of(&x, &[of(&ids, &[ix("i")]), ix("j")]))
    });
    assert_eq!((shape, values), (vec![2, 2], vec![4.0, 5.0, 0.0, 1.0]));
    // One lookup per row: the index is used twice.
    let (_, values, _) = go(|cx| {
        let (x, ids) = (ramp(cx, &[3, 2]), i32s(cx, &[3], &[1.0, 0.0, 1.0]));
        indexed(cx, &left(&["i"]), &of(&x, &[ix("i"), of(&ids, &[ix("i")])]))
    });
    assert_eq!(values, [1.0, 2.0, 5.0]);
    let (_, values, _) = go(|cx| {
        let x = ramp(cx, &[3, 3]);
        reduce_indexed(cx, &reduce("sum", &vars(&["i"]), of(&x, &[ix("i"), ix("i")])))
    });
    assert_eq!(values, [12.0]);
    // Three indices in one subscript: windows of windows, one of them reversed.
    let (shape, values, _) = go(|cx| {
        let x = ramp(cx, &[9]);
        let sub = plus(plus(mul(val(int(4)), ix("i")), mul(val(int(2)), ix("j"))), ap("sub", &[val(int(1)), ix("k")]));
        let names = ["i", "j", "k"].map(|n| IxLeft::Var(below(n, 2i64.into())));
        indexed(cx, &names, &of(&x, &[sub]))
    });
    assert_eq!((shape, values), (vec![2, 2, 2], vec![1.0, 0.0, 3.0, 2.0, 5.0, 4.0, 7.0, 6.0]));
}

#[test]
fn other_reductions_and_leading_axes() {
    let over = |op: &str| {
        go(|cx| {
            let x = f32s(cx, &[2, 2], &[3.0, 4.0, 8.0, 6.0]);
            indexed(cx, &left(&["i"]), &reduce(op, &vars(&["k"]), of(&x, &[ix("i"), ix("k")])))
        })
        .1
    };
    assert_eq!(over("max"), [4.0, 8.0]);
    assert_eq!(over("argmax"), [1.0, 0.0]);
    assert_eq!(over("norm"), [5.0, 10.0]);
    assert_eq!(over("prod"), [12.0, 48.0]);
    let (shape, values, ops) = go(|cx| {
        let (x, w) = (ramp(cx, &[2, 1, 2]), f32s(cx, &[2, 1], &[1.0, 10.0]));
        let lead = ex(IxKind::Access { base: x, subscripts: vec![None, Some(ix("k"))] });
        let names = [IxLeft::Ellipsis(Span::default()), IxLeft::Var(var("o"))];
        indexed(cx, &names, &reduce("sum", &vars(&["k"]), mul(lead, of(&w, &[ix("k"), ix("o")]))))
    });
    assert_eq!((shape, values), (vec![2, 1, 1], vec![10.0, 32.0]));
    assert_eq!(ops, ["Dot"]);
}

#[test]
fn mistakes() {
    let (a, b) = (typed(DType::F32, &[2i64.into(), 3i64.into()]), typed(DType::F32, &[4i64.into(), 5i64.into()]));
    let body = reduce("sum", &vars(&["k"]), mul(of(&a, &[ix("i"), ix("k")]), of(&b, &[ix("k"), ix("j")])));
    let e = check_error(|cx| indexed(cx, &left(&["i", "j"]), &body));
    assert_eq!(e.code.0, "E0407");
    assert!(e.message.contains("extent 3 in one place and 4"), "{e:?}");
    assert_eq!(check_error(|cx| indexed(cx, &left(&["i"]), &val(int(1)))).code.0, "E0407");
    let past = of(&typed(DType::F32, &[4i64.into()]), &[plus(ix("i"), val(int(1)))]);
    let e = check_error(|cx| indexed(cx, &[IxLeft::Var(below("i", 4i64.into()))], &past));
    assert_eq!(e.code.0, "E0403");
    assert_eq!(check_error(|cx| indexed(cx, &left(&["i"]), &of(&a, &[ix("i")]))).code.0, "E0404");
    let x = typed(DType::F32, &[sym("N")]);
    assert_eq!(check_error(|cx| indexed(cx, &left(&["i"]), &ap("softmax", &[of(&x, &[ix("i")])]))).code.0, "E0407");
    assert_eq!(check_error(|cx| indexed(cx, &left(&["i"]), &of(&x, &[of(&x, &[ix("i")])]))).code.0, "E0304");
    assert_eq!(checked(|cx| indexed(cx, &left(&["i"]), &of(&Val::Unknown, &[ix("i")]))), "Unknown");
}

#[test]
fn symbols() {
    let d = |s: &str| sym(s);
    let conv = checked(|cx| {
        let x = typed(DType::F32, &[d("B"), d("H"), d("W"), d("C")]);
        let w = typed(DType::F32, &[d("K"), d("K"), d("C"), d("O")]);
        let at = |i: &str, u: &str| plus(mul(val(Val::Int(sym("s"))), ix(i)), ix(u));
        let body = mul(of(&x, &[ix("n"), at("i", "u"), at("j", "v"), ix("c")]), of(&w, &[ix("u"), ix("v"), ix("c"), ix("o")]));
        let rows = d("H").sub(&d("K")).floor_div(&d("s")).unwrap().add(&1i64.into());
        let names = [var("n"), below("i", rows.clone()), below("j", rows), var("o")].map(IxLeft::Var);
        indexed(cx, &names, &reduce("sum", &vars(&["u", "v", "c"]), body))
    });
    assert!(conv.starts_with("f32[B, 1 + (") && conv.ends_with("O]"), "{conv}");
}

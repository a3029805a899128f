//! Built-in operations against NumPy's values.

use super::*;

fn on_ramp(name: &str, shape: &[usize], args: &[Val], named: &[(&str, Val)]) -> (Vec<usize>, Vec<f64>) {
    run(|cx| {
        let mut all = vec![ramp(cx, shape)];
        all.extend(args.iter().cloned());
        op(cx, name, &all, named)
    })
}

#[test]
fn every_operation_of_the_table_has_a_meaning() {
    for name in optc_ops::builtin_names() {
        assert!(optc_ops::is_builtin(name));
        // No arguments: a message about what is missing, not a panic.
        if let Err(e) = call(&mut Cx::check(), name, &[], None) {
            assert!(["E0303", "E0404"].contains(&e.code.0), "{name}: {e:?}");
        }
    }
}

#[test]
fn elementwise_values() {
    let on = |name: &str, x: &[f64]| {
        run(|cx| {
            let x = f32s(cx, &[x.len()], x);
            op(cx, name, &[x], &[])
        })
        .1
    };
    assert_eq!(on("relu", &[-1.0, 0.0, 2.0]), [0.0, 0.0, 2.0]);
    assert!(on("relu", &[f64::NAN])[0].is_nan());
    close(&on("softplus", &[-100.0, 0.0, 100.0]), &[3.7835e-44, 2f64.ln(), 100.0], 1e-6);
    close(&on("silu", &[1.0]), &[0.731_058_6], 1e-6);
    close(&on("gelu", &[1.0, -1.0]), &[0.841_344_7, -0.158_655_3], 1e-6);
    close(&on("log10", &[1000.0]), &[3.0], 1e-6);
    close(&on("sigmoid", &[0.0]), &[0.5], 1e-7);
    assert_eq!(on("round", &[0.5, 1.5, -0.5]), [0.0, 2.0, 0.0]);
    assert_eq!(on("is_nan", &[f64::NAN, 1.0]), [1.0, 0.0]);
    assert_eq!(check_error(|cx| op(cx, "exp", &[typed(DType::I32, &[sym("N")])], &[])).code.0, "E0302");
}

#[test]
fn compile_time_functions() {
    let cx = &mut Cx::check();
    let mut go = |name: &str, args: &[Val]| op(cx, name, args, &[]).unwrap();
    assert_eq!(go("sqrt", &[float(4.0)]), float(2.0));
    assert_eq!(go("floor", &[float(2.7)]), int(2));
    assert_eq!(go("ceil", &[float(2.2)]), int(3));
    assert_eq!(go("maximum", &[int(-1), int(0)]), int(0));
    assert_eq!(go("maximum", &[int(1), float(1.5)]), float(1.5));
    assert_eq!(go("prod", &[ints(&[2, 3])]), int(6));
    assert_eq!(go("prod", &[ints(&[])]), int(1));
    assert_eq!(go("max", &[ints(&[2, 5, 3])]), int(5));
    assert_eq!(go("mean", &[ints(&[1, 2])]), float(1.5));
    assert_eq!(go("argmin", &[ints(&[4, 2, 3])]), int(1));
    assert_eq!(go("len", &[ints(&[4, 2, 3])]), int(3));
    assert_eq!(go("where", &[Val::Bool(Some(true)), int(1), int(2)]), int(1));
    assert_eq!(go("clip", &[float(3.0), int(0), int(1)]), float(1.0));
    assert_eq!(go("shape", &[typed(DType::F32, &[sym("N"), 3i64.into()])]), Val::List(vec![Val::Int(sym("N")), int(3)]));
    assert_eq!(go("size", &[typed(DType::F32, &[sym("N"), 3i64.into()])]), Val::Int(sym("N").mul(&3i64.into())));
    // A size that is not known gives a float that is not known.
    assert_eq!(go("sqrt", &[Val::Int(sym("In"))]), Val::Float(None));
}

#[test]
fn where_checks_its_mask_and_broadcasts() {
    let e = check_error(|cx| {
        let x = typed(DType::F32, &[sym("N")]);
        op(cx, "where", &[x.clone(), x, int(0)], &[])
    });
    assert_eq!(e.code.0, "E0302");
    let chosen = run(|cx| {
        let (m, x) = (arr(cx, DType::Bool, &[2, 1], &[1.0, 0.0]), ramp(cx, &[3]));
        op(cx, "where", &[m, x, float(-1.0)], &[])
    });
    assert_eq!(chosen, (vec![2, 3], vec![0.0, 1.0, 2.0, -1.0, -1.0, -1.0]));
    let scalar = checked(|cx| {
        let m = typed(DType::Bool, &[]);
        let v = op(cx, "where", &[m, float(0.1), int(1)], &[])?;
        optc_ops::binary(cx, optc_ops::BinOp::Mul, &v, &typed(DType::F64, &[sym("N")]))
    });
    assert_eq!(scalar, "f64[N]", "numbers chosen by a flag take the type they meet");
}

#[test]
fn reductions() {
    assert_eq!(on_ramp("sum", &[2, 3], &[], &[]), (vec![], vec![15.0]));
    assert_eq!(on_ramp("sum", &[2, 3], &[int(0)], &[]), (vec![3], vec![3.0, 5.0, 7.0]));
    assert_eq!(on_ramp("mean", &[2, 3], &[int(-1)], &[("keepdims", Val::Bool(Some(true)))]), (vec![2, 1], vec![1.0, 4.0]));
    assert_eq!(on_ramp("max", &[2, 2, 2], &[ints(&[0, -1])], &[]), (vec![2], vec![5.0, 7.0]));
    assert_eq!(on_ramp("argmax", &[2, 3], &[], &[]), (vec![], vec![5.0]));
    assert_eq!(on_ramp("argmin", &[2, 3], &[int(1)], &[]), (vec![2], vec![0.0, 0.0]));
    close(&on_ramp("var", &[4], &[], &[]).1, &[1.25], 1e-7);
    close(&on_ramp("std", &[4], &[], &[]).1, &[1.25f64.sqrt()], 1e-7);
    close(&on_ramp("norm", &[2, 2], &[int(1)], &[]).1, &[1.0, 13f64.sqrt()], 1e-7);
    close(&on_ramp("rms", &[3], &[], &[]).1, &[(5.0f64 / 3.0).sqrt()], 1e-7);
    close(&on_ramp("logsumexp", &[3], &[], &[]).1, &[2.407_605_964], 1e-6);
    assert_eq!(on_ramp("cumsum", &[2, 3], &[int(1)], &[]).1, [0.0, 1.0, 3.0, 3.0, 7.0, 12.0]);
    assert_eq!(on_ramp("cumsum", &[2, 2], &[], &[]), (vec![4], vec![0.0, 1.0, 3.0, 6.0]));
    let mask = run(|cx| {
        let m = arr(cx, DType::Bool, &[4], &[1.0, 0.0, 1.0, 1.0]);
        let (s, p) = (op(cx, "sum", std::slice::from_ref(&m), &[])?, op(cx, "mean", &[m], &[])?);
        assert!(matches!(&s, Val::Array(a) if a.dtype == DType::I32));
        let s = optc_ops::cast(cx, &s, DType::F32)?;
        op(cx, "stack", &[Val::List(vec![s, p])], &[])
    });
    assert_eq!(mask.1, [3.0, 0.75]);
    let e = check_error(|cx| op(cx, "sum", &[typed(DType::F32, &[2i64.into(), 3i64.into()])], &[("axis", int(2))]));
    assert_eq!(e.code.0, "E0404");
    assert_eq!(check_error(|cx| op(cx, "any", &[typed(DType::F32, &[sym("N")])], &[])).code.0, "E0302");
}

#[test]
fn logsumexp_and_softmax_are_stable() {
    let l = run(|cx| {
        let inf = f64::INFINITY;
        let x = f32s(cx, &[3, 2], &[1000.0, 1000.0, -inf, -inf, inf, 0.0]);
        op(cx, "logsumexp", &[x], &[("axis", int(1))])
    });
    close(&l.1, &[1000.0 + 2f64.ln(), f64::NEG_INFINITY, f64::INFINITY], 1e-6);
    let s = run(|cx| {
        let x = f32s(cx, &[2, 2], &[1000.0, 1000.0, -1000.0, 1000.0]);
        op(cx, "softmax", &[x], &[])
    });
    close(&s.1, &[0.5, 0.5, 0.0, 1.0], 1e-7);
    let l = run(|cx| {
        let x = f32s(cx, &[2, 2], &[0.0, 0.0, 0.0, 1000.0]);
        op(cx, "log_softmax", &[x], &[("axis", int(-1))])
    });
    close(&l.1, &[-std::f64::consts::LN_2, -std::f64::consts::LN_2, -1000.0, 0.0], 1e-6);
}

#[test]
fn reshapes() {
    assert_eq!(on_ramp("reshape", &[6], &[int(2), int(-1)], &[]).0, [2, 3]);
    assert_eq!(on_ramp("reshape", &[2, 3], &[ints(&[3, 2])], &[]).0, [3, 2]);
    assert_eq!(on_ramp("reshape", &[6, 5], &[int(2), int(3), Val::Str("...".into())], &[]).0, [2, 3, 5]);
    let e = check_error(|cx| op(cx, "reshape", &[typed(DType::F32, &[6i64.into()]), int(4), int(2)], &[]));
    assert_eq!(e.code.0, "E0406");
    let (b, t, d, h) = (sym("B"), sym("T"), sym("D"), sym("H"));
    let heads = checked(|cx| {
        let x = typed(DType::F32, &[b.clone(), t.clone(), d.clone()]);
        let e = d.floor_div(&h).unwrap();
        op(cx, "reshape", &[x, Val::Int(b.clone()), Val::Int(t.clone()), Val::Int(h.clone()), Val::Int(e)], &[])
    });
    assert_eq!(heads, "f32[B, T, H, (D) // (H)]");
    let flat =
        checked(|cx| op(cx, "reshape", &[typed(DType::F32, &[b.clone(), 8i64.into(), 8i64.into()]), Val::Int(b.clone()), int(-1)], &[]));
    assert_eq!(flat, "f32[B, 64]");
}

#[test]
fn movement() {
    assert_eq!(on_ramp("transpose", &[2, 3], &[], &[]), (vec![3, 2], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
    assert_eq!(on_ramp("transpose", &[1, 2, 3], &[ints(&[2, 0, 1])], &[]).0, [3, 1, 2]);
    assert_eq!(on_ramp("swap_axes", &[1, 2, 3], &[int(0), int(-1)], &[]).0, [3, 2, 1]);
    assert_eq!(on_ramp("pad", &[2], &[ints(&[1, 2])], &[("value", float(9.0))]).1, [9.0, 0.0, 1.0, 9.0, 9.0]);
    assert_eq!(on_ramp("pad", &[1, 1], &[int(1)], &[]).0, [3, 3]);
    assert_eq!(on_ramp("tile", &[2], &[ints(&[2, 2])], &[]), (vec![2, 4], vec![0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]));
    assert_eq!(on_ramp("repeat", &[2], &[int(2)], &[]).1, [0.0, 0.0, 1.0, 1.0]);
    assert_eq!(on_ramp("flip", &[2, 2], &[int(1)], &[]).1, [1.0, 0.0, 3.0, 2.0]);
    assert_eq!(on_ramp("roll", &[4], &[int(1)], &[]).1, [3.0, 0.0, 1.0, 2.0]);
    assert_eq!(on_ramp("roll", &[2, 3], &[int(-1), int(1)], &[]).1, [1.0, 2.0, 0.0, 4.0, 5.0, 3.0]);
    assert_eq!(on_ramp("diag", &[2, 3], &[], &[]).1, [0.0, 4.0]);
    assert_eq!(on_ramp("diag", &[2, 3], &[int(1)], &[]).1, [1.0, 5.0]);
    assert_eq!(on_ramp("diag", &[2], &[int(-1)], &[]).1, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    assert_eq!(on_ramp("tril", &[2, 2], &[], &[]).1, [0.0, 0.0, 2.0, 3.0]);
    assert_eq!(on_ramp("triu", &[2, 2], &[int(1)], &[]).1, [0.0, 1.0, 0.0, 0.0]);
    assert_eq!(on_ramp("broadcast_to", &[2], &[ints(&[2, 2])], &[]).1, [0.0, 1.0, 0.0, 1.0]);
    let rolled = run(|cx| {
        let (x, s) = (ramp(cx, &[4]), i32s(cx, &[], &[-1.0]));
        op(cx, "roll", &[x, s], &[])
    });
    assert_eq!(rolled.1, [1.0, 2.0, 3.0, 0.0]);
    let halves = run(|cx| {
        let x = ramp(cx, &[4]);
        let Val::Tuple(parts) = op(cx, "split", &[x, int(2)], &[])? else { panic!("a tuple") };
        op(cx, "concat", &[Val::List(parts.into_iter().rev().collect())], &[])
    });
    assert_eq!(halves.1, [2.0, 3.0, 0.0, 1.0]);
    let e = check_error(|cx| {
        let (a, b) = (typed(DType::F32, &[2i64.into(), 3i64.into()]), typed(DType::F32, &[2i64.into(), 4i64.into()]));
        op(cx, "concat", &[Val::List(vec![a, b])], &[("axis", int(0))])
    });
    assert_eq!(e.code.0, "E0402");
}

#[test]
fn creators() {
    let plain = |name: &str, args: &[Val]| run(|cx| op(cx, name, args, &[]));
    assert_eq!(plain("zeros", &[ints(&[2])]), (vec![2], vec![0.0, 0.0]));
    assert_eq!(plain("full", &[ints(&[2]), float(1.5)]).1, [1.5, 1.5]);
    assert_eq!(plain("eye", &[int(2)]).1, [1.0, 0.0, 0.0, 1.0]);
    assert_eq!(plain("iota", &[int(3)]).1, [0.0, 1.0, 2.0]);
    assert_eq!(plain("one_hot", &[ints(&[1, 0]), int(2)]).1, [0.0, 1.0, 1.0, 0.0]);
    assert_eq!(checked(|cx| op(cx, "zeros", &[Val::List(vec![Val::Int(sym("N"))]), Val::DType(DType::I32)], &[])), "i32[N]");
}

#[test]
fn products() {
    let two = |name: &str, a: &[usize], b: &[usize]| {
        run(|cx| {
            let (a, b) = (ramp(cx, a), ramp(cx, b));
            op(cx, name, &[a, b], &[])
        })
    };
    assert_eq!(two("dot", &[3], &[3]).1, [5.0]);
    assert_eq!(two("dot", &[1, 2], &[3, 2, 1]).0, [1, 3, 1]);
    assert_eq!(two("outer", &[2], &[3]), (vec![2, 3], vec![0.0, 0.0, 0.0, 0.0, 1.0, 2.0]));
    let e = |spec: &str, shapes: &[&[usize]]| {
        run(|cx| {
            let mut args = vec![Val::Str(spec.into())];
            args.extend(shapes.iter().map(|s| ramp(cx, s)).collect::<Vec<_>>());
            op(cx, "einsum", &args, &[])
        })
    };
    assert_eq!(e("ij,jk->ik", &[&[2, 3], &[3, 2]]), (vec![2, 2], vec![10.0, 13.0, 28.0, 40.0]));
    assert_eq!(e("ij,jk", &[&[2, 3], &[3, 2]]).0, [2, 2]);
    assert_eq!(e("ii->", &[&[3, 3]]).1, [12.0]);
    assert_eq!(e("ii->i", &[&[3, 3]]).1, [0.0, 4.0, 8.0]);
    assert_eq!(e("...i,...i->...", &[&[2, 3], &[2, 3]]), (vec![2], vec![5.0, 50.0]));
    assert_eq!(e("i,ij,j->", &[&[2], &[2, 2], &[2]]).1, [3.0]);
}

#[test]
fn convolutions_and_pools() {
    let conv = |named: &[(&str, Val)]| {
        run(|cx| {
            let (x, w) = (ramp(cx, &[1, 4, 4, 1]), f32s(cx, &[2, 2, 1, 1], &[1.0; 4]));
            op(cx, "conv", &[x, w], named)
        })
    };
    assert_eq!(conv(&[]).0, [1, 3, 3, 1]);
    assert_eq!(conv(&[]).1[0], 10.0);
    assert_eq!(conv(&[("stride", int(2))]).1, [10.0, 18.0, 42.0, 50.0]);
    assert_eq!(conv(&[("padding", Val::Str("same".into()))]).0, [1, 4, 4, 1]);
    assert_eq!(conv(&[("padding", int(1)), ("dilation", int(2))]).0, [1, 4, 4, 1]);
    let pool = |named: &[(&str, Val)]| on_ramp("pool", &[1, 4, 4, 1], &[int(2)], named);
    assert_eq!(pool(&[]).1, [5.0, 7.0, 13.0, 15.0]);
    assert_eq!(pool(&[("kind", Val::Str("mean".into()))]).1, [2.5, 4.5, 10.5, 12.5]);
    let symbolic = checked(|cx| {
        let x = typed(DType::F32, &[sym("B"), sym("H"), 8i64.into(), 3i64.into()]);
        let w = typed(DType::F32, &[3i64.into(), 3i64.into(), 3i64.into(), 16i64.into()]);
        op(cx, "conv", &[x, w], &[("stride", int(2))])
    });
    assert_eq!(symbolic, "f32[B, 1 + (-3 + H) // (2), 3, 16]");
    let e = check_error(|cx| {
        let (x, w) =
            (typed(DType::F32, &[1i64.into(), 2i64.into(), 1i64.into()]), typed(DType::F32, &[3i64.into(), 1i64.into(), 1i64.into()]));
        op(cx, "conv", &[x, w], &[])
    });
    assert_eq!(e.code.0, "E0408");
}

#[test]
fn order_and_lookup() {
    let x = [3.0, 1.0, 2.0, 0.0, 5.0, 4.0];
    let sorted = |name: &str, named: &[(&str, Val)]| {
        run(|cx| {
            let x = f32s(cx, &[2, 3], &x);
            op(cx, name, &[x], named)
        })
        .1
    };
    assert_eq!(sorted("sort", &[]), [1.0, 2.0, 3.0, 0.0, 4.0, 5.0]);
    assert_eq!(sorted("sort", &[("axis", int(0)), ("descending", Val::Bool(Some(true)))]), [3.0, 5.0, 4.0, 0.0, 1.0, 2.0]);
    assert_eq!(sorted("argsort", &[]), [1.0, 2.0, 0.0, 0.0, 2.0, 1.0]);
    let top = run(|cx| {
        let x = f32s(cx, &[2, 3], &x);
        let Val::Tuple(t) = op(cx, "top_k", &[x, int(2)], &[])? else { panic!("a tuple") };
        Ok(t[0].clone())
    });
    assert_eq!(top, (vec![2, 2], vec![3.0, 2.0, 5.0, 4.0]));
    let found = |side: &str| {
        run(|cx| {
            let (s, v) = (f32s(cx, &[3], &[1.0, 2.0, 2.0]), f32s(cx, &[4], &[0.0, 2.0, 3.0, 1.5]));
            op(cx, "searchsorted", &[s, v], &[("side", Val::Str(side.into()))])
        })
        .1
    };
    assert_eq!(found("left"), [0.0, 1.0, 3.0, 1.0]);
    assert_eq!(found("right"), [0.0, 3.0, 3.0, 1.0]);
    let picked = run(|cx| {
        let (x, ids) = (ramp(cx, &[3, 2]), i32s(cx, &[2], &[2.0, 0.0]));
        op(cx, "gather", &[x, ids], &[])
    });
    assert_eq!(picked, (vec![2, 2], vec![4.0, 5.0, 0.0, 1.0]));
    let added = run(|cx| {
        let (x, ids) = (ramp(cx, &[3]), i32s(cx, &[2], &[1.0, 1.0]));
        op(cx, "scatter_add", &[x, ids, float(10.0)], &[])
    });
    assert_eq!(added.1, [0.0, 21.0, 2.0]);
    let sums = run(|cx| {
        let (x, ids) = (ramp(cx, &[4]), i32s(cx, &[4], &[0.0, 1.0, 0.0, 2.0]));
        op(cx, "segment_sum", &[x, ids, int(3)], &[])
    });
    assert_eq!(sums.1, [2.0, 1.0, 3.0]);
}

#[test]
fn wrong_arguments_are_named() {
    let e = check_error(|cx| op(cx, "sum", &[typed(DType::F32, &[sym("N")])], &[("axes", int(0))]));
    assert_eq!(e.code.0, "E0303");
    assert_eq!(e.help.as_deref(), Some("it is called as `sum(x, axis = …, keepdims = …)`"));
    assert_eq!(check_error(|cx| op(cx, "exp", &[float(1.0), float(2.0)], &[])).code.0, "E0303");
    assert_eq!(check_error(|cx| op(cx, "reshape", &[], &[])).code.0, "E0303");
}

#[test]
fn unknown_values_pass() {
    assert_eq!(checked(|cx| op(cx, "exp", &[Val::Unknown], &[])), "Unknown");
    assert_eq!(checked(|cx| op(cx, "concat", &[Val::List(vec![Val::Unknown])], &[])), "Unknown");
}

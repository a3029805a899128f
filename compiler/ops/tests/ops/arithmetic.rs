//! Operators, conversions, and what element types meet as.

use super::*;
use optc_ops::{BinOp, UnOp, array_literal, binary, cast, unary};

#[test]
fn compile_time_numbers_stay_compile_time() {
    let cx = &mut Cx::lower();
    let mut go = |op, a: Val, b: Val| binary(cx, op, &a, &b).unwrap();
    assert_eq!(go(BinOp::Add, int(2), int(3)), int(5));
    assert_eq!(go(BinOp::Div, int(1), int(2)), float(0.5));
    assert_eq!(go(BinOp::FloorDiv, int(-7), int(2)), int(-4));
    assert_eq!(go(BinOp::Rem, int(-7), int(2)), int(1));
    assert_eq!(go(BinOp::Pow, int(2), int(10)), int(1024));
    assert_eq!(go(BinOp::Pow, int(2), int(-1)), float(0.5));
    assert_eq!(go(BinOp::Mul, float(0.5), int(3)), float(1.5));
    assert_eq!(go(BinOp::Lt, int(2), float(2.5)), Val::Bool(Some(true)));
    assert_eq!(go(BinOp::And, Val::Bool(Some(false)), Val::Bool(None)), Val::Bool(Some(false)));
    assert_eq!(go(BinOp::BitXor, int(6), int(3)), int(5));
    assert_eq!(go(BinOp::Shl, int(1), int(5)), int(32));
    assert_eq!(go(BinOp::Eq, Val::Str("a".into()), Val::Str("a".into())), Val::Bool(Some(true)));
    assert_eq!(error(|cx| binary(cx, BinOp::FloorDiv, &int(1), &int(0))).code.0, "E0306");
}

#[test]
fn arrays_broadcast() {
    let sum = run(|cx| {
        let (a, b) = (ramp(cx, &[2, 3]), f32s(cx, &[2, 1], &[10.0, 20.0]));
        binary(cx, BinOp::Add, &a, &b)
    });
    assert_eq!(sum, (vec![2, 3], vec![10.0, 11.0, 12.0, 23.0, 24.0, 25.0]));
    let e = error(|cx| {
        let (a, b) = (ramp(cx, &[3]), ramp(cx, &[4]));
        binary(cx, BinOp::Add, &a, &b)
    });
    assert_eq!(e.code.0, "E0401");
    assert_eq!(e.notes[0], "the two types\nleft   f32[3]\n           ^\nright  f32[4]\n           ^");
}

#[test]
fn symbols_broadcast_only_with_themselves() {
    let (n, m) = (sym("N"), sym("M"));
    let f = |a: &[Dim], b: &[Dim]| {
        let (a, b) = (typed(DType::F32, a), typed(DType::F32, b));
        move |cx: &mut Cx| binary(cx, BinOp::Add, &a, &b)
    };
    assert_eq!(checked(f(&[n.clone(), 3i64.into()], &[3i64.into()])), "f32[N, 3]");
    assert_eq!(checked(f(std::slice::from_ref(&n), &[1i64.into()])), "f32[N]");
    assert_eq!(check_error(f(std::slice::from_ref(&n), std::slice::from_ref(&m))).code.0, "E0401");
    assert_eq!(check_error(f(std::slice::from_ref(&n), &[n.sub(&1i64.into())])).code.0, "E0401");
    let half = m.floor_div(&2i64.into()).unwrap();
    assert_eq!(checked(f(std::slice::from_ref(&half), &[m.sub(&half)])), "f32[(M) // (2)]");
    let any = Cx::check().fresh_symbol("?");
    assert_eq!(checked(f(&[any], std::slice::from_ref(&n))), "f32[N]");
}

#[test]
fn element_types_never_mix_silently() {
    let two = |a: DType, b: DType| check_error(|cx| binary(cx, BinOp::Add, &typed(a, &[2i64.into()]), &typed(b, &[2i64.into()]))).code.0;
    assert_eq!(two(DType::F32, DType::F64), "E0301");
    assert_eq!(two(DType::I32, DType::F32), "E0301");
    let e = check_error(|cx| binary(cx, BinOp::Mul, &typed(DType::I32, &[]), &float(2.5)));
    assert_eq!(e.code.0, "E0301");
    assert_eq!(check_error(|cx| binary(cx, BinOp::Add, &typed(DType::I32, &[]), &Val::Str("a".into()))).code.0, "E0302");
}

#[test]
fn numbers_take_the_type_they_meet() {
    let meet = |d: DType, v: Val| checked(|cx| binary(cx, BinOp::Mul, &typed(d, &[2i64.into()]), &v));
    assert_eq!(meet(DType::F64, float(0.1)), "f64[2]");
    assert_eq!(meet(DType::BF16, int(2)), "bf16[2]");
    assert_eq!(meet(DType::I64, int(2)), "i64[2]");
    assert_eq!(meet(DType::Bool, int(2)), "i32[2]");
    assert_eq!(meet(DType::Bool, float(2.0)), "f32[2]");
    assert_eq!(checked(|cx| binary(cx, BinOp::Div, &typed(DType::I32, &[]), &int(2))), "f32[]");
    let e = error(|cx| {
        let a = i32s(cx, &[], &[1.0]);
        binary(cx, BinOp::Add, &a, &int(1 << 40))
    });
    assert_eq!(e.code.0, "E0305");
}

#[test]
fn weak_scalars_keep_their_digits_until_they_meet_an_array() {
    // 1 - beta in f64, then rounded: not 1 - round(beta).
    let beta = f64::from(0.999f32) + 1e-10;
    let kept = run(|cx| {
        let b = weak(cx, DType::F64, beta);
        let rest = binary(cx, BinOp::Sub, &int(1), &b)?;
        assert!(matches!(&rest, Val::Array(a) if a.weak && a.dtype == DType::F64));
        let x = f32s(cx, &[1], &[1.0]);
        binary(cx, BinOp::Mul, &rest, &x)
    });
    assert_eq!(kept.1[0], f64::from((1.0 - beta) as f32));
    let power = run(|cx| {
        let (b, t) = (weak(cx, DType::F64, 0.9), weak(cx, DType::I32, 3.0));
        let p = binary(cx, BinOp::Pow, &b, &t)?;
        assert!(matches!(&p, Val::Array(a) if a.weak && a.dtype == DType::F64));
        cast(cx, &p, DType::F64)
    });
    close(&power.1, &[0.729], 1e-15);
    let quotient = checked(|cx| {
        let t = weak(cx, DType::I32, 3.0);
        let q = binary(cx, BinOp::Div, &t, &int(2))?;
        binary(cx, BinOp::Mul, &typed(DType::F32, &[sym("N")]), &q)
    });
    assert_eq!(quotient, "f32[N]");
}

#[test]
fn powers() {
    let power = |e: Val| {
        run(|cx| {
            let x = f32s(cx, &[2], &[2.0, 3.0]);
            binary(cx, BinOp::Pow, &x, &e)
        })
        .1
    };
    assert_eq!(power(int(2)), [4.0, 9.0]);
    assert_eq!(power(int(5)), [32.0, 243.0]);
    assert_eq!(power(int(0)), [1.0, 1.0]);
    assert_eq!(power(int(-2)), [0.25, f64::from(1.0f32 / 9.0)]);
    close(&power(float(0.5)), &[2f64.sqrt(), 3f64.sqrt()], 1e-7);
    close(&power(float(1.5)), &[2f64.powf(1.5), 3f64.powf(1.5)], 1e-6);
    let whole = run(|cx| {
        let x = i32s(cx, &[2], &[2.0, -3.0]);
        binary(cx, BinOp::Pow, &x, &int(3))
    });
    assert_eq!(whole.1, [8.0, -27.0]);
    let mut cx = Cx::lower();
    let x = f32s(&mut cx, &[2], &[2.0, 3.0]);
    let before = cx.graph().len();
    binary(&mut cx, BinOp::Pow, &x, &int(2)).unwrap();
    assert_eq!(cx.graph().len(), before + 1, "a square is one multiplication");
}

#[test]
fn matrix_products_of_all_ranks() {
    let product = |a: &[usize], b: &[usize]| {
        run(|cx| {
            let (a, b) = (ramp(cx, a), ramp(cx, b));
            binary(cx, BinOp::MatMul, &a, &b)
        })
    };
    assert_eq!(product(&[2, 3], &[3, 2]), (vec![2, 2], vec![10.0, 13.0, 28.0, 40.0]));
    assert_eq!(product(&[3], &[3]), (vec![], vec![5.0]));
    assert_eq!(product(&[3], &[3, 2]), (vec![2], vec![10.0, 13.0]));
    assert_eq!(product(&[2, 3], &[3]), (vec![2], vec![5.0, 14.0]));
    assert_eq!(product(&[2, 1, 3], &[3, 1]), (vec![2, 1, 1], vec![5.0, 14.0]));
    assert_eq!(product(&[2, 1, 2], &[2, 2, 1]), (vec![2, 1, 1], vec![1.0, 13.0]));
    assert_eq!(product(&[1, 2], &[2, 2, 1]), (vec![2, 1, 1], vec![1.0, 3.0]));
    assert_eq!(product(&[1, 1, 2], &[2, 2, 1]), (vec![2, 1, 1], vec![1.0, 3.0]));
    assert_eq!(product(&[2], &[3, 2, 1]), (vec![3, 1], vec![1.0, 3.0, 5.0]));
    let whole = run(|cx| {
        let (a, b) = (i32s(cx, &[2, 2], &[1.0, 2.0, 3.0, 4.0]), i32s(cx, &[2], &[1.0, 1.0]));
        binary(cx, BinOp::MatMul, &a, &b)
    });
    assert_eq!(whole, (vec![2], vec![3.0, 7.0]));
    let e = check_error(|cx| {
        binary(cx, BinOp::MatMul, &typed(DType::F32, &[sym("B"), 784i64.into()]), &typed(DType::F32, &[785i64.into(), 10i64.into()]))
    });
    assert_eq!(e.code.0, "E0402");
    assert!(e.notes[0].contains("^^^"), "{e:?}");
}

#[test]
fn prefixes_and_casts() {
    let cx = &mut Cx::lower();
    assert_eq!(unary(cx, UnOp::Neg, &float(2.0)).unwrap(), float(-2.0));
    assert_eq!(unary(cx, UnOp::BitNot, &int(0)).unwrap(), int(-1));
    assert_eq!(cast(cx, &float(2.7), DType::I32).unwrap(), int(2));
    assert_eq!(cast(cx, &float(0.1), DType::F32).unwrap(), float(f64::from(0.1f32)));
    let flags = run(|cx| {
        let x = arr(cx, DType::Bool, &[2], &[1.0, 0.0]);
        let y = unary(cx, UnOp::Not, &x)?;
        unary(cx, UnOp::Neg, &y)
    });
    assert_eq!(flags.1, [0.0, -1.0]);
    let down = run(|cx| {
        let x = f32s(cx, &[2], &[2.7, -2.7]);
        cast(cx, &x, DType::I32)
    });
    assert_eq!(down.1, [2.0, -2.0]);
}

#[test]
fn literals_become_arrays_or_lists() {
    let cx = &mut Cx::lower();
    assert!(matches!(array_literal(cx, &[int(1), int(2)], false).unwrap(), Val::List(_)));
    let x = f32s(cx, &[], &[2.0]);
    assert!(matches!(array_literal(cx, &[x.clone(), float(1.0)], false).unwrap(), Val::Array(a) if a.shape.len() == 1));
    let row = f32s(cx, &[2], &[1.0, 2.0]);
    assert!(matches!(array_literal(cx, &[row.clone(), row.clone()], false).unwrap(), Val::List(_)));
    assert!(matches!(array_literal(cx, &[row.clone(), row], true).unwrap(), Val::Array(a) if a.shape.len() == 2));
    let listed = run(|cx| {
        let x = ramp(cx, &[2]);
        binary(cx, BinOp::Add, &x, &ints(&[10, 20]))
    });
    assert_eq!(listed, (vec![2], vec![10.0, 21.0]));
}

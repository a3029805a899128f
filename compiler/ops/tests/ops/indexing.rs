//! Indexing and updates against NumPy's values.

use super::*;
use optc_ops::{index, index_update};

fn on(shape: &[usize], items: impl FnOnce(&mut Cx) -> Vec<Ix>) -> (Vec<usize>, Vec<f64>) {
    run(|cx| {
        let x = ramp(cx, shape);
        let items = items(cx);
        index(cx, &x, &items)
    })
}

fn updated(shape: &[usize], items: impl FnOnce(&mut Cx) -> Vec<Ix>, value: impl FnOnce(&mut Cx) -> Val) -> Vec<f64> {
    run(|cx| {
        let Val::Array(x) = ramp(cx, shape) else { panic!("an array") };
        let items = items(cx);
        let v = value(cx);
        index_update(cx, &x, &items, &v).map(Val::Array)
    })
    .1
}

const DOTS: fn() -> Ix = || Ix::Ellipsis(Span::default());
const NEW: fn() -> Ix = || Ix::NewAxis(Span::default());

#[test]
fn constants_and_slices() {
    assert_eq!(on(&[4], |_| vec![at(int(-1))]), (vec![], vec![3.0]));
    assert_eq!(on(&[2, 3], |_| vec![at(int(1))]), (vec![3], vec![3.0, 4.0, 5.0]));
    assert_eq!(on(&[2, 3], |_| vec![part(None, None, None), at(int(0))]), (vec![2], vec![0.0, 3.0]));
    assert_eq!(on(&[2, 3], |_| vec![DOTS(), at(int(2))]), (vec![2], vec![2.0, 5.0]));
    assert_eq!(on(&[6], |_| vec![part(Some(1), Some(-1), Some(2))]).1, [1.0, 3.0]);
    assert_eq!(on(&[6], |_| vec![part(None, None, Some(-1))]).1, [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]);
    assert_eq!(on(&[6], |_| vec![part(Some(4), Some(0), Some(-2))]).1, [4.0, 2.0]);
    assert_eq!(on(&[3], |_| vec![part(Some(-50), None, None)]).1, [0.0, 1.0, 2.0]);
    assert_eq!(on(&[3], |_| vec![part(Some(2), Some(1), None)]).0, [0]);
    assert_eq!(on(&[2], |_| vec![part(None, None, None), NEW()]).0, [2, 1]);
    assert_eq!(on(&[2, 3], |_| vec![NEW(), at(int(0)), NEW(), part(Some(1), None, None)]), (vec![1, 1, 2], vec![1.0, 2.0]));
}

#[test]
fn run_time_indices() {
    assert_eq!(on(&[2, 3], |cx| vec![at(i32s(cx, &[], &[1.0]))]), (vec![3], vec![3.0, 4.0, 5.0]));
    assert_eq!(on(&[2, 3], |cx| vec![at(i32s(cx, &[], &[1.0])), at(i32s(cx, &[], &[2.0]))]), (vec![], vec![5.0]));
    assert_eq!(on(&[3], |cx| vec![at(i32s(cx, &[2, 2], &[0.0, 1.0, 2.0, 0.0]))]), (vec![2, 2], vec![0.0, 1.0, 2.0, 0.0]));
    assert_eq!(on(&[2, 3], |cx| vec![part(None, None, None), at(i32s(cx, &[2], &[2.0, 0.0]))]).1, [2.0, 0.0, 5.0, 3.0]);
    assert_eq!(on(&[2, 3], |_| vec![part(None, None, None), at(ints(&[-1, 0]))]).1, [2.0, 0.0, 5.0, 3.0]);
    let pair = |cx: &mut Cx| (at(i32s(cx, &[2], &[1.0, 0.0])), at(i32s(cx, &[2], &[2.0, 1.0])));
    let both = on(&[2, 3], |cx| {
        let (i, j) = pair(cx);
        vec![i, j]
    });
    assert_eq!(both, (vec![2], vec![5.0, 1.0]));
    // Adjacent index arrays stay in place; with something between them they come first.
    let inner = on(&[2, 2, 3], |cx| {
        let (i, j) = pair(cx);
        vec![part(None, None, None), i, j]
    });
    assert_eq!(inner, (vec![2, 2], vec![5.0, 1.0, 11.0, 7.0]));
    let outer = on(&[2, 2, 3], |cx| {
        let (i, j) = pair(cx);
        vec![i, part(None, None, None), j]
    });
    assert_eq!(outer, (vec![2, 2], vec![8.0, 11.0, 1.0, 4.0]));
    let new = on(&[2, 2, 3], |cx| {
        let (i, j) = pair(cx);
        vec![part(None, None, None), i, NEW(), j]
    });
    assert_eq!(new, (vec![2, 2, 1], vec![5.0, 11.0, 1.0, 7.0]));
    let moving = on(&[6], |cx| {
        let start = Some(i32s(cx, &[], &[2.0]));
        vec![Ix::Slice { start, stop: None, step: None, length: Some(3i64.into()), span: Span::default() }]
    });
    assert_eq!(moving.1, [2.0, 3.0, 4.0]);
}

#[test]
fn lists_and_tuples() {
    let cx = &mut Cx::check();
    assert_eq!(index(cx, &ints(&[4, 5, 6]), &[at(int(-1))]).unwrap(), int(6));
    assert_eq!(index(cx, &ints(&[4, 5, 6]), &[part(Some(1), None, None)]).unwrap(), ints(&[5, 6]));
    assert_eq!(index(cx, &ints(&[4, 5, 6]), &[at(int(3))]).unwrap_err().code.0, "E0403");
    assert_eq!(index(cx, &ints(&[4, 5]), &[at(Val::Int(sym("i")))]).unwrap(), Val::Unknown);
    let looked_up = run(|cx| {
        let i = i32s(cx, &[], &[1.0]);
        index(cx, &ints(&[4, 5]), &[at(i)])
    });
    assert_eq!(looked_up.1, [5.0]);
}

#[test]
fn symbolic_shapes() {
    let m = sym("M");
    let of = |shape: &[Dim], items: Vec<Ix>| {
        let x = typed(DType::F32, shape);
        checked(move |cx| index(cx, &x, &items))
    };
    assert_eq!(of(std::slice::from_ref(&m), vec![part(Some(1), None, None)]), "f32[-1 + M]");
    assert_eq!(of(std::slice::from_ref(&m), vec![part(None, Some(-1), None)]), "f32[-1 + M]");
    let half = m.floor_div(&2i64.into()).unwrap();
    let slice =
        |a: Dim, b: Dim| Ix::Slice { start: Some(Val::Int(a)), stop: Some(Val::Int(b)), step: None, length: None, span: Span::default() };
    assert_eq!(of(&[3i64.into(), m.clone()], vec![DOTS(), slice(0i64.into(), half.clone())]), "f32[3, (M) // (2)]");
    assert_eq!(of(&[m.mul(&3i64.into())], vec![slice(m.clone(), m.mul(&2i64.into()))]), "f32[M]");
}

#[test]
fn mistakes() {
    let of = |dtype: DType, items: Vec<Ix>| {
        let x = typed(dtype, &[3i64.into()]);
        check_error(move |cx| index(cx, &x, &items)).code.0
    };
    assert_eq!(of(DType::F32, vec![at(int(3))]), "E0403");
    assert_eq!(of(DType::F32, vec![at(int(-4))]), "E0403");
    assert_eq!(of(DType::F32, vec![at(int(0)), at(int(1))]), "E0404");
    assert_eq!(of(DType::F32, vec![at(typed(DType::F32, &[]))]), "E0304");
    assert_eq!(of(DType::F32, vec![at(typed(DType::Bool, &[3i64.into()]))]), "E0304");
    assert_eq!(of(DType::F32, vec![part(None, None, Some(0))]), "E0405");
    assert_eq!(of(DType::F32, vec![DOTS(), DOTS()]), "E0404");
}

#[test]
fn an_index_beyond_the_array_is_a_run_time_error_even_among_several() {
    let mut cx = Cx::lower();
    let x = ramp(&mut cx, &[2, 3]);
    // Element (0, 4) would be inside the flattened array.
    let items = [at(i32s(&mut cx, &[1], &[0.0])), at(i32s(&mut cx, &[1], &[4.0]))];
    let Val::Array(y) = index(&mut cx, &x, &items).unwrap() else { panic!("an array") };
    let node = cx.node(&y);
    let (mut graph, _) = cx.pop_level();
    graph.outputs = vec![node];
    assert!(optc_ir::interpret(&graph, &[]).is_err());
}

#[test]
fn updates() {
    let nine = |_: &mut Cx| float(9.0);
    assert_eq!(updated(&[3], |_| vec![at(int(-1))], nine), [0.0, 1.0, 9.0]);
    assert_eq!(updated(&[4], |_| vec![part(Some(1), Some(3), None)], nine), [0.0, 9.0, 9.0, 3.0]);
    assert_eq!(updated(&[4], |_| vec![part(None, None, Some(-2))], |cx| f32s(cx, &[2], &[7.0, 8.0])), [0.0, 8.0, 2.0, 7.0]);
    assert_eq!(
        updated(&[2, 3], |_| vec![part(None, None, None), at(int(1))], |cx| f32s(cx, &[2], &[7.0, 8.0])),
        [0.0, 7.0, 2.0, 3.0, 8.0, 5.0]
    );
    assert_eq!(updated(&[2, 3], |_| vec![at(int(1)), part(Some(1), None, None)], nine), [0.0, 1.0, 2.0, 3.0, 9.0, 9.0]);
    assert_eq!(updated(&[2, 3], |cx| vec![at(i32s(cx, &[], &[1.0])), at(i32s(cx, &[], &[0.0]))], nine), [0.0, 1.0, 2.0, 9.0, 4.0, 5.0]);
    assert_eq!(updated(&[3], |cx| vec![at(i32s(cx, &[2], &[2.0, 0.0]))], |cx| f32s(cx, &[2], &[7.0, 8.0])), [8.0, 1.0, 7.0]);
    let pairs = |cx: &mut Cx| vec![at(i32s(cx, &[2], &[1.0, 0.0])), at(i32s(cx, &[2], &[2.0, 1.0]))];
    assert_eq!(updated(&[2, 3], pairs, |cx| f32s(cx, &[2], &[7.0, 8.0])), [0.0, 8.0, 2.0, 3.0, 4.0, 7.0]);
    assert_eq!(updated(&[2, 2], |_| vec![DOTS()], nine), [9.0; 4]);
    let apart = |cx: &mut Cx| vec![at(i32s(cx, &[2], &[1.0, 0.0])), part(None, None, None), at(i32s(cx, &[2], &[0.0, 1.0]))];
    assert_eq!(updated(&[2, 1, 2], apart, |cx| f32s(cx, &[2, 1], &[7.0, 8.0])), [0.0, 8.0, 7.0, 3.0]);
    let moving = |cx: &mut Cx| {
        let start = Some(i32s(cx, &[], &[1.0]));
        vec![Ix::Slice { start, stop: None, step: None, length: Some(2i64.into()), span: Span::default() }]
    };
    assert_eq!(updated(&[4], moving, nine), [0.0, 9.0, 9.0, 3.0]);
    let mut cx = Cx::check();
    let Val::Array(x) = typed(DType::F32, &[4i64.into()]) else { panic!("an array") };
    let e = index_update(&mut cx, &x, &[part(None, Some(2), None)], &typed(DType::F32, &[3i64.into()])).unwrap_err();
    assert_eq!(e.code.0, "E0401");
}

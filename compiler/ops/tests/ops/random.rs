//! Draws: moments and bounds.

use super::*;

fn draw(name: &str, args: &[Val], named: &[(&str, Val)]) -> Tensor {
    tensor(|cx| {
        let Val::Array(key) = arr(cx, DType::U32, &[2], &[7.0, 11.0]) else { panic!("a key") };
        let mut all: Vec<Arg> = args.iter().map(|v| Arg { name: None, value: v.clone(), span: Span::default() }).collect();
        all.extend(named.iter().map(|(n, v)| Arg { name: Some(Arc::from(*n)), value: v.clone(), span: Span::default() }));
        call(cx, name, &all, Some(&key))
    })
}

fn moments(t: &Tensor) -> (f64, f64) {
    let x = t.to_f64();
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    (mean, x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64)
}

fn near(found: (f64, f64), mean: f64, var: f64, tolerance: f64) {
    assert!((found.0 - mean).abs() < tolerance && (found.1 - var).abs() < 2.0 * tolerance, "{found:?} is not ({mean}, {var})");
}

const N: i64 = 4000;

#[test]
fn floats_have_their_moments() {
    let n = ints(&[N]);
    for d in [DType::F32, DType::F64, DType::BF16, DType::F16] {
        let u = draw("random.uniform", &[n.clone(), Val::DType(d)], &[]);
        assert_eq!(u.dtype, d);
        assert!(u.to_f64().iter().all(|&x| (0.0..1.0).contains(&x)));
        near(moments(&u), 0.5, 1.0 / 12.0, 0.02);
    }
    near(moments(&draw("random.normal", std::slice::from_ref(&n), &[])), 0.0, 1.0, 0.05);
    near(moments(&draw("random.normal", &[n.clone(), Val::DType(DType::F64)], &[])), 0.0, 1.0, 0.05);
    near(moments(&draw("random.exponential", std::slice::from_ref(&n), &[])), 1.0, 1.0, 0.06);
    near(moments(&draw("random.gamma", &[n.clone(), float(2.5)], &[])), 2.5, 2.5, 0.12);
    near(moments(&draw("random.gamma", &[n.clone(), float(0.5)], &[])), 0.5, 0.5, 0.06);
    let t = draw("random.truncated_normal", std::slice::from_ref(&n), &[]);
    assert!(t.to_f64().iter().all(|x| x.abs() <= 2.0));
    near(moments(&t), 0.0, 0.7737, 0.05);
    near(moments(&draw("random.truncated_normal", &[n, int(-1), int(1), Val::DType(DType::F64)], &[])), 0.0, 0.2911, 0.03);
}

#[test]
fn integers_flags_and_choices() {
    let n = ints(&[N]);
    let x = draw("random.integer", &[n.clone(), int(-2), int(3)], &[]);
    assert!((-2..3).all(|v| x.to_f64().contains(&f64::from(v))));
    near(moments(&x), 0.0, 2.0, 0.1);
    near(moments(&draw("random.bernoulli", &[n.clone(), float(0.3)], &[])), 0.3, 0.21, 0.03);
    near(moments(&draw("random.rademacher", std::slice::from_ref(&n), &[])), 0.0, 1.0, 0.06);
    let logits = Val::List(vec![float(0.0), float(3f64.ln())]);
    near(moments(&draw("random.categorical", &[n.clone(), logits], &[])), 0.75, 0.1875, 0.03);
    let mut p = draw("random.permutation", &[int(100)], &[]).to_f64();
    assert_ne!(p[..5], [0.0, 1.0, 2.0, 3.0, 4.0]);
    p.sort_by(f64::total_cmp);
    assert_eq!(p, (0..100).map(f64::from).collect::<Vec<_>>());
    let c = draw("random.choice", &[ints(&[3]), ints(&[5, 6, 7])], &[("replace", Val::Bool(Some(false)))]);
    let mut c = c.to_f64();
    c.sort_by(f64::total_cmp);
    assert_eq!(c, [5.0, 6.0, 7.0]);
    // Few of many: of every three elements one has probability 3, one 1, one 0.
    let p = Val::List((0..30_000).map(|i| float([3.0, 1.0, 0.0][i % 3])).collect());
    let c = draw("random.choice", &[ints(&[1500]), int(30_000)], &[("replace", Val::Bool(Some(false))), ("p", p)]);
    let mut c = c.to_f64();
    let share = |r: f64| c.iter().filter(|&&x| x % 3.0 == r).count() as f64 / 1500.0;
    assert!((share(0.0) - 0.75).abs() < 0.045 && share(2.0) == 0.0, "four standard errors, and never what has no weight");
    c.sort_by(f64::total_cmp);
    c.dedup();
    assert_eq!(c.len(), 1500);
}

#[test]
fn a_draw_without_a_shape_is_a_scalar_and_checks_without_a_key() {
    assert_eq!(checked(|cx| op(cx, "random.normal", &[], &[])), "f32[]");
    assert_eq!(checked(|cx| op(cx, "random.uniform", &[Val::List(vec![Val::Int(sym("N"))])], &[])), "f32[N]");
    assert_eq!(check_error(|cx| op(cx, "random.integer", &[ints(&[2]), int(3), int(3)], &[])).code.0, "E0307");
}

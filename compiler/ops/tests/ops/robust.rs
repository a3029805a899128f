//! Random calls: no panic, and both modes agree on the types.

use super::*;
use optc_ops::{BinOp, binary, builtin_names, index, parameters};

struct Rng(u64);
impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }
}

const DTYPES: [DType; 6] = [DType::F32, DType::F64, DType::I32, DType::U32, DType::Bool, DType::BF16];

/// Instructions for a value, so that both modes get the same one.
#[derive(Clone, Debug)]
enum Recipe {
    Array(DType, Vec<usize>),
    Weak(DType),
    Plain(Val),
    List(Vec<Recipe>),
}

fn recipe(r: &mut Rng, depth: usize) -> Recipe {
    match r.below(if depth == 0 { 12 } else { 14 }) {
        0..=5 => {
            let rank = r.below(4);
            Recipe::Array(if r.below(2) == 0 { DType::F32 } else { DTYPES[r.below(6)] }, (0..rank).map(|_| r.below(4)).collect())
        }
        6 => Recipe::Weak(if r.below(2) == 0 { DType::F64 } else { DType::I32 }),
        7 => Recipe::Plain(int([0, 1, 2, 3, -1, -2, 7, 1 << 40, i64::MAX][r.below(9)])),
        8 => Recipe::Plain(float([0.0, 0.5, -1.0, 2.0, f64::NAN, f64::INFINITY, 1e300][r.below(7)])),
        9 => Recipe::Plain(Val::Bool(Some(r.below(2) == 0))),
        10 => Recipe::Plain(
            [Val::Str("max".into()), Val::Str("...".into()), Val::None, Val::Range(0i64.into(), 3i64.into())][r.below(4)].clone(),
        ),
        11 => Recipe::Plain(Val::DType(DTYPES[r.below(6)])),
        _ => {
            let n = r.below(4);
            Recipe::List((0..n).map(|_| recipe(r, depth - 1)).collect())
        }
    }
}

fn make(cx: &mut Cx, r: &Recipe) -> Val {
    match r {
        Recipe::Array(d, shape) => {
            let shape: Vec<Val> = shape.iter().map(|&n| int(n as i64)).collect();
            op(cx, "zeros", &[Val::List(shape), Val::DType(*d)], &[]).expect("zeros")
        }
        Recipe::Weak(d) => weak(cx, *d, 2.0),
        Recipe::Plain(v) => v.clone(),
        Recipe::List(x) => Val::List(x.iter().map(|r| make(cx, r)).collect()),
    }
}

/// The type, without nodes.
fn ty(v: &Val) -> String {
    match v {
        Val::Array(a) => format!("{}{:?}{}", a.dtype, a.shape.iter().map(Dim::to_string).collect::<Vec<_>>(), a.weak),
        Val::List(x) | Val::Tuple(x) => format!("[{}]", x.iter().map(ty).collect::<Vec<_>>().join(", ")),
        Val::Record(x) => format!("{{{}}}", x.iter().map(|(name, v)| format!("{name}: {}", ty(v))).collect::<Vec<_>>().join(", ")),
        v => format!("{v:?}"),
    }
}

fn both(what: &str, recipes: &[Recipe], f: impl Fn(&mut Cx, &[Val]) -> Result<Val, OpError>) {
    let go = |mut cx: Cx| {
        let args: Vec<Val> = recipes.iter().map(|r| make(&mut cx, r)).collect();
        let out = f(&mut cx, &args);
        if cx.emitting()
            && let Ok(Val::Array(a)) = &out
        {
            let node = cx.node(a);
            let (mut graph, _) = cx.pop_level();
            graph.outputs = vec![node];
            optc_ir::verify(&graph).unwrap_or_else(|e| panic!("{what} {recipes:?}: {e:?}"));
        }
        out.map(|v| ty(&v)).map_err(|e| e.message.clone())
    };
    assert_eq!(go(Cx::check()), go(Cx::lower()), "{what} {recipes:?}");
}

#[test]
fn builtins() {
    let mut r = Rng(1);
    for name in builtin_names() {
        let most = parameters(name).map_or(1, |p| p.len());
        for _ in 0..60 {
            let n = 1 + r.below(most);
            let recipes: Vec<Recipe> = (0..n).map(|_| recipe(&mut r, 2)).collect();
            both(name, &recipes, |cx, args| {
                let Val::Array(key) = arr(cx, DType::U32, &[2], &[1.0, 2.0]) else { panic!("a key") };
                let args: Vec<Arg> = args.iter().map(|v| Arg { name: None, value: v.clone(), span: Span::default() }).collect();
                call(cx, name, &args, Some(&key))
            });
        }
    }
}

#[test]
fn operators() {
    use BinOp::*;
    let mut r = Rng(2);
    for op in [Add, Sub, Mul, Div, FloorDiv, Rem, MatMul, Pow, Eq, Ne, Lt, Le, Gt, Ge, And, Or, BitAnd, BitOr, BitXor, Shl, Shr] {
        for _ in 0..150 {
            let recipes = [recipe(&mut r, 1), recipe(&mut r, 1)];
            both(op.shown(), &recipes, |cx, x| binary(cx, op, &x[0], &x[1]));
        }
    }
}

#[test]
fn indices() {
    let mut r = Rng(3);
    for _ in 0..3000 {
        let n = 1 + r.below(4);
        let recipes: Vec<Recipe> = (0..=n).map(|_| recipe(&mut r, 1)).collect();
        let kinds: Vec<usize> = (0..n).map(|_| r.below(6)).collect();
        both("index", &recipes, |cx, x| {
            let items: Vec<Ix> = x[1..]
                .iter()
                .zip(&kinds)
                .map(|(v, kind)| match kind {
                    0 => Ix::Ellipsis(Span::default()),
                    1 => Ix::NewAxis(Span::default()),
                    2 => Ix::Slice { start: Some(v.clone()), stop: None, step: None, length: None, span: Span::default() },
                    3 => Ix::Slice { start: None, stop: Some(v.clone()), step: Some(int(-2)), length: None, span: Span::default() },
                    _ => at(v.clone()),
                })
                .collect();
            if let Val::Array(a) = &x[0] {
                let _ = optc_ops::index_update(cx, a, &items, &float(1.0));
            }
            index(cx, &x[0], &items)
        });
    }
}

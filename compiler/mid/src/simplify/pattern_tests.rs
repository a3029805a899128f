//! Soundness of the rule table: every row on awkward numbers.

use super::*;
use crate::simplify::{Config, Exactness, simplify};
use optc_abi::Tensor;
use optc_ir::{interpret, verify};

const O: Origin = Origin { span: optc_base::Span { source: optc_base::SourceId(0), start: 0, end: 0 }, via: "" };

fn is_bool_var(var: usize) -> bool {
    (3..5).contains(&var)
}

/// Values that break careless rules.
fn awkward(dtype: DType) -> Vec<f64> {
    match dtype {
        DType::Bool => vec![0.0, 1.0],
        DType::U8 => vec![0.0, 1.0, 2.0, 7.0, 128.0, 255.0],
        DType::U32 => vec![0.0, 1.0, 3.0, 31.0, 32.0, 2147483648.0, 4294967295.0],
        dtype if dtype.is_int() => vec![0.0, 1.0, -1.0, 2.0, -7.0, 32.0, 2147483647.0, -2147483648.0],
        _ => {
            let (tiny, small, huge) = if dtype == DType::F64 { (5e-324, 1e-300, 1e308) } else { (1e-45, 1e-38, 3e38) };
            vec![
                0.0,
                -0.0,
                1.0,
                -1.0,
                0.1,
                -2.5,
                3.0,
                1e-3,
                1e10,
                tiny,
                -tiny,
                small,
                huge,
                -huge,
                f64::INFINITY,
                f64::NEG_INFINITY,
                f64::NAN,
            ]
        }
    }
}

fn variables(pattern: &Pattern, out: &mut Vec<usize>) {
    match pattern {
        Pattern::Var(v) if !out.contains(v) => out.push(*v),
        Pattern::Map(_, operands) => operands.iter().for_each(|p| variables(p, out)),
        _ => {}
    }
}

fn types(rule: &Rule, pattern: &Pattern) -> Vec<DType> {
    let logic = matches!(pattern, Pattern::Map(op, _) if op.row().class == Class::Bits);
    let all = [DType::F32, DType::F64, DType::BF16, DType::I32, DType::I64, DType::U32, DType::U8, DType::Bool];
    all.into_iter().filter(|&t| rule.kind.fits(t) && !(logic && t.is_float())).collect()
}

/// A graph that computes a pattern on inputs (and literals for `k l`) of `n` elements each.
fn graph_of(pattern: &Pattern, vars: &[usize], columns: &[Vec<f64>], main: DType) -> (Graph, Vec<Tensor>) {
    let mut g = Graph::new();
    let mut bound = [None; VARS];
    let mut inputs = Vec::new();
    let n = columns.iter().zip(vars).filter(|(_, v)| !is_literal_var(**v)).map(|(c, _)| c.len()).next().unwrap_or(1);
    for (&var, column) in vars.iter().zip(columns) {
        let dtype = if is_bool_var(var) { DType::Bool } else { main };
        bound[var] = Some(if is_literal_var(var) {
            g.splat(&Ty::new(dtype, [n]), column[0], O)
        } else {
            inputs.push(Tensor::from_f64(dtype, &[n], column));
            g.input(NAMES[var], Ty::new(dtype, [n]), O)
        });
    }
    let Pattern::Map(op, _) = pattern else {
        let out = match pattern {
            Pattern::Var(v) => bound[*v].unwrap(),
            Pattern::Literal(value) => g.splat(&Ty::new(main, [n]), *value, O),
            Pattern::Map(..) => unreachable!(),
        };
        g.outputs.push(out);
        return (g, inputs);
    };
    let result = if matches!(op.row().class, Class::Compare | Class::Test) { DType::Bool } else { main };
    let out = pattern.build(&mut g, &bound, &Ty::new(result, [n]), main, O);
    g.outputs.push(out);
    (g, inputs)
}

fn columns_of(vars: &[usize], main: DType) -> Vec<Vec<Vec<f64>>> {
    // All combinations of the inputs as columns; one set of columns for each combination of literals.
    let values = |var: usize| awkward(if is_bool_var(var) { DType::Bool } else { main });
    let inputs: Vec<usize> = vars.iter().copied().filter(|&v| !is_literal_var(v)).collect();
    let mut rows: Vec<Vec<f64>> = vec![Vec::new()];
    for &var in &inputs {
        rows = rows.iter().flat_map(|row| values(var).into_iter().map(|v| [&row[..], &[v]].concat())).collect();
    }
    let mut literals: Vec<Vec<f64>> = vec![Vec::new()];
    for &var in vars.iter().filter(|v| is_literal_var(**v)) {
        literals = literals.iter().flat_map(|row| values(var).into_iter().map(|v| [&row[..], &[v]].concat())).collect();
    }
    literals
        .iter()
        .map(|literal| {
            let (mut input, mut next) = (0, 0);
            vars.iter()
                .map(|&v| {
                    if is_literal_var(v) {
                        next += 1;
                        vec![literal[next - 1]]
                    } else {
                        input += 1;
                        rows.iter().map(|r| r[input - 1]).collect()
                    }
                })
                .collect()
        })
        .collect()
}

fn same_bits(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

fn check(rule: &Rule, main: DType) {
    let (pattern, replacement) = (Pattern::parse(rule.pattern), Pattern::parse(rule.replacement));
    let mut vars = Vec::new();
    variables(&pattern, &mut vars);
    vars.sort_unstable();
    for columns in columns_of(&vars, main) {
        let (before, inputs) = graph_of(&pattern, &vars, &columns, main);
        // The replacement has the result type of the pattern even if it is a literal.
        let (after, _) = match &replacement {
            Pattern::Literal(value) => {
                let mut g = before.clone();
                let ty = g.ty(g.outputs[0]).clone();
                g.outputs = vec![g.splat(&ty, *value, O)];
                (g, Vec::new())
            }
            _ => graph_of(&replacement, &vars, &columns, main),
        };
        verify(&before).and_then(|_| verify(&after)).unwrap_or_else(|e| panic!("{}: {e}", rule.name));
        let (x, y) = (interpret(&before, &inputs).unwrap(), interpret(&after, &inputs).unwrap());
        assert_eq!(x[0].dtype, y[0].dtype, "{}", rule.name);
        for i in 0..x[0].len() {
            let (x, y) = (x[0].get_f64(i), y[0].get_f64(i));
            let row: Vec<f64> = columns.iter().map(|c| c[i.min(c.len() - 1)]).collect();
            let a = optc_ir::eval::round_to(main, row[0]);
            if rule.a_is_not_minus_zero && a == 0.0 && a.is_sign_negative() {
                continue;
            }
            let fits = match rule.exactness {
                Exactness::Exact => same_bits(x, y),
                // The budget of a power: 4 units in the last place.
                Exactness::Budget => {
                    let ulp = if main == DType::BF16 {
                        2f64.powi(-7)
                    } else if main == DType::F32 {
                        2f64.powi(-23)
                    } else {
                        2f64.powi(-52)
                    };
                    same_bits(x, y)
                        || (x - y).abs() <= 4.0 * ulp * x.abs().max(if main == DType::F64 { 2f64.powi(-1022) } else { 2f64.powi(-126) })
                }
                // Over the reals: ordinary numbers only.
                Exactness::Fast => {
                    let ordinary = row.iter().all(|v| v.abs() <= 3.0 && v.abs() >= 1e-3 && *v > 0.0);
                    let slack = if main == DType::BF16 { 0.1 } else { 1e-5 };
                    !ordinary || same_bits(x, y) || (x - y).abs() <= slack * x.abs().max(1.0)
                }
            };
            assert!(fits, "rule `{}` on {main} {row:?}: {x:?} becomes {y:?}", rule.name);
        }
    }
}

#[test]
fn every_rule_is_as_exact_as_it_says() {
    for rule in RULES {
        let pattern = Pattern::parse(rule.pattern);
        let types = types(rule, &pattern);
        assert!(!types.is_empty(), "rule `{}` is never tested", rule.name);
        types.into_iter().for_each(|main| check(rule, main));
    }
}

#[test]
fn every_rule_fires() {
    for rule in RULES {
        let (pattern, replacement) = (Pattern::parse(rule.pattern), Pattern::parse(rule.replacement));
        let main = types(rule, &pattern)[0];
        let mut vars = Vec::new();
        variables(&pattern, &mut vars);
        vars.sort_unstable();
        let columns: Vec<Vec<f64>> = vars.iter().map(|v| if is_bool_var(*v) { vec![1.0; 2] } else { vec![3.0; 2] }).collect();
        let config = Config { exactness: Exactness::Fast, ..Config::default() };
        let (before, inputs) = graph_of(&pattern, &vars, &columns, main);
        let small = simplify(before.clone(), &config);
        verify(&small).unwrap();
        let (want, _) = graph_of(&replacement, &vars, &columns, main);
        if !rule.a_is_not_minus_zero {
            let cost =
                |g: &Graph| g.ids().map(|id| if let Op::Map(op) = g.node(id).op { u32::from(op.row().cost) } else { 0 }).sum::<u32>();
            let (got, want) = (cost(&small), cost(&simplify(want, &config)));
            assert!(got <= want, "rule `{}`: {}", rule.name, optc_ir::text::print(&small));
        }
        assert_eq!(small.outputs.len(), interpret(&small, &inputs).unwrap().len());
    }
}

#[test]
fn names_are_unique() {
    let mut names: Vec<&str> = crate::simplify::catalog().iter().map(|(name, _)| *name).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}

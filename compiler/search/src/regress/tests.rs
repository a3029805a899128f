//! Tests of symbolic regression.

use super::evolve::{Problem, Strategy};
use super::fit::{Effort, Goal, Loss, fit};
use super::formula::{Formula, named, names};
use super::grow::{PLAIN, Space};
use super::rows::{Columns, Scratch, Wrt};
use crate::rng::Stream;

fn table(n: usize, columns: usize, low: f64, high: f64) -> Columns {
    let mut rng = Stream::new([5, 1]);
    Columns { columns: (0..columns).map(|_| (0..n).map(|_| low + (high - low) * rng.uniform()).collect()).collect(), rows: n }
}

fn values(f: &Formula, table: &Columns) -> Vec<f64> {
    let mut out = Vec::new();
    Scratch::default().eval(f, table, &mut out);
    out
}

fn parse(text: &str) -> Formula {
    Formula::parse(text).unwrap_or_else(|| panic!("{text}"))
}

#[test]
fn blocks_give_what_points_give() {
    let table = table(300, 2, 0.1, 2.0);
    for name in names() {
        let fun = named(name).unwrap();
        let f = if fun.arity() == 1 { parse(&format!("$0 {name}")) } else { parse(&format!("$0 $1 {name}")) };
        let made = values(&f, &table);
        for row in [0, 255, 256, 299] {
            let point = [table.columns[0][row], table.columns[1][row]];
            let at = f.at(&point);
            assert!(made[row].to_bits() == at.to_bits() || made[row].is_nan() && at.is_nan(), "{name}");
        }
    }
}

#[test]
fn derivatives_are_those_of_the_functions() {
    let table = table(300, 2, 0.1, 0.9);
    for name in names().into_iter().filter(|n| !["floor", "ceil", "round", "sign", "floor_div", "rem", "acosh"].contains(n)) {
        let fun = named(name).unwrap();
        let f = if fun.arity() == 1 { parse(&format!("$0 0.7 mul {name}")) } else { parse(&format!("$0 0.7 mul $1 0.3 mul {name}")) };
        let (mut worst, step) = (0.0f64, 1e-6);
        Scratch::default().differentiate(&f, &table, Wrt::Numbers, |start, _, slopes| {
            for (k, column) in slopes.iter().enumerate() {
                for (i, slope) in column.iter().enumerate() {
                    let point = [table.columns[0][start + i], table.columns[1][start + i]];
                    let shifted = |by: f64| {
                        let mut moved = f.clone();
                        let mut numbers = f.numbers();
                        numbers[k] += by;
                        moved.set_numbers(&numbers);
                        moved.at(&point)
                    };
                    let rough = (shifted(step) - shifted(-step)) / (2.0 * step);
                    worst = worst.max((slope - rough).abs() / (1.0 + rough.abs()));
                }
            }
        });
        assert!(worst < 1e-6, "{name}: {worst}");
    }
}

#[test]
fn numbers_are_fitted_to_the_last_digit() {
    let table = table(200, 1, 0.0, 3.0);
    let truth = parse("1.7 $0 -0.8 mul exp mul 0.3 $0 2.5 mul sin mul add");
    let target = values(&truth, &table);
    let mut f = parse("1 $0 -1 mul exp mul 0.5 $0 2.3 mul sin mul add");
    let goal = Goal { target: &target, weight: None, loss: &Loss::Square };
    let loss = fit(&mut f, &table, &goal, &Effort { rounds: 60, frozen: &[] }, &mut Scratch::default());
    assert!(loss < 1e-28, "{loss} {f:?}");
}

#[test]
fn other_losses_are_fitted_too() {
    // The median is what the absolute loss wants; one wild row in five does not move it.
    let table = table(200, 1, 0.0, 3.0);
    let mut target = values(&parse("2 $0 mul 1 add"), &table);
    target.iter_mut().step_by(5).for_each(|y| *y += 50.0);
    let loss = Loss::Formula(parse("$0 $1 sub abs"));
    let mut f = parse("1 $0 mul 0 add");
    fit(
        &mut f,
        &table,
        &Goal { target: &target, weight: None, loss: &loss },
        &Effort { rounds: 200, frozen: &[] },
        &mut Scratch::default(),
    );
    let numbers = f.numbers();
    assert!((numbers[0] - 2.0).abs() < 1e-3 && (numbers[1] - 1.0).abs() < 1e-2, "{numbers:?}");
}

fn space(variables: usize) -> Space {
    let functions = PLAIN.iter().map(|n| named(n).unwrap()).collect();
    Space { functions, variables, size: 30, constants: Some((1e-2, 10.0)), powers: true, required: Vec::new() }
}

fn found(truth: &str, table: &Columns, rounds: u64) -> (Formula, f64) {
    let target = values(&parse(truth), table);
    let problem = Problem::new(table.clone(), target, None, Loss::Square, space(table.columns.len()), Strategy::default(), 1);
    let mut state = problem.start();
    for _ in 0..rounds {
        problem.round(&mut state, 1);
        if state.front().last().is_some_and(|w| w.loss < 1e-20 * problem.baseline) {
            break;
        }
    }
    let last = (*state.front().last().unwrap()).clone();
    (last.formula, last.loss / problem.baseline)
}

#[test]
fn small_formulas_are_found() {
    for (truth, columns) in
        [("$0 $1 mul", 2), ("$0 square -0.5 mul exp 0.3989422804014327 mul", 1), ("$0 $1 sub square $2 $3 sub square add sqrt", 4)]
    {
        let (formula, left) = found(truth, &table(200, columns, 1.0, 5.0), 60);
        assert!(left < 1e-20, "{truth}: {} {left}", formula.text());
    }
}

#[test]
fn laws_are_found_beneath_the_rounding_of_rows() {
    // Variables and targets in f32: what is left is their rounding, which no larger formula is to explain.
    let narrow = |x: f64| f64::from(x as f32);
    let decimal = |x: f64| format!("{x:.8}").parse::<f64>().unwrap();
    let round: [&dyn Fn(f64) -> f64; 2] = [&narrow, &decimal];
    for (k, round) in round.into_iter().enumerate() {
        for (truth, size) in [("$0 $1 mul 0.5 mul $0 sin add", 8), ("$0 square $1 div 3 mul", 6)] {
            let mut table = table(200, 2, 0.5, 3.0);
            let target: Vec<f64> = values(&parse(truth), &table).into_iter().map(round).collect();
            table.columns.iter_mut().flatten().for_each(|x| *x = round(*x));
            let problem = Problem::new(table.clone(), target, None, Loss::Square, space(2), Strategy::default(), 1);
            let mut state = problem.start();
            while !problem.done(&state) {
                problem.round(&mut state, 1);
                assert!(state.rounds < 60, "{truth}, rounding {k}: {:?}", problem.front(&state.hall).last());
            }
            let front = problem.front(&state.hall);
            let last = front.last().unwrap();
            assert!(last.formula.size() <= size, "{truth}, rounding {k}: {}", last.formula.text());
            let exact = values(&parse(truth), &table);
            assert!(values(&last.formula, &table).iter().zip(exact).all(|(a, b)| (a - b).abs() < 1e-13), "{}", last.formula.text());
        }
    }
}

#[test]
fn threads_and_resuming_change_nothing() {
    let table = table(100, 2, 1.0, 3.0);
    let target = values(&parse("$0 $1 add $0 $1 mul 1 add div 0.37 add"), &table);
    let strategy = Strategy { islands: 3, population: 30, round: 60, ..Strategy::default() };
    let problem = Problem::new(table, target, None, Loss::Square, space(2), strategy, 9);
    let (mut one, mut two) = (problem.start(), problem.start());
    for _ in 0..4 {
        problem.round(&mut one, 1);
        problem.round(&mut two, 3);
    }
    assert_eq!(one, two);
}

#[test]
fn numbers_of_all_sizes_are_written() {
    use super::readable::{near, written};
    for x in [1e300, -1e300, 1e-300, f64::MAX, f64::MIN, 5e-324, f64::INFINITY, f64::NAN, 0.0] {
        assert!(near(x).iter().all(|r| (r.value - x).abs() <= 0.01 * x.abs()), "{x}");
        assert!(!written(x).0.is_empty());
    }
    let pi = std::f64::consts::PI;
    for (x, text) in [
        (0.25 * pi, "pi / 4"),
        (1.0 / (4.0 * pi), "1 / (4 * pi)"),
        (-1.0 / 3.0, "-1 / 3"),
        (2f64.sqrt(), "sqrt(2)"),
        (0.37, "0.37"),
        (12.0, "12"),
    ] {
        assert_eq!(written(x).0, text);
    }
}

#[test]
fn formulas_become_shorter() {
    use super::tidy::tidy;
    for (long, short) in [
        ("$0 1 mul 0 add", "$0"),
        ("$0 $0 mul", "$0 square"),
        ("2 3 $0 mul mul", "6 $0 mul"),
        ("$0 exp log $1 2 pow add", "$0 $1 square add"),
        ("$0 -2 $1 mul add", "$0 2 $1 mul sub"),
    ] {
        assert_eq!(tidy(&parse(long)), parse(short), "{long}");
    }
    // The e-graph factors.
    assert_eq!(crate::simplify::shortest(&parse("$0 $1 mul $0 $2 mul add")).size(), 5);
}

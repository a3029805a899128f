//! The identities of Lion-κ in numbers.

use super::{Flow, Member, Not, Shape, falls, member, shape, walls};
use crate::rng::Stream;
use crate::tests::{ADAM, read};
use crate::trace::Run;

fn lion(beta1: f64, beta2: f64, decay: f64, step: &str) -> crate::dag::Dag {
    let text = format!(
        "def train(w, g, m, lr):\n  c = interpolate(g, m, {beta1})\n  update = {step}\n  d = w * {decay}\n  update = update + d\n  update = update * lr\n  m = interpolate(g, m, {beta2})\n  return update, m"
    );
    read(&text).dag().expect("a program")
}

#[test]
fn members_are_known_and_others_are_not() {
    let close = |a: f64, b: f64| (a - b).abs() < 1e-6;
    let seen = member(&lion(0.9, 0.99, 0.3, "sign(c)")).expect("Lion");
    assert!(close(seen.beta1, 0.9) && close(seen.beta2, 0.99) && close(seen.decay, 0.3) && seen.sign, "{seen:?}");
    let soft = member(&lion(0.8, 0.95, 0.0, "tanh(c)")).expect("a smooth Lion");
    assert!(close(soft.beta1, 0.8) && !soft.sign, "{soft:?}");
    let heavy = member(&lion(0.9, 0.9, 0.1, "copy(c)")).expect("momentum: K = |x|^2 / 2");
    assert!(close(heavy.beta1, heavy.beta2), "{heavy:?}");
    assert_eq!(member(&lion(0.9, 0.99, 0.3, "cos(c)")), Err(Not::Blend));
    assert_eq!(member(&read(ADAM).dag().expect("a program")), Err(Not::States));
    assert_eq!(
        member(
            &read("def train(w, g, m, lr):\n  m = m + g\n  update = sign(m)\n  update = update * lr\n  return update, m")
                .dag()
                .expect("a program")
        ),
        Err(Not::Momentum)
    );
}

/// The identity of dH/dt with the theorem's two terms, by the exact chain rule.
#[test]
fn the_lyapunov_function_falls_as_the_theorem_says() {
    let mut rng = Stream::new([9, 9]);
    for _ in 0..2000 {
        let positive = |rng: &mut Stream| 0.1 + 2.0 * rng.uniform();
        let (alpha, gamma, lambda) = (positive(&mut rng), positive(&mut rng), positive(&mut rng));
        let epsilon = rng.uniform() / gamma;
        let flow = Flow { p: 1.7, alpha, gamma, lambda, epsilon };
        let draw = |rng: &mut Stream| (0..3).map(|_| rng.normal()).collect::<Vec<f64>>();
        let (x, m, g) = (draw(&mut rng), draw(&mut rng), draw(&mut rng));
        let (dx, dm) = flow.velocity(&x, &m, &g);
        let (hx, hm) = flow.gradient(&x, &m, &g);
        let along: f64 = hx.iter().zip(&dx).chain(hm.iter().zip(&dm)).map(|(a, b)| a * b).sum();
        let size: f64 = hx.iter().zip(&dx).chain(hm.iter().zip(&dm)).map(|(a, b)| (a * b).abs()).sum();
        let decrease = flow.decrease(&x, &m, &g);
        assert!(decrease >= 0.0 && (along + decrease).abs() <= 1e-12 * size.max(1.0), "{along} and {decrease} for {flow:?}");
    }
}

#[test]
fn conjugates_obey_fenchel_and_invert_gradients() {
    let flow = Flow { p: 1.7, alpha: 1.0, gamma: 1.0, lambda: 1.0, epsilon: 0.1 };
    for i in -20..=20 {
        for j in -20..=20 {
            let (x, y) = (f64::from(i) * 0.17, f64::from(j) * 0.23);
            assert!(flow.k(x) + flow.conjugate(y) >= x * y - 1e-12);
        }
        let x = f64::from(i) * 0.17;
        assert!((flow.dconjugate(flow.dk(x)) - x).abs() < 1e-12);
    }
}

#[test]
fn the_lyapunov_function_falls_along_small_steps() {
    let flow = Flow { p: 1.7, alpha: 1.0, gamma: 1.0, lambda: 0.5, epsilon: 0.3 };
    let curvature = [0.3, 1.0, 4.0];
    let f = |x: &[f64]| x.iter().zip(curvature).map(|(x, c)| 0.5 * c * (x - 1.0) * (x - 1.0)).sum::<f64>();
    let (mut x, mut m) = (vec![-2.0, 0.5, 1.5], vec![0.3, -0.2, 0.1]);
    let mut last = f64::INFINITY;
    for _ in 0..4000 {
        let g: Vec<f64> = x.iter().zip(curvature).map(|(x, c)| c * (x - 1.0)).collect();
        let h = flow.lyapunov(f(&x), &x, &m);
        assert!(h <= last + 1e-9, "{h} after {last}");
        last = h;
        let (dx, dm) = flow.velocity(&x, &m, &g);
        for i in 0..3 {
            x[i] += 1e-3 * dx[i];
            m[i] += 1e-3 * dm[i];
        }
    }
}

/// Phase II: the box is kept, and at the end, the rate gone to 0, the conditions of Karush, Kuhn and Tucker hold: slopes below 1e-4 within the box, pointing out of it at its walls.
#[test]
fn lion_solves_the_problem_in_its_box() {
    let (decay, n) = (0.5, 6);
    let dag = lion(0.9, 0.99, decay, "sign(c)");
    let curvature = |i: usize| 0.2 * 1.7f64.powi(i as i32);
    let target = |i: usize| (i as f64 - 2.5) * 1.3;
    let outside = |w: &[f64]| w.iter().map(|x| (x.abs() - 1.0 / decay).max(0.0)).fold(0.0, f64::max);
    let mut run = Run::new(&dag, vec![(0..n).map(|i| if i % 2 == 0 { 12.0 } else { -9.0 }).collect()]);
    let total = 40_000;
    for t in 0..total {
        // A fourth of the steps at 0.01, then less and less, down to 1e-9.
        let fall = (t as f64 / total as f64 - 0.25).max(0.0) / 0.75;
        let lr = 0.01 * 1e-7f64.powf(fall);
        let g: Vec<f64> = (0..n).map(|i| curvature(i) * (run.weights[0][i] - target(i))).collect();
        let before = outside(&run.weights[0]);
        run.step(&[g], lr);
        assert!(outside(&run.weights[0]) <= (1.0 - lr * decay) * before + 1e-12, "step {t}");
    }
    let mut walls = 0;
    for i in 0..n {
        let (x, g) = (run.weights[0][i], curvature(i) * (run.weights[0][i] - target(i)));
        let edge = 1.0 / decay - x.abs() < 1e-3;
        walls += usize::from(edge);
        assert!(if edge { g.signum() == -x.signum() } else { g.abs() < 1e-4 }, "element {i}: {x} with gradient {g}");
        assert_eq!(edge, target(i).abs() > 1.0 / decay, "element {i}");
    }
    assert_eq!(walls, 2);
}

/// Phase I: where all slopes point out of the box the distance to it is (1 - lr l)^t times that of the start, to the last digits.
#[test]
fn distances_to_the_box_fall_as_the_bound_says() {
    let (decay, lr, n) = (0.5, 0.01, 6);
    let dag = lion(0.9, 0.99, decay, "sign(c)");
    let side = |i: usize| if i.is_multiple_of(2) { 1.0 } else { -1.0 };
    let start = |i: usize| 8.03 - 0.7 * i as f64;
    let mut run = Run::new(&dag, vec![(0..n).map(|i| side(i) * (1.0 / decay + start(i))).collect()]);
    for t in 1..=3000 {
        // The optimum is far beyond, so that no sign turns.
        let g: Vec<f64> = (0..n).map(|i| (0.3 + i as f64) * (run.weights[0][i] - 100.0 * side(i))).collect();
        run.step(&[g], lr);
        for (i, w) in run.weights[0].iter().enumerate() {
            let (distance, bound) = (w.abs() - 1.0 / decay, start(i) * (1.0 - lr * decay).powi(t));
            assert!((distance - bound).abs() < 1e-12, "step {t}, element {i}: {distance} and {bound}");
        }
    }
}

/// Without decay and with K = |x|^2 / 2 a member is a momentum method: heavy ball where both shares are equal, Nesterov's where the first is the square of the second, each in a learning rate 1 / (1 - b) times
/// as large.
#[test]
fn members_of_the_square_are_heavy_ball_and_nesterov() {
    let heavy =
        read("def train(w, g, m, lr):\n  m = m * 0.9\n  m = m + g\n  update = m * lr\n  return update, m").dag().expect("a program");
    let nesterov =
        read("def train(w, g, m, lr):\n  m = m * 0.9\n  m = m + g\n  u = m * 0.9\n  u = u + g\n  update = u * lr\n  return update, m")
            .dag()
            .expect("a program");
    // On a quadratic, so that each trace decides its own gradients.
    let trace = |dag: &crate::dag::Dag, lr: f64| {
        let mut run = Run::new(dag, vec![vec![2.0, -1.0, 0.5]]);
        let mut all = Vec::new();
        for _ in 0..200 {
            let g = run.weights[0].iter().enumerate().map(|(i, w)| (0.5 + i as f64) * (w - 0.3)).collect();
            run.step(&[g], lr);
            all.extend(run.weights[0].clone());
        }
        all
    };
    let apart = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
    let (ball, look) = (trace(&lion(0.9, 0.9, 0.0, "copy(c)"), 0.2), trace(&lion(0.81, 0.9, 0.0, "copy(c)"), 0.2));
    assert!(apart(&ball, &trace(&heavy, 0.02)) < 1e-12 && apart(&look, &trace(&nesterov, 0.02)) < 1e-12);
    assert!(apart(&ball, &look) > 1e-2 && apart(&ball, &trace(&nesterov, 0.02)) > 1e-2);
}

#[test]
fn functions_of_members_have_names() {
    let of = |step: &str| {
        let dag = lion(0.9, 0.99, 0.1, step);
        assert!(member(&dag).is_ok(), "{step}: {:?}", member(&dag));
        shape(&dag)
    };
    let close = |a: f64, b: f64| (a - b).abs() < 1e-6;
    assert_eq!(of("sign(c)"), Some(Shape::Sum(1.0)));
    assert!(matches!(of("copy(c)"), Some(Shape::Square(s)) if close(s, 1.0)));
    assert!(matches!(of("cbrt(c)"), Some(Shape::Power(s, p)) if close(s, 1.0) && close(p, 4.0 / 3.0)));
    assert!(matches!(of("cube(c)"), Some(Shape::Power(s, p)) if close(s, 1.0) && close(p, 4.0)));
    let huber = of("min(c, 0.25)\n  update = max(update, -0.25)\n  update = update * 8.0");
    assert!(matches!(huber, Some(Shape::Huber(s, e)) if close(s, 2.0) && close(e, 0.25)), "{huber:?}");
    let zone = of("sign(c)\n  a = abs(c)\n  a = a - 0.05\n  a = sign(a)\n  a = max(a, 0.0)\n  update = update * a");
    assert!(matches!(zone, Some(Shape::DeadZone(s, e)) if close(s, 1.0) && close(e, 0.05)), "{zone:?}");
    assert_eq!(of("tanh(c)"), None);
    assert_eq!(Shape::Power(1.0, 1.5).to_string(), "|x|_p^p / p with p = 1.5");
}

#[test]
fn members_keep_their_box() {
    for step in ["sign(c)", "tanh(c)", "min(c, 1.0)\n  update = max(update, -1.0)", "arctan(c)"] {
        let dag = lion(0.9, 0.99, 0.25, step);
        let known = member(&dag).expect("a member");
        let seen = walls(&dag, &known).expect("a box");
        let sup = if step == "arctan(c)" { std::f64::consts::FRAC_PI_2 } else { 1.0 };
        assert!((seen.bound - 4.0 * sup).abs() < 1e-6 && seen.kept == seen.steps, "{step}: {seen:?}");
        assert!(seen.outside.0 > 3.0 * seen.bound && seen.outside.1 < 1e-6, "{step}: {seen:?}");
        // A box that is too small is not kept.
        let wrong = walls(&dag, &Member { decay: 2.0 * known.decay, ..known }).expect("a box");
        assert!(wrong.kept < wrong.steps && wrong.outside.1 > 0.1, "{step}: {wrong:?}");
    }
    let open = lion(0.9, 0.99, 0.25, "copy(c)");
    assert!(walls(&open, &member(&open).expect("a member")).is_none());
    let free = lion(0.9, 0.99, 0.0, "sign(c)");
    assert!(walls(&free, &member(&free).expect("a member")).is_none());
}

#[test]
fn lion_does_not_see_the_scale_of_gradients_and_has_momentum_forms() {
    let run = |dag: &crate::dag::Dag, scale: f64| {
        let mut run = Run::new(dag, vec![vec![0.5, -1.0, 2.0]]);
        (0..50)
            .map(|t| run.step(&[(0..3).map(|i| scale * ((t * 3 + i) as f64 * 0.71).sin()).collect()], 0.01)[0].clone())
            .collect::<Vec<_>>()
    };
    let dag = lion(0.9, 0.99, 0.1, "sign(c)");
    assert_eq!(run(&dag, 1.0), run(&dag, 1024.0));
    // Equal shares: the sign of the momentum after its update.
    let signum = read("def train(w, g, m, lr):\n  m = interpolate(g, m, 0.9)\n  update = sign(m)\n  d = w * 0.1\n  update = update + d\n  update = update * lr\n  return update, m").dag().expect("a program");
    assert_eq!(run(&lion(0.9, 0.9, 0.1, "sign(c)"), 1.0), run(&signum, 1.0));
}

/// H of members that are programs falls along their flows; with the momentum's sign turned it does not.
#[test]
fn the_lyapunov_function_of_members_falls() {
    let smooth = "def train(w, g, m, lr):\n  c = interpolate(g, m, 0.9)\n  m = interpolate(g, m, 0.95)\n  u = tanh(c)\n  d = w * 0.1\n  u = u + d\n  update = u * lr\n  return update, m";
    let signs = "def train(w, g, m, lr):\n  c = interpolate(g, m, 0.9)\n  m = interpolate(g, m, 0.99)\n  u = sign(c)\n  d = w * 0.1\n  u = u + d\n  update = u * lr\n  return update, m";
    let free = "def train(w, g, m, lr):\n  c = interpolate(g, m, 0.8)\n  m = interpolate(g, m, 0.9)\n  u = arctan(c)\n  update = u * lr\n  return update, m";
    for text in [smooth, signs, free] {
        let dag = crate::tests::read(text).dag().expect("a program");
        let known = member(&dag).expect("a member");
        let fall = falls(&dag, &known);
        assert!(fall.falling == fall.steps && fall.ends.1 < 0.5 * fall.ends.0, "{text}: {fall:?}");
        // What the theory does not ask for: more of the momentum in the step than it keeps.
        let wrong = falls(&dag, &Member { beta1: 3.0 * known.beta2, ..known });
        assert!(wrong.falling < wrong.steps || wrong.ends.1 > fall.ends.1, "{text}: {wrong:?}");
    }
}

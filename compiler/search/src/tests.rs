//! Programs end to end: text, meaning, identity, mutation, print.

mod coupled;
mod evolution;
mod properties;

use crate::fun::{Fun, HERO};
use crate::genome::Genome;
use crate::hash::keys;
use crate::live::{Horizon, live, without_dead_code};
use crate::text;
use crate::trace::updates;
use optc_base::SourceId;
use optc_ir::scalar::ScalarOp;

pub(crate) fn read(program: &str) -> Genome {
    text::read(SourceId(0), program).unwrap_or_else(|d| panic!("{}\n{program}", d.message)).genome
}

/// The program that Lion was simplified from (Chen et al. 2023, program 4, in its own words).
pub(crate) const RAW_LION: &str = "
def train(w, g, m, v, lr):
  g = clip(g, lr)
  g = arcsin(g)
  m = interp(g, v, 0.899)
  m2 = m * m
  v = interp(g, m, 1.109)
  abs_m = sqrt(m2)
  update = m / abs_m
  wd = w * 0.4602
  update = update + wd
  lr = lr * 0.0002
  m = cosh(update)
  update = update * lr
  return update, m, v
";

pub(crate) const ADAM: &str = "
def train(w, g, m, v, lr):
  m = interpolate(m, g, 0.1)
  g2 = square(g)
  v = interpolate(v, g2, 0.001)
  d = sqrt(v)
  update = m / d
  decay = w * 0.01
  update = update + decay
  update = update * lr
  return (update, m, v)
";

pub(crate) fn gradients(steps: usize, lens: &[usize]) -> Vec<Vec<Vec<f64>>> {
    let value = |s: usize, l: usize, i: usize| ((s * 31 + l * 17 + i * 7 + 3) as f64 * 0.7311).sin() * 1.5;
    (0..steps).map(|s| lens.iter().enumerate().map(|(l, n)| (0..*n).map(|i| value(s, l, i)).collect()).collect()).collect()
}

pub(crate) fn weights(lens: &[usize]) -> Vec<Vec<f64>> {
    lens.iter().enumerate().map(|(l, n)| (0..*n).map(|i| ((l * 5 + i) as f64 * 0.37).cos()).collect()).collect()
}

#[test]
fn the_start_program_steps_like_a_reference_written_by_hand() {
    let genome = read(ADAM);
    let lens = [3, 4];
    let (w0, gs) = (weights(&lens), gradients(10, &lens));
    let got = updates(&genome.dag().expect("a program"), &w0, &gs, 0.01);
    let mut w = w0;
    let (mut m, mut v) = (vec![vec![0.0; 4]; 2], vec![vec![0.0; 4]; 2]);
    for (step, g) in gs.iter().enumerate() {
        for (leaf, n) in lens.iter().enumerate() {
            for i in 0..*n {
                m[leaf][i] = (1.0 - 0.1) * m[leaf][i] + 0.1 * g[leaf][i];
                v[leaf][i] = (1.0 - 0.001) * v[leaf][i] + 0.001 * (g[leaf][i] * g[leaf][i]);
                let u = (m[leaf][i] / (f64::sqrt(v[leaf][i].abs()) + 1e-8) + w[leaf][i] * 0.01) * 0.01;
                assert_eq!(got[step][leaf][i].to_bits(), u.to_bits(), "step {step}, leaf {leaf}, element {i}");
                w[leaf][i] -= u;
            }
        }
    }
}

#[test]
fn every_function_of_hero_has_its_protected_meaning() {
    let (x, y, a) = (-0.4f64, 1.7f64, 0.25f64);
    let reference = |name: &str| -> f64 {
        match name {
            "get_pi" => std::f64::consts::PI,
            "get_e" => std::f64::consts::E,
            "get_eps" => 1e-8,
            "abs" => 0.4,
            "cos" => x.cos(),
            "sin" => x.sin(),
            "tan" => x.tan(),
            "arcsin" => x.asin(),
            "arccos" => x.acos(),
            "arctan" => x.atan(),
            "sinh" => x.sinh(),
            "cosh" => x.cosh(),
            "tanh" => x.tanh(),
            "arcsinh" => x.asinh(),
            "arccosh" => f64::NAN,
            "arctanh" => x.atanh(),
            "exp" => x.exp(),
            "exp2" => x.exp2(),
            "exp10" => 10f64.powf(x),
            "expm1" => x.exp_m1(),
            "log" => 0.4f64.ln(),
            "log10" => 0.4f64.log10(),
            "log2" => 0.4f64.log2(),
            "log1p" => 0.6f64.ln(),
            "square" => 0.4 * 0.4,
            "sqrt" => 0.4f64.sqrt(),
            "cube" => -0.4f64 * 0.4 * 0.4,
            "cbrt" => x.cbrt(),
            "sign" => -1.0,
            "reciprocal" => -2.5,
            "norm" | "global_norm" => 0.4,
            "invert" => 1.4,
            "negative" => 0.4,
            "interpolate" => 0.75 * x + 0.25 * y,
            "dot" => x * y,
            "cosine_sim" => x * y / (0.4 * 1.7 + 1e-8),
            "clip_by_global_norm" => x * f64::min(1.0, y / 0.4),
            "power" => x.powf(y),
            "add" => x + y,
            "sub" => x - y,
            "mul" => x * y,
            "div" => x / (y + 1e-8),
            "max" => y,
            "min" => x,
            _ => panic!("no reference for {name}"),
        }
    };
    for (name, fun) in HERO {
        let args = ["w", "g", "0.25"][..fun.arity()].join(", ");
        // One leaf of one element: arrays are what numbers would be.
        let dag = read(&format!("def train(w, g):\n  update = {name}({args})\n  return update")).dag().expect("a program");
        let got = updates(&dag, &[vec![x]], &[vec![vec![y]]], 0.0)[0][0][0];
        let want = reference(name);
        assert!((got - want).abs() <= 1e-14 * want.abs().max(1.0) || got.is_nan() && want.is_nan(), "{name}: {got} where {want} is right");
        let _ = a;
    }
}

#[test]
fn protected_operations_do_not_fail_at_zero() {
    let at = |text: &str, g: f64| updates(&read(text).dag().expect("a program"), &[vec![1.0]], &[vec![vec![g]]], 0.1)[0][0][0];
    assert_eq!(at("def train(w, g):\n  update = w / g\n  return update", 0.0), 1e8);
    assert_eq!(at("def train(w, g):\n  update = sqrt(g)\n  return update", -4.0), 2.0);
    assert_eq!(at("def train(w, g):\n  update = log(g)\n  return update", -1.0), 0.0);
    assert_eq!(at("def train(w, g):\n  update = clip_by_global_norm(g, 1.0)\n  return update", -4.0), -1.0);
    assert!(at("def train(w, g):\n  update = clip_by_global_norm(g, 1.0)\n  return update", 0.0) == 0.0);
    assert_eq!(at("def train(w, g):\n  update = cosine_sim(w, g)\n  return update", 0.0), 0.0);
}

#[test]
fn norms_are_of_leaves_or_of_all() {
    let dag =
        read("def train(w, g):\n  n = norm(g)\n  a = global_norm(g)\n  b = global_norm(n)\n  d = a - b\n  update = n + d\n  return update");
    let dag = dag.dag().expect("a program");
    let got = updates(&dag, &[vec![0.0; 2], vec![0.0]], &[vec![vec![3.0, 4.0], vec![12.0]]], 0.0);
    assert_eq!(got[0], vec![vec![5.0, 5.0], vec![12.0]]);
    // An array of ones is an array: its sum is the number of its elements.
    let dag = read("def train(w, g):\n  x = power(g, 0.0)\n  n = sum(x)\n  update = g * n\n  return update").dag().expect("a program");
    let got = updates(&dag, &[vec![0.0; 2], vec![0.0]], &[vec![vec![3.0, 4.0], vec![12.0]]], 0.0);
    assert_eq!(got[0], vec![vec![6.0, 8.0], vec![12.0]]);
}

#[test]
fn raw_lion_has_twelve_live_statements_in_one_step_and_eleven_in_a_run() {
    let genome = read(RAW_LION);
    let count = |h| live(&genome, h).into_iter().filter(|a| *a).count();
    assert_eq!((genome.body.len(), count(Horizon::Step), count(Horizon::Run)), (12, 12, 11));
    let bare = without_dead_code(&genome);
    assert_eq!((bare.body.len(), bare.states.len()), (11, 1));
    assert_eq!(keys(&bare.dag().expect("a program")), keys(&genome.dag().expect("a program")));
}

/// Fifty statements of which thirteen matter: temporaries nobody reads, chains that end nowhere, values that are overwritten, a state that only feeds itself.
const REDUNDANT: &str = "
def train(w, g, m, v, k, lr):
  a = w + w
  b = g * 0.3
  c = a - b
  m = interpolate(m, g, 0.1)
  d = c / a
  d = d * d
  e = square(g)
  k = k + a
  f = e + d
  v = interpolate(v, e, 0.01)
  f = sqrt(f)
  h = v + 0.5
  h = h * h
  i = sin(h)
  i = cos(i)
  j = sqrt(v)
  k = k * 0.5
  l = tanh(i)
  n = m * 0.9
  o = g * 0.1
  p = l - f
  q = n + o
  r = p + q
  r = exp(r)
  s = q / j
  t1 = r - s
  t2 = t1 * t1
  update = t2 + 1.0
  t3 = sign(q)
  t4 = t3 * 0.25
  t5 = t2 / t1
  t6 = t5 + w
  update = s + t3
  t6 = t6 - a
  wd = w * 0.01
  t7 = wd * t6
  t8 = abs(t7)
  t8 = negative(t8)
  update = update + wd
  t9 = t8 + update
  t10 = t9 * lr
  t11 = max(t10, t9)
  t12 = min(t11, w)
  k = k - t12
  t13 = cube(t12)
  t13 = arctan(t13)
  update = update * lr
  t14 = t13 + update
  t15 = t14 * t14
  m2 = t15 + m
  return update, m, v, k
";

#[test]
fn a_redundant_program_reduces_to_its_thirteen_live_statements() {
    let genome = read(REDUNDANT);
    let bare = without_dead_code(&genome);
    assert_eq!((genome.body.len(), bare.body.len(), bare.states.len()), (50, 13, 2));
    let (whole, bare_dag) = (genome.dag().expect("a program"), bare.dag().expect("a program"));
    assert_eq!(keys(&whole), keys(&bare_dag));
    let lens = [5, 2];
    let (w, gs) = (weights(&lens), gradients(6, &lens));
    assert_eq!(updates(&whole, &w, &gs, 0.1), updates(&bare_dag, &w, &gs, 0.1));
}

#[test]
fn identity_ignores_names_order_and_duplicates_but_nothing_that_matters() {
    let key = |text: &str| keys(&read(text).dag().expect("a program"));
    let base =
        key("def train(w, g, m, v, lr):\n  m = interpolate(m, g, 0.1)\n  v = v + g\n  u = m * v\n  update = u * lr\n  return update, m, v");
    let swapped =
        key("def train(w, g, a, b, lr):\n  a = g + a\n  b = interpolate(b, g, 0.1)\n  x = a * b\n  update = lr * x\n  return update, a, b");
    assert_eq!(base, swapped);
    // Two states that always hold the same are one.
    let doubled = key(
        "def train(w, g, m, v, k, lr):\n  m = interpolate(m, g, 0.1)\n  k = interpolate(k, g, 0.1)\n  v = v + g\n  u = k * v\n  update = u * lr\n  return update, m, v, k",
    );
    assert_eq!(base, doubled);
    let other_number =
        key("def train(w, g, m, v, lr):\n  m = interpolate(m, g, 0.2)\n  v = v + g\n  u = m * v\n  update = u * lr\n  return update, m, v");
    assert!(other_number.exact != base.exact && other_number.family == base.family);
    let other_start = key(
        "def train(w, g, m=1.0, v=0.0, lr):\n  m = interpolate(m, g, 0.1)\n  v = v + g\n  u = m * v\n  update = u * lr\n  return update, m, v",
    );
    assert_ne!(other_start.exact, base.exact);
    // Not the same to the last bit, but of one family.
    let (left, right) = (
        key("def train(w, g, lr):\n  u = w + g\n  update = u + lr\n  return update"),
        key("def train(w, g, lr):\n  u = g + lr\n  update = w + u\n  return update"),
    );
    assert!(left.exact != right.exact && left.family == right.family);
    let minus = key("def train(w, g, lr):\n  u = w - g\n  update = u + lr\n  return update");
    assert_ne!(minus.family, left.family);
}

#[test]
fn text_reads_back_as_it_was() {
    for program in [RAW_LION, ADAM, REDUNDANT] {
        let genome = read(program);
        let again = read(&text::write(&genome));
        assert_eq!(text::write(&again), text::write(&genome));
        assert_eq!(keys(&again.dag().expect("a program")), keys(&genome.dag().expect("a program")));
    }
}

#[test]
fn what_is_outside_the_subset_is_said_with_a_code() {
    let code = |text: &str| text::read(SourceId(0), text).err().map(|d| d.code.0);
    assert_eq!(code("def train(w, g):\n  if w:\n    x = g\n  return x"), Some("E0801"));
    assert_eq!(code("def train(w, g):\n  x = g ** 2\n  return x"), Some("E0801"));
    assert_eq!(code("def train(w, g):\n  x = g[0]\n  return x"), Some("E0801"));
    assert_eq!(code("def train(w, g):\n  x = grad(g)\n  return x"), Some("E0802"));
    assert_eq!(code("def train(w, g):\n  x = y + g\n  return x"), Some("E0802"));
    assert_eq!(code("def train(w, g):\n  x = sqrt(g, w)\n  return x"), Some("E0802"));
    assert_eq!(code("def train(w, lr):\n  x = w\n  return x"), Some("E0803"));
    assert_eq!(code("def train(w, g, m):\n  x = g\n  return x"), Some("E0803"));
    assert_eq!(code("def train(w, w, g):\n  x = g\n  return x"), Some("E0803"));
    assert_eq!(code("def train(w, g, lr):\n  x = dot(g, lr)\n  return x"), Some("E0804"));
    assert_eq!(code("x = 1"), Some("E0801"));
    assert_eq!(code(""), Some("E0801"));
    assert_eq!(code(&format!("def train(w, g):\n  x = {}g\n  return x", "-".repeat(5000))), Some("E0801"));
    assert_eq!(code(&format!("def train(w, g):\n  x = {}g\n  return x", "(".repeat(5000))), Some("E0801"));
    assert_eq!(code("def train(w, g, m, v):\n  return g, v, m"), None);
}

#[test]
fn results_that_change_places_are_assigned_at_once() {
    let dag = read("def train(w, g, m=1.0, v=2.0):\n  update = m - v\n  return update, v, m").dag().expect("a program");
    let got = updates(&dag, &[vec![0.0]], &vec![vec![vec![0.0]]; 3], 0.0);
    assert_eq!(got.iter().map(|u| u[0][0]).collect::<Vec<_>>(), [-1.0, 1.0, -1.0]);
}

#[test]
fn powers_are_what_the_language_makes_of_them() {
    let dag = |text: &str| read(text).dag().expect("a program");
    let square = dag("def train(w, g):\n  update = power(g, 2.0)\n  return update");
    assert_eq!(keys(&square), keys(&dag("def train(w, g):\n  update = g * g\n  return update")));
    let real = dag("def train(w, g):\n  update = power(g, 2.5)\n  return update");
    assert!(real.nodes.iter().any(|n| matches!(n, crate::dag::Node::Map(ScalarOp::Pow, _))));
    assert_eq!(Fun::Power.arity(), 2);
}

mod simplification {
    use super::{RAW_LION, gradients, read, weights};
    use crate::hash::keys;
    use crate::live::without_dead_code;
    use crate::simplify::{Class, simplify, worst};
    use crate::text;
    use crate::trace::updates;

    /// Lion as it was published, its numbers left open by the family key.
    const LION: &str = "
def train(w, g, m, lr):
  c = interpolate(g, m, 0.9)
  update = sign(c)
  decay = w * 0.4602
  update = update + decay
  update = update * lr
  m = interpolate(g, m, 0.99)
  return update, m
";

    #[test]
    fn raw_lion_becomes_lion() {
        let simplified = simplify(&read(RAW_LION), Class::Approximate).expect("a program");
        let text = text::write(&simplified.genome);
        let family = |g: &crate::genome::Genome| keys(&g.dag().expect("a program")).family;
        let steps: Vec<String> =
            simplified.steps.iter().map(|s| format!("{} [{}]: {} -> {}", s.rule, s.class.letter(), s.before, s.after)).collect();
        assert_eq!(family(&simplified.genome), family(&read(LION)), "{text}\n{}", steps.join("\n"));
        assert_eq!(simplified.rate, 0.0002);
        for wanted in ["sqrt-square", "div-abs", "interpolate-fold", "clip-gradient", "arcsin-small", "rate"] {
            assert!(simplified.steps.iter().any(|s| s.rule == wanted), "{wanted} in\n{}", steps.join("\n"));
        }
        assert!(simplified.steps.iter().all(|s| !s.condition.is_empty()));
    }

    #[test]
    fn two_averages_are_one_with_the_product_of_their_weights() {
        let raw = "
def train(w, g, m, v, lr):
  m = interp(g, v, 0.8999999761581421)
  v = interp(g, m, 1.109133005142212)
  update = v * lr
  return update, m, v
";
        let simplified = simplify(&read(raw), Class::Real).expect("a program");
        let text = text::write(&simplified.genome);
        assert!(text.contains("0.9982196781841992"), "{text}");
        assert_eq!(worst(&simplified.steps), Class::Real);
        let lens = [6];
        let (w, gs) = (weights(&lens), gradients(50, &lens));
        let (a, b) = (read(raw).dag().expect("a program"), simplified.genome.dag().expect("a program"));
        for (x, y) in updates(&a, &w, &gs, 0.1).iter().flatten().flatten().zip(updates(&b, &w, &gs, 0.1).iter().flatten().flatten()) {
            assert!((x - y).abs() < 1e-13, "{x} and {y}");
        }
    }

    #[test]
    fn values_that_are_doubled_again_and_again_take_no_time() {
        let doubled: String = (0..60).map(|_| "  x = x * x\n").collect();
        let genome = read(&format!(
            "def train(w, g, m, lr):\n  x = g + m\n{doubled}  m = x + m\n  y = x * x\n  update = y * lr\n  return update, m"
        ));
        assert_eq!(simplify(&genome, Class::Approximate).expect("a program").genome.body.len(), genome.body.len());
        let text = crate::print::source(&genome, &crate::print::Heading { name: "doubled", doc: &[], lr: 0.1 });
        assert!(text.lines().count() > 60);
    }

    #[test]
    fn what_intervals_show_to_be_finite_goes() {
        let of = |body: &str, class| {
            let text =
                format!("def train(w, g, m, lr):\n{body}  m = interpolate(g, m, 0.9)\n  u = x + m\n  update = u * lr\n  return update, m");
            let simplified = simplify(&read(&text), class).expect("a program");
            let rules: Vec<&str> = simplified.steps.iter().map(|s| s.rule).collect();
            (simplified.genome.body.iter().filter(|s| s.fun != crate::fun::Fun::Copy).count(), rules)
        };
        // Averages of gradients are bounded, and so is what tanh gives; an exponential of a gradient is not.
        for (body, rule) in [
            ("  a = tanh(g)\n  x = a - a\n", "sub-same-finite"),
            ("  x = m - m\n", "sub-same-finite"),
            ("  a = square(m)\n  x = a * 0.0\n", "mul-zero-finite"),
        ] {
            let (count, rules) = of(body, Class::Real);
            assert!(count == 2 && rules.contains(&rule), "{body}{count} {rules:?}");
            assert!(of(body, Class::Exact).0 > 2);
        }
        for body in ["  a = exp(g)\n  x = a - a\n", "  a = log(g)\n  x = a * 0.0\n"] {
            assert!(of(body, Class::Real).0 > 2 && of(body, Class::Approximate).0 == 2, "{body}");
        }
        // A sum of squares grows, but not beyond f32 in a million steps.
        let sum = "def train(w, g, v, lr):\n  q = square(g)\n  v = v + q\n  x = v - v\n  y = x + g\n  d = sqrt(v)\n  y = y / d\n  update = y * lr\n  return update, v";
        assert!(simplify(&read(sum), Class::Real).expect("a program").steps.iter().any(|s| s.rule == "sub-same-finite"));
    }

    #[test]
    fn cubes_and_quotients_by_one_are_rewritten() {
        let of = |body: &str, class| {
            let text = format!("def train(w, g, lr):\n{body}  update = u * lr\n  return update");
            simplify(&read(&text), class).expect("a program")
        };
        let long = of("  a = g * g\n  u = a * g\n", Class::Exact);
        assert!(long.steps.iter().any(|s| s.rule == "product-cube") && text::write(&long.genome).contains("cube(g)"), "{:?}", long.steps);
        let one = of("  u = g / 1.0\n", Class::Real);
        assert!(
            one.steps.iter().any(|s| s.rule == "div-one-protected")
                && one.genome.body.iter().filter(|s| s.fun != crate::fun::Fun::Copy).count() == 1
        );
        assert!(of("  u = g / 1.0\n", Class::Exact).steps.is_empty());
    }

    #[test]
    fn each_class_keeps_to_its_rules() {
        let exact = simplify(&read(RAW_LION), Class::Exact).expect("a program");
        assert_eq!(worst(&exact.steps), Class::Exact);
        let bare = without_dead_code(&read(RAW_LION));
        let lens = [5, 3];
        let (w, gs) = (weights(&lens), gradients(8, &lens));
        assert_eq!(
            updates(&exact.genome.dag().expect("a program"), &w, &gs, 0.01),
            updates(&bare.dag().expect("a program"), &w, &gs, 0.01)
        );
    }
}

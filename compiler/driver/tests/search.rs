//! Programs of the search: every one is printed as a spec that checks, and that leads back to the same program.

use optc::search::seed::{Refused, seed};
use optc::search::spec;
use optc_search::fun::{Fun, HERO};
use optc_search::genome::Genome;
use optc_search::hash::keys;
use optc_search::mutate::{EVEN, Space, mutate, with_states};
use optc_search::rng::Stream;
use optc_search::run::Conditions;
use optc_search::text;

/// Evaluation nests deeper than the stack of a test's thread.
fn with_stack(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(256 << 20).spawn(work).expect("a thread").join().expect("no panic");
}

fn read(program: &str) -> Genome {
    text::read(Default::default(), program).unwrap_or_else(|d| panic!("{}", d.message)).genome
}

fn refused(r: Refused) -> String {
    match r {
        Refused::Beyond(why) => why,
        Refused::Spec(s) => s.diagnostics.iter().map(|d| d.render(&s.program.sources, false)).collect(),
    }
}

/// The program that the printed form of a program is read as.
fn through_spec(genome: &Genome) -> (String, Result<Genome, String>) {
    let text = spec::of(genome, "found", &[], 0.01);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("found.opt");
    std::fs::write(&path, &text).expect("written");
    let back = seed("found", Some(&path)).map(|s| s.genome).map_err(refused);
    (text, back)
}

#[test]
fn every_function_of_hero_prints_as_what_it_means() {
    with_stack(|| {
        let mut faults = Vec::new();
        let more = ["sum", "total"].map(|name| (name, Fun::named(name).expect("a function")));
        for (name, fun) in HERO.iter().chain(&more) {
            // The value is scaled and shifted, so that numbers alone are updates of leaves too. Of arrays, of numbers of each leaf, and of numbers of all.
            for before in ["", "  m = norm(m)\n  g = sum(g)\n", "  m = lr + 0.5\n  g = lr * 3.0\n"] {
                if !before.is_empty() && fun.elementwise() {
                    continue;
                }
                let args = ["m", "g", "0.25"][..fun.arity()].join(", ");
                let genome = read(&format!(
                    "def train(w, g, m, lr):\n  d = g * lr\n  m = m + g\n{before}  u = {name}({args})\n  update = u * w\n  update = update + d\n  return update, m"
                ));
                let (text, back) = through_spec(&genome);
                match back.map(|b| b.dag()) {
                    Ok(Ok(dag)) if keys(&dag) == keys(&genome.dag().expect("a program")) => {}
                    other => faults.push(format!("{name}:\n{text}\n{other:?}")),
                }
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    });
}

#[test]
fn mutants_print_as_specs_that_lead_back() {
    with_stack(|| {
        let space = Space { statements: 30, states: 3, step_count: true, ..Space::default() };
        let start = with_states(
            &read(
                "def train(w, g, m, v, lr):\n  m = interpolate(m, g, 0.1)\n  q = g * g\n  v = interpolate(v, q, 0.01)\n  d = sqrt(v)\n  update = m / d\n  update = update * lr\n  return update, m, v",
            ),
            &space,
        );
        let mut genome = start.clone();
        let mut faults = Vec::new();
        for n in 0..120 {
            if n % 20 == 0 {
                genome = start.clone();
            }
            if let Some((child, _)) = mutate(&genome, &space, EVEN, &mut Stream::at([11, 0], 0, n)) {
                genome = child;
            }
            if n % 4 != 0 {
                continue;
            }
            let (text, back) = through_spec(&genome);
            match back.map(|b| b.dag()) {
                Ok(Ok(dag)) if keys(&dag).exact == keys(&genome.dag().expect("a program")).exact => {}
                other => faults.push(format!("{}\n{text}\n{:?}", text::write(&genome), other.err())),
            }
        }
        assert!(faults.is_empty(), "{} faults, the first:\n{}", faults.len(), faults[0]);
    });
}

#[test]
fn optimizers_of_the_library_are_programs_or_say_why_not() {
    with_stack(|| {
        for (name, states) in [
            ("sgd", 0),
            ("lion", 1),
            ("adamw", 2),
            ("adam", 2),
            ("rmsprop", 1),
            ("adagrad", 1),
            ("adabelief", 2),
            ("signum", 1),
            ("adamax", 2),
            ("yogi", 2),
            ("lamb(weight_decay = 0.1)", 2),
            ("lars", 1),
            ("fromage", 0),
            ("clip_by_global_norm(0.5) |> adamw", 2),
            ("normalize() |> sgd(momentum = 0.9)", 1),
            ("scale_by_leaf_norm() |> sgd", 0),
            // A number of the leaf, and a number for all leaves, as states.
            ("adanorm", 3),
            ("nadam", 3),
        ] {
            let found = seed(name, None).unwrap_or_else(|r| panic!("{name}: {}", refused(r)));
            let dag = found.genome.dag().expect("a program");
            assert_eq!((dag.states.len(), found.lr > 0.0), (states, true), "{name}:\n{}", text::write(&found.genome));
            assert!(dag.reads(optc_search::dag::Input::G), "{name}");
            let (text, back) = through_spec(&found.genome);
            let back = back.unwrap_or_else(|why| panic!("{name}: {why}\n{text}"));
            assert_eq!(keys(&back.dag().expect("a program")).exact, keys(&dag).exact, "{name}:\n{text}\n{}", text::write(&found.genome));
        }
        for (name, why) in [
            ("muon", "condition at run time"),
            ("clip_by_global_norm", "transforms"),
            ("sgld", "random"),
            ("sam", "loss again"),
            ("novograd", "condition at run time"),
            ("dowg", "starts as the weights"),
            ("dog", "starts as the weights"),
            ("clip_by_leaf_rms(0.5) |> sgd", "how many elements"),
        ] {
            let said = seed(name, None).err().map(refused).unwrap_or_default();
            assert!(said.contains(why), "{name}: {said}");
        }
    });
}

/// A spec with a task of digits' size whose data need no file.
const TASK: &str = r#"
import std.optim.{sgd, adamw, lion, lamb, clip_by_global_norm}
import std.nn.{linear, relu}
import std.loss.cross_entropy

data blobs {
  let made = generate(640) { i -> { with seed = 3 { let c = i % 10; { x = random.normal([64]) * 0.5 + one_hot(c, 64), y = c as i32 } } } }
  x = made.x
  y = made.y
  split train = 0.8, test = 0.2, seed = 0
}
model mlp(x: f32[B, In]) -> f32[B, 10] { linear(relu(linear(x, 32)), 10) }
train net {
  data      blobs.train, batch = 64, shuffle = true
  model     net = mlp()
  loss      cross_entropy(net(x), y)
  optimizer sgd(lr = 0.1)
  steps     40
  metric    validation = cross_entropy(net(x), y) on blobs.test every 40
}
"#;

#[test]
fn a_candidates_run_is_the_optimizers_training() {
    use optc::search::evaluate::Bench;
    use optc::search::task::{Request, task};
    with_stack(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("task.opt");
        std::fs::write(&path, TASK).expect("written");
        let request = Request {
            file: &path,
            train: "net",
            label: "net",
            set: &[],
            metric: Some("validation"),
            seeds: &[0, 5],
            rates: &[0.1, 0.01],
            states: 2,
            conditions: Conditions::default(),
        };
        let task = task(&request).unwrap_or_else(|r| match r {
            optc::search::task::Refused::Beyond(why) => panic!("{why}"),
            optc::search::task::Refused::Run(d, s) => panic!("{}", d.render(&s.program.sources, false)),
            optc::search::task::Refused::Spec(s) => {
                panic!("{}", s.diagnostics.iter().map(|d| d.render(&s.program.sources, false)).collect::<String>())
            }
        });
        let mut bench = Bench::new(task).expect("a machine with code");
        for (name, expression) in [
            ("sgd", "sgd(lr = 0.1)"),
            ("adamw", "adamw(lr = 0.1)"),
            ("lion", "lion(lr = 0.1, weight_decay = 0.3)"),
            ("lamb", "lamb(lr = 0.1, weight_decay = 0.1)"),
            ("clip", "clip_by_global_norm(0.2) |> adamw(lr = 0.1)"),
        ] {
            let genome = seed(expression, None).map_err(refused).expect("a program").genome;
            let outcome = bench.run(&genome.dag().expect("a program")).expect("it runs").expect("few states");
            // The same training through the command line.
            for (s, run_seed) in [0, 5].into_iter().enumerate() {
                for (r, lr) in [0.1, 0.01].into_iter().enumerate() {
                    let optimizer = expression.replace("lr = 0.1", &format!("lr = {lr}"));
                    let script = format!(
                        "{TASK}\nexperiment e {{\n  let r = run net with {{ seed = {run_seed}, optimizer = {optimizer} }}\n  save \"out.json\", {{ v = r.validation.last, l = r.loss.last }}\n}}\n"
                    );
                    let spec_path = folder.path().join("run.opt");
                    std::fs::write(&spec_path, script).expect("written");
                    let out = std::process::Command::new(env!("CARGO_BIN_EXE_optc"))
                        .args(["run", "-q"])
                        .arg(&spec_path)
                        .arg("e")
                        .output()
                        .expect("it runs");
                    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
                    let saved = std::fs::read_to_string(folder.path().join("out.json")).expect("saved");
                    let number = |key: &str| -> f64 {
                        let at = saved.find(&format!("\"{key}\"")).expect("a key");
                        saved[at..]
                            .split(':')
                            .nth(1)
                            .expect("a value")
                            .trim()
                            .split([',', '}', '\n'])
                            .next()
                            .expect("a number")
                            .trim()
                            .parse()
                            .expect("a number")
                    };
                    let loss = f64::from(bench.losses()[(s * 2 + r) * 40 + 39]);
                    // Bit for bit: the sums over leaves too.
                    assert_eq!((loss as f32).to_bits(), (number("l") as f32).to_bits(), "{name}, lr {lr}: loss {loss} and {}", number("l"));
                    let score = outcome.scores[s][r];
                    assert!((score - number("v")).abs() <= 2e-5 * score.abs(), "{name}, lr {lr}: {score} and {}", number("v"));
                }
            }
        }
    });
}

/// Imported trains that draw their instance, their examples and what their metric looks at.
const IMPORTED: &str = r#"
import std.optim.adamw
import std.search.tasks.{axis_quadratic, teacher_student}
import std.search.tasks as tasks
"#;

#[test]
fn an_imported_task_is_the_train_that_runs() {
    use optc::search::evaluate::Bench;
    use optc::search::task::{Request, task};
    with_stack(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, run) = (folder.path().join("task.opt"), folder.path().join("run.opt"));
        std::fs::write(&path, IMPORTED).expect("written");
        let genome = seed("adamw", None).map_err(refused).expect("a program").genome;
        let cases = [
            ("axis_quadratic", ["d=4", "steps=100"], "axis_quadratic"),
            ("tasks.teacher_student", ["width=6", "activation=silu"], "teacher_student"),
        ];
        for (train, set, name) in cases {
            let set = set.map(String::from);
            let request = Request {
                file: &path,
                train,
                label: train,
                set: &set,
                metric: Some("validation_loss"),
                seeds: &[3, 8],
                rates: &[0.02],
                states: 2,
                conditions: Conditions::default(),
            };
            let Ok(task) = task(&request) else { panic!("{train} is no task") };
            let mut bench = Bench::new(task).expect("a machine with code");
            let outcome = bench.run(&genome.dag().expect("a program")).expect("it runs").expect("few states");
            let settings = set.join(", ").replace('=', " = ");
            let script = format!(
                "{IMPORTED}\nexperiment e {{\n  let r = [run {name} with {{ {settings}, seed = s, optimizer = adamw(lr = 0.02) }} for s in [3, 8]]\n  save \"out.json\", r.validation_loss.last\n}}\n"
            );
            std::fs::write(&run, script).expect("written");
            let out =
                std::process::Command::new(env!("CARGO_BIN_EXE_optc")).args(["run", "-q"]).arg(&run).arg("e").output().expect("it runs");
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            let saved = std::fs::read_to_string(folder.path().join("out.json")).expect("saved");
            let numbers: Vec<f64> = saved.split(|c: char| !"+-.0123456789e".contains(c)).filter_map(|w| w.parse().ok()).collect();
            assert!(numbers.len() == 2 && numbers[0] != numbers[1] && numbers.iter().all(|x| *x > 0.0), "{saved}");
            for (row, expected) in outcome.scores.iter().zip(&numbers) {
                assert!((row[0] - expected).abs() <= 1e-5 * expected, "{train}: {} and {expected}", row[0]);
            }
        }
    });
}

#[test]
fn a_run_that_diverges_ends_early() {
    use optc::search::evaluate::Bench;
    use optc::search::task::{Request, task};
    with_stack(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("task.opt");
        std::fs::write(&path, TASK).expect("written");
        let request = Request {
            file: &path,
            train: "net",
            label: "net",
            set: &["steps=200".to_string()],
            metric: None,
            seeds: &[0],
            rates: &[1e-2, 1e30],
            states: 0,
            conditions: Conditions::default(),
        };
        let Ok(task) = task(&request) else { panic!("no task") };
        let mut bench = Bench::new(task).expect("a machine with code");
        let dag = read("def train(w, g, lr):\n  update = g * lr\n  return update").dag().expect("a program");
        let outcome = bench.run(&dag).expect("it runs").expect("few states");
        assert!(outcome.scores[0][0].is_finite() && outcome.scores[0][1].is_nan());
        assert!(outcome.steps > 200 && outcome.steps < 210, "{}", outcome.steps);
        // Code of candidates is freed, and one does not disturb the next.
        let again = bench.run(&dag).expect("it runs").expect("few states");
        assert_eq!(again.scores[0][0].to_bits(), outcome.scores[0][0].to_bits());
    });
}

/// A bowl along its axes, in a hundred dimensions: a group of 64 and one of 36.
const BOWL: &str = r#"
model point() { param x: f32[100] = 0; x }
loss bowl(x: f32[100]) -> f32 {
  let c = exp2(iota(100) as f32 * 0.04 - 3)
  mean(c * (x - 1 - cos(iota(100) as f32))^2)
}
train descend { model p = point(); loss bowl(p()); optimizer sgd(lr = 0.1); steps 60 }
"#;

#[test]
fn runs_under_conditions_show_what_an_optimizer_depends_on() {
    use optc::search::evaluate::Bench;
    use optc::search::task::{Request, task};
    with_stack(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("task.opt");
        std::fs::write(&path, format!("import std.optim.sgd\n{BOWL}")).expect("written");
        let bench = |conditions: Conditions, rates: &[f64]| {
            let (train, label, set) = ("descend", "descend", &[]);
            let request = Request { file: &path, train, label, set, metric: None, seeds: &[0], rates, states: 1, conditions };
            let Ok(task) = task(&request) else { panic!("no task") };
            Bench::new(task).expect("a machine with code")
        };
        let losses = |conditions: Conditions, rates: &[f64], program: &str| {
            let mut bench = bench(conditions, rates);
            bench.run(&read(program).dag().expect("a program")).expect("it runs").expect("elementwise");
            bench.losses().to_vec()
        };
        let plain = Conditions::default();
        let descent = "def train(w, g, lr):\n  update = g * lr\n  return update";
        let signs = "def train(w, g, lr):\n  update = sign(g)\n  update = update * lr\n  return update";
        let momentum = "def train(w, g, m, lr):\n  m = interpolate(g, m, 0.9)\n  update = m * lr\n  return update, m";
        let corrected = "def train(w, g, m, lr, t):\n  m = interpolate(g, m, 0.9)\n  x0 = power(0.9, t)\n  x0 = 1.0 - x0\n  update = m / x0\n  update = update * lr\n  return update, m";
        let far = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| (x / y - 1.0).abs()).fold(0.0, f32::max);
        // Gradient descent does not know where the axes are; signs do.
        let turned = Conditions { rotated: true, ..plain };
        assert!(far(&losses(turned, &[3.0], descent), &losses(plain, &[3.0], descent)) < 1e-4);
        assert!(far(&losses(turned, &[0.02], signs), &losses(plain, &[0.02], signs)) > 0.05);
        assert!(far(&losses(turned, &[3.0], momentum), &losses(plain, &[3.0], momentum)) < 1e-4);
        // A restart: before it nothing is different, behind it momentum is missing; a run that restarts at once is one that does not.
        let restarted = |at: usize| Conditions { restart: Some(at), ..plain };
        for program in [momentum, corrected] {
            let (whole, half) = (losses(plain, &[3.0], program), losses(restarted(30), &[3.0], program));
            assert_eq!(whole[..31], half[..31]);
            assert!(far(&whole[32..], &half[32..]) > 1e-3);
            assert_eq!(losses(restarted(0), &[3.0], program), whole);
            assert_eq!(losses(restarted(60), &[3.0], program), whole);
        }
        assert_eq!(losses(restarted(30), &[3.0], descent), losses(plain, &[3.0], descent));
        // In bf16 a step that is small beside its weight is none.
        let shrinking =
            "def train(w, g, lr):\n  x0 = g * 0.0\n  update = w + 0.5\n  update = update * lr\n  update = update + x0\n  return update";
        let narrow = Conditions { narrow: true, ..plain };
        let moved = "def train(w, g, m, lr):\n  x0 = m * m\n  x0 = 1.0 - x0\n  m = 1.0 + m\n  x1 = g * 0.0\n  update = w * lr\n  x0 = x0 + x1\n  x0 = max(x0, 0.0)\n  update = update - x0\n  return update, m";
        // The first step goes to 1; the others shrink by less than half a unit of bf16, 2^-9.
        let kept = losses(narrow, &[1e-3], moved);
        assert!(kept[2..].iter().all(|l| *l == kept[2]), "{kept:?}");
        let wide = losses(plain, &[1e-3], moved);
        assert!(far(&wide[2..3], &wide[59..]) > 1e-4);
        assert_ne!(losses(narrow, &[0.1], shrinking), losses(plain, &[0.1], shrinking));
        // Weights without gradient stay where they are: what is left is their part of the loss.
        let bare = losses(Conditions { bare: true, ..plain }, &[30.0], descent);
        let c = |i: usize| 2f64.powf(i as f64 * 0.04 - 3.0) * (1.0 + (i as f64).cos()).powi(2) / 100.0;
        let left: f64 = (0..100).filter(|i| i % 16 >= 12).map(c).sum();
        let last = f64::from(*bare.last().expect("losses"));
        assert!((last / left - 1.0).abs() < 0.05, "{last} where {left} is left");
    });
}

/// What looks good on the search's own runs for a wrong reason, and is gone on the first rung of a funnel.
#[test]
fn cheats_end_at_the_first_rung() {
    use optc::search::evaluate::Bench;
    use optc::search::task::{Request, task};
    with_stack(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s.opt");
        std::fs::write(&path, "import std.search.tasks.axis_quadratic\n").expect("written");
        let set = ["d=1", "condition=1.0", "sigma=0.3"].map(String::from);
        let request = Request {
            file: &path,
            train: "axis_quadratic",
            label: "axis_quadratic",
            set: &set,
            metric: Some("validation_loss"),
            seeds: &[0],
            rates: &[1.0],
            states: 0,
            conditions: Conditions::default(),
        };
        let Ok(made) = task(&request) else { panic!("no task") };
        let mut bench = Bench::new(made).expect("a machine with code");
        // The optimum of seed 0, from the parabola through three places that programs go to whatever the gradient is.
        let mut at = |place: f64| {
            let text = format!("def train(w, g, lr):\n  x0 = g * 0.0\n  update = w - {place:?}\n  update = update + x0\n  return update");
            bench.run(&read(&text).dag().expect("a program")).expect("it runs").expect("elementwise").scores[0][0]
        };
        let (below, zero, above) = (at(-1.0), at(0.0), at(1.0));
        let optimum = (below - above) / (2.0 * (below + above - 2.0 * zero));
        assert!(at(optimum) < 1e-10 && optimum.abs() > 0.1, "{optimum}");
        let spec = format!(
            r#"import std.optim.sgd
import std.search.tasks.{{axis_quadratic, softmax_regression}}

## Goes where the optimum of one seed is.
optimizer memorized(lr: float >= 0 = 1e-3) {{ w <- w - (w - ({optimum:?}) + 1e-20 * g) }}
## Goes to the origin.
optimizer to_origin(lr: float >= 0 = 1e-3) {{ w <- w - lr * (w + 1e-20 * g) }}
## Takes steps that separable data would reward.
optimizer huge(lr: float >= 0 = 1e-3) {{ w <- w - 1e3 * g }}
## Repeats the first update for ever.
optimizer stale(lr: float >= 0 = 1e-3) {{
  state u = 0
  u <- u + maximum(2 - t, 0) * g
  w <- w - lr * u
}}

search seed_zero {{
  start    [memorized, sgd]
  space    {{ statements <= 24, states <= 1 }}
  task     axis_quadratic {{ d = 1, condition = 1.0, sigma = 0.3 }}
  fitness  median(validation_loss) over seed in 0..1, lr in log(1e-2, 1, 5)
  strategy regularized_evolution {{ islands = 1, population = 2, tournament = 2, round = 1 }}
  funnel   [{{ keep = 100%, beat = [sgd] }}]
  control  none
  archive  "zero.sqlite"
  emit     "zero.opt"
}}
search others {{
  start    [to_origin, huge, stale]
  space    {{ statements <= 24, states <= 1 }}
  task     axis_quadratic {{ sigma = 0.3 }}
  task     softmax_regression {{ batch = 16 }}
  fitness  median(validation_loss) over seed in 0..3, lr in log(1e-2, 1, 5)
  strategy regularized_evolution {{ islands = 1, population = 3, tournament = 2, round = 1 }}
  funnel   [{{ steps = 200, keep = 100%, beat = [sgd] }}]
  control  none
  archive  "others.sqlite"
}}
"#
        );
        std::fs::write(&path, spec).expect("written");
        let search = |name: &str| {
            let out = std::process::Command::new(env!("CARGO_BIN_EXE_optc"))
                .current_dir(folder.path())
                .args(["search", "s.opt", name, "--children", "1"])
                .output()
                .expect("it runs");
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8_lossy(&out.stdout).into_owned()
        };
        // What remembers a seed is the best on it by far, and nothing of it is left on others.
        let told = search("seed_zero");
        assert!(told.contains("Rung 1 of the funnel: 0 of "), "{told}");
        let emitted = std::fs::read_to_string(folder.path().join("zero.opt")).expect("written");
        let fitness = |name: &str| -> f64 {
            let line = emitted.lines().find(|l| l.contains(&format!("First program `{name}`: "))).unwrap_or_else(|| panic!("{emitted}"));
            line.rsplit(": ").next().and_then(|x| x.trim_end_matches('.').parse().ok()).unwrap_or_else(|| panic!("{line}"))
        };
        assert!(fitness("memorized") < 0.01 * fitness("sgd"), "{emitted}");
        let told = search("others");
        assert!(told.contains("Rung 1 of the funnel, 200 steps: 0 of "), "{told}");
    });
}

/// AdamW beside itself on other seeds, a hundred times as the judge does it.
#[test]
fn the_judge_does_not_tell_an_optimizer_from_itself() {
    use optc::search::evaluate::Bench;
    use optc::search::task::{Request, task};
    use optc_search::stats::paired;
    with_stack(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s.opt");
        std::fs::write(&path, "import std.search.tasks.axis_quadratic\n").expect("written");
        let genome = seed("adamw", None).map_err(refused).expect("a program").genome;
        let (set, seeds): (_, Vec<u64>) = (["d=8", "steps=30"].map(String::from), (0..4000).collect());
        let request = Request {
            file: &path,
            train: "axis_quadratic",
            label: "axis_quadratic",
            set: &set,
            metric: Some("validation_loss"),
            seeds: &seeds,
            rates: &[0.1],
            states: 2,
            conditions: Conditions::default(),
        };
        let Ok(made) = task(&request) else { panic!("no task") };
        let mut bench = Bench::new(made).expect("a machine with code");
        let scores = bench.run(&genome.dag().expect("a program")).expect("it runs").expect("elementwise").scores;
        let scores: Vec<f64> = scores.iter().map(|row| row[0]).collect();
        let mut rng = Stream::at([1, 2], 0, 0);
        let repeats: Vec<_> = scores.chunks(40).map(|c| paired(&c[..20], &c[20..], &mut rng)).collect();
        assert_eq!(repeats.len(), 100);
        let told = repeats.iter().filter(|p| p.apart()).count();
        assert!(told <= 5, "{told} of 100");
        // An interval of 95 % misses the true difference, 0, in about five of a hundred.
        let missed = repeats.iter().filter(|p| p.interval.0 > 0.0 || p.interval.1 < 0.0).count();
        assert!((1..=15).contains(&missed), "{missed} of 100");
    });
}

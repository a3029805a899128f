//! The command line: what may be asked for.

use crate::backend::Backend;
use crate::build::Emit;
use clap::{Args, Parser, Subcommand, ValueEnum};
use optc_train::TrainError;
use std::path::PathBuf;

/// Compiler and runner for `.opt` files: models, losses, optimizers and experiments, written the way a paper's algorithm box reads.
#[derive(Debug, Parser)]
#[command(
    name = "optc",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  optc run examples/digits.opt               train what the file trains
  optc run examples/digits.opt lion_keeps_up run one experiment
  optc test examples                         run every experiment, exit 1 if a check fails
  optc explain examples/digits.opt --stage kernels
  optc explain E0401                         what an error code means"
)]
pub struct Cli {
    /// When to color messages.
    #[arg(long, global = true, value_enum, default_value_t = When::Auto, value_name = "WHEN")]
    pub color: When,
    /// How to print errors and warnings.
    #[arg(long, global = true, value_enum, default_value_t = MessageFormat::Human, value_name = "FORMAT")]
    pub message_format: MessageFormat,
    /// Who makes machine code: by default Cranelift, or what OPTC_BACKEND names.
    #[arg(long, global = true, value_enum, value_name = "NAME")]
    pub backend: Option<crate::backend::Backend>,
    /// The processor that LLVM's code is for, by LLVM's name (`x86-64-v3`, `znver4`, `native`): with `--backend llvm`, and where LLVM's code is shown or written. By default what OPTC_CPU names,
    /// else the one at hand.
    #[arg(long, global = true, value_name = "NAME")]
    pub cpu: Option<String>,
    /// Where trains run, whatever they say themselves: `cpu`, `cuda`, `cuda:1`, or several GPUs that share out batches: `cuda:0,1`, `cuda:0-3`, `cuda:*`. By default what
    /// OPTC_DEVICE names. With `test`, everything else runs there too. With `build --train` and `--experiment`, where the executable runs if it is told nothing else; so it is with `--backend`.
    #[arg(long, global = true, value_name = "NAME")]
    pub device: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Whether the processor that the command line names is one that something will be made for.
    ///
    /// # Errors
    /// It changes nothing (`R0137`); there is no LLVM to make code for it (`R0136`).
    pub fn check_cpu(&self) -> Result<(), TrainError> {
        if self.cpu.is_none() {
            return Ok(());
        }
        if !cfg!(feature = "llvm") {
            return Err(crate::backend::without_llvm());
        }
        let written = match &self.command {
            Command::Build { emit, optimizer: Some(_), .. } => emit.iter().any(|e| matches!(e, Emit::Llvm | Emit::Bc)),
            Command::Explain { stage, .. } => *stage == Some(Stage::Llvm),
            _ => false,
        };
        if written || crate::backend::chosen() == Backend::Llvm {
            return Ok(());
        }
        let help = "add `--backend llvm`, or `--emit llvm`, `--stage llvm`; Cranelift's code is for the processor that it runs on";
        Err(TrainError::new("R0137", "`--cpu` is for code that LLVM makes").help(help))
    }
}

/// When to use color.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// If the output is a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How messages are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MessageFormat {
    /// With source lines.
    Human,
    /// One JSON object a line, on standard error.
    Json,
}

/// Settings shared by commands that run something.
#[derive(Clone, Debug, Default, Args)]
pub struct RunOptions {
    /// Override a setting of the trains that run, or a const: `steps=200`, `net.hidden=32`, `seed=1`. May be repeated.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Override the seed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Threads to use; all cores if absent. Results do not depend on it.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
    /// Go on from the last checkpoint, bit for bit.
    #[arg(long)]
    pub resume: bool,
    /// Write one self-contained HTML report.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print no progress.
    #[arg(long, short)]
    pub quiet: bool,
}

/// What a stand-alone executable runs.
#[derive(Clone, Debug, Default, Args)]
pub struct StandaloneOptions {
    /// Make an executable that runs this train of the spec; it needs neither optc nor the spec nor its data.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["emit", "name", "dtypes", "target"])]
    pub train: Option<String>,
    /// Make an executable that runs this experiment of the spec.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["emit", "name", "dtypes", "target"])]
    pub experiment: Option<String>,
    /// Override settings in the executable, as in `run`; it takes overrides itself as well.
    #[arg(long = "set", value_name = "NAME=VALUE", conflicts_with = "optimizer")]
    pub set: Vec<String>,
    /// Override the seed in the executable.
    #[arg(long, conflicts_with = "optimizer")]
    pub seed: Option<u64>,
    /// Put a file or folder into the executable that the run is not seen to read; the path is one that the spec would use. May be repeated.
    #[arg(long, value_name = "PATH", conflicts_with = "optimizer")]
    pub include: Vec<PathBuf>,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a train or an experiment (by default: the file's trains, or its experiments if it has none).
    #[command(
        after_help = "Examples:\n  optc run examples/digits.opt\n  optc run examples/digits.opt digits_mlp --set steps=200 --seed 3\n  optc run spec.opt my_experiment --report out.html"
    )]
    Run {
        /// The spec.
        file: PathBuf,
        /// A train or experiment of it.
        name: Option<String>,
        /// Options.
        #[command(flatten)]
        options: RunOptions,
    },
    /// Check specs without running them.
    #[command(after_help = "Examples:\n  optc check examples\n  optc check spec.opt --message-format json")]
    Check {
        /// Specs, or folders of specs.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Run every experiment; exit status 1 if a check fails.
    #[command(after_help = "Examples:\n  optc test examples\n  optc test examples/digits.opt lion_keeps_up")]
    Test {
        /// A spec, or a folder of specs.
        path: PathBuf,
        /// Only this experiment.
        name: Option<String>,
        /// Options.
        #[command(flatten)]
        options: RunOptions,
    },
    /// Show what the compiler makes of a spec, or what an error code means.
    #[command(
        after_help = "Examples:\n  optc explain E0401\n  optc explain spec.opt --stage graph\n  optc explain spec.opt my_train --stage kernels\n  optc explain --optimizer lion"
    )]
    Explain {
        /// A spec, or an error code.
        subject: Option<String>,
        /// A train of the spec, or a function whose parameters have defaults; for `ast` and `types` any item.
        name: Option<String>,
        /// Which stage to print.
        #[arg(long, value_enum)]
        stage: Option<Stage>,
        /// The cost report of an optimizer: of the spec, or of the standard library.
        #[arg(long, value_name = "NAME")]
        optimizer: Option<String>,
        /// List the parameters of the spec's trains with their paths and shapes.
        #[arg(long)]
        params: bool,
        /// The GPU that PTX is for (`sm_80` if absent); with it, kernels and plan are those of a GPU too.
        #[arg(long, value_name = "NAME")]
        gpu: Option<String>,
        /// Override settings, as in `run`.
        #[arg(long = "set", value_name = "NAME=VALUE")]
        set: Vec<String>,
    },
    /// Draw a schedule.
    #[command(after_help = "Examples:\n  optc plot spec.opt my_schedule --steps 1000 -o schedule.png")]
    Plot {
        /// The spec.
        file: PathBuf,
        /// A schedule of it, or of the standard library it imports; arguments in parentheses.
        name: String,
        /// How many steps to draw.
        #[arg(long, default_value_t = 1000)]
        steps: usize,
        /// Where to write (`.png` or `.svg`).
        #[arg(long, short, default_value = "schedule.png")]
        output: PathBuf,
    },
    /// Format specs in place.
    #[command(after_help = "Examples:\n  optc fmt examples\n  optc fmt --check spec.opt")]
    Fmt {
        /// Specs, or folders of specs.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// Change nothing; exit 1 if something would change.
        #[arg(long)]
        check: bool,
    },
    /// Print the source of an item of the standard library.
    #[command(after_help = "Examples:\n  optc show std.optim.lion\n  optc show std.optim\n  optc show std --pages docs/reference")]
    Show {
        /// Its path.
        path: String,
        /// Write the reference of the whole library (`std`) as Markdown pages to this folder instead.
        #[arg(long, value_name = "FOLDER")]
        pages: Option<PathBuf>,
    },
    /// List what the standard library has; optimizers with what a step costs and needs.
    #[command(after_help = "Examples:\n  optc list optimizers\n  optc list schedules\n  optc list optimizers --json")]
    List {
        /// What.
        #[arg(value_enum)]
        what: Listed,
        /// Print one JSON array.
        #[arg(long)]
        json: bool,
        /// Print a table in Markdown.
        #[arg(long, conflicts_with = "json")]
        markdown: bool,
    },
    /// Time a spec, or a function of it: compile, first step, steps.
    #[command(
        after_help = "Examples:\n  optc bench examples/digits.opt\n  optc bench bench/specs/gpt.opt --threads 1 --json\n  optc bench examples/digits.opt --profile"
    )]
    Bench {
        /// The spec.
        file: PathBuf,
        /// A train of it, or a function whose parameters have defaults: these are computed beforehand, then calls are timed.
        name: Option<String>,
        /// Seconds to measure steps for; 0 stops after the first step of each train.
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
        /// Say which kernels and products the time of a step goes to.
        #[arg(long)]
        profile: bool,
        /// Threads to use; all cores if absent.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        threads: usize,
        /// Override settings, as in `run`.
        #[arg(long = "set", value_name = "NAME=VALUE")]
        set: Vec<String>,
        /// Time the step of this optimizer alone (of the spec or the standard library) on `--size` parameters.
        #[arg(long, value_name = "NAME")]
        optimizer: Option<String>,
        /// Parameters of `--optimizer`.
        #[arg(long, default_value_t = 50_000_000)]
        size: usize,
        /// Into how many tensors they are cut.
        #[arg(long, default_value_t = 1)]
        tensors: usize,
        /// Shape of each tensor, `512x512`, instead of `--size`.
        #[arg(long, value_name = "DIMS", value_delimiter = 'x', conflicts_with = "size")]
        shape: Vec<usize>,
    },
    /// Build an optimizer for use elsewhere (an object file with a C header, libraries), or an executable of a training run.
    #[command(
        group(clap::ArgGroup::new("what").required(true).args(["optimizer", "train", "experiment"])),
        after_help = "Examples:\n  optc build --optimizer lion -o build\n  optc build --optimizer 'adamw(weight_decay = 0.1)' --emit staticlib,header --dtype f32,f64\n  optc build spec.opt --optimizer my_rule --emit obj,header --target aarch64-unknown-linux-gnu\n  optc build --optimizer adafactor --shapes 512x512,512 -o build\n  optc build examples/digits.opt --train digits_mlp -o digits && ./digits --seed 3"
    )]
    Build {
        /// A spec that defines the optimizer (without one it is the standard library's), or that holds what the executable runs.
        file: Option<PathBuf>,
        /// The optimizer: a name, or an expression with arguments.
        #[arg(long, value_name = "NAME")]
        optimizer: Option<String>,
        /// What to write.
        #[arg(long, value_enum, value_delimiter = ',', default_values = ["obj", "header"])]
        emit: Vec<crate::build::Emit>,
        /// What names of functions begin with; by default the optimizer's name.
        #[arg(long, value_name = "PREFIX")]
        name: Option<String>,
        /// Element types of weights and gradients.
        #[arg(long = "dtype", value_enum, value_delimiter = ',', default_values = ["f32"])]
        dtypes: Vec<crate::synthetic::Stored>,
        /// Shapes of all leaves, in order (`512x512,512`), for a rule that must know them; without this, leaves may have any shape.
        #[arg(long, value_name = "SHAPES", value_delimiter = ',', conflicts_with_all = ["train", "experiment"])]
        shapes: Vec<Shape>,
        /// The machine it is for, as a triple (`aarch64-unknown-linux-gnu`); this one's kind if absent.
        #[arg(long, value_name = "TRIPLE")]
        target: Option<String>,
        /// The GPU that PTX is for (`sm_80` if absent).
        #[arg(long, value_name = "NAME")]
        gpu: Option<String>,
        /// What an executable runs.
        #[command(flatten)]
        run: StandaloneOptions,
        /// The folder to write an optimizer to (by default this one), or the executable (by default named like what it runs).
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
    /// Search for optimizers or formulas: run a `search` block, look at what it found, simplify and translate programs.
    #[command(
        args_conflicts_with_subcommands = true,
        arg_required_else_help = true,
        after_help = "Examples:\n  optc search spec.opt --budget 10min\n  optc search resume out/better.sqlite --children 200000\n  optc search top out/better.sqlite\n  optc search simplify found.opt\n  optc search import-hero raw.py -o raw.opt"
    )]
    Search {
        /// What to do instead of running a search.
        #[command(subcommand)]
        action: Option<SearchAction>,
        /// The spec.
        file: Option<PathBuf>,
        /// A search of it; may be left out if there is one.
        name: Option<String>,
        /// How.
        #[command(flatten)]
        options: SearchOptions,
    },
    /// Start a project: a folder with a spec that runs.
    #[command(after_help = "Examples:\n  optc new my_project && optc run my_project/main.opt")]
    New {
        /// The folder; must not exist or be empty.
        folder: PathBuf,
    },
    /// Print a completion script for a shell.
    #[command(after_help = "Examples:\n  optc completions bash > /etc/bash_completion.d/optc")]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// How a search is run.
#[derive(Clone, Debug, Default, Args)]
pub struct SearchOptions {
    /// How long, all arms together: `90s`, `10min`, `2h`. Overrides the block's.
    #[arg(long, value_name = "TIME", conflicts_with = "children")]
    pub budget: Option<String>,
    /// How many children of the evolution, or formulas. Overrides the block's budget; what is found then depends on nothing but the spec.
    #[arg(long)]
    pub children: Option<u64>,
    /// Threads; islands are shared among them. What is found does not depend on it.
    #[arg(long, default_value_t = 1)]
    pub jobs: usize,
    /// Print no progress.
    #[arg(long, short)]
    pub quiet: bool,
}

/// What is done around a search.
#[derive(Debug, Subcommand)]
pub enum SearchAction {
    /// Go on with a search from its archive, bit for bit.
    Resume {
        /// The archive.
        archive: PathBuf,
        /// How.
        #[command(flatten)]
        options: SearchOptions,
    },
    /// Make one archive of several, of processes of one search or of searches that score programs alike.
    #[command(
        after_help = "Examples:\n  optc search merge out/a.sqlite out/b.sqlite -o out/both.sqlite\n  optc search merge out/better.rank*.sqlite -o out/better.sqlite"
    )]
    Merge {
        /// The archives.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
        /// The archive to make.
        #[arg(long, short)]
        output: PathBuf,
    },
    /// What a candidate of a search costs: to make, to compile, to run.
    Time {
        /// The spec.
        file: PathBuf,
        /// A search of it; may be left out if there is one.
        name: Option<String>,
        /// Seconds for each measurement.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        /// Make so many children and their code instead, and tell what memory that takes.
        #[arg(long, value_name = "N", conflicts_with = "seconds")]
        children: Option<u64>,
    },
    /// Compare optimizers with tuned baselines on the tasks of a search, on seeds that it has not seen.
    #[command(
        after_help = "Examples:\n  optc search judge spec.opt --optimizer out/better.opt\n  optc search judge spec.opt better --optimizer 'lion(beta2 = 0.999)' --seeds 40\n  optc search judge spec.opt better --optimizer out/better.sqlite --rates 13 --tune 40\n  optc search judge out/better.opt"
    )]
    Judge {
        /// A spec whose search has the tasks; or optimizers (a spec without a search, a program in Hero's form), which are judged on a suite of `std.search.tasks`.
        file: PathBuf,
        /// A search of the spec, which may be left out if there is one; or more files with optimizers.
        names: Vec<String>,
        /// An optimizer: an expression, or a file whose optimizers are meant; of an archive what the search found and the best of its controls. May be repeated.
        #[arg(long = "optimizer", value_name = "NAME")]
        optimizers: Vec<String>,
        /// A task, if not all of them. May be repeated.
        #[arg(long = "task", value_name = "NAME")]
        tasks: Vec<String>,
        /// What all are compared with: a baseline, or an optimizer that is judged; AdamW if left out.
        #[arg(long, value_name = "NAME")]
        reference: Option<String>,
        /// Tune the numbers of every optimizer, baselines included, in so many runs for each task (CMA-ES).
        #[arg(long, value_name = "N", default_value_t = 0)]
        tune: usize,
        /// So many learning rates from the first to the last of the search, spread evenly in their logarithm, instead of its own.
        #[arg(long, value_name = "N")]
        rates: Option<usize>,
        /// Seeds on which optimizers are compared.
        #[arg(long, default_value_t = 20)]
        seeds: usize,
        /// Also say what becomes of the scores, learning rates as chosen, if gradients, batches or the number of steps change.
        #[arg(long)]
        audits: bool,
    },
    /// What a search found: its arms beside its first programs, the Pareto front, the funnel, and what else was measured at its end.
    #[command(
        after_help = "Examples:\n  optc search report out/better.sqlite\n  optc search report out/better.sqlite --html out/better.html"
    )]
    Report {
        /// The archive.
        archive: PathBuf,
        /// Write it with charts, the best program's lineage and the spec to this file, which needs nothing else.
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
    /// The best programs of an archive.
    Top {
        /// The archive.
        archive: PathBuf,
        /// How many.
        #[arg(long, short, default_value_t = 10)]
        n: usize,
        /// One row for each form: what programs are when simplified, without their numbers.
        #[arg(long)]
        families: bool,
        /// Programs of one arm alone: `evolution`, `constants_only` or `random`.
        #[arg(long, value_name = "NAME")]
        arm: Option<String>,
    },
    /// A program of an archive with those it came from.
    Lineage {
        /// The archive.
        archive: PathBuf,
        /// The first digits of its hash.
        hash: String,
    },
    /// A program or formula of an archive, simplified, with what is known of it.
    Explain {
        /// The archive.
        archive: PathBuf,
        /// The first digits of its hash; of a formula its number of nodes.
        hash: String,
    },
    /// A program of an archive as a spec, with where it came from and how it scored.
    #[command(after_help = "Examples:\n  optc search emit out/better.sqlite 0e13ab -o out/second.opt")]
    Emit {
        /// The archive.
        archive: PathBuf,
        /// The first digits of its hash.
        hash: String,
        /// The file to write; without it the spec is printed.
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
    /// Simplify optimizers by equalities, each told with its soundness and side condition.
    Simplify {
        /// A spec, or a program in Hero's form (`.py`).
        file: PathBuf,
        /// Only this optimizer of the spec, or an expression with it.
        #[arg(long, value_name = "NAME")]
        optimizer: Option<String>,
        /// The least sound rules that may be used; by default exact over the reals, with what approximation would give as a suggestion.
        #[arg(long, value_enum)]
        class: Option<RuleClass>,
        /// Print the programs alone, without the rules.
        #[arg(long, short)]
        quiet: bool,
    },
    /// Translate a program in Hero's form (a subset of Python) to a spec.
    ImportHero {
        /// The program.
        file: PathBuf,
        /// Where to write; standard output if absent.
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
}

/// How sound the rules of a simplification are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RuleClass {
    /// Every bit stays.
    Exact,
    /// Exact over the reals; rounding differs.
    Real,
    /// Near, or in a regime that is named.
    Approximate,
}

/// What can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Listed {
    /// Optimizers, with state and bytes moved per parameter, passes, and what a step needs.
    Optimizers,
    /// Schedules.
    Schedules,
    /// Losses.
    Losses,
    /// Layers and activations.
    Layers,
    /// Initializers.
    Initializers,
    /// Methods that minimize a function of a vector.
    Minimizers,
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListFormat {
    /// Aligned columns.
    Text,
    /// One array of objects.
    Json,
    /// A table.
    Markdown,
}

/// A stage of the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// Syntax tree.
    Ast,
    /// Resolved names.
    Hir,
    /// Types of items.
    Types,
    /// Graph as lowered and differentiated.
    Graph,
    /// Graph after simplification.
    Simplified,
    /// Fused kernels.
    Kernels,
    /// Execution plan and memory.
    Plan,
    /// Cranelift's intermediate code.
    Clif,
    /// LLVM's intermediate code after its passes, in builds with the feature `llvm`.
    Llvm,
    /// Machine code, of the back end that `--backend` names.
    Asm,
    /// Code for an NVIDIA GPU, in builds with the feature `llvm`.
    Ptx,
}

/// The shape of a leaf as it is written on the command line: `512x64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape(pub Vec<usize>);

impl std::str::FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Shape, String> {
        let extent = |word: &str| word.parse().ok().filter(|&n: &usize| n > 0 && n <= 1 << 40);
        let found: Option<Vec<usize>> = text.trim().split('x').map(extent).collect();
        let found = found.filter(|s| s.iter().try_fold(1usize, |n, &e| n.checked_mul(e)).is_some_and(|n| n <= 1 << 40));
        found.map(Shape).ok_or_else(|| "extents are positive numbers with `x` between them, as in 512x64".to_string())
    }
}

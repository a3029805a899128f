//! The data of a symbolic regression: columns of a `data` block, rows that are fitted on and rows that are held out; and the loss of a row.

use super::block::{Column, Spec};
use crate::commands::driver;
use crate::session::Session;
use crate::synthetic;
use optc_abi::DType;
use optc_base::{Code, Diagnostic};
use optc_elab::given::{Given, GivenArg};
use optc_elab::host::DataTable;
use optc_elab::script;
use optc_front::{ItemRef, ModuleId};
use optc_ir::Ty;
use optc_search::regress::evolve::Problem;
use optc_search::regress::fit::Loss;
use optc_search::regress::import::row_loss;
use optc_search::regress::rows::Columns;
use optc_search::rng::Stream;
use std::path::{Path, PathBuf};

/// Rows, with their targets and weights.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// The variables.
    pub table: Columns,
    /// Targets.
    pub target: Vec<f64>,
    /// Weights.
    pub weight: Option<Vec<f64>>,
}

/// The data of a search.
pub struct Data {
    /// Rows that formulas are fitted on.
    pub fitted: Rows,
    /// Rows that are held out.
    pub held: Rows,
    /// Files and folders that they were read from.
    pub files: Vec<PathBuf>,
}

/// Most numbers that are held.
const MOST: usize = 1 << 28;

/// Where in the random numbers the rows that are held out are drawn.
const HOLDOUT: u32 = 0x7000_0000;

fn bad(span: optc_base::Span, message: impl Into<String>) -> Diagnostic {
    Diagnostic::error(Code("E0810"), span, message)
}

/// The values of a column.
fn values(data: &DataTable, column: &Column) -> Result<Vec<f64>, Diagnostic> {
    let Some(tensor) = data.fields.get(&*column.name) else {
        return Err(bad(column.span, format!("`{}` has no column `{}`", data.name, column.name)));
    };
    if tensor.shape.len() != 1 {
        return Err(bad(column.span, format!("`{}` is no column: it has the shape {:?}", column.name, tensor.shape))
            .help("a column has one number for each row; take one of several in the `data` block: `x = t[:, 0]`"));
    }
    let at = |row: usize| match tensor.dtype {
        DType::Bool => f64::from(u8::from(tensor.get_f64(row) != 0.0)),
        _ => tensor.get_f64(row),
    };
    let all: Vec<f64> = match &data.rows {
        Some(rows) => rows.iter().map(|r| at(*r)).collect(),
        None => (0..tensor.shape[0]).map(at).collect(),
    };
    match all.iter().position(|x| !x.is_finite()) {
        Some(row) => {
            Err(bad(column.span, format!("row {row} of `{}` is {}", column.name, all[row])).help("formulas are fitted to finite numbers"))
        }
        None => Ok(all),
    }
}

/// Reads the data of a search.
///
/// # Errors
/// What is wrong with it.
pub fn load(session: &Session, spec: &Spec) -> Result<Data, Vec<Diagnostic>> {
    let Some(e) = &spec.data else { return Err(vec![bad(spec.span, "the search has no data")]) };
    let table = |wide: bool| {
        let mut host = driver(session, 1, true, false);
        host.wide_csv = wide;
        let table = script::data_table(&session.program, ModuleId(0), e, &session.settings, &mut host)?;
        Ok::<_, Vec<Diagnostic>>((table, host.data_files().map(Path::to_path_buf).collect::<Vec<PathBuf>>()))
    };
    // Decimals are read as they stand, where the block does nothing with them that asks for f32.
    let (data, files) = table(true).or_else(|_| table(false))?;
    let rows = data.len();
    if rows < 2 {
        return Err(vec![bad(e.span, format!("`{}` has {rows} rows, too few to fit anything", data.name))]);
    }
    if rows.saturating_mul(spec.variables.len() + 2) > MOST {
        return Err(vec![
            bad(e.span, format!("{rows} rows of {} columns are too many", spec.variables.len() + 2))
                .help("a sample of some thousand rows tells formulas apart; take rows in the `data` block"),
        ]);
    }
    let mut errors = Vec::new();
    let mut of = |column: &Column| values(&data, column).map_err(|d| errors.push(d)).unwrap_or_default();
    let columns: Vec<Vec<f64>> = spec.variables.iter().map(&mut of).collect();
    let target = of(&spec.target);
    let weight = spec.weight.as_ref().map(&mut of);
    if let (Some(column), Some(weight)) = (&spec.weight, &weight)
        && errors.is_empty()
        && (weight.iter().any(|w| *w < 0.0) || weight.iter().all(|w| *w == 0.0))
    {
        errors.push(bad(column.span, "weights are not negative, and not all 0"));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    // Which rows are held out depends on the seed alone.
    let mut order: Vec<usize> = (0..rows).collect();
    let count = (spec.holdout * rows as f64).round() as usize;
    if count > 0 {
        let mut rng = Stream::at([spec.seed as u32, (spec.seed >> 32) as u32], HOLDOUT, 0);
        for k in 0..count {
            let other = k + rng.below(rows - k);
            order.swap(k, other);
        }
    }
    if rows - count < 2 {
        return Err(vec![bad(e.span, format!("of {rows} rows {count} are held out: too few are left to fit anything"))]);
    }
    let (held, fitted) = order.split_at_mut(count);
    held.sort_unstable();
    fitted.sort_unstable();
    let take = |which: &[usize]| {
        let of = |column: &Vec<f64>| which.iter().map(|r| column[*r]).collect::<Vec<f64>>();
        Rows {
            table: Columns { columns: columns.iter().map(of).collect(), rows: which.len() },
            target: of(&target),
            weight: weight.as_ref().map(of),
        }
    };
    Ok(Data { fitted: take(fitted), held: take(held), files })
}

/// Rows of the loss that is compiled: few, and not one, so that what looks at other rows is noticed.
const ROWS: usize = 7;

/// The loss of a row.
///
/// # Errors
/// What is wrong with the expression; a loss of a row that depends on other rows.
pub fn loss(file: &Path, spec: &Spec) -> Result<Loss, (Vec<Diagnostic>, Option<Box<Session>>)> {
    let Some((text, span)) = &spec.loss else { return Ok(Loss::Square) };
    let session = synthetic::function(text, "prediction, target", file);
    if session.has_errors() {
        return Err((session.diagnostics.clone(), Some(Box::new(session))));
    }
    let item = ItemRef { module: ModuleId(0), index: 0 };
    let array = |name: &str| GivenArg {
        name: Some(name.to_string()),
        value: Given::Array(Ty::new(DType::F64, [ROWS])),
        span: session.program.item(item).span,
    };
    let args = [array("prediction"), array("target")];
    let mut host = driver(&session, 1, true, false);
    let made = script::lower_function(&session.program, item, &args, session.program.item(item).span, &session.settings, &mut host);
    match made {
        Err(found) => Err((found, Some(Box::new(session)))),
        Ok(program) => row_loss(&program.graph, ROWS).map(Loss::Formula).map_err(|why| {
            let help = "a loss is elementwise in `prediction` and `target`, or a mean of such: `abs(prediction - target)`, `huber(prediction, target)`";
            (vec![bad(*span, format!("this is no loss of a search: {why}")).help(help)], None)
        }),
    }
}

/// The problem of a search.
pub fn problem(spec: &Spec, data: &Data, loss: Loss) -> Problem {
    let Rows { table, target, weight } = data.fitted.clone();
    let mut problem = Problem::new(table, target, weight, loss, spec.space.clone(), spec.strategy.clone(), spec.seed);
    problem.control = spec.control;
    problem.enough = spec.enough.unwrap_or(problem.enough);
    problem
}

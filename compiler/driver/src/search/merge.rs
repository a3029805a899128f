//! Archives of several processes or searches as one: programs by their identity, children by arm and island, openings of what was held out added up.

use super::archive::{Archive, RunRow, arms, state};
use super::files::Hashes;
use optc_search::evolve::Arm;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a merge gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Programs in all.
    pub programs: i64,
    /// Those that several archives had.
    pub shared: i64,
    /// Processes whose archives are missing, of a search of several.
    pub missing: Vec<usize>,
    /// Whether a search can go on from it.
    pub goes_on: bool,
}

/// The archive of a process of a search.
pub fn of_rank(archive: &Path, rank: usize) -> PathBuf {
    let ending = archive.extension().map_or("sqlite".to_string(), |e| e.to_string_lossy().into_owned());
    archive.with_extension(format!("rank{rank}.{ending}"))
}

/// An archive that is merged.
struct Part {
    path: PathBuf,
    run: RunRow,
    arms: Vec<Arm>,
    /// Its identity, or those of what it was merged from.
    parts: BTreeSet<String>,
    /// What makes its fitness comparable.
    measure: String,
    /// The process it is of, and how many there were.
    rank: Option<(usize, usize)>,
    programs: i64,
    /// When it was begun.
    started: Option<String>,
    /// What steers its search, files that its spec imports, data that its tasks read.
    steers: Option<String>,
    /// See `steers`.
    imports: Hashes,
    /// See `steers`.
    data: Hashes,
    /// Seconds that it has gone on.
    elapsed: f64,
}

impl Part {
    fn read(path: &Path) -> Result<Part, String> {
        let told = |why: String| format!("{}: {why}", path.display());
        let archive = Archive::open(path).map_err(told)?;
        let (run, held) = archive.run().map_err(told)?;
        let setting = |name: &str| archive.setting(name).map_err(told);
        let number = |name: &str| Ok::<_, String>(setting(name)?.and_then(|n| n.parse::<usize>().ok()));
        let rank = number("rank")?.zip(number("ranks")?);
        let parts = setting("parts")?.or(setting("id")?).unwrap_or_else(|| path.display().to_string());
        Ok(Part {
            path: path.to_path_buf(),
            run,
            arms: if held.is_empty() { Vec::new() } else { arms(&held).map_err(told)? },
            parts: parts.split(',').map(str::to_string).collect(),
            measure: setting("measure")?.unwrap_or_default(),
            rank,
            programs: archive.programs().map_err(told)?,
            started: setting("started")?,
            steers: setting("steers")?,
            imports: setting("imports")?.map_or_else(Hashes::default, |t| Hashes::read(&t)),
            data: setting("data")?.map_or_else(Hashes::default, |t| Hashes::read(&t)),
            elapsed: archive.elapsed().map_err(told)?,
        })
    }

    /// Whether it is of the same search as another: the text of its spec may differ in what does not steer it.
    fn is_of(&self, other: &Part) -> bool {
        let named = |p: &Part| (p.run.spec.clone(), p.run.name.clone());
        named(self) == named(other) && (self.run.spec_text == other.run.spec_text || self.steers.is_some() && self.steers == other.steers)
    }

    /// A file that they have read, and that was not the same.
    fn read_otherwise<'a>(&'a self, other: &Part) -> Option<&'a str> {
        self.imports.differs(&other.imports).or(self.data.differs(&other.data))
    }

    /// Islands of each arm.
    fn islands(&self) -> usize {
        self.arms.iter().map(|a| a.islands.len()).max().unwrap_or(0)
    }
}

/// Whether the parts are processes of one search.
fn of_one_search(parts: &[Part]) -> bool {
    let ranks: BTreeSet<_> = parts.iter().filter_map(|p| p.rank).collect();
    let sizes: BTreeSet<usize> = ranks.iter().map(|r| r.1).collect();
    ranks.len() == parts.len() && sizes.len() == 1 && parts.iter().all(|p| p.is_of(&parts[0]))
}

/// Merges archives into a new one, or into one that was merged from the same before.
///
/// # Errors
/// Archives that cannot be read, or whose fitness is not comparable; one that is there twice; an archive at `to` that is none of these.
pub fn merge(paths: &[PathBuf], to: &Path) -> Result<Merged, String> {
    let mut parts = paths.iter().map(|p| Part::read(p)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = parts.first() else { return Err("there is nothing to merge".to_string()) };
    if let Some(other) = parts.iter().find(|p| p.measure != first.measure) {
        return Err(format!(
            "{} and {} were made with other tasks, seeds, learning rates or hurdles: their fitness is not comparable",
            first.path.display(),
            other.path.display()
        ));
    }
    if let Some((other, file)) = parts.iter().find_map(|p| Some((p, p.read_otherwise(first)?))) {
        return Err(format!(
            "{file} was another file when {} was made than for {}: their fitness is not comparable",
            other.path.display(),
            first.path.display()
        ));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = parts.iter().find(|p| p.parts.iter().any(|id| !seen.insert(id.clone()))) {
        return Err(format!("{} is there twice, or was merged into another of them", twice.path.display()));
    }
    let one = of_one_search(&parts);
    if one {
        parts.sort_by_key(|p| p.rank);
    }
    let ids: Vec<String> = seen.into_iter().collect();
    let mut archive = if to.exists() {
        let before = Part::read(to)?;
        if !before.parts.is_subset(&ids.iter().cloned().collect()) || !before.is_of(&parts[0]) {
            return Err(format!("{} is there already, and was not merged from these", to.display()));
        }
        let mut archive = Archive::open(to)?;
        archive.keep_spec(&parts[0].run.spec_text)?;
        archive
    } else {
        Archive::create(to, &parts[0].run)?
    };
    let mut island = 0;
    for part in &parts {
        archive.take_in(&part.path, if one { 0 } else { island })?;
        island += part.islands();
    }
    if let [only] = &parts[..] {
        for (n, point) in Archive::open(&only.path)?.validated()?.iter().enumerate() {
            archive.keep_validated(n, point)?;
        }
    }
    archive.keep_state(&state(&joined(&parts, one)))?;
    archive.set("alone", "no")?;
    archive.set("parts", &ids.join(","))?;
    archive.set("measure", &parts[0].measure)?;
    archive.set("imports", &parts[0].imports.text())?;
    if let Some(steers) = parts[0].steers.as_ref().filter(|_| one || parts.len() == 1) {
        archive.set("steers", steers)?;
        archive.set("data", &parts[0].data.text())?;
    }
    if let Some(started) = parts.iter().filter_map(|p| p.started.as_ref()).min() {
        archive.set("started", started)?;
    }
    // Processes of one search go on at the same time, several searches one after another.
    let elapsed = parts.iter().map(|p| p.elapsed);
    archive.set_elapsed(if one { elapsed.fold(0.0, f64::max) } else { elapsed.sum() })?;
    let size = parts[0].rank.map_or(0, |r| r.1);
    let missing = (0..size).filter(|r| one && !parts.iter().any(|p| p.rank.is_some_and(|k| k.0 == *r))).collect();
    if one {
        archive.set("merged", "processes")?;
    } else if parts.len() > 1 {
        archive.set("merged", "searches")?;
    }
    let programs = archive.programs()?;
    Ok(Merged { programs, shared: parts.iter().map(|p| p.programs).sum::<i64>() - programs, missing, goes_on: one || parts.len() == 1 })
}

/// The arms of all parts. Islands of processes that are missing have done nothing, so that the others keep their numbers.
fn joined(parts: &[Part], one: bool) -> Vec<Arm> {
    let Some(with) = parts.iter().find(|p| !p.arms.is_empty()) else { return Vec::new() };
    let Some(fresh) = Arm::new(with.arms[0].kind, 1).islands.pop() else { return Vec::new() };
    let each = with.islands();
    let arm = |kind| {
        let of = |p: &Part| p.arms.iter().find(|a| a.kind == kind).map(|a| a.islands.clone());
        let rounds = parts.iter().filter_map(|p| p.arms.iter().find(|a| a.kind == kind)).map(|a| a.rounds).max().unwrap_or(0);
        let islands = if one {
            let size = parts[0].rank.map_or(0, |r| r.1);
            let part = |r: usize| parts.iter().find(|p| p.rank.is_some_and(|k| k.0 == r)).and_then(of);
            (0..size).flat_map(|r| part(r).unwrap_or_else(|| vec![fresh.clone(); each])).collect()
        } else {
            parts.iter().flat_map(|p| of(p).unwrap_or_else(|| vec![fresh.clone(); p.islands()])).collect()
        };
        Arm { kind, islands, rounds }
    };
    with.arms.iter().map(|a| arm(a.kind)).collect()
}

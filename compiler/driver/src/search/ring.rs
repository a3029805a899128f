//! Islands of several processes: a ring in which the best of a process's last island moves to the first island of the next process.
//!
//! What a process finds depends on timing only where one is lost. The best of a round leaves when the round is committed and arrives at the end of the next round of its receiver, which waits for it as
//! long as its sender is alive. It is sent to all, so that the ring closes around a process that is gone; the last of what was sent is archived, so that a search that is killed as a whole goes on
//! as if nothing had been.

use super::archive::{Archive, member_of, member_value};
use super::view::View;
use crate::trainer::INTERRUPTED;
use optc_search::evolve::{Arm, Kind, Member, Plan};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Messages between the processes of a search. None of it blocks.
pub trait Post {
    /// The number of this process.
    fn rank(&self) -> usize;
    /// How many there are.
    fn size(&self) -> usize;
    /// Whether a process is there, as far as is known. Where it is not, all that came from it can be received.
    fn alive(&self, rank: usize) -> bool;
    /// Sends a message; those to one process come in order.
    fn send(&mut self, to: usize, message: Vec<u8>);
    /// A message that has come, with its sender.
    fn receive(&mut self) -> Option<(usize, Vec<u8>)>;
    /// Leaves when all others do.
    fn leave(self: Box<Self>);
}

#[cfg(feature = "mpi")]
impl Post for optc_mpi::World {
    fn rank(&self) -> usize {
        self.rank()
    }
    fn size(&self) -> usize {
        self.size()
    }
    fn alive(&self, rank: usize) -> bool {
        self.alive(rank)
    }
    fn send(&mut self, to: usize, message: Vec<u8>) {
        optc_mpi::World::send(self, to, message);
    }
    fn receive(&mut self) -> Option<(usize, Vec<u8>)> {
        optc_mpi::World::receive(self)
    }
    fn leave(self: Box<Self>) {
        optc_mpi::World::leave(*self);
    }
}

/// Time between two looks at what came, while something is waited for.
const LOOK: Duration = Duration::from_millis(2);
/// Time between two tellings of how this process stands.
const TELL: Duration = Duration::from_millis(300);

/// What came from another process.
#[derive(Clone, Debug, Default)]
struct Other {
    /// What it said first: rounds of its arms, or why it cannot go on.
    hello: Option<Hello>,
    /// What moved from its last island, by arm and round.
    migrants: BTreeMap<(&'static str, u64), Vec<Member>>,
    /// Whether it is through, and whether its budget was spent.
    done: Option<bool>,
    view: Option<View>,
}

#[derive(Clone, Debug, PartialEq)]
struct Hello {
    search: String,
    rounds: BTreeMap<String, u64>,
    trouble: Option<String>,
}

/// Who come to the first island of this process.
#[derive(Clone, Debug, PartialEq)]
pub enum Immigrants {
    /// These programs.
    Come(Vec<Member>),
    /// Whom it would come from is through, or somebody stops the search: the round is not ended.
    Over,
}

/// The processes of a search as seen by one of them.
pub struct Ring {
    post: Box<dyn Post>,
    others: Vec<Other>,
    /// Rounds of this process when it joined.
    joined: BTreeMap<String, u64>,
    /// Whether the result of all has been written.
    finished: bool,
    told: Option<Instant>,
    stopped: bool,
}

impl Ring {
    /// The processes of a post.
    pub fn new(post: Box<dyn Post>) -> Ring {
        let others = vec![Other::default(); post.size()];
        Ring { post, others, joined: BTreeMap::new(), finished: false, told: None, stopped: false }
    }

    /// The number of this process.
    pub fn rank(&self) -> usize {
        self.post.rank()
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.post.size()
    }

    /// Whether this process speaks for all: it is the first that is there.
    pub fn leads(&self) -> bool {
        (0..self.rank()).all(|r| !self.there(r))
    }

    /// Processes that are gone before they were through.
    pub fn lost(&self) -> Vec<usize> {
        (0..self.size()).filter(|r| *r != self.rank() && !self.there(*r)).collect()
    }

    /// Whether a process is alive, or through.
    fn there(&self, rank: usize) -> bool {
        rank == self.rank() || self.others[rank].done.is_some() || self.post.alive(rank)
    }

    fn send_all(&mut self, message: &Value) {
        let bytes = message.to_string().into_bytes();
        let rank = self.rank();
        for r in (0..self.size()).filter(|r| *r != rank) {
            self.post.send(r, bytes.clone());
        }
    }

    /// Who is alive, when all that has come from others has been taken.
    fn look(&mut self) -> Vec<bool> {
        let alive = (0..self.size()).map(|r| r == self.rank() || self.post.alive(r)).collect();
        self.poll();
        alive
    }

    /// Takes what has come.
    fn poll(&mut self) {
        while let Some((from, bytes)) = self.post.receive() {
            let Ok(message) = serde_json::from_slice::<Value>(&bytes) else { continue };
            if from < self.others.len() {
                self.take(from, &message);
            }
        }
        if INTERRUPTED.load(Ordering::SeqCst) && !self.stopped {
            self.stopped = true;
            self.send_all(&json!({ "is": "stop" }));
        }
    }

    fn take(&mut self, from: usize, message: &Value) {
        let other = &mut self.others[from];
        match message["is"].as_str().unwrap_or_default() {
            "hello" => {
                let rounds = message["rounds"].as_object().into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.as_u64()?)));
                other.hello = Some(Hello {
                    search: message["search"].as_str().unwrap_or_default().to_string(),
                    rounds: rounds.collect(),
                    trouble: message["trouble"].as_str().map(str::to_string),
                });
            }
            "migrant" => {
                if let (Some(kind), Some(round)) = (message["arm"].as_str().and_then(Kind::named), message["round"].as_u64()) {
                    let members = message["members"].as_array().into_iter().flatten().filter_map(|m| member_of(m).ok());
                    other.migrants.insert((kind.name(), round), members.collect());
                }
            }
            "view" => other.view = View::of_value(&message["view"]),
            "done" => other.done = Some(message["ended"].as_bool().unwrap_or(false)),
            "stop" => {
                self.stopped = true;
                INTERRUPTED.store(true, Ordering::SeqCst);
            }
            "finished" => self.finished = true,
            _ => {}
        }
    }

    /// Meets the others: all are in the same search, and each has what moved before. `search` tells one search from others; `trouble` is why this process cannot go on.
    ///
    /// # Errors
    /// Why one of them cannot; all are told.
    pub fn meet(&mut self, search: &str, archive: Result<(&Archive, &[Arm]), String>) -> Result<(), String> {
        let (rounds, trouble) = match &archive {
            Ok((_, arms)) => (arms.iter().map(|a| (a.kind.name().to_string(), a.rounds)).collect(), None),
            Err(why) => (BTreeMap::new(), Some(why.clone())),
        };
        self.joined = rounds;
        self.send_all(&json!({ "is": "hello", "search": search, "rounds": self.joined, "trouble": trouble }));
        let (rank, size) = (self.rank(), self.size());
        loop {
            let alive = self.look();
            if (0..size).all(|r| r == rank || self.others[r].hello.is_some() || !alive[r]) {
                break;
            }
            std::thread::sleep(LOOK);
        }
        let (archive, arms) = archive?;
        for (r, other) in self.others.iter().enumerate() {
            let Some(hello) = &other.hello else { continue };
            if let Some(why) = &hello.trouble {
                return Err(format!("process {r}: {why}"));
            }
            if hello.search != search {
                return Err(format!("process {r} runs another search, or another version of this program"));
            }
        }
        // What others may still wait for: the first to need it is the one that is furthest behind.
        for arm in arms.iter().filter(|a| a.migrates()) {
            let name = arm.kind.name();
            let least = self.others.iter().filter_map(|o| o.hello.as_ref()?.rounds.get(name)).min().copied().unwrap_or(0);
            for (round, member) in archive.sent(arm.kind, least.saturating_sub(1))? {
                self.send_all(&migrant(arm.kind, round, &member));
            }
        }
        Ok(())
    }

    /// Whether a process is so far behind since it joined that it is not waited for.
    fn behind(&self, rank: usize, kind: Kind) -> bool {
        let of = |rounds: &BTreeMap<String, u64>| rounds.get(kind.name()).copied().unwrap_or(0);
        self.others[rank].hello.as_ref().is_some_and(|h| of(&h.rounds) + (self.size() as u64) < of(&self.joined))
    }

    /// Who come to the first island of this process, which has number `first` among all, at the end of a round of an arm; rounds count from 0.
    pub fn immigrants(&mut self, arm: &Arm, plan: &Plan, first: usize, round: u64) -> Immigrants {
        let Some(before) = round.checked_sub(1) else { return Immigrants::Come(Vec::new()) };
        let need = (arm.kind.name(), before);
        let (rank, size) = (self.rank(), self.size());
        loop {
            let alive = self.look();
            // The nearest before this one that is there, and not far behind.
            let mut from = None;
            for r in (1..size).map(|k| (rank + size - k) % size) {
                if let Some(members) = self.others[r].migrants.get(&need).cloned() {
                    self.others.iter_mut().for_each(|o| o.migrants.retain(|(a, n), _| *a != need.0 || *n >= before));
                    return Immigrants::Come(members);
                }
                if (alive[r] || self.others[r].done.is_some()) && !self.behind(r, arm.kind) {
                    from = Some(r);
                    break;
                }
            }
            let Some(from) = from else {
                // Alone: its own islands are the ring.
                return Immigrants::Come(if arm.islands.len() > 1 { arm.emigrants(plan, first) } else { Vec::new() });
            };
            if self.others[from].done.is_some() || INTERRUPTED.load(Ordering::SeqCst) {
                return Immigrants::Over;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Sends what moved from the last island at the end of a round, when it has been committed.
    pub fn emigrate(&mut self, kind: Kind, round: u64, members: &str) {
        self.send_all(&migrant(kind, round, members));
    }

    /// Tells how this process stands, now and then; the search as a whole, for the one that leads.
    pub fn view(&mut self, own: &View) -> Option<View> {
        self.poll();
        if self.leads() {
            let mut all = own.clone();
            self.others.iter().filter_map(|o| o.view.as_ref()).for_each(|v| all.merge(v));
            return Some(all);
        }
        if self.told.is_none_or(|t| t.elapsed() >= TELL) {
            self.told = Some(Instant::now());
            self.send_all(&json!({ "is": "view", "view": own.value() }));
        }
        None
    }

    /// Says that this process is through, `ended` if its budget was spent, and waits. True for the one that writes the result, when all others are through or gone; false for others, when it is written.
    pub fn through(&mut self, ended: bool) -> bool {
        self.send_all(&json!({ "is": "done", "ended": ended }));
        let (rank, size) = (self.rank(), self.size());
        loop {
            let alive = self.look();
            if self.finished {
                return false;
            }
            // One that was through and has left without a result is no leader any more.
            let leads = (0..rank).all(|r| !alive[r]);
            if leads && (0..size).all(|r| r == rank || self.others[r].done.is_some() || !alive[r]) {
                return true;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Whether all that are through have spent their budgets.
    pub fn all_ended(&self) -> bool {
        self.others.iter().filter_map(|o| o.done).all(|ended| ended)
    }

    /// Leaves; `finished` if the result has been written.
    pub fn leave(mut self, finished: bool) {
        if finished {
            self.send_all(&json!({ "is": "finished" }));
        }
        self.post.leave();
    }
}

/// A message about what moved. `members` is the text of a value.
fn migrant(kind: Kind, round: u64, members: &str) -> Value {
    let members: Value = serde_json::from_str(members).unwrap_or_default();
    json!({ "is": "migrant", "arm": kind.name(), "round": round, "members": members })
}

/// Programs that move, as text.
pub fn leaving(members: &[Member]) -> String {
    Value::Array(members.iter().map(member_value).collect()).to_string()
}

//! Counters, written as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

/// What has happened.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Launches that were asked for, by kernel, without those of graphs.
    pub launches: BTreeMap<String, u64>,
    /// Kernels that graphs have run.
    pub graph_kernels: BTreeMap<String, u64>,
    pub graph_launches: u64,
    pub graph_nodes: u64,
    pub graphs_instantiated: u64,
    /// Copies that were made and their bytes, by direction.
    copies: BTreeMap<String, (u64, u64)>,
    sets: (u64, u64),
    /// Calls that wait, by name, and how often there was something to wait for.
    waits: BTreeMap<&'static str, (u64, u64)>,
    pub host_functions: u64,
    /// How often devices have met to add up, arrays that were added up, and bytes of one device's.
    meetings: [u64; 3],
    pub allocations: u64,
    pub frees: u64,
    pub peak_bytes: u64,
    pub modules: u64,
    pub instructions: u64,
    pub faults: u64,
}

impl Log {
    /// A kernel was launched.
    pub fn launched(&mut self, name: &str) {
        *self.launches.entry(name.to_string()).or_default() += 1;
    }
    /// A graph has run a kernel.
    pub fn node_kernel(&mut self, name: &str) {
        *self.graph_kernels.entry(name.to_string()).or_default() += 1;
    }
    /// A copy is made.
    pub fn copied(&mut self, from: &str, to: &str, bytes: u64) {
        let entry = self.copies.entry(format!("{from}_to_{to}")).or_default();
        entry.0 += 1;
        entry.1 += bytes;
    }
    /// Devices meet.
    pub fn added_up(&mut self, meets: &[std::sync::Arc<super::collective::Meet>]) {
        let parts = &meets[0].parts;
        self.meetings[0] += 1;
        self.meetings[1] += parts.len() as u64;
        self.meetings[2] += parts.iter().map(|p| p.count * p.element.bytes()).sum::<u64>();
    }
    /// Memory is set.
    pub fn set(&mut self, bytes: u64) {
        self.sets.0 += 1;
        self.sets.1 += bytes;
    }
    /// A call waits; `pending`: for something.
    pub fn waited(&mut self, call: &'static str, pending: bool) {
        let entry = self.waits.entry(call).or_default();
        entry.0 += 1;
        entry.1 += u64::from(pending);
    }

    /// As JSON.
    pub fn json(&self) -> String {
        let mut out = String::from("{\n");
        let names = |map: &BTreeMap<String, u64>| {
            let all: Vec<String> = map.iter().map(|(k, v)| format!("\"{}\": {v}", escaped(k))).collect();
            format!("{{{}}}", all.join(", "))
        };
        let number = |out: &mut String, name: &str, value: u64| out.push_str(&format!("  \"{name}\": {value},\n"));
        _ = writeln!(out, "  \"launches\": {},", names(&self.launches));
        _ = writeln!(out, "  \"graph_kernels\": {},", names(&self.graph_kernels));
        number(&mut out, "kernel_launches", self.launches.values().sum());
        number(&mut out, "graph_launches", self.graph_launches);
        number(&mut out, "graph_nodes", self.graph_nodes);
        number(&mut out, "graphs_instantiated", self.graphs_instantiated);
        let copies: Vec<String> =
            self.copies.iter().map(|(k, (n, bytes))| format!("\"{k}\": {{\"count\": {n}, \"bytes\": {bytes}}}")).collect();
        _ = writeln!(out, "  \"copies\": {{{}}},", copies.join(", "));
        _ = writeln!(out, "  \"memsets\": {{\"count\": {}, \"bytes\": {}}},", self.sets.0, self.sets.1);
        let [meetings, arrays, bytes] = self.meetings;
        _ = writeln!(out, "  \"all_reduce\": {{\"count\": {meetings}, \"arrays\": {arrays}, \"bytes\": {bytes}}},");
        let waits: Vec<String> =
            self.waits.iter().map(|(k, (n, pending))| format!("\"{k}\": {{\"calls\": {n}, \"blocked\": {pending}}}")).collect();
        _ = writeln!(out, "  \"waits\": {{{}}},", waits.join(", "));
        number(&mut out, "synchronizations", self.waits.values().map(|w| w.0).sum());
        number(&mut out, "blocked", self.waits.values().map(|w| w.1).sum());
        number(&mut out, "host_functions", self.host_functions);
        number(&mut out, "allocations", self.allocations);
        number(&mut out, "frees", self.frees);
        number(&mut out, "peak_bytes", self.peak_bytes);
        number(&mut out, "modules", self.modules);
        number(&mut out, "warp_instructions", self.instructions);
        _ = writeln!(out, "  \"faults\": {}", self.faults);
        out.push_str("}\n");
        out
    }
}

fn escaped(text: &str) -> String {
    text.chars().map(|c| if c == '"' || c == '\\' || (c as u32) < 32 { '_' } else { c }).collect()
}

/// Writes the counters where the environment says.
pub fn write() {
    let path = crate::options::options().log.clone();
    let Some(path) = path else { return };
    let text = super::state::hold().log.json();
    if let Err(error) = std::fs::write(&path, text) {
        eprintln!("virtual GPU: {path}: {error}");
    }
}

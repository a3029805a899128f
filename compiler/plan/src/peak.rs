//! How much memory a grouping needs at once, before there are instructions: kernels and other units of work run in the order the scheduler would
//! choose, and values live from the unit that writes them to the last one that reads them.

use crate::net::N;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A unit of work, as far as memory goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load {
    /// Its place in the program; of those that can run, the first does.
    pub key: N,
    /// Values read.
    pub reads: Vec<usize>,
    /// Values written.
    pub writes: Vec<usize>,
    /// Bytes needed only while it runs.
    pub scratch: usize,
    /// Works element by element: results take the place of what is read for the last time.
    pub in_place: bool,
}

/// The most memory in use, and the key of the unit that runs then. `bytes` are the sizes of values. None if units wait for each other.
pub(crate) fn peak(loads: &[Load], bytes: &[usize]) -> Option<(usize, N)> {
    let mut writer = vec![usize::MAX; bytes.len()];
    for (u, load) in loads.iter().enumerate() {
        load.writes.iter().for_each(|&v| writer[v] = u);
    }
    let mut readers = vec![0usize; bytes.len()];
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); loads.len()];
    let mut degree = vec![0usize; loads.len()];
    for (u, load) in loads.iter().enumerate() {
        for &v in &load.reads {
            readers[v] += 1;
            if writer[v] != usize::MAX && writer[v] != u {
                next[writer[v]].push(u);
                degree[u] += 1;
            }
        }
    }
    let mut ready: BinaryHeap<Reverse<(N, usize)>> =
        (0..loads.len()).filter(|&u| degree[u] == 0).map(|u| Reverse((loads[u].key, u))).collect();
    let (mut live, mut most, mut at, mut done) = (0usize, 0, 0, 0);
    while let Some(Reverse((key, u))) = ready.pop() {
        done += 1;
        let load = &loads[u];
        let written: usize = load.writes.iter().map(|&v| bytes[v]).sum();
        let mut freed: usize = load.writes.iter().filter(|&&v| readers[v] == 0).map(|&v| bytes[v]).sum();
        for &v in &load.reads {
            readers[v] -= 1;
            if readers[v] == 0 && writer[v] != usize::MAX {
                freed += bytes[v];
            }
        }
        let after = live + written - freed;
        let during = if load.in_place { live.max(after) } else { live + written } + load.scratch;
        if during > most {
            (most, at) = (during, key);
        }
        live = after;
        for &v in &next[u] {
            degree[v] -= 1;
            if degree[v] == 0 {
                ready.push(Reverse((loads[v].key, v)));
            }
        }
    }
    (done == loads.len()).then_some((most, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(key: N, reads: &[usize], writes: &[usize]) -> Load {
        Load { key, reads: reads.to_vec(), writes: writes.to_vec(), ..Load::default() }
    }

    #[test]
    fn values_live_from_their_writer_to_their_last_reader() {
        // 0 is read last by the third unit, 1 by the second.
        let mut loads = vec![load(0, &[], &[0]), load(1, &[0], &[1]), load(2, &[1], &[2]), load(3, &[0, 2], &[3])];
        let bytes = [100, 10, 30, 50];
        assert_eq!(peak(&loads, &bytes), Some((180, 3)));
        // In place of what dies there.
        loads[3].in_place = true;
        assert_eq!(peak(&loads, &bytes), Some((140, 2)));
        loads[1].scratch = 200;
        assert_eq!(peak(&loads, &bytes), Some((310, 1)));
    }

    #[test]
    fn units_run_in_the_order_of_their_keys_once_they_can() {
        // The second by key waits for the third.
        let loads = [load(0, &[], &[0]), load(1, &[2], &[1]), load(2, &[0], &[2])];
        assert_eq!(peak(&loads, &[8, 4, 2]), Some((10, 2)));
        let ring = [load(0, &[1], &[0]), load(1, &[0], &[1])];
        assert_eq!(peak(&ring, &[1, 1]), None);
    }
}

//! Numbered items shared out to threads.

/// What is made of items on so many threads, in the order of the items; which thread has an item depends on its number alone. `work` makes all of a thread, so that it may keep what they need in common.
pub(super) fn shared_out<T: Send, R: Send>(
    items: impl Iterator<Item = T>,
    threads: usize,
    work: impl Fn(Vec<(usize, T)>) -> Vec<(usize, R)> + Sync,
) -> Vec<R> {
    let mut lots: Vec<Vec<(usize, T)>> = (0..threads.max(1)).map(|_| Vec::new()).collect();
    for (k, item) in items.enumerate() {
        lots[k % threads.max(1)].push((k, item));
    }
    let own = lots.remove(0);
    let mut made: Vec<(usize, R)> = std::thread::scope(|scope| {
        let others: Vec<_> = lots.into_iter().map(|lot| scope.spawn(|| work(lot))).collect();
        let mut all = work(own);
        for other in others {
            all.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        all
    });
    made.sort_by_key(|m| m.0);
    made.into_iter().map(|m| m.1).collect()
}

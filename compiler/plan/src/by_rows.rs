//! Updates of aliased outputs that go row by row: which of them make one kernel.

use crate::group::{MOST_MEMBERS, ROW_ELEMENTS, SMALL_WORK, bases, flat_size};
use crate::net::{ENOUGH_ROWS, N, Net};
use crate::rows::{Class, cost, gcd, own_rows};
use optc_ir::Op;
use rustc_hash::FxHashMap;

/// Makes one kernel of updates that go row by row: where the elements of a row are combined and the result meets them again, as the largest magnitude of a block
/// and its codes, or a row and its norm. Nothing else waits for them, so levels do not matter, as in the flat kernels.
pub(crate) fn join_rows(net: &Net, class: &[Class], aliased: &[N], cone: &mut [bool]) {
    let count = net.nodes.len();
    let mut refused: Vec<bool> = (0..count).map(|n| class[n] != Class::View && !goes_by_rows(net, class, n)).collect();
    let mut fits;
    loop {
        fits = serving(net, aliased, &refused);
        // A reduction stays with what it reduces, which may be much larger.
        let strays = |n: N| matches!(net.nodes[n].op, Op::Reduce { .. }) && bases(net, class, n).iter().any(|&(m, _)| !fits[m]);
        let found: Vec<N> = (0..count).filter(|&n| fits[n] && strays(n)).collect();
        if found.is_empty() {
            break;
        }
        found.into_iter().for_each(|n| refused[n] = true);
    }
    // Connected nodes, by union-find.
    let mut parent: Vec<usize> = (0..count).collect();
    fn find(parent: &mut [usize], mut n: usize) -> usize {
        while parent[n] != n {
            parent[n] = parent[parent[n]];
            n = parent[n];
        }
        n
    }
    let members: Vec<N> = (0..count).filter(|&n| fits[n] && class[n] != Class::View).collect();
    let mut edges: Vec<(N, N, usize)> = Vec::new();
    for &n in &members {
        for (m, r) in bases(net, class, n) {
            if fits[m] && class[m] != Class::View {
                edges.push((n, m, r));
                let (a, b) = (find(&mut parent, n), find(&mut parent, m));
                parent[a] = b;
            }
        }
    }
    // Per part: whether it has values of rows at all, rows, members, the most elements, work.
    let mut parts: FxHashMap<usize, (bool, usize, usize, usize, usize)> = FxHashMap::default();
    for &n in &members {
        let root = find(&mut parent, n);
        let part = parts.entry(root).or_default();
        part.0 |= flat_size(net, class, n).is_none();
        part.1 = gcd(part.1, own_rows(net, n));
        part.2 += 1;
        part.3 = part.3.max(net.len_of(n));
        part.4 += net.len_of(n) * (1 + cost(net, n));
    }
    for &(n, _, r) in &edges {
        let root = find(&mut parent, n);
        let part = parts.get_mut(&root).expect("a part of every member");
        part.1 = gcd(part.1, r);
    }
    for &n in &members {
        let (by_rows, rows, size, widest, work) = parts[&find(&mut parent, n)];
        let good = (rows >= ENOUGH_ROWS && widest / rows <= ROW_ELEMENTS) || work <= SMALL_WORK;
        if by_rows && good && size <= MOST_MEMBERS {
            cone[n] = true;
        }
    }
}

/// Nodes that in the end serve only aliased outputs, through nodes that are not refused.
pub(crate) fn serving(net: &Net, aliased: &[N], refused: &[bool]) -> Vec<bool> {
    let count = net.nodes.len();
    let mut fits = vec![true; count];
    let mut used = vec![false; count];
    for &o in &net.outputs {
        fits[o] = aliased.contains(&o);
        used[o] = true;
    }
    for n in (0..count).rev() {
        fits[n] &= used[n] && !refused[n];
        for &o in &net.nodes[n].operands {
            used[o] = true;
            fits[o] &= fits[n];
        }
    }
    fits
}

/// Whether a node combines elements of arrays at its own place, with values of the rows they stand in, or the elements of whole rows.
fn goes_by_rows(net: &Net, class: &[Class], n: N) -> bool {
    let node = &net.nodes[n];
    let kind = match node.op {
        Op::Map(_) | Op::Cast | Op::Bitcast => class[n] == Class::Elem,
        Op::Reduce { .. } => !node.partial,
        _ => false,
    };
    let size = net.len_of(n);
    // Words of keys are single numbers too.
    let number = |m: N| net.len_of(m) == 1 || matches!(net.nodes[m].op, Op::RandomFold { .. });
    let at_place = |&(m, r): &(N, usize)| number(m) || r == net.len_of(m).min(size);
    kind && size > 1 && bases(net, class, n).iter().all(at_place)
}

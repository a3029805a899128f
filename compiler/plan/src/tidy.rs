//! Last touches on a kernel: unused values go, numbers become consecutive, so that equal kernels are equal.

use optc_abi::plan::WRITTEN_ORIGIN;
use optc_ir::kernel::{Expr, Index, Kernel, Stmt, ValueId};

/// Removes values nobody uses (and loops left empty), and renumbers values and axes in order of appearance.
pub(crate) fn tidy(kernel: &mut Kernel) {
    let mut used = vec![false; kernel.values];
    let mut body = std::mem::take(&mut kernel.body);
    sweep(&mut body, &mut used);
    let mut names = Names { values: vec![usize::MAX; kernel.values], axes: vec![usize::MAX; kernel.axes], next_value: 0, next_axis: 0 };
    names.block(&mut body);
    kernel.values = names.next_value;
    kernel.axes = names.next_axis;
    kernel.body = body;
}

/// The values a statement's expression uses.
fn operands(expr: &Expr, visit: &mut dyn FnMut(ValueId)) {
    match expr {
        Expr::Const(_) | Expr::Axis(_) | Expr::Acc(_) => {}
        Expr::Load { index, guard, .. } => {
            index.values.iter().for_each(|&(v, _)| visit(v));
            if let Some((g, o)) = guard {
                visit(*g);
                visit(*o);
            }
        }
        Expr::Map(_, values) => values.iter().for_each(|&v| visit(v)),
        Expr::Cast(v) | Expr::Bitcast(v) | Expr::CheckedIndex { index: v, .. } => visit(*v),
        Expr::Philox { key, counter, .. } => key.iter().chain(counter).for_each(|&v| visit(v)),
    }
}

fn sweep(body: &mut Vec<Stmt>, used: &mut [bool]) {
    let mut kept: Vec<Stmt> = Vec::with_capacity(body.len());
    for mut stmt in std::mem::take(body).into_iter().rev() {
        let keep = match &mut stmt {
            Stmt::For { body, .. } => {
                sweep(body, used);
                !body.is_empty()
            }
            Stmt::Let { value, expr, .. } => {
                // A check of what was written is there for what it reports.
                used[*value] |= matches!(expr, Expr::CheckedIndex { origin: WRITTEN_ORIGIN, .. });
                if used[*value] {
                    operands(expr, &mut |v| used[v] = true);
                }
                used[*value]
            }
            Stmt::Init { value, .. } | Stmt::Update { value, .. } => {
                used[*value] = true;
                true
            }
            Stmt::Store { index, value, .. } => {
                index.values.iter().for_each(|&(v, _)| used[v] = true);
                used[*value] = true;
                true
            }
        };
        if keep {
            kept.push(stmt);
        }
    }
    kept.reverse();
    *body = kept;
}

/// New numbers.
struct Names {
    values: Vec<usize>,
    axes: Vec<usize>,
    next_value: usize,
    next_axis: usize,
}

impl Names {
    fn index(&self, index: &mut Index) {
        index.axes.iter_mut().for_each(|(a, _)| *a = self.axes[*a]);
        index.sized.iter_mut().for_each(|(a, _, _)| *a = self.axes[*a]);
        index.values.iter_mut().for_each(|(v, _)| *v = self.values[*v]);
        index.axes.sort_unstable();
    }

    fn block(&mut self, body: &mut [Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::For { axis, body, .. } => {
                    self.axes[*axis] = self.next_axis;
                    *axis = self.next_axis;
                    self.next_axis += 1;
                    self.block(body);
                }
                Stmt::Let { value, expr, .. } => {
                    match expr {
                        Expr::Const(_) | Expr::Acc(_) => {}
                        Expr::Axis(a) => *a = self.axes[*a],
                        Expr::Load { index, guard, .. } => {
                            self.index(index);
                            if let Some((g, o)) = guard {
                                (*g, *o) = (self.values[*g], self.values[*o]);
                            }
                        }
                        Expr::Map(_, values) => values.iter_mut().for_each(|v| *v = self.values[*v]),
                        Expr::Cast(v) | Expr::Bitcast(v) | Expr::CheckedIndex { index: v, .. } => *v = self.values[*v],
                        Expr::Philox { key, counter, .. } => key.iter_mut().chain(counter).for_each(|v| *v = self.values[*v]),
                    }
                    self.values[*value] = self.next_value;
                    *value = self.next_value;
                    self.next_value += 1;
                }
                Stmt::Init { value, .. } | Stmt::Update { value, .. } => *value = self.values[*value],
                Stmt::Store { index, value, .. } => {
                    self.index(index);
                    *value = self.values[*value];
                }
            }
        }
    }
}

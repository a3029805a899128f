//! What `eval w = …` may use: it is read after the step, from the new weights and the states; what the step computed on the way is gone.

use super::*;

/// Why the value of a name is not to be had after the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    /// The gradient, or something computed from it.
    Gradient,
    /// The step's loss, or something computed from it.
    Loss,
    /// The change that an optimizer makes.
    Change,
    /// A variable that the step updates and no state keeps.
    Variable,
    /// It was computed from what the step has changed since.
    Older,
}

impl Gone {
    fn says(self, name: &str) -> String {
        match self {
            Gone::Gradient if name == "g" => "`g` is the gradient of the step".to_string(),
            Gone::Gradient => format!("`{name}` is computed from the step's gradient"),
            Gone::Loss if name == "loss" || collectives::OF_LOSS.contains(&name) => format!("`{name}` looks at the step's loss"),
            Gone::Loss => format!("`{name}` is computed from the step's loss"),
            Gone::Change => format!("`{name}` is a change that the step makes"),
            Gone::Variable => format!("`{name}` is a variable of the step, and no state"),
            Gone::Older => format!("`{name}` is computed from what the step changes afterwards"),
        }
    }
}

/// A name bound in a body: why it is gone, if it is, and which weights and states it was computed from.
struct Bound {
    name: Arc<str>,
    gone: Option<Gone>,
    of: Vec<Arc<str>>,
}

/// What a walk over a body has found so far.
struct Seen {
    bound: Vec<Bound>,
    /// Variables that some statement updates.
    assigned: Vec<Arc<str>>,
}

impl Seen {
    fn get(&self, name: &str) -> Option<&Bound> {
        self.bound.iter().rev().find(|b| &*b.name == name)
    }
    /// The first part of an expression that is gone after the step.
    fn part(&self, e: &Expr) -> Option<(Arc<str>, Gone, Span)> {
        let mut found = None;
        crate::walk::expr(e, &mut |e| {
            let gone = match &e.kind {
                ExprKind::Name(n) => match self.get(n) {
                    Some(bound) => bound.gone.map(|why| (n.clone(), why)),
                    None if &**n == "g" => Some((n.clone(), Gone::Gradient)),
                    None if &**n == "loss" || collectives::OF_LOSS.contains(&&**n) => Some((n.clone(), Gone::Loss)),
                    None => None,
                },
                ExprKind::Field(_, method) if &*method.text == "delta" => Some((method.text.clone(), Gone::Change)),
                _ => None,
            };
            if let (None, Some((name, why))) = (&found, gone) {
                found = Some((name, why, e.span));
            }
            found.is_none()
        });
        found
    }
    /// The weights and states that an expression is computed from.
    fn sources(&self, e: &Expr) -> Vec<Arc<str>> {
        let mut out: Vec<Arc<str>> = Vec::new();
        crate::walk::expr(e, &mut |e| {
            // Shapes do not change.
            if let ExprKind::Call { callee, .. } = &e.kind
                && matches!(&callee.kind, ExprKind::Name(n) if matches!(&**n, "ndim" | "shape" | "size" | "zeros_like"))
            {
                return false;
            }
            if let ExprKind::Name(n) = &e.kind {
                match self.get(n) {
                    Some(bound) => out.extend(bound.of.iter().cloned()),
                    None => out.push(n.clone()),
                }
            }
            true
        });
        out
    }
    fn update(&mut self, name: &str) {
        for bound in self.bound.iter_mut().filter(|b| b.gone.is_none() && b.of.iter().any(|n| &**n == name)) {
            bound.gone = Some(Gone::Older);
        }
    }
}

impl Evaluator<'_> {
    /// Checks that the weights a body names for evaluation can be had after the step.
    ///
    /// # Errors
    /// `eval w` of the gradient, of the loss, of variables of the step.
    pub(super) fn check_eval_weights(&mut self, body: &Block) -> Eval<()> {
        if !crate::walk::any(body, &|s| matches!(s.kind, StmtKind::Eval { .. }), &|_| false) {
            return Ok(());
        }
        let mut seen = Seen { bound: Vec::new(), assigned: crate::walk::assigned(&body.stmts) };
        let mut fault = None;
        crate::walk::stmts(&body.stmts, &mut |s| match &s.kind {
            StmtKind::Let { pattern, value, kind, .. } => {
                let gone = seen.part(value).map(|(_, why, _)| why);
                let of = seen.sources(value);
                for name in crate::lets::names_of(pattern) {
                    let updated = *kind == LetKind::Var && seen.assigned.contains(&name);
                    let gone = gone.or(updated.then_some(Gone::Variable));
                    seen.bound.push(Bound { name, gone, of: of.clone() });
                }
            }
            StmtKind::Update { target, .. } => {
                if let Some(name) = root_name(target) {
                    seen.update(&name);
                }
            }
            StmtKind::Expr(Expr { kind: ExprKind::Call { callee, .. }, .. }) if matches!(&callee.kind, ExprKind::Field(_, method) if &*method.text == "step") =>
            {
                seen.update("w");
            }
            StmtKind::Eval { value, .. } if fault.is_none() => {
                fault = seen.part(value).map(|(name, why, at)| (value.span, name, why, at));
            }
            _ => {}
        });
        match fault {
            None => Ok(()),
            Some((span, name, why, at)) => self.fail(
                Diagnostic::error(Code("E0543"), at, "`eval w` is read after the step, when this is gone")
                    .at(why.says(&name))
                    .label(span, "the weights of evaluation")
                    .help("keep it in a state: `state mean = w`, in the step `mean <- …`, and `eval w = mean`"),
            ),
        }
    }
}

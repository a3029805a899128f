//! Named chains: optimizers whose body is an optimizer made of others, `optimizer clipped(lr: float) = clip_by_global_norm(1.0) |> adamw(lr = lr)`.

use super::*;

/// A name that is bound in the bodies of named chains. No name of the language is spelled like it.
const CHAIN: &str = "%chain";

/// Marks a scope as that of a named chain.
pub(super) fn mark(scope: &mut Scope) {
    scope.bind(CHAIN, Value::None, LetKind::Let, Span::default());
}

/// Whether a name of the leaf or of the run is to be bound where an argument is evaluated: nothing is called so, or only what the chain in which it was written saw,
/// which is older than what the optimizer sees that it is for.
pub(super) fn is_free(scope: &Scope, name: &str) -> bool {
    scope.get(name).is_none_or(|b| b.span == Span::default() && scope.get(CHAIN).is_some())
}

impl Evaluator<'_> {
    /// Runs what the body of a named chain is, on the leaves of the instance. The body is evaluated for every leaf, because hyperparameters may differ from leaf to leaf.
    pub(super) fn run_named(&mut self, item: &FnItem, scopes: Vec<Scope>, w: Vec<Array>, g: Vec<Array>) -> Eval<(Vec<Array>, Vec<Array>)> {
        let mut own = Vec::with_capacity(scopes.len());
        for (leaf, mut scope) in scopes.into_iter().enumerate() {
            let value = self.expr(&mut scope, &item.body)?;
            let Some(made) = self.as_optimizer(&value, item.body.span) else {
                return self.fail(
                    Diagnostic::error(Code("E0528"), item.body.span, "the body of this optimizer is not an optimizer")
                        .help("write a block with updates of `w` or `g`, or a chain of optimizers joined by `|>`"),
                );
            };
            own.push((self.opt_run().instance.leaves[leaf].index, made));
        }
        if own.is_empty() {
            return Ok((w, g));
        }
        let whole = self.of_leaves(&own, item.body.span)?;
        self.run_stage(&whole, w, g)
    }

    /// The optimizers held by a wrapper, each evaluated for one leaf, as one.
    pub(super) fn join_held(&mut self, item: &FnItem, scopes: &mut [Scope]) -> Eval<()> {
        for param in item.params.iter().filter(|p| p.ty.as_ref().is_some_and(|t| matches!(t.kind, TypeKind::Optimizer))) {
            let mut own = Vec::with_capacity(scopes.len());
            for (leaf, scope) in scopes.iter().enumerate() {
                if let Some(Value::Optimizer(o)) = scope.get(&param.name.text).map(|b| &b.value) {
                    own.push((self.opt_run().instance.leaves[leaf].index, o.clone()));
                }
            }
            if own.len() < 2 || own.len() < scopes.len() {
                continue;
            }
            let whole = self.of_leaves(&own, param.span)?;
            scopes.iter_mut().for_each(|s| {
                s.set(&param.name.text, Value::Optimizer(whole.clone()));
            });
        }
        Ok(())
    }

    fn of_leaves(&mut self, own: &[(usize, Rc<OptimizerValue>)], span: Span) -> Eval<Rc<OptimizerValue>> {
        match together(own) {
            Some(whole) => Ok(whole),
            None => self.fail(
                Diagnostic::error(
                    Code("E0542"),
                    span,
                    "which optimizers these are differs from leaf to leaf, but they run for all leaves at once",
                )
                .help("give the leaves groups of their own: `{ ndim >= 2: muon(), _: adamw() }`"),
            ),
        }
    }
}

/// Optimizers made of one text, each for the leaf of a number, as one whose arguments are evaluated in the scope of the leaf at hand. `None` if they are not of one form.
fn together(own: &[(usize, Rc<OptimizerValue>)]) -> Option<Rc<OptimizerValue>> {
    let (_, first) = own.first()?;
    if own.iter().all(|(_, o)| Rc::ptr_eq(o, first)) {
        return Some(first.clone());
    }
    /// Part by part; `pick` finds the same part in each.
    fn parts(
        own: &[(usize, Rc<OptimizerValue>)],
        pick: impl Fn(&OptimizerValue) -> Option<Rc<OptimizerValue>>,
    ) -> Option<Rc<OptimizerValue>> {
        let found: Option<Vec<_>> = own.iter().map(|(leaf, o)| Some((*leaf, pick(o)?))).collect();
        together(&found?)
    }
    let whole = match &**first {
        OptimizerValue::Single { item, args, span } => {
            let mut all = Vec::with_capacity(own.len());
            for (leaf, o) in own {
                match &**o {
                    OptimizerValue::Single { item: other, args: theirs, span: at }
                        if (other, at, theirs.len()) == (item, span, args.len()) =>
                    {
                        all.push((*leaf, theirs));
                    }
                    _ => return None,
                }
            }
            let joined = args.iter().enumerate().map(|(k, arg)| {
                let same = all.iter().all(|(_, theirs)| theirs[k].expr.span == arg.expr.span);
                let scopes = all.iter().map(|(leaf, theirs)| (*leaf, theirs[k].scope_of(*leaf).clone())).collect();
                same.then(|| OptArg { leaves: Some(Rc::new(scopes)), ..arg.clone() })
            });
            let joined = joined.collect::<Option<Vec<_>>>()?;
            OptimizerValue::Single { item: *item, args: joined, span: *span }
        }
        OptimizerValue::Chain(list) => {
            let like = |o: &OptimizerValue| matches!(o, OptimizerValue::Chain(theirs) if theirs.len() == list.len());
            if !own.iter().all(|(_, o)| like(o)) {
                return None;
            }
            let part = |k: usize| parts(own, |o| if let OptimizerValue::Chain(theirs) = o { theirs.get(k).cloned() } else { None });
            let joined = (0..list.len()).map(part).collect::<Option<Vec<_>>>()?;
            OptimizerValue::Chain(joined)
        }
        OptimizerValue::Groups { groups, span } => {
            let mut joined = Vec::with_capacity(groups.len());
            for (k, group) in groups.iter().enumerate() {
                let of = |o: &OptimizerValue| match o {
                    OptimizerValue::Groups { groups: theirs, span: at } if at == span && theirs.len() == groups.len() => {
                        Some(theirs[k].optimizer.clone())
                    }
                    _ => None,
                };
                let optimizer = match &group.optimizer {
                    Some(_) => Some(parts(own, |o| of(o).flatten())?),
                    None if own.iter().all(|(_, o)| matches!(of(o), Some(None))) => None,
                    None => return None,
                };
                joined.push(OptGroup { optimizer, ..group.clone() });
            }
            OptimizerValue::Groups { groups: joined, span: *span }
        }
        OptimizerValue::Inner { label, .. } => OptimizerValue::Inner {
            label: label.clone(),
            of: parts(own, |o| match o {
                OptimizerValue::Inner { label: theirs, of } if theirs == label => Some(of.clone()),
                _ => None,
            })?,
        },
    };
    Some(Rc::new(whole))
}

//! The syntax tree as text: nested lists, without places and ids. For `optc explain --stage ast` and for comparing trees.

use crate::ast::*;
use std::fmt::Write as _;

/// Widest line before a list is broken over several.
const WIDTH: usize = 110;

/// A nested list.
enum S {
    Atom(String),
    List(Vec<S>),
}

/// The file as nested lists, one item after the other. Equal texts mean equal trees, places aside.
pub fn print_ast(file: &File) -> String {
    let mut out = String::new();
    for item in &file.items {
        for line in item.doc.lines() {
            let _ = writeln!(out, "{}", format!("## {line}").trim_end());
        }
        write(&mut out, &item_s(item), 0);
        out.push('\n');
    }
    out
}

fn width(s: &S) -> usize {
    match s {
        S::Atom(a) => a.chars().count(),
        S::List(items) => items.iter().map(|i| width(i) + 1).sum::<usize>() + 1,
    }
}

fn write(out: &mut String, s: &S, indent: usize) {
    match s {
        S::Atom(a) => out.push_str(a),
        S::List(items) if indent + width(s) <= WIDTH => {
            out.push('(');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                write(out, item, 0);
            }
            out.push(')');
        }
        S::List(items) => {
            out.push('(');
            let heads = items.iter().take_while(|i| matches!(i, S::Atom(_))).count();
            for (i, item) in items.iter().enumerate() {
                if i < heads {
                    if i > 0 {
                        out.push(' ');
                    }
                    write(out, item, indent);
                } else {
                    let _ = write!(out, "\n{:1$}", "", indent + 2);
                    write(out, item, indent + 2);
                }
            }
            out.push(')');
        }
    }
}

fn atom(text: impl ToString) -> S {
    S::Atom(text.to_string())
}

fn list(head: &str, rest: impl IntoIterator<Item = S>) -> S {
    S::List(std::iter::once(atom(head)).chain(rest).collect())
}

fn item_s(item: &Item) -> S {
    match &item.kind {
        ItemKind::Import(Import::Std { path, names, alias }) => {
            let path = path.iter().map(|n| &*n.text).collect::<Vec<_>>().join(".");
            let mut rest = vec![atom(path)];
            rest.extend(names.iter().map(name_s));
            rest.extend(alias.iter().map(|a| list("as", [name_s(a)])));
            list("import", rest)
        }
        ItemKind::Import(Import::File { path, alias, .. }) => {
            list("import", std::iter::once(atom(format!("{path:?}"))).chain(alias.iter().map(|a| list("as", [name_s(a)]))))
        }
        ItemKind::Const { name, ty, value } => {
            let ty = ty.iter().map(ty_s);
            list("const", std::iter::once(name_s(name)).chain(ty).chain([expr_s(value)]))
        }
        ItemKind::TypeAlias { name, dims, ty } => list("type", [name_s(name), S::List(dims.iter().map(name_s).collect()), ty_s(ty)]),
        ItemKind::Fn(f) => {
            let word = match f.kind {
                FnKind::Fn => "fn",
                FnKind::HostFn => "host-fn",
                FnKind::Layer => "layer",
                FnKind::Model => "model",
                FnKind::Loss => "loss",
                FnKind::Schedule => "schedule",
                FnKind::Optimizer => "optimizer",
            };
            let mut rest = vec![name_s(&f.name), params_s(&f.params)];
            rest.extend(f.result.iter().map(|t| list("->", [ty_s(t)])));
            rest.push(expr_s(&f.body));
            rest.extend(f.gradient.iter().map(|g| list("gradient", [S::List(g.cotangents.iter().map(name_s).collect()), expr_s(&g.body)])));
            list(word, rest)
        }
        ItemKind::Block(b) => {
            let word = match b.kind {
                BlockKind::Data => "data",
                BlockKind::Train => "train",
                BlockKind::Search => "search",
            };
            let mut rest = vec![name_s(&b.name), params_s(&b.params)];
            rest.extend(b.entries.iter().map(entry_s));
            list(word, rest)
        }
        ItemKind::Experiment(e) => {
            list("experiment", [name_s(&e.name), params_s(&e.params)].into_iter().chain(e.body.stmts.iter().map(stmt_s)))
        }
        ItemKind::Extern(e) => {
            let options = e.options.iter().map(|(n, v)| named(n, v));
            list("extern", [name_s(&e.name), expr_s(&e.command)].into_iter().chain(options).chain([params_s(&e.params), ty_s(&e.result)]))
        }
    }
}

fn name_s(name: &Name) -> S {
    atom(&name.text)
}

fn named(name: &Name, value: &Expr) -> S {
    list(&format!("{}:", name.text), [expr_s(value)])
}

fn params_s(params: &[Param]) -> S {
    S::List(
        params
            .iter()
            .map(|p| {
                let mut parts = vec![];
                if p.is_const {
                    parts.push(atom("const"));
                }
                parts.push(name_s(&p.name));
                parts.extend(p.ty.iter().map(ty_s));
                if let Some(range) = &p.range {
                    let bound = |b: &Option<Bound>, strict: &str, open: &str| {
                        b.iter().map(|b| list(if b.inclusive { open } else { strict }, [expr_s(&b.value)])).collect::<Vec<_>>()
                    };
                    parts.extend(bound(&range.low, ">", ">="));
                    parts.extend(bound(&range.high, "<", "<="));
                    if !range.among.is_empty() {
                        parts.push(list("in", range.among.iter().map(|text| atom(format!("{text:?}")))));
                    }
                }
                parts.extend(p.default.iter().map(|d| list("=", [expr_s(d)])));
                if parts.len() == 1 { parts.remove(0) } else { S::List(parts) }
            })
            .collect(),
    )
}

fn elem(e: &ElemType) -> S {
    match e {
        ElemType::Concrete(d) => atom(format!("{d:?}").to_lowercase()),
        ElemType::Float => atom("float"),
        ElemType::Named(n) => name_s(n),
        ElemType::Quantized(args) => list("q8", args.iter().map(arg_s)),
    }
}

fn ty_s(ty: &Type) -> S {
    match &ty.kind {
        TypeKind::Array { elem: e, dims: None } => elem(e),
        TypeKind::Array { elem: e, dims: Some(dims) } => {
            let dims = dims.iter().map(|d| match d {
                DimExpr::Ellipsis(_) => atom("..."),
                DimExpr::Expr(e) => expr_s(e),
            });
            S::List([atom("array"), elem(e)].into_iter().chain(dims).collect())
        }
        TypeKind::Int => atom("int"),
        TypeKind::Str => atom("str"),
        TypeKind::Bool => atom("flag"),
        TypeKind::Fn(None) => atom("fn"),
        TypeKind::Fn(Some((params, result))) => list("fn", [S::List(params.iter().map(ty_s).collect()), ty_s(result)]),
        TypeKind::Model => atom("model"),
        TypeKind::Optimizer => atom("optimizer"),
        TypeKind::Data => atom("data"),
        TypeKind::Type => atom("type"),
        TypeKind::Tree => atom("tree"),
        TypeKind::Tuple(types) => list("tuple", types.iter().map(ty_s)),
        TypeKind::Record(fields) => list("record", fields.iter().map(|(n, t)| list(&format!("{}:", n.text), [ty_s(t)]))),
        TypeKind::List(t) => list("list", [ty_s(t)]),
        TypeKind::Named { name, args } if args.is_empty() => name_s(name),
        TypeKind::Named { name, args } => list(&name.text, args.iter().map(expr_s)),
    }
}

fn arg_s(arg: &Arg) -> S {
    match &arg.name {
        Some(name) => named(name, &arg.value),
        None => expr_s(&arg.value),
    }
}

fn binary(op: BinaryOp) -> &'static str {
    use BinaryOp::*;
    match op {
        Or => "or",
        And => "and",
        Eq => "==",
        Ne => "!=",
        Lt => "<",
        Le => "<=",
        Gt => ">",
        Ge => ">=",
        Near => "~=",
        Add => "+",
        Sub => "-",
        Mul => "*",
        Div => "/",
        FloorDiv => "//",
        Rem => "%",
        MatMul => "@",
        Pow => "^",
        BitAnd => "&",
        BitOr => "bit_or",
        Xor => "xor",
        Shl => "<<",
        Shr => ">>",
        Matches => "matches",
    }
}

fn block_s(block: &Block) -> S {
    list("do", block.stmts.iter().map(stmt_s))
}

fn optional(e: &Option<Expr>) -> S {
    e.as_ref().map_or(atom("_"), expr_s)
}

fn key_s(key: &GroupKey) -> S {
    match key {
        GroupKey::Any => atom("_"),
        GroupKey::Patterns(p) => list("name", p.iter().map(|p| atom(format!("{p:?}")))),
        GroupKey::Compare(name, op, value) => list(binary(*op), [name_s(name), expr_s(value)]),
        GroupKey::And(a, b) => list("and", [key_s(a), key_s(b)]),
    }
}

fn pattern_s(pattern: &Pattern) -> S {
    match &pattern.kind {
        PatternKind::Name(n) => atom(n),
        PatternKind::Ignore => atom("_"),
        PatternKind::Tuple(parts) => list("tuple", parts.iter().map(pattern_s)),
        PatternKind::Record(fields) => list("record", fields.iter().map(|(n, p)| list(&format!("{}:", n.text), [pattern_s(p)]))),
    }
}

fn indices(vars: &[IndexVar]) -> S {
    S::List(
        vars.iter()
            .map(|v| match &v.extent {
                Some(e) => list("<", [name_s(&v.name), expr_s(e)]),
                None => name_s(&v.name),
            })
            .collect(),
    )
}

fn enumerated(pattern: &Pattern, enumerate: bool) -> S {
    if enumerate { list("enumerate", [pattern_s(pattern)]) } else { pattern_s(pattern) }
}

/// Longest chain of operators that is shown as nested lists.
const CHAIN: usize = 40;

/// A long chain of left-associative operators as one list: `(chain a + b - c)`.
fn chain_s(e: &Expr) -> Option<S> {
    let mut links = Vec::new();
    let mut first = e;
    loop {
        let (op, a, b) = match &first.kind {
            ExprKind::Binary(op, a, b) => (binary(*op), a, b),
            ExprKind::Pipe(a, b) => ("|>", a, b),
            ExprKind::Range(a, b) => ("..", a, b),
            _ => break,
        };
        links.push((op, b));
        first = a;
    }
    if links.len() <= CHAIN {
        return None;
    }
    let rest = links.into_iter().rev().flat_map(|(op, b)| [atom(op), expr_s(b)]);
    Some(list("chain", std::iter::once(expr_s(first)).chain(rest)))
}

fn expr_s(e: &Expr) -> S {
    if let Some(chain) = chain_s(e) {
        return chain;
    }
    match &e.kind {
        ExprKind::Int(i) => atom(i),
        ExprKind::Float(f) => atom(format!("{f:?}")),
        ExprKind::Quantity(value, unit) => list(&format!("{unit:?}").to_lowercase(), [atom(format!("{value:?}"))]),
        ExprKind::Bool(b) => atom(b),
        ExprKind::None => atom("none"),
        ExprKind::Str(parts) => match parts.as_slice() {
            [StrPart::Text(t)] => atom(format!("{t:?}")),
            parts => list(
                "string",
                parts.iter().map(|p| match p {
                    StrPart::Text(t) => atom(format!("{t:?}")),
                    StrPart::Expr(e, None) => expr_s(e),
                    StrPart::Expr(e, Some(format)) => list("format", [expr_s(e), atom(format!("{format:?}"))]),
                }),
            ),
        },
        ExprKind::Name(n) => atom(n),
        ExprKind::DType(d) => elem(d),
        ExprKind::Tuple(parts) => list("tuple", parts.iter().map(expr_s)),
        ExprKind::List(parts) => list("list", parts.iter().map(expr_s)),
        ExprKind::Comprehension { element, clauses } => {
            let clauses = clauses.iter().map(|c| {
                let cond = c.cond.iter().map(|c| list("if", [expr_s(c)]));
                list("for", [enumerated(&c.pattern, c.enumerate), expr_s(&c.iter)].into_iter().chain(cond))
            });
            list("collect", std::iter::once(expr_s(element)).chain(clauses))
        }
        ExprKind::Record(fields) => list(
            "record",
            fields.iter().map(|(path, v)| list(&format!("{}:", path.iter().map(|n| &*n.text).collect::<Vec<_>>().join(".")), [expr_s(v)])),
        ),
        ExprKind::Groups(groups) => list("groups", groups.iter().map(|(k, v)| S::List(vec![key_s(k), expr_s(v)]))),
        ExprKind::Block(b) => block_s(b),
        ExprKind::Lambda(l) => list("->", [S::List(l.params.iter().map(pattern_s).collect()), expr_s(&l.body)]),
        ExprKind::Unary(op, x) => {
            let op = match op {
                UnaryOp::Neg => "-",
                UnaryOp::Not => "not",
                UnaryOp::BitNot => "~",
            };
            list(op, [expr_s(x)])
        }
        ExprKind::Binary(op, a, b) => list(binary(*op), [expr_s(a), expr_s(b)]),
        ExprKind::Pipe(a, b) => list("|>", [expr_s(a), expr_s(b)]),
        ExprKind::Range(a, b) => list("..", [expr_s(a), expr_s(b)]),
        ExprKind::Call { callee, args } => list("call", std::iter::once(expr_s(callee)).chain(args.iter().map(arg_s))),
        ExprKind::Index { base, items } => list(
            "index",
            std::iter::once(expr_s(base)).chain(items.iter().map(|i| match i {
                IndexItem::At(e) => expr_s(e),
                IndexItem::Slice { start, stop, step, .. } => list("slice", [optional(start), optional(stop), optional(step)]),
                IndexItem::Ellipsis(_) => atom("..."),
                IndexItem::NewAxis(_) => atom("new-axis"),
            })),
        ),
        ExprKind::Reduction { op, indices: vars, body } => list("reduce", [name_s(op), indices(vars), expr_s(body)]),
        ExprKind::Field(base, name) => list("field", [expr_s(base), name_s(name)]),
        ExprKind::Cast(x, e) => list("cast", [expr_s(x), elem(e)]),
        ExprKind::NameCall(x, name) => list("as", [expr_s(x), name_s(name)]),
        ExprKind::If { cond, then, otherwise } => {
            list("if", [expr_s(cond), block_s(then)].into_iter().chain(otherwise.iter().map(block_s)))
        }
        ExprKind::For(f) => list("for", [enumerated(&f.pattern, f.enumerate), expr_s(&f.iter), block_s(&f.body)]),
        ExprKind::While { cond, at_most, body } => {
            let bound = at_most.iter().map(|e| list("at-most", [expr_s(e)]));
            list("while", std::iter::once(expr_s(cond)).chain(bound).chain([block_s(body)]))
        }
        ExprKind::With { settings, body } => list("with", settings.iter().map(|(n, v)| named(n, v)).chain([block_s(body)])),
        ExprKind::Time(body) => list("time", [block_s(body)]),
        ExprKind::Run { target, overrides } => list("run", std::iter::once(expr_s(target)).chain(overrides.iter().map(|o| expr_s(o)))),
        ExprKind::Error => atom("<error>"),
    }
}

fn stmt_s(stmt: &Stmt) -> S {
    match &stmt.kind {
        StmtKind::Let { kind, shared, pattern, ty, value } => {
            let word = match kind {
                LetKind::Let => "let",
                LetKind::Var => "var",
                LetKind::Const => "const",
            };
            let word = if *shared { format!("shared-{word}") } else { word.to_string() };
            list(&word, std::iter::once(pattern_s(pattern)).chain(ty.iter().map(ty_s)).chain([expr_s(value)]))
        }
        StmtKind::LetIndexed { name, indices: vars, value } => list("let-each", [name_s(name), indices(vars), expr_s(value)]),
        StmtKind::Update { target, value } => list("<-", [expr_s(target), expr_s(value)]),
        StmtKind::Param { name, ty, draws, init } => {
            list("param", [name_s(name), ty_s(ty), list(if *draws { "~" } else { "=" }, [expr_s(init)])])
        }
        StmtKind::Buffer { name, ty, init } => list("buffer", [name_s(name), ty_s(ty), expr_s(init)]),
        StmtKind::State { shared, name, ty, init } => list(
            if *shared { "shared-state" } else { "state" },
            std::iter::once(name_s(name)).chain(ty.iter().map(ty_s)).chain([expr_s(init)]),
        ),
        StmtKind::SharedLayer { name, value } => list("shared", [name_s(name), expr_s(value)]),
        StmtKind::Eval { name, value } => list("eval", [name_s(name), expr_s(value)]),
        StmtKind::Metric { name, value } => list("metric", [name_s(name), expr_s(value)]),
        StmtKind::Yield(e) => list("yield", [expr_s(e)]),
        StmtKind::Break(c) => list("break", c.iter().map(expr_s)),
        StmtKind::Continue(c) => list("continue", c.iter().map(expr_s)),
        StmtKind::Expr(e) => expr_s(e),
        StmtKind::Output { word, values, options } => {
            list(&word.text, values.iter().map(expr_s).chain(options.iter().map(|(n, v)| named(n, v))))
        }
        StmtKind::Check { parts, claim } => {
            let parts = parts.iter().flat_map(|c| {
                let within = c.within.iter().map(|(w, relative)| list(if *relative { "within-relative" } else { "within" }, [expr_s(w)]));
                std::iter::once(expr_s(&c.cond)).chain(within)
            });
            list("check", parts.chain(claim.iter().map(expr_s)))
        }
        StmtKind::Sweep { name, domain, body } => list("sweep", [name_s(name), expr_s(domain), block_s(body)]),
        StmtKind::Error => atom("<error>"),
    }
}

fn entry_s(entry: &BlockEntry) -> S {
    match entry {
        BlockEntry::Let { pattern, value, .. } => list("let", [pattern_s(pattern), expr_s(value)]),
        BlockEntry::Field { name, value } => list("=", [name_s(name), expr_s(value)]),
        BlockEntry::Setting(s) => {
            let values = s.values.iter().map(|(n, v)| match n {
                Some(n) => named(n, v),
                None => expr_s(v),
            });
            let clauses = s.clauses.iter().map(|c| {
                let variable = c.variable.iter().map(name_s);
                list(&c.word.text, variable.chain(c.value.iter().map(expr_s)))
            });
            let options = s.options.iter().map(|(n, v)| list("option", [named(n, v)]));
            list(&s.word.text, values.chain(clauses).chain(options))
        }
    }
}

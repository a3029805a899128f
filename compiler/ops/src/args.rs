//! Arguments of built-in operations by position and name.

use crate::cx::Cx;
use crate::dim::Dim;
use crate::error::{OpError, Res};
use crate::meet::meet;
use crate::show;
use crate::value::{Arg, Array, Val};
use optc_abi::DType;
use optc_base::Span;

/// The arguments of one call, matched with the parameters of the operation.
pub(crate) struct Args<'a> {
    /// The operation.
    pub name: &'static str,
    params: &'static [&'static str],
    values: Vec<Option<&'a Arg>>,
    /// Arguments of a last parameter `name*`.
    pub rest: Vec<&'a Arg>,
}

impl<'a> Args<'a> {
    /// Matches. A parameter `name?` may be missing, a last one `name*` takes all positional arguments that are left.
    pub fn new(name: &'static str, params: &'static [&'static str], args: &'a [Arg]) -> Res<Args<'a>> {
        let mut out = Args { name, params, values: vec![None; params.len()], rest: Vec::new() };
        let mut next = 0;
        for arg in args {
            match &arg.name {
                Some(n) => {
                    let found = params.iter().position(|p| p.trim_end_matches(['?', '*']) == &**n);
                    let Some(i) = found else {
                        return Err(OpError::new("E0303", format!("`{name}` has no argument `{n}`"))
                            .at(arg.span, "not an argument of it")
                            .help(out.usage()));
                    };
                    if out.values[i].is_some() {
                        return Err(OpError::new("E0303", format!("argument `{n}` of `{name}` is given twice"))
                            .at(arg.span, "given again")
                            .help(out.usage()));
                    }
                    if params[i].ends_with('*') { out.rest.push(arg) } else { out.values[i] = Some(arg) }
                }
                // An element type stands last, whatever is left out before it.
                None if matches!(arg.value, Val::DType(_))
                    && params.last() == Some(&"dtype?")
                    && out.values[params.len() - 1].is_none() =>
                {
                    out.values[params.len() - 1] = Some(arg);
                }
                None => match params.get(next) {
                    Some(p) if p.ends_with('*') => out.rest.push(arg),
                    Some(_) => {
                        out.values[next] = Some(arg);
                        next += 1;
                    }
                    None => {
                        return Err(OpError::new("E0303", format!("`{name}` takes at most {} arguments", params.len()))
                            .at(arg.span, "one too many")
                            .help(out.usage()));
                    }
                },
            }
        }
        for (p, v) in params.iter().zip(&out.values) {
            if v.is_none() && !p.ends_with(['?', '*']) {
                return Err(OpError::new("E0303", format!("`{name}` needs an argument `{p}`")).help(out.usage()));
            }
        }
        Ok(out)
    }
    fn usage(&self) -> String {
        let params: Vec<String> = self
            .params
            .iter()
            .map(|p| match p.strip_suffix('?') {
                Some(p) => format!("{p} = …"),
                None => p.strip_suffix('*').map_or_else(|| (*p).to_string(), |p| format!("{p}, …")),
            })
            .collect();
        format!("it is called as `{}({})`", self.name, params.join(", "))
    }
    fn arg(&self, param: &str) -> Option<&'a Arg> {
        let i = self
            .params
            .iter()
            .position(|p| p.trim_end_matches('?') == param)
            .expect("compiler bug: an argument that the table does not name");
        self.values[i]
    }
    /// The value of a parameter, if it was given and is not `none`.
    pub fn opt(&self, param: &str) -> Option<&'a Val> {
        self.arg(param).map(|a| &a.value).filter(|v| !matches!(v, Val::None))
    }
    /// The value of a parameter that must be there.
    pub fn get(&self, param: &str) -> &'a Val {
        &self.arg(param).expect("compiler bug: a missing argument was accepted").value
    }
    /// Where an argument stands.
    pub fn span(&self, param: &str) -> Option<Span> {
        self.arg(param).map(|a| a.span)
    }
    /// The name in messages.
    pub fn op(&self) -> String {
        format!("`{}`", self.name)
    }
    /// A wrong argument.
    pub fn wrong(&self, param: &str, want: &str) -> OpError {
        let found = self.arg(param).map_or_else(|| "nothing".into(), |a| show::kind(&a.value));
        let e = OpError::new("E0302", format!("argument `{param}` of `{}` must be {want}, not {found}", self.name));
        match self.span(param) {
            Some(span) => e.at(span, format!("must be {want}")),
            None => e,
        }
    }
    /// An array argument; numbers, lists and weak scalars become arrays.
    pub fn array(&self, cx: &mut Cx, param: &str) -> Res<Array> {
        let v = self.get(param);
        if let Val::Array(a) = v
            && !a.weak
        {
            return Ok(a.clone());
        }
        if !matches!(v, Val::Array(_) | Val::Int(_) | Val::Float(_) | Val::Bool(_) | Val::List(_) | Val::Tuple(_) | Val::Range(..)) {
            return Err(self.wrong(param, "an array"));
        }
        crate::arith::materialize(cx, v, None)
    }
    /// An array of floats; flags and integers are an error, compile-time and weak integers become f32.
    pub fn floats(&self, cx: &mut Cx, param: &str) -> Res<Array> {
        let v = self.get(param);
        let a = self.array(cx, param)?;
        if a.dtype.is_float() {
            return Ok(a);
        }
        if !matches!(v, Val::Array(x) if !x.weak) {
            return Ok(cx.convert(&a, cx.float));
        }
        Err(self.needs_floats(&a))
    }
    /// The error for integers where floats are wanted.
    pub fn needs_floats(&self, a: &Array) -> OpError {
        OpError::new("E0302", format!("`{}` needs floats, not `{}`", self.name, show::array(a)))
            .help(format!("convert it: `{}(x as f32)`", self.name))
    }
    /// A compile-time integer, or `default`.
    pub fn int(&self, param: &str, default: i64) -> Res<Dim> {
        match self.opt(param) {
            None => Ok(Dim::from(default)),
            Some(Val::Int(d)) => Ok(d.clone()),
            Some(_) => Err(self.wrong(param, "a compile-time integer")),
        }
    }
    /// A compile-time integer whose value must be known also while checking; `None` if it is not.
    pub fn known_int(&self, param: &str, default: i64) -> Res<Option<i64>> {
        Ok(self.int(param, default)?.known())
    }
    /// A compile-time flag; `None` if it is not known while checking.
    pub fn flag(&self, param: &str, default: bool) -> Res<Option<bool>> {
        match self.opt(param) {
            None => Ok(Some(default)),
            Some(Val::Bool(b)) => Ok(*b),
            Some(_) => Err(self.wrong(param, "a compile-time flag")),
        }
    }
    /// A string, or `default`.
    pub fn text(&self, param: &str, default: &str) -> Res<String> {
        match self.opt(param) {
            None => Ok(default.to_string()),
            Some(Val::Str(s)) => Ok(s.to_string()),
            Some(_) => Err(self.wrong(param, "a string")),
        }
    }
    /// An element type, or `default`.
    pub fn dtype(&self, param: &str, default: DType) -> Res<DType> {
        match self.opt(param) {
            None => Ok(default),
            Some(Val::DType(d)) => Ok(*d),
            Some(_) => Err(self.wrong(param, "an element type, such as `f32`")),
        }
    }
    /// A shape: an integer or a list of them.
    pub fn shape(&self, param: &str) -> Res<Vec<Dim>> {
        match self.opt(param) {
            None => Ok(Vec::new()),
            Some(v) => self.dims_of(param, v),
        }
    }
    /// The dimensions that a value of a parameter lists.
    pub fn dims_of(&self, param: &str, v: &Val) -> Res<Vec<Dim>> {
        let dims = dims(v).ok_or_else(|| self.wrong(param, "a shape: a list of compile-time integers"))?;
        if let Some(d) = dims.iter().find(|d| d.known().is_some_and(|n| n < 0)) {
            return Err(self.value(param, "E0405", format!("an extent of `{}` is {d}, but extents are not negative", self.name)));
        }
        self.check_size(param, &dims)?;
        Ok(dims)
    }
    /// An extent: a compile-time integer that is not negative.
    pub fn extent(&self, param: &str, default: i64) -> Res<Dim> {
        let d = self.int(param, default)?;
        self.dims_of(param, &Val::Int(d.clone()))?;
        Ok(d)
    }
    /// No array has more than 2^40 elements: a larger one is a mistake, and counting its elements could overflow.
    pub fn check_size(&self, param: &str, shape: &[Dim]) -> Res<()> {
        // An extent of 0 does not excuse the others: products are formed from the left.
        let extents: Vec<Dim> = shape.iter().filter(|d| d.known() != Some(0)).cloned().collect();
        match Dim::product(&extents).known() {
            Some(n) if n > 1 << 40 => {
                Err(self.value(param, "E0405", format!("`{}` of {n} elements", self.name)).help("an array holds at most 2^40 elements"))
            }
            _ => Ok(()),
        }
    }
    /// Axes of an array of `rank` axes: an integer or a list; all if not given. `None` if they are not known while checking.
    pub fn axes(&self, param: &str, a: &Array) -> Res<Option<Vec<usize>>> {
        let Some(v) = self.opt(param) else { return Ok(Some((0..a.shape.len()).collect())) };
        let dims = dims(v).ok_or_else(|| self.wrong(param, "an axis or a list of axes"))?;
        let mut out = Vec::with_capacity(dims.len());
        for d in dims {
            let Some(n) = d.known() else { return Ok(None) };
            let axis = self.check_axis(param, n, a)?;
            if out.contains(&axis) {
                return Err(self.value(param, "E0404", format!("axis {n} is named twice in `{}`", self.name)));
            }
            out.push(axis);
        }
        out.sort_unstable();
        Ok(Some(out))
    }
    /// One axis, or `default` (negative counts from the end). `None` if it is not known while checking.
    pub fn axis(&self, param: &str, default: i64, a: &Array) -> Res<Option<usize>> {
        let Some(n) = self.known_int(param, default)? else { return Ok(None) };
        self.check_axis(param, n, a).map(Some)
    }
    fn check_axis(&self, param: &str, n: i64, a: &Array) -> Res<usize> {
        let rank = a.shape.len() as i64;
        if n >= rank || n < -rank {
            let e = self.value(param, "E0404", format!("`{}` has no axis {n}: the array is `{}`", self.name, show::array(a)));
            return Err(e.help(match rank {
                0 => "a scalar has no axes".to_string(),
                1 => "its only axis is 0 or -1".to_string(),
                r => format!("axes are 0 to {}, or -1 to -{r} from the end", r - 1),
            }));
        }
        Ok(if n < 0 { n + rank } else { n } as usize)
    }
    /// An error at an argument.
    pub fn value(&self, param: &str, code: &'static str, message: String) -> OpError {
        let e = OpError::new(code, message);
        match self.span(param) {
            Some(span) => e.at(span, ""),
            None => e,
        }
    }
    /// The arrays of a list argument, of one element type; the rows of an array argument.
    pub fn arrays(&self, cx: &mut Cx, param: &str) -> Res<Vec<Array>> {
        match self.get(param) {
            Val::List(x) | Val::Tuple(x) => {
                if x.is_empty() {
                    return Err(self.wrong(param, "a list that is not empty"));
                }
                let refs: Vec<&Val> = x.iter().collect();
                let m = meet(cx, &self.op(), &refs)?;
                let dtype = if m == crate::meet::Meet::WeakFloat { cx.float } else { m.dtype(cx) };
                x.iter().map(|e| crate::meet::to_array(cx, &self.op(), e, dtype)).collect()
            }
            Val::Array(a) if a.shape.first().is_some_and(|n| n.known().is_some_and(|n| (1..=1024).contains(&n))) => {
                let n = a.shape[0].known().unwrap_or(0);
                let mut rows = Vec::new();
                for i in 0..n {
                    let row = cx.sliced(a, 0, &Dim::from(i), &Dim::one(), 1);
                    rows.push(cx.reshaped(&row, &a.shape[1..]));
                }
                Ok(rows)
            }
            _ => Err(self.wrong(param, "a list of arrays")),
        }
    }
}

/// The integers of a list, tuple, range or single integer.
pub(crate) fn dims(v: &Val) -> Option<Vec<Dim>> {
    match v {
        Val::Int(d) => Some(vec![d.clone()]),
        Val::List(x) | Val::Tuple(x) => x
            .iter()
            .map(|e| match e {
                Val::Int(d) => Some(d.clone()),
                _ => None,
            })
            .collect(),
        Val::Range(a, b) => {
            let (a, b) = (a.known()?, b.known()?);
            (b.saturating_sub(a) <= 64).then(|| (a..b).map(Dim::from).collect())
        }
        _ => None,
    }
}

//! Convolutions and pooling of channels-last arrays.

use crate::args::Args;
use crate::cx::Cx;
use crate::dim::Dim;
use crate::dim_arith::Fit;
use crate::error::{OpError, Res};
use crate::show;
use crate::value::{Array, Val};
use optc_abi::DType;
use optc_abi::plan::{ConvDims, ConvKind};
use optc_ir::graph::ReduceOp;
use optc_ir::{Op, ScalarOp};

/// Geometry of a convolution, per spatial axis.
pub(crate) struct Geometry {
    pub stride: Vec<usize>,
    pub dilation: Vec<usize>,
    pub pad_lo: Vec<Dim>,
    pub pad_hi: Vec<Dim>,
    pub groups: usize,
    /// Extents of the result.
    pub output: Vec<Dim>,
}

/// The convolution of x `[N, S..., C]` with w `[K..., C / groups, O]`, floats of one type.
pub(crate) fn convolve(cx: &mut Cx, x: &Array, w: &Array, g: &Geometry) -> Array {
    let k = g.output.len();
    let mut shape = vec![x.shape[0].clone()];
    shape.extend(g.output.iter().cloned());
    shape.push(w.shape[k + 1].clone());
    cx.build(x.dtype, shape, &[x, w], |e| {
        let known = |d: &[Dim]| -> Vec<usize> {
            d.iter().map(|d| d.known().expect("compiler bug: an unknown size while lowering") as usize).collect()
        };
        let (xs, ws) = (known(&x.shape), known(&w.shape));
        let dims = ConvDims {
            batch: xs[0],
            in_channels: xs[k + 1],
            out_channels: ws[k + 1],
            groups: g.groups,
            input: xs[1..=k].to_vec(),
            filter: ws[..k].to_vec(),
            output: known(&g.output),
            stride: g.stride.clone(),
            dilation: g.dilation.clone(),
            pad_lo: known(&g.pad_lo),
            pad_hi: known(&g.pad_hi),
        };
        e.graph.op(Op::Conv { kind: ConvKind::Forward, dims }, e.x, e.origin)
    })
}

/// Positive integers, one per spatial axis; a single one counts for all. `None` if they are not known while checking.
fn per_axis(args: &Args<'_>, param: &str, default: i64, k: usize) -> Res<Option<Vec<usize>>> {
    let dims = match args.opt(param) {
        None => vec![Dim::from(default)],
        Some(v) => crate::args::dims(v).ok_or_else(|| args.wrong(param, "an integer or a list of them"))?,
    };
    let dims = if dims.len() == 1 { vec![dims[0].clone(); k] } else { dims };
    if dims.len() != k {
        return Err(args.value(param, "E0404", format!("`{param}` of `{}` has {} numbers for {k} spatial axes", args.name, dims.len())));
    }
    let Some(numbers) = dims.iter().map(Dim::known).collect::<Option<Vec<i64>>>() else { return Ok(None) };
    if numbers.iter().any(|&n| n < 1) {
        return Err(args.value(param, "E0405", format!("`{param}` of `{}` must be at least 1", args.name)));
    }
    Ok(Some(numbers.into_iter().map(|n| n as usize).collect()))
}

/// Padding: a number, a pair per axis, `"same"` or `"valid"`.
fn padding(args: &Args<'_>, input: &[Dim], reach: &[Dim], stride: &[usize]) -> Res<(Vec<Dim>, Vec<Dim>)> {
    let k = input.len();
    let wrong = || args.wrong("padding", "`\"same\"`, `\"valid\"`, an integer, or a list of integers or pairs, one per spatial axis");
    let one = |v: &Val| match crate::args::dims(v).as_deref() {
        Some([w]) => Ok((w.clone(), w.clone())),
        Some([a, b]) => Ok((a.clone(), b.clone())),
        _ => Err(wrong()),
    };
    let pairs: Vec<(Dim, Dim)> = match args.opt("padding") {
        None => vec![(Dim::zero(), Dim::zero()); k],
        Some(Val::Str(s)) if &**s == "valid" => vec![(Dim::zero(), Dim::zero()); k],
        Some(Val::Str(s)) if &**s == "same" => (0..k)
            .map(|i| {
                // As many outputs as ceil(S / stride); the odd zero goes behind.
                let by = Dim::from(stride[i]);
                let outputs = input[i].add(&by).sub(&Dim::one()).floor_div(&by).unwrap_or_default();
                let all = outputs.sub(&Dim::one()).mul(&by).add(&reach[i]).sub(&input[i]);
                let all = Dim::max(&all, &Dim::zero());
                let before = all.floor_div(&Dim::from(2i64)).unwrap_or_default();
                (before.clone(), all.sub(&before))
            })
            .collect(),
        Some(v @ Val::Int(_)) => vec![one(v)?; k],
        Some(Val::List(x) | Val::Tuple(x)) if x.len() == k => x.iter().map(one).collect::<Res<_>>()?,
        Some(_) => return Err(wrong()),
    };
    if pairs.iter().any(|(a, b)| [a, b].iter().any(|w| w.known().is_some_and(|n| n < 0))) {
        return Err(args.value("padding", "E0405", "padding is not negative".into()));
    }
    Ok(pairs.into_iter().unzip())
}

/// Result extents: `(S + before + after - reach) // stride + 1`.
fn outputs(args: &Args<'_>, x: &Array, reach: &[Dim], stride: &[usize], lo: &[Dim], hi: &[Dim]) -> Res<Vec<Dim>> {
    (0..reach.len())
        .map(|i| {
            let room = x.shape[i + 1].add(&lo[i]).add(&hi[i]).sub(&reach[i]);
            if room.known().is_some_and(|n| n < 0) {
                return Err(OpError::new(
                    "E0408",
                    format!(
                        "the window of `{}` is larger than the array: {} along axis {} of `{}`",
                        args.name,
                        reach[i],
                        i + 1,
                        show::array(x)
                    ),
                )
                .help("use a smaller window or more padding"));
            }
            Ok(room.floor_div(&Dim::from(stride[i])).unwrap_or_default().add(&Dim::one()))
        })
        .collect()
}

/// `conv(x, w, stride = 1, padding = 0, dilation = 1, groups = 1)`: x is `[N, S..., C]`, w is `[K..., C / groups, O]`.
pub(crate) fn conv(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let (x, w) = (args.floats(cx, "x")?, args.floats(cx, "w")?);
    if x.dtype != w.dtype {
        return Err(show::mixed_types("`conv`", x.dtype, w.dtype));
    }
    if x.shape.len() < 3 || w.shape.len() != x.shape.len() {
        return Err(OpError::new("E0404", "`conv` needs x of shape [N, spatial…, C] and w of shape [window…, C, O]")
            .note(show::pair(("x", &x, None), ("w", &w, None)))
            .help("add the missing axes with `none`, such as `x[..., none]`"));
    }
    let k = x.shape.len() - 2;
    let (stride, dilation) = (per_axis(args, "stride", 1, k)?, per_axis(args, "dilation", 1, k)?);
    let (Some(stride), Some(dilation), Some(groups)) = (stride, dilation, args.known_int("groups", 1)?) else { return Ok(Val::Unknown) };
    let channels = w.shape[k].mul(&Dim::from(groups));
    let uneven = w.shape[k + 1].rem(&Dim::from(groups)).and_then(|r| r.known()).is_some_and(|r| r != 0);
    if groups < 1 || uneven || channels.fit(&x.shape[k + 1]) == Fit::Different {
        let why = if groups == 1 {
            "the channels differ".to_string()
        } else {
            format!("with {groups} groups w has 1/{groups} of the channels of x")
        };
        return Err(OpError::new("E0402", format!("`conv`: {why}")).note(show::pair(("x", &x, Some(k + 1)), ("w", &w, Some(k)))));
    }
    let reach: Vec<Dim> = (0..k).map(|i| w.shape[i].sub(&Dim::one()).mul(&Dim::from(dilation[i])).add(&Dim::one())).collect();
    let (pad_lo, pad_hi) = padding(args, &x.shape[1..=k], &reach, &stride)?;
    let output = outputs(args, &x, &reach, &stride, &pad_lo, &pad_hi)?;
    let g = Geometry { stride, dilation, pad_lo, pad_hi, groups: groups as usize, output };
    Ok(Val::Array(convolve(cx, &x, &w, &g)))
}

/// `pool(x, size, kind = "max", stride = size, padding = 0)`: over windows of the axes between the first and the last; `kind` is `max`, `min`, `mean` or `sum`.
pub(crate) fn pool(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let x = args.array(cx, "x")?;
    if x.shape.len() < 3 {
        return Err(OpError::new("E0404", format!("`pool` needs an array of shape [N, spatial…, C], not `{}`", show::array(&x))));
    }
    let k = x.shape.len() - 2;
    let kind = args.text("kind", "max")?;
    let reduce = match kind.as_str() {
        "max" => ReduceOp::Max,
        "min" => ReduceOp::Min,
        "mean" | "sum" => ReduceOp::Sum,
        _ => return Err(args.wrong("kind", "`max`, `min`, `mean` or `sum`")),
    };
    if x.dtype == DType::Bool || (kind == "mean" && !x.dtype.is_float()) {
        return Err(args.needs_floats(&x));
    }
    let Some(size) = per_axis(args, "size", 1, k)? else { return Ok(Val::Unknown) };
    let stride = if args.opt("stride").is_some() { per_axis(args, "stride", 1, k)? } else { Some(size.clone()) };
    let Some(stride) = stride else { return Ok(Val::Unknown) };
    let reach: Vec<Dim> = size.iter().map(|&n| Dim::from(n)).collect();
    let (lo, hi) = padding(args, &x.shape[1..=k], &reach, &stride)?;
    let output = outputs(args, &x, &reach, &stride, &lo, &hi)?;
    let ends = |w: &[Dim]| -> Vec<Dim> { [Dim::zero()].into_iter().chain(w.iter().cloned()).chain([Dim::zero()]).collect() };
    let mut y = x.clone();
    if lo.iter().chain(&hi).any(|w| w.known() != Some(0)) {
        let fill = match reduce {
            ReduceOp::Max => f64::NEG_INFINITY,
            ReduceOp::Min => f64::INFINITY,
            _ => 0.0,
        };
        let fill = cx.scalar(x.dtype, fill);
        y = cx.padded(&x, &fill, &ends(&lo), &ends(&hi));
    }
    let mut windows = Vec::new();
    for i in 0..k {
        let axis = 1 + 2 * i;
        let need = output[i].sub(&Dim::one()).mul(&Dim::from(stride[i])).add(&reach[i]);
        let part = cx.sliced(&y, axis, &Dim::zero(), &need, 1);
        y = cx.windowed(&part, axis, &output[i], &reach[i], stride[i], 1);
        windows.push(axis + 1);
    }
    let out = cx.reduced(reduce, &y, &windows);
    if kind != "mean" {
        return Ok(Val::Array(out));
    }
    let count = cx.size_scalar(out.dtype, &Dim::product(&reach));
    let count = cx.spread(&count, &[], &out.shape);
    Ok(Val::Array(cx.map(ScalarOp::Div, &[&out, &count])))
}

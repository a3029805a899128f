//! What is meant by names that NumPy, JAX and PyTorch have and this language has not.

/// Names and what to write in their place.
const NAMES: &[(&str, &str)] = &[
    ("absolute", "`abs(x)`"),
    ("add", "`a + b`"),
    ("amax", "`max(x)`"),
    ("amin", "`min(x)`"),
    ("arange", "`iota(n)`"),
    ("arccos", "`acos(x)`"),
    ("arcsin", "`asin(x)`"),
    ("arctan", "`atan(x)`"),
    ("arctan2", "`atan2(y, x)`"),
    ("array", "brackets: `[1.0, 2.0]`"),
    ("astype", "`x as f32`"),
    ("bmm", "`a @ b`"),
    ("cat", "`concat([a, b])`"),
    ("ceiling", "`ceil(x)`"),
    ("cho_solve", "`solve(a, b)`, or `solve_triangular(l, b)` twice"),
    ("clamp", "`clip(x, lo, hi)`"),
    ("clone", "the value itself: arrays are values, `<-` changes no other"),
    ("concatenate", "`concat([a, b])`"),
    ("cond", "`if c { a } else { b }`"),
    ("copy", "the value itself: arrays are values, `<-` changes no other"),
    ("detach", "`stop_gradient(x)`"),
    ("divide", "`a / b`"),
    ("eig", "`eigh(a)`, for symmetric matrices"),
    ("eigvals", "`eigh(a).values`, for symmetric matrices"),
    ("eigvalsh", "`eigh(a).values`"),
    ("expand_dims", "an index: `x[:, none]`"),
    ("fill", "`full(shape, value)`"),
    ("flatten", "`reshape(x, [size(x)])`"),
    ("float", "`x as f32`"),
    ("fori_loop", "`for i in 0..n { x <- f(x) }`"),
    ("hstack", "`concat([a, b], axis = 1)`"),
    ("identity", "`eye(n)`"),
    ("index_add", "`scatter_add(x, ids, updates)`"),
    ("inner", "`dot(a, b)`"),
    ("int", "`x as i32`"),
    ("inverse", "`inv(a)`"),
    ("isfinite", "`is_finite(x)`"),
    ("isnan", "`is_nan(x)`"),
    ("item", "the scalar itself, which is a number where the script looks at it"),
    ("jacfwd", "`jacobian(f)`"),
    ("jacrev", "`jacobian(f)`"),
    ("linear_sum_assignment", "`assignment(cost)`"),
    ("linspace", "`a + (b - a) * (iota(n) as f32) / (n - 1)`"),
    ("ln", "`log(x)`"),
    ("logical_and", "`a and b`"),
    ("logical_not", "`not a`"),
    ("logical_or", "`a or b`"),
    ("masked_fill", "`where(mask, value, x)`"),
    ("matmul", "`a @ b`"),
    ("matrix_transpose", "`x.T`"),
    ("mm", "`a @ b`"),
    ("mul", "`a * b`"),
    ("multiply", "`a * b`"),
    ("no_grad", "`stop_gradient(x)`"),
    ("permute", "`transpose(x, axes)`"),
    ("pinverse", "`pinv(a)`"),
    ("pow", "`x^p`"),
    ("power", "`x^p`"),
    ("rand", "`random.uniform([n])`"),
    ("randint", "`random.integer([n], low, high)`"),
    ("randn", "`random.normal([n])`"),
    ("randperm", "`random.permutation(n)`"),
    ("range", "`0..n`"),
    ("ravel", "`reshape(x, [size(x)])`"),
    ("scan", "`for x in xs { h <- f(h, x); yield h }`"),
    ("sgn", "`sign(x)`"),
    ("slogdet", "`logdet(a)`"),
    ("square", "`x^2`"),
    ("squeeze", "`reshape(x, shape)`"),
    ("stop_grad", "`stop_gradient(x)`"),
    ("sub", "`a - b`"),
    ("subtract", "`a - b`"),
    ("swapaxes", "`swap_axes(x, a, b)`"),
    ("take", "`gather(x, ids)`, or an index: `x[ids]`"),
    ("tensor", "brackets: `[1.0, 2.0]`"),
    ("tensordot", "`einsum(spec, a, b)`, or index notation"),
    ("topk", "`top_k(x, k)`"),
    ("trace", "`sum(diag(a))`"),
    ("tree_map", "`tree.map(f, a)`"),
    ("triangular_solve", "`solve_triangular(l, b)`"),
    ("unsqueeze", "an index: `x[:, none]`"),
    ("vdot", "`dot(a, b)`"),
    ("view", "`reshape(x, shape)`"),
    ("vstack", "`concat([a, b])`"),
    ("while_loop", "`while c { x <- f(x) }`"),
];

/// What to write in place of a name of another library.
pub(crate) fn meant(name: &str) -> Option<&'static str> {
    NAMES.binary_search_by_key(&name, |(n, _)| n).ok().map(|at| NAMES[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_not_ours() {
        assert!(NAMES.is_sorted_by_key(|(name, _)| name));
        for (name, _) in NAMES {
            assert!(!optc_ops::is_builtin(name), "`{name}` is an operation");
        }
        assert_eq!((meant("clamp"), meant("clip")), (Some("`clip(x, lo, hi)`"), None));
    }

    #[test]
    fn what_is_recommended_exists() {
        for (_, text) in NAMES {
            for code in text.split('`').skip(1).step_by(2) {
                let call =
                    code.split('(').next().filter(|name| code.len() > name.len() && name.chars().all(|c| c.is_alphanumeric() || c == '_'));
                if let Some(name) = call {
                    assert!(optc_ops::is_builtin(name) || crate::names::SPECIAL.contains(&name), "`{name}` of {text}");
                }
            }
        }
    }
}

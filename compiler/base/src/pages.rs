//! Pages of the error codes, from `compiler/base/pages/*.md`, for `optc explain E0123`.

/// Codes with their pages, sorted by code.
static PAGES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/pages.rs"));

/// The page of a code such as `E0123`.
pub fn page(code: &str) -> Option<&'static str> {
    PAGES.binary_search_by_key(&code, |p| p.0).ok().map(|i| PAGES[i].1)
}

/// All codes with their pages, sorted by code.
pub fn all() -> &'static [(&'static str, &'static str)] {
    PAGES
}

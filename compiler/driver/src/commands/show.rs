//! `optc show`: the source of the standard library.

use super::say;
use crate::messages::Messages;
use crate::reference;
use crate::session::Failed;
use optc_base::nearest;
use optc_front::std_lib;
use std::path::Path;

/// Writes the reference of the standard library to a folder.
///
/// # Errors
/// Another path than `std`; a page that cannot be written.
pub fn pages(path: &str, folder: &Path, messages: &Messages) -> Result<(), Failed> {
    if path != "std" {
        messages.error("", &format!("there are pages of the whole library only, not of `{path}`"), Some("`optc show std --pages FOLDER`"));
        return Err(crate::wrong_usage());
    }
    let pages = reference::pages(|done, of| super::list::counter(of)(done));
    let written =
        std::fs::create_dir_all(folder).and_then(|()| pages.iter().try_for_each(|(name, text)| std::fs::write(folder.join(name), text)));
    written.map_err(|e| {
        messages.error("R0102", &format!("cannot write {}: {e}", folder.display()), None);
        Failed
    })?;
    say(&format!("{} pages in {}", pages.len(), folder.display()));
    Ok(())
}

/// Prints an item or the list of a folder.
///
/// # Errors
/// If there is none of this path.
pub fn show(path: &str, messages: &Messages) -> Result<(), Failed> {
    let text = std_lib::std_source(path).or_else(|| std_lib::std_source(&std_lib::std_lookup(path)?));
    if let Some(text) = text {
        say(text.trim_end());
        return Ok(());
    }
    let mut all: Vec<String> = std_lib::std_folders().into_iter().map(str::to_string).collect();
    for folder in std_lib::std_folders() {
        all.extend(std_lib::std_members(folder).into_iter().map(|m| format!("{folder}.{m}")));
    }
    let last = path.rsplit('.').next().unwrap_or(path);
    let near = nearest(path, all.iter().map(String::as_str)).map(str::to_string).or_else(|| {
        let names: Vec<&str> = all.iter().filter_map(|p| p.rsplit('.').next()).collect();
        std_lib::std_lookup(nearest(last, names.iter().copied())?)
    });
    let help = near.map_or_else(|| format!("the folders are {}", std_lib::std_folders().join(", ")), |n| format!("did you mean `{n}`"));
    messages.error("E0250", &format!("the standard library has no `{path}`"), Some(&help));
    Err(Failed)
}

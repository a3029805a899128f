//! The standard library has no mistakes.

use super::*;

#[test]
fn the_standard_library_checks_clean() {
    let mut names = String::new();
    let mut taken: Vec<&str> = Vec::new();
    for folder in optc_front::std_lib::std_folders() {
        for name in optc_front::std_lib::std_members(folder) {
            if !taken.contains(&name) {
                taken.push(name);
                names.push_str(&format!("import {folder}.{name}\n"));
            }
        }
    }
    let program = load(&names);
    let mut all = Vec::new();
    for index in 1..program.modules.len() {
        all.extend(crate::check_module(&program, ModuleId(index as u32)));
    }
    assert!(program.modules.len() > 20, "the library was loaded");
    assert!(all.is_empty(), "{}", show(&all, &program));
}

//! Imports, scopes and their errors.

use optc_base::Diagnostic;
use optc_front::ast::Name;
use optc_front::{Def, FileLoader, ModuleId, Program, load};
use std::collections::BTreeMap;

struct Files(BTreeMap<&'static str, &'static str>);

impl FileLoader for Files {
    fn read(&self, _from: &str, path: &str) -> Result<(String, String), String> {
        self.0.get(path).map(|t| (path.to_string(), t.to_string())).ok_or_else(|| "no such file".to_string())
    }
}

fn program(text: &str, files: &[(&'static str, &'static str)]) -> (Program, Vec<Diagnostic>) {
    load("main.opt", text, &Files(files.iter().copied().collect()))
}

fn codes(errors: &[Diagnostic]) -> Vec<&'static str> {
    errors.iter().map(|e| e.code.0).collect()
}

fn text_of(program: &Program, name: &str) -> String {
    match program.lookup(ModuleId(0), name) {
        Some(Def::Item(item)) => {
            format!("{} in {}", program.item(item).name().map_or("", |n| &n.text), program.module(item.module).name)
        }
        Some(Def::Module(module)) => format!("module {}", program.module(module).name),
        None => "nothing".into(),
    }
}

#[test]
fn library_items_are_found_in_any_file_of_their_folder() {
    let (program, errors) =
        program("import std.optim.{lion, clip_by_global_norm}\nimport std.nn.{relu, transformer_block}\nimport std.optim as o\n", &[]);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(text_of(&program, "lion"), "lion in std/optim/lion.opt");
    assert_eq!(text_of(&program, "clip_by_global_norm"), "clip_by_global_norm in std/optim/clip.opt");
    assert_eq!(text_of(&program, "relu"), "nothing", "a built-in name stays built in");
    assert_eq!(text_of(&program, "o"), "module std.optim");
    let Some(Def::Module(o)) = program.lookup(ModuleId(0), "o") else { panic!("o is a module") };
    let name = Name { text: "adamp".into(), span: Default::default() };
    assert!(program.member(o, &name).is_ok());
    let name = Name { text: "_tangent".into(), span: Default::default() };
    assert_eq!(program.member(o, &name).unwrap_err().code.0, "E0251", "a folder shows no private items");
    assert!(program.modules.iter().any(|m| &*m.name == "std/nn/attention.opt"), "library files follow their own imports");
    assert!(!program.modules.iter().any(|m| m.name.starts_with("std/init")), "what nobody imports is not parsed");
}

#[test]
fn library_files_import_what_they_use() {
    let (program, errors) =
        program("import std.nn as nn\nimport std.init as i\nimport std.loss as l\nimport std.schedule as s\nimport std.optim as o\n", &[]);
    assert!(errors.is_empty(), "{errors:?}");
    assert!(program.modules.len() > 30);
}

#[test]
fn files_are_imported_whole_or_by_alias() {
    let layers = "fn twice(x: f32) -> f32 = 2 * x\nfn _own(x: f32) -> f32 = x\nimport std.loss.mse\n";
    let (main, errors) = program("import \"layers.opt\" as l\n", &[("layers.opt", layers)]);
    assert!(errors.is_empty());
    assert_eq!(text_of(&main, "l"), "module layers.opt");
    let Some(Def::Module(l)) = main.lookup(ModuleId(0), "l") else { panic!("l is a module") };
    let member = |name: &str| main.member(l, &Name { text: name.into(), span: Default::default() }).map_err(|e| e.code.0);
    assert!(member("twice").is_ok());
    assert_eq!(member("_own"), Err("E0256"));
    assert_eq!(member("mse"), Err("E0251"), "imports are not handed on");
    let (main, errors) = program("import \"layers.opt\"\n", &[("layers.opt", layers)]);
    assert!(errors.is_empty());
    assert_eq!(text_of(&main, "twice"), "twice in layers.opt");
    assert_eq!(text_of(&main, "_own"), "nothing");
    assert_eq!(text_of(&main, "mse"), "nothing");
}

#[test]
fn mistakes_in_imports_are_named() {
    let (_, errors) = program("import std.optim.lyon\n", &[]);
    assert_eq!(codes(&errors), ["E0251"]);
    assert_eq!(errors[0].help.as_deref(), Some("did you mean `lion`"));
    let (_, errors) = program("import std.optimizers.lion\n", &[]);
    assert_eq!(codes(&errors), ["E0250"]);
    assert_eq!(errors[0].help.as_deref(), Some("did you mean `import std.optim.lion`"));
    let (_, errors) = program("import \"none.opt\"\n", &[]);
    assert_eq!(codes(&errors), ["E0252"]);
    let (_, errors) = program("fn f(x: f32) -> f32 = x\n\nfn f(x: f32, x: f32) -> f32 = 2 * x\n", &[]);
    assert_eq!(codes(&errors), ["E0255", "E0254"]);
    let (_, errors) = program("import std.optim.lion\noptimizer lion() = lion()\n", &[]);
    assert_eq!(codes(&errors), ["E0254"]);
}

#[test]
fn import_cycles_are_reported_once() {
    let files = [("a.opt", "import \"b.opt\"\n"), ("b.opt", "import \"c.opt\"\n"), ("c.opt", "import \"a.opt\"\n")];
    let (_, errors) = program("import \"a.opt\"\nimport \"b.opt\"\n", &files);
    assert_eq!(codes(&errors), ["E0253"]);
    assert_eq!(errors[0].secondary.len(), 2, "every import of the ring is labelled");
    let (_, errors) = program("import \"main.opt\"\n", &[("main.opt", "")]);
    assert_eq!(codes(&errors), ["E0253"]);
}

#[test]
fn unknown_names_get_a_suggestion() {
    let (program, _) = program("fn total(x: f32) -> f32 = x\n", &[]);
    assert_eq!(program.suggest(ModuleId(0), "lion", []).as_deref(), Some("missing import: `import std.optim.lion`"));
    assert_eq!(program.suggest(ModuleId(0), "totl", []).as_deref(), Some("did you mean `total`"));
    assert_eq!(program.suggest(ModuleId(0), "summ", ["sum"]).as_deref(), Some("did you mean `sum`"));
    assert_eq!(program.suggest(ModuleId(0), "qqqqqq", []), None);
}

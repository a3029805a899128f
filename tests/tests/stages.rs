//! Tiny programs at every stage of the compiler.

use optc::cli::Stage;
use optc::host_env::{Driver, Settings};
use optc::stages;
use optc_tests::{check_file, errors, rendered, specs_in, stem, with_stack};
use std::path::Path;

#[test]
fn tiny_programs_stage_by_stage() {
    let mut faults = Vec::new();
    for path in specs_in("tests/cases/stages") {
        let name = stem(&path);
        let relative = Path::new("cases/stages").join(format!("{name}.opt"));
        let text = with_stack(move || {
            let session = check_file(&relative);
            assert!(errors(&session).is_empty(), "{}", rendered(&session));
            let settings = Settings { threads: 1, quiet: true, color: false, spec: session.path.clone(), text: session.text.clone() };
            let mut driver = Driver::new(settings);
            let train = *session.trains().first().expect("a train");
            let program = optc_elab::script::lower_only(&session.program, train, &session.settings, &mut driver)
                .unwrap_or_else(|ds| panic!("{}", ds.iter().map(|d| d.render(&session.program.sources, false)).collect::<String>()));
            let mut text = session.text.clone();
            let step = |stage: Stage| stages::step(&program, stage, None).expect("every build has it");
            let part = |name: &str, body: String| format!("\n---- {name}\n{}\n", body.trim_end());
            text += &part("types", stages::slots(&program));
            text += &part("graph", step(Stage::Graph));
            text += &part("simplified", step(Stage::Simplified));
            text += &part("kernels", step(Stage::Kernels));
            text += &part("plan", step(Stage::Plan));
            // The rest depends on the machine.
            for stage in [Stage::Clif, Stage::Asm] {
                assert!(step(stage).contains("; entry"), "{stage:?}");
            }
            match stages::step(&program, Stage::Llvm, None) {
                Ok(ir) => assert!(cfg!(feature = "llvm") && ir.contains("define void @kernel_0("), "{ir}"),
                Err(why) => assert!(!cfg!(feature = "llvm") && why.code == "R0136", "{why}"),
            }
            text
        });
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("../cases/stages");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| settings.bind(|| insta::assert_snapshot!(name.as_str(), &text))))
            .is_err()
        {
            faults.push(name);
        }
    }
    assert!(faults.is_empty(), "not as in their snapshots: {}", faults.join(", "));
}

//! The `optc` binary.

fn main() -> std::process::ExitCode {
    optc::main()
}

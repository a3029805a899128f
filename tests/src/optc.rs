//! The compiler's binary again, so that tests of this package can start it.

fn main() -> std::process::ExitCode {
    optc::main()
}

//! The `narthex` program: hands over to the library and its exit code to the shell.

fn main() -> std::process::ExitCode {
    narthex::cli::run()
}

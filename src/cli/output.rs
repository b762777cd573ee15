//! What every command prints with, and the exit code that they share.

/// A wrong call or a wrong config.
pub(super) const EXIT_USAGE: u8 = 2;

/// Prints one line for people to the standard error; a closed one is no error.
#[expect(clippy::print_stderr, reason = "the commands are the one place that prints")]
pub(super) fn complain(line: impl std::fmt::Display) {
    eprintln!("narthex: {line}");
}

/// Prints text to the standard output.
#[expect(clippy::print_stdout, reason = "the commands are the one place that prints")]
pub(super) fn say(text: impl std::fmt::Display) {
    print!("{text}");
}

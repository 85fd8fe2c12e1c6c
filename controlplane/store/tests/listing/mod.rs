//! What a test runner asks a binary without a harness: which tests it has. One, named like the binary.

/// Answers `--list` (as nextest asks, once for ignored tests, of which there are none); true if that was the question.
pub fn answered(name: &str) -> bool {
    let asked = |flag: &str| std::env::args().any(|arg| arg == flag);
    if asked("--list") && !asked("--ignored") {
        println!("{name}: test");
    }
    asked("--list")
}

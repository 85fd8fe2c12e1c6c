//! Running programs and waiting for what they should come to say.

use std::fmt;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a program said and how it ended.
pub struct Outcome {
    pub command: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output, trimmed, of a program that must have succeeded.
    #[track_caller]
    pub fn text(&self) -> &str {
        assert!(self.ok(), "{self}");
        self.stdout.trim()
    }

    /// Standard error of a program that must have failed.
    #[track_caller]
    pub fn refusal(&self) -> &str {
        assert!(!self.ok(), "it should have failed: {self}");
        self.stderr.trim()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ended with {:?}\n{}\n{}", self.command, self.code, self.stdout, self.stderr)
    }
}

/// Runs a program to its end, with `input` on its standard input.
pub fn run_with(mut command: Command, input: &str) -> Outcome {
    let text = format!("{command:?}");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect(&text);
    // A program that does not read its input closes it; that is its right.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect(&text);
    Outcome {
        command: text,
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a program to its end.
pub fn run(command: Command) -> Outcome {
    run_with(command, "")
}

/// Waits until `check` returns something, for at most a minute; panics with what it said last.
#[track_caller]
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match check() {
            Ok(value) => return value,
            Err(why) if Instant::now() > deadline => panic!("after a minute still not: {what}\n{why}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

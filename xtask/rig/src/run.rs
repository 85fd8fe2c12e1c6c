//! Running a command to its end, with its words in the error when it fails.

use std::process::Command;

use crate::Error;

/// Runs `program` and returns its standard output.
pub fn run(program: &str, args: &[&str]) -> Result<String, Error> {
    let command = || format!("{program} {}", args.join(" "));
    let output =
        Command::new(program).args(args).output().map_err(|source| Error::Spawn { command: command(), source })?;
    if !output.status.success() {
        return Err(Error::Command {
            command: command(),
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

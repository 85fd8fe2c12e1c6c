//! What a person sees: steps, and a spinner for anything that takes more than a moment.

use std::ffi::OsStr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// Prints the heading of a step.
pub fn step(text: &str) {
    println!("\x1b[1m==>\x1b[0m {text}");
}

/// Shows `text` and the time that passes while `work` runs.
pub fn spin<T>(text: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    follow(text, |_| work())
}

/// The same for work that says what it is at.
pub fn follow<T>(text: &str, work: impl FnOnce(&dyn Fn(&str)) -> Result<T>) -> Result<T> {
    let bar = ProgressBar::new_spinner().with_message(text.to_owned());
    if let Ok(style) = ProgressStyle::with_template("    {spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    let start = Instant::now();
    let outcome = work(&|now| bar.set_message(format!("{text}: {now}")));
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    match &outcome {
        Ok(_) => println!("    {text}: {seconds:.1} s"),
        Err(_) => println!("    {text}: failed after {seconds:.1} s"),
    }
    outcome
}

/// Runs a command with its output shown.
pub fn show(command: &mut Command) -> Result<()> {
    let text = words(command);
    let status = command.status().with_context(|| format!("starting `{text}`"))?;
    if !status.success() {
        bail!("`{text}` ended with {status}");
    }
    Ok(())
}

/// Runs a command and returns its standard output; the error carries what it said.
pub fn capture(command: &mut Command) -> Result<String> {
    let text = words(command);
    let output = command.output().with_context(|| format!("starting `{text}`"))?;
    if !output.status.success() {
        bail!("`{text}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn words(command: &Command) -> String {
    let mut words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    // A command in a room: how it gets there says nothing to whoever reads the error.
    if words.contains(&OsStr::new("nsenter")) {
        words.drain(..=words.iter().position(|word| *word == "--").unwrap_or(0));
    }
    words.join(OsStr::new(" ")).to_string_lossy().into_owned()
}

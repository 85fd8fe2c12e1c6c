//! `cargo xtask fuzz`: libFuzzer over the parsers that run in the kernel, compiled for the host. It begins with the corpus
//! of `ebpf/logic/corpus` and keeps what it learns in `target/fuzz`; what breaks something is shown as a file for the
//! corpus, which every run of the tests goes through.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{self, Need};
use crate::{build, ui};

const CORPUS: &str = "ebpf/logic/corpus";
/// Named, so that build scripts are not instrumented.
const HOST: &str = "x86_64-unknown-linux-gnu";
/// Coverage as libFuzzer wants it; what `clang -fsanitize=fuzzer` sets. No nightly flag is among them.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Larger than any frame that the programs read of.
const MAX_LEN: usize = 1600;

/// What libFuzzer needs beyond [`setup::BUILD`].
const NEEDS: [Need; 1] = [setup::need("c++", "g++", "compiles libFuzzer")];

#[derive(clap::Args)]
pub struct Args {
    /// One target instead of all, by the name of its folder in ebpf/logic/corpus
    target: Option<String>,
    /// How long to look, for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

pub fn run(args: &Args) -> Result<()> {
    let mut known: Vec<String> = fs::read_dir(CORPUS)
        .with_context(|| format!("reading {CORPUS}"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    known.sort();
    if let Some(asked) = &args.target {
        if !known.contains(asked) {
            bail!("there is no target {asked}; there are {}", known.join(", "));
        }
        known = vec![asked.clone()];
    }
    setup::run(&[&setup::BUILD, &NEEDS])?;
    let folder = std::path::absolute("target/fuzz")?;
    ui::step("Building the fuzzer");
    let manifest = "ebpf/logic/fuzz/Cargo.toml";
    let mut cargo = build::cargo();
    cargo.args(["build", "--release", "--locked", "--target", HOST, "--manifest-path", manifest]);
    ui::show(cargo.env("RUSTFLAGS", COVERAGE).env("CARGO_TARGET_DIR", &folder))?;
    let program = folder.join(HOST).join("release/fuzz");
    for target in known {
        ui::step(&format!("Fuzzing {target} for {} s", args.seconds));
        look(&program, &folder.join(&target), &target, args.seconds)?;
    }
    Ok(())
}

fn look(program: &Path, folder: &Path, target: &str, seconds: u32) -> Result<()> {
    let corpus = folder.join("corpus");
    fs::create_dir_all(&corpus).with_context(|| format!("making {}", corpus.display()))?;
    for entry in fs::read_dir(Path::new(CORPUS).join(target))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        fs::write(corpus.join(path.file_stem().unwrap_or_default()), from_hex(&text)?)?;
    }
    let mut fuzzer = Command::new(program);
    fuzzer.arg("corpus").args([format!("-max_total_time={seconds}"), format!("-max_len={MAX_LEN}")]);
    fuzzer.args(["-print_final_stats=1", "-verbosity=1", "-artifact_prefix=broken-"]);
    let done = ui::show(fuzzer.current_dir(folder).env("STRAKE_FUZZ_TARGET", target));
    let broken = newest(folder, "broken-")?;
    let (Err(error), Some(broken)) = (&done, broken) else { return done };
    let hex = to_hex(&fs::read(&broken)?);
    bail!("{error:#}\n\nKeep this as {CORPUS}/{target}/WHAT-IT-BROKE.hex, and mend what it broke:\n{hex}")
}

/// The file that was written last.
fn newest(folder: &Path, prefix: &str) -> Result<Option<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    Ok(found.into_iter().max().map(|(_, path)| path))
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let bytes = lines.flat_map(str::split_whitespace).map(|byte| u8::from_str_radix(byte, 16));
    bytes.collect::<Result<_, _>>().context("a corpus file has two hexadecimal digits a byte")
}

fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(16) {
        let words: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "{}", words.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_read_as_it_is_written() {
        let bytes: Vec<u8> = (0..40).collect();
        let text = to_hex(&bytes);
        assert_eq!(text.lines().count(), 3);
        assert_eq!(from_hex(&format!("# a comment\n{text}")).unwrap(), bytes);
        assert!(from_hex("0g").is_err());
    }
}

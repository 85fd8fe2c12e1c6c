//! `cargo xtask fuzz`: libFuzzer over the parsers that run in the kernel, compiled for the host, and over what the agent reads
//! from outside. It begins with the corpora of `ebpf/logic/corpus` and `agent/corpus` and keeps what it learns in
//! `target/fuzz`; what breaks something is shown as a file for the corpus, which every run of the tests goes through.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{self, Need};
use crate::{build, ui};

/// What is fuzzed: its folder has the corpus, a folder a target, and the fuzzer.
const PARTS: [&str; 2] = ["ebpf/logic", "agent"];
/// Named, so that build scripts are not instrumented.
const HOST: &str = "x86_64-unknown-linux-gnu";
/// Coverage as libFuzzer wants it; what `clang -fsanitize=fuzzer` sets. No nightly flag is among them.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Larger than any frame that the programs read of, and than most objects.
const MAX_LEN: usize = 4096;

/// What libFuzzer needs beyond [`setup::BUILD`].
const NEEDS: [Need; 1] = [setup::need("c++", "g++", "compiles libFuzzer")];

#[derive(clap::Args)]
pub struct Args {
    /// One target instead of all, by the name of its folder: ebpf/logic/dns, agent/objects, or without what is in front
    target: Option<String>,
    /// How long to look, for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

pub fn run(args: &Args) -> Result<()> {
    let mut known = Vec::new();
    for part in PARTS {
        let corpus = Path::new(part).join("corpus");
        for entry in fs::read_dir(&corpus).with_context(|| format!("reading {}", corpus.display()))? {
            known.push((part, entry?.file_name().to_string_lossy().into_owned()));
        }
    }
    known.sort();
    let wanted = chosen(&known, args.target.as_deref())?;
    setup::run(&[&setup::BUILD, &NEEDS])?;
    for part in PARTS {
        let targets: Vec<&String> = wanted.iter().filter(|(of, _)| *of == part).map(|(_, target)| target).collect();
        if targets.is_empty() {
            continue;
        }
        let folder = std::path::absolute("target/fuzz")?.join(part.rsplit('/').next().unwrap_or(part));
        ui::step(&format!("Building the fuzzer of {part}"));
        let manifest = format!("{part}/fuzz/Cargo.toml");
        let mut cargo = build::cargo();
        cargo.args(["build", "--release", "--locked", "--target", HOST, "--manifest-path", &manifest]);
        ui::show(cargo.env("RUSTFLAGS", COVERAGE).env("CARGO_TARGET_DIR", &folder))?;
        let program = folder.join(HOST).join("release/fuzz");
        for target in targets {
            ui::step(&format!("Fuzzing {part}/{target} for {} s", args.seconds));
            look(&program, &folder.join(target), &Path::new(part).join("corpus").join(target), args.seconds)?;
        }
    }
    Ok(())
}

type Target = (&'static str, String);

/// The targets of that name, with its part or without; all without a name.
fn chosen(known: &[Target], asked: Option<&str>) -> Result<Vec<Target>> {
    let full = |(part, target): &Target| format!("{part}/{target}");
    let is_asked = |of: &&Target| asked.is_none_or(|asked| of.1 == asked || full(of) == asked);
    let found: Vec<Target> = known.iter().filter(is_asked).cloned().collect();
    if found.is_empty() {
        let all: Vec<String> = known.iter().map(full).collect();
        bail!("there is no target {}; there are {}", asked.unwrap_or_default(), all.join(", "));
    }
    Ok(found)
}

fn look(program: &Path, folder: &Path, kept: &Path, seconds: u32) -> Result<()> {
    let target = kept.file_name().unwrap_or_default();
    let corpus = folder.join("corpus");
    fs::create_dir_all(&corpus).with_context(|| format!("making {}", corpus.display()))?;
    for entry in fs::read_dir(kept)? {
        let path = entry?.path();
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let is_hex = path.extension().is_some_and(|extension| extension == "hex");
        let bytes = if is_hex { from_hex(&String::from_utf8_lossy(&bytes))? } else { bytes };
        fs::write(corpus.join(path.file_stem().unwrap_or_default()), bytes)?;
    }
    let mut fuzzer = Command::new(program);
    fuzzer.arg("corpus").args([format!("-max_total_time={seconds}"), format!("-max_len={MAX_LEN}")]);
    fuzzer.args(["-print_final_stats=1", "-verbosity=1", "-artifact_prefix=broken-"]);
    let done = ui::show(fuzzer.current_dir(folder).env("STRAKE_FUZZ_TARGET", target));
    let broken = newest(folder, "broken-")?;
    let (Err(error), Some(broken)) = (&done, broken) else { return done };
    let hex = to_hex(&fs::read(&broken)?);
    bail!("{error:#}\n\nKeep this as {}/WHAT-IT-BROKE.hex, and mend what it broke:\n{hex}", kept.display())
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
    fn a_target_is_named_with_its_part_or_without() {
        let known = [("agent", "dns".to_owned()), ("agent", "log".to_owned()), ("ebpf/logic", "dns".to_owned())];
        let parts = |asked| chosen(&known, asked).map(|found| found.iter().map(|(part, _)| *part).collect::<Vec<_>>());
        assert_eq!(parts(None).unwrap().len(), 3);
        assert_eq!(parts(Some("dns")).unwrap(), ["agent", "ebpf/logic"]);
        assert_eq!(parts(Some("ebpf/logic/dns")).unwrap(), ["ebpf/logic"]);
        assert!(parts(Some("tcp")).unwrap_err().to_string().contains("agent/log"));
    }

    #[test]
    fn hex_is_read_as_it_is_written() {
        let bytes: Vec<u8> = (0..40).collect();
        let text = to_hex(&bytes);
        assert_eq!(text.lines().count(), 3);
        assert_eq!(from_hex(&format!("# a comment\n{text}")).unwrap(), bytes);
        assert!(from_hex("0g").is_err());
    }
}

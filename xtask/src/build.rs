//! Compiling: the binary, the tests, the BPF object, and the demo image.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::ui;

/// The cargo that runs this.
pub fn cargo() -> Command {
    Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
}

fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from)
}

/// Builds `strake` and returns its path.
pub fn strake(profile: &str) -> Result<PathBuf> {
    ui::step(&format!("Building strake ({profile})"));
    // The whole workspace decides the features of dependencies, as it does for the tests and benches: one build of each.
    ui::show(cargo().args(["build", "--workspace", "--bin", "strake", "--profile", profile]))?;
    let dir = if profile == "dev" { "debug" } else { profile };
    built(dir)
}

/// The binary that a build left in a profile's directory.
pub fn built(dir: &str) -> Result<PathBuf> {
    fs::canonicalize(target_dir().join(dir).join("strake")).context("finding the built binary")
}

/// A program that a release build left.
pub fn release(name: &str) -> Result<PathBuf> {
    fs::canonicalize(target_dir().join("release").join(name)).with_context(|| format!("finding the built {name}"))
}

/// Builds every test as `cargo xtask test` does, and returns what was built of package strake-tests, by name.
pub fn tests() -> Result<BTreeMap<String, PathBuf>> {
    ui::step("Building the tests");
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    let mut child = command.stdout(Stdio::piped()).spawn().context("starting cargo")?;
    let stdout = child.stdout.take().context("reading from cargo")?;
    let mut built = BTreeMap::new();
    for line in BufReader::new(stdout).lines() {
        let message: Value = serde_json::from_str(&line?).unwrap_or_default();
        // A binary is also built once more with its unit tests.
        let test = message["profile"]["test"].as_bool() == Some(true);
        if test && message["target"]["kind"][0] == "bin" {
            continue;
        }
        let ours = message["manifest_path"].as_str().is_some_and(|path| Path::new(path).ends_with("tests/Cargo.toml"));
        if let (true, Some(name), Some(path)) =
            (ours, message["target"]["name"].as_str(), message["executable"].as_str())
        {
            built.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    if !child.wait()?.success() {
        anyhow::bail!("the tests do not build");
    }
    Ok(built)
}

/// Builds the BPF object through the crate that embeds it.
pub fn ebpf() -> Result<()> {
    ui::show(cargo().args(["build", "--package", "strake-bpf-object"]))
}

/// Builds the demo image; returns the path of its OCI archive.
pub fn demo_image() -> Result<PathBuf> {
    let triple = host_triple()?;
    let dir = target_dir().join("images");
    let config = format!("target.{triple}.rustflags=[\"-Ctarget-feature=+crt-static\"]");
    // A target dir of its own: other flags would rebuild everything else there.
    ui::show(
        cargo()
            .args(["build", "--quiet", "--package", "strake-demo", "--release", "--target", &triple])
            .args(["--config", &config, "--target-dir"])
            .arg(dir.join("build")),
    )?;
    let program = dir.join("build").join(&triple).join("release/strake-demo");
    let content = fs::read(&program).with_context(|| format!("reading {}", program.display()))?;
    let image = strake_images::Image {
        name: strake_images::DEMO_IMAGE,
        files: &[strake_images::File { path: "demo", mode: 0o755, content: &content }],
        links: &[],
        entrypoint: &["/demo"],
        env: &["PATH=/"],
        user: "",
    };
    write_image(&dir.join("demo.tar"), &image)
}

/// Builds a test image with a shell from Debian's static busybox; returns the path of its OCI archive.
pub fn busybox_image() -> Result<PathBuf> {
    let program = ["/bin/busybox", "/usr/bin/busybox"].iter().find(|p| Path::new(p).exists());
    let program = program.context("busybox is not installed; `cargo xtask setup` installs it")?;
    let content = fs::read(program).with_context(|| format!("reading {program}"))?;
    let applets = ui::capture(Command::new(program).arg("--list"))?;
    let links: Vec<(String, &str)> =
        applets.lines().filter(|a| *a != "busybox").map(|a| (format!("bin/{a}"), "/bin/busybox")).collect();
    let links: Vec<(&str, &str)> = links.iter().map(|(path, target)| (path.as_str(), *target)).collect();
    let image = strake_images::Image {
        name: "strake.io/busybox:1",
        files: &[strake_images::File { path: "bin/busybox", mode: 0o755, content: &content }],
        links: &links,
        entrypoint: &[],
        env: &["PATH=/bin"],
        user: "",
    };
    write_image(&target_dir().join("images/busybox.tar"), &image)
}

fn write_image(path: &Path, image: &strake_images::Image<'_>) -> Result<PathBuf> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).context("making the image directory")?;
    fs::write(path, strake_images::archive(image)?).with_context(|| format!("writing {}", path.display()))?;
    fs::canonicalize(path).context("finding the image just written")
}

fn host_triple() -> Result<String> {
    let text = ui::capture(Command::new("rustc").arg("-vV"))?;
    text.lines().find_map(|l| l.strip_prefix("host: ")).map(str::to_owned).context("rustc -vV names no host")
}

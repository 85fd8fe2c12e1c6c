//! Compiles `ebpf/programs` for the BPF target and hands the object to `src/lib.rs`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The binary of `ebpf/programs`.
const BIN: &str = "strake-programs";

fn main() {
    if let Err(error) = run() {
        // cargo shows the standard error of a failing build script as it is: keep it readable.
        eprintln!("\nerror: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let ebpf = here.parent().ok_or("ebpf/object has no parent directory")?;
    for input in ["abi/src", "abi/Cargo.toml", "logic/src", "logic/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", ebpf.join(input).display());
    }
    for input in ["src", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", ebpf.join("programs").join(input).display());
    }
    let toolchain = strake_bpf_toolchain::find()?;
    for tool in [&toolchain.rustc, &toolchain.linker] {
        println!("cargo::rerun-if-changed={}", tool.display());
    }
    let object = strake_bpf_toolchain::build(&toolchain, &ebpf.join("programs"), &target_dir(&out), BIN)?;
    fs::copy(&object, out.join("programs.o")).map_err(|e| format!("copying {}: {e}", object.display()))?;
    Ok(())
}

/// `target/bpf`, so that profiles and packages share one build of `core`; OUT_DIR is `target/PROFILE/build/NAME/out`.
fn target_dir(out: &Path) -> PathBuf {
    out.ancestors().nth(4).unwrap_or(out).join("bpf")
}

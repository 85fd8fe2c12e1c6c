//! Compiles the eBPF programs as another version might have them: rows of some maps look different, which is what an upgrade
//! and a downgrade meet (`netns/upgrade.rs`).

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

const BIN: &str = "strake-programs";
/// Bytes that the other version has in front.
const MORE: usize = 8;

fn main() {
    if let Err(error) = run() {
        eprintln!("\nerror: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let ebpf = here.parent().ok_or("tests has no parent directory")?.join("ebpf");
    let other = out.join("ebpf");
    for part in ["abi/src", "logic/src", "programs/src"] {
        println!("cargo::rerun-if-changed={}", ebpf.join(part).display());
        // What is gone there must not stay here.
        let _ = fs::remove_dir_all(other.join(part));
        copy(&ebpf.join(part), &other.join(part))?;
    }
    println!("cargo::rerun-if-changed={}", here.join("build.rs").display());
    for file in ["Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", ebpf.join("programs").join(file).display());
        fs::copy(ebpf.join("programs").join(file), other.join("programs").join(file))?;
    }
    let package = "[package]\nname = \"NAME\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[features]\nuser = []\n";
    fs::write(other.join("abi/Cargo.toml"), package.replace("NAME", "strake-abi"))?;
    let logic = package.replace("NAME", "strake-logic") + "[dependencies]\nstrake-abi = { path = \"../abi\" }\n";
    fs::write(other.join("logic/Cargo.toml"), logic)?;

    grow(&other.join("abi/src/conntrack.rs"), "pub struct Conntrack:")?;
    grow(&other.join("abi/src/sock.rs"), "pub struct SockNat:")?;
    grow(&other.join("abi/src/sock.rs"), "pub struct SockNat6:")?;
    grow(&other.join("abi/src/service.rs"), "pub struct Service:")?;
    // The one place that names every field.
    let family = other.join("programs/src/family.rs");
    let text = fs::read_to_string(&family)?;
    let named = text.replace("let row = $nat {", "let row = $nat {\nlater: [0; 2],");
    if named == text {
        return Err("family.rs makes no row of SOCK_NAT any more".into());
    }
    fs::write(family, named)?;

    let toolchain = strake_bpf_toolchain::find()?;
    // As `ebpf/object` does: one build of `core` for all.
    let target = out.ancestors().nth(4).unwrap_or(&out).join("bpf-other");
    let object = strake_bpf_toolchain::build(&toolchain, &other.join("programs"), &target, BIN)?;
    fs::copy(&object, out.join("other.o")).map_err(|e| format!("copying {}: {e}", object.display()))?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Puts a field in front of a struct, so that every other moves.
fn grow(path: &Path, head: &str) -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string(path)?;
    let mut inside = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with(head) {
            inside = true;
            // `pub struct NAME: SIZE {` or `pub struct NAME: SIZE / LONG {`
            let (name, sizes) = line.split_once(": ").ok_or("a struct without a size")?;
            let grown = more(sizes.trim_end_matches(" {"))?;
            let zeros = vec!["0"; grown.split(" / ").count()].join(" / ");
            lines.push(format!("{name}: {grown} {{"));
            lines.push(format!("/// Of the other version.\npub later: [u32; 2] = {zeros},"));
            continue;
        }
        if inside && line.trim() == "}" {
            inside = false;
        }
        match line.split_once(" = ").filter(|(field, _)| inside && field.trim_start().starts_with("pub ")) {
            Some((field, places)) => lines.push(format!("{field} = {},", more(places.trim_end_matches(','))?)),
            None => lines.push(line.to_owned()),
        }
    }
    let grown = lines.join("\n");
    if grown == text.trim_end() {
        return Err(format!("{} has no {head}", path.display()).into());
    }
    fs::write(path, grown)?;
    Ok(())
}

/// Each of the numbers between slashes, moved.
fn more(numbers: &str) -> Result<String, Box<dyn Error>> {
    let moved = numbers.split('/').map(|number| Ok((number.trim().parse::<usize>()? + MORE).to_string()));
    Ok(moved.collect::<Result<Vec<_>, std::num::ParseIntError>>()?.join(" / "))
}

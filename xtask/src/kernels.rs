//! Debian's cloud kernels, fetched and kept in `target/vm/kernels/VERSION`: what `strake_rig::vm` boots.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use strake_rig::vm::Kernel;

use crate::debian::Apt;
use crate::ui;

const PACKAGE: &str = "linux-image-cloud-amd64";
/// Which of Debian's suites have a kernel of another version.
const SUITES: [&str; 8] = [
    "bullseye",
    "bullseye-security",
    "bookworm",
    "bookworm-security",
    "bookworm-backports",
    "trixie",
    "trixie-security",
    "trixie-backports",
];

/// The oldest that is supported; one that tests use.
pub const OLDEST: &str = "5.10";
/// What is run on with `all`.
pub const ALL: [&str; 4] = [OLDEST, "6.1", "6.12", NEWEST];
pub const NEWEST: &str = "newest";

fn folder() -> PathBuf {
    Path::new("target/vm/kernels").into()
}

/// The version among `versions` (newest first) that `wanted` means.
fn choose<'a>(versions: &'a [String], wanted: &str) -> Option<&'a String> {
    let of_series = |version: &&String| version.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.'));
    if wanted == NEWEST { versions.first() } else { versions.iter().find(of_series) }
}

/// Fetches what is missing of `wanted`; returns each that can be had. What cannot is named.
pub fn fetch(wanted: &[&str]) -> Result<Vec<(String, Kernel)>> {
    ui::step("Fetching kernels from Debian's suites");
    let apt = Apt::new(Path::new("target/vm/apt"), &SUITES)?;
    apt.update()?;
    let versions = apt.versions(PACKAGE)?;
    let mut found: Vec<(String, Kernel)> = Vec::new();
    for wanted in wanted {
        let Some(version) = choose(&versions, wanted) else {
            println!("    {wanted}: the mirror has no such kernel; left out");
            continue;
        };
        let kernel = match one(&apt, version) {
            Ok(kernel) => kernel,
            Err(error) => {
                println!("    {wanted}: {version} cannot be fetched and is left out: {error:#}");
                continue;
            }
        };
        if found.iter().any(|(_, other)| *other == kernel) {
            println!("    {wanted}: {version} again");
        } else {
            println!("    {wanted}: {version}");
            found.push(((*wanted).to_owned(), kernel));
        }
    }
    if found.is_empty() {
        bail!("no kernel could be fetched (Debian's have: {})", versions.join(", "));
    }
    Ok(found)
}

/// The folder of a kernel of the oldest series, fetched if there is none yet.
pub fn oldest() -> Result<PathBuf> {
    let kept = || {
        let entries = fs::read_dir(folder()).into_iter().flatten().flatten().map(|entry| entry.path());
        let of_series = |path: &PathBuf| Kernel::open(path).is_ok_and(|kernel| kernel.version() == (5, 10));
        entries.filter(of_series).max()
    };
    if kept().is_none() {
        fetch(&[OLDEST])?;
    }
    std::path::absolute(kept().context("there is no kernel of the oldest series")?).context("naming the kernel")
}

fn one(apt: &Apt, version: &str) -> Result<Kernel> {
    let folder = folder().join(version);
    if let Ok(kernel) = Kernel::open(&folder) {
        return Ok(kernel);
    }
    // The package of no release names the one of a release, which may be split in several.
    let named = |names: Vec<String>, end: &str| -> Vec<String> {
        names.into_iter().filter(|name| name.starts_with("linux-") && name.ends_with(end)).collect()
    };
    let images = named(apt.depends(PACKAGE, version)?, "-cloud-amd64");
    let image = images.iter().find(|name| name.starts_with("linux-image-")).context("it names no image")?;
    let release = image.trim_start_matches("linux-image-");
    let mut packages = named(apt.depends(image, version)?, release);
    packages.push(image.clone());
    let packages: Vec<String> = packages.iter().map(|name| format!("{name}={version}")).collect();

    let part = folder.with_extension("part");
    let _ = fs::remove_dir_all(&part);
    fs::create_dir_all(&part).with_context(|| format!("making {}", part.display()))?;
    ui::spin(&format!("fetching Linux {version}"), || {
        apt.download(&packages, &part)?;
        unpack(&part, release)
    })?;
    fs::rename(&part, &folder).with_context(|| format!("naming {}", folder.display()))?;
    Kernel::open(&folder).with_context(|| format!("the packages of {version} are not as expected"))
}

/// Takes the image and the modules of networks out of the packages in a folder, and brings them where
/// [`Kernel::open`] looks.
fn unpack(folder: &Path, release: &str) -> Result<()> {
    const KEPT: [&str; 7] = [
        "*/boot/vmlinuz*",
        "*/vmlinuz",
        "*/modules.builtin",
        "*/kernel/net/*",
        "*/kernel/drivers/net/*",
        "*/kernel/lib/*",
        "*/kernel/crypto/*",
    ];
    let root = folder.join("root");
    fs::create_dir(&root)?;
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            // tar ends with 2 when a pattern matches nothing, as in a package without modules.
            let script = "dpkg-deb --fsys-tarfile \"$0\" | tar -x -C \"$1\" --wildcards ";
            let patterns: Vec<String> = KEPT.iter().map(|kept| format!("'{kept}'")).collect();
            let script = format!("{script} {} 2>/dev/null; test $? -le 2", patterns.join(" "));
            ui::capture(Command::new("sh").args(["-c", &script]).arg(&path).arg(&root))?;
            fs::remove_file(&path)?;
        }
    }
    let modules = ["lib/modules", "usr/lib/modules"].map(|place| root.join(place).join(release));
    let modules = modules.iter().find(|place| place.is_dir()).context("the packages hold no modules")?;
    let images = [root.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
    let image = images.iter().find(|image| image.is_file()).context("the packages hold no image")?;
    fs::rename(image, folder.join("vmlinuz"))?;
    fs::create_dir(folder.join("modules"))?;
    fs::rename(modules, folder.join("modules").join(release))?;
    Ok(fs::remove_dir_all(&root)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_means_its_newest_version_and_nothing_that_only_starts_alike() {
        let versions = ["7.3.4-1~bpo13+1", "6.12.117-1", "6.12.107-1", "6.1.192-2", "5.10.262-1"].map(String::from);
        assert_eq!(choose(&versions, "6.12").unwrap(), "6.12.117-1");
        assert_eq!(choose(&versions, "6.1").unwrap(), "6.1.192-2");
        assert_eq!(choose(&versions, NEWEST).unwrap(), "7.3.4-1~bpo13+1");
        assert_eq!(choose(&versions, "4.19"), None);
    }
}

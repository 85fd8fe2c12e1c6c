//! Debian's other suites, without a change to this machine's apt: a private configuration derived from the machine's
//! own sources. Mirror, keys and proxies stay those of the machine; only names of suites are exchanged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::ui;

/// Where packages come from: the archive, or its security updates.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    uris: String,
    signed_by: Option<String>,
}

impl Source {
    fn with(&self, suites: &[String]) -> String {
        let signed = self.signed_by.as_ref().map_or_else(String::new, |key| format!("Signed-By: {key}\n"));
        format!("Types: deb\nURIs: {}\nSuites: {}\nComponents: main\n{signed}\n", self.uris, suites.join(" "))
    }
}

/// A private apt configuration.
pub struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// One for `suites` of this machine's mirror (`bookworm`, `trixie-security`, ...); lists are kept in `folder`.
    pub fn new(folder: &Path, suites: &[&str]) -> Result<Self> {
        let codename = codename()?;
        let (archive, security) = sources(&machine_sources(), &codename);
        let archive = archive.with_context(|| format!("no source of {codename} is in /etc/apt"))?;
        let (updates, main): (Vec<String>, Vec<String>) =
            suites.iter().map(|suite| (*suite).to_owned()).partition(|suite| suite.ends_with("-security"));
        let mut text = archive.with(&main);
        if let Some(security) = security
            && !updates.is_empty()
        {
            text.push_str(&security.with(&updates));
        }
        let apt = Self { folder: std::path::absolute(folder)? };
        for made in ["sources", "lists/partial", "cache/archives/partial", "preferences"] {
            fs::create_dir_all(apt.folder.join(made)).with_context(|| format!("making {}", folder.display()))?;
        }
        let path = apt.folder.join("sources/strake.sources");
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(apt)
    }

    /// This machine's own suites and their backports.
    pub fn with_backports(folder: &Path) -> Result<(Self, String)> {
        let own = codename()?;
        let backports = format!("{own}-backports");
        let suites = [own.as_str(), &format!("{own}-updates"), &format!("{own}-security"), &backports];
        Ok((Self::new(folder, &suites)?, backports))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at = |name: &str| self.folder.join(name).display().to_string();
        let options = [
            "Dir::Etc::SourceList=/dev/null".to_owned(),
            format!("Dir::Etc::SourceParts={}", at("sources")),
            "Dir::Etc::Preferences=/dev/null".to_owned(),
            format!("Dir::Etc::PreferencesParts={}", at("preferences")),
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::Cache={}", at("cache")),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ];
        for option in options {
            command.args(["-o", &option]);
        }
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// Reads the suites' lists. A suite that the mirror has no longer is named and left out.
    pub fn update(&self) -> Result<()> {
        ui::spin("reading Debian's package lists", || {
            let output = self.command("apt-get").arg("update").output().context("starting apt-get")?;
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            for line in stderr.lines().filter(|line| line.starts_with("E:")) {
                println!("    note: {line}");
            }
            Ok(())
        })
    }

    /// Versions of a package that can be had, newest first.
    pub fn versions(&self, package: &str) -> Result<Vec<String>> {
        let text = ui::capture(self.command("apt-cache").args(["madison", package]))?;
        Ok(text.lines().filter_map(|line| Some(line.split('|').nth(1)?.trim().to_owned())).collect())
    }

    /// What a version of a package depends on: names.
    pub fn depends(&self, package: &str, version: &str) -> Result<Vec<String>> {
        let text = ui::capture(self.command("apt-cache").args(["show", &format!("{package}={version}")]))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
        Ok(line.split([',', '|']).filter_map(|one| Some(one.split_whitespace().next()?.to_owned())).collect())
    }

    /// Downloads packages, `NAME=VERSION`, into a folder.
    pub fn download(&self, packages: &[String], into: &Path) -> Result<()> {
        ui::capture(self.command("apt-get").arg("download").args(packages).current_dir(into)).map(drop)
    }

    fn install(&self, package: &str, suite: &str, simulate: bool) -> Result<String> {
        let mut install = self.command("apt-get");
        install.args(["install", "-y", "--no-install-recommends", "-t", suite, package]);
        if simulate {
            install.arg("--simulate");
        }
        ui::capture(&mut install)
    }
}

/// Installs a package without removing another: from the machine's own suites, or else from their backports. (A tool
/// of the same family that came from backports ties the package to its version.)
pub fn install_beside(package: &str) -> Result<()> {
    let mut own = Command::new("apt-get");
    own.args(["install", "-y", "--no-install-recommends", "--simulate", package]);
    let removes = |plan: &str| plan.lines().any(|line| line.starts_with("Remv "));
    let why = match ui::capture(&mut own) {
        Ok(plan) if !removes(&plan) => return super::setup::apt(&[package]),
        Ok(plan) => plan.lines().filter(|line| line.starts_with("Remv ")).collect::<Vec<_>>().join(", "),
        Err(error) => format!("{error:#}"),
    };
    println!("    this release's own {package} cannot be installed beside what is here; trying its backports");
    let (apt, suite) = Apt::with_backports(Path::new("target/vm/apt-backports"))?;
    apt.update()?;
    match apt.install(package, &suite, true) {
        Ok(plan) if !removes(&plan) => {
            ui::spin(&format!("apt-get install -t {suite} {package}"), || apt.install(package, &suite, false)).map(drop)
        }
        _ => bail!("{package} cannot be installed without removing other packages ({why}); install it by hand"),
    }
}

fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    if value("ID").as_deref() != Some("debian") {
        bail!("Debian's kernels are fetched with apt from a Debian machine's own mirror, and this is no Debian");
    }
    value("VERSION_CODENAME").context("/etc/os-release has no VERSION_CODENAME")
}

/// Every source list of the machine.
fn machine_sources() -> Vec<String> {
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let known = |path: &PathBuf| path.extension().is_some_and(|e| e == "sources" || e == "list");
    let all = parts.filter(known).chain([PathBuf::from("/etc/apt/sources.list")]);
    all.filter_map(|path| fs::read_to_string(path).ok()).collect()
}

/// The sources of `codename` and of its security updates.
fn sources(lists: &[String], codename: &str) -> (Option<Source>, Option<Source>) {
    let security = format!("{codename}-security");
    let (mut archive, mut updates) = (None, None);
    for (suites, source) in lists.iter().flat_map(|text| stanzas(text).into_iter().chain(lines(text))) {
        if suites.iter().any(|suite| suite == codename) {
            archive.get_or_insert(source);
        } else if suites.iter().any(|suite| suite.trim_end_matches("/updates") == security) {
            updates.get_or_insert(source);
        }
    }
    (archive, updates)
}

/// deb822: `URIs:`, `Suites:`, `Signed-By:`, an empty line between two sources.
fn stanzas(text: &str) -> Vec<(Vec<String>, Source)> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines
        .split(|line| line.trim().is_empty())
        .filter_map(|stanza| {
            let field = |key: &str| {
                let line = stanza.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
                line.map(|value| value.trim().to_owned())
            };
            let suites = field("Suites")?.split_whitespace().map(str::to_owned).collect();
            // A key within the file has nothing on the field's own line.
            let signed_by = field("Signed-By").filter(|key| !key.is_empty());
            Some((suites, Source { uris: field("URIs")?, signed_by }))
        })
        .collect()
}

/// `deb [signed-by=KEY] URI SUITE COMPONENT...`
fn lines(text: &str) -> Vec<(Vec<String>, Source)> {
    text.lines()
        .filter_map(|line| {
            let mut rest = line.trim().strip_prefix("deb ")?.trim();
            let mut signed_by = None;
            if let Some((options, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                let key = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
                signed_by = key.map(str::to_owned);
                rest = after.trim();
            }
            let mut words = rest.split_whitespace();
            let uris = words.next()?.to_owned();
            Some((vec![words.next()?.to_owned()], Source { uris, signed_by }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_formats_of_sources() {
        let new = "Types: deb\n# a note\nURIs: http://m.example/debian\nSuites: bookworm bookworm-updates\nSigned-By: /k\n\n\
                   Types: deb\nURIs: http://m.example/sec\nSuites: bookworm-security\n";
        let old = "# deb http://x\ndeb [arch=amd64 signed-by=/k] http://m.example/debian bookworm main\n\
                   deb http://m.example/sec bookworm-security main\n";
        for text in [new, old] {
            let (archive, security) = sources(&[text.to_owned()], "bookworm");
            let key = Some("/k".to_owned());
            assert_eq!(archive, Some(Source { uris: "http://m.example/debian".into(), signed_by: key }));
            assert_eq!(security.unwrap().uris, "http://m.example/sec");
        }
        assert_eq!(sources(&["deb http://other.example stable main".to_owned()], "bookworm"), (None, None));
    }

    #[test]
    fn only_the_suite_is_exchanged() {
        let source = Source { uris: "http://m.example/debian".into(), signed_by: Some("/k".into()) };
        let text = source.with(&["trixie".into(), "trixie-backports".into()]);
        assert!(text.contains("URIs: http://m.example/debian\nSuites: trixie trixie-backports\n"), "{text}");
        assert!(text.contains("Signed-By: /k\n"), "{text}");
    }
}

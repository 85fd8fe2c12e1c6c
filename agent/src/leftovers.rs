//! What a proxy leaves on a node when it goes, and taking it away: ours, and kube-proxy's.
//!
//! kube-proxy's rules are recognised by the names it gives them. The kubelet's (`KUBE-FIREWALL`,
//! `KUBE-KUBELET-CANARY`), the host ports' and those of network policies that begin with `KUBE-` too are not touched.
//!
//! Connections that kube-proxy translated are carried on by the kernel's connection tracking, rules or not, as long as
//! the network namespace has any NAT chain and any rule that looks at connections. Where kube-proxy had the last ones, a
//! table that does nothing else takes their place first.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use strake_datapath::Datapath;
use strake_network::link::Netlink;

use crate::{Error, api};

/// Table that keeps connections translated.
const KEEP_NAT: &str = "strake-keep-nat";
const IPVS_DEVICE: &str = "kube-ipvs0";

/// Detaches our programs and removes the pins under `bpf_root`, filters on `uplink` and the empty NAT chain. Returns
/// lines of what was removed.
pub fn remove_ours(bpf_root: &Path, uplink: Option<&str>) -> Result<Vec<String>, Error> {
    let pins = Datapath::cleanup(bpf_root, uplink.as_slice()).map_err(|e| Error::Datapath(api::chain(&e)))?;
    let mut folders: BTreeMap<&Path, Vec<String>> = BTreeMap::new();
    for pin in &pins {
        if let (Some(folder), Some(name)) = (pin.parent(), pin.file_name()) {
            folders.entry(folder).or_default().push(name.to_string_lossy().into_owned());
        }
    }
    let mut removed: Vec<String> = Vec::new();
    for (folder, mut names) in folders {
        names.sort();
        removed.push(format!("removed {}: {}", folder.display(), names.join(" ")));
    }
    for (family, table) in nft_tables()?.unwrap_or_default() {
        if table == KEEP_NAT {
            feed("nft", &["-f", "-"], &format!("delete table {family} {table}\n"))?;
            removed.push(format!("removed nftables table {family} {table}"));
        }
    }
    Ok(removed)
}

/// Removes what kube-proxy programmed, in any of its modes. Returns a line for each thing removed or not looked at.
pub async fn remove_kube_proxys() -> Result<Vec<String>, Error> {
    let mut told = Vec::new();
    match nft_tables()? {
        None => told.push("nft is not installed: no nftables table was looked for".into()),
        Some(tables) => {
            for (family, table) in tables.into_iter().filter(|(_, table)| table == "kube-proxy") {
                // One transaction: at no instant is a connection without NAT.
                let rules = format!("{}delete table {family} {table}\n", keep_nat(&family));
                feed("nft", &["-f", "-"], &rules)?;
                told.push(format!("removed nftables table {family} {table}"));
                told.push(kept(&family));
            }
        }
    }
    for program in ["iptables", "ip6tables"] {
        // A host may have both backends; the plain name is one of them.
        let mut backends: Vec<String> = vec![format!("{program}-nft"), format!("{program}-legacy")];
        backends.retain(|backend| installed(backend));
        if backends.is_empty() {
            backends.push(program.to_owned());
        }
        for backend in backends {
            match capture(&format!("{backend}-save"), &[])? {
                None => told.push(format!("{backend} is not installed: no chain of it was looked for")),
                Some(saved) => {
                    let plan = removal(&saved);
                    if plan.chains.is_empty() {
                        continue;
                    }
                    let family = if program == "iptables" { "ip" } else { "ip6" };
                    let keeping = installed("nft");
                    if keeping {
                        feed("nft", &["-f", "-"], &keep_nat(family))?;
                    }
                    feed(&format!("{backend}-restore"), &["--noflush"], &plan.input)?;
                    let (chains, rules) = (plan.chains.len(), plan.rules);
                    told.push(format!("removed {chains} chains and {rules} rules of {backend}"));
                    told.extend(keeping.then(|| kept(family)));
                }
            }
        }
    }
    if Netlink::open()?.remove(IPVS_DEVICE).await? {
        told.push(format!("removed link {IPVS_DEVICE} (IPVS keeps its own table; `ipvsadm --clear` empties it)"));
    }
    Ok(told)
}

/// An empty NAT chain, so that the kernel goes on translating, and a look at the connection's state, so that it goes on
/// tracking: either would end with the last rule that asks for it.
fn keep_nat(family: &str) -> String {
    format!(
        "add table {family} {KEEP_NAT}\n\
         add chain {family} {KEEP_NAT} postrouting {{ type nat hook postrouting priority 100 ; }}\n\
         flush chain {family} {KEEP_NAT} postrouting\n\
         add rule {family} {KEEP_NAT} postrouting ct state new\n"
    )
}

fn kept(family: &str) -> String {
    format!("  (table {family} {KEEP_NAT} keeps its connections translated; `strake agent cleanup` removes it)")
}

/// Chains with a fixed name that kube-proxy makes, in its iptables and IPVS modes.
const CHAINS: [&str; 14] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
    "KUBE-MARK-DROP",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
    "KUBE-LOAD-BALANCER",
    "KUBE-NODE-PORT",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
];

/// Those with a hash of a Service or an endpoint behind the name.
const HASHED: [&str; 6] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-", "KUBE-XLB-"];

fn is_kube_proxys(chain: &str) -> bool {
    CHAINS.contains(&chain)
        || HASHED.iter().any(|prefix| {
            let hash = chain.strip_prefix(prefix).unwrap_or_default();
            hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        })
}

/// Input of `iptables-restore --noflush`, and what it removes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Removal {
    input: String,
    chains: BTreeSet<(String, String)>,
    /// Rules of other chains that lead into one of `chains`.
    rules: usize,
}

/// Turns the output of `iptables-save` around: every chain of kube-proxy is emptied and removed, after the rules of
/// others that lead into it. Each table is one transaction.
fn removal(saved: &str) -> Removal {
    let mut removal = Removal::default();
    let (mut table, mut chains, mut rules) = (String::new(), Vec::new(), Vec::new());
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            (table, chains, rules) = (name.to_owned(), Vec::new(), Vec::new());
        } else if let Some(chain) = line.strip_prefix(':').and_then(|l| l.split(' ').next()) {
            chains.extend(is_kube_proxys(chain).then(|| chain.to_owned()));
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let mut words = rule.split(' ');
            let of = words.next().unwrap_or_default();
            let mut targets = words.clone().zip(words.skip(1)).filter(|(flag, _)| matches!(*flag, "-j" | "-g"));
            if !is_kube_proxys(of) && targets.any(|(_, target)| is_kube_proxys(target)) {
                rules.push(rule.to_owned());
            }
        } else if line == "COMMIT" && !chains.is_empty() {
            let lines = std::iter::once(format!("*{table}"))
                .chain(chains.iter().map(|chain| format!(":{chain} - [0:0]")))
                .chain(rules.iter().map(|rule| format!("-D {rule}")))
                .chain(chains.iter().map(|chain| format!("-X {chain}")))
                .chain(["COMMIT".to_owned()]);
            for line in lines {
                removal.input += &line;
                removal.input.push('\n');
            }
            removal.rules += rules.len();
            removal.chains.extend(chains.drain(..).map(|chain| (table.clone(), chain)));
        }
    }
    removal
}

/// Family and name of every nftables table; None without `nft`.
fn nft_tables() -> Result<Option<Vec<(String, String)>>, Error> {
    let Some(listed) = capture("nft", &["list", "tables"])? else { return Ok(None) };
    let table = |line: &str| {
        let mut words = line.strip_prefix("table ")?.split(' ');
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    Ok(Some(listed.lines().filter_map(table).collect()))
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).exists())
}

/// What a program says; None when it is not installed.
fn capture(program: &str, args: &[&str]) -> Result<Option<String>, Error> {
    match Command::new(program).args(args).output() {
        Ok(output) if output.status.success() => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
        Ok(output) => Err(failed(program, args, &output)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("starting {program}"))(error)),
    }
}

fn feed(program: &str, args: &[&str], input: &str) -> Result<(), Error> {
    let piped = Stdio::piped;
    let mut child = Command::new(program)
        .args(args)
        .stdin(piped())
        .stdout(Stdio::null())
        .stderr(piped())
        .spawn()
        .map_err(Error::io(format!("starting {program}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(Error::io(format!("writing to {program}")))?;
    }
    let output = child.wait_with_output().map_err(Error::io(format!("waiting for {program}")))?;
    if output.status.success() { Ok(()) } else { Err(failed(program, args, &output)) }
}

fn failed(program: &str, args: &[&str], output: &std::process::Output) -> Error {
    let said = String::from_utf8_lossy(&output.stderr);
    Error::Part(format!("`{program} {}` ended with {}: {}", args.join(" "), output.status, said.trim()))
}

/// Any rules: what is removed is kube-proxy's, table by table, each a transaction.
pub(crate) fn read_any(saved: &str) {
    let removal = removal(saved);
    assert!(removal.chains.iter().all(|(_, chain)| is_kube_proxys(chain)), "{removal:?}");
    let count = |head: &str| removal.input.lines().filter(|line| line.starts_with(head)).count();
    assert_eq!(count("*"), removal.input.lines().filter(|line| *line == "COMMIT").count());
    assert_eq!((count("-D "), removal.chains.is_empty()), (removal.rules, removal.input.is_empty()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "\
# Generated by iptables-save
*filter
:INPUT ACCEPT [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NWPLCY-DEFAULT - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -j KUBE-FIREWALL
-A INPUT -j KUBE-NWPLCY-DEFAULT
-A FORWARD -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-TCOU7JCQXEZGVUNU - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:CNI-DN-1 - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.0.10/32 -j KUBE-SVC-TCOU7JCQXEZGVUNU
-A PREROUTING -j CNI-DN-1
COMMIT
*mangle
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
";

    #[test]
    fn only_kube_proxys_chains_and_what_leads_there_goes() {
        let removal = removal(SAVED);
        let want = "\
*filter
:KUBE-FORWARD - [0:0]
:KUBE-SERVICES - [0:0]
-D FORWARD -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-X KUBE-FORWARD
-X KUBE-SERVICES
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-TCOU7JCQXEZGVUNU - [0:0]
-D PREROUTING -j KUBE-SERVICES
-X KUBE-SERVICES
-X KUBE-SVC-TCOU7JCQXEZGVUNU
COMMIT
";
        assert_eq!(removal.input, want);
        assert_eq!((removal.chains.len(), removal.rules), (4, 2));
    }

    #[test]
    fn chains_of_others_that_look_alike_stay() {
        for chain in ["KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-POD-FW-ABC", "KUBE-HOSTPORTS", "KUBE-SVC-short"] {
            assert!(!is_kube_proxys(chain), "{chain}");
        }
    }
}

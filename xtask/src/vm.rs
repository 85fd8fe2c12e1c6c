//! `cargo xtask vm`: the tests of the datapath under other kernels, each in a virtual machine, and how far each program
//! is from the verifier's limit there.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use strake_rig::vm::{Guest, Kernel};

use crate::{build, kernels, setup, ui};

#[derive(clap::Args)]
pub struct Args {
    /// A series such as 5.10, 6.1 or 6.12, or newest, or all
    #[arg(long, default_value = "all")]
    kernel: String,
    /// Parts of names of tests: only those run
    #[arg(last = true)]
    filter: Vec<String>,
}

/// Ten minutes on two idle cores, and far more beside other work: nothing is accelerated, and each test loads the programs anew.
const LIMIT: Duration = Duration::from_secs(3600);
/// Programs and the tables of a full-size node.
const MEMORY_MIB: u32 = 1536;
/// What the kernel's verifier looks at before it gives up.
const VERIFIER_LIMIT: f64 = 1_000_000.0;
const MODULES: [&str; 7] = ["veth", "sch_ingress", "cls_bpf", "udp_diag", "tcp_diag", "bridge", "sctp"];
/// Tests that are ignored elsewhere, as this machine's kernel may lack what they need: a binary, and how their names begin.
const HERE_ONLY: [(&str, &str); 1] = [("netns", "sctp::")];
/// The binaries, and where they are in the guest.
const BINARIES: [(&str, &str); 2] = [("prog_run", "/tests/prog_run"), ("netns", "/tests/netns")];
const HELPER: &str = "strake-net-helper";
const HEADROOM: &str = "load::every_program_is_verified_with_room_to_spare";

/// Tests that cannot run on some kernels.
struct Limit {
    /// The first version that they run on.
    since: (u32, u32),
    why: &'static str,
    tests: &'static [&'static str],
}

const LIMITS: [Limit; 1] = [Limit {
    since: (5, 14),
    why: "a Pod can opt out of the socket hooks, and is told from the node by them, from Linux 5.14 on",
    tests: &[
        "full::a_full_map_of_connections_loses_the_oldest_says_how_many_and_names_who_filled_it",
        "live::an_ipv6_socket_with_a_mapped_address_is_served_like_an_ipv4_one",
        "live::a_pod_that_opted_out_is_left_to_the_packet_path",
        "live::socket_hooks_translate_connect_sendto_and_what_is_seen_of_them",
        "paths::a_pod_that_opted_out_of_the_socket_hooks_sees_the_same_services",
        "restart::an_opted_out_pod_stays_so_while_the_agent_has_not_seen_the_cluster_yet",
    ],
}];

/// What one kernel said.
#[derive(Default)]
struct Report {
    kernel: String,
    seconds: f64,
    /// By binary.
    suites: BTreeMap<String, Suite>,
    /// By program: instructions verified.
    verified: BTreeMap<String, String>,
}

/// What libtest says at its end.
#[derive(Default)]
struct Suite {
    passed: usize,
    failed: usize,
    names_of_failed: Vec<String>,
    ended: bool,
}

pub fn run(args: &Args) -> Result<()> {
    setup::run(&setup::ALL)?;
    let wanted: Vec<&str> = if args.kernel == "all" { kernels::ALL.to_vec() } else { vec![&args.kernel] };
    let kernels = kernels::fetch(&wanted)?;
    let built = build::tests()?;
    ui::step("Testing in virtual machines (no acceleration needed)");
    let mut reports = Vec::new();
    for (_, kernel) in &kernels {
        reports.push(one(kernel, &built, &args.filter)?);
    }
    table(&reports);
    let failed: usize = reports.iter().flat_map(|report| report.suites.values()).map(|suite| suite.failed).sum();
    let silent = reports.iter().any(|report| report.suites.values().all(|suite| suite.passed == 0));
    if failed > 0 {
        bail!("{failed} test(s) failed; what they said is in target/vm/RELEASE/output.log");
    }
    if silent {
        bail!("no test ran on one of the kernels; is there a test of that name?");
    }
    Ok(())
}

fn one(kernel: &Kernel, built: &BTreeMap<String, PathBuf>, filter: &[String]) -> Result<Report> {
    let folder = Path::new("target/vm").join(&kernel.release);
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let path = |name: &str| built.get(name).with_context(|| format!("cargo built no {name}"));
    let mut guest = Guest::new(kernel.clone())?;
    guest.memory_mib(MEMORY_MIB);
    guest.modules("all", &MODULES)?;
    for tool in ["ip", "nsenter", "unshare"] {
        guest.tool(tool)?;
    }
    for (name, there) in BINARIES {
        guest.program(path(name)?, there)?;
    }
    // The tests know it by the path it was built at.
    let helper = path(HELPER)?;
    guest.program(helper, &helper.display().to_string())?;

    let limits: Vec<&Limit> = LIMITS.iter().filter(|limit| kernel.version() < limit.since).collect();
    let script = script(&limits, filter);
    let log = folder.join("output.log");
    let mut kept = fs::File::create(&log).with_context(|| format!("making {}", log.display()))?;
    let outcome = ui::follow(&format!("Linux {}", kernel.release), |tell| {
        let heard = |line: &str| {
            // A copy for whoever looks into a run that hangs; what counts is in the outcome.
            let _ = writeln!(kept, "{line}");
            if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.split(" ... ").next()) {
                tell(name);
            }
        };
        Ok(guest.run(&script, &folder, LIMIT, heard)?)
    })?;
    // Made anew by every run, and large.
    let _ = fs::remove_file(folder.join("initrd"));

    let mut report = parse(&outcome.output);
    report.kernel.clone_from(&kernel.release);
    report.seconds = outcome.took.as_secs_f64();
    for (name, suite) in &report.suites {
        println!("      {name}: {} passed, {} failed", suite.passed, suite.failed);
        suite.names_of_failed.iter().for_each(|test| println!("        FAILED {test}"));
    }
    for limit in &limits {
        limit.tests.iter().for_each(|test| println!("      cannot run here: {test} ({})", limit.why));
    }
    if report.suites.values().filter(|suite| suite.ended).count() < BINARIES.len() {
        bail!("Linux {} ended early with {}; see {}", kernel.release, outcome.status, log.display());
    }
    Ok(report)
}

fn script(limits: &[&Limit], filter: &[String]) -> String {
    let skip: Vec<String> = limits.iter().flat_map(|limit| limit.tests).map(|test| format!("--skip {test}")).collect();
    let words: Vec<String> = filter.iter().map(|word| format!("'{}'", word.replace('\'', ""))).collect();
    let mut text = "sh /modules/all || exit 1\n\
         mount -t cgroup2 none /sys/fs/cgroup || exit 1\n\
         mount -t bpf bpf /sys/fs/bpf || exit 1\n\
         export RUST_BACKTRACE=0\n"
        .to_owned();
    text.push_str(&format!("echo '== verifier'\n/tests/prog_run --exact {HEADROOM} --nocapture\n"));
    for (name, there) in BINARIES {
        let arguments = format!("{} {}", words.join(" "), skip.join(" "));
        text.push_str(&format!("echo '== {name}'\n{there} --test-threads=1 {arguments}\n"));
    }
    for (name, tests) in HERE_ONLY {
        let wanted = filter.is_empty() || filter.iter().any(|word| tests.contains(word) || word.starts_with(tests));
        if let Some((_, there)) = BINARIES.iter().find(|(binary, _)| *binary == name && wanted) {
            text.push_str(&format!("echo '== {name} here only'\n{there} --test-threads=1 --ignored {tests}\n"));
        }
    }
    text
}

/// Sections begin with `== NAME`; in them are libtest's lines, or the verifier's table.
fn parse(output: &str) -> Report {
    let mut report = Report::default();
    let mut section = "";
    for line in output.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            section = name;
            if section != "verifier" {
                report.suites.entry(section.to_owned()).or_default();
            }
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |what: &str| {
            let at = words.iter().position(|word| word.trim_end_matches(';') == what)?;
            words.get(at.checked_sub(1)?)?.parse::<usize>().ok()
        };
        if section == "verifier" {
            if let [program, verified, bytes, _] = words[..]
                && bytes.parse::<u32>().is_ok()
            {
                report.verified.insert(program.to_owned(), verified.to_owned());
            }
            continue;
        }
        let Some(suite) = report.suites.get_mut(section) else { continue };
        if line.starts_with("test result:") {
            suite.ended = true;
            suite.passed = number("passed").unwrap_or_default();
            suite.failed = number("failed").unwrap_or_default();
        } else if let ([name], true) = (&words[..], line.starts_with("    ") && line.contains("::")) {
            // The list under `failures:`.
            suite.names_of_failed.push((*name).to_owned());
        }
    }
    report
}

/// Markdown, as the README has it.
fn table(reports: &[Report]) {
    let row = |first: &str, cell: &dyn Fn(&Report) -> String| {
        let cells: Vec<String> = reports.iter().map(cell).collect();
        println!("| {first} | {} |", cells.join(" | "));
    };
    println!();
    row("", &|report| report.kernel.clone());
    println!("|---|{}", "---|".repeat(reports.len()));
    for (name, _) in BINARIES {
        row(name, &|report| {
            let suite = report.suites.get(name);
            suite.map_or_else(String::new, |suite| format!("{} of {}", suite.passed, suite.passed + suite.failed))
        });
    }
    row("seconds in the machine", &|report| format!("{:.0}", report.seconds));
    let programs: std::collections::BTreeSet<&String> = reports.iter().flat_map(|r| r.verified.keys()).collect();
    for program in programs {
        row(&format!("`{program}` verified"), &|report| match report.verified.get(program).map(|text| text.parse()) {
            Some(Ok(count)) => share(count),
            Some(Err(_)) => "not reported".into(),
            None => "not loaded".into(),
        });
    }
    println!();
}

fn share(count: u32) -> String {
    format!("{count} ({:.1} %)", f64::from(count) * 100.0 / VERIFIER_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_the_verifiers_figures_are_read_from_what_a_guest_prints() {
        let report = parse(
            "noise\n== verifier\nprogram verified bytes jited bytes\nfrom_pod 42000 9000 5000\nsock not-reported 1 1\n\
             test load::x ... ok\n== prog_run\ntest a::b ... ok\ntest a::c ... noise\nFAILED\nfailures:\n    a::c\n\n\
             test result: FAILED. 1 passed; 1 failed; 2 ignored; 0 measured; 9 filtered out; finished in 2.00s\n== netns\n",
        );
        assert_eq!(report.verified["from_pod"], "42000");
        assert_eq!(report.verified["sock"], "not-reported");
        let suite = &report.suites["prog_run"];
        assert_eq!((suite.passed, suite.failed, suite.ended), (1, 1, true));
        assert_eq!(suite.names_of_failed, ["a::c"]);
        assert!(!report.suites["netns"].ended);
        assert_eq!(share(42_000), "42000 (4.2 %)");
    }
}

//! Samples -> medians with their spread, a table, and `target/bench/NAME.json`.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use strake_tests::lab::Helper;

/// What one target gave, block by block.
#[derive(Default)]
pub struct Samples {
    /// Nanoseconds, one list a block, each sorted.
    blocks: Vec<Vec<u64>>,
    pub failed: u64,
}

impl Samples {
    /// Tells a worker to measure one block and takes its answer.
    pub fn measure(&mut self, worker: &mut Helper, order: &str) {
        let answer = worker.ask(order);
        let (times, failed) = answer.split_once("failed ").unwrap_or_else(|| panic!("{order}: the worker ended"));
        let mut times: Vec<u64> = times.split_whitespace().map(|time| time.parse().unwrap()).collect();
        times.sort_unstable();
        self.failed += failed.parse::<u64>().unwrap();
        if !times.is_empty() {
            self.blocks.push(times);
        }
    }

    /// One block of times measured here.
    pub fn block(&mut self, mut times: Vec<Duration>) {
        times.sort_unstable();
        self.blocks.push(times.iter().map(|time| time.as_nanos() as u64).collect());
    }

    /// The quantile of each block, in microseconds.
    pub fn quantiles(&self, quantile: f64) -> Vec<f64> {
        let at = |times: &Vec<u64>| times[((times.len() - 1) as f64 * quantile).round() as usize] as f64 / 1000.0;
        self.blocks.iter().map(at).collect()
    }

    fn count(&self) -> usize {
        self.blocks.iter().map(Vec::len).sum()
    }
}

pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The middle half of the blocks lies within this part of the median.
pub fn spread(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |part: usize| sorted.get(sorted.len() * part / 4).copied().unwrap_or(f64::NAN);
    (at(3) - at(1)) / median(figures)
}

/// The rows of one bench.
#[derive(Default)]
pub struct Report {
    rows: Vec<Value>,
}

impl Report {
    /// p50, p99 and failures of ours beside a peer's (or alone).
    pub fn compare(&mut self, case: &str, ours: &Samples, peer: Option<(&str, &Samples)>) {
        for (metric, quantile) in [("p50", 0.5), ("p99", 0.99)] {
            let figures = ours.quantiles(quantile);
            let theirs = peer.map(|(_, samples)| samples.quantiles(quantile));
            let middle = theirs.as_deref().map(median);
            self.rows.push(json!({
                "case": case, "metric": metric, "unit": "us", "better": "lower",
                "peer": peer.map(|(name, _)| name),
                "ours": median(&figures), "theirs": middle,
                "ratio": middle.map(|theirs| median(&figures) / theirs),
                "ours_spread": spread(&figures), "theirs_spread": theirs.as_deref().map(spread),
                "runs": figures.len(),
            }));
        }
        self.rows.push(json!({
            "case": case, "metric": "failed", "unit": "connections", "better": "lower",
            "peer": peer.map(|(name, _)| name),
            "ours": ours.failed, "theirs": peer.map(|(_, samples)| samples.failed), "ratio": null,
            "ours_spread": null, "theirs_spread": null, "runs": ours.count() as u64 + ours.failed,
        }));
    }

    /// One figure of ours, measured once.
    pub fn figure(&mut self, case: &str, unit: &str, value: f64) {
        self.rows.push(json!({
            "case": case, "metric": "value", "unit": unit, "better": "lower", "peer": null,
            "ours": value, "theirs": null, "ratio": null, "ours_spread": null, "theirs_spread": null, "runs": 1,
        }));
    }

    /// Writes `target/bench/NAME.json`: an object of the machine, kernel, commit, date, build and the rows.
    pub fn write(&self, name: &str) -> io::Result<()> {
        let command = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let cpus = std::thread::available_parallelism()?;
        let report = json!({
            "machine": format!("{cpus} x {}", model.trim_start_matches([' ', '\t', ':'])),
            "kernel": command("uname", &["-r"]),
            "commit": command("git", &["rev-parse", "--short", "HEAD"]),
            "date": command("date", &["-u", "+%FT%TZ"]),
            "build": if cfg!(debug_assertions) { "dev" } else { "release" },
            "rows": self.rows,
        });
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{name}.json"));
        std::fs::write(&path, format!("{report:#}\n"))?;
        println!("\n{} rows in target/bench/{name}.json", self.rows.len());
        Ok(())
    }
}

/// One line of the table.
pub fn print_row(name: &str, samples: &Samples, reference: &Samples) {
    let (p50, p99) = (samples.quantiles(0.5), samples.quantiles(0.99));
    let of_reference = median(&p50) / median(&reference.quantiles(0.5));
    println!(
        "  {name:<34} {:>8.1} {:>8.1} {:>6.1} % {of_reference:>8.3} {:>7}",
        median(&p50),
        median(&p99),
        spread(&p50) * 100.0,
        samples.failed
    );
}

/// The head of the table. `reference` is what the last but one column divides by.
pub fn print_head(title: &str, reference: &str) {
    println!("\n{title}");
    println!(
        "  {:<34} {:>8} {:>8} {:>8} {:>8} {:>7}",
        "",
        "p50 us",
        "p99 us",
        "spread",
        format!("/{reference}"),
        "failed"
    );
}

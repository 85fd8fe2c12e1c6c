//! The figures as a table and as the rows of `target/bench/store.json`.

use serde_json::{Value, json};
use std::{io, path::Path, process::Command};

pub struct Row {
    case: String,
    metric: String,
    unit: &'static str,
    higher: bool,
    peer: Option<(&'static str, Vec<f64>)>,
    ours: Vec<f64>,
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Largest minus smallest, as a part of the median.
fn spread(figures: &[f64]) -> f64 {
    let (least, most) = figures.iter().fold((f64::MAX, f64::MIN), |(l, m), f| (l.min(*f), m.max(*f)));
    (most - least) / median(figures)
}

impl Row {
    pub fn compared(
        case: &str,
        metric: &str,
        unit: &'static str,
        higher: bool,
        peer: &'static str,
        ours: Vec<f64>,
        theirs: Vec<f64>,
    ) -> Self {
        Self { peer: Some((peer, theirs)), ..Self::alone(case, metric, unit, higher, ours) }
    }

    pub fn alone(case: &str, metric: &str, unit: &'static str, higher: bool, ours: Vec<f64>) -> Self {
        Self { case: case.into(), metric: metric.into(), unit, higher, peer: None, ours }
    }

    fn json(&self) -> Value {
        let ours = median(&self.ours);
        let theirs = self.peer.as_ref().map(|(_, figures)| median(figures));
        json!({
            "case": self.case, "metric": self.metric, "unit": self.unit,
            "better": if self.higher { "higher" } else { "lower" },
            "peer": self.peer.as_ref().map(|(name, _)| *name),
            "ours": ours, "theirs": theirs, "ratio": theirs.map(|theirs| ours / theirs),
            "ours_spread": spread(&self.ours), "theirs_spread": self.peer.as_ref().map(|(_, f)| spread(f)),
            "runs": self.ours.len(),
        })
    }
}

pub struct Report(Vec<Row>);

impl Report {
    pub fn new() -> Self {
        Self(Vec::new())
    }

    pub fn add(&mut self, row: Row) {
        self.0.push(row);
    }

    pub fn print(&self) {
        println!("{:<48} {:<22} {:>12} {:>12} {:>7}  unit", "case", "metric", "redb", "fjall", "ratio");
        for row in &self.0 {
            let ours = median(&row.ours);
            let (theirs, ratio) = match &row.peer {
                Some((_, figures)) => {
                    let theirs = median(figures);
                    (format!("{theirs:.1}"), format!("{:.2}", ours / theirs))
                }
                None => (String::from("-"), String::from("-")),
            };
            println!("{:<48} {:<22} {ours:>12.1} {theirs:>12} {ratio:>7}  {}", row.case, row.metric, row.unit);
        }
    }

    /// An object: the machine, kernel, commit and date, and the rows.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let command = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
        let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default();
        let report = json!({
            "machine": format!("{} x {}", std::thread::available_parallelism()?, model.trim_start_matches([' ', '\t', ':'])),
            "kernel": command("uname", &["-r"]),
            "commit": command("git", &["rev-parse", "--short", "HEAD"]),
            "date": command("date", &["-u", "+%FT%TZ"]),
            "rows": self.0.iter().map(Row::json).collect::<Vec<_>>(),
        });
        std::fs::write(path, format!("{report:#}\n"))
    }
}

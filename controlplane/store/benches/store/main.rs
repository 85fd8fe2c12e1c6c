//! Which engine should the embedded store stand on? redb and fjall with the same tables, the same group commit and the
//! same bounded cache, interleaved; then the whole embedded store over the winner.
//!
//! `cargo bench -p strake-store`; prints a table and writes `target/bench/store.json`. `--quick` for a short look,
//! `--dir DIR` to choose the disk.

mod engines;
mod report;

use engines::{Engine, Fjall, Redb};
use report::{Report, Row};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};
use strake_store::{
    Backend, RangeRequest, Txn,
    embedded::{Embedded, Options},
};

const VALUE: usize = 1024;
const KEYS: usize = 10_000;

struct Settings {
    seconds: f64,
    runs: usize,
    dir: PathBuf,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [flag, engine, dir] = &args[..]
        && flag == "--resident"
    {
        resident_child(engine, Path::new(dir));
        return;
    }
    let quick = args.iter().any(|a| a == "--quick");
    let dir = args.iter().position(|a| a == "--dir").and_then(|at| args.get(at + 1));
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
    std::fs::create_dir_all(&target).expect("creating target/bench");
    let settings = Settings {
        seconds: if quick { 0.5 } else { 3.0 },
        runs: if quick { 1 } else { 3 },
        dir: dir.map_or_else(|| target.clone(), PathBuf::from),
    };
    let mut report = Report::new();
    writes(&settings, 1, &mut report);
    writes(&settings, 32, &mut report);
    reads(&settings, &mut report);
    churn(&settings, &mut report);
    resident(&settings, &mut report);
    embedded(&settings, &mut report);
    report.print();
    report.write(&target.join("store.json")).expect("writing store.json");
}

/// Runs `measure` for each engine in turn, several times over, and files what it returns.
fn compare(
    settings: &Settings,
    report: &mut Report,
    case: &str,
    metrics: &[(&'static str, &'static str, bool)],
    measure: impl Fn(Arc<dyn Engine>, &Path) -> Vec<f64>,
) {
    let mut figures = [vec![Vec::new(); metrics.len()], vec![Vec::new(); metrics.len()]];
    for _ in 0..settings.runs {
        for (engine, figures) in figures.iter_mut().enumerate() {
            let dir = tempfile::tempdir_in(&settings.dir).expect("a directory for the bench");
            let opened: Arc<dyn Engine> =
                if engine == 0 { Arc::new(Redb::open(dir.path())) } else { Arc::new(Fjall::open(dir.path())) };
            for (figure, value) in figures.iter_mut().zip(measure(opened, dir.path())) {
                figure.push(value);
            }
        }
    }
    let [redb, fjall] = figures;
    for (((metric, unit, higher), ours), theirs) in metrics.iter().zip(redb).zip(fjall) {
        report.add(Row::compared(case, metric, unit, *higher, "fjall 3", ours, theirs));
    }
}

fn key(i: usize) -> Vec<u8> {
    format!("/registry/pods/namespace-{:03}/pod-{i:07}", i % 100).into_bytes()
}

/// Durable writes of 1 KiB by concurrent clients behind one committing thread, as the store's writer does it.
fn writes(settings: &Settings, clients: usize, report: &mut Report) {
    let metrics = [("throughput", "writes/s", true), ("p50", "us", false), ("p99", "us", false)];
    let case = format!("durable 1 KiB writes, {clients} at once");
    compare(settings, report, &case, &metrics, |engine, _| {
        let (queue, commands) = mpsc::channel::<(Vec<u8>, mpsc::Sender<()>)>();
        let committer = {
            let engine = engine.clone();
            std::thread::spawn(move || {
                let mut revision = 1;
                while let Ok(first) = commands.recv() {
                    let batch: Vec<_> = std::iter::once(first).chain(commands.try_iter().take(511)).collect();
                    let keys: Vec<_> = batch.iter().map(|(key, _)| key.clone()).collect();
                    engine.commit(&keys, revision, &[7; VALUE]);
                    revision += keys.len() as u64;
                    for (_, done) in batch {
                        let _ = done.send(());
                    }
                }
            })
        };
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..clients)
            .map(|client| {
                let (queue, stop) = (queue.clone(), stop.clone());
                std::thread::spawn(move || {
                    let (done, wait) = mpsc::channel();
                    let mut latencies = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let begin = Instant::now();
                        let key = key(client * 1000 + latencies.len() % 1000);
                        if queue.send((key, done.clone())).is_err() || wait.recv().is_err() {
                            break;
                        }
                        latencies.push(begin.elapsed());
                    }
                    latencies
                })
            })
            .collect();
        drop(queue);
        let begin = Instant::now();
        std::thread::sleep(Duration::from_secs_f64(settings.seconds));
        stop.store(true, Ordering::Relaxed);
        let mut latencies: Vec<_> = threads.into_iter().flat_map(|t| t.join().expect("a client")).collect();
        let throughput = latencies.len() as f64 / begin.elapsed().as_secs_f64();
        committer.join().expect("the committer");
        let [p50, p99] = percentiles(&mut latencies);
        vec![throughput, p50, p99]
    });
}

/// Median and 99th percentile in microseconds.
fn percentiles(latencies: &mut [Duration]) -> [f64; 2] {
    latencies.sort();
    [50, 99].map(|p| latencies.get(latencies.len() * p / 100).map_or(f64::NAN, |d| d.as_secs_f64() * 1e6))
}

fn fill(engine: &dyn Engine, rounds: usize) -> u64 {
    let mut revision = 1;
    for _ in 0..rounds {
        for chunk in (0..KEYS).collect::<Vec<_>>().chunks(500) {
            let keys: Vec<_> = chunk.iter().map(|i| key(*i)).collect();
            engine.commit(&keys, revision, &[7; VALUE]);
            revision += keys.len() as u64;
        }
    }
    revision
}

/// Lists and gets with two versions of each of 10,000 keys.
fn reads(settings: &Settings, report: &mut Report) {
    let metrics = [("list all", "keys/s", true), ("list pages of 500", "keys/s", true), ("get", "gets/s", true)];
    compare(settings, report, "reads, 10,000 keys of 1 KiB", &metrics, |engine, _| {
        fill(&*engine, 2);
        let timed = |work: &dyn Fn() -> usize| {
            let (begin, mut done) = (Instant::now(), 0);
            while begin.elapsed().as_secs_f64() < settings.seconds / 3.0 {
                done += work();
            }
            done as f64 / begin.elapsed().as_secs_f64()
        };
        let list = timed(&|| engine.range(b"/registry/pods/", usize::MAX).0);
        let pages = timed(&|| {
            let (mut from, mut all) = (b"/registry/pods/".to_vec(), 0);
            loop {
                let (count, last) = engine.range(&from, 500);
                all += count;
                if count < 500 {
                    return all;
                }
                from = last;
                from.push(0);
            }
        });
        let get = timed(&|| {
            for i in 0..1000 {
                assert!(engine.get(&key(i * 7919 % KEYS)));
            }
            1000
        });
        vec![list, pages, get]
    });
}

/// Bytes on disk after each of 10,000 keys was overwritten 20 times and history was compacted away now and then.
fn churn(settings: &Settings, report: &mut Report) {
    let metrics = [("on disk per live byte", "x", false), ("time", "s", false)];
    compare(settings, report, "churn, 20 overwrites with compaction", &metrics, |engine, dir| {
        let begin = Instant::now();
        let mut revision = 1;
        for _ in 0..20 {
            let before = revision;
            for chunk in (0..KEYS).collect::<Vec<_>>().chunks(500) {
                let keys: Vec<_> = chunk.iter().map(|i| key(*i)).collect();
                engine.commit(&keys, revision, &[7; VALUE]);
                revision += keys.len() as u64;
            }
            if before > 1 {
                // Versions of the round before the one just written.
                let first = before - KEYS as u64;
                for step in (0..KEYS).collect::<Vec<_>>().chunks(500) {
                    let doomed: Vec<_> = step.iter().map(|i| (key(*i), first + *i as u64)).collect();
                    engine.remove(&doomed);
                }
            }
        }
        let time = begin.elapsed().as_secs_f64();
        vec![disk_bytes(dir) as f64 / (KEYS * (VALUE + 45)) as f64, time]
    });
}

fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).expect("reading the bench's directory").flatten();
    entries
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => disk_bytes(&e.path()),
            Ok(m) => m.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Memory of a process that holds a store of 10,000 keys and rests.
fn resident(settings: &Settings, report: &mut Report) {
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..settings.runs {
        for (figure, engine) in figures.iter_mut().zip(["redb", "fjall"]) {
            let dir = tempfile::tempdir_in(&settings.dir).expect("a directory for the bench");
            let out = std::process::Command::new(std::env::current_exe().expect("this program"))
                .args(["--resident", engine])
                .arg(dir.path())
                .output()
                .expect("running this program again");
            let text = String::from_utf8_lossy(&out.stdout);
            figure.push(text.trim().parse().expect("a number of MiB"));
        }
    }
    let [ours, theirs] = figures;
    report.add(Row::compared("resident memory, 10,000 keys, at rest", "VmRSS", "MiB", false, "fjall 3", ours, theirs));
}

fn resident_child(engine: &str, dir: &Path) {
    let engine: Box<dyn Engine> = if engine == "redb" { Box::new(Redb::open(dir)) } else { Box::new(Fjall::open(dir)) };
    fill(&*engine, 2);
    engine.range(b"/registry/pods/", usize::MAX);
    std::thread::sleep(Duration::from_millis(500));
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("KiB");
    println!("{}", kib / 1024.0);
}

/// The embedded store as it ships: compare-and-swap, events, history, and the commits its writes share.
fn embedded(settings: &Settings, report: &mut Report) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    for clients in [1usize, 32] {
        let (mut throughputs, mut p50s, mut p99s, mut shared) = (vec![], vec![], vec![], vec![]);
        for _ in 0..settings.runs {
            let dir = tempfile::tempdir_in(&settings.dir).expect("a directory for the bench");
            let store = Arc::new(Embedded::open(dir.path(), Options::default()).expect("opening the store"));
            let (mut latencies, elapsed) = runtime.block_on(drive(store.clone(), clients, settings.seconds));
            let status = runtime.block_on(store.status()).expect("status");
            runtime.block_on(store.close()).expect("closing");
            throughputs.push(latencies.len() as f64 / elapsed);
            let [p50, p99] = percentiles(&mut latencies);
            p50s.push(p50);
            p99s.push(p99);
            shared.push(status.transactions as f64 / status.commits.max(1) as f64);
        }
        let case = format!("embedded store, 1 KiB creates, {clients} at once");
        report.add(Row::alone(&case, "throughput", "writes/s", true, throughputs));
        report.add(Row::alone(&case, "p50", "us", false, p50s));
        report.add(Row::alone(&case, "p99", "us", false, p99s));
        report.add(Row::alone(&case, "transactions a commit", "x", true, shared));
    }
    let mut lists = Vec::new();
    for _ in 0..settings.runs {
        let dir = tempfile::tempdir_in(&settings.dir).expect("a directory for the bench");
        let store = Arc::new(Embedded::open(dir.path(), Options::default()).expect("opening the store"));
        lists.push(runtime.block_on(async {
            for chunk in (0..KEYS).collect::<Vec<_>>().chunks(500) {
                let creates = chunk.iter().map(|i| store.txn(Txn::create(key(*i), vec![7; VALUE], None)));
                futures::future::try_join_all(creates).await.expect("filling");
            }
            let (begin, mut done) = (Instant::now(), 0);
            while begin.elapsed().as_secs_f64() < settings.seconds / 3.0 {
                done += store.range(RangeRequest::prefix("/registry/pods/")).await.expect("listing").kvs.len();
            }
            done as f64 / begin.elapsed().as_secs_f64()
        }));
    }
    report.add(Row::alone("embedded store, list of 10,000 keys of 1 KiB", "list all", "keys/s", true, lists));
}

async fn drive(store: Arc<Embedded>, clients: usize, seconds: f64) -> (Vec<Duration>, f64) {
    let begin = Instant::now();
    let number = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let (store, number) = (store.clone(), number.clone());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while begin.elapsed().as_secs_f64() < seconds {
                    let at = Instant::now();
                    let i = number.fetch_add(1, Ordering::Relaxed) as usize;
                    store.txn(Txn::create(key(i), vec![7; VALUE], None)).await.expect("a create");
                    latencies.push(at.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("a client"));
    }
    (latencies, begin.elapsed().as_secs_f64())
}

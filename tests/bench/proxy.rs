//! What a connection costs through a ClusterIP: by our socket hooks and by our packet path, beside dialling the Pod, and
//! beside kube-proxy's rules, at 1 to 30,000 Services of four endpoints.
//!
//! Four labs, each with a client and a server Pod on one node: plain routing, ours, nftables, iptables. Blocks of all
//! targets follow one another, in an order that rotates, so that the machine's moods hit everybody.

use strake_tests::lab::Helper;

use crate::Scale;
use crate::report::{Report, Samples, print_head, print_row};
use crate::rooms::{Dialler, Room, VIP};

const REFERENCE: &str = "direct (plain routing)";
const SOCKET: &str = "Strake, socket hooks";
const PACKET: &str = "Strake, packet path";

/// What is timed.
#[derive(Clone, Copy)]
struct Measure {
    /// As the worker knows it.
    name: &'static str,
    what: &'static str,
    /// Samples in a block, as a part of what [`Scale`] says.
    part: f64,
}

const MEASURES: [Measure; 4] = [
    Measure { name: "crr", what: "connect, one byte each way, close", part: 1.0 },
    Measure { name: "connect", what: "connect() alone: the first packet and its answer", part: 1.0 },
    Measure { name: "rr", what: "one byte each way on an open connection", part: 3.0 },
    Measure { name: "stream", what: "4 MiB and their acknowledgement on an open connection", part: 0.03 },
];

struct Target {
    name: &'static str,
    client: Helper,
    address: String,
    samples: Samples,
}

impl Target {
    fn measure(&mut self, measure: &str, count: usize) {
        self.samples.measure(&mut self.client, &format!("{} {count} {measure}", self.address));
    }
}

pub fn run(scale: Scale, arguments: &[&str]) -> i32 {
    let counts = match sizes(arguments) {
        Ok(counts) => counts,
        Err(word) => {
            eprintln!("{word} is no number of Services from 1 to 30000");
            return 2;
        }
    };
    let measures = value(arguments, "--measures");
    let wanted = |name: &str| measures.is_none_or(|list| list.split(',').any(|word| word == name));
    let mut report = Report::default();
    let mut failed = 0;
    for count in counts {
        let plain = Room::plain();
        let ours = Room::ours(count);
        let (nft, iptables) = (Room::nftables(count), Room::iptables(count));
        for measure in MEASURES.into_iter().filter(|measure| wanted(measure.name)) {
            let mut targets = targets(&plain, &ours, nft.as_ref(), iptables.as_ref());
            alternate(&mut targets, measure, scale);
            failed += show(&targets, count, measure, &mut report);
        }
        if wanted("mix") {
            failed += mixed(&plain, &ours, nft.as_ref(), count, scale, &mut report);
        }
    }
    report.write("proxy").unwrap();
    if failed > 0 {
        eprintln!("{failed} connections through Strake failed");
    }
    i32::from(failed > 0)
}

/// The word after a flag.
fn value<'a>(arguments: &[&'a str], flag: &str) -> Option<&'a str> {
    arguments.iter().position(|word| *word == flag).and_then(|at| arguments.get(at + 1)).copied()
}

/// `--services 1,1000`.
fn sizes<'a>(arguments: &[&'a str]) -> Result<Vec<usize>, &'a str> {
    let Some(given) = value(arguments, "--services") else { return Ok(vec![1, 1000, 10_000, 30_000]) };
    let size = |word: &'a str| word.parse().ok().filter(|size| (1..=30_000).contains(size)).ok_or(word);
    given.split(',').map(size).collect()
}

fn targets(plain: &Room, ours: &Room, nft: Option<&Room>, iptables: Option<&Room>) -> Vec<Target> {
    let vip = format!("{VIP}:80");
    let mut list = vec![
        (REFERENCE, plain, Dialler::Client, plain.direct()),
        ("direct (through Strake)", ours, Dialler::Client, ours.direct()),
        (SOCKET, ours, Dialler::Client, vip.clone()),
        (PACKET, ours, Dialler::Plain, vip.clone()),
    ];
    list.extend(nft.map(|room| ("nftables", room, Dialler::Client, vip.clone())));
    list.extend(nft.map(|room| ("direct (beside nftables)", room, Dialler::Client, room.direct())));
    list.extend(iptables.map(|room| ("iptables", room, Dialler::Client, vip.clone())));
    list.into_iter()
        .map(|(name, room, dialler, address)| Target {
            name,
            client: room.client(dialler),
            address,
            samples: Samples::default(),
        })
        .collect()
}

fn alternate(targets: &mut [Target], measure: Measure, scale: Scale) {
    let block = ((scale.block as f64 * measure.part) as usize).max(1);
    // One block each to warm up, not counted.
    for target in &mut *targets {
        target.measure(measure.name, block);
        target.samples = Samples::default();
    }
    let length = targets.len();
    for round in 0..scale.rounds {
        for step in 0..length {
            targets[(round + step) % length].measure(measure.name, block);
        }
    }
}

/// Prints and reports; returns how many of ours failed.
fn show(targets: &[Target], count: usize, measure: Measure, report: &mut Report) -> u64 {
    let of = |name: &str| targets.iter().find(|target| target.name == name).map(|target| &target.samples);
    let reference = of(REFERENCE).unwrap();
    print_head(&format!("{count} Services: {}", measure.what), "direct");
    targets.iter().for_each(|target| print_row(target.name, &target.samples, reference));
    let mut failed = 0;
    for ours in [SOCKET, PACKET] {
        let samples = of(ours).unwrap();
        failed += samples.failed;
        let case = format!("{} at {count} Services: {ours}", measure.name);
        for peer in [REFERENCE, "direct (through Strake)", "nftables", "iptables"] {
            if let Some(theirs) = of(peer) {
                report.compare(&case, samples, Some((peer, theirs)));
            }
        }
    }
    failed
}

/// One client that dials the VIP and the Pod in turn, over and over the same ports: who translates must not mistake one
/// connection for another. Returns how many of ours failed.
fn mixed(plain: &Room, ours: &Room, nft: Option<&Room>, count: usize, scale: Scale, report: &mut Report) -> u64 {
    let mut targets = targets(plain, ours, nft, None);
    targets.retain(|target| [REFERENCE, SOCKET, PACKET, "nftables"].contains(&target.name));
    for target in &mut targets {
        // The reference has no VIP.
        let pod = if target.name == REFERENCE { &target.address } else { &ours.direct() };
        let pod = if target.name == "nftables" { nft.map_or_else(String::new, Room::direct) } else { pod.clone() };
        for _ in 0..20 {
            let order = format!("{} {} mix {pod}", target.address, scale.mixed / 20);
            target.samples.measure(&mut target.client, &order);
        }
    }
    let reference = &targets[0].samples;
    print_head(&format!("{count} Services: {} connections to the VIP and the Pod in turn", scale.mixed), "direct");
    targets.iter().for_each(|target| print_row(target.name, &target.samples, reference));
    let mut failed = 0;
    for target in targets.iter().filter(|target| [SOCKET, PACKET].contains(&target.name)) {
        failed += target.samples.failed;
        let case = format!("mix at {count} Services: {}", target.name);
        report.compare(&case, &target.samples, Some((REFERENCE, reference)));
    }
    failed
}

//! What each hook costs: nanoseconds of one run.
//!
//! - `BPF_PROG_TEST_RUN` of the packet hooks, one packet a call (a packet that was translated once is another packet), on
//!   tables of 30,000 Services of four endpoints, beside a program that does nothing. Each call starts as cold as a system
//!   call leaves the caches.
//! - In traffic, by the kernel's own statistics (which add about 20 ns a run): all hooks, those of the sockets too, which
//!   `BPF_PROG_TEST_RUN` does not take.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use strake_abi::program::XDP_LB;
use strake_abi::service::{
    BACKEND_LOCAL, Backend, SCOPE_EXTERNAL, SERVICE_NODE_PORT, Service, ServiceKey, ServiceKey6,
};
use strake_abi::{Addr4, Addr6, Port, proto};
use strake_tests::bare::{Bare, Kind};
use strake_tests::harness::{
    ACK, End, Kernel, LOCAL, NODE, OTHER_NODE, OUTSIDE, PASS, POD, REDIRECT, REMOTE, SYN, VIP, XDP_PASS, XDP_TX,
    backend, frontend, seen, tcp, udp,
};
use strake_tests::six_harness::{NODE6, OUTSIDE6, POD6, REMOTE6, VIP6, back, front, seen6, tcp6};
use strake_tests::uplink::Uplink;

use crate::report::{Report, Samples, median, spread};
use crate::rooms::{Dialler, Room, VIP as DIALLED};
use crate::{Scale, driver};

const SERVICES_COUNT: u32 = 30_000;
const ENDPOINTS: u32 = 4;
const NODE_PORT: u16 = 30_080;
/// Room for the backends of all Services, and for the connections that are opened.
const ROWS: u32 = 1 << 18;

/// A packet hook and what it meets.
struct Case {
    what: &'static str,
    program: &'static str,
    verdict: u32,
    /// The frame of each run, by its number.
    frame: Box<dyn Fn(u32) -> Vec<u8>>,
}

pub fn run(scale: Scale) -> i32 {
    let mut report = Report::default();
    let result = test_runs(scale, &mut report).and_then(|()| traffic(scale, &mut report));
    if let Err(error) = result {
        eprintln!("{error:#}");
        return 1;
    }
    report.write("hooks").unwrap();
    0
}

fn test_runs(scale: Scale, report: &mut Report) -> Result<()> {
    let uplink = Uplink::enter()?;
    let mut kernel = Kernel::sized(1, ROWS)?;
    kernel.configure(|config| config.uplink_ifindex = uplink.ifindex)?;
    fill(&mut kernel)?;
    let cases = cases(&mut kernel)?;
    let [classifier, driver] = [Kind::Classifier, Kind::Xdp].map(Bare::load);
    let (classifier, driver) =
        (classifier.context("loading the bare classifier")?, driver.context("loading the bare XDP program")?);
    println!("\nBPF_PROG_TEST_RUN, ns a packet, at {SERVICES_COUNT} Services of {ENDPOINTS} endpoints");
    println!("  {:<10} {:<52} {:>7} {:>7} {:>8} {:>9}", "", "", "p50", "p99", "spread", "bare p50");
    let mut number = 0;
    for case in cases {
        let (bare, bare_name) =
            if case.program == XDP_LB { (&driver, "bare XDP_TX") } else { (&classifier, "bare TC_ACT_OK") };
        let (mut ours, mut nothing) = (Samples::default(), Samples::default());
        for round in 0..=scale.rounds {
            let (mut times, mut bare_times) = (Vec::new(), Vec::new());
            for _ in 0..scale.block {
                let frame = (case.frame)(number);
                number += 1;
                let out = kernel.run(case.program, &frame)?;
                ensure!(out.verdict == case.verdict, "{}, {}: verdict {}", case.program, case.what, out.verdict);
                times.push(out.duration);
                bare_times.push(bare.run(&frame)?);
            }
            // The reader keeps up, as the agent does; the first round warms up.
            kernel.events()?;
            if round > 0 {
                ours.block(times);
                nothing.block(bare_times);
            }
        }
        let nanoseconds = |samples: &Samples, quantile| median(&samples.quantiles(quantile)) * 1000.0;
        println!(
            "  {:<10} {:<52} {:>7.0} {:>7.0} {:>6.1} % {:>9.0}",
            case.program,
            case.what,
            nanoseconds(&ours, 0.5),
            nanoseconds(&ours, 0.99),
            spread(&ours.quantiles(0.5)) * 100.0,
            nanoseconds(&nothing, 0.5),
        );
        report.compare(&format!("{}: {}", case.program, case.what), &ours, Some((bare_name, &nothing)));
    }
    driver::back_to_back(&mut kernel, NODE_PORT, scale, report)
}

/// The address of the Service with a number.
fn vip(number: u32) -> [u8; 4] {
    (u32::from_be_bytes([10, 97, 0, 0]) + number).to_be_bytes()
}

/// 30,000 Services of four endpoints of other nodes, and one NodePort.
fn fill(kernel: &mut Kernel) -> Result<()> {
    for number in 0..SERVICES_COUNT {
        let base = number * ENDPOINTS;
        let id = number + 1;
        let backends: Vec<_> =
            (0..ENDPOINTS).map(|i| backend([10, 244, 1, 7 + i as u8], 8080, 0, base + i + 1)).collect();
        let service = Service { id, backend_base: base, ..Service::default() };
        kernel.service(frontend(vip(number), 80, proto::TCP), service, &backends)?;
    }
    // The ones that are asked by one address over and over, and those of IPv6, have the endpoints behind the others.
    let base = SERVICES_COUNT * ENDPOINTS;
    let service = Service { id: SERVICES_COUNT + 1, backend_base: base, ..Service::default() };
    kernel.service(frontend(VIP, 80, proto::TCP), service, &[backend(REMOTE, 8080, 0, base + 1)])?;
    let service = Service { id: SERVICES_COUNT + 2, backend_base: base + 1, ..Service::default() };
    kernel.service6(front(VIP6, 80, proto::TCP, 0), service, &[back(REMOTE6, 8080, 0, base + 2)])?;
    for (id, base, port, backends) in [
        (SERVICES_COUNT + 3, base + 2, NODE_PORT, [backend(REMOTE, 8080, 0, base + 3)]),
        (SERVICES_COUNT + 4, base + 3, NODE_PORT + 1, [backend(LOCAL, 8080, BACKEND_LOCAL, base + 4)]),
    ] {
        node_port(kernel, id, base, port, &backends)?;
    }
    // Each backend has 4,536 ports of the node, fewer than there are runs.
    let backends: Vec<_> = (1..=16).map(|i| backend([10, 244, 1, 100 + i], 8080, 0, base + 6 + u32::from(i))).collect();
    node_port(kernel, SERVICES_COUNT + 6, base + 6, NODE_PORT + 2, &backends)?;
    let service =
        Service { id: SERVICES_COUNT + 5, backend_base: base + 4, flags: SERVICE_NODE_PORT, ..Service::default() };
    for scope in [0, SCOPE_EXTERNAL] {
        let key = ServiceKey6 { addr: Addr6::ANY, port: Port::new(NODE_PORT), proto: proto::TCP, scope };
        kernel.service6(key, service, &[back(REMOTE6, 8080, 0, base + 5)])?;
    }
    Ok(())
}

fn node_port(kernel: &mut Kernel, id: u32, base: u32, port: u16, backends: &[Backend]) -> Result<()> {
    let service = Service { id, backend_base: base, flags: SERVICE_NODE_PORT, ..Service::default() };
    for scope in [0, SCOPE_EXTERNAL] {
        let key = ServiceKey { addr: Addr4::ANY, scope, ..frontend(NODE, port, proto::TCP) };
        kernel.service(key, service, backends)?;
    }
    Ok(())
}

/// A port of a client's that no run before had, for 60,000 runs.
fn port(number: u32) -> u16 {
    2000 + (number % 60_000) as u16
}

fn cases(kernel: &mut Kernel) -> Result<Vec<Case>> {
    let client: End = (POD, 1000);
    // The flows that are known.
    let opened =
        |kernel: &mut Kernel, program: &str, frame: Vec<u8>| Ok::<_, anyhow::Error>(kernel.run(program, &frame)?.frame);
    opened(kernel, "from_pod", tcp(client, (REMOTE, 8080), SYN, &[]))?;
    opened(kernel, "from_pod", tcp((POD, 1001), (VIP, 80), SYN, &[]))?;
    opened(kernel, "from_pod", tcp6((POD6, 1001), (VIP6, 80), SYN, &[]))?;
    let outside: End = (OUTSIDE, 1000);
    let forwarded = seen(&opened(kernel, "from_net", tcp(outside, (NODE, NODE_PORT), SYN, &[]))?);
    let forwarded6 = seen6(&opened(kernel, "from_net", tcp6((OUTSIDE6, 1000), (NODE6, NODE_PORT), SYN, &[]))?);
    opened(kernel, "from_net", tcp(outside, (NODE, NODE_PORT + 1), SYN, &[]))?;
    opened(kernel, "to_net", tcp((POD, 1002), (OUTSIDE, 443), SYN, &[]))?;

    let case = |program, what, verdict, frame: Box<dyn Fn(u32) -> Vec<u8>>| Case { what, program, verdict, frame };
    let fixed = |frame: Vec<u8>| -> Box<dyn Fn(u32) -> Vec<u8>> { Box::new(move |_| frame.clone()) };
    let new = |number: u32| -> End { (POD, port(number)) };
    Ok(vec![
        case("from_pod", "to a Pod, a known flow", PASS, fixed(tcp(client, (REMOTE, 8080), ACK, b"x"))),
        case("from_pod", "to a Pod, a new flow", PASS, Box::new(move |n| tcp(new(n), (REMOTE, 8080), SYN, &[]))),
        case("from_pod", "to a ClusterIP, a known flow", PASS, fixed(tcp((POD, 1001), (VIP, 80), ACK, b"x"))),
        case("from_pod", "to one of 30,000 ClusterIPs, a new flow", PASS, {
            // Neighbours in the tables are not asked one after the other.
            Box::new(move |n| tcp(new(n), (vip(n.wrapping_mul(7919) % SERVICES_COUNT), 80), SYN, &[]))
        }),
        case(
            "from_pod",
            "to a ClusterIP of IPv6, a known flow",
            PASS,
            fixed(tcp6((POD6, 1001), (VIP6, 80), ACK, b"x")),
        ),
        case("from_pod", "to a ClusterIP of IPv6, a new flow", PASS, {
            Box::new(|n| tcp6((POD6, port(n)), (VIP6, 80), SYN, &[]))
        }),
        case("from_pod", "a UDP datagram to a Pod, a new flow", PASS, {
            Box::new(move |n| udp(new(n), (REMOTE, 5353), b"question"))
        }),
        case("to_pod", "from a Pod, a known flow", PASS, fixed(tcp((REMOTE, 8080), client, ACK, b"x"))),
        case("to_pod", "back from a ClusterIP", PASS, fixed(tcp((REMOTE, 8080), (POD, 1001), ACK, b"x"))),
        case("to_pod", "back from a ClusterIP of IPv6", PASS, fixed(tcp6((REMOTE6, 8080), (POD6, 1001), ACK, b"x"))),
        case("from_net", "to the node itself", PASS, fixed(tcp(outside, (NODE, 22), ACK, b"x"))),
        case("from_net", "to a NodePort, backend here, a known flow", PASS, {
            fixed(tcp(outside, (NODE, NODE_PORT + 1), ACK, b"x"))
        }),
        case("from_net", "to a NodePort, backend elsewhere, a known flow", REDIRECT, {
            fixed(tcp(outside, (NODE, NODE_PORT), ACK, b"x"))
        }),
        case("from_net", "to a NodePort, backend elsewhere, a new flow", REDIRECT, {
            Box::new(|n| tcp((OUTSIDE, port(n)), (NODE, NODE_PORT + 2), SYN, &[]))
        }),
        case("from_net", "back from a backend elsewhere", REDIRECT, {
            fixed(tcp((REMOTE, 8080), forwarded.src, SYN | ACK, &[]))
        }),
        case("from_net", "back from a backend elsewhere, IPv6", REDIRECT, {
            fixed(tcp6((REMOTE6, 8080), forwarded6.src, SYN | ACK, &[]))
        }),
        case(XDP_LB, "to the node itself", XDP_PASS, fixed(tcp(outside, (NODE, 22), ACK, b"x"))),
        case(XDP_LB, "to a NodePort, backend elsewhere, a known flow", XDP_TX, {
            fixed(tcp(outside, (NODE, NODE_PORT), ACK, b"x"))
        }),
        case(XDP_LB, "to a NodePort, backend elsewhere, a new flow", XDP_TX, {
            Box::new(|n| tcp((OUTSIDE, port(n)), (NODE, NODE_PORT + 2), SYN, &[]))
        }),
        case(XDP_LB, "back from a backend elsewhere", XDP_TX, {
            fixed(tcp((REMOTE, 8080), forwarded.src, SYN | ACK, &[]))
        }),
        case(XDP_LB, "back from a backend elsewhere, IPv6", XDP_TX, {
            fixed(tcp6((REMOTE6, 8080), forwarded6.src, SYN | ACK, &[]))
        }),
        case("to_net", "the node's own", PASS, fixed(tcp((NODE, 40_000), (OTHER_NODE, 10_250), ACK, b"x"))),
        case("to_net", "out as the node, a known flow", PASS, fixed(tcp((POD, 1002), (OUTSIDE, 443), ACK, b"x"))),
        case("to_net", "out as the node, a new flow", PASS, {
            // Each server has 4,536 ports of the node.
            Box::new(move |n| tcp(new(n), (OUTSIDE, 443 + (n % 16) as u16), SYN, &[]))
        }),
    ])
}

/// Runs and their time, by program.
type Counts = BTreeMap<String, (u64, Duration)>;

/// Of the programs that were not there before.
fn counts(before: &[u32]) -> Result<Counts> {
    let mut counts = Counts::new();
    for info in loaded_programs() {
        // A program may go while the list is read.
        let Ok(info) = info else { continue };
        if before.contains(&info.id()) {
            continue;
        }
        let (Some(name), runs) = (info.name_as_str(), info.run_count()) else { continue };
        let count = counts.entry(name.to_owned()).or_default();
        *count = (count.0 + runs, count.1 + info.run_time());
    }
    Ok(counts)
}

fn traffic(scale: Scale, report: &mut Report) -> Result<()> {
    let before: Vec<u32> = loaded_programs().flatten().map(|info| info.id()).collect();
    let room = Room::ours(SERVICES_COUNT as usize);
    let _stats = enable_stats(Stats::RunTime).context("turning on the kernel's BPF statistics")?;
    println!("\nIn traffic, ns a run by the kernel's statistics (about 20 of them are theirs)");
    println!("  {:<16} {:<44} {:>9} {:>9}", "", "", "runs", "mean");
    for (what, dialler, measure) in [
        ("connections through the socket hooks", Dialler::Client, "crr"),
        ("connections through the packet path", Dialler::Plain, "crr"),
        ("one byte each way through the packet path", Dialler::Plain, "rr"),
        ("a stream through the packet path", Dialler::Plain, "stream"),
    ] {
        let mut client = room.client(dialler);
        let order = format!("{DIALLED}:80 {} {measure}", if measure == "stream" { 20 } else { scale.block * 10 });
        // The first warms up.
        client.ask(&order);
        let start = counts(&before)?;
        client.ask(&order);
        for (name, (runs, time)) in counts(&before)? {
            let (earlier, spent) = start.get(&name).copied().unwrap_or_default();
            let runs = runs.saturating_sub(earlier);
            // What ran now and then has nothing to do with these connections.
            if runs < scale.block as u64 {
                continue;
            }
            let mean = time.saturating_sub(spent).as_nanos() as f64 / runs as f64;
            println!("  {name:<16} {what:<44} {runs:>9} {mean:>9.0}");
            report.figure(&format!("{name}: {what}"), "ns a run", mean);
        }
    }
    Ok(())
}

//! What packets cost that come one after the other, with warm caches: nanoseconds each, and packets a second of one core.
//!
//! A packet that was sent on is another packet. Here the flow that it belongs to then leads back to the first one, so that
//! one call of `BPF_PROG_TEST_RUN` has it sent on as often as its TTL lets it:
//!
//! ```text
//!   client -> front ──► node -> backend ──► client -> front ──► ...
//! ```
//!
//! Each run reads the packet, finds its row, asks the routing table, and rewrites addresses, ports and checksums.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use strake_abi::conntrack::{CONNTRACK, CONNTRACK_V6, Conntrack, ConntrackKey, Tuple};
use strake_abi::program::XDP_LB;
use strake_abi::{Addr4, Addr6};
use strake_tests::bare::{Bare, Kind};
use strake_tests::harness::{ACK, Kernel, NODE, OTHER_NODE, OUTSIDE, POD_MAC, SYN, XDP_TX, seen, tcp};
use strake_tests::six_harness::{NODE6, OTHER_NODE6, OUTSIDE6, seen6, tcp6};
use strake_tests::uplink::{ip, mac};

use crate::Scale;
use crate::report::{Report, Samples, median, spread};

/// Runs of a call: even, and fewer than the hops that a packet has left.
const RUNS: u32 = 60;

/// Addresses of a LoadBalancer (RFC 5737, RFC 3849).
const FRONT: [u8; 4] = [203, 0, 113, 80];
const FRONT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x80);

/// In a network whose uplink the calling thread is in.
pub fn back_to_back(kernel: &mut Kernel, node_port: u16, scale: Scale, report: &mut Report) -> Result<()> {
    // What is sent on is for this machine again.
    for hop in [Ipv4Addr::from(OTHER_NODE).to_string(), OTHER_NODE6.to_string()] {
        ip(&format!("neigh replace {hop} lladdr {} dev up0 nud permanent", mac(POD_MAC)))?;
    }
    let (client, front) = ((OUTSIDE, 1500), (NODE, node_port));
    let (client6, front6) = ((OUTSIDE6, 1500), (NODE6, node_port));
    let opened = kernel.run(XDP_LB, &tcp(client, front, SYN, &[]))?;
    ensure!(opened.verdict == XDP_TX, "opening a flow: verdict {}", opened.verdict);
    let opened6 = kernel.run(XDP_LB, &tcp6(client6, front6, SYN, &[]))?;
    ensure!(opened6.verdict == XDP_TX, "opening a flow of IPv6: verdict {}", opened6.verdict);
    lead_back(kernel)?;
    ensure!(seen(&opened.frame).src.0 == NODE && seen6(&opened6.frame).src.0 == NODE6, "opened as somebody else");

    let bare = Bare::load(Kind::Xdp).context("loading the bare program")?;
    println!("\nXDP, NodePort towards another node, {RUNS} packets of a known flow one after the other");
    println!(
        "  {:<6} {:>11} {:>8} {:>12} {:>14} {:>10}",
        "", "ns a packet", "spread", "Mpps a core", "bare XDP_TX ns", "ratio"
    );
    for (what, frame) in
        [("IPv4", tcp(client, (FRONT, node_port), ACK, b"x")), ("IPv6", tcp6(client6, (FRONT6, node_port), ACK, b"x"))]
    {
        let (mut ours, mut nothing) = (Samples::default(), Samples::default());
        for round in 0..=scale.rounds {
            let (mut times, mut bare_times) = (Vec::new(), Vec::new());
            for _ in 0..scale.block {
                let out = kernel.repeat(XDP_LB, &frame, RUNS)?;
                let hops = if what == "IPv4" { seen(&out.frame).ttl } else { seen6(&out.frame).hops };
                ensure!(
                    out.verdict == XDP_TX && hops == 64 - RUNS as u8,
                    "{what}: verdict {}, TTL {hops}",
                    out.verdict
                );
                times.push(out.duration);
                bare_times.push(bare.repeat(&frame, RUNS)?);
            }
            if round > 0 {
                ours.block(times);
                nothing.block(bare_times);
            }
        }
        let nanoseconds = |samples: &Samples| median(&samples.quantiles(0.5)) * 1000.0;
        let (ns, bare_ns) = (nanoseconds(&ours), nanoseconds(&nothing));
        println!(
            "  {what:<6} {ns:>11.0} {:>6.1} % {:>12.2} {bare_ns:>14.0} {:>10.2}",
            spread(&ours.quantiles(0.5)) * 100.0,
            1000.0 / ns,
            bare_ns / ns,
        );
        let name = format!("xdp_lb back to back, {what}");
        report.figure(&name, "Mpps a core", 1000.0 / ns);
        report.compare(&name, &ours, Some(("bare XDP_TX", &nothing)));
    }
    Ok(())
}

/// Gives each flow that was opened to the node's address one like it, to an address that is no machine's (as a LoadBalancer
/// has: the routing sends nothing to itself), and a row that leads back from where that one leads.
fn lead_back(kernel: &mut Kernel) -> Result<()> {
    for (key, row) in kernel.conntrack()?.into_iter().filter(|(key, _)| key.tuple.dst == Addr4::new(NODE)) {
        let there = ConntrackKey { tuple: Tuple { dst: Addr4::new(FRONT), ..key.tuple }, ..key };
        kernel.insert(CONNTRACK, there, row)?;
        let back = ConntrackKey { tuple: row.to, ..key };
        kernel.insert(CONNTRACK, back, Conntrack { to: there.tuple, ..row })?;
    }
    for (key, row) in kernel.conntrack6()?.into_iter().filter(|(key, _)| key.tuple.dst == Addr6::from(NODE6)) {
        let there = ConntrackKey { tuple: Tuple { dst: Addr6::from(FRONT6), ..key.tuple }, ..key };
        kernel.insert(CONNTRACK_V6, there, row)?;
        let back = ConntrackKey { tuple: row.to, ..key };
        kernel.insert(CONNTRACK_V6, back, Conntrack { to: there.tuple, ..row })?;
    }
    Ok(())
}

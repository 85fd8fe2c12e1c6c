//! `loadBalancerSourceRanges`, by packets: who may open a connection, and what becomes of those who may not.

use anyhow::Result;
use strake_abi::flow::{DropReason, EventKind, Verdict};
use strake_abi::service::{BACKEND_LOCAL, SCOPE_EXTERNAL, SERVICE_DROP_IF_EMPTY, Service, ServiceKey};
use strake_abi::{Addr4, Port, proto};

use crate::harness::*;

const LB: [u8; 4] = [198, 51, 100, 77];
const FRONT: End = (LB, 80);
/// Its list of ranges.
const LIST: u32 = 77;

/// A LoadBalancer IP in both scopes, restricted, and the ClusterIP and an external IP of the same Service, which are not.
fn restricted(ranges: &[([u8; 4], u8)], protocol: u8) -> Result<Kernel> {
    let mut kernel = Kernel::new()?;
    let backends = [backend(LOCAL, 8080, BACKEND_LOCAL, 1)];
    let service = Service { id: 12, backend_base: 40, ..Service::default() };
    for (addr, source_list) in [(LB, LIST), (VIP, 0), (VIP2, 0)] {
        for scope in [0, SCOPE_EXTERNAL] {
            let key = ServiceKey { scope, ..frontend(addr, 80, protocol) };
            kernel.service(key, Service { source_list, ..service }, &backends)?;
        }
    }
    for (addr, prefix) in ranges {
        kernel.admit(LIST, *addr, *prefix)?;
    }
    Ok(kernel)
}

fn open(kernel: &mut Kernel, client: [u8; 4], to: [u8; 4]) -> Result<Out> {
    let program = if client == POD { "from_pod" } else { "from_net" };
    kernel.run(program, &tcp((client, 50000), (to, 80), SYN, &[]))
}

#[test]
fn a_client_outside_of_the_ranges_is_dropped_and_one_inside_is_served() -> Result<()> {
    let ranges = [([203, 0, 113, 0], 24), ([192, 168, 7, 7], 32), ([10, 244, 0, 4], 31)];
    let mut kernel = restricted(&ranges, proto::TCP)?;
    for client in [OUTSIDE, [203, 0, 113, 255], [192, 168, 7, 7], POD] {
        let out = open(&mut kernel, client, LB)?;
        assert_eq!((out.verdict, seen(&out.frame).dst), (PASS, (LOCAL, 8080)), "{client:?}");
    }
    kernel.events()?;
    let rows = kernel.conntrack()?.len();
    let outsiders = [[203, 0, 112, 255], [203, 0, 114, 0], [192, 168, 7, 6], [1, 2, 3, 4]];
    for client in outsiders {
        assert_eq!(open(&mut kernel, client, LB)?.verdict, DROP, "{client:?}");
    }
    assert_eq!(kernel.dropped(DropReason::SourceNotInRanges)?, outsiders.len() as u64);
    assert_eq!(kernel.conntrack()?.len(), rows, "one who is dropped leaves nothing behind");
    let events = kernel.events()?;
    assert_eq!(events.len(), outsiders.len());
    for (event, client) in events.iter().zip(outsiders) {
        assert_eq!((event.kind, event.verdict), (EventKind::Drop as u8, Verdict::Dropped as u8));
        assert_eq!(event.reason, DropReason::SourceNotInRanges as u8);
        assert_eq!((event.src, event.dst), (Addr4::new(client).mapped(), Addr4::new(LB).mapped()));
        assert_eq!(event.dst_port, Port::new(80));
    }
    Ok(())
}

#[test]
fn a_pod_outside_of_the_ranges_is_dropped_at_its_border() -> Result<()> {
    let mut kernel = restricted(&[([203, 0, 113, 0], 24)], proto::TCP)?;
    assert_eq!(open(&mut kernel, POD, LB)?.verdict, DROP);
    assert_eq!(kernel.dropped(DropReason::SourceNotInRanges)?, 1);
    Ok(())
}

#[test]
fn what_is_not_a_load_balancer_ip_is_not_restricted() -> Result<()> {
    let mut kernel = restricted(&[([203, 0, 113, 0], 24)], proto::TCP)?;
    for (client, to) in [([1, 2, 3, 4], VIP), (POD, VIP), ([1, 2, 3, 4], VIP2), (POD, VIP2)] {
        let out = open(&mut kernel, client, to)?;
        assert_eq!((out.verdict, seen(&out.frame).dst), (PASS, (LOCAL, 8080)), "{client:?} to {to:?}");
    }
    Ok(())
}

/// Overlapping ranges admit whom any of them holds; a range on another list admits nobody here.
#[test]
fn ranges_add_up_and_belong_to_one_list() -> Result<()> {
    let ranges = [([203, 0, 113, 0], 24), ([203, 0, 0, 0], 16), ([203, 0, 113, 9], 32)];
    let mut kernel = restricted(&ranges, proto::TCP)?;
    kernel.admit(78, [1, 2, 3, 4], 32)?;
    kernel.admit(0, [1, 2, 3, 4], 32)?;
    for client in [OUTSIDE, [203, 0, 113, 10], [203, 0, 7, 7]] {
        assert_eq!(open(&mut kernel, client, LB)?.verdict, PASS, "{client:?}");
    }
    for client in [[203, 1, 113, 9], [1, 2, 3, 4]] {
        assert_eq!(open(&mut kernel, client, LB)?.verdict, DROP, "{client:?}");
    }
    Ok(())
}

/// The agent lets no such row arise (it flags none without ranges, and takes 0.0.0.0/0 for no restriction), and the
/// programs do what the words say.
#[test]
fn no_range_admits_nobody_and_the_range_of_all_everybody() -> Result<()> {
    let mut kernel = restricted(&[], proto::TCP)?;
    assert_eq!(open(&mut kernel, OUTSIDE, LB)?.verdict, DROP);
    // Ranges of the other family hold no IPv4 client, mapped or not.
    kernel.admit(LIST, std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32)?;
    assert_eq!(open(&mut kernel, OUTSIDE, LB)?.verdict, DROP);
    kernel.admit(LIST, [0, 0, 0, 0], 0)?;
    for client in [OUTSIDE, [1, 2, 3, 4], POD] {
        assert_eq!(open(&mut kernel, client, LB)?.verdict, PASS, "{client:?}");
    }
    Ok(())
}

/// A restriction is for new connections, as that of kube-proxy is.
#[test]
fn a_connection_outlives_its_range() -> Result<()> {
    let mut kernel = restricted(&[([203, 0, 113, 0], 24)], proto::TCP)?;
    let client = (OUTSIDE, 50000);
    assert_eq!(open(&mut kernel, OUTSIDE, LB)?.verdict, PASS);
    kernel.forbid(LIST, [203, 0, 113, 0], 24)?;
    let out = kernel.run("from_net", &tcp(client, FRONT, ACK, b"more"))?;
    assert_eq!((out.verdict, seen(&out.frame).dst), (PASS, (LOCAL, 8080)));
    assert_eq!(kernel.run("from_net", &tcp((OUTSIDE, 50001), FRONT, SYN, &[]))?.verdict, DROP);
    Ok(())
}

/// Whoever is not admitted learns nothing: neither that there is no endpoint, nor that a datagram's port is unknown.
#[test]
fn an_outsider_gets_no_refusal_either() -> Result<()> {
    let mut kernel = restricted(&[([203, 0, 113, 0], 24)], proto::UDP)?;
    let none = Service { id: 12, source_list: LIST, ..Service::default() };
    for (scope, flags) in [(0, 0), (SCOPE_EXTERNAL, SERVICE_DROP_IF_EMPTY)] {
        let key = ServiceKey { scope, ..frontend(LB, 80, proto::UDP) };
        kernel.service(key, Service { flags, ..none }, &[])?;
    }
    for (program, client) in [("from_net", [1, 2, 3, 4]), ("from_pod", POD)] {
        let out = kernel.run(program, &udp((client, 50000), FRONT, b"?"))?;
        assert_eq!(out.verdict, DROP, "{program}");
    }
    assert_eq!((kernel.dropped(DropReason::SourceNotInRanges)?, kernel.dropped(DropReason::NoEndpoints)?), (2, 0));
    kernel.admit(LIST, POD, 32)?;
    assert_eq!(kernel.run("from_pod", &udp((POD, 50000), FRONT, b"?"))?.verdict, REDIRECT, "port unreachable");
    assert_eq!(kernel.run("from_net", &udp((OUTSIDE, 50000), FRONT, b"?"))?.verdict, DROP, "as its policy says");
    assert_eq!(kernel.dropped(DropReason::NoEndpoints)?, 2);
    Ok(())
}

//! Maglev: what comes from outside is given the same backend by every node.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use anyhow::Result;
use strake_abi::flow::Counter;
use strake_abi::service::{
    BACKEND_LOCAL, Backend, MEMBERS, MemberKey, SCOPE_EXTERNAL, SERVICE_NODE_PORT, Service, ServiceKey,
};
use strake_abi::{Addr4, proto};

use crate::harness::*;
use crate::six_harness::{End6, NODE6, VIP6, back, front, seen6, tcp6, udp6};

const LB: [u8; 4] = [198, 51, 100, 77];
/// First row of the table: not the first of the map.
const ROW: u32 = 70;

fn pods() -> Vec<Backend> {
    (1..=5).map(|i| backend([10, 244, i, 7], 8080, 0, u32::from(i))).collect()
}

/// A node with a LoadBalancer IP and a NodePort of one Service. The order of the slice, ids, and who is local are the
/// node's own.
fn node(slice: &[Backend], affinity_timeout_s: u32, protocol: u8) -> Result<Kernel> {
    let mut kernel = Kernel::new()?;
    let service = Service { id: 12, backend_base: 40, affinity_timeout_s, ..Service::default() };
    let service = kernel.table(service, slice, ROW)?;
    let key = ServiceKey { scope: SCOPE_EXTERNAL, ..frontend(LB, 80, protocol) };
    kernel.service(key, service, slice)?;
    let key = ServiceKey { addr: Addr4::ANY, scope: SCOPE_EXTERNAL, ..frontend(LB, 30080, protocol) };
    kernel.service(key, Service { flags: SERVICE_NODE_PORT, ..service }, slice)?;
    Ok(kernel)
}

/// Another node: all that is its own is different.
fn other_node(affinity_timeout_s: u32, protocol: u8) -> Result<Kernel> {
    let mut slice = pods();
    slice.reverse();
    slice.swap(1, 3);
    for (backend, id) in slice.iter_mut().zip(70..) {
        backend.id = id;
    }
    slice[2].flags = BACKEND_LOCAL;
    node(&slice, affinity_timeout_s, protocol)
}

fn is(backend: &Backend, end: &End) -> bool {
    (backend.addr.v4(), backend.port.get()) == (Some(Addr4::new(end.0)), end.1)
}

/// The backend of each client.
fn asked(kernel: &mut Kernel, clients: &[End], to: End, protocol: u8) -> Result<BTreeMap<End, End>> {
    let mut chosen = BTreeMap::new();
    for client in clients {
        let frame = if protocol == proto::TCP { tcp(*client, to, SYN, &[]) } else { udp(*client, to, b"?") };
        chosen.insert(*client, seen(&kernel.run("from_net", &frame)?.frame).dst);
    }
    Ok(chosen)
}

fn clients() -> Vec<End> {
    (0..300_u16).map(|i| ([203, 0, (i % 7) as u8, 9], 20_000 + i)).collect()
}

#[test]
fn two_nodes_choose_the_same_backend_for_the_same_client() -> Result<()> {
    for protocol in [proto::TCP, proto::UDP] {
        let mut one = node(&pods(), 0, protocol)?;
        let first = asked(&mut one, &clients(), (LB, 80), protocol)?;
        let mut hits: BTreeMap<End, u32> = BTreeMap::new();
        first.values().for_each(|backend| *hits.entry(*backend).or_default() += 1);
        assert!(hits.len() == 5 && hits.values().all(|hits| *hits > 30), "{hits:?}");
        drop(one);
        let mut two = other_node(0, protocol)?;
        assert_eq!(asked(&mut two, &clients(), (LB, 80), protocol)?, first);
    }
    Ok(())
}

/// Each node is asked by an address of its own; the client's is the same.
#[test]
fn two_nodes_choose_the_same_backend_at_their_node_ports() -> Result<()> {
    let mut one = node(&pods(), 0, proto::TCP)?;
    let first = asked(&mut one, &clients(), (NODE, 30080), proto::TCP)?;
    drop(one);
    let mut two = other_node(0, proto::TCP)?;
    two.insert(strake_abi::endpoint::NODES, Addr4::new([192, 168, 50, 99]), strake_abi::endpoint::NODE_LOCAL)?;
    assert_eq!(asked(&mut two, &clients(), ([192, 168, 50, 99], 30080), proto::TCP)?, first);
    Ok(())
}

/// With ClientIP affinity the client's address is all that counts; the row that remembers it outlives the table.
#[test]
fn with_affinity_a_clients_connections_share_a_backend_on_every_node() -> Result<()> {
    let mut one = node(&pods(), 10_800, proto::TCP)?;
    let first = asked(&mut one, &clients(), (LB, 80), proto::TCP)?;
    for network in 0..7 {
        let of_one: Vec<_> = first.iter().filter(|(client, _)| client.0[2] == network).map(|(_, b)| b).collect();
        assert!(of_one.len() > 40 && of_one.iter().all(|backend| *backend == of_one[0]), "{network}: {of_one:?}");
    }
    assert!(first.values().any(|backend| backend != &first[&clients()[0]]));
    assert_eq!(one.counted(Counter::AffinityHit)?, 293);
    drop(one);
    let mut two = other_node(10_800, proto::TCP)?;
    // At its NodePort, too.
    assert_eq!(asked(&mut two, &clients()[..100], (NODE, 30080), proto::TCP)?, {
        first.iter().filter(|(client, _)| clients()[..100].contains(client)).map(|(c, b)| (*c, *b)).collect()
    });
    drop(two);

    let (client, slice) = (clients()[0], pods());
    let mut three = node(&slice, 10_800, proto::TCP)?;
    let before = asked(&mut three, &[client], (LB, 80), proto::TCP)?[&client];
    // The backend that the table had leaves the slice and the table, not yet the members: it terminates.
    let fewer: Vec<Backend> = slice.iter().copied().filter(|b| !is(b, &before)).collect();
    let service = Service { id: 12, backend_base: 200, affinity_timeout_s: 10_800, ..Service::default() };
    let service = three.table(service, &fewer, 300)?;
    three.service(ServiceKey { scope: SCOPE_EXTERNAL, ..frontend(LB, 80, proto::TCP) }, service, &fewer)?;
    let another = (client.0, 50_000);
    assert_eq!(asked(&mut three, &[another], (LB, 80), proto::TCP)?[&another], before);
    let gone = slice.iter().find(|b| is(b, &before)).unwrap();
    three.remove::<_, Backend>(MEMBERS, MemberKey { service_id: 12, backend_id: gone.id })?;
    let yet_another = (client.0, 50_001);
    assert_ne!(asked(&mut three, &[yet_another], (LB, 80), proto::TCP)?[&yet_another], before);
    Ok(())
}

/// A connection that was opened stays where it is; of new ones most go where those of the same client went.
#[test]
fn a_backend_that_leaves_takes_few_clients_of_others_with_it() -> Result<()> {
    let slice = pods();
    let mut kernel = node(&slice, 0, proto::TCP)?;
    let before = asked(&mut kernel, &clients(), (LB, 80), proto::TCP)?;
    let fewer = &slice[1..];
    let service = Service { id: 12, backend_base: 200, ..Service::default() };
    let service = kernel.table(service, fewer, 300)?;
    kernel.service(ServiceKey { scope: SCOPE_EXTERNAL, ..frontend(LB, 80, proto::TCP) }, service, fewer)?;
    let (client, backend) = before.iter().find(|(_, end)| is(&slice[0], end)).unwrap();
    let out = kernel.run("from_net", &tcp(*client, (LB, 80), ACK, b"x"))?;
    assert_eq!(seen(&out.frame).dst, *backend, "an open connection is not moved");
    drop(kernel);

    // A node that has no memory of them.
    let mut fresh = node(fewer, 0, proto::TCP)?;
    let after = asked(&mut fresh, &clients(), (LB, 80), proto::TCP)?;
    let others = before.iter().filter(|(_, end)| !is(&slice[0], end));
    let (total, moved) = others.fold((0, 0), |(total, moved), (c, b)| (total + 1, moved + u32::from(after[c] != *b)));
    assert!(total > 200 && moved * 20 < total, "{moved} of {total} moved");
    Ok(())
}

/// Not what the agent writes, and still no packet goes astray.
#[test]
fn a_table_that_says_nonsense_leads_to_a_backend_of_the_slice() -> Result<()> {
    let mut kernel = node(&pods()[..2], 0, proto::TCP)?;
    let row = strake_abi::service::MaglevRow { entries: [u16::MAX; 32] };
    for index in 0..40 {
        kernel.set(strake_abi::service::MAGLEV, ROW + index, row)?;
    }
    let chosen = asked(&mut kernel, &clients()[..20], (LB, 80), proto::TCP)?;
    assert!(chosen.values().all(|backend| *backend == ([10, 244, 1, 7], 8080)), "{chosen:?}");
    // One that points past the map.
    let slice = pods();
    let service =
        Service { id: 12, backend_base: 40, maglev_base: u32::MAX - 3, maglev_size: 65_521, ..Service::default() };
    kernel.service(ServiceKey { scope: SCOPE_EXTERNAL, ..frontend(LB, 81, proto::TCP) }, service, &slice)?;
    let chosen = asked(&mut kernel, &clients()[..20], (LB, 81), proto::TCP)?;
    assert!(chosen.values().all(|end| slice.iter().any(|b| is(b, end))), "{chosen:?}");
    Ok(())
}

/// A node with an IPv6 frontend and NodePort; what is each node's own is turned around on the `other`.
fn node6(other: bool, protocol: u8) -> Result<Kernel> {
    let mut slice: Vec<Backend> =
        (1..=5).map(|i| back(Ipv6Addr::new(0xfd00, 0x244, 0, 1, 0, 0, i, 7), 8080, 0, u32::from(i))).collect();
    if other {
        slice.reverse();
        slice.iter_mut().zip(70..).for_each(|(backend, id)| backend.id = id);
        slice[2].flags = BACKEND_LOCAL;
    }
    let mut kernel = Kernel::new()?;
    let service = kernel.table(Service { id: 12, backend_base: 40, ..Service::default() }, &slice, ROW)?;
    kernel.service6(front(VIP6, 80, protocol, SCOPE_EXTERNAL), service, &slice)?;
    let service = Service { flags: SERVICE_NODE_PORT, ..service };
    kernel.service6(front(Ipv6Addr::UNSPECIFIED, 30080, protocol, SCOPE_EXTERNAL), service, &slice)?;
    Ok(kernel)
}

#[test]
fn two_nodes_choose_the_same_backend_for_the_same_client_of_ipv6() -> Result<()> {
    let clients: Vec<End6> =
        (0..300_u16).map(|i| (Ipv6Addr::new(0x2001, 0xdb8, i % 7, 0, 0, 0, 0, 9), 20_000 + i)).collect();
    for (protocol, to) in [(proto::TCP, (VIP6, 80)), (proto::UDP, (VIP6, 80)), (proto::TCP, (NODE6, 30080))] {
        let ask = |kernel: &mut Kernel| -> Result<BTreeMap<End6, End6>> {
            let mut chosen = BTreeMap::new();
            for client in &clients {
                let frame = if protocol == proto::TCP { tcp6(*client, to, SYN, &[]) } else { udp6(*client, to, b"?") };
                chosen.insert(*client, seen6(&kernel.run("from_net", &frame)?.frame).dst);
            }
            Ok(chosen)
        };
        let mut one = node6(false, protocol)?;
        let first = ask(&mut one)?;
        let mut hits: BTreeMap<End6, u32> = BTreeMap::new();
        first.values().for_each(|backend| *hits.entry(*backend).or_default() += 1);
        assert!(hits.len() == 5 && hits.values().all(|hits| *hits > 30), "{hits:?}");
        drop(one);
        assert_eq!(ask(&mut node6(true, protocol)?)?, first, "{protocol} to {to:?}");
    }
    Ok(())
}

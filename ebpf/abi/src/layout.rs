//! What each map's rows look like, by the names of their fields: so that an agent can tell whether a pinned map is the one
//! it would make, and can carry rows over from one of another version, older or newer than itself.
//!
//! The agent writes these descriptions beside the maps it pins. Of a field the name, the place and the size are compared; what
//! a field **means** is not, so a change of meaning is a new name, or another [`MapLayout::tag`].

use core::mem::size_of;

use crate::addr::{Addr4, Addr6, Port};
use crate::{announce, config, conntrack, dns, endpoint, flow, program, service, sock};

/// A field of a key or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Where it begins.
    pub offset: usize,
    /// How long it is.
    pub size: usize,
    /// Its own fields, if it is a struct.
    pub inner: &'static [Field],
}

/// A type that says what it is made of.
pub trait Described {
    /// Its fields; none if it is one piece.
    const FIELDS: &'static [Field];
}

macro_rules! whole {
    ($($ty:ty),*) => { $( impl Described for $ty { const FIELDS: &'static [Field] = &[]; } )* };
}
whole!(u8, u16, u32, u64, Addr4, Addr6, Port);

impl<T, const N: usize> Described for [T; N] {
    const FIELDS: &'static [Field] = &[];
}

/// Who fills a map, and with that what becomes of its rows when it has to be made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The agent, from what it knows of the cluster and of the node.
    Node,
    /// The programs: what they decided for flows, sockets and clients.
    State,
    /// The programs count in it.
    Counter,
    /// Nothing in it outlives the packet or event at hand.
    Passing,
}

/// A map.
#[derive(Clone, Copy, Debug)]
pub struct MapLayout {
    /// Its name.
    pub name: &'static str,
    /// Who fills it.
    pub role: Role,
    /// Fields of a key.
    pub key: &'static [Field],
    /// Fields of a value.
    pub value: &'static [Field],
    /// Another one is another meaning of the same fields: rows are not carried over.
    pub tag: u32,
}

/// A map of `K` and `V`. A key or value of one piece is a field without a name.
const fn map<K: Described, V: Described>(name: &'static str, role: Role) -> MapLayout {
    MapLayout { name, role, key: fields::<K>(), value: fields::<V>(), tag: 1 }
}

const fn fields<T: Described>() -> &'static [Field] {
    if T::FIELDS.is_empty() { Whole::<T>::FIELDS } else { T::FIELDS }
}

struct Whole<T>(core::marker::PhantomData<T>);

impl<T> Whole<T> {
    const FIELDS: &'static [Field] = &[Field { name: "", offset: 0, size: size_of::<T>(), inner: &[] }];
}

/// A key of a trie: how many bits count, and those.
struct Prefixed<K>(core::marker::PhantomData<K>);

impl<K: Described> Described for Prefixed<K> {
    const FIELDS: &'static [Field] = &[
        Field { name: "bits", offset: 0, size: 4, inner: &[] },
        Field { name: "key", offset: 4, size: size_of::<K>(), inner: K::FIELDS },
    ];
}

/// Memory of the programs, whose types are theirs alone.
const fn private(name: &'static str) -> MapLayout {
    MapLayout { name, role: Role::Passing, key: &[], value: &[], tag: 1 }
}

/// Every map of [`program::MAPS`], in that order.
pub const MAPS: [MapLayout; program::MAPS.len()] = {
    use Role::{Counter, Node, Passing, State};
    [
        map::<u32, config::Config>(config::CONFIG, Node),
        map::<service::ServiceKey, service::Service>(service::SERVICES, Node),
        map::<service::ServiceKey6, service::Service>(service::SERVICES_V6, Node),
        map::<u32, service::Backend>(service::BACKENDS, Node),
        map::<service::MemberKey, service::Backend>(service::MEMBERS, Node),
        map::<service::AffinityKey, service::Affinity>(service::AFFINITY, State),
        map::<service::AffinityKey6, service::Affinity>(service::AFFINITY_V6, State),
        map::<Prefixed<service::SourceKey>, u32>(service::SOURCE_RANGES, Node),
        map::<u32, service::MaglevRow>(service::MAGLEV, Node),
        map::<u64, sock::SockFlow>(sock::SOCK_FLOWS, State),
        map::<sock::SockNatKey, sock::SockNat>(sock::SOCK_NAT, State),
        map::<u64, sock::SockFlow6>(sock::SOCK_FLOWS_V6, State),
        map::<sock::SockNatKey6, sock::SockNat6>(sock::SOCK_NAT_V6, State),
        map::<conntrack::ConntrackKey, conntrack::Conntrack>(conntrack::CONNTRACK, State),
        map::<conntrack::FragmentKey, conntrack::FragmentPorts>(conntrack::FRAGMENTS, State),
        map::<conntrack::ConntrackKey<Addr6>, conntrack::Conntrack<Addr6>>(conntrack::CONNTRACK_V6, State),
        map::<conntrack::FragmentKey6, conntrack::FragmentPorts>(conntrack::FRAGMENTS_V6, State),
        map::<conntrack::FragmentKey6, u32>(conntrack::AWAITED, Passing),
        private(conntrack::PARKED),
        private(conntrack::PARKED_SCRATCH),
        map::<Addr6, announce::Announced>(announce::ANNOUNCED, Node),
        map::<u32, endpoint::Endpoint>(endpoint::ENDPOINTS, Node),
        map::<Addr4, u32>(endpoint::ENDPOINTS_BY_IP, Node),
        map::<Addr6, u32>(endpoint::ENDPOINTS_IP_V6, Node),
        map::<u64, endpoint::PodNetns>(endpoint::PODS_BY_NETNS, Node),
        map::<Addr4, u32>(endpoint::NODES, Node),
        map::<Addr6, u32>(endpoint::NODES_V6, Node),
        map::<dns::DnsKey, dns::DnsName>(dns::DNS_NAMES, Node),
        map::<u32, dns::DnsZone>(dns::DNS_ZONE, Node),
        map::<u32, flow::FlowEvent>(flow::EVENTS, Passing),
        map::<u32, u64>(flow::EVENTS_LOST, Counter),
        map::<u32, u64>(flow::EVENTS_WOKEN, Passing),
        map::<u32, u64>(flow::DROPS, Counter),
        map::<u32, u64>(flow::COUNTERS, Counter),
        private(program::SCRATCH),
        private(program::SCRATCH_V6),
        private(program::ROUTES),
        private(program::ROUTES_V6),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_is_described_under_its_name() {
        for (layout, name) in MAPS.iter().zip(program::MAPS) {
            assert_eq!(layout.name, name);
        }
    }

    #[test]
    fn fields_fill_their_key_or_value() {
        fn covers(fields: &[Field], from: usize) -> usize {
            fields.iter().fold(from, |at, field| {
                assert_eq!(field.offset, at, "{}", field.name);
                if !field.inner.is_empty() {
                    assert_eq!(covers(field.inner, 0), field.size, "{}", field.name);
                }
                at + field.size
            })
        }
        for layout in MAPS {
            covers(layout.key, 0);
            covers(layout.value, 0);
        }
    }

    #[test]
    fn a_field_is_told_from_its_neighbours() {
        let conntrack = MAPS.iter().find(|map| map.name == conntrack::CONNTRACK_V6).unwrap();
        let state = conntrack.value.iter().find(|field| field.name == "state").unwrap();
        assert_eq!((state.offset, state.size), (74, 1));
        let to = &conntrack.value[0];
        assert_eq!((to.name, to.inner[1].name, to.inner[1].offset), ("to", "dst", 16));
    }
}

//! The eBPF programs of Strake: one file a hook, thin. They read maps, call `strake-logic`, and return a verdict.
//!
//! # The walk of a packet
//!
//! ```text
//!            Pod (its own network namespace)                         another machine
//!   connect()/sendto() --> sock: VIP becomes a backend                      |
//!             |                                                             |
//!         eth0|                                                       uplink|
//!  ===========|==============================  node  =======================|===========
//!         veth|                                                             |
//!      [from_pod]  source is the Pod's? (IP, MAC, ARP)                 [from_net]  known flow? translate, or
//!          |   DNS question for a known name? answer, back to the Pod      |       send on (remote NodePort)
//!          |   known flow? translate as before                             |   NodePort? choose, translate
//!          |   VIP? choose a backend, remember, translate                  |   answer of a masqueraded flow?
//!          |   VIP without endpoint? reset / unreachable, back to the Pod  |       translate back
//!          |   for a Pod of this node? straight into it ------> Pod        |
//!          v                                                               v
//!      ---------------------------- routing of the kernel ----------------------------
//!          |                                                               |
//!      [to_pod]  answer of a flow that from_pod translated?            [to_net]  known flow? translate
//!          |     translate back                                            |     Pod to the world? masquerade
//!         veth                                                          uplink
//! ```
//!
//! Translation is undone at the border where it was done (`strake_abi::conntrack`), so a flow may cross both borders,
//! be translated at each, and neither needs to know of the other.
//!
//! # What is done by whom
//!
//! | what | where |
//! |---|---|
//! | connect(), sendto() of a socket | [`sock`]: `SOCK_FLOWS`, `SOCK_NAT`; for IPv6 `.._V6`, see [`family`] |
//! | either family, by packets | everything below is written once, over [`wire::Wire`]; [`wire6`] and [`icmp6`] are IPv6's own |
//! | anti-spoofing, ARP, neighbour discovery | [`from_pod`] |
//! | ARP and neighbour discovery for LoadBalancer addresses | [`announce`], called by [`from_net`] |
//! | DNS: A, "no data" for AAAA, names that cannot exist | [`dns`]; everything else goes on to the agent's server |
//! | a Service by packets, hairpin | [`from_pod`], undone by [`to_pod`], or by [`from_pod`] of a backend on this node |
//! | delivery to a Pod of this node | [`from_pod`], past the routing and the veth's queue |
//! | NodePort, local backend | [`from_net`], undone by [`to_net`] |
//! | NodePort, remote backend | [`from_net`] both ways, or [`xdp`] in front of it |
//! | the same with direct server return | [`dsr`]: into a packet by [`from_net`] here, out of it by [`from_net`] there |
//! | masquerade | [`to_net`], undone by [`from_net`] |
//! | no endpoint, unknown port | [`refuse`]: reset or "port unreachable"; sockets get ECONNREFUSED from [`sock`] |
//! | ICMP errors of translated flows | [`icmp`], [`icmp6`], at the border of the flow |
//! | collisions of tuples, ports | [`track::open`] |
//!
//! # Limits, on purpose and for now
//!
//! * IPv6: names are answered over IPv4 alone; at most six extension headers are walked, and a routing header with
//!   segments left is refused to a Pod and left alone elsewhere; an ICMPv6 refusal quotes 48 bytes.
//! * Fragments follow their first one, and one that overtakes it waits for it ([`park`]). What cannot wait, a frame longer
//!   than the usual Ethernet's, is dropped and counted (`fragment_unknown`) on its way to a Service, and left to the kernel
//!   everywhere else.
//! * A refusal that answers a packet whose checksum was left to the device carries what that device would expect
//!   (`checksum::is_partial`); an ICMP refusal to such a packet is right for any receiver behind a veth.
//!
//! # Rules
//!
//! * Nothing here decides: a branch that needs thought is a function of `strake-logic`.
//! * What is rare is `#[inline(never)]`: it keeps the stack (512 bytes for a chain of calls) and the verifier's work
//!   small. What is common is inlined.
//! * References to map values live as long as the program runs (RCU). Values that are replaced in place by the agent
//!   are copied before use; counters in them may lose an increment to another CPU, never tear.
//! * Floor: Linux 5.10 (bounded loops, LRU hashes, ring buffer, `bpf_redirect_neigh` and `_peer`).

#![no_std]
#![no_main]

mod announce;
mod dns;
mod dsr;
mod family;
mod from_net;
mod from_pod;
mod icmp;
mod icmp6;
mod maps;
mod outside;
mod park;
mod refuse;
mod report;
mod route;
mod service;
mod skb;
mod sock;
mod to_net;
mod to_pod;
mod track;
mod translate;
mod wire;
mod wire6;
mod work;
mod xdp;
mod xdp_frame;

/// "Dual MIT/GPL" is one of the strings that the kernel takes as GPL-compatible, which its helpers ask for.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked: nothing here panics. If something does, the verifier refuses the endless loop and names it.
    loop {}
}

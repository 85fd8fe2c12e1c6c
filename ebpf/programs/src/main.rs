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

mod dns;
mod from_net;
mod from_pod;
mod icmp;
mod maps;
mod refuse;
mod report;
mod service;
mod skb;
mod sock;
mod to_net;
mod to_pod;
mod track;
mod translate;
mod work;

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

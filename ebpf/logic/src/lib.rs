//! What the programs decide, as functions of bytes and values.
//!
//! It is for: parsing, rewriting, checksums, choosing a backend or a port, the life of a flow, DNS messages, the packets
//! that are built in place. It runs in the kernel (compiled into `ebpf/programs`) and on the host (unit tests, property
//! tests, the agent's table of names) without a difference. It must not know maps, helpers or aya; it allocates nothing
//! and never panics: each access is to an array whose length the compiler knows, or goes through `get`.

#![no_std]
#![forbid(unsafe_code)]

pub mod arp;
pub mod checksum;
pub mod choose;
pub mod dns;
pub mod flow;
pub mod icmp;
pub mod ipv6;
pub mod maglev;
pub mod packet;
pub mod plain;
pub mod reply;
pub mod rewrite;
pub mod sctp;
pub mod tunnel;

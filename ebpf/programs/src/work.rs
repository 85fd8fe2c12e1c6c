//! Working memory of one packet, in a per-CPU map: what would fill the stack, and what the verifier had better forget.
//! Only classifiers use it; they run with softirqs off, one at a time on a CPU.

use strake_abi::conntrack::Conntrack;

use crate::service::Target;
use crate::skb::Packet;
use crate::track::New;
use crate::wire::Wire;

#[repr(C)]
pub struct Work<A: Wire> {
    /// The packet that is being looked at.
    pub packet: Packet<A>,
    /// The flow that it opens.
    pub new: New<A>,
    /// The row of that flow's answers.
    pub reply: Conntrack<A>,
    /// See [`strake_logic::flow::hold_s`].
    pub hold_s: [i64; 4],
    /// Whether the packet came inside another, and the backend that the other node chose for it.
    pub inner: bool,
    pub chosen: Target<A>,
    /// The front of a packet that is built in place.
    pub frame: A::Frame,
    /// A transport header.
    pub header: [u8; 20],
    /// An ICMP error.
    pub error: A::Error,
    /// What becomes of it.
    pub rewrite: A::Rewrite,
    /// A DNS question.
    pub dns: A::Dns,
}

//! What must hold of any bytes that a Pod may send to the DNS server. Run by `agent/tests/corpus.rs` and `cargo xtask fuzz`.
//!
//! May not know: sockets.
#![allow(clippy::expect_used, clippy::panic, clippy::missing_panics_doc, reason = "a panic is what a fuzzer looks for")]

use hickory_proto::op::{Message, MessageType, ResponseCode};
use strake_state::{ObjectName, World};

use crate::message::{Received, Sections, Transport, receive};
use crate::reverse::Reverse;
use crate::zone::{Answer, Zone};

/// Every answer is one: to the same question, with the same id, and no larger than its asker takes.
pub fn message(bytes: &[u8], world: &World) {
    let zone = Zone::new("cluster.local", 30, ObjectName::new("kube-system", "kube-dns")).expect("a domain");
    let reverse = Reverse::default();
    for (transport, limit) in [(Transport::Udp, usize::from(crate::message::MAX_UDP)), (Transport::Tcp, 65_535)] {
        let reply = match receive(bytes, transport) {
            Received::Ignore => continue,
            Received::Reply(reply) => reply,
            Received::Question(request) => {
                let question = &request.question;
                let answer = zone.answer(world, &reverse, question.name(), question.query_type());
                let sections = match answer {
                    Answer::Found { answers, additionals } => Sections { answers, additionals, ..Sections::default() },
                    Answer::Alias { cname, .. } => Sections { answers: vec![*cname], ..Sections::default() },
                    _ => Sections { authorities: vec![zone.soa(world)], ..Sections::default() },
                };
                request.reply(ResponseCode::NoError, true, sections)
            }
        };
        assert!(reply.len() <= limit, "{} bytes by {transport:?}", reply.len());
        let message = Message::from_vec(&reply).expect("an answer can be read");
        assert_eq!(message.metadata.message_type, MessageType::Response);
        assert_eq!(reply.first_chunk::<2>(), bytes.first_chunk::<2>(), "the id");
    }
}

//! DNS messages (RFC 1035, EDNS RFC 6891): which bytes are a question for us, and how an answer fits its transport.

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Record, RecordType},
};

/// The largest UDP answer, whatever the client claims to take: what passes any path unfragmented.
pub(crate) const MAX_UDP: u16 = 1232;

/// How an answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// One question, and what its answer must respect.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    id: u16,
    recursion_desired: bool,
    checking_disabled: bool,
    edns: bool,
    dnssec_ok: bool,
    /// Bytes the answer may have.
    limit: usize,
    pub question: Query,
}

/// What some received bytes are.
#[derive(Debug)]
pub(crate) enum Received {
    Question(Box<Request>),
    /// Answered without a look at any name.
    Reply(Vec<u8>),
    /// Not a query: answering could start a loop.
    Ignore,
}

/// The sections of an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sections {
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
}

pub(crate) fn receive(bytes: &[u8], transport: Transport) -> Received {
    let message = match Message::from_vec(bytes) {
        Ok(message) => message,
        Err(_) => return format_error(bytes),
    };
    if message.metadata.message_type != MessageType::Query {
        return Received::Ignore;
    }
    let edns = message.edns.as_ref();
    let limit = match (transport, edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => 512,
        (Transport::Udp, Some(edns)) => edns.max_payload().clamp(512, MAX_UDP).into(),
    };
    let request = Request {
        id: message.metadata.id,
        recursion_desired: message.metadata.recursion_desired,
        checking_disabled: message.metadata.checking_disabled,
        edns: edns.is_some(),
        dnssec_ok: edns.is_some_and(|edns| edns.flags().dnssec_ok),
        limit,
        question: message.queries.first().cloned().unwrap_or_default(),
    };
    let refuse = |code| Received::Reply(request.reply(code, false, Sections::default()));
    if message.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    if message.queries.len() != 1 {
        return refuse(ResponseCode::FormErr);
    }
    if edns.is_some_and(|edns| edns.version() > 0) {
        return refuse(ResponseCode::BADVERS);
    }
    if matches!(request.question.query_type(), RecordType::AXFR | RecordType::IXFR) {
        return refuse(ResponseCode::Refused);
    }
    if request.question.query_class() != DNSClass::IN {
        return refuse(ResponseCode::Refused);
    }
    Received::Question(Box::new(request))
}

/// FORMERR for what has at least a query's header; silence for the rest.
fn format_error(bytes: &[u8]) -> Received {
    match bytes {
        [id0, id1, flags, ..] if bytes.len() >= 12 && flags & 0x80 == 0 => {
            let id = u16::from_be_bytes([*id0, *id1]);
            let message = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            message.to_vec().map_or(Received::Ignore, Received::Reply)
        }
        _ => Received::Ignore,
    }
}

impl Request {
    /// The bytes of an answer. What does not fit is left out: additional records silently, answers with the TC bit, so
    /// that the client asks again over TCP.
    pub fn reply(&self, code: ResponseCode, authoritative: bool, sections: Sections) -> Vec<u8> {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.response_code = code;
        message.metadata.authoritative = authoritative;
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.checking_disabled = self.checking_disabled;
        message.metadata.recursion_available = true;
        message.add_query(self.question.clone());
        message.answers = sections.answers;
        message.authorities = sections.authorities;
        message.additionals = sections.additionals;
        if self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP).set_dnssec_ok(self.dnssec_ok);
            edns.set_rcode_high(code.high());
            message.set_edns(edns);
        }
        loop {
            match message.to_vec() {
                Ok(bytes) if bytes.len() <= self.limit => return bytes,
                _ if !message.additionals.is_empty() => message.additionals.clear(),
                _ if !message.answers.is_empty() => {
                    message.metadata.truncation = true;
                    message.authorities.clear();
                    message.answers.truncate(message.answers.len() / 2);
                }
                Ok(_) if !message.authorities.is_empty() => message.authorities.clear(),
                // A bare header and question always fit 512 bytes.
                Ok(bytes) => return bytes,
                Err(error) => {
                    tracing::debug!(%error, "an answer could not be encoded");
                    let mut failure = Message::error_msg(self.id, OpCode::Query, ResponseCode::ServFail);
                    failure.add_query(self.question.clone());
                    return failure.to_vec().unwrap_or_default();
                }
            }
        }
    }
}

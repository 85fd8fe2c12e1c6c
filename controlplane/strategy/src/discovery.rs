//! EndpointSlices.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use strake_machinery::field::Path;

use crate::errs::{Errs, duplicate, immutable, invalid, invalid_each, not_supported, one_of, required, too_many};
use crate::format;
use crate::ip;
use crate::walk::{Walk, default_text, default_to, each};

/// Fills an EndpointSlice.
pub(crate) fn default(obj: &mut Value) {
    each(obj, "endpoints", |x| default_to(x, "conditions", json!({})));
    each(obj, "ports", |p| {
        default_to(p, "name", "");
        default_text(p, "protocol", "TCP");
    });
}

/// Checks an EndpointSlice.
pub(crate) fn validate(obj: &Value, old: Option<&Value>, e: &mut Errs) {
    const KINDS: &[&str] = &["FQDN", "IPv4", "IPv6"];
    let kind = obj.text("addressType");
    one_of(e, &Path::new("addressType"), kind, KINDS);
    let (list, p) = (obj.list("endpoints"), Path::new("endpoints"));
    if list.len() > 1000 {
        e.push(too_many(&p, list.len(), 1000));
    } else {
        for (i, x) in list.iter().enumerate() {
            endpoint(x, kind, &p.index(i), e);
        }
    }
    ports(obj.list("ports"), &Path::new("ports"), e);
    if let Some(old) = old {
        immutable(e, &Path::new("addressType"), obj.at("addressType"), old.at("addressType"));
    }
}

fn endpoint(x: &Value, kind: &str, p: &Path, e: &mut Errs) {
    let (addresses, at) = (x.texts("addresses"), p.child("addresses"));
    if addresses.is_empty() {
        e.push(required(&at, "must contain at least 1 address"));
    } else if addresses.len() > 100 {
        e.push(too_many(&at, addresses.len(), 100));
    }
    for (i, a) in addresses.into_iter().enumerate() {
        let ap = at.index(i);
        match kind {
            "IPv4" | "IPv6" => {
                let before = e.len();
                ip::address(a, &ap, e);
                if e.len() == before && ip::is_v6(a) != (kind == "IPv6") {
                    e.push(invalid(&at, a, format!("must be an {kind} address")));
                }
                ip::non_special(a, &ap, e);
            }
            "FQDN" => format::fully_qualified(a, 2, &ap, e),
            _ => {}
        }
    }
    if x.has("nodeName") {
        let node = x.text("nodeName");
        invalid_each(e, &p.child("nodeName"), node, format::dns_subdomain(node));
    }
    let topology = x.entries("deprecatedTopology");
    if topology.len() > 16 {
        e.push(too_many(&p.child("deprecatedTopology"), topology.len(), 16));
    }
    crate::selector::labels(x.at("deprecatedTopology"), &p.child("deprecatedTopology"), e);
    if x.has("hostname") {
        invalid_each(e, &p.child("hostname"), x.text("hostname"), format::dns_label(x.text("hostname")));
    }
    for (field, rule) in
        [("forZones", format::dns_label as fn(&str) -> Vec<String>), ("forNodes", format::dns_subdomain)]
    {
        let (hints, hp) = (x.at("hints").list(field), p.child("hints").child(field));
        if hints.len() > 8 {
            e.push(too_many(&hp, hints.len(), 8));
            continue;
        }
        let mut seen = BTreeSet::new();
        for (i, h) in hints.iter().enumerate() {
            let (name, np) = (h.text("name"), hp.index(i).child("name"));
            if !seen.insert(name) {
                e.push(duplicate(&np, name));
            } else {
                let rule = if field == "forZones" { format::label_value } else { rule };
                invalid_each(e, &np, name, rule(name));
            }
        }
    }
}

fn ports(list: &[Value], p: &Path, e: &mut Errs) {
    if list.len() > 20000 {
        e.push(too_many(p, list.len(), 20000));
        return;
    }
    let mut names = BTreeSet::new();
    for (i, port) in list.iter().enumerate() {
        let (at, name) = (p.index(i), port.text("name"));
        if !name.is_empty() {
            invalid_each(e, &at.child("name"), name, format::dns_label(name));
        }
        if !names.insert(name) {
            e.push(duplicate(&at.child("name"), name));
        }
        const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
        if !port.has("protocol") {
            e.push(required(&at.child("protocol"), ""));
        } else if !PROTOCOLS.contains(&port.text("protocol")) {
            e.push(not_supported(&at.child("protocol"), port.text("protocol"), PROTOCOLS));
        }
        if port.has("appProtocol") {
            let app = port.text("appProtocol");
            invalid_each(e, &at.child("appProtocol"), app, format::qualified_name(app));
        }
    }
}

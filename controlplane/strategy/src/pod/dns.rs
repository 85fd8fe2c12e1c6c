//! A Pod's resolver settings and host aliases.

use serde_json::Value;
use strake_machinery::field::Path;

use crate::errs::{Errs, invalid, invalid_each, one_of, required};
use crate::format;
use crate::ip;
use crate::walk::Walk;

/// Checks `spec.dnsPolicy`.
pub(crate) fn policy(spec: &Value, p: &Path, e: &mut Errs) {
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(e, &p.child("dnsPolicy"), spec.text("dnsPolicy"), &policies);
}

/// Checks `spec.dnsConfig`.
pub(crate) fn config(spec: &Value, p: &Path, e: &mut Errs) {
    let (v, p) = (spec.at("dnsConfig"), p.child("dnsConfig"));
    if spec.text("dnsPolicy") == "None" {
        if v.is_null() {
            e.push(required(&p, "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if v.list("nameservers").is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            e.push(required(&p.child("nameservers"), why));
            return;
        }
    }
    let (servers, searches) = (v.texts("nameservers"), v.texts("searches"));
    if servers.len() > 3 {
        let list = v.list("nameservers").to_vec();
        e.push(invalid(&p.child("nameservers"), list, "must not have more than 3 nameservers"));
    }
    for (i, s) in servers.iter().enumerate() {
        ip::address(s, &p.child("nameservers").index(i), e);
    }
    let list = || v.list("searches").to_vec();
    if searches.len() > 32 {
        e.push(invalid(&p.child("searches"), list(), "must not have more than 32 search paths"));
    }
    if searches.join(" ").len() > 2048 {
        let why = "must not have more than 2048 characters (including spaces) in the search list";
        e.push(invalid(&p.child("searches"), list(), why));
    }
    for (i, s) in searches.iter().enumerate() {
        if *s != "." {
            let s = s.strip_suffix('.').unwrap_or(s);
            invalid_each(e, &p.child("searches").index(i), s, format::subdomain_with_underscores(s));
        }
    }
    for (i, o) in v.list("options").iter().enumerate() {
        if o.text("name").is_empty() {
            e.push(required(&p.child("options").index(i), "must not be empty"));
        }
    }
}

/// Checks `spec.hostAliases`.
pub(crate) fn host_aliases(list: &[Value], p: &Path, e: &mut Errs) {
    for (i, alias) in list.iter().enumerate() {
        ip::address(alias.text("ip"), &p.index(i).child("ip"), e);
        for (n, host) in alias.texts("hostnames").into_iter().enumerate() {
            invalid_each(e, &p.index(i).child("hostnames").index(n), host, format::dns_subdomain(host));
        }
    }
}

//! Which flows a reader asked for. May not know: where flows come from.

use crate::proto::{Filter, Flow, Kind, Verdict};

/// Whether every condition that is set holds for `flow`.
pub fn matches(filter: &Filter, flow: &Flow) -> bool {
    let Filter { namespaces, pods, services, port, verdicts, kinds } = filter;
    let ends = || flow.source.iter().chain(&flow.destination);
    let namespace = namespaces.is_empty()
        || namespaces.iter().any(|n| ends().any(|end| end.namespace == *n) || flow.service_namespace == *n);
    let pod = pods.is_empty() || pods.iter().any(|p| ends().any(|end| named(p, &end.namespace, &end.pod)));
    let service = services.is_empty() || services.iter().any(|s| named(s, &flow.service_namespace, &flow.service_name));
    let port =
        *port == 0 || flow.frontend_port == *port || flow.destination.as_ref().is_some_and(|end| end.port == *port);
    let verdict =
        verdicts.is_empty() || verdicts.iter().any(|v| *v == flow.verdict || *v == i32::from(Verdict::Unspecified));
    let kind = kinds.is_empty() || kinds.iter().any(|k| *k == flow.kind || *k == i32::from(Kind::Unspecified));
    namespace && pod && service && port && verdict && kind
}

/// `wanted` is NAME or NAMESPACE/NAME; a trailing `*` makes NAME a prefix.
fn named(wanted: &str, namespace: &str, name: &str) -> bool {
    if name.is_empty() {
        return false;
    }
    let (wanted_namespace, wanted) = match wanted.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, wanted),
    };
    let in_namespace = wanted_namespace.is_none_or(|wanted| wanted == namespace);
    let is_named = match wanted.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == wanted,
    };
    in_namespace && is_named
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::End;

    fn flow() -> Flow {
        let end = |namespace: &str, pod: &str, port| End {
            ip: "10.244.0.5".into(),
            port,
            namespace: namespace.into(),
            pod: pod.into(),
            ..End::default()
        };
        Flow {
            verdict: Verdict::Forwarded.into(),
            source: Some(end("shop", "client", 40000)),
            destination: Some(end("web", "web-7d9c-x", 8080)),
            service_namespace: "web".into(),
            service_name: "front".into(),
            frontend_port: 80,
            ..Flow::default()
        }
    }

    fn holds(change: impl FnOnce(&mut Filter)) -> bool {
        let mut filter = Filter::default();
        change(&mut filter);
        matches(&filter, &flow())
    }

    #[test]
    fn an_empty_filter_lets_everything_through() {
        assert!(holds(|_| {}));
    }

    #[test]
    fn either_end_satisfies_a_namespace_or_pod() {
        assert!(holds(|f| f.namespaces = vec!["shop".into()]));
        assert!(holds(|f| f.namespaces = vec!["nowhere".into(), "web".into()]));
        assert!(!holds(|f| f.namespaces = vec!["nowhere".into()]));
        assert!(holds(|f| f.pods = vec!["shop/client".into()]));
        assert!(holds(|f| f.pods = vec!["web/web-7d9c-*".into()]));
        assert!(!holds(|f| f.pods = vec!["web/client".into()]));
    }

    #[test]
    fn a_port_is_the_frontend_or_the_backend_but_not_the_client() {
        assert!(holds(|f| f.port = 80));
        assert!(holds(|f| f.port = 8080));
        assert!(!holds(|f| f.port = 40000));
    }

    #[test]
    fn all_conditions_must_hold() {
        assert!(holds(|f| {
            f.services = vec!["front".into()];
            f.verdicts = vec![Verdict::Forwarded.into()];
        }));
        assert!(!holds(|f| {
            f.services = vec!["front".into()];
            f.verdicts = vec![Verdict::Dropped.into()];
        }));
    }
}

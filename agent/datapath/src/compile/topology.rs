//! Which of its ready endpoints a Service prefers on this node, by the hints in its EndpointSlices (KEP-2433 for zones,
//! KEP-3015 for nodes). Hints that cannot be followed for every endpoint are not followed at all, as in kube-proxy: half
//! of them would overload the few that have one.
//!
//! May not know: who wrote the hints, and why.

use strake_state::{Endpoint, Hints};

use super::NodeView;

/// What the hints amount to here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preference {
    /// Every endpoint is as good.
    None,
    /// Those hinted at this node.
    Node,
    /// Those hinted at this node's zone.
    Zone,
}

impl Preference {
    /// Looks at all ready endpoints of a Service port.
    pub fn of<'a>(ready: impl Iterator<Item = &'a Endpoint>, node: &NodeView) -> Self {
        let (mut all_nodes, mut all_zones, mut this_node, mut this_zone) = (true, true, false, false);
        for endpoint in ready {
            all_nodes &= hinted(endpoint, |hints| !hints.nodes.is_empty());
            all_zones &= hinted(endpoint, |hints| !hints.zones.is_empty());
            this_node |= is_for_node(endpoint, node);
            this_zone |= is_for_zone(endpoint, node);
        }
        match (all_nodes && this_node, all_zones && this_zone) {
            (true, _) => Self::Node,
            (false, true) => Self::Zone,
            (false, false) => Self::None,
        }
    }

    /// Whether an endpoint is among the preferred.
    pub fn admits(self, endpoint: &Endpoint, node: &NodeView) -> bool {
        match self {
            Self::None => true,
            Self::Node => is_for_node(endpoint, node),
            Self::Zone => is_for_zone(endpoint, node),
        }
    }
}

fn hinted(endpoint: &Endpoint, so: impl FnOnce(&Hints) -> bool) -> bool {
    endpoint.hints().is_some_and(so)
}

fn is_for_node(endpoint: &Endpoint, node: &NodeView) -> bool {
    hinted(endpoint, |hints| hints.nodes.contains(&node.name))
}

fn is_for_zone(endpoint: &Endpoint, node: &NodeView) -> bool {
    node.zone.as_ref().is_some_and(|zone| hinted(endpoint, |hints| hints.zones.contains(zone)))
}

#[cfg(test)]
mod tests {
    use strake_state::Rare;

    use super::*;

    fn node(zone: Option<&str>) -> NodeView {
        NodeView { name: "n1".into(), zone: zone.map(Into::into), ..NodeView::default() }
    }

    fn endpoint(nodes: &[&str], zones: &[&str]) -> Endpoint {
        let hints = Hints {
            zones: zones.iter().map(|z| (*z).into()).collect(),
            nodes: nodes.iter().map(|n| (*n).into()).collect(),
        };
        let rare = Some(Box::new(Rare { hints, ..Rare::default() }));
        let address = std::net::Ipv4Addr::new(10, 244, 0, 5).into();
        Endpoint { address, ready: true, serving: true, terminating: false, node: None, rare }
    }

    #[test]
    fn hints_are_followed_by_all_or_none() {
        let (near, far, bare) = (endpoint(&[], &["a"]), endpoint(&[], &["b"]), endpoint(&[], &[]));
        let at = |zone: Option<&str>, list: &[&Endpoint]| Preference::of(list.iter().copied(), &node(zone));
        assert_eq!(at(Some("a"), &[&near, &far]), Preference::Zone);
        assert_eq!(at(Some("c"), &[&near, &far]), Preference::None, "no endpoint for this zone");
        assert_eq!(at(Some("a"), &[&near, &bare]), Preference::None, "one has no hint");
        assert_eq!(at(None, &[&near, &far]), Preference::None, "the node has no zone");
        assert!(Preference::Zone.admits(&near, &node(Some("a"))) && !Preference::Zone.admits(&far, &node(Some("a"))));
    }

    #[test]
    fn the_node_is_nearer_than_the_zone() {
        let (here, there) = (endpoint(&["n1"], &["a"]), endpoint(&["n2"], &["a"]));
        let of = |list: &[&Endpoint]| Preference::of(list.iter().copied(), &node(Some("a")));
        assert_eq!(of(&[&here, &there]), Preference::Node);
        assert_eq!(of(&[&there]), Preference::Zone, "none on this node: the zone is next");
        assert!(!Preference::Node.admits(&there, &node(Some("a"))));
    }
}

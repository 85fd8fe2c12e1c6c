//! Which CertificateSigningRequests are approved without a person, which are signed, and when old ones go.

use crate::runtime::elapsed;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use std::net::IpAddr;
use std::time::Duration;
use strake_pki::{CertificateRequest, Signer};

/// Approved or denied requests are kept this long.
const KEEP_DECIDED: Duration = Duration::from_secs(3600);
/// Undecided ones this long.
const KEEP_PENDING: Duration = Duration::from_secs(24 * 3600);
/// The shortest validity a request can ask for.
const MIN_VALIDITY: Duration = Duration::from_secs(600);

/// What to do with an undecided request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approval {
    /// It is for a person (or another controller) to decide.
    LeaveAlone,
    /// Approve if the requester may create certificatesigningrequests/SUBRESOURCE.
    IfAllowed {
        /// `nodeclient` or `selfnodeclient`.
        subresource: &'static str,
        /// The condition's message.
        message: &'static str,
    },
    /// Approve.
    Approve {
        /// The condition's message.
        message: &'static str,
    },
}

/// Whether a condition of this type is there.
pub fn has(csr: &CertificateSigningRequest, condition: &str) -> bool {
    csr.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == condition)
}

/// Signed already.
pub fn is_issued(csr: &CertificateSigningRequest) -> bool {
    csr.status.as_ref().and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty())
}

/// Approved, and still to be signed by one of our signers.
pub fn to_sign(csr: &CertificateSigningRequest) -> Option<Signer> {
    let open = has(csr, "Approved") && !has(csr, "Denied") && !has(csr, "Failed") && !is_issued(csr);
    Signer::named(&csr.spec.signer_name).filter(|_| open)
}

/// The usages by name.
pub fn usages(spec: &CertificateSigningRequestSpec) -> Vec<&str> {
    spec.usages.iter().flatten().map(String::as_str).collect()
}

/// How long the certificate is to be valid: what was asked for, at least ten minutes and at most `longest`.
pub fn validity(spec: &CertificateSigningRequestSpec, longest: Duration) -> Duration {
    let asked = spec.expiration_seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs);
    asked.map_or(longest, |a| a.max(MIN_VALIDITY).min(longest))
}

/// Decides about an undecided request. `node` finds the Node a kubelet's serving certificate would be for.
pub fn approval<'a>(
    spec: &CertificateSigningRequestSpec,
    request: &CertificateRequest,
    node: impl FnOnce(&str) -> Option<&'a Node>,
) -> Approval {
    let Some(signer) = Signer::named(&spec.signer_name) else { return Approval::LeaveAlone };
    if signer.check(request, &usages(spec)).is_err() {
        return Approval::LeaveAlone;
    }
    let user = spec.username.as_deref().unwrap_or_default();
    let group = |g: &str| spec.groups.iter().flatten().any(|x| x == g);
    match signer {
        Signer::KubeApiserverClient => Approval::LeaveAlone,
        Signer::KubeApiserverClientKubelet if user == request.common_name => Approval::IfAllowed {
            subresource: "selfnodeclient",
            message: "The node renews its own client certificate (access review: selfnodeclient).",
        },
        Signer::KubeApiserverClientKubelet => Approval::IfAllowed {
            subresource: "nodeclient",
            message: "A joining node asks for its client certificate (access review: nodeclient).",
        },
        // A node may serve under its own names only.
        Signer::KubeletServing => {
            let name = request.common_name.strip_prefix("system:node:").unwrap_or_default();
            let own = user == request.common_name && group("system:nodes");
            match node(name) {
                Some(n) if own && serves(n, name, request) => Approval::Approve {
                    message: "The node asks for a serving certificate for its own names and addresses.",
                },
                _ => Approval::LeaveAlone,
            }
        }
        Signer::StrakeAgent => {
            let name = request.common_name.strip_prefix("system:strake-agent:").unwrap_or_default();
            let renews = user == request.common_name && group("system:strake-agents");
            let its_node = user.strip_prefix("system:node:") == Some(name) && group("system:nodes");
            if renews || its_node || group("system:bootstrappers") {
                Approval::Approve {
                    message: "The datapath agent of a joining or joined node asks for its certificate.",
                }
            } else {
                Approval::LeaveAlone
            }
        }
    }
}

fn serves(node: &Node, name: &str, request: &CertificateRequest) -> bool {
    let addresses = || node.status.iter().flat_map(|s| s.addresses.iter().flatten());
    let own_name = |dns: &String| dns == name || dns == "localhost" || addresses().any(|a| a.address == *dns);
    let own_ip = |ip: &IpAddr| ip.is_loopback() || addresses().any(|a| a.address.parse() == Ok(*ip));
    request.dns_names.iter().all(own_name) && request.ip_addresses.iter().all(own_ip)
}

/// When the request is to be deleted: zero when it is due, None when it is not going to be.
pub fn expires_in(csr: &CertificateSigningRequest, now: Timestamp) -> Option<Duration> {
    let conditions = || csr.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let since = |t: Timestamp, keep: Duration| keep.saturating_sub(elapsed(t, now));
    let created = csr.metadata.creation_timestamp.as_ref()?.0;
    let decided = conditions()
        .filter(|c| matches!(c.type_.as_str(), "Approved" | "Denied" | "Failed"))
        .filter_map(|c| c.last_update_time.as_ref())
        .map(|t| since(t.0, KEEP_DECIDED))
        .min();
    Some(decided.unwrap_or_else(|| since(created, KEEP_PENDING)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeAddress, NodeStatus};
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    fn request(cn: &str, organization: &str, names: &[&str]) -> CertificateRequest {
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, cn);
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        CertificateRequest::parse(&pem).unwrap()
    }

    fn spec(signer: &str, user: &str, groups: &[&str], purpose: &str) -> CertificateSigningRequestSpec {
        CertificateSigningRequestSpec {
            signer_name: signer.into(),
            username: Some(user.into()),
            groups: Some(groups.iter().map(|g| g.to_string()).collect()),
            usages: Some(vec!["digital signature".into(), purpose.into()]),
            ..Default::default()
        }
    }

    fn node(address: &str) -> Node {
        Node {
            status: Some(NodeStatus {
                addresses: Some(vec![NodeAddress { address: address.into(), type_: "InternalIP".into() }]),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn kubelet_clients_are_approved_after_an_access_review_only() {
        let signer = "kubernetes.io/kube-apiserver-client-kubelet";
        let r = request("system:node:a", "system:nodes", &[]);
        let joining = spec(signer, "system:bootstrap:abcdef", &["system:bootstrappers"], "client auth");
        assert!(matches!(approval(&joining, &r, |_| None), Approval::IfAllowed { subresource: "nodeclient", .. }));
        let renewing = spec(signer, "system:node:a", &["system:nodes"], "client auth");
        assert!(matches!(approval(&renewing, &r, |_| None), Approval::IfAllowed { subresource: "selfnodeclient", .. }));
        let admin = request("root", "system:masters", &[]);
        assert_eq!(approval(&joining, &admin, |_| None), Approval::LeaveAlone);
        let by_hand = spec("kubernetes.io/kube-apiserver-client", "alice", &[], "client auth");
        assert_eq!(approval(&by_hand, &request("alice", "dev", &[]), |_| None), Approval::LeaveAlone);
    }

    #[test]
    fn a_node_serves_under_its_own_addresses_only() {
        let s = spec("kubernetes.io/kubelet-serving", "system:node:a", &["system:nodes"], "server auth");
        let n = node("192.0.2.1");
        let good = request("system:node:a", "system:nodes", &["a", "192.0.2.1", "127.0.0.1"]);
        assert!(matches!(approval(&s, &good, |_| Some(&n)), Approval::Approve { .. }));
        assert_eq!(approval(&s, &good, |_| None), Approval::LeaveAlone);
        let foreign = request("system:node:a", "system:nodes", &["192.0.2.9"]);
        assert_eq!(approval(&s, &foreign, |_| Some(&n)), Approval::LeaveAlone);
        let other = spec("kubernetes.io/kubelet-serving", "system:node:b", &["system:nodes"], "server auth");
        assert_eq!(approval(&other, &good, |_| Some(&n)), Approval::LeaveAlone);
    }

    #[test]
    fn an_agent_is_approved_for_bootstrappers_its_node_and_itself() {
        let r = request("system:strake-agent:a", "system:strake-agents", &[]);
        let ask =
            |user: &str, groups: &[&str]| approval(&spec("strake.io/agent", user, groups, "client auth"), &r, |_| None);
        assert!(matches!(ask("system:bootstrap:x", &["system:bootstrappers"]), Approval::Approve { .. }));
        assert!(matches!(ask("system:node:a", &["system:nodes"]), Approval::Approve { .. }));
        assert!(matches!(ask("system:strake-agent:a", &["system:strake-agents"]), Approval::Approve { .. }));
        assert_eq!(ask("system:node:b", &["system:nodes"]), Approval::LeaveAlone);
        assert_eq!(ask("alice", &["dev"]), Approval::LeaveAlone);
    }

    #[test]
    fn validity_is_what_was_asked_within_limits() {
        let mut s = spec("x", "y", &[], "client auth");
        let year = Duration::from_secs(365 * 86_400);
        assert_eq!(validity(&s, year), year);
        s.expiration_seconds = Some(1);
        assert_eq!(validity(&s, year).as_secs(), 600);
        s.expiration_seconds = Some(86_400);
        assert_eq!(validity(&s, year).as_secs(), 86_400);
    }
}

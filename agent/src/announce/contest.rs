//! One Service's contest: whether this node takes its Lease, renews it or gives it up, and what follows from that.
//!
//! [`decide`] is pure; the rest does what it says. While the Lease is held the kernel answers until the moment at which
//! the last renewal that got through was asked for, plus the Lease's duration. Others count that duration from when they
//! saw the renewal, which is later: two nodes never answer at once, whatever happens to an agent, a request or a clock.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use strake_datapath::boot_ns;
use strake_state::ObjectName;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lease::{self, Observed};
use super::link::Uplink;
use super::stand::{Stand, rank};
use super::{Announcement, Shared};

/// The lower a node's rank, the sooner it takes a free Lease; by so much a rank.
const TURN: Duration = Duration::from_millis(200);
/// Ranks beyond this wait no longer.
const LAST_TURN: usize = 10;
/// Before another attempt after a failed one.
const RETRY: Duration = Duration::from_secs(1);
/// Longest wait for the API server's answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// When, after taking over, neighbours are told: three times, as one frame may be lost.
const GREETINGS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_secs(2)];

/// What this node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    /// When it ends, if it is not renewed.
    until: Instant,
    /// When it is to be renewed.
    renew: Instant,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Take,
    Renew,
    GiveUp,
    /// Somebody else has it, or it ended.
    Lost,
    /// The Lease of a Service that is gone has ended too.
    Sweep,
    /// Nothing before then, or before something changes.
    Wait(Option<Instant>),
    End,
}

/// `turn`: how long this node lets others go first. `not_before`: after a failure.
fn decide(
    now: Instant,
    stand: &Stand,
    lease: &Observed,
    held: Option<Held>,
    me: &str,
    turn: Duration,
    not_before: Instant,
) -> Act {
    let due = |at: Instant, act: Act| if now >= at { act } else { Act::Wait(Some(at)) };
    if let Some(held) = held {
        return if lease.holder().is_some_and(|holder| holder != me) || now >= held.until {
            Act::Lost
        } else if !stand.may {
            Act::GiveUp
        } else {
            due(held.renew.min(held.until), Act::Renew)
        };
    }
    if stand.gone {
        return if lease.lease.is_none() { Act::End } else { due(lease.free_at.max(not_before), Act::Sweep) };
    }
    if !stand.may {
        return Act::Wait(None);
    }
    // What this node held before its agent was started again is still its own.
    let free_at = if lease.holder() == Some(me) { now } else { lease.free_at + turn };
    due(free_at.max(not_before), Act::Take)
}

/// The task of one Service.
pub struct Contest {
    shared: Arc<Shared>,
    service: ObjectName,
    name: String,
    stand: watch::Receiver<Stand>,
    seen: watch::Receiver<Observed>,
    /// The newest that is known: what was seen, or written.
    lease: Observed,
    held: Option<Held>,
    answered: Vec<IpAddr>,
    uplink: Option<Uplink>,
    greeting: CancellationToken,
    not_before: Instant,
}

impl Contest {
    pub fn new(
        shared: Arc<Shared>,
        service: ObjectName,
        stand: watch::Receiver<Stand>,
        seen: watch::Receiver<Observed>,
    ) -> Self {
        let (name, lease) = (lease::name(&service), seen.borrow().clone());
        Self {
            shared,
            service,
            name,
            stand,
            seen,
            lease,
            held: None,
            answered: Vec::new(),
            uplink: None,
            greeting: CancellationToken::new(),
            not_before: Instant::now(),
        }
    }

    /// Runs until the Service and its Lease are gone, or `token` is cancelled; returns the Service.
    pub async fn run(mut self, token: CancellationToken) -> ObjectName {
        loop {
            let stand = self.stand.borrow_and_update().clone();
            let seen = self.seen.borrow_and_update().clone();
            if seen.is_newer(&self.lease) {
                self.lease = seen;
            }
            self.show(&stand);
            let turn = self.turn();
            let now = Instant::now();
            let act = decide(now, &stand, &self.lease, self.held, &self.shared.node, turn, self.not_before);
            tracing::trace!(service = %self.service, ?act, "announcement");
            match act {
                Act::Take | Act::Renew => {
                    self.write(&stand, act == Act::Take).await;
                    continue;
                }
                Act::GiveUp => {
                    self.give_up().await;
                    continue;
                }
                Act::Lost => {
                    tracing::info!(service = %self.service, to = self.lease.holder(), "no longer announced from here");
                    self.fall_silent();
                    continue;
                }
                Act::Sweep => {
                    self.sweep().await;
                    continue;
                }
                Act::End => break,
                Act::Wait(until) => {
                    if self.held.is_some() && self.answered != stand.addresses {
                        self.answer(&stand.addresses);
                    }
                    tokio::select! {
                        () = token.cancelled() => {
                            if self.held.is_some() {
                                self.give_up().await;
                            }
                            break;
                        }
                        changed = self.stand.changed() => if changed.is_err() { break },
                        changed = self.seen.changed() => if changed.is_err() { break },
                        () = sleep_until(until) => {}
                    }
                }
            }
        }
        self.shared.board.put(&self.service, None);
        self.service
    }

    fn turn(&self) -> Duration {
        let world = self.shared.worlds.borrow().clone();
        TURN * u32::try_from(rank(&world, &self.service).min(LAST_TURN)).unwrap_or(0)
    }

    fn show(&self, stand: &Stand) {
        let row = (!stand.addresses.is_empty()).then(|| {
            let current = self.lease.holder().filter(|_| self.held.is_some() || Instant::now() < self.lease.free_at);
            Announcement {
                service: self.service.to_string(),
                addresses: stand.addresses.clone(),
                node: current.map(str::to_owned),
                here: self.held.is_some(),
            }
        });
        self.shared.board.put(&self.service, row);
    }

    /// Takes or renews the Lease; on success the kernel answers until it ends.
    async fn write(&mut self, stand: &Stand, take: bool) {
        let from = (Instant::now(), boot_ns());
        let before = self.lease.holder().map(str::to_owned);
        let lease = lease::held(&self.service, self.lease.lease.as_ref(), Some(&self.shared.node));
        let params = PostParams::default();
        let request = async {
            match lease.metadata.resource_version {
                Some(_) => self.shared.leases.replace(&self.name, &params, &lease).await,
                None => self.shared.leases.create(&params, &lease).await,
            }
        };
        match tokio::time::timeout(PATIENCE, request).await {
            Ok(Ok(written)) => {
                self.lease = self.lease.then(&written, true, Instant::now());
                // Never quite at the same moment as others.
                let renew = lease::RENEWAL.mul_f64(jitter(&self.name, from.1));
                self.held = Some(Held { until: from.0 + lease::DURATION, renew: from.0 + renew });
                self.answer_until(&stand.addresses, from.1 + lease::DURATION.as_nanos() as u64);
                if take {
                    tracing::info!(service = %self.service, addresses = ?stand.addresses, before, "announced from here");
                    self.greet(stand.addresses.clone());
                    self.tell(&stand.addresses).await;
                }
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 409 || status.code == 404 => self.look_again().await,
            Ok(Err(error)) => self.failed(&error.to_string()),
            Err(_) => self.failed("no answer in time"),
        }
    }

    /// Somebody else wrote, created or deleted: what is there now?
    async fn look_again(&mut self) {
        match tokio::time::timeout(PATIENCE, self.shared.leases.get_opt(&self.name)).await {
            Ok(Ok(Some(lease))) => self.lease = self.lease.then(&lease, true, Instant::now()),
            Ok(Ok(None)) => self.lease = self.lease.gone(),
            Ok(Err(error)) => self.failed(&error.to_string()),
            Err(_) => self.failed("no answer in time"),
        }
        self.pause();
    }

    fn failed(&mut self, why: &str) {
        tracing::warn!(lease = self.name, why, "the Lease of an announcement cannot be written; trying again");
        self.pause();
    }

    fn pause(&mut self) {
        let next = Instant::now() + RETRY.mul_f64(jitter(&self.name, boot_ns()));
        self.not_before = next;
        if let Some(held) = &mut self.held {
            held.renew = next;
        }
    }

    /// Answers for these addresses as long as what is held.
    fn answer(&mut self, addresses: &[IpAddr]) {
        let Some(held) = self.held else { return };
        let left = held.until.saturating_duration_since(Instant::now());
        self.answer_until(addresses, boot_ns() + left.as_nanos() as u64);
        self.greet(addresses.to_vec());
    }

    fn answer_until(&mut self, addresses: &[IpAddr], until_ns: u64) {
        let gone: Vec<IpAddr> = self.answered.iter().filter(|ip| !addresses.contains(ip)).copied().collect();
        self.silence(&gone);
        // The link's address may have changed since.
        match Uplink::find(&self.shared.uplink) {
            Ok(mut uplink) => {
                uplink.listen(addresses, self.uplink.take());
                if let Err(error) = self.shared.announcer.answer(addresses, uplink.mac, until_ns) {
                    tracing::warn!(%error, service = %self.service, "addresses cannot be announced");
                }
                self.uplink = Some(uplink);
            }
            Err(error) => tracing::warn!(%error, service = %self.service, "addresses cannot be announced"),
        }
        self.answered = addresses.to_vec();
    }

    fn silence(&self, addresses: &[IpAddr]) {
        if let Err(error) = self.shared.announcer.silence(addresses) {
            tracing::warn!(%error, service = %self.service, "addresses are announced until their time runs out");
        }
    }

    fn fall_silent(&mut self) {
        self.greeting.cancel();
        self.silence(&self.answered);
        (self.held, self.uplink, self.answered) = (None, None, Vec::new());
        self.pause();
    }

    /// Silence first, then the Lease: whoever takes it is alone.
    async fn give_up(&mut self) {
        tracing::info!(service = %self.service, "announcement given up");
        self.fall_silent();
        let free = lease::held(&self.service, self.lease.lease.as_ref(), None);
        let params = PostParams::default();
        match tokio::time::timeout(PATIENCE, self.shared.leases.replace(&self.name, &params, &free)).await {
            Ok(Ok(written)) => self.lease = self.lease.then(&written, true, Instant::now()),
            Ok(Err(error)) => tracing::warn!(%error, lease = self.name, "the Lease is given up when it ends"),
            Err(_) => tracing::warn!(lease = self.name, "the Lease is given up when it ends: no answer in time"),
        }
    }

    async fn sweep(&mut self) {
        let Some(lease) = &self.lease.lease else { return };
        let preconditions = Preconditions {
            uid: lease.metadata.uid.clone(),
            resource_version: lease.metadata.resource_version.clone(),
        };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match tokio::time::timeout(PATIENCE, self.shared.leases.delete(&self.name, &params)).await {
            Ok(Ok(_)) => self.lease = self.lease.gone(),
            // Every node sweeps.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 || status.code == 409 => self.look_again().await,
            Ok(Err(error)) => self.failed(&error.to_string()),
            Err(_) => self.failed("no answer in time"),
        }
    }

    /// Tells neighbours, until the announcement ends.
    fn greet(&mut self, addresses: Vec<IpAddr>) {
        self.greeting.cancel();
        self.greeting = CancellationToken::new();
        let (token, name, service) = (self.greeting.clone(), self.shared.uplink.clone(), self.service.clone());
        tokio::spawn(async move {
            let start = Instant::now();
            for after in GREETINGS {
                tokio::select! {
                    () = token.cancelled() => return,
                    () = tokio::time::sleep_until(start + after) => {}
                }
                if let Err(error) = Uplink::find(&name).and_then(|uplink| uplink.greet(&addresses)) {
                    tracing::warn!(%error, %service, "neighbours could not be told; they learn it when they ask");
                }
            }
        });
    }

    /// An Event at the Service: `kubectl describe` shows which node it is.
    async fn tell(&self, addresses: &[IpAddr]) {
        let (now, node) = (Timestamp::now(), &self.shared.node);
        let text = addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
        let (namespace, name) = (self.service.namespace.to_string(), self.service.name.to_string());
        // Who describes a Service looks for Events by its uid, which a World does not keep.
        let services: Api<Service> = Api::namespaced(self.shared.client.clone(), &namespace);
        let Ok(Ok(service)) = tokio::time::timeout(PATIENCE, services.get(&name)).await else { return };
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Service".into()),
                name: Some(name),
                namespace: Some(namespace.clone()),
                uid: service.metadata.uid,
                ..ObjectReference::default()
            },
            reason: Some("Announced".into()),
            message: Some(format!("Node {node} announces {text}")),
            type_: Some("Normal".into()),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource { component: Some("strake-agent".into()), host: Some(node.clone()) }),
            reporting_component: Some("strake-agent".into()),
            reporting_instance: Some(node.clone()),
            ..Event::default()
        };
        let api: Api<Event> = Api::namespaced(self.shared.client.clone(), &namespace);
        // News, not state: one that is lost is lost.
        if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, api.create(&PostParams::default(), &event)).await {
            tracing::debug!(%error, service = %self.service, "no Event of the announcement");
        }
    }
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// Between 0.9 and 1.1, other for each name and moment.
fn jitter(name: &str, now_ns: u64) -> f64 {
    let mixed = name.bytes().fold(now_ns, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    0.9 + (mixed >> 11) as f64 / (1_u64 << 53) as f64 * 0.2
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Duration = Duration::ZERO;

    fn may() -> Stand {
        Stand { addresses: vec!["192.0.2.10".parse().unwrap()], may: true, gone: false }
    }

    fn observed(version: u64, holder: Option<&str>, now: Instant) -> Observed {
        let mut lease = lease::held(&ObjectName::new("default", "web"), None, holder);
        lease.metadata.resource_version = Some(version.to_string());
        Observed::nothing(now).then(&lease, true, now)
    }

    #[test]
    fn a_lease_is_taken_when_it_is_free_and_it_is_this_nodes_turn() {
        let start = Instant::now();
        let act = |now, lease: &Observed, turn| decide(now, &may(), lease, None, "a", turn, start);
        let turn = TURN * 2;
        assert_eq!(act(start, &Observed::nothing(start), NONE), Act::Take);
        assert_eq!(act(start, &Observed::nothing(start), turn), Act::Wait(Some(start + turn)));
        assert_eq!(act(start, &observed(1, None, start), NONE), Act::Take);
        let theirs = observed(1, Some("b"), start);
        let end = start + lease::DURATION;
        assert_eq!(act(start, &theirs, turn), Act::Wait(Some(end + turn)));
        assert_eq!(act(end, &theirs, NONE), Act::Take);
        // Its own, of the agent before.
        assert_eq!(act(start, &observed(1, Some("a"), start), turn), Act::Take);
        let soon = end + RETRY;
        assert_eq!(decide(end, &may(), &theirs, None, "a", NONE, soon), Act::Wait(Some(soon)));
        let not = Stand { may: false, ..may() };
        assert_eq!(decide(end, &not, &theirs, None, "a", NONE, start), Act::Wait(None));
    }

    #[test]
    fn what_is_held_is_renewed_until_it_is_lost_or_given_up() {
        let start = Instant::now();
        let held = Held { until: start + lease::DURATION, renew: start + lease::RENEWAL };
        let mine = observed(1, Some("a"), start);
        let act = |now, stand: &Stand, lease: &Observed| decide(now, stand, lease, Some(held), "a", NONE, start);
        assert_eq!(act(start, &may(), &mine), Act::Wait(Some(held.renew)));
        assert_eq!(act(start, &may(), &observed(2, Some("b"), start)), Act::Lost);
        assert_eq!(act(start, &Stand { may: false, ..may() }, &mine), Act::GiveUp);
        assert_eq!(act(start, &Stand { gone: true, ..Stand::default() }, &mine), Act::GiveUp);
        assert_eq!(act(held.renew, &may(), &mine), Act::Renew);
        assert_eq!(act(held.until, &may(), &mine), Act::Lost);
    }

    #[test]
    fn a_lease_without_a_service_is_swept_when_it_has_ended() {
        let start = Instant::now();
        let gone = Stand { gone: true, ..Stand::default() };
        let act = |now, lease: &Observed| decide(now, &gone, lease, None, "a", NONE, start);
        let (theirs, end) = (observed(1, Some("b"), start), start + lease::DURATION);
        assert_eq!(act(start, &theirs), Act::Wait(Some(end)));
        assert_eq!(act(start, &observed(1, None, start)), Act::Sweep);
        assert_eq!((act(end, &theirs), act(end, &theirs.gone())), (Act::Sweep, Act::End));
    }

    #[test]
    fn jitter_stays_within_a_tenth() {
        let all: Vec<f64> = (0..1000).map(|n| jitter("strake-l2-default.web", n * 7_919)).collect();
        assert!(all.iter().all(|j| (0.9..=1.1).contains(j)));
        assert!(all.iter().any(|j| *j < 0.95) && all.iter().any(|j| *j > 1.05));
    }
}

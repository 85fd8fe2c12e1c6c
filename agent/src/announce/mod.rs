//! Announcing LoadBalancer addresses on the nodes' network: one node answers ARP and neighbour discovery for each.
//!
//! ```text
//!   World ──stands──► what this node may announce ─┐
//!                                                  ├─► a contest a Service ──► the kernel's ANNOUNCED, with a deadline
//!   Leases of kube-system ──► who announces now ───┘         │                 gratuitous ARP, neighbour advertisements
//!                                                            └─► its Lease
//! ```
//!
//! The node that holds a Service's Lease answers. The kernel does, until the moment the Lease ends: a node whose agent
//! has died falls silent by itself before another takes over, and nobody compares clocks for it. Who takes a free Lease
//! first is decided by a hash, so that many Services spread over the nodes; who has one keeps it while it may.
//!
//! Knows Leases and what a World says of Services. Not how an address is answered (the datapath), nor who gave it.

mod contest;
mod frames;
mod lease;
mod link;
mod stand;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_leases};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde::Serialize;
use strake_datapath::Announcer;
use strake_state::{ObjectName, World};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Error;
use contest::Contest;
use lease::Observed;
use stand::{Stand, Whose, stand};

/// Who announces a Service's addresses, as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Announcement {
    pub service: String,
    pub addresses: Vec<std::net::IpAddr>,
    /// Nobody may, or nobody has begun: none.
    pub node: Option<String>,
    /// This node answers for them.
    pub here: bool,
}

/// What is announced, for whoever asks.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<BTreeMap<ObjectName, Announcement>>>);

impl Board {
    /// Every announcement, ordered by Service.
    pub fn all(&self) -> Vec<Announcement> {
        self.0.lock().values().cloned().collect()
    }

    /// Which node announces an address.
    pub fn node(&self, address: std::net::IpAddr) -> Option<String> {
        let all = self.0.lock();
        all.values().find(|row| row.addresses.contains(&address)).and_then(|row| row.node.clone())
    }

    fn put(&self, service: &ObjectName, row: Option<Announcement>) {
        let mut all = self.0.lock();
        match row {
            Some(row) => all.insert(service.clone(), row),
            None => all.remove(service),
        };
    }
}

/// What announcing needs.
pub struct Setup {
    pub client: Client,
    /// Where addresses are announced.
    pub uplink: String,
    /// Also those that somebody else gave, to Services of our class or of none.
    pub everyones: bool,
    pub announcer: Announcer,
    pub board: Board,
}

/// What the contests share.
struct Shared {
    leases: Api<Lease>,
    client: Client,
    node: String,
    uplink: String,
    announcer: Announcer,
    board: Board,
    worlds: watch::Receiver<Arc<World>>,
}

/// A contest's inputs.
struct Inputs {
    stand: watch::Sender<Stand>,
    lease: watch::Sender<Observed>,
}

/// Announces until `token` is cancelled; then gives up everything that this node announces.
pub async fn run(setup: Setup, mut worlds: watch::Receiver<Arc<World>>, token: CancellationToken) -> Result<(), Error> {
    let leases: Api<Lease> = Api::namespaced(setup.client.clone(), lease::NAMESPACE);
    let selected = watcher::Config::default().labels(lease::SELECTOR);
    let mut events = watch_leases(leases.clone(), selected).default_backoff().boxed();
    let node = worlds.borrow().node_name.to_string();
    let whose = if setup.everyones { Whose::Everyones } else { Whose::Ours };
    if let Err(error) = setup.announcer.sweep() {
        tracing::warn!(%error, "rows of addresses that were announced before are left");
    }
    let shared = Arc::new(Shared {
        leases,
        client: setup.client,
        node,
        uplink: setup.uplink,
        announcer: setup.announcer,
        board: setup.board,
        worlds: worlds.clone(),
    });
    let mut all = All { shared, whose, contests: BTreeMap::new(), tasks: JoinSet::new(), token: token.clone() };
    let mut before: Option<Arc<World>> = None;
    let mut listed: BTreeMap<ObjectName, Lease> = BTreeMap::new();
    let mut known = false;
    let mut failing = false;
    loop {
        // Nobody takes part before it knows who announces already.
        let world = worlds.borrow_and_update().clone();
        if known && world.synced {
            all.follow(before.as_deref(), &world);
            before = Some(world);
        }
        tokio::select! {
            () = token.cancelled() => break,
            changed = worlds.changed() => if changed.is_err() { break },
            Some(ended) = all.tasks.join_next() => match ended {
                Ok(service) => all.ended(service),
                Err(error) => return Err(Error::Part(format!("announcing a Service panicked: {error}"))),
            },
            event = events.next() => {
                let Some(event) = event else { break };
                if event.is_ok() {
                    failing = false;
                }
                match event {
                    Ok(Event::Init) => listed.clear(),
                    Ok(Event::InitApply(lease)) => { lease::service(&lease).map(|of| listed.insert(of, lease)); }
                    Ok(Event::InitDone) => {
                        known = true;
                        all.list(std::mem::take(&mut listed));
                    }
                    Ok(Event::Apply(lease)) => all.observe(&lease, true),
                    Ok(Event::Delete(lease)) => all.observe(&lease, false),
                    Err(error) if failing => tracing::debug!(%error, "watching Leases"),
                    Err(error) => {
                        failing = true;
                        tracing::warn!(%error, "Leases of announced Services cannot be watched; trying again");
                    }
                }
            }
        }
    }
    // Each gives up what it holds.
    token.cancel();
    while all.tasks.join_next().await.is_some() {}
    Ok(())
}

struct All {
    shared: Arc<Shared>,
    whose: Whose,
    contests: BTreeMap<ObjectName, Inputs>,
    tasks: JoinSet<ObjectName>,
    token: CancellationToken,
}

impl All {
    /// Brings every contest's stand to what the World says; begins one where a Service is to be announced.
    fn follow(&mut self, before: Option<&World>, world: &World) {
        let same_node = before.is_some_and(|before| before.this_node() == world.this_node());
        let mut names = match before {
            Some(before) => world.changed_services(before),
            None => world.services.keys().cloned().collect(),
        };
        if !same_node {
            names.extend(self.contests.keys().cloned());
        }
        for name in names {
            let now = stand(world, &name, self.whose);
            match self.contests.get(&name) {
                Some(inputs) => {
                    inputs.stand.send_if_modified(|old| {
                        let differs = *old != now;
                        *old = now;
                        differs
                    });
                }
                None if !now.addresses.is_empty() => self.begin(name, now, Observed::nothing(Instant::now())),
                None => {}
            }
        }
    }

    /// A contest found its Service and its Lease gone. The Service may be back since.
    fn ended(&mut self, service: ObjectName) {
        self.contests.remove(&service);
        let now = stand(&self.shared.worlds.borrow(), &service, self.whose);
        if !now.addresses.is_empty() && !self.token.is_cancelled() {
            self.begin(service, now, Observed::nothing(Instant::now()));
        }
    }

    fn begin(&mut self, service: ObjectName, stand: Stand, lease: Observed) {
        let (stand_in, stand) = watch::channel(stand);
        let (lease_in, lease) = watch::channel(lease);
        self.contests.insert(service.clone(), Inputs { stand: stand_in, lease: lease_in });
        let contest = Contest::new(self.shared.clone(), service, stand, lease);
        self.tasks.spawn(contest.run(self.token.clone()));
    }

    /// Takes what the watch says about a Lease.
    fn observe(&mut self, lease: &Lease, there: bool) {
        let Some(service) = lease::service(lease) else { return };
        let now = Instant::now();
        match self.contests.get(&service) {
            Some(inputs) => inputs.lease.send_modify(|seen| *seen = seen.then(lease, there, now)),
            // Of a Service that this node does not announce, or that is gone: then its Lease is to be swept away.
            None if there => {
                let world = self.shared.worlds.borrow().clone();
                self.begin(
                    service.clone(),
                    stand(&world, &service, self.whose),
                    Observed::nothing(now).then(lease, true, now),
                );
            }
            None => {}
        }
    }

    fn list(&mut self, listed: BTreeMap<ObjectName, Lease>) {
        for (service, inputs) in &self.contests {
            if !listed.contains_key(service) {
                inputs.lease.send_modify(|seen| *seen = seen.gone());
            }
        }
        listed.values().for_each(|lease| self.observe(lease, true));
    }
}

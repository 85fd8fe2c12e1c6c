//! The running datapath of a node: one handle that the agent shares.
//!
//! Everything under one lock: applies and endpoints are rare and short, and the packet path never waits for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use strake_abi::conntrack::{CONNTRACK, CONNTRACK_V6};
use strake_abi::flow::{Counter, DropReason, EventKind};
use strake_abi::service::{BACKENDS, MAGLEV};
use strake_state::{ObjectName, World};
use tracing::{info, warn};

use crate::announce::Announcer;
use crate::compile::{Runtime, compile, returns_directly};
use crate::config::{Config, LbMode};
use crate::conntrack::Connections;
use crate::conntrack::room::{Evictions, Room, Said};
use crate::diff::{DiffError, diff};
use crate::endpoint::{EndpointError, EndpointSpec, Endpoints};
use crate::explain::{ExplainError, Explanation, Host, Question, explain};
use crate::features::{Features, has_tcx, own_netns_cookie};
use crate::installed::Installed;
use crate::loader::{self, LoadError, Loaded};
use crate::maps::{KernelMaps, MapsError, Occupancy, Rows};
use crate::names::Names;
use crate::plan::{self, Maps};
use crate::planner::{PlanError, Planner, Proposal};
use crate::sizes::MapSizes;
use crate::slices::GRACE;
use crate::stale::sweep;
use crate::status::{Applied, Attached, EndpointStatus, LbStatus, Notice, Status, Totals, now};
use crate::sys;
use crate::trace::{Trace, trace};
use crate::upgrade::{Object, cleanup_clsact};
use crate::view::View;
use crate::xdp::XdpStatus;

/// What may go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("setting up the datapath")]
    Load(#[from] LoadError),
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}

/// What became of a snapshot.
#[derive(Clone, Debug)]
pub enum ApplyOutcome {
    /// The first complete view of the cluster is still to come; nothing is touched before it.
    NotSynced,
    /// The maps hold that already.
    Unchanged,
    Applied(Applied),
}

/// A handle on the node's datapath; clones share it. Dropping the last one leaves programs, maps and links in place.
#[derive(Clone)]
pub struct Datapath {
    inner: Arc<Mutex<Inner>>,
    config: Arc<Config>,
}

struct Inner {
    loaded: Loaded,
    xdp: XdpStatus,
    maps: KernelMaps,
    planner: Planner,
    endpoints: Endpoints,
    last: Option<Applied>,
    totals: Totals,
    last_error: Option<String>,
    evictions: Evictions,
    said: [Said; 2],
    /// Until that failed once.
    tables_grow: bool,
}

impl Datapath {
    /// Whether this kernel and host have what [`Datapath::start`] needs. Takes a few milliseconds, changes nothing.
    pub fn preflight(config: &Config) -> Result<(), Error> {
        loader::preflight(config).map(drop).map_err(|error| Error::Load(error.into()))
    }

    /// Loads the programs, takes over or makes the pinned maps, and attaches to the cgroup and the uplink. What an
    /// agent before us left keeps working without a gap. Blocks for some 100 ms (the kernel verifies the programs).
    pub fn start(config: Config) -> Result<Self, Error> {
        let started = Instant::now();
        let mut loaded = loader::load(&config, &Object::own())?;
        let mut maps = KernelMaps::open(&loaded.maps_folder())?;
        let runtime = Runtime {
            uplink_ifindex: loaded.uplink_ifindex,
            uplink_mtu: loaded.uplink_mtu,
            host_netns_cookie: if loaded.features.netns_cookie { own_netns_cookie().unwrap_or(0) } else { 0 },
        };
        let sizes = maps.sizes(config.sizes);
        let mut installed = Installed::new(maps.contents()?, &sizes);
        // Maps that wait for the first snapshot may have a row of zeros here, and rows of an agent before us.
        let fresh = installed.config.abi_version == 0;
        if fresh && !loaded.waits() {
            // The programs must not run without a CONFIG: what they know before the first snapshot is the node alone.
            let empty = World { node_name: config.node_name.as_str().into(), ..World::default() };
            let desired = compile(&empty, &config, runtime);
            let (plan, after) = diff(&installed, &desired).map_err(PlanError::from)?;
            plan::apply(&plan, &mut maps)?;
            installed = after;
        } else if !fresh {
            // The uplink or the namespace may have been made anew since; the rest waits for the first snapshot.
            let mut row = installed.config;
            row.abi_version = strake_abi::ABI_VERSION;
            row.uplink_ifindex = runtime.uplink_ifindex;
            row.uplink_mtu = runtime.uplink_mtu;
            row.host_netns_cookie = runtime.host_netns_cookie;
            if row != installed.config {
                maps.set_config(&row)?;
                installed.config = row;
            }
        }
        let waits = loaded.waits();
        if !waits {
            loaded.take_over(None)?;
        }
        loaded.attach_uplink(config.uplink.as_deref())?;
        loaded.attach_sockets(&config.cgroup_root)?;
        // Last, for it leaves to the others what it does not do.
        let xdp = loaded.attach_xdp(&config);
        info!(
            took_ms = started.elapsed().as_millis() as u64,
            kernel = loaded.features.kernel,
            taken_over = !fresh,
            waits,
            services = installed.services.len(),
            "datapath attached"
        );
        let config = Arc::new(config);
        let mut inner = Inner {
            loaded,
            xdp,
            maps,
            planner: Planner::new(config.clone(), runtime, sizes, installed),
            endpoints: Endpoints::default(),
            last: None,
            totals: Totals::default(),
            last_error: None,
            evictions: Evictions::default(),
            said: Default::default(),
            tables_grow: true,
        };
        // From here on it is this agent's.
        inner.connections()?;
        Ok(Self { inner: Arc::new(Mutex::new(inner)), config })
    }

    /// Brings the maps to what the snapshot says. Every packet sees the old or the new state of each Service.
    pub fn apply(&self, world: &Arc<World>) -> Result<ApplyOutcome, Error> {
        let inner = &mut *self.inner.lock();
        let result = inner.apply(world, &self.config);
        match &result {
            Ok(ApplyOutcome::Applied(applied)) => {
                inner.totals.applied += 1;
                inner.last = Some(applied.clone());
                inner.last_error = None;
            }
            Ok(ApplyOutcome::Unchanged) => {
                inner.totals.unchanged += 1;
                inner.last_error = None;
            }
            Ok(ApplyOutcome::NotSynced) => {}
            Err(error) => {
                match error {
                    Error::Plan(PlanError::Refused { .. }) => inner.totals.refused += 1,
                    _ => inner.totals.failed += 1,
                }
                inner.last_error = Some(display_chain(error));
            }
        }
        result
    }

    /// Serves a Pod's interface: when this returns, its first packet is answered. Again with the same interface is
    /// harmless, and exchanges programs in place.
    pub fn add_endpoint(&self, spec: EndpointSpec) -> Result<(), Error> {
        let inner = &mut *self.inner.lock();
        let cookies = inner.loaded.features.netns_cookie;
        let (interface, ifindex) = (spec.interface.clone(), spec.ifindex);
        let known = inner.endpoints.learn(spec, cookies, inner.planner.world(), &self.config.sandboxes, &inner.maps)?;
        inner.endpoints.write(known, &mut inner.maps)?;
        inner.loaded.attach_pod(&interface, ifindex)?;
        Ok(())
    }

    /// Forgets a Pod's interface, which may be gone. Returns whether it was known.
    pub fn remove_endpoint(&self, interface: &str) -> Result<bool, Error> {
        let inner = &mut *self.inner.lock();
        // The programs first: without rows they would drop what they cannot attribute, which is right, but is not
        // worth an event for each packet of a Pod that is going.
        inner.loaded.detach_pod(interface)?;
        Ok(inner.endpoints.remove(interface, &mut inner.maps)?.is_some())
    }

    /// Forgets Pods that were not added since the start: they went while no agent ran. Call it once, after all that
    /// are known to be there have been added. Returns how many.
    pub fn prune_endpoints(&self) -> Result<usize, Error> {
        let inner = &mut *self.inner.lock();
        Ok(inner.endpoints.prune(&mut inner.maps)?)
    }

    /// What would happen to a connection to a Service.
    pub fn trace(&self, service: &ObjectName) -> Result<Trace, Error> {
        let inner = &*self.inner.lock();
        Ok(trace(service, inner.planner.world(), &inner.planner.desired(), &self.config, &inner.maps)?)
    }

    /// The tracked connections, to be read without holding anything up.
    pub fn connections(&self) -> Result<Connections, Error> {
        let (names, config, removed) = {
            let inner = &*self.inner.lock();
            (inner.names(), inner.maps.config()?, inner.evictions.removed.clone())
        };
        Ok(Connections::open(&self.maps_folder(), names, config, removed)?)
    }

    /// What the maps hold, to be read without holding anything up.
    pub fn view(&self) -> Result<View, Error> {
        Ok(self.open_view()?)
    }

    fn open_view(&self) -> Result<View, MapsError> {
        let names = self.inner.lock().names();
        Ok(View { maps: KernelMaps::open(&self.maps_folder())?, names })
    }

    /// What one connection would meet, hook by hook, by what the maps hold now.
    pub fn explain(&self, question: &Question) -> Result<Explanation, ExplainError> {
        let (features, xdp) = {
            let inner = &*self.inner.lock();
            (inner.loaded.features.clone(), inner.xdp.mode)
        };
        let host = Host {
            xdp,
            set_retval: features.set_retval,
            netns_cookie: features.netns_cookie,
            uplink: self.config.uplink.clone(),
            sockets: self.config.cgroup_root.display().to_string(),
            sandboxes: self.config.sandboxes.clone(),
        };
        explain(&self.open_view()?, &host, question)
    }

    /// The snapshot that was applied last.
    pub fn world(&self) -> Arc<World> {
        self.inner.lock().planner.world().clone()
    }

    /// What answers neighbours for LoadBalancer addresses.
    pub fn announcer(&self) -> Result<Announcer, Error> {
        Ok(Announcer::open(&self.maps_folder())?)
    }

    /// What this kernel can do.
    pub fn features(&self) -> Features {
        self.inner.lock().loaded.features.clone()
    }

    /// The folder of the pinned maps, for readers such as the flow log.
    pub fn maps_folder(&self) -> PathBuf {
        self.inner.lock().loaded.maps_folder()
    }

    /// Everything about the datapath. Walks the maps it counts: some milliseconds at 30,000 Services.
    pub fn status(&self) -> Result<Status, Error> {
        let inner = &mut *self.inner.lock();
        let (connections, connections_evicted) = inner.connections()?;
        let inner = &*inner;
        let maps = &inner.maps;
        let mut occupancy: Vec<Occupancy> = vec![
            maps.services.occupancy()?,
            maps.services_v6.occupancy()?,
            maps.members.occupancy()?,
            maps.sources.occupancy()?,
            maps.names.occupancy()?,
            maps.nodes.occupancy()?,
            maps.nodes_v6.occupancy()?,
            maps.endpoints.occupancy()?,
            maps.sock_flows.occupancy()?,
            maps.sock_nat.occupancy()?,
            maps.sock_flows_v6.occupancy()?,
            maps.sock_nat_v6.occupancy()?,
            maps.endpoints_by_ip.occupancy()?,
            maps.endpoints_ip_v6.occupancy()?,
            maps.pods_by_netns.occupancy()?,
            maps.fragments.occupancy()?,
            maps.fragments_v6.occupancy()?,
            maps.announced.occupancy()?,
            maps.affinity.occupancy()?,
            maps.affinity_v6.occupancy()?,
        ];
        let tracked = |room: &Room| Occupancy { map: room.map, entries: room.rows, capacity: room.capacity };
        occupancy.extend(connections.iter().map(tracked));
        let used = inner.planner.installed().map_or(0, |installed| installed.allocator.used());
        occupancy.push(Occupancy { map: BACKENDS, entries: used.into(), capacity: maps.slots() });
        let rows = inner.planner.installed().map_or(0, |installed| installed.table_allocator.used());
        let capacity = maps.sizes(self.config.sizes).maglev;
        occupancy.push(Occupancy { map: MAGLEV, entries: rows.into(), capacity });
        let attached = inner.loaded.attached.iter().map(|(program, (target, how))| Attached {
            program: program.clone(),
            target: target.clone(),
            how: *how,
        });
        // Without namespace cookies the hooks cannot tell whose socket it is.
        let cookies = inner.loaded.features.netns_cookie;
        let cannot_opt_out = inner.endpoints.list().into_iter().filter(|known| known.no_socket && !cookies);
        let cannot_opt_out = cannot_opt_out.map(|known| Notice {
            object: known.spec.pod.to_string(),
            message: "it cannot opt out of the socket hooks on this kernel: that needs SO_NETNS_COOKIE (Linux 5.14)"
                .to_owned(),
        });
        let endpoints = inner.endpoints.list().into_iter().map(|known| EndpointStatus {
            pod: known.spec.pod.to_string(),
            ip: known.spec.ip,
            interface: known.spec.interface.clone(),
            socket_hooks: !known.no_socket || !cookies,
            opted_out: inner
                .planner
                .world()
                .socket_opt_out(&known.spec.pod, &self.config.sandboxes)
                .map(|why| why.to_string()),
        });
        let filled =
            connections.iter().filter_map(|room| Some(Notice { object: room.map.into(), message: room.warning()? }));
        let filled: Vec<Notice> = filled.collect();
        let warnings = inner.planner.warnings();
        let needs = inner.planner.needs();
        let drops = maps.drops()?;
        let counters = maps.counters()?;
        let lost = maps.events_lost()?;
        let nth = |values: &[u64], index: u8| values.get(usize::from(index)).copied().unwrap_or(0);
        Ok(Status {
            abi_version: strake_abi::ABI_VERSION,
            features: inner.loaded.features.clone(),
            attached: attached.collect(),
            load_balancer: inner.load_balancer(&self.config),
            xdp: inner.xdp.clone(),
            endpoints: endpoints.collect(),
            services: inner.planner.world().services.len(),
            frontends: needs.frontends,
            names: needs.dns_names,
            maps: occupancy,
            connections,
            connections_evicted,
            last_apply: inner.last.clone(),
            totals: inner.totals,
            last_error: inner.last_error.clone(),
            warnings: warnings
                .map(|warning| Notice { object: warning.object.to_string(), message: warning.message.to_string() })
                .chain(cannot_opt_out)
                .chain(filled)
                .collect(),
            drops: DropReason::ALL.iter().skip(1).map(|r| (r.as_str(), nth(&drops, *r as u8))).collect(),
            counters: Counter::ALL.iter().map(|c| (c.as_str(), nth(&counters, *c as u8))).collect(),
            events_lost: EventKind::ALL.iter().map(|k| (k.as_str(), nth(&lost, *k as u8))).collect(),
        })
    }

    /// Says in the log when a map of connections is nearly full of flows that live, and whose they are; not too often. Reads
    /// those maps, and holds nothing up meanwhile: for whoever is woken by new flows.
    pub fn check_room(&self) -> Result<(), Error> {
        let (world, config) = {
            let inner = &*self.inner.lock();
            (inner.planner.world().clone(), inner.maps.config()?)
        };
        let pins = self.maps_folder();
        let (v4, v6) = (Rows::open(&pins, CONNTRACK)?, Rows::open(&pins, CONNTRACK_V6)?);
        let rooms = Room::both(&v4, &v6, &config, &world)?;
        for (index, room) in rooms.iter().enumerate() {
            let Some(message) = room.warning() else { continue };
            if self.inner.lock().said.get_mut(index).is_some_and(|said| said.is_due(Instant::now())) {
                warn!(map = room.map, rows = room.rows, live = room.live, capacity = room.capacity, "{message}");
            }
        }
        Ok(())
    }

    /// Removes programs, links and maps of the node whose pins are under `bpf_root`. A kernel without tcx has no pins of
    /// what is attached to interfaces: from `interfaces`, the uplink and the host sides of veths, the filters are
    /// removed by name. Returns the pins that were there.
    pub fn cleanup(bpf_root: &Path, interfaces: &[&str]) -> Result<Vec<PathBuf>, Error> {
        let removed = loader::cleanup(bpf_root)?;
        if !has_tcx().map_err(LoadError::from)? {
            interfaces.iter().for_each(|interface| cleanup_clsact(interface));
        }
        Ok(removed)
    }
}

impl Inner {
    /// How full the maps of connections are, and how many rows gave way so far.
    fn connections(&mut self) -> Result<([Room; 2], u64), MapsError> {
        let maps = &self.maps;
        let early = maps.counters()?;
        let rooms = Room::both(&maps.conntrack, &maps.conntrack_v6, &maps.config()?, self.planner.world())?;
        let late = maps.counters()?;
        let evicted = self.evictions.count(&early, rooms.iter().map(|room| room.rows).sum(), &late);
        Ok((rooms, evicted))
    }

    fn load_balancer(&self, config: &Config) -> LbStatus {
        match returns_directly(self.planner.world(), config) {
            Ok(()) => LbStatus {
                mode: LbMode::Dsr.as_str(),
                uplink_mtu: Some(self.loaded.uplink_mtu).filter(|mtu| *mtu != 0),
                why: "",
            },
            Err(why) => LbStatus { mode: LbMode::Snat.as_str(), uplink_mtu: None, why },
        }
    }

    fn names(&self) -> Names {
        Names::new(self.planner.world(), &self.planner.desired(), self.planner.installed())
    }

    fn apply(&mut self, world: &Arc<World>, config: &Config) -> Result<ApplyOutcome, Error> {
        if !world.synced {
            return Ok(ApplyOutcome::NotSynced);
        }
        let started = Instant::now();
        if self.planner.is_lost() {
            let sizes = self.maps.sizes(config.sizes);
            self.planner.restored(Installed::new(self.maps.contents()?, &sizes));
        }
        let proposal = match self.planner.propose(world, started) {
            proposed if lacks_room(&proposed) && sys::wait_for_running_programs().is_ok() => {
                self.planner.reclaim_all();
                self.planner.propose(world, started)
            }
            proposed => proposed,
        };
        let mut proposal = match proposal {
            Err(error) => match self.larger(&error, config) {
                Some(sizes) => {
                    self.grow(sizes, config)?;
                    self.planner.propose(world, started)
                }
                None => Err(error),
            },
            proposed => proposed,
        };
        if let Ok(proposed) = &proposal
            && let Some(sizes) = self.room_for_tables(proposed, config)
        {
            match self.grow(sizes, config) {
                Ok(()) => proposal = self.planner.propose(world, started),
                // Those Services are served all the same, at random. It would be no other with the next snapshot.
                Err(error) => {
                    self.tables_grow = false;
                    warn!(error = display_chain(&error), rows = sizes.maglev, "{MAGLEV} cannot be made larger");
                }
            }
        }
        let proposal = proposal.inspect_err(|error| {
            if let PlanError::Refused { generation, violations } = error {
                violations.iter().for_each(|violation| warn!(%violation, generation, "invariant broken"));
            }
        })?;
        let planned = started.elapsed();

        self.endpoints.follow(world, &config.sandboxes, &mut self.maps)?;
        if let Err(error) = plan::apply(&proposal.plan, &mut self.maps) {
            self.planner.lost();
            return Err(error.into());
        }
        let write_us = (started.elapsed() - planned).as_micros() as u64;
        let waited = self.loaded.waits();
        if waited {
            self.loaded.take_over(None)?;
            self.loaded.attach_all(config)?;
            self.xdp = self.loaded.attach_xdp(config);
            info!("programs exchanged: the maps hold the whole cluster");
        }
        let (writes, partial) = (proposal.plan.writes(), proposal.is_partial());
        // Services that could not be read have other ids now; what sockets remember of the old ones is not of backends that
        // are gone.
        let removed = if waited { Vec::new() } else { proposal.plan.members_removed.clone() };
        self.planner.commit(proposal, Instant::now());
        if !partial {
            sys::trim_memory();
        }
        if writes == 0 {
            return Ok(ApplyOutcome::Unchanged);
        }
        let swept = sweep(&mut self.maps, &removed, &config.cgroup_root)?;
        Ok(ApplyOutcome::Applied(Applied {
            generation: world.generation,
            writes,
            partial,
            plan_us: planned.as_micros() as u64,
            write_us,
            swept,
            time: now(),
        }))
    }
}

impl Inner {
    /// The sizes with which there would be a plan, if it is only room that it lacks, and if that may be had.
    fn larger(&self, error: &PlanError, config: &Config) -> Option<MapSizes> {
        let sizes = self.maps.sizes(config.sizes);
        match error {
            // These programs have not taken over yet: one thing at a time.
            _ if self.loaded.is_beside() => None,
            PlanError::Refused { violations, .. } => sizes.with_room_for(violations, config.max_rows),
            PlanError::Diff(DiffError::NoRoom { source, .. }) => sizes.with_slots_for(source, config.max_rows),
            PlanError::Diff(DiffError::IdsExhausted) => None,
        }
    }

    /// The sizes with which more Maglev tables find room, if some found none and if that may be had.
    fn room_for_tables(&self, proposal: &Proposal, config: &Config) -> Option<MapSizes> {
        if !self.tables_grow || self.loaded.is_beside() {
            return None;
        }
        self.maps.sizes(config.sizes).with_tables_for(proposal.plan.table_rows_lacking(), config.max_rows)
    }

    /// Makes maps larger while they are in use: larger ones beside them, the same rows in them, and the programs exchanged
    /// for such as use those, as in an upgrade.
    fn grow(&mut self, sizes: MapSizes, config: &Config) -> Result<(), Error> {
        let started = Instant::now();
        let mut loaded = loader::load(&Config { sizes, ..config.clone() }, &Object::own())?;
        let maps = KernelMaps::open(&loaded.maps_folder())?;
        loaded.take_over(None)?;
        loaded.follow(&self.loaded);
        self.xdp = loaded.attach_xdp(config);
        self.loaded = loaded;
        self.maps = maps;
        // Slots that were retired a moment ago are free from here on.
        if sys::wait_for_running_programs().is_err() {
            std::thread::sleep(GRACE);
        }
        let sizes = self.maps.sizes(config.sizes);
        self.planner.resized(sizes, Installed::new(self.maps.contents()?, &sizes));
        info!(
            took_ms = started.elapsed().as_millis() as u64,
            services = sizes.services,
            services_v6 = sizes.services_v6,
            backends = sizes.backends,
            names = sizes.dns_names,
            tables = sizes.maglev,
            "maps made larger"
        );
        Ok(())
    }
}

/// Whether something was asked for that retired slices or tables may have taken the room of.
fn lacks_room(proposed: &Result<Proposal, PlanError>) -> bool {
    match proposed {
        Ok(proposal) => !proposal.plan.without_table.is_empty(),
        Err(error) => matches!(error, PlanError::Diff(DiffError::NoRoom { .. })),
    }
}

fn display_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

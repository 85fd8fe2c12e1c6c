//! From a snapshot to the plan that brings the maps to it, and what has to be remembered for the next one.
//!
//! ```text
//!   propose ──► Proposal { plan } ──(written)──► commit
//!                       └──────(a write failed)──► lost ──(read back)──► restored
//! ```
//!
//! Most snapshots differ from the one before in a few Services. Those are planned by themselves (see `part`), which
//! costs the same in a cluster of any size. After a start or a failed write, and where others share what changed,
//! everything is compiled and compared.
//!
//! May not know: how maps are written and read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use strake_abi::service::{MAGLEV, ServiceKey6};
use strake_state::World;

use crate::check::{Needs, Violation, check};
use crate::compile::{Runtime, compile};
use crate::config::Config;
use crate::desired::{Desired, Warning};
use crate::diff::{DiffError, diff};
use crate::hash::HashSet;
use crate::installed::Installed;
use crate::part::Part;
use crate::plan::Plan;
use crate::sizes::MapSizes;

/// Why there is no plan. The maps keep what they hold.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("snapshot {generation} breaks {} invariants, the kernel keeps the last good one; first: {}", violations.len(), violations.first().map_or_else(String::new, ToString::to_string))]
    Refused { generation: u64, violations: Vec<Violation> },
    #[error("planning the maps' update")]
    Diff(#[from] DiffError),
}

/// What is remembered of the snapshot that the maps hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Last {
    pub needs: Needs,
    /// Frontends that more than one object asks for.
    pub contested: HashSet<ServiceKey6>,
    pub warnings: BTreeSet<Warning>,
    /// Every set that asked for a Maglev table has one.
    pub all_tables: bool,
}

impl Last {
    fn of(desired: &Desired, plan: &Plan) -> Self {
        let no_table = plan.without_table.iter().map(|(owner, _)| {
            let (object, port) = owner.split_once(':').unwrap_or((owner, ""));
            let message =
                format!("no room in {MAGLEV} for the table of port {port}: its backends are chosen at random");
            Warning { object: object.into(), message: message.into() }
        });
        Self {
            needs: Needs::of(desired),
            contested: desired.contested.clone(),
            warnings: desired.warnings.iter().cloned().chain(no_table).collect(),
            all_tables: plan.without_table.is_empty(),
        }
    }
}

/// A plan, and what is so once it is written.
pub struct Proposal {
    pub plan: Plan,
    world: Arc<World>,
    next: Next,
}

enum Next {
    Whole(Box<(Installed, Last)>),
    Part(Box<Part>),
}

impl Proposal {
    /// Whether it is of the changed Services alone.
    pub fn is_partial(&self) -> bool {
        matches!(self.next, Next::Part(_))
    }
}

/// What the maps hold, and of which snapshot.
pub struct Planner {
    config: Arc<Config>,
    runtime: Runtime,
    sizes: MapSizes,
    /// None after a failed write, until they are read back.
    installed: Option<Installed>,
    world: Arc<World>,
    /// None until a snapshot was committed.
    last: Option<Last>,
}

impl Planner {
    /// `sizes` are those of the maps as they are.
    pub fn new(config: Arc<Config>, runtime: Runtime, sizes: MapSizes, installed: Installed) -> Self {
        Self { config, runtime, sizes, installed: Some(installed), world: Arc::default(), last: None }
    }

    /// What brings the maps from what they hold to what `world` says. With maps that were lost, none: see
    /// [`Planner::restored`].
    pub fn propose(&mut self, world: &Arc<World>, now: Instant) -> Result<Proposal, PlanError> {
        let (config, runtime) = (&self.config, self.runtime);
        let installed = self.installed.get_or_insert_with(|| Installed::empty(&self.sizes));
        installed.reclaim(now);
        if let Some(last) = &self.last
            && let Some((plan, part)) = Part::plan(installed, last, &self.world, world, config, runtime, &self.sizes)
        {
            return Ok(Proposal { plan, world: world.clone(), next: Next::Part(Box::new(part)) });
        }
        let desired = compile(world, config, runtime);
        if let Err(violations) = check(&desired, &self.sizes) {
            return Err(PlanError::Refused { generation: world.generation, violations });
        }
        let (plan, after) = diff(installed, &desired)?;
        let last = Last::of(&desired, &plan);
        Ok(Proposal { plan, world: world.clone(), next: Next::Whole(Box::new((after, last))) })
    }

    /// The plan is written.
    pub fn commit(&mut self, proposal: Proposal, now: Instant) {
        let Proposal { plan, world, next } = proposal;
        match next {
            Next::Whole(next) => {
                let (after, last) = *next;
                self.installed = Some(after);
                self.last = Some(last);
            }
            Next::Part(part) => {
                if let (Some(installed), Some(last)) = (&mut self.installed, &mut self.last) {
                    part.commit(installed, last);
                }
            }
        }
        if let Some(installed) = &mut self.installed {
            installed.retire(&plan, now);
        }
        self.world = world;
    }

    /// A write failed: what the maps hold is not known.
    pub fn lost(&mut self) {
        self.installed = None;
        self.last = None;
    }

    /// Whether the maps have to be read.
    pub fn is_lost(&self) -> bool {
        self.installed.is_none()
    }

    /// The maps were read back.
    pub fn restored(&mut self, installed: Installed) {
        self.installed = Some(installed);
    }

    /// The maps have been made larger, and hold what they held; every running program has been waited for.
    pub fn resized(&mut self, sizes: MapSizes, installed: Installed) {
        self.sizes = sizes;
        self.restored(installed);
    }

    /// Frees all that was retired: the caller has waited for every running program.
    pub fn reclaim_all(&mut self) {
        self.installed.iter_mut().for_each(Installed::reclaim_all);
    }

    pub fn installed(&self) -> Option<&Installed> {
        self.installed.as_ref()
    }

    /// The snapshot that was committed last.
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// That snapshot as map contents, compiled anew: for the questions of people.
    pub fn desired(&self) -> Desired {
        compile(&self.world, &self.config, self.runtime)
    }

    /// What it asked for and is not programmed, in order.
    pub fn warnings(&self) -> impl Iterator<Item = &Warning> {
        self.last.iter().flat_map(|last| &last.warnings)
    }

    /// How many map entries it needs.
    pub fn needs(&self) -> Needs {
        self.last.as_ref().map_or_else(Needs::default, |last| last.needs)
    }
}

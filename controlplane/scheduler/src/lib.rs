//! The scheduler: gives each Pod that has none a node, as an ordinary client of the API.
//!
//! ```text
//!   watches --> State { snapshot, queue } --pop--> filter -> score -> assume --> POST pods/NAME/binding
//!                   ^                                 | nowhere: condition, event, preemption
//!                   +---------------------------------+ and back into the queue until something changes
//! ```
//! The decision ([`decide`], [`filter`], [`score`], [`preempt`]) is pure over the [`snapshot`]; [`queue`] says who is
//! next; [`run`] watches and writes.
#![forbid(unsafe_code)]

pub mod decide;
pub mod filter;
pub mod podinfo;
pub mod preempt;
pub mod queue;
pub mod resources;
mod run;
pub mod score;
pub mod snapshot;
mod state;
#[cfg(test)]
mod tests;

pub use run::run;

/// What the scheduler must be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods with this `spec.schedulerName` are ours.
    pub scheduler_name: String,
    /// Share of the nodes to look for feasible ones among, in percent; 0 adapts it to the size of the cluster.
    pub percentage_of_nodes_to_score: u32,
    /// Most bindings under way at once.
    pub concurrent_bindings: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config { scheduler_name: "default-scheduler".into(), percentage_of_nodes_to_score: 0, concurrent_bindings: 64 }
    }
}

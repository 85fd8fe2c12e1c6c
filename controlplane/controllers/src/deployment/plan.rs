//! One pass over a Deployment: from the Deployment, its ReplicaSets and their Pods to the writes to make.
//!
//! The pass works on copies: a ReplicaSet that is scaled by an early step counts with its new size in the later
//! ones, exactly as it will once the writes are made in order.

use super::sets::{self, available, fenceposts, size, sum, wanted};
use super::status::{self, Reason};
use crate::runtime::{EventType, labels, ownership, pods};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// A write. They are made in order, and the first that fails ends the pass.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create the ReplicaSet of the current template.
    Create(Box<ReplicaSet>),
    /// Write size, annotations and minReadySeconds of one that is there.
    Update(Box<ReplicaSet>),
    /// Delete an old, empty one.
    Delete(Box<ReplicaSet>),
    /// Write the Deployment's revision annotation and status.
    Status(String, Box<DeploymentStatus>),
    /// Say what was done. Said only when every write before it succeeded.
    Event(EventType, &'static str, String),
}

/// The writes, and when to look again though nothing changed.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// In order.
    pub actions: Vec<Action>,
    /// For the progress deadline.
    pub look_after: Option<Duration>,
}

struct Pass<'a> {
    d: Deployment,
    sets: Vec<ReplicaSet>,
    new: Option<usize>,
    pods: &'a [Arc<Pod>],
    actions: Vec<Action>,
    status: DeploymentStatus,
    revision: String,
    now: Timestamp,
}

/// Plans a pass. `sets` are the Deployment's own ReplicaSets, `pods` the Pods those control.
pub fn plan(d: &Deployment, owned: &[Arc<ReplicaSet>], pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let mut pass = Pass {
        sets: owned.iter().map(|r| (**r).clone()).collect(),
        new: None,
        pods,
        actions: Vec::new(),
        status: d.status.clone().unwrap_or_default(),
        revision: d.metadata.annotations.as_ref().and_then(|a| a.get(sets::REVISION).cloned()).unwrap_or_default(),
        d: d.clone(),
        now,
    };
    let spec = sets::spec(d);
    if labels::is_empty(&spec.selector) {
        let message = "This deployment is selecting all pods. A non-empty selector is required.".to_string();
        pass.actions.push(Action::Event(EventType::Warning, "SelectingAll", message));
        pass.status.observed_generation = d.metadata.generation;
        return pass.finish();
    }
    pass.new = sets::find_new(&pass.d, &pass.sets);
    if d.metadata.deletion_timestamp.is_some() {
        pass.steady_status();
        return pass.finish();
    }
    let paused = spec.paused == Some(true);
    pass.pause_condition(paused);
    if paused || pass.is_scaling() {
        pass.revise(false);
        pass.scale();
        if paused {
            // Nothing rolls while paused, so old ones may be tidied away.
            pass.clean_up();
        }
        pass.steady_status();
    } else if sets::is_rolling(&pass.d) {
        pass.roll();
    } else {
        pass.recreate();
    }
    pass.finish()
}

impl Pass<'_> {
    fn finish(mut self) -> Plan {
        let annotation = self.d.metadata.annotations.as_ref().and_then(|a| a.get(sets::REVISION).cloned());
        if self.d.status.as_ref() != Some(&self.status) || annotation.unwrap_or_default() != self.revision {
            self.actions.push(Action::Status(self.revision.clone(), Box::new(self.status.clone())));
        }
        let paused = self.d.spec.as_ref().and_then(|s| s.paused) == Some(true);
        let look_after = status::time_left(&self.d, &self.status, self.now)
            .filter(|left| !paused && !left.is_zero() && !status::is_complete(&self.d, &self.status))
            // Conditions hold whole seconds.
            .map(|left| left + Duration::from_secs(1));
        Plan { actions: self.actions, look_after }
    }

    fn new_set(&self) -> Option<&ReplicaSet> {
        self.new.map(|i| &self.sets[i])
    }

    /// Indexes of the old ReplicaSets, oldest first.
    fn old(&self) -> Vec<usize> {
        let mut old: Vec<usize> = (0..self.sets.len()).filter(|i| Some(*i) != self.new).collect();
        old.sort_by_key(|i| sets::by_creation(&self.sets[*i]));
        old
    }

    fn steady_status(&mut self) {
        self.d.status = Some(self.status.clone());
        self.status = status::calculate(&self.d, &self.sets, self.new_set(), self.now);
    }

    fn rollout_status(&mut self) {
        // Conditions set earlier in the pass count as already there.
        let before = self.d.status.replace(self.status.clone());
        self.status = status::rollout(&self.d, &self.sets, self.new_set(), self.now);
        self.d.status = before;
    }

    fn pause_condition(&mut self, paused: bool) {
        let reason = status::condition(&self.status, "Progressing").and_then(|c| c.reason.clone());
        match (paused, reason.as_deref()) {
            // A stuck rollout says so until somebody acts.
            (_, Some("ProgressDeadlineExceeded")) => {}
            (true, Some("DeploymentPaused")) => {}
            (true, _) => {
                let text = "Deployment is paused".to_string();
                status::progress(&self.d, &mut self.status, Reason::DeploymentPaused, text, self.now);
            }
            (false, Some("DeploymentPaused")) => {
                let text = "Deployment is resumed".to_string();
                status::progress(&self.d, &mut self.status, Reason::DeploymentResumed, text, self.now);
            }
            (false, _) => {}
        }
    }

    /// The Deployment's size differs from what an active ReplicaSet was last scaled for.
    fn is_scaling(&self) -> bool {
        let active = self.sets.iter().filter(|r| size(r) > 0);
        active
            .filter_map(|r| sets::number(&r.metadata, sets::DESIRED_REPLICAS))
            .any(|n| n != i64::from(wanted(&self.d)))
    }

    /// Finds (or, with `create`, makes) the new ReplicaSet and gives it the next revision.
    fn revise(&mut self, create: bool) {
        let next = 1 + self.old().iter().map(|i| sets::revision(&self.sets[*i].metadata)).max().unwrap_or(0);
        if let Some(i) = self.new {
            let mut rs = self.sets[i].clone();
            let min_ready = self.d.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
            let mut changed = sets::sync_annotations(&self.d, &mut rs, next);
            let spec = rs.spec.get_or_insert_default();
            if spec.min_ready_seconds.unwrap_or(0) != min_ready {
                spec.min_ready_seconds = Some(min_ready);
                changed = true;
            }
            self.revision = sets::revision(&rs.metadata).to_string();
            if status::condition(&self.status, "Progressing").is_none() {
                let text = format!("Found new replica set \"{}\"", rs.metadata.name.as_deref().unwrap_or_default());
                status::progress(&self.d, &mut self.status, Reason::FoundNewReplicaSet, text, self.now);
            }
            if changed {
                self.update(i, rs);
            }
        } else if create {
            let mut rs = sets::for_template(&self.d, next);
            let replicas = self.new_size(0);
            rs.spec.get_or_insert_default().replicas = Some(replicas);
            let name = rs.metadata.name.clone().unwrap_or_default();
            self.actions.push(Action::Create(Box::new(rs.clone())));
            if replicas > 0 {
                let text = format!("Scaled up replica set {name} from 0 to {replicas}");
                self.actions.push(Action::Event(EventType::Normal, "ScalingReplicaSet", text));
            }
            self.sets.push(rs);
            self.new = Some(self.sets.len() - 1);
            self.revision = next.to_string();
            let text = format!("Created new replica set \"{name}\"");
            status::progress(&self.d, &mut self.status, Reason::NewReplicaSetCreated, text, self.now);
        }
    }

    /// The size the new ReplicaSet may have now, given its current one.
    fn new_size(&self, current: i32) -> i32 {
        if !sets::is_rolling(&self.d) {
            return wanted(&self.d);
        }
        let total = sum(&self.sets, size);
        let most = wanted(&self.d) + fenceposts(&self.d).0;
        if total >= most { current } else { current + (most - total).min(wanted(&self.d) - current) }
    }

    /// Replaces the write of an earlier step to the same ReplicaSet, so that each is written once.
    fn update(&mut self, i: usize, rs: ReplicaSet) {
        self.sets[i] = rs.clone();
        let same = |a: &ReplicaSet| a.metadata.name == rs.metadata.name;
        for a in &mut self.actions {
            match a {
                Action::Create(x) | Action::Update(x) if same(x) => {
                    **x = rs;
                    return;
                }
                _ => {}
            }
        }
        self.actions.push(Action::Update(Box::new(rs)));
    }

    /// Sets a ReplicaSet's size (and notes the Deployment's); true if the size changed.
    fn resize(&mut self, i: usize, to: i32) -> bool {
        let mut rs = self.sets[i].clone();
        let from = size(&rs);
        let noted = sets::note_size(&self.d, &mut rs);
        if from == to && !noted {
            return false;
        }
        rs.spec.get_or_insert_default().replicas = Some(to);
        let name = rs.metadata.name.clone().unwrap_or_default();
        self.update(i, rs);
        if from != to {
            let way = if to > from { "up" } else { "down" };
            let text = format!("Scaled {way} replica set {name} from {from} to {to}");
            self.actions.push(Action::Event(EventType::Normal, "ScalingReplicaSet", text));
        }
        from != to
    }

    fn roll(&mut self) {
        self.revise(true);
        let moved = self.scale_new() || self.scale_old();
        if !moved && status::is_complete(&self.d, &self.status) {
            self.clean_up();
        }
        self.rollout_status();
    }

    fn scale_new(&mut self) -> bool {
        let Some(i) = self.new else { return false };
        let (have, want) = (size(&self.sets[i]), wanted(&self.d));
        if have == want {
            return false;
        }
        let to = if have > want { want } else { self.new_size(have) };
        // Nothing to move is nothing to write.
        to != have && self.resize(i, to)
    }

    fn scale_old(&mut self) -> bool {
        let old = self.old();
        if old.iter().all(|i| size(&self.sets[*i]) == 0) {
            return false;
        }
        let least = wanted(&self.d) - fenceposts(&self.d).1;
        let new_missing = self.new_set().map_or(0, |r| size(r) - available(r));
        let spare = sum(&self.sets, size) - least - new_missing;
        if spare <= 0 {
            return false;
        }
        // Pods that are not available anyway go first.
        let mut unhealthy = 0;
        for i in &old {
            if unhealthy >= spare {
                break;
            }
            let (have, good) = (size(&self.sets[*i]), available(&self.sets[*i]));
            let n = (spare - unhealthy).min(have - good);
            if have > 0 && n > 0 {
                self.resize(*i, have - n);
                unhealthy += n;
            }
        }
        // Then as many available ones as may be missing.
        let mut left = sum(&self.sets, available) - least;
        let mut healthy = 0;
        for i in &old {
            if left <= 0 {
                break;
            }
            let have = size(&self.sets[*i]);
            let n = have.min(left);
            if n > 0 {
                self.resize(*i, have - n);
                left -= n;
                healthy += n;
            }
        }
        unhealthy + healthy > 0
    }

    fn recreate(&mut self) {
        self.revise(false);
        let mut moved = false;
        for i in self.old() {
            if size(&self.sets[i]) > 0 {
                moved |= self.resize(i, 0);
            }
        }
        if moved || self.old_pods_running() {
            return self.rollout_status();
        }
        self.revise(true);
        if let Some(i) = self.new
            && size(&self.sets[i]) != wanted(&self.d)
        {
            self.resize(i, wanted(&self.d));
        }
        if status::is_complete(&self.d, &self.status) {
            self.clean_up();
        }
        self.rollout_status();
    }

    fn old_pods_running(&self) -> bool {
        let new = self.new_set().and_then(|r| r.metadata.uid.as_deref());
        self.pods
            .iter()
            .any(|p| !pods::is_finished(p) && ownership::controller_of(&p.metadata).map(|r| r.uid.as_str()) != new)
    }

    /// Scales without rolling: one active ReplicaSet takes it all; several share in proportion to their size.
    fn scale(&mut self) {
        let want = wanted(&self.d);
        let mut active: Vec<usize> = (0..self.sets.len()).filter(|i| size(&self.sets[*i]) > 0).collect();
        let single = match active.as_slice() {
            [] => self.new.or_else(|| self.old().last().copied()),
            [one] => Some(*one),
            _ => None,
        };
        if let Some(i) = single {
            self.resize(i, want);
            return;
        }
        if self.new_set().is_some_and(|r| status::is_saturated(&self.d, r)) {
            for i in self.old() {
                if size(&self.sets[i]) > 0 {
                    self.resize(i, 0);
                }
            }
            return;
        }
        if !sets::is_rolling(&self.d) {
            return;
        }
        let total = sum(&self.sets, size);
        let allowed = if want > 0 { want + fenceposts(&self.d).0 } else { 0 };
        let to_add = allowed - total;
        // Growing favours larger then newer, shrinking larger then older.
        active.sort_by(|a, b| {
            let (ra, rb) = (&self.sets[*a], &self.sets[*b]);
            let age = sets::by_creation(ra).cmp(&sets::by_creation(rb));
            size(rb).cmp(&size(ra)).then(if to_add > 0 { age.reverse() } else { age })
        });
        let mut added = 0;
        let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
        for i in &active {
            let n = self.share(*i, to_add, added);
            added += n;
            sizes.push(size(&self.sets[*i]) + n);
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        for (i, n) in active.into_iter().zip(sizes) {
            self.resize(i, n);
        }
    }

    /// How many of `to_add` Pods (negative: to remove) fall to one ReplicaSet.
    fn share(&self, i: usize, to_add: i32, added: i32) -> i32 {
        let rs = &self.sets[i];
        if size(rs) == 0 || to_add == 0 || to_add == added {
            return 0;
        }
        let fraction = if wanted(&self.d) == 0 {
            -size(rs)
        } else {
            let most_now = f64::from(wanted(&self.d) + fenceposts(&self.d).0);
            let most_then = sets::number(&rs.metadata, sets::MAX_REPLICAS)
                .filter(|n| *n > 0)
                .map(|n| n as f64)
                .or_else(|| self.d.status.as_ref().and_then(|s| s.replicas).filter(|n| *n > 0).map(f64::from));
            match most_then {
                Some(then) => (f64::from(size(rs)) * most_now / then).round() as i32 - size(rs),
                None => 0,
            }
        };
        let allowed = to_add - added;
        if to_add > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
    }

    /// Deletes the oldest empty ReplicaSets beyond `revisionHistoryLimit`.
    fn clean_up(&mut self) {
        let Some(limit) = self.d.spec.as_ref().and_then(|s| s.revision_history_limit).filter(|l| *l != i32::MAX) else {
            return;
        };
        let mut old: Vec<usize> =
            self.old().into_iter().filter(|i| self.sets[*i].metadata.deletion_timestamp.is_none()).collect();
        let excess = old.len().saturating_sub(limit.max(0) as usize);
        old.sort_by_key(|i| sets::revision(&self.sets[*i].metadata));
        for i in old.into_iter().take(excess) {
            let rs = &self.sets[i];
            let status_replicas = rs.status.as_ref().map_or(0, |s| s.replicas);
            let unseen = rs.metadata.generation > rs.status.as_ref().and_then(|s| s.observed_generation);
            if status_replicas == 0 && size(rs) == 0 && !unseen {
                self.actions.push(Action::Delete(Box::new(rs.clone())));
            }
        }
    }
}

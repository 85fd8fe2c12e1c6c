//! What must be looked at from time to time, done when the lease wakes us anyway: log sizes, emptyDir limits,
//! images nobody uses on a full disk, memory that runs out.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::machine::{filesystem, meminfo};
use crate::events::Level;
use crate::image_ref;
use crate::logs::rotate;
use crate::pod::{self, Qos};
use crate::pods::SharedRef;
use crate::pods::manager::{Pods, View};
use crate::runtime::State;
use crate::volume;

/// An image must have been unused for so long to be collected (stock).
const UNUSED: Duration = Duration::from_secs(120);
/// Pause between looks at the image file system, and at emptyDir sizes.
const IMAGES_EVERY: Duration = Duration::from_secs(300);
const VOLUMES_EVERY: Duration = Duration::from_secs(60);

/// The node's periodic duties.
pub struct Housekeeping {
    shared: SharedRef,
    pods: Pods,
    unused_since: HashMap<String, Instant>,
    images_at: Instant,
    volumes_at: Instant,
}

impl Housekeeping {
    /// Begins.
    pub fn new(shared: SharedRef, pods: Pods) -> Self {
        let now = Instant::now();
        Self { shared, pods, unused_since: HashMap::new(), images_at: now, volumes_at: now }
    }

    /// One round.
    pub async fn tick(&mut self, begun: Instant) {
        let views = self.pods.all();
        for r in views.iter().flat_map(|v| v.runtime.running()) {
            if let Err(error) = rotate::rotate(&self.shared.cri, &r.id, &r.log_path, rotate::MAX_SIZE).await {
                tracing::warn!(%error, container = r.name, "log not rotated");
            }
        }
        if self.volumes_at.elapsed() >= VOLUMES_EVERY {
            self.volumes_at = Instant::now();
            self.volumes(&views);
        }
        if self.images_at.elapsed() >= IMAGES_EVERY {
            self.images_at = Instant::now();
            self.images(&views).await;
        }
        if begun.elapsed() > Duration::from_secs(10) {
            self.memory(&views);
        }
    }

    fn volumes(&self, views: &[View]) {
        for v in views.iter().filter(|v| live(v)) {
            if let Some((volume, limit)) = volume::over_limit(&self.shared.config.pods_dir, &v.pod) {
                let text = format!("Usage of EmptyDir volume \"{volume}\" exceeds the limit \"{limit}\". ");
                self.evict(v, text);
            }
        }
    }

    fn evict(&self, v: &View, text: String) {
        self.shared.recorder.pod(&v.pod, Level::Warning, "Evicted", text.clone());
        self.pods.fail(pod::uid(&v.pod), "Evicted", text);
    }

    /// Below the stock hard threshold (100Mi available) one Pod goes: BestEffort before Burstable, the largest first.
    fn memory(&self, views: &[View]) {
        if meminfo("MemAvailable").is_none_or(|m| m >= 100 << 20) {
            return;
        }
        let usage = |v: &View| {
            let cgroup = pod::cgroup(&self.shared.config.cgroup_parent, &v.pod);
            self.shared.cgroups.memory_usage(&cgroup).unwrap_or(0)
        };
        let candidates = views.iter().filter(|v| live(v) && pod::qos(&v.pod) != Qos::Guaranteed);
        let victim = candidates.max_by_key(|v| {
            let over = usage(v).saturating_sub(u64::try_from(pod::pod_request(&v.pod, "memory")).unwrap_or(0));
            (pod::qos(&v.pod) == Qos::BestEffort, over)
        });
        if let Some(v) = victim {
            self.evict(v, "The node was low on resource: memory. Threshold quantity: 100Mi. ".into());
        }
    }

    /// On a full disk, removes images no container uses, the longest unused first. Images of the sandbox image's own
    /// registry host are the node's: they were imported and could not be pulled again.
    async fn images(&mut self, views: &[View]) {
        let Ok(images) = self.shared.cri.images().await else { return };
        let config = &self.shared.config;
        let own = image_ref::parse(&config.sandbox_image).map(|r| r.registry).unwrap_or_default();
        let used: HashSet<&str> = views
            .iter()
            .flat_map(|v| v.runtime.containers.iter().filter(|c| c.state != State::Exited))
            .flat_map(|c| [c.image_ref.as_str(), c.image.as_str()])
            .collect();
        let now = Instant::now();
        let mut idle = Vec::new();
        for i in &images {
            let names = || i.repo_tags.iter().chain(&i.repo_digests).map(String::as_str).chain([i.id.as_str()]);
            let ours = names().any(|n| image_ref::parse(n).is_ok_and(|r| r.registry == own));
            if i.pinned || ours || names().any(|n| used.contains(n)) {
                self.unused_since.remove(&i.id);
                continue;
            }
            let since = *self.unused_since.entry(i.id.clone()).or_insert(now);
            if now - since >= UNUSED {
                idle.push((since, i));
            }
        }
        self.unused_since.retain(|id, _| images.iter().any(|i| i.id == *id));
        let Some((size, free, _)) = filesystem(&config.root_dir) else { return };
        let threshold = size / 100 * i64::from(config.image_gc_free_percent);
        if free >= threshold {
            return;
        }
        // Down to 80 % used (stock's low threshold).
        let mut wanted = size / 5 - free;
        idle.sort_by_key(|(since, _)| *since);
        for (_, i) in idle {
            if wanted <= 0 {
                return;
            }
            match self.shared.cri.remove_image(&i.id).await {
                Ok(()) => {
                    tracing::info!(image = i.id, bytes = i.size, "image removed, the disk is full");
                    wanted -= i64::try_from(i.size).unwrap_or(0);
                    self.unused_since.remove(&i.id);
                }
                Err(error) => tracing::warn!(%error, image = i.id, "image not removed"),
            }
        }
        if wanted > 0 {
            let text =
                format!("Failed to garbage collect required amount of images. {wanted} bytes more were to be freed.");
            self.shared.recorder.node(Level::Warning, "FreeDiskSpaceFailed", text);
        }
    }
}

fn live(v: &View) -> bool {
    v.pod.metadata.deletion_timestamp.is_none() && !matches!(v.status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

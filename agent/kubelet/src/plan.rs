//! What to do next for a Pod: sandbox, containers to stop, containers to start. Pure; the worker carries it out.
//!
//! Init containers run one after another, sidecars (KEP-753) stay and let the next one start once they have started,
//! regular containers run once all init containers are done.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::pod;
use crate::probe::Verdicts;
use crate::runtime::{PodRuntime, Record, State};

/// Which list of the spec a container is in, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// `initContainers`
    Init(usize),
    /// `containers`
    Main(usize),
    /// `ephemeralContainers`
    Ephemeral(usize),
}

/// A running container to be stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// CRI id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Text of the event.
    pub message: String,
    /// Grace the failed probe asks for, seconds.
    pub grace: Option<i64>,
}

/// The steps, in this order: `kill_pod`, `kill`, `create_sandbox`, `start`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Stop everything, the sandbox too.
    pub kill_pod: bool,
    /// Make a new sandbox of this attempt.
    pub create_sandbox: Option<u32>,
    /// Containers to stop.
    pub kill: Vec<Kill>,
    /// Containers to start.
    pub start: Vec<Which>,
}

/// Why a running container must go, if it must.
fn must_stop(c: &Container, r: &Record, v: &dyn Verdicts) -> Option<(String, Option<i64>)> {
    let name = &c.name;
    if !r.hash.is_empty() && r.hash != pod::hash(c) {
        return Some((format!("Container {name} definition changed"), None));
    }
    let grace =
        |p: &Option<k8s_openapi::api::core::v1::Probe>| p.as_ref().and_then(|p| p.termination_grace_period_seconds);
    if v.failed_startup(&r.id) {
        return Some((format!("Container {name} failed startup probe"), grace(&c.startup_probe)));
    }
    if v.failed_liveness(&r.id) {
        return Some((format!("Container {name} failed liveness probe"), grace(&c.liveness_probe)));
    }
    None
}

/// Whether a sidecar has started: running, and its startup probe has passed.
pub fn started(c: &Container, r: &Record, v: &dyn Verdicts) -> bool {
    r.state == State::Running && (c.startup_probe.is_none() || v.startup_passed(&r.id))
}

/// The sandbox the Pod needs: `None` to keep the newest, else the attempt of the next.
fn sandbox_needed(p: &Pod, rt: &PodRuntime) -> Option<u32> {
    let Some(newest) = rt.sandboxes.first() else { return Some(0) };
    let usable = newest.ready
        && rt.sandboxes.iter().filter(|s| s.ready).count() == 1
        && newest.host_network == pod::host_network(p)
        && (newest.host_network || !newest.ips.is_empty());
    if usable { None } else { Some(newest.attempt + 1) }
}

/// Computes the plan. A Pod that is being deleted is not for this function.
pub fn compute(p: &Pod, rt: &PodRuntime, v: &dyn Verdicts) -> Plan {
    let mut plan = Plan::default();
    let restart = |c: &Container, r: Option<&Record>| match r {
        None => true,
        Some(r) => match r.state {
            State::Running => false,
            State::Created | State::Unknown => true,
            State::Exited => pod::restarts_after(p, c, r.exit_code),
        },
    };
    if let Some(attempt) = sandbox_needed(p, rt) {
        let wanted: Vec<usize> = (0..pod::containers(p).len())
            .filter(|i| {
                let c = &pod::containers(p)[*i];
                let r = rt.latest(&c.name);
                // What ran in a sandbox that died did not end by itself.
                restart(c, r) || r.is_some_and(|r| r.state == State::Running)
            })
            .collect();
        plan.kill_pod = !rt.sandboxes.is_empty();
        if wanted.is_empty() {
            return plan; // all have ended for good
        }
        if pod::restart_policy(p) == pod::Restart::Never
            && attempt != 0
            && !rt.containers.is_empty()
            && pod::containers(p).iter().any(|c| rt.latest(&c.name).is_some())
        {
            return plan; // its containers ran; nothing may run twice
        }
        plan.create_sandbox = Some(attempt);
        plan.start = if pod::init_containers(p).is_empty() {
            wanted.into_iter().map(Which::Main).collect()
        } else {
            vec![Which::Init(0)]
        };
        return plan;
    }

    for (i, e) in pod::ephemeral_containers(p).iter().enumerate() {
        if rt.latest(&e.name).is_none() {
            plan.start.push(Which::Ephemeral(i));
        }
    }

    // Once a regular container ran in this sandbox, initialization is history: only sidecars are kept alive.
    let initialized = pod::containers(p).iter().any(|c| rt.active(&c.name).is_some());
    for (i, c) in pod::init_containers(p).iter().enumerate() {
        let record = rt.active(&c.name);
        if pod::is_sidecar(c) {
            match record {
                Some(r) if r.state == State::Running => {
                    if let Some((message, grace)) = must_stop(c, r, v) {
                        plan.kill.push(Kill { id: r.id.clone(), name: c.name.clone(), message, grace });
                        plan.start.push(Which::Init(i));
                    } else if !initialized && !started(c, r, v) {
                        return plan;
                    }
                }
                _ => {
                    plan.start.push(Which::Init(i));
                    if !initialized {
                        return plan;
                    }
                }
            }
            continue;
        }
        if initialized {
            continue;
        }
        match record {
            None => {
                plan.start.push(Which::Init(i));
                return plan;
            }
            Some(r) => match r.state {
                State::Running => return plan,
                State::Exited if r.exit_code == 0 => {}
                State::Exited if pod::restart_policy(p) == pod::Restart::Never && !restart(c, record) => {
                    plan.kill_pod = true;
                    return plan;
                }
                _ => {
                    plan.start.push(Which::Init(i));
                    return plan;
                }
            },
        }
    }

    let mut kept = 0;
    let mut starts = 0;
    for (i, c) in pod::containers(p).iter().enumerate() {
        let record = rt.latest(&c.name);
        match record {
            Some(r) if r.state == State::Running => match must_stop(c, r, v) {
                Some((message, grace)) => {
                    plan.kill.push(Kill { id: r.id.clone(), name: c.name.clone(), message, grace });
                    // A killed container counts as failed: 137 unless it ends well by itself.
                    if pod::restarts_after(p, c, 137) {
                        plan.start.push(Which::Main(i));
                        starts += 1;
                    }
                }
                None => kept += 1,
            },
            _ if restart(c, record) => {
                plan.start.push(Which::Main(i));
                starts += 1;
            }
            _ => {}
        }
    }
    if kept == 0 && starts == 0 {
        plan.kill_pod = true;
        plan.start.clear();
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Sandbox;

    #[derive(Default)]
    struct V {
        dead: Vec<&'static str>,
        started: Vec<&'static str>,
    }
    impl Verdicts for V {
        fn startup_passed(&self, id: &str) -> bool {
            self.started.contains(&id)
        }
        fn failed_startup(&self, _: &str) -> bool {
            false
        }
        fn failed_liveness(&self, id: &str) -> bool {
            self.dead.contains(&id)
        }
        fn ready(&self, _: &str) -> Option<bool> {
            None
        }
    }

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"uid": "u"}, "spec": spec})).unwrap()
    }
    fn rt(containers: &[(&str, State, i32)]) -> PodRuntime {
        PodRuntime {
            sandboxes: vec![Sandbox {
                id: "s".into(),
                ready: true,
                ips: vec!["10.0.0.1".into()],
                ..Default::default()
            }],
            containers: containers
                .iter()
                .map(|(n, state, code)| Record {
                    id: format!("{n}-id"),
                    name: (*n).into(),
                    sandbox: "s".into(),
                    state: *state,
                    exit_code: *code,
                    ..Default::default()
                })
                .collect(),
        }
    }
    fn plan(p: &Pod, r: &PodRuntime) -> Plan {
        compute(p, r, &V::default())
    }

    #[test]
    fn a_new_pod_gets_a_sandbox_and_all_its_containers() {
        let p = pod(serde_json::json!({"containers": [{"name": "a"}, {"name": "b"}]}));
        let got = plan(&p, &PodRuntime::default());
        assert_eq!(got.create_sandbox, Some(0));
        assert_eq!(got.start, [Which::Main(0), Which::Main(1)]);
        assert!(!got.kill_pod);
    }

    #[test]
    fn init_containers_run_in_order_and_a_failed_one_again() {
        let p =
            pod(serde_json::json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]}));
        assert_eq!(plan(&p, &PodRuntime::default()).start, [Which::Init(0)]);
        assert_eq!(plan(&p, &rt(&[("i", State::Running, 0)])).start, []);
        assert_eq!(plan(&p, &rt(&[("i", State::Exited, 1)])).start, [Which::Init(0)]);
        assert_eq!(plan(&p, &rt(&[("i", State::Exited, 0)])).start, [Which::Init(1)]);
        let done = rt(&[("i", State::Exited, 0), ("j", State::Exited, 0)]);
        assert_eq!(plan(&p, &done).start, [Which::Main(0)]);
        // Collected init containers do not run again beside a running one.
        assert_eq!(plan(&p, &rt(&[("a", State::Running, 0)])), Plan::default());
    }

    #[test]
    fn a_failed_init_container_ends_a_never_pod() {
        let p = pod(serde_json::json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}],
            "containers": [{"name": "a"}]}));
        assert!(plan(&p, &rt(&[("i", State::Exited, 1)])).kill_pod);
    }

    #[test]
    fn a_sidecar_holds_the_next_until_started_and_is_kept_alive() {
        let p = pod(serde_json::json!({"initContainers": [
            {"name": "s", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 1}}}],
            "containers": [{"name": "a"}]}));
        assert_eq!(plan(&p, &rt(&[("s", State::Running, 0)])).start, []);
        let v = V { started: vec!["s-id"], ..Default::default() };
        assert_eq!(compute(&p, &rt(&[("s", State::Running, 0)]), &v).start, [Which::Main(0)]);
        let both = rt(&[("s", State::Exited, 0), ("a", State::Running, 0)]);
        assert_eq!(plan(&p, &both).start, [Which::Init(0)]);
    }

    #[test]
    fn restart_policies() {
        let with = |policy: &str| pod(serde_json::json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        let ok = rt(&[("a", State::Exited, 0)]);
        let bad = rt(&[("a", State::Exited, 2)]);
        assert_eq!(plan(&with("Always"), &ok).start, [Which::Main(0)]);
        assert!(plan(&with("OnFailure"), &ok).kill_pod);
        assert_eq!(plan(&with("OnFailure"), &bad).start, [Which::Main(0)]);
        assert!(plan(&with("Never"), &bad).kill_pod);
    }

    #[test]
    fn a_container_that_fails_its_liveness_probe_is_replaced() {
        let p = pod(serde_json::json!({"containers": [{"name": "a", "livenessProbe": {
            "terminationGracePeriodSeconds": 3}}]}));
        let v = V { dead: vec!["a-id"], ..Default::default() };
        let got = compute(&p, &rt(&[("a", State::Running, 0)]), &v);
        assert_eq!(got.kill[0].message, "Container a failed liveness probe");
        assert_eq!(got.kill[0].grace, Some(3));
        assert_eq!(got.start, [Which::Main(0)]);
    }

    #[test]
    fn a_dead_sandbox_is_replaced_unless_everything_has_ended() {
        let mut r = rt(&[("a", State::Exited, 0)]);
        r.sandboxes[0].ready = false;
        let always = pod(serde_json::json!({"containers": [{"name": "a"}]}));
        let got = plan(&always, &r);
        assert_eq!((got.create_sandbox, got.kill_pod), (Some(1), true));
        let never = pod(serde_json::json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
        assert_eq!(plan(&never, &r).create_sandbox, None);
    }

    #[test]
    fn a_changed_image_replaces_the_container() {
        let p = pod(serde_json::json!({"containers": [{"name": "a", "image": "x:2"}]}));
        let mut r = rt(&[("a", State::Running, 0)]);
        r.containers[0].hash = "old".into();
        assert_eq!(plan(&p, &r).kill[0].message, "Container a definition changed");
        r.containers[0].hash = pod::hash(&pod::containers(&p)[0]);
        assert_eq!(plan(&p, &r), Plan::default());
    }
}

//! PodStatus as the stock kubelet reports it, computed from the spec, the runtime and the probes. Pure.

use std::collections::HashMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::plan::started;
use crate::pod;
use crate::probe::Verdicts;
use crate::runtime::{PodRuntime, Record, State, timestamp};

/// Why a container waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// CamelCase reason.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// What a status is computed from.
pub struct Input<'a> {
    /// The Pod, with the status last seen in the API.
    pub pod: &'a Pod,
    /// The runtime's view.
    pub runtime: &'a PodRuntime,
    /// Probe results.
    pub verdicts: &'a dyn Verdicts,
    /// Containers that could not be started, by name.
    pub waiting: &'a HashMap<String, Waiting>,
    /// The node's addresses.
    pub node_ips: &'a [IpAddr],
    /// The Pod has ended for good (nothing will be started again).
    pub terminal: bool,
    /// A reason of the kubelet's own for failing the Pod (eviction, deadline, admission): reason and message.
    pub failed: Option<(&'a str, &'a str)>,
    /// The status the kubelet computed last; times of conditions are kept from it.
    pub previous: &'a PodStatus,
    /// Now.
    pub now: Timestamp,
}

/// Computes the status.
pub fn generate(i: &Input<'_>) -> PodStatus {
    let spec_init = pod::init_containers(i.pod);
    let has_init = !spec_init.is_empty();
    let old = i.previous;
    let main: Vec<ContainerStatus> =
        pod::containers(i.pod).iter().map(|c| container(i, c, false, has_init, &old.container_statuses)).collect();
    let init: Vec<ContainerStatus> =
        spec_init.iter().map(|c| container(i, c, true, false, &old.init_container_statuses)).collect();
    let ephemeral: Vec<ContainerStatus> = pod::ephemeral_containers(i.pod)
        .iter()
        .map(|e| container(i, &pod::as_container(e), false, false, &old.ephemeral_container_statuses))
        .collect();

    let mut phase = phase(i, &init, &main);
    if i.failed.is_some() {
        phase = "Failed";
    }
    if let Some(done @ ("Succeeded" | "Failed")) = old.phase.as_deref() {
        phase = if done == "Failed" { "Failed" } else { "Succeeded" };
    }

    let mut status = PodStatus {
        phase: Some(phase.into()),
        qos_class: Some(old.qos_class.clone().unwrap_or_else(|| pod::qos(i.pod).name().into())),
        start_time: old.start_time.clone().or(Some(Time(whole_second(i.now)))),
        host_ip: i.node_ips.first().map(IpAddr::to_string),
        host_ips: some(i.node_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        observed_generation: i.pod.metadata.generation,
        reason: old.reason.clone().filter(|r| !r.is_empty()),
        message: old.message.clone().filter(|m| !m.is_empty()),
        ..Default::default()
    };
    if let Some((reason, message)) = i.failed {
        status.reason = Some(reason.into());
        status.message = Some(message.into());
    }
    let ips: Vec<String> = if pod::host_network(i.pod) {
        i.node_ips.iter().map(IpAddr::to_string).collect()
    } else if i.runtime.ips().is_empty() {
        old.pod_ips.iter().flatten().map(|p| p.ip.clone()).collect()
    } else {
        i.runtime.ips().to_vec()
    };
    // A host-network Pod shows its address once it has a sandbox, as one with its own network does.
    if !pod::host_network(i.pod) || !i.runtime.sandboxes.is_empty() || old.pod_ip.is_some() {
        status.pod_ip = ips.first().cloned();
        status.pod_ips = some(ips.into_iter().map(|ip| PodIP { ip }).collect());
    }
    status.conditions = Some(conditions(i, phase, &init, &main));
    status.container_statuses = some(main);
    status.init_container_statuses = some(init);
    status.ephemeral_container_statuses = some(ephemeral);
    status
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn whole_second(t: Timestamp) -> Timestamp {
    Timestamp::from_second(t.as_second()).unwrap_or(t)
}

fn time(ns: i64) -> Option<Time> {
    timestamp(ns).map(Time)
}

fn id(r: &Record) -> String {
    format!("containerd://{}", r.id)
}

fn state(r: &Record) -> ContainerState {
    match r.state {
        State::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: time(r.started_at) }),
            ..Default::default()
        },
        State::Exited => ContainerState { terminated: Some(terminated(r)), ..Default::default() },
        State::Created | State::Unknown => ContainerState {
            waiting: Some(ContainerStateWaiting { reason: Some("ContainerCreating".into()), message: None }),
            ..Default::default()
        },
    }
}

fn terminated(r: &Record) -> ContainerStateTerminated {
    let reason = match (r.reason.as_str(), r.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    ContainerStateTerminated {
        container_id: Some(id(r)),
        exit_code: r.exit_code,
        reason: Some(reason.into()),
        message: (!r.message.is_empty()).then(|| r.message.clone()),
        started_at: time(r.started_at),
        finished_at: time(r.finished_at),
        signal: None,
    }
}

/// `has_init` says that a container not seen yet waits for the init containers.
fn container(
    i: &Input<'_>,
    c: &Container,
    is_init: bool,
    has_init: bool,
    old: &Option<Vec<ContainerStatus>>,
) -> ContainerStatus {
    let old = old.iter().flatten().find(|s| s.name == c.name);
    let default_reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    let mut s = ContainerStatus {
        name: c.name.clone(),
        image: c.image.clone().unwrap_or_default(),
        image_id: String::new(),
        state: Some(ContainerState {
            waiting: Some(ContainerStateWaiting { reason: Some(default_reason.into()), message: None }),
            ..Default::default()
        }),
        last_state: Some(ContainerState::default()),
        started: Some(false),
        ..Default::default()
    };
    let mut records = i.runtime.containers.iter().filter(|r| r.name == c.name);
    let newest = records.next();
    match newest {
        Some(r) => {
            s.image = if r.image.is_empty() { s.image } else { c.image.clone().unwrap_or_default() };
            s.image_id = r.image_ref.clone();
            s.container_id = Some(id(r));
            s.restart_count = r.restarts;
            s.state = Some(state(r));
            if let Some(before) = records.next() {
                s.last_state = Some(state(before)).filter(|b| b.terminated.is_some()).or(s.last_state);
            } else if let Some(old) = old.filter(|o| r.restarts > 0 && o.restart_count == r.restarts) {
                // The one before was collected: what the API remembers of it stays.
                s.last_state = old.last_state.clone().or(s.last_state);
            }
        }
        None => {
            if let Some(old) = old {
                let lost = |started_before: Option<&ContainerStateRunning>| ContainerStateTerminated {
                    container_id: old.container_id.clone(),
                    exit_code: 137,
                    reason: Some("ContainerStatusUnknown".into()),
                    message: Some("The container could not be located when the pod was terminated".into()),
                    started_at: started_before.and_then(|r| r.started_at.clone()),
                    finished_at: None,
                    signal: None,
                };
                s.restart_count = old.restart_count;
                s.image_id.clone_from(&old.image_id);
                s.container_id.clone_from(&old.container_id);
                s.last_state = old.last_state.clone().or(s.last_state);
                match &old.state {
                    Some(ContainerState { terminated: Some(_), .. }) => s.state.clone_from(&old.state),
                    Some(ContainerState { running: Some(r), .. }) => {
                        let t = ContainerState { terminated: Some(lost(Some(r))), ..Default::default() };
                        if i.terminal { s.state = Some(t) } else { s.last_state = Some(t) }
                    }
                    _ => {}
                }
            }
        }
    }
    if let Some(w) = i.waiting.get(&c.name)
        && newest.is_none_or(|r| r.state != State::Running)
        && !i.terminal
    {
        if let Some(s_now) = s.state.take()
            && s_now.terminated.is_some()
        {
            s.last_state = Some(s_now);
        }
        s.state = Some(ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(w.reason.clone()),
                message: (!w.message.is_empty()).then(|| w.message.clone()),
            }),
            ..Default::default()
        });
    }
    if let Some(r) = newest.filter(|r| r.state == State::Running) {
        let up = started(c, r, i.verdicts);
        s.started = Some(up);
        s.ready = up && (c.readiness_probe.is_none() || i.verdicts.ready(&r.id) == Some(true));
    }
    if newest.is_some() {
        // What it was given when it was made: resources are not changed in place here.
        s.resources.clone_from(&c.resources);
        s.allocated_resources = c.resources.as_ref().and_then(|r| r.requests.clone());
        let mounts = c.volume_mounts.iter().flatten().map(|m| VolumeMountStatus {
            name: m.name.clone(),
            mount_path: m.mount_path.clone(),
            read_only: m.read_only,
            recursive_read_only: (m.read_only == Some(true)).then(|| "Disabled".to_owned()),
            ..Default::default()
        });
        s.volume_mounts = some(mounts.collect());
    }
    if is_init && !pod::is_sidecar(c) {
        let done = s.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0);
        s.ready = done;
    }
    s
}

fn parts(s: &ContainerStatus) -> (bool, Option<&ContainerStateTerminated>, bool, Option<&ContainerStateTerminated>) {
    let st = s.state.as_ref();
    (
        st.is_some_and(|s| s.running.is_some()),
        st.and_then(|s| s.terminated.as_ref()),
        st.is_none_or(|s| s.waiting.is_some() || (s.running.is_none() && s.terminated.is_none())),
        s.last_state.as_ref().and_then(|s| s.terminated.as_ref()),
    )
}

fn phase(i: &Input<'_>, init: &[ContainerStatus], main: &[ContainerStatus]) -> &'static str {
    let restart = pod::restart_policy(i.pod);
    let main_ran = main.iter().any(|s| {
        let (running, ended, _, before) = parts(s);
        running || ended.is_some() || before.is_some()
    });
    let (mut pending_init, mut failed_init) = (0, 0);
    for (c, s) in pod::init_containers(i.pod).iter().zip(init) {
        let (_, ended, _, _) = parts(s);
        if pod::is_sidecar(c) {
            if s.started != Some(true) && !main_ran {
                pending_init += 1;
            }
        } else {
            match ended {
                Some(t) if t.exit_code == 0 => {}
                Some(_) if restart == pod::Restart::Never => failed_init += 1,
                _ => pending_init += 1,
            }
        }
    }
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for s in main {
        let (runs, ended, _, before) = parts(s);
        match (runs, ended, before) {
            (true, ..) => running += 1,
            (_, Some(t), _) => {
                stopped += 1;
                succeeded += usize::from(t.exit_code == 0);
            }
            (_, None, Some(_)) => stopped += 1,
            _ => waiting += 1,
        }
    }
    if failed_init > 0 {
        return "Failed";
    }
    if pending_init > 0 && !main_ran {
        return "Pending";
    }
    if waiting > 0 {
        return if i.terminal && running == 0 { "Failed" } else { "Pending" };
    }
    if running > 0 {
        return "Running";
    }
    if stopped == 0 {
        return "Pending";
    }
    if i.terminal {
        return if stopped == succeeded { "Succeeded" } else { "Failed" };
    }
    let again = pod::containers(i.pod).iter().zip(main).any(|(c, s)| {
        let (_, ended, _, _) = parts(s);
        ended.is_none_or(|t| pod::restarts_after(i.pod, c, t.exit_code))
    });
    match again {
        true => "Running",
        false if stopped == succeeded => "Succeeded",
        false => "Failed",
    }
}

fn conditions(i: &Input<'_>, phase: &str, init: &[ContainerStatus], main: &[ContainerStatus]) -> Vec<PodCondition> {
    let finished = matches!(phase, "Succeeded" | "Failed");
    let mut out = Vec::new();
    let sandbox_up = i.runtime.active_sandbox().is_some_and(|s| s.host_network || !s.ips.is_empty());
    let mut add = |type_: &str, ok: bool, reason: Option<String>, message: Option<String>| {
        let status = if ok { "True" } else { "False" };
        let before = i.previous.conditions.iter().flatten().find(|c| c.type_ == type_);
        let since = before
            .filter(|b| b.status == status)
            .and_then(|b| b.last_transition_time.clone())
            .unwrap_or_else(|| Time(whole_second(i.now)));
        out.push(PodCondition {
            type_: type_.into(),
            status: status.into(),
            reason,
            message,
            last_transition_time: Some(since),
            last_probe_time: None,
            observed_generation: i.pod.metadata.generation,
        });
    };
    add("PodReadyToStartContainers", sandbox_up, None, None);

    // Initialized
    let main_ran = main.iter().any(|s| {
        let (running, ended, _, _) = parts(s);
        running || ended.is_some()
    });
    let mut missing = Vec::new();
    for (c, s) in pod::init_containers(i.pod).iter().zip(init) {
        let fine = if pod::is_sidecar(c) { s.started == Some(true) } else { s.ready };
        if !fine {
            missing.push(c.name.as_str());
        }
    }
    if phase == "Succeeded" && !pod::init_containers(i.pod).is_empty() {
        add("Initialized", true, Some("PodCompleted".into()), None);
    } else if missing.is_empty() || main_ran {
        let reason = (phase == "Succeeded").then(|| "PodCompleted".into());
        add("Initialized", true, reason, None);
    } else {
        let message = format!("containers with incomplete status: [{}]", missing.join(" "));
        add("Initialized", false, Some("ContainersNotInitialized".into()), Some(message));
    }

    // ContainersReady, Ready
    let sidecars = pod::init_containers(i.pod).iter().zip(init).filter(|(c, _)| pod::is_sidecar(c)).map(|(_, s)| s);
    let unready: Vec<&str> = sidecars.chain(main).filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    let (ok, reason, message) = if finished {
        let reason = if phase == "Succeeded" { "PodCompleted" } else { "PodFailed" };
        (false, Some(reason.to_owned()), None)
    } else if unready.is_empty() {
        (true, None, None)
    } else {
        let message = format!("containers with unready status: [{}]", unready.join(" "));
        (false, Some("ContainersNotReady".to_owned()), Some(message))
    };
    add("ContainersReady", ok, reason.clone(), message.clone());
    let mut gates = Vec::new();
    for gate in i.pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten()) {
        let current = i.pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        match current.into_iter().find(|c| c.type_ == gate.condition_type) {
            None => gates.push(format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                gate.condition_type
            )),
            Some(c) if c.status != "True" => gates.push(format!(
                "the status of pod readiness gate \"{}\" is not \"True\", but {}",
                gate.condition_type, c.status
            )),
            Some(_) => {}
        }
    }
    if ok && !gates.is_empty() {
        add("Ready", false, Some("ReadinessGatesNotReady".into()), Some(gates.join(", ")));
    } else {
        add("Ready", ok, reason, message);
    }
    add("PodScheduled", true, None, None);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Sandbox;

    struct None_;
    impl Verdicts for None_ {
        fn startup_passed(&self, _: &str) -> bool {
            false
        }
        fn failed_startup(&self, _: &str) -> bool {
            false
        }
        fn failed_liveness(&self, _: &str) -> bool {
            false
        }
        fn ready(&self, id: &str) -> Option<bool> {
            Some(id == "yes")
        }
    }

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"uid": "u", "generation": 3}, "spec": spec})).unwrap()
    }
    fn record(name: &str, id: &str, state: State, code: i32) -> Record {
        Record { id: id.into(), name: name.into(), sandbox: "s".into(), state, exit_code: code, ..Default::default() }
    }
    fn with(p: &Pod, containers: Vec<Record>, waiting: &[(&str, &str)], terminal: bool) -> PodStatus {
        let rt = PodRuntime {
            sandboxes: vec![Sandbox {
                id: "s".into(),
                ready: true,
                ips: vec!["10.0.0.9".into()],
                ..Default::default()
            }],
            containers,
        };
        let waiting =
            waiting.iter().map(|(n, r)| ((*n).into(), Waiting { reason: (*r).into(), message: "m".into() })).collect();
        generate(&Input {
            pod: p,
            runtime: &rt,
            verdicts: &None_,
            waiting: &waiting,
            node_ips: &["192.0.2.1".parse().unwrap()],
            terminal,
            failed: None,
            previous: &p.status.clone().unwrap_or_default(),
            now: Timestamp::from_second(1000).unwrap(),
        })
    }
    fn condition<'a>(s: &'a PodStatus, t: &str) -> &'a PodCondition {
        s.conditions.as_ref().unwrap().iter().find(|c| c.type_ == t).unwrap()
    }

    #[test]
    fn a_running_pod_is_ready_when_its_readiness_probe_says_so() {
        let p = pod(serde_json::json!({"containers": [{"name": "a"}, {"name": "b", "readinessProbe": {}}]}));
        let no = with(&p, vec![record("a", "1", State::Running, 0), record("b", "no", State::Running, 0)], &[], false);
        assert_eq!(no.phase.as_deref(), Some("Running"));
        assert_eq!(condition(&no, "Ready").message.as_deref(), Some("containers with unready status: [b]"));
        let yes =
            with(&p, vec![record("a", "1", State::Running, 0), record("b", "yes", State::Running, 0)], &[], false);
        assert_eq!(condition(&yes, "Ready").status, "True");
        assert_eq!((yes.pod_ip.as_deref(), yes.host_ip.as_deref()), (Some("10.0.0.9"), Some("192.0.2.1")));
        assert_eq!(yes.observed_generation, Some(3));
    }

    #[test]
    fn phases_by_restart_policy() {
        for (policy, code, terminal, want) in [
            ("Always", 0, false, "Running"),
            ("Never", 0, false, "Succeeded"),
            ("Never", 1, false, "Failed"),
            ("OnFailure", 0, false, "Succeeded"),
            ("OnFailure", 1, false, "Running"),
            ("Always", 1, true, "Failed"),
            ("Always", 0, true, "Succeeded"),
        ] {
            let p = pod(serde_json::json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
            let s = with(&p, vec![record("a", "1", State::Exited, code)], &[], terminal);
            assert_eq!(s.phase.as_deref(), Some(want), "{policy} {code} {terminal}");
        }
    }

    #[test]
    fn a_container_in_backoff_waits_and_shows_its_end() {
        let p = pod(serde_json::json!({"containers": [{"name": "a"}]}));
        let s = with(&p, vec![record("a", "1", State::Exited, 3)], &[("a", "CrashLoopBackOff")], false);
        let c = &s.container_statuses.as_ref().unwrap()[0];
        assert_eq!(c.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(), Some("CrashLoopBackOff"));
        assert_eq!(c.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 3);
        assert_eq!(s.phase.as_deref(), Some("Running"));
    }

    #[test]
    fn init_containers_hold_the_pod_pending() {
        let p = pod(serde_json::json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
        let s = with(&p, vec![record("i", "1", State::Running, 0)], &[], false);
        assert_eq!(s.phase.as_deref(), Some("Pending"));
        assert_eq!(condition(&s, "Initialized").message.as_deref(), Some("containers with incomplete status: [i]"));
        let waiting =
            s.container_statuses.as_ref().unwrap()[0].state.as_ref().unwrap().waiting.as_ref().unwrap().clone();
        assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));
        let s = with(&p, vec![record("i", "1", State::Exited, 0)], &[], false);
        assert_eq!(condition(&s, "Initialized").status, "True");
        assert!(s.init_container_statuses.as_ref().unwrap()[0].ready);
    }

    #[test]
    fn an_unchanged_condition_keeps_its_time() {
        let mut p = pod(serde_json::json!({"containers": [{"name": "a"}]}));
        let first = with(&p, vec![record("a", "1", State::Running, 0)], &[], false);
        let mut old = first.clone();
        for c in old.conditions.iter_mut().flatten() {
            c.last_transition_time = Some(Time(Timestamp::from_second(7).unwrap()));
        }
        p.status = Some(old);
        let s = with(&p, vec![record("a", "1", State::Exited, 1)], &[], false);
        assert_eq!(condition(&s, "PodScheduled").last_transition_time.as_ref().unwrap().0.as_second(), 7);
        assert_eq!(condition(&s, "Ready").last_transition_time.as_ref().unwrap().0.as_second(), 1000);
    }

    #[test]
    fn what_the_runtime_lost_is_told() {
        let mut p = pod(serde_json::json!({"containers": [{"name": "a"}]}));
        p.status = Some(with(&p, vec![record("a", "1", State::Running, 0)], &[], false));
        let s = with(&p, vec![], &[], true);
        let c = &s.container_statuses.as_ref().unwrap()[0];
        let t = c.state.as_ref().unwrap().terminated.as_ref().unwrap();
        assert_eq!((t.reason.as_deref(), t.exit_code), (Some("ContainerStatusUnknown"), 137));
    }
}

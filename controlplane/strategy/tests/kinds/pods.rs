//! What is refused of a new Pod, and how it is told.

use serde_json::{Value, json};

use crate::{kind, pod, pod_with, refused};

#[track_caller]
fn spec_refused(spec: Value, expected: &[&str]) {
    assert_eq!(refused(&kind("v1", "Pod"), pod(spec)), expected);
}

#[track_caller]
fn container_refused(fields: Value, expected: &[&str]) {
    let expected: Vec<String> = expected.iter().map(|e| format!("spec.containers[0].{e}")).collect();
    assert_eq!(refused(&kind("v1", "Pod"), pod_with(fields)), expected);
}

#[test]
fn an_ordinary_pod_is_accepted() {
    let p = json!({ "spec": {
        "containers": [{
            "name": "app", "image": "registry.example/app:1", "command": ["run"], "args": ["-v"],
            "ports": [{ "name": "http", "containerPort": 8080 }],
            "env": [
                { "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                { "name": "CPU", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu", "divisor": "1m" } } },
                { "name": "KEY", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } },
                { "name": "L", "valueFrom": { "fieldRef": { "fieldPath": "metadata.labels['app']" } } },
            ],
            "envFrom": [{ "configMapRef": { "name": "c" } }],
            "volumeMounts": [{ "name": "data", "mountPath": "/data", "subPath": "a/b" }],
            "livenessProbe": { "httpGet": { "port": "http" } },
            "lifecycle": { "preStop": { "sleep": { "seconds": 5 } } },
            "securityContext": { "runAsUser": 1000, "seccompProfile": { "type": "RuntimeDefault" } },
        }],
        "initContainers": [{ "name": "side", "image": "side:1", "restartPolicy": "Always",
                             "readinessProbe": { "tcpSocket": { "port": 1 } } }],
        "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }],
        "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
            { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { "a": "b" } } },
        ] } },
        "tolerations": [{ "key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule" }],
        "dnsConfig": { "nameservers": ["1.1.1.1"], "searches": ["_tcp.example.com."], "options": [{ "name": "ndots" }] },
        "hostAliases": [{ "ip": "10.0.0.1", "hostnames": ["a.example"] }],
        "os": { "name": "linux" },
    } });
    assert_eq!(refused(&kind("v1", "Pod"), p), [] as [&str; 0]);
}

#[test]
fn containers_must_be_named_apart_and_have_an_image() {
    let c = |n: &str| json!({ "name": n, "image": "i:1" });
    spec_refused(json!({ "containers": [] }), &["spec.containers: Required value"]);
    spec_refused(
        json!({ "containers": [c("a"), c("a")], "initContainers": [c("a")] }),
        &["spec.containers[1].name: Duplicate value: \"a\"", "spec.initContainers[0].name: Duplicate value: \"a\""],
    );
    container_refused(json!({ "image": "" }), &["image: Required value"]);
    container_refused(
        json!({ "image": " app:1" }),
        &["image: Invalid value: \" app:1\": must not have leading or trailing whitespace"],
    );
}

#[test]
fn only_sidecars_among_init_containers_have_probes() {
    let probe = json!({ "exec": { "command": ["x"] } });
    let c = json!({ "name": "i", "image": "i:1", "livenessProbe": probe });
    spec_refused(
        json!({ "initContainers": [c] }),
        &[
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ],
    );
}

#[test]
fn ports_are_checked_one_by_one_and_against_each_other() {
    container_refused(
        json!({ "ports": [{ "containerPort": 70000 }, { "containerPort": 1, "protocol": "tcp" }] }),
        &[
            "ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "ports[1].protocol: Unsupported value: \"tcp\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ],
    );
    container_refused(
        json!({ "ports": [{ "containerPort": 1, "hostPort": 9 }, { "containerPort": 2, "hostPort": 9 }] }),
        &["ports[1].hostPort: Duplicate value: \"TCP//9\""],
    );
}

#[test]
fn an_environment_variable_has_one_source() {
    let both = json!({ "fieldRef": { "fieldPath": "metadata.name" }, "secretKeyRef": { "name": "s", "key": "k" } });
    container_refused(
        json!({ "env": [{ "name": "A", "valueFrom": both }] }),
        &["env[0].valueFrom: Invalid value: \"\": may not have more than one field specified at a time"],
    );
    container_refused(
        json!({ "env": [{ "name": "A", "valueFrom": { "fieldRef": { "fieldPath": "spec.nope" } } }] }),
        &[
            "env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nope\": error converting fieldPath: field label not supported: spec.nope",
        ],
    );
    container_refused(
        json!({ "envFrom": [{}] }),
        &["envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`"],
    );
}

#[test]
fn probes_have_one_handler_and_sensible_numbers() {
    container_refused(
        json!({ "livenessProbe": { "exec": { "command": [] }, "successThreshold": 2, "periodSeconds": -1 } }),
        &[
            "livenessProbe.exec.command: Required value",
            "livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            "livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ],
    );
    container_refused(
        json!({ "readinessProbe": { "tcpSocket": { "port": 1 }, "httpGet": { "port": 1 } } }),
        &["readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"],
    );
    container_refused(
        json!({ "lifecycle": { "preStop": { "sleep": { "seconds": 31 } } } }),
        &[
            "lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
        ],
    );
}

#[test]
fn resources_must_exist_agree_and_not_be_negative() {
    container_refused(
        json!({ "resources": { "requests": { "gpu": "1" } } }),
        &[
            "resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified",
            "resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
        ],
    );
    container_refused(
        json!({ "resources": { "limits": { "example.com/gpu": "1500m" } } }),
        &[
            "resources.limits[example.com/gpu]: Invalid value: \"1500m\": must be an integer",
            "resources.requests[example.com/gpu]: Invalid value: \"1500m\": must be an integer",
        ],
    );
    container_refused(
        json!({ "resources": { "requests": { "example.com/gpu": "1" } } }),
        &["resources.limits: Required value: Limit must be set for non overcommitable resources"],
    );
}

#[test]
fn volumes_have_one_source_and_paths_that_do_not_climb() {
    spec_refused(
        json!({ "volumes": [{ "name": "v", "hostPath": { "path": "/a/../b", "type": "Nope" } }] }),
        &[
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            "spec.volumes[0].hostPath.type: Unsupported value: \"Nope\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
        ],
    );
    spec_refused(
        json!({ "volumes": [{ "name": "v", "configMap": { "name": "c", "defaultMode": 512, "items": [{ "key": "k", "path": "/abs" }] } }] }),
        &[
            "spec.volumes[0].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
            "spec.volumes[0].configMap.items[0].path: Invalid value: \"/abs\": must be a relative path",
        ],
    );
    let token = json!({ "serviceAccountToken": { "path": "t", "expirationSeconds": 60 } });
    spec_refused(
        json!({ "serviceAccountName": "s", "volumes": [{ "name": "v", "projected": { "sources": [token] } }] }),
        &[
            "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 60: may not specify a duration less than 10 minutes",
        ],
    );
}

#[test]
fn mounts_name_a_volume_and_do_not_collide() {
    let mounts = json!([
        { "name": "v", "mountPath": "/a" }, { "name": "v", "mountPath": "/a" },
        { "name": "w", "mountPath": "/b", "mountPropagation": "Bidirectional" },
    ]);
    let c = json!([{ "name": "app", "image": "app:1", "volumeMounts": mounts }]);
    spec_refused(
        json!({ "containers": c, "volumes": [{ "name": "v", "emptyDir": {} }] }),
        &[
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            "spec.containers[0].volumeMounts[2].name: Not found: \"w\"",
            "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
        ],
    );
}

#[test]
fn security_contexts_do_not_contradict_themselves() {
    let c = json!({ "allowPrivilegeEscalation": false, "privileged": true });
    container_refused(
        json!({ "securityContext": c }),
        &[
            "securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ],
    );
    spec_refused(
        json!({ "securityContext": { "runAsUser": -1, "sysctls": [{ "name": "net.ipv4.ip_forward", "value": "1" }] }, "hostNetwork": true }),
        &[
            "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 4294967295, inclusive",
            "spec.securityContext.sysctls[0].name: Invalid value: \"net.ipv4.ip_forward\": may not be specified when 'hostNetwork' is true",
        ],
    );
    spec_refused(
        json!({ "securityContext": { "seccompProfile": { "type": "Localhost" } } }),
        &[
            "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
        ],
    );
}

#[test]
fn affinity_terms_are_well_formed() {
    let term = json!({ "matchExpressions": [{ "key": "zone", "operator": "In" }] });
    let preferred = json!([{ "weight": 101, "preference": {} }]);
    spec_refused(
        json!({ "affinity": { "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [term] },
            "preferredDuringSchedulingIgnoredDuringExecution": preferred,
        } } }),
        &[
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100",
        ],
    );
}

#[test]
fn spread_constraints_are_positive_and_unique() {
    let c = json!({ "maxSkew": 0, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule" });
    spec_refused(
        json!({ "topologySpreadConstraints": [c, { "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule" }] }),
        &[
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
            "spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{zone, DoNotSchedule}\"",
        ],
    );
}

#[test]
fn names_deadlines_and_gates_are_checked() {
    spec_refused(
        json!({ "activeDeadlineSeconds": 0, "hostname": "Not.A.Label", "nodeName": "n", "schedulingGates": [{ "name": "a" }, { "name": "a" }] }),
        &[
            "spec.schedulingGates[1]: Duplicate value: \"a\"",
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            "spec.hostname: Invalid value: \"Not.A.Label\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ],
    );
}

#[test]
fn ephemeral_containers_come_later() {
    spec_refused(
        json!({ "ephemeralContainers": [{ "name": "debug", "image": "d:1" }] }),
        &["spec.ephemeralContainers: Forbidden: cannot be set on create"],
    );
}

#[test]
fn host_users_and_host_namespaces_exclude_each_other() {
    spec_refused(
        json!({ "hostUsers": false, "hostNetwork": true, "hostPID": true }),
        &[
            "spec.hostNetwork: Forbidden: when `pod.Spec.HostUsers` is false",
            "spec.HostPID: Forbidden: when `pod.Spec.HostUsers` is false",
        ],
    );
}

#[test]
fn pod_level_resources_cover_the_containers() {
    let c = json!([{ "name": "app", "image": "app:1", "resources": { "requests": { "cpu": "2" } } }]);
    spec_refused(
        json!({ "containers": c, "resources": { "requests": { "cpu": "1" } } }),
        &[
            "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2",
        ],
    );
}

#[test]
fn a_windows_pod_has_no_linux_settings() {
    spec_refused(
        json!({ "os": { "name": "windows" }, "hostPID": true, "securityContext": { "fsGroup": 1 } }),
        &[
            "spec.securityContext.fsGroup: Forbidden: cannot be set for a windows pod",
            "spec.hostPID: Forbidden: cannot be set for a windows pod",
        ],
    );
}

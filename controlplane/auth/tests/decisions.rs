//! Who is let in and what they may do, on a small cluster made of a map.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use http::{HeaderMap, HeaderValue};
use parking_lot::RwLock;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use strake_auth::{
    Attributes, Authenticator, AuthenticatorConfig, Authorizer, ImpersonationError, Lookup, Operation, UserInfo, Write,
    bootstrap, groups, impersonate, node_restriction,
};
use strake_pki::{BoundObject, DEFAULT_ISSUER, ServiceAccountSigner, TokenRequest};

type Key = (String, String, String, String);

/// Objects by group, resource, namespace and name.
#[derive(Default)]
struct Cluster {
    objects: RwLock<BTreeMap<Key, Arc<Value>>>,
    version: AtomicU64,
}

impl Cluster {
    fn add(&self, group: &str, resource: &str, object: Value) {
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        let key = (group.to_owned(), resource.to_owned(), text("namespace"), text("name"));
        self.objects.write().insert(key, Arc::new(object));
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    fn remove(&self, resource: &str, name: &str) {
        self.objects.write().retain(|key, _| key.1 != resource || key.3 != name);
        self.version.fetch_add(1, Ordering::SeqCst);
    }
}

impl Lookup for Cluster {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let key = (group.to_owned(), resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.objects.read().get(&key).cloned()
    }

    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let objects = self.objects.read();
        let wanted = |k: &Key| k.0 == group && k.1 == resource && namespace.is_none_or(|n| k.2 == n);
        objects.iter().filter(|(k, _)| wanted(k)).map(|(_, v)| v.clone()).collect()
    }

    fn version(&self, _: &str, _: &str) -> u64 {
        self.version.load(Ordering::SeqCst)
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";

/// A cluster with the objects it begins with.
fn stock() -> Arc<Cluster> {
    let cluster = Cluster::default();
    for object in bootstrap::objects(&bootstrap::Settings { service_cidrs: &[] }) {
        cluster.add(object.group, object.resource, object.value);
    }
    Arc::new(cluster)
}

fn role_binding(cluster: &Cluster, namespace: &str, name: &str, role: (&str, &str), user: &str) {
    let metadata = json!({ "namespace": namespace, "name": name });
    let role_ref = json!({ "apiGroup": RBAC, "kind": role.0, "name": role.1 });
    let subjects = json!([{ "kind": "User", "name": user }]);
    cluster.add(RBAC, "rolebindings", json!({ "metadata": metadata, "roleRef": role_ref, "subjects": subjects }));
}

fn may(authorizer: &Authorizer, user: &UserInfo, question: &str) -> bool {
    let decision = ask(authorizer, user, question);
    decision.is_ok()
}

/// `verb resource[/subresource][.group] [namespace[/name]]`
fn ask(authorizer: &Authorizer, user: &UserInfo, question: &str) -> Result<(), String> {
    let words: Vec<_> = question.split(' ').collect();
    let (resource, group) = words[1].split_once('.').unwrap_or((words[1], ""));
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let (namespace, name) = words.get(2).map_or(("", ""), |w| w.split_once('/').unwrap_or((w, "")));
    let attributes =
        Attributes::resource(user, words[0], group, resource).subresource(subresource).namespace(namespace).name(name);
    authorizer.require(&attributes).map_err(|denied| denied.message)
}

#[test]
fn a_new_cluster_trusts_masters_with_all_and_strangers_with_little() {
    let authorizer = Authorizer::new(stock());
    let admin = UserInfo::new("kubernetes-admin", &[groups::MASTERS, groups::AUTHENTICATED]);
    assert!(may(&authorizer, &admin, "delete secrets kube-system/x"));
    let stranger = UserInfo::new("x", &[groups::AUTHENTICATED]);
    assert_eq!(
        ask(&authorizer, &stranger, "list pods default").unwrap_err(),
        "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    assert!(may(&authorizer, &stranger, "create selfsubjectaccessreviews.authorization.k8s.io"));
    let path = |user, path| authorizer.authorize(&Attributes::non_resource(user, "get", path)).allowed();
    let anonymous = UserInfo::anonymous();
    assert!(path(&stranger, "/apis/apps") && path(&stranger, "/openapi/v3"));
    assert!(!path(&anonymous, "/apis/apps") && !path(&stranger, "/metrics"));
    assert!(path(&anonymous, "/version") && path(&anonymous, "/readyz"));
    assert!(may(&authorizer, &anonymous, "get configmaps kube-public/cluster-info"));
    assert!(!may(&authorizer, &anonymous, "get configmaps kube-public/other"));
}

#[test]
fn stock_components_have_what_they_need() {
    let authorizer = Authorizer::new(stock());
    let controller = UserInfo::service_account("kube-system", "deployment-controller");
    assert!(may(&authorizer, &controller, "create replicasets.apps default"));
    assert!(!may(&authorizer, &controller, "create pods default"));
    let scheduler = UserInfo::new("system:kube-scheduler", &[groups::AUTHENTICATED]);
    assert!(may(&authorizer, &scheduler, "create pods/binding default/x"));
    let agent = UserInfo::new("system:strake-agent:n1", &[groups::STRAKE_AGENTS, groups::AUTHENTICATED]);
    assert!(may(&authorizer, &agent, "watch endpointslices.discovery.k8s.io"));
    assert!(!may(&authorizer, &agent, "get secrets default/x"));
    let joining = UserInfo::new("system:bootstrap:abcdef", &[groups::BOOTSTRAPPERS]);
    assert!(may(&authorizer, &joining, "create certificatesigningrequests.certificates.k8s.io"));
    assert!(may(&authorizer, &joining, "create certificatesigningrequests/nodeclient.certificates.k8s.io"));
    let api_server = UserInfo::new(strake_pki::KUBELET_CLIENT, &[groups::AUTHENTICATED]);
    assert!(may(&authorizer, &api_server, "create nodes/proxy /n1"));
}

#[test]
fn a_role_holds_in_its_namespace_and_from_the_moment_it_is_written() {
    let cluster = stock();
    let authorizer = Authorizer::new(cluster.clone());
    let jane = UserInfo::new("jane", &[groups::AUTHENTICATED]);
    assert!(!may(&authorizer, &jane, "get pods a/x"));
    role_binding(&cluster, "a", "read", ("ClusterRole", "view"), "jane");
    assert!(may(&authorizer, &jane, "get pods a/x") && may(&authorizer, &jane, "get pods/log a/x"));
    assert!(!may(&authorizer, &jane, "get pods b/x") && !may(&authorizer, &jane, "list pods"));
    assert!(!may(&authorizer, &jane, "get secrets a/x") && !may(&authorizer, &jane, "delete pods a/x"));
    cluster.remove("rolebindings", "read");
    assert!(!may(&authorizer, &jane, "get pods a/x"));
    role_binding(&cluster, "a", "dangling", ("Role", "missing"), "jane");
    let denied = ask(&authorizer, &jane, "get pods a/x").unwrap_err();
    assert!(denied.ends_with(": RBAC: role.rbac.authorization.k8s.io \"missing\" not found"), "{denied}");
}

#[test]
fn an_aggregated_role_grows_with_the_roles_it_selects() {
    let cluster = stock();
    let authorizer = Authorizer::new(cluster.clone());
    let jane = UserInfo::new("jane", &[]);
    role_binding(&cluster, "a", "edit", ("ClusterRole", "edit"), "jane");
    assert!(!may(&authorizer, &jane, "create widgets.example.com a"));
    let labels = json!({ "rbac.authorization.k8s.io/aggregate-to-view": "true" });
    let rules = json!([{ "apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["create"] }]);
    cluster.add(RBAC, "clusterroles", json!({ "metadata": { "name": "widgets", "labels": labels }, "rules": rules }));
    assert!(may(&authorizer, &jane, "create widgets.example.com a"), "through view, which edit aggregates");
}

#[test]
fn nobody_grants_what_he_does_not_have() {
    let cluster = stock();
    let authorizer = Authorizer::new(cluster.clone());
    let jane = UserInfo::new("jane", &["dev"]);
    role_binding(&cluster, "a", "edit", ("ClusterRole", "view"), "jane");
    let role = |rules: Value| json!({ "metadata": { "namespace": "a", "name": "r" }, "rules": rules });
    let read = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"] }]);
    let write = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "delete"] }]);
    authorizer.check_role_write(&jane, "roles", &role(read), None).unwrap();
    let denied = authorizer.check_role_write(&jane, "roles", &role(write.clone()), None).unwrap_err();
    assert_eq!(
        denied.message,
        "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"jane\" (groups=[\"dev\"]) is attempting to grant RBAC \
         permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"
    );
    let same = role(write.clone());
    authorizer.check_role_write(&jane, "roles", &same, Some(&same)).expect("the rules do not change");
    let binding = |role: &str| json!({ "metadata": { "namespace": "a", "name": "b" }, "roleRef": { "kind": "ClusterRole", "name": role } });
    authorizer.check_binding_write(&jane, "rolebindings", &binding("view"), None).unwrap();
    assert!(authorizer.check_binding_write(&jane, "rolebindings", &binding("edit"), None).is_err());
    assert!(authorizer.check_binding_write(&jane, "rolebindings", &binding("missing"), None).is_err());
    let rules = json!([{ "apiGroups": [RBAC], "resources": ["clusterroles", "roles"], "verbs": ["bind", "escalate"] }]);
    cluster.add(RBAC, "clusterroles", json!({ "metadata": { "name": "granter" }, "rules": rules }));
    role_binding(&cluster, "a", "granter", ("ClusterRole", "granter"), "jane");
    authorizer.check_binding_write(&jane, "rolebindings", &binding("edit"), None).expect("bind lifts the check");
    authorizer.check_role_write(&jane, "roles", &role(write), None).expect("escalate lifts the check");
}

fn pod(name: &str, node: &str, spec: Value) -> Value {
    let mut pod = json!({ "metadata": { "namespace": "a", "name": name, "uid": format!("uid-{name}") }, "spec": spec });
    pod["spec"]["nodeName"] = node.into();
    pod
}

fn kubelet(node: &str) -> UserInfo {
    UserInfo::new(format!("system:node:{node}"), &[groups::NODES, groups::AUTHENTICATED])
}

#[test]
fn a_kubelet_reads_what_its_pods_refer_to() {
    let cluster = stock();
    let authorizer = Authorizer::new(cluster.clone());
    let spec = json!({
        "serviceAccountName": "web",
        "imagePullSecrets": [{ "name": "pull" }],
        "containers": [{
            "name": "c",
            "env": [{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "env", "key": "k" } } }],
            "envFrom": [{ "configMapRef": { "name": "from" } }],
        }],
        "volumes": [
            { "name": "s", "secret": { "secretName": "volume" } },
            { "name": "p", "projected": { "sources": [{ "configMap": { "name": "root-ca" } }, { "secret": { "name": "projected" } }] } },
            { "name": "d", "persistentVolumeClaim": { "claimName": "claim" } },
            { "name": "e", "ephemeral": {} },
        ],
    });
    cluster.add("", "pods", pod("web-1", "n1", spec));
    let claim = json!({ "metadata": { "namespace": "a", "name": "claim" }, "spec": { "volumeName": "pv" } });
    cluster.add("", "persistentvolumeclaims", claim);
    let volume = json!({ "metadata": { "name": "pv" }, "spec": { "csi": { "nodePublishSecretRef": { "name": "csi", "namespace": "a" } } } });
    cluster.add("", "persistentvolumes", volume);
    let (n1, n2) = (kubelet("n1"), kubelet("n2"));
    for question in [
        "get secrets a/volume",
        "watch secrets a/env",
        "list secrets a/pull",
        "get secrets a/projected",
        "get secrets a/csi",
        "get configmaps a/from",
        "get configmaps a/root-ca",
        "get persistentvolumeclaims a/claim",
        "get persistentvolumeclaims a/web-1-e",
        "get persistentvolumes /pv",
        "create serviceaccounts/token a/web",
        "get pods a/web-1",
    ] {
        ask(&authorizer, &n1, question).unwrap();
        let denied = ask(&authorizer, &n2, question).unwrap_err();
        assert!(denied.ends_with("no relationship found between node 'n2' and this object"), "{denied}");
    }
    for question in [
        "get secrets a/other",
        "get secrets b/volume",
        "list secrets a",
        "delete secrets a/volume",
        "create serviceaccounts/token a/default",
    ] {
        assert!(!may(&authorizer, &n1, question), "{question}");
    }
    // What the kubelet made up itself grants nothing.
    let mut mirror = pod("mirror", "n2", json!({ "volumes": [{ "name": "s", "secret": { "secretName": "volume" } }] }));
    mirror["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "x" });
    cluster.add("", "pods", mirror);
    assert!(!may(&authorizer, &n2, "get secrets a/volume"));
}

#[test]
fn a_kubelet_has_its_own_node_lease_and_pods_and_the_common_reads() {
    let authorizer = Authorizer::new(stock());
    let n1 = kubelet("n1");
    for question in [
        "get nodes /n1",
        "patch nodes/status /n1",
        "create nodes",
        "update leases.coordination.k8s.io kube-node-lease/n1",
        "create leases.coordination.k8s.io kube-node-lease",
        "watch services",
        "create events default",
        "patch pods/status a/x",
        "create certificatesigningrequests.certificates.k8s.io",
        "get runtimeclasses.node.k8s.io /x",
    ] {
        ask(&authorizer, &n1, question).unwrap();
    }
    for question in [
        "get nodes /n2",
        "list nodes",
        "delete nodes /n1",
        "update leases.coordination.k8s.io kube-node-lease/n2",
        "update leases.coordination.k8s.io default/n1",
        "list pods",
        "update pods a/x",
        "list deployments.apps",
    ] {
        assert!(!may(&authorizer, &n1, question), "{question}");
    }
    let own = Attributes::resource(&n1, "watch", "", "pods").fields(vec![("spec.nodeName", "n1")]);
    assert!(authorizer.authorize(&own).allowed());
    let other = Attributes::resource(&n1, "watch", "", "pods").fields(vec![("spec.nodeName", "n2")]);
    assert!(!authorizer.authorize(&other).allowed());
}

#[test]
fn a_kubelet_writes_only_what_is_its_own() {
    let cluster = stock();
    cluster.add("", "pods", pod("web-1", "n1", json!({ "serviceAccountName": "web" })));
    let mirror = |spec: Value| {
        let mut pod = pod("m", "n1", spec);
        pod["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "x" });
        pod
    };
    let token = |uid: &str| json!({ "spec": { "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": "web-1", "uid": uid } } });
    let node = |labels: Value| json!({ "metadata": { "name": "n1", "labels": labels }, "spec": {} });
    let tainted = json!({ "metadata": { "name": "n1" }, "spec": { "taints": [{ "key": "x" }] } });
    let bound = pod("web-1", "n1", json!({}));
    let elsewhere = pod("web-1", "n2", json!({}));
    use Operation::{Create, Delete, Update};
    let null = Value::Null;
    for (operation, resource, name, new, old, verdict) in [
        (Create, "pods", "m", &mirror(json!({})), &null, ""),
        (Create, "pods", "web-2", &pod("web-2", "n1", json!({})), &null, "can only create mirror pods"),
        (Create, "pods", "m", &mirror(json!({ "volumes": [{ "secret": {} }] })), &null, "secret volume"),
        (Create, "pods", "m", &mirror(json!({ "serviceAccountName": "x" })), &null, "service account"),
        (Delete, "pods", "web-1", &null, &bound, ""),
        (Delete, "pods", "web-1", &null, &elsewhere, "spec.nodeName set to itself"),
        (Update, "pods/status", "web-1", &bound, &bound, ""),
        (Update, "pods/status", "web-1", &elsewhere, &elsewhere, "spec.nodeName set to itself"),
        (Create, "serviceaccounts/token", "web", &token("uid-web-1"), &null, ""),
        (Create, "serviceaccounts/token", "web", &token("other"), &null, "does not match"),
        (Create, "serviceaccounts/token", "default", &token("uid-web-1"), &null, "service account of the pod"),
        (Create, "nodes", "n1", &node(json!({ "kubernetes.io/hostname": "n1", "example.com/x": "" })), &null, ""),
        (
            Create,
            "nodes",
            "n1",
            &node(json!({ "topology.kubernetes.io/zone": "z", "kubelet.kubernetes.io/x": "" })),
            &null,
            "",
        ),
        (
            Create,
            "nodes",
            "n1",
            &node(json!({ "node-restriction.kubernetes.io/x": "" })),
            &null,
            "modify labels: node-restriction.kubernetes.io/x",
        ),
        (Update, "nodes", "n1", &node(json!({ "node-role.kubernetes.io/x": "" })), &node(json!({})), "modify labels"),
        (Update, "nodes", "n1", &node(json!({})), &tainted, "taints"),
        (Update, "nodes/status", "n2", &node(json!({})), &null, "not allowed to modify node"),
    ] {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let write = Write { operation, group: "", resource, subresource, namespace: "a", name, object: new, old };
        match node_restriction(&kubelet("n1"), &write, &*cluster) {
            Ok(()) => assert_eq!(verdict, "", "{resource} {name} was let through"),
            Err(denied) => {
                assert!(!verdict.is_empty() && denied.message.contains(verdict), "{}", denied.message);
                assert!(
                    denied.message.starts_with(&format!("{resource} \"{name}\" is forbidden: ")),
                    "{}",
                    denied.message
                );
            }
        }
        node_restriction(&UserInfo::new("jane", &[]), &write, &*cluster).expect("not a kubelet");
    }
}

struct Login {
    cluster: Arc<Cluster>,
    authenticator: Authenticator,
    signer: Arc<ServiceAccountSigner>,
    dir: tempfile::TempDir,
}

fn login() -> Login {
    let dir = tempfile::tempdir().unwrap();
    let signer = Arc::new(ServiceAccountSigner::ensure(dir.path(), DEFAULT_ISSUER).unwrap());
    let file = dir.path().join("tokens.csv");
    std::fs::write(&file, "s3cret,jane,7,\"dev,ops\"\nother,joe,8\n").unwrap();
    let cluster = stock();
    cluster.add("", "serviceaccounts", json!({ "metadata": { "namespace": "a", "name": "web", "uid": "u1" } }));
    cluster.add("", "pods", pod("web-1", "n1", json!({})));
    let config = AuthenticatorConfig {
        service_accounts: signer.clone(),
        audiences: vec![],
        token_file: Some(file),
        anonymous: true,
    };
    let authenticator = Authenticator::new(config, cluster.clone()).unwrap();
    Login { cluster, authenticator, signer, dir }
}

fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::try_from(format!("Bearer {token}")).unwrap());
    headers
}

impl Login {
    fn with(&self, token: &str) -> Result<UserInfo, String> {
        self.authenticator.authenticate(None, &bearer(token)).map_err(|e| e.to_string())
    }
}

#[test]
fn no_credential_is_anonymous_and_a_wrong_one_is_refused() {
    let login = login();
    let anonymous = login.authenticator.authenticate(None, &HeaderMap::new()).unwrap();
    assert_eq!(anonymous, UserInfo::anonymous());
    for wrong in ["nonsense", "a.b.c", "abcdef.0123456789abcdef"] {
        login.with(wrong).unwrap_err();
    }
    let jane = login.with("s3cret").unwrap();
    assert_eq!((&jane.name[..], &jane.uid[..]), ("jane", "7"));
    assert_eq!(jane.groups, ["dev", "ops", groups::AUTHENTICATED]);
    let config = AuthenticatorConfig {
        service_accounts: login.signer.clone(),
        audiences: vec![],
        token_file: Some(login.dir.path().join("missing")),
        anonymous: false,
    };
    let error = Authenticator::new(config, login.cluster.clone()).err().unwrap();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn a_client_certificate_names_user_and_groups_and_goes_before_a_token() {
    let login = login();
    let pki = strake_pki::CertificateAuthority::ensure(&login.dir.path().join("")).unwrap();
    let identity = pki.issue_client("system:node:n1", &[groups::NODES], strake_pki::DAY).unwrap();
    let chain = identity.chain().unwrap();
    let user = login.authenticator.authenticate(Some(&chain[0]), &bearer("s3cret")).unwrap();
    assert_eq!(user.name, "system:node:n1");
    assert_eq!(user.groups, [groups::NODES, groups::AUTHENTICATED]);
    assert!(user.extra["authentication.kubernetes.io/credential-id"][0].starts_with("X509SHA256="));
}

#[test]
fn a_service_account_token_lives_as_long_as_what_it_is_bound_to() {
    let login = login();
    let request = TokenRequest {
        namespace: "a".into(),
        service_account: BoundObject { name: "web".into(), uid: "u1".into() },
        audiences: vec![],
        lifetime: Duration::from_secs(600),
        warn_after: None,
        pod: Some(BoundObject { name: "web-1".into(), uid: "uid-web-1".into() }),
        node: Some(BoundObject { name: "n1".into(), uid: "u9".into() }),
        secret: None,
    };
    let (token, _) = login.signer.sign(&request).unwrap();
    let user = login.with(&token).unwrap();
    assert_eq!((&user.name[..], &user.uid[..]), ("system:serviceaccount:a:web", "u1"));
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:a", groups::AUTHENTICATED]);
    assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["web-1"]);
    assert_eq!(user.extra["authentication.kubernetes.io/node-name"], ["n1"]);
    // For another audience it is no credential here, but TokenReview can ask for that audience.
    let (vault, _) = login.signer.sign(&TokenRequest { audiences: vec!["vault".into()], ..request.clone() }).unwrap();
    login.with(&vault).unwrap_err();
    let review = login.authenticator.token_review(&json!({ "token": vault, "audiences": ["vault", "x"] }));
    assert_eq!((&review["authenticated"], &review["audiences"]), (&json!(true), &json!(["vault"])));
    assert_eq!(review["user"]["username"], "system:serviceaccount:a:web");
    // The browser's way.
    let mut headers = HeaderMap::new();
    use base64::Engine;
    let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&token);
    let protocols = format!("v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.{encoded}");
    headers.insert("sec-websocket-protocol", HeaderValue::try_from(protocols).unwrap());
    assert_eq!(login.authenticator.authenticate(None, &headers).unwrap(), user);
    // The Pod goes, and another one of the same name comes.
    login.cluster.remove("pods", "web-1");
    assert!(login.with(&token).unwrap_err().contains("pods a/web-1 does not exist"));
    let mut again = pod("web-1", "n1", json!({}));
    again["metadata"]["uid"] = "another".into();
    login.cluster.add("", "pods", again);
    assert!(login.with(&token).unwrap_err().contains("another one of the same name"));
    login.cluster.add("", "pods", pod("web-1", "n1", json!({})));
    login.with(&token).unwrap();
    login.cluster.remove("serviceaccounts", "web");
    assert!(login.with(&token).unwrap_err().contains("serviceaccounts a/web does not exist"));
}

#[test]
fn a_bootstrap_token_is_its_secret() {
    let login = login();
    let secret = |fields: Value| {
        use base64::Engine;
        let encode = |v: &Value| base64::engine::general_purpose::STANDARD.encode(v.as_str().unwrap());
        let data: serde_json::Map<_, _> =
            fields.as_object().unwrap().iter().map(|(k, v)| (k.clone(), encode(v).into())).collect();
        let metadata = json!({ "namespace": "kube-system", "name": "bootstrap-token-abcdef" });
        let object = json!({ "metadata": metadata, "type": "bootstrap.kubernetes.io/token", "data": data });
        login.cluster.add("", "secrets", object);
    };
    let token = "abcdef.0123456789abcdef";
    let good = json!({
        "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
        "auth-extra-groups": "system:bootstrappers:strake", "expiration": "2999-01-01T00:00:00Z",
    });
    secret(good.clone());
    let user = login.with(token).unwrap();
    assert_eq!(user.name, "system:bootstrap:abcdef");
    assert_eq!(user.groups, [groups::BOOTSTRAPPERS, "system:bootstrappers:strake", groups::AUTHENTICATED]);
    login.with("abcdef.xxxxxxxxxxxxxxxx").unwrap_err();
    for (key, value, why) in [
        ("expiration", "2000-01-01T00:00:00Z", "expired"),
        ("expiration", "soon", "expired"),
        ("usage-bootstrap-authentication", "false", "not for authentication"),
        ("auth-extra-groups", "system:masters", "extra group"),
        ("token-id", "zzzzzz", "another id"),
    ] {
        let mut bad = good.clone();
        bad[key] = value.into();
        secret(bad);
        let error = login.with(token).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn impersonation_needs_permission_for_every_part() {
    let cluster = stock();
    let authorizer = Authorizer::new(cluster.clone());
    let headers = |pairs: &[(&'static str, &str)]| {
        let mut headers = HeaderMap::new();
        for (key, value) in pairs {
            headers.append(*key, HeaderValue::from_str(value).unwrap());
        }
        headers
    };
    let admin = UserInfo::new("admin", &[groups::MASTERS]);
    assert_eq!(impersonate(&authorizer, &admin, &HeaderMap::new()), Ok(None));
    let asked = headers(&[
        ("impersonate-user", "jane"),
        ("impersonate-group", "dev"),
        ("impersonate-group", "ops"),
        ("impersonate-extra-scopes%2fx", "view"),
    ]);
    let jane = impersonate(&authorizer, &admin, &asked).unwrap().unwrap();
    assert_eq!(jane.groups, ["dev", "ops", groups::AUTHENTICATED]);
    assert_eq!(jane.extra["scopes/x"], ["view"]);
    let account = headers(&[("impersonate-user", "system:serviceaccount:a:web")]);
    let account = impersonate(&authorizer, &admin, &account).unwrap().unwrap();
    assert_eq!(account.groups, ["system:serviceaccounts", "system:serviceaccounts:a", groups::AUTHENTICATED]);
    let groups_only = headers(&[("impersonate-group", "dev")]);
    assert!(matches!(impersonate(&authorizer, &admin, &groups_only), Err(ImpersonationError::BadRequest(_))));
    // One name, and nothing else.
    let rules =
        json!([{ "apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": ["jane"] }]);
    cluster.add(RBAC, "clusterroles", json!({ "metadata": { "name": "imp" }, "rules": rules }));
    let binding = json!({ "metadata": { "name": "imp" }, "roleRef": { "kind": "ClusterRole", "name": "imp" }, "subjects": [{ "kind": "User", "name": "joe" }] });
    cluster.add(RBAC, "clusterrolebindings", binding);
    let joe = UserInfo::new("joe", &[]);
    assert!(impersonate(&authorizer, &joe, &headers(&[("impersonate-user", "jane")])).is_ok());
    let denied = impersonate(&authorizer, &joe, &asked).unwrap_err().to_string();
    assert_eq!(
        denied,
        "groups \"dev\" is forbidden: User \"joe\" cannot impersonate resource \"groups\" in API group \"\" at the cluster scope"
    );
    assert!(impersonate(&authorizer, &joe, &headers(&[("impersonate-user", "jim")])).is_err());
}

#[test]
fn reviews_say_what_the_authorizer_says() {
    let cluster = stock();
    let authorizer = Authorizer::new(cluster.clone());
    role_binding(&cluster, "a", "view", ("ClusterRole", "view"), "jane");
    let spec = |verb: &str| json!({ "user": "jane", "groups": ["system:authenticated"], "resourceAttributes": { "verb": verb, "resource": "pods", "namespace": "a" } });
    let yes = authorizer.subject_access_review(&spec("list"));
    assert_eq!(yes["allowed"], true);
    assert_eq!(yes["reason"], "RBAC: allowed by RoleBinding \"view/a\" of ClusterRole \"view\" to User \"jane\"");
    assert_eq!(authorizer.subject_access_review(&spec("delete")), json!({ "allowed": false }));
    let path = json!({ "user": "jane", "groups": ["system:authenticated"], "nonResourceAttributes": { "verb": "get", "path": "/api" } });
    assert_eq!(authorizer.subject_access_review(&path)["allowed"], true);
    let jane = UserInfo::new("jane", &[groups::AUTHENTICATED]);
    let rules = authorizer.self_subject_rules_review(&jane, "a");
    assert_eq!(rules["incomplete"], false);
    let listed = rules["resourceRules"].as_array().unwrap();
    assert!(listed.iter().any(|r| r["resources"].as_array().unwrap().contains(&json!("pods/log"))), "{rules}");
    assert!(!rules["nonResourceRules"].as_array().unwrap().is_empty());
}

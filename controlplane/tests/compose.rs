//! The whole control plane in one process: what a Deployment needs to become bound Pods.

#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::{net::SocketAddr, time::Duration};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use strake_controlplane::{Component, ControlPlane, JoinToken, ServerConfig, start};
use tokio_util::sync::CancellationToken;

async fn admin(plane: &ControlPlane) -> Client {
    let mut kubeconfig = Kubeconfig::read_from(&plane.kubeconfig).unwrap();
    // The file names the advertised address, which this machine has not.
    kubeconfig.clusters[0].cluster.as_mut().unwrap().server = Some(plane.url.clone());
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

fn config(dir: &std::path::Path) -> ServerConfig {
    let mut config = ServerConfig::new(dir, "192.0.2.1".parse().unwrap());
    config.bind = SocketAddr::from(([127, 0, 0, 1], 0));
    config
}

#[tokio::test]
async fn a_deployment_becomes_pods_that_are_bound_to_a_ready_node() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    let plane = start(config(dir.path()), shutdown.clone()).await.unwrap();
    let client = admin(&plane).await;
    let nodes: Api<Node> = Api::all(client.clone());
    let node = json!({"metadata": {"name": "n1"}});
    nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    let ready = json!({"status": {
        "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
        "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    }});
    nodes.patch_status("n1", &PatchParams::default(), &Patch::Merge(ready)).await.unwrap();
    let untainted = Patch::Merge(json!({"spec": {"taints": null}}));
    nodes.patch("n1", &PatchParams::default(), &untainted).await.unwrap();
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    deployments.create(&PostParams::default(), &serde_json::from_value(deployment).unwrap()).await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let bound = async {
        loop {
            let list = pods.list(&ListParams::default().fields("spec.nodeName=n1")).await.unwrap();
            if list.items.len() == 3 {
                return list;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let bound = tokio::time::timeout(Duration::from_secs(30), bound).await.expect("three Pods are bound within 30 s");
    assert!(bound.iter().all(|pod| pod.name_any().starts_with("web-")));
    shutdown.cancel();
    plane.wait().await.unwrap();
}

#[tokio::test]
async fn it_ends_when_told_so_before_its_controllers_have_seen_anything() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    let plane = start(config(dir.path()), shutdown.clone()).await.unwrap();
    // As when the agent of the same host cannot start: its error is printed after this.
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(30), plane.wait()).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn the_join_token_outlives_a_restart_and_lets_a_node_ask_for_a_certificate() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let mut join: Option<JoinToken> = None;
    for _ in 0..2 {
        let shutdown = CancellationToken::new();
        let mut config = config(dir.path());
        config.disabled = [Component::Controllers, Component::Scheduler].into();
        let plane = start(config, shutdown.clone()).await.unwrap();
        let file: JoinToken = std::fs::read_to_string(dir.path().join("server/token")).unwrap().parse().unwrap();
        assert_eq!(file, plane.join);
        assert!(join.replace(file.clone()).is_none_or(|before| before == file));
        let ca = std::fs::read_to_string(dir.path().join("server/pki/ca.crt")).unwrap();
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: {:?}, certificate-authority-data: {:?}}}}}]\n\
             users: [{{name: u, user: {{token: {:?}}}}}]\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n",
            plane.url,
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, ca),
            file.token
        );
        let kubeconfig = Kubeconfig::from_yaml(&kubeconfig).unwrap();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let node = Client::try_from(config).unwrap();
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "metadata": {},
            "spec": {"resourceAttributes": {"group": "certificates.k8s.io", "resource": "certificatesigningrequests", "verb": "create"}}});
        let request = http::Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
            .header("content-type", "application/json")
            .body(review.to_string().into_bytes())
            .unwrap();
        let answer: serde_json::Value = node.request(request).await.unwrap();
        assert_eq!(answer["status"]["allowed"], true, "{answer}");
        shutdown.cancel();
        plane.wait().await.unwrap();
    }
}

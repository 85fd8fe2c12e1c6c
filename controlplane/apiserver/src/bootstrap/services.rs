//! The `kubernetes` Service with this server as its endpoint, and the Service of the cluster's DNS.

use std::{net::IpAddr, sync::Arc};

use serde_json::json;

use super::{BootstrapError, set};
use crate::api::Api;

/// Brings them into being, or up to date.
///
/// # Errors
/// Names the object that could not be written.
pub async fn run(api: &Arc<Api>) -> Result<(), BootstrapError> {
    let (address, port) = (api.config.advertise.to_string(), api.address.port());
    let kubernetes_ip = api.config.kubernetes_ip();
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": kubernetes_ip, "clusterIPs": [kubernetes_ip],
            "ipFamilies": [family(kubernetes_ip)], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}],
        },
    });
    set(api, "", "services", "default", "kubernetes", service, &[]).await?;
    if api.config.advertise.is_loopback() {
        // Endpoints may not be loopback addresses, and nobody else could use this one.
        tracing::warn!(%address, "the advertised address is a loopback one: the kubernetes Service has no endpoint");
        return dns(api).await;
    }
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{"addresses": [{"ip": address}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    });
    set(api, "", "endpoints", "default", "kubernetes", endpoints, &["subsets"]).await?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": family(api.config.advertise),
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    set(api, "discovery.k8s.io", "endpointslices", "default", "kubernetes", slice, &["endpoints", "ports"]).await?;
    dns(api).await
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The Service of the cluster's DNS. It has no selector: every node's agent answers its address.
async fn dns(api: &Arc<Api>) -> Result<(), BootstrapError> {
    let dns = api.config.cluster_dns;
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kube-dns", "namespace": "kube-system",
            "labels": {
                "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": dns, "clusterIPs": [dns],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster",
            "ports": [
                {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 53},
                {"name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": 53},
            ],
        },
    });
    set(api, "", "services", "kube-system", "kube-dns", service, &[]).await
}

//! Objects: created, read, changed, deleted, refused.

use crate::server::{TestServer, raw, send};
use serde_json::{Value, json};

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}}, "data": {"a": "1"}})
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn an_object_lives_and_dies() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let (code, made) = send(&admin, "POST", MAPS, Some(config_map("m"))).await;
    assert_eq!((code, &made["kind"], &made["data"]["a"]), (201, &json!("ConfigMap"), &json!("1")));
    let path = format!("{MAPS}/m");
    assert_eq!(send(&admin, "GET", &path, None).await.1, made);
    let (code, refused) = send(&admin, "POST", MAPS, Some(config_map("m"))).await;
    assert_eq!((code, &refused["reason"]), (409, &json!("AlreadyExists")));

    let mut changed = made.clone();
    changed["data"]["a"] = "2".into();
    let (code, stored) = send(&admin, "PUT", &path, Some(changed.clone())).await;
    assert_eq!(code, 200);
    assert_ne!(stored["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let (code, refused) = send(&admin, "PUT", &path, Some(changed)).await;
    assert_eq!((code, &refused["reason"]), (409, &json!("Conflict")), "the version is stale now");

    let (code, patched) = send(&admin, "PATCH", &path, Some(json!({"data": {"b": "3"}}))).await;
    assert_eq!((code, &patched["data"]), (200, &json!({"a": "2", "b": "3"})));
    let same = send(&admin, "PATCH", &path, Some(json!({"data": {"b": "3"}}))).await.1;
    assert_eq!(same["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"], "nothing was written");

    let wrong = json!({"preconditions": {"uid": "another"}});
    assert_eq!(send(&admin, "DELETE", &path, Some(wrong)).await.0, 409);
    let (code, status) = send(&admin, "DELETE", &path, None).await;
    assert_eq!((code, &status["status"]), (200, &json!("Success")));
    let (code, refused) = send(&admin, "GET", &path, None).await;
    assert_eq!((code, &refused["message"]), (404, &json!("configmaps \"m\" not found")));
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let (code, made) = send(&admin, "POST", &format!("{MAPS}?dryRun=All"), Some(config_map("m"))).await;
    assert_eq!(code, 201);
    assert!(made["metadata"]["uid"].is_string());
    assert_eq!(send(&admin, "GET", &format!("{MAPS}/m"), None).await.0, 404);
    send(&admin, "POST", MAPS, Some(config_map("m"))).await;
    send(&admin, "PATCH", &format!("{MAPS}/m?dryRun=All"), Some(json!({"data": {"a": "9"}}))).await;
    send(&admin, "DELETE", &format!("{MAPS}/m?dryRun=All"), None).await;
    assert_eq!(send(&admin, "GET", &format!("{MAPS}/m"), None).await.1["data"]["a"], "1");
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut object = config_map("m");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    send(&admin, "POST", MAPS, Some(object)).await;
    let path = format!("{MAPS}/m");
    let (code, held) = send(&admin, "DELETE", &path, None).await;
    assert_eq!(code, 200);
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(send(&admin, "GET", &path, None).await.0, 200);
    let more = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/late"]}});
    assert_eq!(send(&admin, "PATCH", &path, Some(more)).await.0, 422, "none may be added now");
    let none = json!({"metadata": {"finalizers": null}});
    assert_eq!(send(&admin, "PATCH", &path, Some(none)).await.0, 200);
    assert_eq!(send(&admin, "GET", &path, None).await.0, 404);
}

#[tokio::test]
async fn generated_names_differ() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let object = json!({"metadata": {"generateName": "x-"}});
    let first = send(&admin, "POST", MAPS, Some(object.clone())).await.1;
    let second = send(&admin, "POST", MAPS, Some(object)).await.1;
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name(&first).starts_with("x-") && name(&first).len() == 7);
    assert_ne!(name(&first), name(&second));
}

#[tokio::test]
async fn pages_show_one_moment() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for name in ["a", "b", "c", "d", "e"] {
        send(&admin, "POST", MAPS, Some(config_map(name))).await;
    }
    let first = send(&admin, "GET", &format!("{MAPS}?limit=2"), None).await.1;
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    send(&admin, "DELETE", &format!("{MAPS}/d"), None).await;
    let mut names: Vec<Value> = Vec::new();
    let mut page = first.clone();
    loop {
        names.extend(page["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].clone()));
        let Some(next) = page["metadata"]["continue"].as_str().map(str::to_owned) else { break };
        page = send(&admin, "GET", &format!("{MAPS}?limit=2&continue={next}"), None).await.1;
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"], "d was there when the list began");
    let selected =
        send(&admin, "GET", &format!("{MAPS}?labelSelector=app%20in%20(a,b)&fieldSelector=metadata.name!%3Da"), None)
            .await
            .1;
    assert_eq!(selected["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn unknown_fields_are_refused_warned_of_or_ignored() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let object = |name: &str| json!({"metadata": {"name": name}, "dta": {}}).to_string().into_bytes();
    let json = "application/json";
    let strict = raw(&admin, "POST", &format!("{MAPS}?fieldValidation=Strict"), json, object("s")).await;
    assert_eq!(strict.status(), 400);
    assert!(strict.body().contains("strict decoding error: unknown field \\\"dta\\\""), "{}", strict.body());
    let warned = raw(&admin, "POST", MAPS, json, object("w")).await;
    assert_eq!(
        (warned.status().as_u16(), &warned.headers()["warning"]),
        (201, &http::HeaderValue::from_static("299 - \"unknown field \\\"dta\\\"\""))
    );
    let ignored = raw(&admin, "POST", &format!("{MAPS}?fieldValidation=Ignore"), json, object("i")).await;
    assert!(ignored.status() == 201 && !ignored.headers().contains_key("warning"));
}

#[tokio::test]
async fn service_addresses_are_kept_across_a_restart() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let path = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    let (code, made) = send(&admin, "POST", path, Some(service)).await;
    assert_eq!(code, 201, "{made}");
    let (address, port) = (made["spec"]["clusterIP"].clone(), made["spec"]["ports"][0]["nodePort"].clone());
    let server = server.restart().await;
    let admin = server.admin();
    let again = |spec: Value| json!({"metadata": {"name": "t"}, "spec": spec});
    let taken = send(&admin, "POST", path, Some(again(json!({"clusterIP": address, "ports": [{"port": 80}]})))).await;
    assert_eq!(taken.0, 422);
    assert!(taken.1["message"].as_str().unwrap().contains("provided IP is already allocated"), "{}", taken.1);
    let spec = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let taken = send(&admin, "POST", path, Some(again(spec.clone()))).await;
    assert!(taken.1["message"].as_str().unwrap().contains("provided port is already allocated"), "{}", taken.1);
    assert_eq!(send(&admin, "DELETE", &format!("{path}/s"), None).await.0, 200);
    assert_eq!(send(&admin, "POST", path, Some(again(spec))).await.0, 201, "what was released can be had again");
}

#[tokio::test]
async fn a_pod_goes_at_once_or_with_grace() {
    let server = TestServer::start().await;
    server.default_account().await;
    let admin = server.admin();
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str| json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let (code, made) = send(&admin, "POST", pods, Some(pod("p"))).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["status"]["phase"], "Pending");
    send(&admin, "DELETE", &format!("{pods}/p"), None).await;
    assert_eq!(send(&admin, "GET", &format!("{pods}/p"), None).await.0, 404, "it was never scheduled");

    send(&admin, "POST", pods, Some(pod("q"))).await;
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    let (code, answer) = send(&admin, "POST", &format!("{pods}/q/binding"), Some(binding.clone())).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(send(&admin, "POST", &format!("{pods}/q/binding"), Some(binding)).await.0, 409);
    let bound = send(&admin, "GET", &format!("{pods}/q"), None).await.1;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let (_, going) = send(&admin, "DELETE", &format!("{pods}/q"), None).await;
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    let now = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": bound["metadata"]["uid"]}});
    assert_eq!(send(&admin, "DELETE", &format!("{pods}/q"), Some(now)).await.0, 200);
    assert_eq!(send(&admin, "GET", &format!("{pods}/q"), None).await.0, 404);
}

#[tokio::test]
async fn a_namespace_ends_when_it_is_finalized() {
    let server = TestServer::start().await;
    let admin = server.admin();
    send(&admin, "POST", "/api/v1/namespaces", Some(json!({"metadata": {"name": "n"}}))).await;
    let (_, going) = send(&admin, "DELETE", "/api/v1/namespaces/n", None).await;
    assert_eq!(going["status"]["phase"], "Terminating");
    let (code, refused) = send(&admin, "POST", "/api/v1/namespaces/n/configmaps", Some(config_map("m"))).await;
    assert_eq!((code, &refused["details"]["causes"][0]["reason"]), (403, &json!("NamespaceTerminating")), "{refused}");
    let mut finalized = going;
    finalized["spec"]["finalizers"] = json!([]);
    assert_eq!(send(&admin, "PUT", "/api/v1/namespaces/n/finalize", Some(finalized)).await.0, 200);
    assert_eq!(send(&admin, "GET", "/api/v1/namespaces/n", None).await.0, 404);
    let (code, refused) = send(&admin, "POST", "/api/v1/namespaces/n/configmaps", Some(config_map("m"))).await;
    assert_eq!((code, &refused["message"]), (404, &json!("namespaces \"n\" not found")));
    assert_eq!(send(&admin, "DELETE", "/api/v1/namespaces/default", None).await.0, 403);
}

#[tokio::test]
async fn scale_and_status_write_their_part_only() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let (code, made) = send(&admin, "POST", path, Some(deployment)).await;
    assert_eq!((code, &made["metadata"]["generation"]), (201, &json!(1)));
    let (code, scale) = send(&admin, "PATCH", &format!("{path}/d/scale"), Some(json!({"spec": {"replicas": 4}}))).await;
    assert_eq!((code, &scale["spec"]["replicas"], &scale["status"]["selector"]), (200, &json!(4), &json!("a=b")));
    let status = json!({"spec": {"replicas": 9}, "status": {"replicas": 2}});
    let (_, stored) = send(&admin, "PATCH", &format!("{path}/d/status"), Some(status)).await;
    assert_eq!((&stored["spec"]["replicas"], &stored["status"]["replicas"]), (&json!(4), &json!(2)));
    assert_eq!(stored["metadata"]["generation"], 2);
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for name in ["a", "b", "c"] {
        send(&admin, "POST", MAPS, Some(config_map(name))).await;
    }
    assert_eq!(send(&admin, "DELETE", &format!("{MAPS}?labelSelector=app!%3Dc"), None).await.0, 200);
    let left = send(&admin, "GET", MAPS, None).await.1;
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn appliers_own_what_they_say_and_nothing_else() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let apply = |manager: &str, force: bool, data: Value| {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data});
        let path = format!("{MAPS}/m?fieldManager={manager}&force={force}");
        let admin = admin.clone();
        async move {
            let answer =
                raw(&admin, "PATCH", &path, "application/apply-patch+yaml", body.to_string().into_bytes()).await;
            (answer.status().as_u16(), serde_json::from_str::<Value>(answer.body()).unwrap())
        }
    };
    let (code, made) = apply("one", false, json!({"a": "1", "b": "2"})).await;
    assert_eq!((code, &made["data"]), (201, &json!({"a": "1", "b": "2"})));
    let (code, refused) = apply("two", false, json!({"a": "9"})).await;
    assert_eq!(code, 409);
    assert_eq!(refused["message"], "Apply failed with 1 conflict: conflict with \"one\": .data.a");
    let (code, taken) = apply("two", true, json!({"a": "9"})).await;
    assert_eq!((code, &taken["data"]), (200, &json!({"a": "9", "b": "2"})));
    let (_, less) = apply("one", false, json!({})).await;
    assert_eq!(less["data"], json!({"a": "9"}), "b was its own, a is not any more");
    let (_, same) = apply("one", false, json!({})).await;
    assert_eq!(same["metadata"]["resourceVersion"], less["metadata"]["resourceVersion"]);
    let nameless = raw(&admin, "PATCH", &format!("{MAPS}/m"), "application/apply-patch+yaml", b"{}".to_vec()).await;
    assert_eq!(nameless.status(), 422);
}

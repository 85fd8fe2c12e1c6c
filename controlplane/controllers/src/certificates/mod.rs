//! CertificateSigningRequests: approves what nodes and agents may have, signs what is approved, deletes old ones.

pub mod plan;

use crate::Context;
use crate::runtime::{Doing, Error, Key, Outcome, Result, WorkQueue, now, run_workers};
use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use plan::Approval;
use std::sync::Arc;
use strake_pki::{CertificateRequest, Signer};

const NAME: &str = "certificate-controller";
const WORKERS: usize = 2;

/// Runs the controller until cancelled.
pub(crate) async fn run(ctx: Context) {
    let queue = WorkQueue::new();
    let q = queue.clone();
    ctx.shared.csrs.on_change(move |c| q.add(Key::of(&c.object().metadata)));
    // A serving certificate waits until its Node says which addresses it has.
    let (q, csrs) = (queue.clone(), ctx.shared.csrs.clone());
    ctx.shared.nodes.on_change(move |c| {
        let addresses = |n: &k8s_openapi::api::core::v1::Node| n.status.as_ref().and_then(|s| s.addresses.clone());
        if c.old().is_some_and(|o| addresses(o) == addresses(c.object())) {
            return;
        }
        let undecided = |r: &CertificateSigningRequest| !plan::has(r, "Approved") && !plan::has(r, "Denied");
        for csr in csrs.list().iter().filter(|r| undecided(r) && r.spec.signer_name == Signer::KubeletServing.name()) {
            q.add(Key::of(&csr.metadata));
        }
    });
    ctx.shared.csrs.synced().await;
    ctx.shared.nodes.synced().await;
    let cancel = ctx.cancel.clone();
    let ctx = Arc::new(ctx);
    run_workers(NAME, queue, WORKERS, cancel, move |key| {
        let ctx = ctx.clone();
        async move { sync(&ctx, key).await }
    })
    .await;
}

async fn sync(ctx: &Context, key: Key) -> Result<Outcome> {
    let Some(csr) = ctx.shared.csrs.get(&key) else { return Ok(Outcome::Done) };
    let api: Api<CertificateSigningRequest> = Api::all(ctx.client.clone());
    let left = plan::expires_in(&csr, Timestamp::now());
    if left.is_some_and(|l| l.is_zero()) {
        return match api
            .delete(&key.name, &DeleteParams::default())
            .await
            .doing(|| format!("deleting expired CertificateSigningRequest {key}"))
        {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(Outcome::Done),
        };
    }
    if let Some(signer) = plan::to_sign(&csr) {
        sign(ctx, &api, &csr, signer).await?;
    } else if !plan::has(&csr, "Approved") && !plan::has(&csr, "Denied") && !plan::has(&csr, "Failed") {
        approve(ctx, &api, &csr).await?;
    }
    Ok(left.into())
}

fn parse(csr: &CertificateSigningRequest) -> std::result::Result<CertificateRequest, String> {
    let pem = std::str::from_utf8(&csr.spec.request.0).map_err(|e| e.to_string())?;
    CertificateRequest::parse(pem).map_err(|e| e.to_string())
}

async fn approve(ctx: &Context, api: &Api<CertificateSigningRequest>, csr: &CertificateSigningRequest) -> Result<()> {
    let key = Key::of(&csr.metadata);
    let request = match parse(csr) {
        Ok(r) => r,
        Err(e) => {
            tracing::info!(csr = key.name, error = e, "left for a person: the request cannot be read");
            return Ok(());
        }
    };
    let node_name = request.common_name.strip_prefix("system:node:").unwrap_or_default();
    let node = ctx.shared.nodes.get(&Key::new("", node_name));
    let message = match plan::approval(&csr.spec, &request, |_| node.as_deref()) {
        Approval::LeaveAlone => return Ok(()),
        Approval::Approve { message } => message,
        Approval::IfAllowed { subresource, message } => {
            if !allowed(ctx, csr, subresource).await? {
                tracing::info!(csr = key.name, user = csr.spec.username, subresource, "left for a person: not allowed");
                return Ok(());
            }
            message
        }
    };
    let mut new = csr.clone();
    new.status.get_or_insert_default().conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: "Approved".into(),
        status: "True".into(),
        reason: Some("AutoApproved".into()),
        message: Some(message.into()),
        last_update_time: Some(now()),
        last_transition_time: Some(now()),
    });
    let written = api
        .replace_subresource("approval", &key.name, &PostParams::default(), &new)
        .await
        .doing(|| format!("approving CertificateSigningRequest {key}"))?;
    ctx.shared.csrs.wrote(written);
    Ok(())
}

async fn allowed(ctx: &Context, csr: &CertificateSigningRequest, subresource: &str) -> Result<bool> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: csr.spec.username.clone(),
            uid: csr.spec.uid.clone(),
            groups: csr.spec.groups.clone(),
            extra: csr.spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".into()),
                resource: Some("certificatesigningrequests".into()),
                subresource: Some(subresource.into()),
                verb: Some("create".into()),
                version: Some("*".into()),
                ..Default::default()
            }),
            ..Default::default()
        },
        ..Default::default()
    };
    let answer = Api::<SubjectAccessReview>::all(ctx.client.clone())
        .create(&PostParams::default(), &review)
        .await
        .doing(|| format!("reviewing what {} may ask for", csr.spec.username.as_deref().unwrap_or_default()))?;
    Ok(answer.status.is_some_and(|s| s.allowed))
}

async fn sign(
    ctx: &Context,
    api: &Api<CertificateSigningRequest>,
    csr: &CertificateSigningRequest,
    signer: Signer,
) -> Result<()> {
    let key = Key::of(&csr.metadata);
    let pem = String::from_utf8_lossy(&csr.spec.request.0);
    let validity = plan::validity(&csr.spec, ctx.config.certificate_validity);
    let mut new = csr.clone();
    let status = new.status.get_or_insert_default();
    match ctx.config.pki.sign_csr(&pem, signer, &plan::usages(&csr.spec), validity) {
        Ok(certificate) => status.certificate = Some(ByteString(certificate.into_bytes())),
        // The request itself is at fault: it will never be signed.
        Err(e @ (strake_pki::Error::Refused { .. } | strake_pki::Error::Request(_))) => {
            status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                type_: "Failed".into(),
                status: "True".into(),
                reason: Some("SignerValidationFailure".into()),
                message: Some(e.to_string()),
                last_update_time: Some(now()),
                last_transition_time: Some(now()),
            });
        }
        Err(e) => {
            return Err(Error::Object {
                object: format!("CertificateSigningRequest {key}"),
                problem: format!("cannot be signed now: {e}"),
            });
        }
    }
    let written = api
        .replace_status(&key.name, &PostParams::default(), &new)
        .await
        .doing(|| format!("writing the certificate of CertificateSigningRequest {key}"))?;
    ctx.shared.csrs.wrote(written);
    Ok(())
}

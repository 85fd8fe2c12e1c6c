//! The CRI client: one connection, the calls the kubelet makes, errors that name the call.
//! Decides nothing.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_cri::v1 as cri;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request};

use crate::error::{Error, Result};

/// Time given to a call that neither waits for a container nor pulls an image.
const CALL: Duration = Duration::from_secs(120);

/// A client of the runtime and image services; cheap to clone.
#[derive(Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    image: ImageServiceClient<Channel>,
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

fn failed(call: &'static str) -> impl FnOnce(tonic::Status) -> Error {
    move |s| Error::Cri { call, code: code_name(s.code()), message: s.message().to_owned() }
}

fn within<T>(message: T, limit: Duration) -> Request<T> {
    let mut r = Request::new(message);
    r.set_timeout(limit);
    r
}

macro_rules! call {
    ($(#[$doc:meta])* $name:ident, $service:ident . $rpc:ident, $wire:literal, $req:ty => $resp:ty) => {
        $(#[$doc])*
        pub async fn $name(&self, request: $req) -> Result<$resp> {
            let answer = self.$service.clone().$rpc(within(request, CALL)).await.map_err(failed($wire))?;
            Ok(answer.into_inner())
        }
    };
}

impl Cri {
    /// A client for the socket; connects at the first call and again after a restart of the runtime.
    pub fn connect(socket: &Path) -> Self {
        let socket = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://cri").connect_with_connector_lazy(connector);
        const MOST: usize = 32 << 20; // ExecSync answers carry up to 16 MiB a stream
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MOST),
            image: ImageServiceClient::new(channel).max_decoding_message_size(MOST),
        }
    }

    /// Version of the runtime.
    pub async fn version(&self) -> Result<cri::VersionResponse> {
        let request = within(cri::VersionRequest { version: "v1".into() }, Duration::from_secs(5));
        Ok(self.runtime.clone().version(request).await.map_err(failed("Version"))?.into_inner())
    }

    /// Runtime and network conditions.
    pub async fn status(&self) -> Result<cri::StatusResponse> {
        let request = within(cri::StatusRequest { verbose: false }, Duration::from_secs(10));
        Ok(self.runtime.clone().status(request).await.map_err(failed("Status"))?.into_inner())
    }

    call!(/// Creates and starts a sandbox.
        run_sandbox, runtime.run_pod_sandbox, "RunPodSandbox", cri::RunPodSandboxRequest => cri::RunPodSandboxResponse);
    call!(/// Creates a container.
        create_container, runtime.create_container, "CreateContainer", cri::CreateContainerRequest => cri::CreateContainerResponse);
    call!(/// Streaming URL of an exec.
        exec, runtime.exec, "Exec", cri::ExecRequest => cri::ExecResponse);
    call!(/// Streaming URL of an attach.
        attach, runtime.attach, "Attach", cri::AttachRequest => cri::AttachResponse);
    call!(/// Streaming URL of a port-forward.
        port_forward, runtime.port_forward, "PortForward", cri::PortForwardRequest => cri::PortForwardResponse);
    call!(/// New resources of a running container.
        update_resources, runtime.update_container_resources, "UpdateContainerResources", cri::UpdateContainerResourcesRequest => cri::UpdateContainerResourcesResponse);
    call!(/// Use of cpu, memory and writable layer.
        container_stats, runtime.list_container_stats, "ListContainerStats", cri::ListContainerStatsRequest => cri::ListContainerStatsResponse);

    /// Stops every process of the sandbox and tears its network down. A sandbox that is gone is fine.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let request = within(cri::StopPodSandboxRequest { pod_sandbox_id: id.into() }, CALL);
        missing_is_fine(self.runtime.clone().stop_pod_sandbox(request).await, "StopPodSandbox")
    }

    /// Removes the sandbox and its containers. A sandbox that is gone is fine.
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let request = within(cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() }, CALL);
        missing_is_fine(self.runtime.clone().remove_pod_sandbox(request).await, "RemovePodSandbox")
    }

    /// State and addresses of a sandbox.
    pub async fn sandbox_status(&self, id: &str) -> Result<cri::PodSandboxStatus> {
        let request = within(cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false }, CALL);
        let answer = self.runtime.clone().pod_sandbox_status(request).await.map_err(failed("PodSandboxStatus"))?;
        answer.into_inner().status.ok_or_else(|| empty("PodSandboxStatus", id))
    }

    /// Sandboxes, of one Pod or of all.
    pub async fn sandboxes(&self, pod_uid: Option<&str>) -> Result<Vec<cri::PodSandbox>> {
        let filter = pod_uid.map(|uid| cri::PodSandboxFilter {
            label_selector: [(crate::labels::POD_UID.to_owned(), uid.to_owned())].into(),
            ..Default::default()
        });
        let request = within(cri::ListPodSandboxRequest { filter }, CALL);
        Ok(self.runtime.clone().list_pod_sandbox(request).await.map_err(failed("ListPodSandbox"))?.into_inner().items)
    }

    /// Containers, of one Pod or of all.
    pub async fn containers(&self, pod_uid: Option<&str>) -> Result<Vec<cri::Container>> {
        let filter = pod_uid.map(|uid| cri::ContainerFilter {
            label_selector: [(crate::labels::POD_UID.to_owned(), uid.to_owned())].into(),
            ..Default::default()
        });
        let request = within(cri::ListContainersRequest { filter }, CALL);
        let answer = self.runtime.clone().list_containers(request).await.map_err(failed("ListContainers"))?;
        Ok(answer.into_inner().containers)
    }

    /// Status of a container.
    pub async fn container_status(&self, id: &str) -> Result<cri::ContainerStatus> {
        let request = within(cri::ContainerStatusRequest { container_id: id.into(), verbose: false }, CALL);
        let answer = self.runtime.clone().container_status(request).await.map_err(failed("ContainerStatus"))?;
        answer.into_inner().status.ok_or_else(|| empty("ContainerStatus", id))
    }

    /// Pid of a running container's init process, where the runtime tells it (containerd's verbose info).
    pub async fn container_pid(&self, id: &str) -> Result<Option<i32>> {
        let request = within(cri::ContainerStatusRequest { container_id: id.into(), verbose: true }, CALL);
        let answer = self.runtime.clone().container_status(request).await.map_err(failed("ContainerStatus"))?;
        Ok(pid_of(&answer.into_inner().info))
    }

    /// Pid of a sandbox's pause process, where the runtime tells it.
    pub async fn sandbox_pid(&self, id: &str) -> Result<Option<i32>> {
        let request = within(cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true }, CALL);
        let answer = self.runtime.clone().pod_sandbox_status(request).await.map_err(failed("PodSandboxStatus"))?;
        Ok(pid_of(&answer.into_inner().info))
    }

    /// Starts a created container.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let request = within(cri::StartContainerRequest { container_id: id.into() }, CALL);
        self.runtime.clone().start_container(request).await.map_err(failed("StartContainer"))?;
        Ok(())
    }

    /// Stops a container: its stop signal, then SIGKILL after `grace` seconds. One that is gone is fine.
    pub async fn stop_container(&self, id: &str, grace: i64) -> Result<()> {
        let limit = Duration::from_secs(grace.max(0) as u64) + CALL;
        let request = within(cri::StopContainerRequest { container_id: id.into(), timeout: grace }, limit);
        missing_is_fine(self.runtime.clone().stop_container(request).await, "StopContainer")
    }

    /// Removes a stopped container. One that is gone is fine.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let request = within(cri::RemoveContainerRequest { container_id: id.into() }, CALL);
        missing_is_fine(self.runtime.clone().remove_container(request).await, "RemoveContainer")
    }

    /// Makes the runtime open the log file anew, after it was renamed.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let request = within(cri::ReopenContainerLogRequest { container_id: id.into() }, CALL);
        self.runtime.clone().reopen_container_log(request).await.map_err(failed("ReopenContainerLog"))?;
        Ok(())
    }

    /// Runs a command in a container and returns its output; 0 seconds is no limit.
    pub async fn exec_sync(&self, id: &str, cmd: Vec<String>, seconds: i64) -> Result<cri::ExecSyncResponse> {
        let request = cri::ExecSyncRequest { container_id: id.into(), cmd, timeout: seconds };
        let limit = if seconds > 0 { Duration::from_secs(seconds as u64) + CALL } else { Duration::from_secs(3600) };
        Ok(self.runtime.clone().exec_sync(within(request, limit)).await.map_err(failed("ExecSync"))?.into_inner())
    }

    /// Container events as they happen; `Unimplemented` before containerd 1.7.
    pub async fn events(&self) -> Result<tonic::Streaming<cri::ContainerEventResponse>> {
        let answer = self.runtime.clone().get_container_events(cri::GetEventsRequest {}).await;
        Ok(answer.map_err(failed("GetContainerEvents"))?.into_inner())
    }

    /// The image, if it is on the node.
    pub async fn image(&self, name: &str) -> Result<Option<cri::Image>> {
        let image = Some(cri::ImageSpec { image: name.into(), ..Default::default() });
        let request = within(cri::ImageStatusRequest { image, verbose: false }, CALL);
        Ok(self.image.clone().image_status(request).await.map_err(failed("ImageStatus"))?.into_inner().image)
    }

    /// All images of the node.
    pub async fn images(&self) -> Result<Vec<cri::Image>> {
        let request = within(cri::ListImagesRequest { filter: None }, CALL);
        Ok(self.image.clone().list_images(request).await.map_err(failed("ListImages"))?.into_inner().images)
    }

    /// Pulls an image and returns its reference (digest or id). Takes as long as it takes.
    pub async fn pull(
        &self,
        name: &str,
        auth: Option<cri::AuthConfig>,
        sandbox_config: Option<cri::PodSandboxConfig>,
    ) -> Result<String> {
        let image = Some(cri::ImageSpec { image: name.into(), ..Default::default() });
        let request = Request::new(cri::PullImageRequest { image, auth, sandbox_config });
        Ok(self.image.clone().pull_image(request).await.map_err(failed("PullImage"))?.into_inner().image_ref)
    }

    /// Removes an image.
    pub async fn remove_image(&self, id: &str) -> Result<()> {
        let image = Some(cri::ImageSpec { image: id.into(), ..Default::default() });
        let request = within(cri::RemoveImageRequest { image }, CALL);
        missing_is_fine(self.image.clone().remove_image(request).await, "RemoveImage")
    }

    /// Use of the image file system.
    pub async fn image_fs(&self) -> Result<Vec<cri::FilesystemUsage>> {
        let request = within(cri::ImageFsInfoRequest {}, CALL);
        let answer = self.image.clone().image_fs_info(request).await.map_err(failed("ImageFsInfo"))?;
        Ok(answer.into_inner().image_filesystems)
    }
}

fn missing_is_fine<T>(answer: Result<tonic::Response<T>, tonic::Status>, call: &'static str) -> Result<()> {
    match answer {
        Ok(_) => Ok(()),
        Err(s) if s.code() == Code::NotFound => Ok(()),
        Err(s) => Err(failed(call)(s)),
    }
}

fn empty(call: &'static str, id: &str) -> Error {
    Error::Cri { call, code: "Internal", message: format!("the answer for {id} has no status") }
}

fn pid_of(info: &std::collections::HashMap<String, String>) -> Option<i32> {
    let info: serde_json::Value = serde_json::from_str(info.get("info")?).ok()?;
    i32::try_from(info.get("pid")?.as_i64()?).ok().filter(|pid| *pid > 0)
}

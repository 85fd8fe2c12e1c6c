//! The gRPC stream as its readers see it: memory, following, filters, and loss.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "the helpers of a test may panic as the tests do")]

use std::sync::Arc;

use strake_flow::proto::flows_client::FlowsClient;
use strake_flow::proto::get_flows_response::Item as Answer;
use strake_flow::proto::lost::Where;
use strake_flow::proto::{Filter, Flow, GetFlowsRequest, Lost};
use strake_flow::{History, Item, connect, serve};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

struct Server {
    history: Arc<History>,
    folder: tempfile::TempDir,
    token: CancellationToken,
}

impl Server {
    async fn start(lag: usize) -> (Self, FlowsClient<Channel>) {
        let server = Self {
            history: Arc::new(History::new(100, lag)),
            folder: tempfile::tempdir().unwrap(),
            token: CancellationToken::new(),
        };
        let path = server.folder.path().join("flow.sock");
        let (history, token) = (server.history.clone(), server.token.clone());
        let listening = path.clone();
        tokio::spawn(async move { serve(&listening, history, token).await.unwrap() });
        while !path.exists() {
            tokio::task::yield_now().await;
        }
        (server, connect(&path).await.unwrap())
    }

    fn push(&self, port: u32) {
        self.history.push([Item::Flow(Arc::new(Flow { frontend_port: port, ..Flow::default() }))]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

fn request(last: u32, follow: bool, port: u32) -> GetFlowsRequest {
    GetFlowsRequest { filter: Some(Filter { port, ..Filter::default() }), last, follow }
}

#[tokio::test]
async fn without_follow_the_stream_ends_with_the_last_remembered_flow() {
    let (server, mut client) = Server::start(16).await;
    for port in [80, 81, 80] {
        server.push(port);
    }
    let mut stream = client.get_flows(request(0, false, 80)).await.unwrap().into_inner();
    let mut seen = 0;
    while let Some(answer) = stream.message().await.unwrap() {
        assert!(matches!(answer.item, Some(Answer::Flow(flow)) if flow.frontend_port == 80));
        seen += 1;
    }
    assert_eq!(seen, 2);
}

#[tokio::test]
async fn a_follower_gets_the_past_it_asked_for_and_then_what_comes() {
    let (server, mut client) = Server::start(16).await;
    server.push(1);
    server.push(2);
    let mut stream = client.get_flows(request(1, true, 0)).await.unwrap().into_inner();
    let mut next = async || match stream.message().await.unwrap().unwrap().item.unwrap() {
        Answer::Flow(flow) => flow.frontend_port,
        Answer::Lost(_) => panic!("nothing was lost"),
    };
    assert_eq!(next().await, 2);
    server.push(3);
    assert_eq!(next().await, 3);
}

#[tokio::test]
async fn what_the_kernel_lost_is_in_the_stream_whatever_the_filter() {
    let (server, mut client) = Server::start(16).await;
    let mut stream = client.get_flows(request(1, true, 80)).await.unwrap().into_inner();
    server.push(81);
    let lost = Lost { r#where: Where::RingBuffer.into(), count: 9, time_ns: 1 };
    server.history.push([Item::Lost(lost)]);
    let answer = stream.message().await.unwrap().unwrap().item;
    assert_eq!(answer, Some(Answer::Lost(lost)));
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_told_how_many_flows_it_missed() {
    let (server, mut client) = Server::start(4).await;
    let mut stream = client.get_flows(request(0, true, 0)).await.unwrap().into_inner();
    // One push under the lock: the pump has no chance to run in between, and 5,000 do not fit in any buffer.
    server.history.push((0..5_000).map(|_| Item::Flow(Arc::new(Flow::default()))));
    let (mut flows, mut lost) = (0, 0);
    while flows + lost < 5_000 {
        match stream.message().await.unwrap().unwrap().item.unwrap() {
            Answer::Flow(_) => flows += 1,
            Answer::Lost(l) => {
                assert_eq!(l.r#where, i32::from(Where::Reader));
                lost += l.count;
            }
        }
    }
    assert_eq!(flows + lost, 5_000);
    assert!(lost > 0);
}

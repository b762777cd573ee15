//! The demo from end to end, in front of a stand-in for the edge: it signs, keeps what it fetched,
//! and may be told to spoil it.

use super::s3_origin::tests::signature;
use super::*;
use crate::sync::Mutex;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::net::TcpListener;

const METRICS: &str =
    "narthex_stored_bytes{tier=\"disk\"} 2000\nnarthex_stored_objects{tier=\"disk\"} 7\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conduct {
    Honest,
    SpoilsNars,
}

#[derive(Clone)]
struct StandIn {
    conduct: Conduct,
    settings: EdgeSettings,
    stored: Arc<Mutex<HashMap<String, Bytes>>>,
}

impl StandIn {
    async fn answer(&self, path: &str) -> http::Response<Full<Bytes>> {
        if path == "/metrics" {
            return http::Response::new(Full::from(METRICS));
        }
        let found = self.stored.lock().get(path).cloned();
        let (bytes, status) = match found {
            Some(bytes) => (bytes, "narthex; hit"),
            None => (self.fetch(path).await, "narthex; fwd=miss; stored"),
        };
        self.stored.lock().insert(path.to_owned(), bytes.clone());
        let mut body = bytes.to_vec();
        if self.conduct == Conduct::SpoilsNars && path.starts_with("/nar/") {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
        let response = http::Response::builder().header("cache-status", status);
        response.body(Full::from(body)).unwrap()
    }

    async fn fetch(&self, path: &str) -> Bytes {
        let (_, endpoint) = self.settings.origin_url.split_once("endpoint=").unwrap();
        let uri = format!("{endpoint}/{BUCKET}{path}");
        let id = std::fs::read_to_string(&self.settings.access_key_id_file).unwrap();
        let secret = std::fs::read_to_string(&self.settings.secret_access_key_file).unwrap();
        let mut request = http::Request::get(&uri).body(Empty::<Bytes>::new()).unwrap();
        signature("GET", &uri, &id, &secret).apply_to_request_http1x(&mut request);
        let pool = Pool::builder(TokioExecutor::new()).build_http();
        let response = pool.request(request).await.unwrap();
        assert_eq!(response.status(), http::StatusCode::OK, "{path}");
        response.into_body().collect().await.unwrap().to_bytes()
    }

    async fn start(self) -> Result<DemoEdge, Box<dyn Error + Send + Sync>> {
        let listener = TcpListener::bind(self.settings.listen).await?;
        let address = listener.local_addr()?;
        let tasks = Tasks::new();
        let stop = tasks.stopping();
        let serving = async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let edge = self.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request: http::Request<_>| {
                        let edge = edge.clone();
                        async move { Ok::<_, io::Error>(edge.answer(request.uri().path()).await) }
                    });
                    let _: hyper::Result<()> = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        };
        tasks.spawn("stand-in", async move {
            let _: Option<()> = stop.run_until_cancelled(serving).await;
        });
        let drain = Box::pin(async move {
            assert!(tasks.drain(DRAIN_DEADLINE).await);
        });
        Ok(DemoEdge { address, admin: Some(address), drain })
    }
}

async fn run_with(
    conduct: Conduct,
    seen: &Mutex<Option<EdgeSettings>>,
) -> (Result<(), DemoError>, String) {
    let options = DemoOptions {
        listen: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
        admin: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
        afterwards: Afterwards::End,
        screen: Screen::Plain,
        size: SampleSize::Small,
    };
    let mut out = Vec::new();
    let result = run(options, &mut out, |settings| {
        *seen.lock() = Some(settings.clone());
        StandIn { conduct, settings, stored: Arc::default() }.start()
    })
    .await;
    (result, String::from_utf8(out).unwrap())
}

#[tokio::test]
async fn the_warm_client_costs_the_origin_nothing() {
    let seen = Mutex::new(None);
    let (result, text) = run_with(Conduct::Honest, &seen).await;
    result.unwrap();
    for expected in [
        "SigV4 only: an unsigned GET is answered 403 Forbidden",
        "fetch the 52 store paths of nixos-system-demo-25.11",
        "52 miss",
        "cold     the origin was asked 105 times",
        "warm     the origin was not asked for anything",
        "every signature, FileHash and NarHash was checked and is right",
        "disk     7 objects, 2.00 kB",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(!text.contains('\x1b'), "{text}");
    let folder = seen.lock().take().unwrap().disk;
    assert!(!folder.exists());
}

#[tokio::test]
async fn a_spoiled_nar_is_a_failure_that_is_named() {
    let (result, text) = run_with(Conduct::SpoilsNars, &Mutex::new(None)).await;
    let Err(DemoError::Incomplete { failures }) = result else { panic!("{result:?}\n{text}") };
    assert_eq!(failures, 2 * 52);
    assert_eq!(text.matches("  failed   /nar/").count(), 2 * 10, "{text}");
    assert_eq!(text.matches("  failed   42 more").count(), 2, "{text}");
    assert!(!text.contains("every signature"), "{text}");
}

#[tokio::test]
async fn an_edge_that_does_not_start_ends_the_demo() {
    let options = DemoOptions {
        listen: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
        admin: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
        afterwards: Afterwards::KeepServing,
        screen: Screen::Plain,
        size: SampleSize::Small,
    };
    let result = run(options, &mut Vec::new(), |_| async { Err("address in use".into()) }).await;
    assert_eq!(result.unwrap_err().to_string(), "cannot start the edge: address in use");
}

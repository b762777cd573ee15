//! A request that joins a flight too late for the body that its readers share.

use super::*;
use crate::cache::Cache;
use crate::client::Trusts;
use crate::clock::Clock;
use crate::config::{self, Sources};
use crate::engine::target::{ObjectTarget, RoutedRequest};
use crate::engine::{ClientConnection, Engine, EngineParts, Ports, ServedSite, Sites, Transport};
use crate::fill::{Asker, Fills, SiteKeys};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::object::Key;
use crate::origin::Origins;
use crate::policy::request::OriginUse;
use crate::rfc::CdnLoop;
use crate::store::Disks;
use crate::tasks::Tasks;
use crate::telemetry::{AccessLog, AccessLogSink};
use http::{HeaderMap, StatusCode};
use std::path::Path as FilePath;
use std::sync::Arc;
use tempfile::TempDir;

const MIB: usize = 1 << 20;
const PATH: &str = "/nar/1111111111111111111111111111111111111111111111111111.nar.zst";

/// An engine with a folder as origin and a disk that takes no object of 32 MiB.
async fn engine(folder: &FilePath) -> Arc<Engine> {
    let text = format!(
        "[disk]\npath = {:?}\nsize = \"1GiB\"\nscrub_pass = \"0s\"\n[log]\naccess = \"off\"\n\
         [[site]]\nname = \"main\"\nsignatures = \"off\"\n\
         [[site.origin]]\nurl = \"file://{}\"\n",
        folder.join("disk"),
        folder.join("origin").display(),
    );
    let sources = Sources { file: Some((folder.join("test.toml"), text)), ..Sources::default() };
    let mut config = config::load(&sources).unwrap_or_else(|problems| panic!("{problems}")).config;
    config.disks.iter_mut().for_each(|disk| disk.size = 24 << 20);
    let (metrics, tasks, clock) = (Metrics::new().unwrap(), Tasks::new(), Clock::System);
    let (disks, own) = (config.disks.clone(), (metrics.clone(), tasks.clone()));
    let open = move || Disks::open(&disks, own.0, own.1);
    let store = tasks.blocking("open", open).await.unwrap().unwrap();
    let memory = Memory::new(&config.memory, &metrics);
    let cache = Cache::new(memory, Some(store), tasks.clone());
    let limits = config.server.limits.clone();
    let (site, trusts) = (config.sites.remove(0), &mut Trusts::default());
    let origins = Origins::new(&site, clock.clone(), metrics.clone(), tasks.clone(), trusts);
    let trusted = SiteKeys::of(&site).unwrap();
    let upstream = crate::fill::SiteOrigins { site, origins: origins.unwrap(), trusted };
    let site = ServedSite::new(Arc::new(upstream), None, Ports::default(), metrics.clone());
    let log = AccessLog::start(config.log.access, AccessLogSink::Stdout, &metrics).unwrap();
    let fills = Fills::new(cache.clone(), clock.clone(), metrics.clone(), tasks, &limits);
    Arc::new(Engine::new(EngineParts {
        sites: Sites::new(vec![site]),
        cache,
        fills,
        clock,
        metrics,
        log: Arc::new(log),
        limits,
        instance: "test".into(),
    }))
}

/// A request that is too late for a body of 32 MiB. Returns its answer if the origin has `next` by
/// then, and how the fills of the object ended.
async fn too_late(next: Option<Vec<u8>>) -> (StatusCode, Outcome, Vec<(&'static str, u64)>) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join(format!("origin{PATH}"));
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, vec![7; 32 * MIB]).unwrap();
    // Without this file the folder could be a mount point without its disk.
    std::fs::write(folder.path().join("origin/nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
    let engine = engine(folder.path()).await;
    let peer = ([127, 0, 0, 1], 1).into();
    let connection = Arc::new(ClientConnection::new(peer, peer, Transport::Plain));
    let site = Arc::clone(engine.sites().named("main").unwrap());
    let key = Key::new(site.key_space(), PATH, None);
    let target = ObjectTarget { key, path: PATH.into(), query: None, class: Class::Nar };
    let (passed, method) = (CdnLoop::default(), ReadMethod::Get);
    let routed = RoutedRequest { site, passed, target, method, upstream: OriginUse::MayBeAsked };
    let wanted = routed.wanted(&engine.instance, Asker::at(peer.ip()));
    let (_, flight) = engine.fills.join(wanted.clone(), None, None).unwrap();
    assert!(matches!(flight.outcome().await, FillOutcome::Passing));
    let mut passing = flight.take_passing(wanted.asker).unwrap();
    while !flight.is_too_late() {
        passing.chunk(MIB).await.unwrap().unwrap();
    }
    std::fs::remove_file(&file).unwrap();
    if let Some(next) = next {
        std::fs::write(&file, next).unwrap();
    }
    let (headers, now) = (HeaderMap::new(), engine.clock.now());
    let (connection, routed) = (&connection, &routed);
    let request =
        ReadRequest { method, headers: &headers, connection, engine: &engine, routed, now };
    let answer = flight_answer(&request, &wanted, None, None, (FillRole::Follow, flight)).await;
    while let Ok(Some(_)) = passing.chunk(MIB).await {}
    let idle = async {
        while engine.metrics.fills_running.get() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), idle).await.expect("the end of every fill");
    let ended = |result| engine.metrics.fills.with_label_values(&["nar", result]).get();
    let ended = ["stored", "absent", "passed", "failed"].map(|result| (result, ended(result)));
    let ended = ended.into_iter().filter(|(_, count)| *count > 0).collect();
    (answer.status, answer.outcome, ended)
}

/// FAULTS.md C4.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_too_late_for_a_shared_body_takes_what_the_next_flight_brings() {
    let (status, outcome, ended) = too_late(Some(vec![8; MIB])).await;
    assert_eq!((status, outcome), (StatusCode::OK, Outcome::Miss));
    assert!(ended.contains(&("stored", 1)), "{ended:?}");
    let (status, outcome, ended) = too_late(None).await;
    assert_eq!((status, outcome), (StatusCode::NOT_FOUND, Outcome::Absent));
    assert!(ended.contains(&("absent", 1)), "{ended:?}");
}

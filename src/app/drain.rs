//! How an edge ends: requests first, then the admin listener, then the disk tier. So operators can
//! ask how a drain goes as long as it lasts, and a purge is synced before it is answered until the
//! very end. One for the process; holds no lock.

use crate::config::ServerTimeouts;
use crate::tasks::Tasks;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What requests are given beyond `[server.timeouts] drain`, for connections to be reset.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);
/// What requests to the admin listener are given then.
const ADMIN_MARGIN: Duration = Duration::from_secs(1);
/// What the disk tier is given then, for its last sync and for the order of eviction.
const STORE_MARGIN: Duration = Duration::from_secs(8);

/// The tasks of an edge, by when they are told to stop.
#[derive(Debug, Default)]
pub(super) struct Stages {
    /// Cancelled when the edge is to get no new clients.
    pub(super) leaving: CancellationToken,
    /// Those of requests, and all others.
    pub(super) work: Tasks,
    /// Those of the admin listener.
    pub(super) admin: Tasks,
    /// Those of the disk tier.
    pub(super) store: Tasks,
}

impl Stages {
    /// Lets each stage end after the one before. True if all ended by themselves.
    pub(super) async fn drain(&self, timeouts: &ServerTimeouts) -> bool {
        self.leaving.cancel();
        tokio::time::sleep(timeouts.lame_duck).await;
        let has_ended = self.work.drain(timeouts.drain + DRAIN_MARGIN).await;
        self.admin.drain(ADMIN_MARGIN).await;
        self.store.drain(STORE_MARGIN).await && has_ended
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Surroundings, start};
    use crate::config::{self, Sources};
    use std::net::SocketAddr;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::timeout;
    use tokio_util::sync::CancellationToken;

    /// The answer to a request, which closes its connection.
    async fn exchange(address: SocketAddr, request: &str) -> String {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// FAULTS.md S4: a purge during a drain was answered 200 and undone by a power cut.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_purge_during_a_drain_is_synced_before_it_is_answered() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        let path = "log/0123456789abcdfghijklmnpqrsvwxyz-package.drv";
        std::fs::create_dir_all(at("origin/log")).unwrap();
        std::fs::write(at("origin").join(path), "built").unwrap();
        std::fs::write(at("token"), "right").unwrap();
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\n[log]\naccess = \"off\"\n\
             [admin]\nlisten = \"127.0.0.1:0\"\ntoken_file = {token:?}\n\
             [disk]\npath = {disk:?}\nsize = \"256MiB\"\nscrub_pass = \"0s\"\n\
             [[site]]\nsignatures = \"off\"\n\
             [[site.origin]]\nurl = \"file://{origin}\"\n",
            token = at("token"),
            disk = at("disk"),
            origin = at("origin").display(),
        );
        let sources = Sources { file: Some((at("narthex.toml"), text)), ..Sources::default() };
        let config = config::load(&sources).unwrap_or_else(|problems| panic!("{problems}")).config;
        let edge = start(config, Surroundings::default()).await.unwrap();
        let (address, admin) = (edge.addresses[0].1, edge.admin.unwrap());
        let store = edge.engine.cache().store().unwrap().clone();
        let request = format!("GET /{path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        assert!(exchange(address, &request).await.ends_with("built"));
        let stored = async {
            while store.usage().objects == 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), stored).await.unwrap();

        let (last_answer, stopping) = (CancellationToken::new(), edge.stages.work.stopping());
        edge.stages.work.spawn("last answer", last_answer.clone().cancelled_owned());
        let draining = tokio::spawn(edge.drain());
        stopping.cancelled().await;
        let body = r#"{"all":true}"#;
        let purge = format!(
            "POST /api/v1/purge HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer right\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = exchange(admin, &purge).await;
        assert!(answer.ends_with("{\"lasting\":true,\"purged\":1}\n"), "{answer}");
        assert!(store.is_synced());
        last_answer.cancel();
        assert!(draining.await.unwrap());
    }
}

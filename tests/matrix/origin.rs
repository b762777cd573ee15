//! The origin of a run: one book of answers behind a plain, a TLS and an HTTP/2 listener.

use super::Failure;
use super::cell::{Channel, Kind};
use super::faults::reply::{Asked, Reply};
use super::faults::script::{Conditions, Script, says};
use super::faults::secure::Identity;
use super::faults::wire::{Door, Server, Source, listen};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What each target answers, and how often it was asked for.
#[derive(Debug, Default)]
struct Book(Mutex<HashMap<String, (Script, u64)>>);

impl Source for Book {
    async fn reply(&self, asked: &Asked, conditions: Conditions) -> io::Result<Reply> {
        let mut pages = self.0.lock();
        let Some((script, count)) = pages.get_mut(&asked.target) else {
            return Ok(Reply::bare(404, "404\n"));
        };
        *count += 1;
        Ok(script.reply(asked, conditions))
    }
}

/// The listeners. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Origins {
    server: Arc<Server<Book>>,
    /// The certificate of the authority to be trusted, as PEM.
    pub(crate) authority: String,
    /// What each listener is called, and its URL.
    pub(crate) urls: Vec<(&'static str, String)>,
    _life: DropGuard,
}

impl Origins {
    pub(crate) async fn start() -> Result<Self, Failure> {
        let (identity, life) = (Identity::new()?, CancellationToken::new());
        let server: Arc<Server<Book>> = Arc::default();
        let mut urls = Vec::new();
        for (name, scheme, door) in [
            ("plain", "http", Door::Plain),
            ("tls", "https", Door::Tls(identity.clone())),
            ("http2", "https", Door::Http2(identity.clone())),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            urls.push((name, format!("{scheme}://{}", listener.local_addr()?)));
            tokio::spawn(listen(listener, door, Arc::clone(&server), life.clone()));
        }
        let origins =
            Self { server, authority: identity.authority, urls, _life: life.drop_guard() };
        origins.say("/nix-cache-info", says("StoreDir: /nix/store\nWantMassQuery: 1\n"));
        Ok(origins)
    }

    /// From now on `target` is answered so.
    pub(crate) fn say(&self, target: &str, script: Script) {
        self.server.source.0.lock().insert(target.to_owned(), (script, 0));
    }

    /// Whether `target` was asked for since it is answered so.
    pub(crate) fn is_asked(&self, target: &str) -> bool {
        self.server.source.0.lock().get(target).is_some_and(|(_, count)| *count > 0)
    }
}

/// The host name of the site that asks an origin over a channel.
pub(crate) fn host(kind: Kind, channel: Channel) -> String {
    let kind = if kind == Kind::Generic { "generic" } else { "nix-cache" };
    let door = match channel {
        Channel::Length | Channel::Chunked | Channel::Close => "plain",
        Channel::Http2 | Channel::Http2Open => "http2",
        Channel::Tls => "tls",
    };
    format!("{kind}.{door}")
}

/// An answer as the channel frames it.
pub(crate) fn framed(script: Script, channel: Channel) -> Script {
    match channel {
        Channel::Length | Channel::Http2 | Channel::Tls => script,
        Channel::Chunked | Channel::Http2Open => script.chunked(),
        Channel::Close => script.until_close(),
    }
}

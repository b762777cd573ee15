//! The origin of the scenarios: on a free port of loopback, following a script. Each path has a
//! list of answers, the last of which stays; faults may spoil them. It keeps what it was asked.

use super::eventually;
use crate::faults::fault::Fault;
use crate::faults::plan::Rule;
use crate::faults::reply::{Asked, Reply};
use crate::faults::script::{Conditions, Script, says};
use crate::faults::secure::Identity;
use crate::faults::wire::{Door, Server, Source, listen};
use narthex::clock::Clock;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Default)]
struct State {
    scripts: Mutex<HashMap<String, VecDeque<Script>>>,
    asked: Mutex<Vec<Asked>>,
}

/// How often a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strikes {
    Once,
    ForGood,
}

/// A running origin. Dropping it stops it: it refuses connections and breaks those it has.
#[derive(Debug)]
pub(crate) struct Origin {
    address: SocketAddr,
    identity: Option<Arc<Identity>>,
    server: Arc<Server<State>>,
    life: Mutex<CancellationToken>,
}

impl Origin {
    /// An origin that has nothing but `nix-cache-info`.
    pub(crate) async fn start() -> Self {
        Self::behind(None).await
    }

    /// The same over TLS.
    pub(crate) async fn start_secure(identity: Identity) -> Self {
        Self::behind(Some(Arc::new(identity))).await
    }

    async fn behind(identity: Option<Arc<Identity>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Self {
            address: listener.local_addr().unwrap(),
            identity,
            server: Arc::default(),
            life: Mutex::default(),
        };
        let info = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n";
        origin.say("/nix-cache-info", says(info));
        origin.live(listener);
        origin
    }

    fn live(&self, listener: TcpListener) {
        let life = CancellationToken::new();
        *self.life.lock() = life.clone();
        let door = match &self.identity {
            None => Door::Plain,
            Some(identity) => Door::Tls(Identity::clone(identity)),
        };
        tokio::spawn(listen(listener, door, Arc::clone(&self.server), life));
    }

    /// `http://address` or `https://address`.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.identity.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// From now on `target` is answered so.
    pub(crate) fn say(&self, target: &str, script: Script) {
        self.say_in_turn(target, vec![script]);
    }

    /// From now on `target` is answered so, one after the other, the last for good.
    pub(crate) fn say_in_turn(&self, target: &str, scripts: Vec<Script>) {
        self.server.source.scripts.lock().insert(target.to_owned(), scripts.into());
    }

    /// From now on this goes wrong with the answers to `target`, and nothing else with any.
    pub(crate) fn fail(&self, target: &str, fault: Fault, strikes: Strikes) {
        let times = (strikes == Strikes::Once).then_some(1);
        let target = (fault != Fault::Refuse).then(|| target.to_owned());
        self.server.plan.set(vec![Rule { fault, chance: 1.0, target, times }]);
    }

    /// From now on this goes wrong with every answer to one of `targets`, and nothing else with
    /// any.
    pub(crate) fn fail_at(&self, targets: &[String], fault: Fault) {
        let rule = |target: &String| Rule {
            fault,
            chance: 1.0,
            target: Some(target.clone()),
            times: None,
        };
        self.server.plan.set(targets.iter().map(rule).collect());
    }

    /// From now on nothing goes wrong.
    pub(crate) fn recover(&self) {
        self.server.plan.set(Vec::new());
    }

    /// Goes by this clock, and turns it for each byte that drips.
    pub(crate) fn go_by(&self, clock: Clock) {
        *self.server.clock.lock() = clock;
    }

    /// Stops at once, as a machine does that loses its power.
    pub(crate) fn die(&self) {
        self.life.lock().cancel();
    }

    /// Back on the same port after it died.
    pub(crate) async fn revive(&self) {
        let mut bound = None;
        for _ in 0..10_000 {
            // The old life may not have let go of it yet.
            match TcpListener::bind(self.address).await {
                Ok(listener) => {
                    bound = Some(listener);
                    break;
                }
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(2)).await,
            }
        }
        self.live(bound.expect("its old port"));
    }

    /// Every request for `target`.
    pub(crate) fn asked(&self, target: &str) -> Vec<Asked> {
        let asked = self.server.source.asked.lock();
        asked.iter().filter(|asked| asked.target == target).cloned().collect()
    }

    /// How many requests for `target` there were.
    pub(crate) fn count(&self, target: &str) -> usize {
        self.asked(target).len()
    }

    /// How many requests there were beside those of the edge's self test.
    pub(crate) fn count_all(&self) -> usize {
        let asked = self.server.source.asked.lock();
        let is_probe = |asked: &&Asked| {
            asked.target == "/nix-cache-info" || (asked.method == "HEAD" && asked.target == "/")
        };
        asked.iter().filter(|asked| !is_probe(asked)).count()
    }

    /// Waits until `target` was asked for `times` times.
    pub(crate) async fn until_asked(&self, target: &str, times: usize) {
        eventually(target, || self.count(target) >= times).await;
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.die();
    }
}

impl Source for State {
    async fn reply(&self, asked: &Asked, conditions: Conditions) -> io::Result<Reply> {
        self.asked.lock().push(asked.clone());
        Ok(self.script(&asked.target).reply(asked, conditions))
    }
}

impl State {
    fn script(&self, target: &str) -> Script {
        let mut scripts = self.scripts.lock();
        match scripts.get_mut(target) {
            Some(turns) if turns.len() > 1 => turns.pop_front().unwrap(),
            Some(turns) => turns.front().cloned().unwrap_or_else(|| Script::status(404)),
            None => Script::status(404),
        }
    }
}

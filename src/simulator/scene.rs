//! What one seed plays with: the objects of the origin, the site's configuration, and the edge that
//! stands before them, put together as `app` does it, without its doors.

use super::model::{Object, Purge, Version};
use super::origin::Faults;
use crate::cache::{Cache, Hit};
use crate::client::Trusts;
use crate::clock::Clock;
use crate::config::{self, Config, Sources};
use crate::engine::{Engine, EngineParts, Ports, ServedSite, Sites};
use crate::fill::{Fills, SiteKeys, SiteOrigins};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::nix::{base32, hash::sha256};
use crate::object::Key;
use crate::origin::Origins;
use crate::purge::Purger;
use crate::simulation::World;
use crate::store::Disks;
use crate::tasks::Tasks;
use crate::telemetry::{AccessLog, AccessLogSink};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const MIB: usize = 1 << 20;
/// How long a NAR is fresh.
const NAR_LIFETIME: Duration = Duration::from_secs(20);
/// The noise that all bodies are cut from.
const NOISE_BYTES: usize = 8 * MIB;

thread_local! {
    /// Made once for each thread: they cost more than a seed.
    static METRICS: Metrics = Metrics::new().expect("metrics");
    static TRUSTS: RefCell<Trusts> = RefCell::default();
}

/// What the model knows.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) objects: BTreeMap<String, Object>,
    pub(super) purges: Vec<Purge>,
    /// Paths of which the origin has sent another body than it should.
    pub(super) lied: BTreeSet<String>,
    /// What was renewed or purged last.
    pub(super) touched: String,
}

/// What a seed plays with.
pub(super) struct Scene {
    pub(super) world: Rc<World>,
    pub(super) model: RefCell<Model>,
    pub(super) faults: Cell<Faults>,
    /// Whether a power cut has lost anything.
    pub(super) has_lost: Cell<bool>,
    /// Whether the disk has failed.
    pub(super) has_failed: Cell<bool>,
    /// Whether the disk has hung, or was slow all the time.
    pub(super) has_hung: Cell<bool>,
    /// How long a narinfo is fresh.
    narinfo_lifetime: Duration,
}

/// The edge under test.
pub(super) struct Edge {
    pub(super) engine: Arc<Engine>,
    pub(super) purger: Purger,
    pub(super) cache: Cache,
    pub(super) tasks: Tasks,
    /// The key space of the binary cache.
    pub(super) space: String,
}

/// `length` bytes of noise, others at each call.
fn noise(world: &World, length: usize) -> Bytes {
    static NOISE: OnceLock<Bytes> = OnceLock::new();
    let noise = NOISE.get_or_init(|| {
        let made = World::new(7, false);
        (0..NOISE_BYTES / 8).flat_map(|_| made.random().to_le_bytes()).collect::<Vec<_>>().into()
    });
    let at = usize::try_from(world.below((NOISE_BYTES - length) as u64)).unwrap_or(0);
    noise.slice(at..at + length)
}

fn length(world: &World) -> usize {
    let most = match world.below(20) {
        0..2 => 8,
        2..8 => 4 << 10,
        8..13 => 70 << 10,
        13..19 => 300 << 10,
        _ => MIB + (200 << 10),
    };
    usize::try_from(1 + world.below(most as u64)).unwrap_or(1)
}

impl Scene {
    /// What the origin has at the beginning.
    pub(super) fn new(world: Rc<World>) -> Rc<Self> {
        let narinfo_lifetime = Duration::from_secs([2, 20][usize::from(world.chance(50))]);
        let scene = Self {
            world,
            model: RefCell::default(),
            faults: Cell::default(),
            has_lost: Cell::default(),
            has_failed: Cell::default(),
            has_hung: Cell::default(),
            narinfo_lifetime,
        };
        for number in 0..=scene.world.below(3) {
            scene.add_package(number);
        }
        for number in 0..=scene.world.below(3) {
            scene.add_generic(number);
        }
        Rc::new(scene)
    }

    fn add_package(&self, number: u64) {
        let digits = base32::encode(&sha256(&number.to_le_bytes()));
        let path = format!("/{digits:.32}.narinfo");
        let object = Object { lifetime: self.narinfo_lifetime, ..Object::default() };
        self.model.borrow_mut().objects.insert(path.clone(), object);
        // Some are uploaded later.
        if self.world.chance(70) {
            self.renew(&path);
        }
    }

    fn add_generic(&self, number: u64) {
        let world = &self.world;
        let tags = if world.chance(50) { vec![format!("t{}", world.below(2))] } else { Vec::new() };
        let path = format!("/g/{number}");
        let lifetime = Duration::from_secs([2, 30][usize::from(world.chance(50))]);
        let object = Object { tags, lifetime, ..Object::default() };
        self.model.borrow_mut().objects.insert(path.clone(), object);
        let languages: &[Option<&str>] =
            if world.chance(40) { &[Some("en"), Some("de")] } else { &[None] };
        for language in languages {
            self.change(&path, *language);
        }
    }

    /// Whether neither the disk nor the origin fails.
    pub(super) fn is_calm(&self) -> bool {
        self.faults.get().is_none() && !self.has_failed.get() && !self.has_lost.get()
    }

    /// Whether an object is in memory and fresh: then a client gets it at once.
    pub(super) fn is_fresh_in_memory(&self, edge: &Edge, path: &str) -> bool {
        let lifetime = self.model.borrow().objects[path].lifetime.as_secs();
        let keys = edge.keys(path);
        let found = keys.iter().find_map(|key| match edge.cache.peek(key.as_str())? {
            Hit::Memory(found) => Some(found),
            Hit::Disk(_) | Hit::Absent(_) => None,
        });
        let Some(found) = found else { return false };
        let facts = found.facts();
        !facts.is_invalidated && facts.age_at(Clock::System.now()) + 1 < lifetime
    }

    /// The origin gets another version of what stands under `path`.
    pub(super) fn renew(&self, path: &str) {
        if path.ends_with(".narinfo") {
            self.renew_narinfo(path);
        } else if path.starts_with("/g/") {
            let languages: Vec<_> = {
                let model = self.model.borrow();
                let versions = &model.objects[path].versions;
                let mut languages: Vec<_> = versions.iter().map(|v| v.language).collect();
                languages.sort_unstable();
                languages.dedup();
                languages
            };
            for language in languages {
                self.change(path, language);
            }
        }
    }

    fn change(&self, path: &str, language: Option<&'static str>) {
        let body = noise(&self.world, length(&self.world));
        self.put(path, body, language);
    }

    fn put(&self, path: &str, body: Bytes, language: Option<&'static str>) {
        let mut model = self.model.borrow_mut();
        let object = model.objects.entry(path.to_owned()).or_default();
        if object.lifetime.is_zero() {
            object.lifetime = NAR_LIFETIME;
        }
        let etag = format!("\"{}{}\"", object.versions.len(), language.unwrap_or_default());
        let from = self.world.moment();
        let (sent, ended) = (Duration::ZERO, Duration::ZERO);
        object.versions.push(Version { from, body, etag, language, sent, ended });
    }

    /// The file that a narinfo names at present, without the `/` before it.
    pub(super) fn nar_of(&self, narinfo: &str) -> Option<String> {
        let model = self.model.borrow();
        let text =
            String::from_utf8_lossy(&model.objects[narinfo].current(None)?.body).into_owned();
        text.lines().find_map(|line| line.strip_prefix("URL: ")).map(str::to_owned)
    }

    /// A narinfo claims another file: under another name, mostly one that is its hash, or under the
    /// same name, if that is not its hash.
    fn renew_narinfo(&self, path: &str) {
        let world = &self.world;
        let nar = noise(world, length(world));
        let file_hash = base32::encode(&sha256(&nar));
        let hash_part = path.trim_start_matches('/').trim_end_matches(".narinfo");
        let before = self.nar_of(path).filter(|url| url.contains(".nar.zst") && world.chance(60));
        let (url, compression) = if let Some(url) = before {
            (url, "zstd")
        } else if world.chance(60) {
            (format!("nar/{file_hash}.nar.xz"), "xz")
        } else {
            let inside = base32::encode(&sha256(file_hash.as_bytes()));
            (format!("nar/{inside}.nar.zst"), "zstd")
        };
        let nar_hash = base32::encode(&sha256(url.as_bytes()));
        let text = format!(
            "StorePath: /nix/store/{hash_part}-package\nURL: {url}\nCompression: {compression}\n\
             FileHash: sha256:{file_hash}\nFileSize: {}\nNarHash: sha256:{nar_hash}\n\
             NarSize: 123456\nReferences: \n",
            nar.len()
        );
        self.put(&format!("/{url}"), nar, None);
        self.put(path, text.into(), None);
    }
}

/// The configuration of a seed.
pub(super) fn config(scene: &Scene, folder: &Path) -> Config {
    let (world, narinfo) = (&scene.world, scene.narinfo_lifetime.as_secs());
    let disks = if world.chance(30) { 2 } else { 1 };
    let paths: Vec<_> = (0..disks).map(|disk| folder.join(format!("disk{disk}"))).collect();
    let text = format!(
        "[disk]\npath = {paths:?}\nsize = \"1GiB\"\nscrub_pass = \"0s\"\n\
         [log]\naccess = \"off\"\n\
         [[site]]\nname = \"main\"\nsignatures = \"off\"\n\
         [site.lifetimes]\nnar = \"20s\"\nnarinfo = \"{narinfo}s\"\n\
         absent = \"5s\"\nstale_if_error = \"0s\"\n\
         [[site.origin]]\nurl = \"http://main.origin\"\n\
         [[site]]\nname = \"web\"\nhosts = [\"web.test\"]\nkind = \"generic\"\n\
         [site.caching]\nstale_if_error = \"0s\"\n\
         [[site.origin]]\nurl = \"http://web.origin\"\n",
    );
    let file = Some((folder.join("narthex.toml"), text));
    let sources = Sources { file, ..Sources::default() };
    let mut config = config::load(&sources).unwrap_or_else(|problems| panic!("{problems}")).config;
    // Less than an operator may say.
    let choose = |sizes: [u64; 3]| sizes[usize::try_from(world.below(3)).unwrap_or(0)];
    config.memory.size = choose([300 << 10, 2 << 20, 16 << 20]);
    if world.chance(15) {
        // Then what is not small passes through memory.
        config.disks.clear();
    }
    let size = choose([4 << 20, 12 << 20, 64 << 20]);
    config.disks.iter_mut().for_each(|disk| disk.size = size);
    config
}

impl Edge {
    /// Starts an edge. Inside a runtime.
    pub(super) async fn start(config: &Config) -> Self {
        let metrics = METRICS.with(Clone::clone);
        let (tasks, clock) = (Tasks::new(), Clock::System);
        let (disks, own) = (config.disks.clone(), (metrics.clone(), tasks.clone()));
        let has_disks = !disks.is_empty();
        let open = move || has_disks.then(|| Disks::open(&disks, own.0, own.1)).transpose();
        let store = tasks.blocking("open", open).await.unwrap();
        let store = store.unwrap_or_else(|error| panic!("the store does not open: {error}"));
        let memory = Memory::new(&config.memory, &metrics);
        let cache = Cache::new(memory, store, tasks.clone());
        let limits = &config.server.limits;
        let fills =
            Fills::new(cache.clone(), clock.clone(), metrics.clone(), tasks.clone(), limits);
        let sites: Vec<_> = config
            .sites
            .iter()
            .map(|site| {
                let (clock, metrics) = (clock.clone(), metrics.clone());
                let origins = TRUSTS.with_borrow_mut(|trusts| {
                    Origins::new(site, clock, metrics.clone(), tasks.clone(), trusts)
                });
                let origins = origins.expect("origins");
                let trusted = SiteKeys::of(site).unwrap();
                let upstream = SiteOrigins { site: site.clone(), origins, trusted };
                ServedSite::new(Arc::new(upstream), None, Ports::default(), metrics)
            })
            .collect();
        let log = AccessLog::start(config.log.access, AccessLogSink::Stdout, &metrics).unwrap();
        let engine = Engine::new(EngineParts {
            sites: Sites::new(sites),
            cache: cache.clone(),
            fills,
            clock,
            metrics: metrics.clone(),
            log: Arc::new(log),
            limits: limits.clone(),
            instance: "simulated".into(),
        });
        let space = config.sites[0].key_space();
        let purger = Purger::new(cache.clone(), metrics);
        Self { engine: Arc::new(engine), purger, cache, tasks, space }
    }

    /// The keys of a path, as a purge names them.
    pub(super) fn keys(&self, path: &str) -> Vec<Key> {
        let sites = self.engine.sites();
        let web = sites.named("web").filter(|_| path.starts_with("/g/"));
        let keys = web.and_then(|site| site.generic_keys(path));
        keys.unwrap_or_else(|| vec![Key::new(&self.space, path, None)])
    }

    /// Waits until the order of eviction is loaded.
    pub(super) async fn loaded(&self) {
        if let Some(disks) = self.cache.store() {
            disks.loaded().await;
        }
    }
}

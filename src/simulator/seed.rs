//! One seed: processes that live one after the other on the same disk, and what happens to each.

use super::client;
use super::model::{Purge, Purged};
use super::origin::{self, Faults};
use super::scene::{Edge, Scene, config};
use crate::config::Config;
use crate::object::{Key, PurgeTags, Tag};
use crate::purge::{PurgeHold, Purging};
use crate::simulation::disk::Mood;
use crate::simulation::{World, jobs};
use crate::store::{CheckReport, Mode, fsck};
use crate::sync::Mutex;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// No purge takes longer, however long the disk hangs.
const PURGE_MAX: Duration = Duration::from_secs(10);

/// What came of a seed.
pub(super) struct Outcome {
    pub(super) violations: Vec<String>,
    pub(super) trace: u64,
    pub(super) steps: u64,
}

/// Runs a seed; `is_printing` shows its events.
pub(super) fn run(seed: u64, is_printing: bool) -> Outcome {
    let world = World::new(seed.wrapping_mul(0xd134_2543_de82_ef95), is_printing);
    let entered = world.enter();
    let folder = Place::new();
    let scene = Scene::new(Rc::clone(&world));
    let config = config(&scene, &folder.0);
    let lives = if world.chance(40) { 1 + world.below(3) } else { 0 };
    for _ in 0..lives {
        let ending = if world.chance(50) { Ending::Kill } else { Ending::PowerCut };
        live(&scene, &config, ending);
    }
    live(&scene, &config, Ending::Drain);
    // The script of the origin has the scene, which has the world.
    world.set_origin(Box::new(|_| None));
    drop(entered);
    let (trace, steps) = (world.trace(), world.steps());
    Outcome { violations: world.violations(), trace, steps }
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ending {
    /// It is told to stop.
    Drain,
    /// It is killed.
    Kill,
    /// Power is cut.
    PowerCut,
}

/// A folder in memory of this thread, empty at first.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        let root = if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
        let thread = format!("{:?}", std::thread::current().id());
        let digits: String = thread.chars().filter(char::is_ascii_digit).collect();
        let name = format!("narthex-simulator-{}-{digits}", std::process::id());
        let place = Self(Path::new(root).join(name));
        place.clear();
        place
    }

    fn clear(&self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The life of one process.
fn live(scene: &Rc<Scene>, config: &Config, ending: Ending) {
    let world = &scene.world;
    world.note("a life", 0);
    world.say(|| format!("a life that ends by {ending:?}"));
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let local = LocalSet::new();
    let edge = local.block_on(&runtime, async {
        world.begin_life();
        scene.has_hung.set(false);
        world.disk.begin_life();
        let edge = Rc::new(Edge::start(config).await);
        if world.chance(50) {
            edge.loaded().await;
        }
        world.disk.keep_undo();
        origin::serve(scene);
        if ending == Ending::Drain {
            play(scene, &edge).await;
        } else {
            let time = world.millis(50, if world.chance(80) { 6_000 } else { 30_000 });
            let end = tokio::time::Instant::now() + time;
            // What did not end is cut short.
            drop(tokio::time::timeout_at(end, play(scene, &edge)).await);
            tokio::time::sleep_until(end).await;
        }
        edge
    });
    if ending == Ending::Drain {
        local.block_on(&runtime, async {
            world.disk.revive();
            world.disk.mood.set(Mood::default());
            if !edge.tasks.drain(Duration::from_mins(10)).await {
                world.violated("tasks do not end".to_owned());
            }
            // A disk that hung may still hold a thread of an object that was given up.
            while !jobs::are_idle() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let reserved = edge.cache.store().map_or(0, |disks| disks.usage().reserved_bytes);
            if reserved > 0 {
                world.violated(format!("{reserved} bytes are still promised"));
            }
        });
    }
    let entered = runtime.enter();
    if ending == Ending::PowerCut && !scene.has_failed.get() && !scene.has_hung.get() {
        world.disk.check_synced(world);
    }
    world.disk.die();
    world.end_life();
    edge.tasks.stopping().cancel();
    jobs::finish_all();
    drop(edge);
    drop(entered);
    drop(local);
    drop(runtime);
    world.disk.recover(world, ending == Ending::PowerCut);
    if ending == Ending::PowerCut {
        scene.has_lost.set(true);
    }
    let mut model = scene.model.borrow_mut();
    if ending == Ending::Drain {
        model.purges.iter_mut().for_each(|purge| purge.is_lasting = true);
    } else if scene.has_failed.get() {
        model.purges.clear();
    } else {
        model.purges.retain(|purge| purge.is_lasting);
    }
    drop(model);
    if ending == Ending::Drain {
        check_folder(scene, config);
    }
}

/// What is on the disk must add up.
fn check_folder(scene: &Rc<Scene>, config: &Config) {
    if scene.has_lost.get() {
        return;
    }
    for disk in &config.disks {
        let report = Mutex::new(CheckReport::default());
        let checked = fsck(&disk.path, Mode::Report, &report);
        let report = report.into_inner();
        if let Err(error) = checked {
            scene.world.violated(format!("the check: {error}"));
        }
        for problem in &report.problems {
            scene.world.violated(format!("on disk: {problem:?}"));
        }
    }
}

async fn play(scene: &Rc<Scene>, edge: &Rc<Edge>) {
    let world = &scene.world;
    world.disk.mood.set(waiting(world));
    if world.chance(40) {
        scene.faults.set(Faults {
            refuses: world.below(8),
            errs: world.below(8),
            hangs: world.below(3),
            cuts: world.below(15),
            lies: world.below(10),
        });
    }
    let mut actors = Vec::new();
    if world.chance(30) {
        let (scene, edge) = (Rc::clone(scene), Rc::clone(edge));
        let path = any_path(&scene);
        actors.push(tokio::task::spawn_local(async move { race(&scene, &edge, path).await }));
    }
    for _ in 0..=world.below(4) {
        let (scene, edge) = (Rc::clone(scene), Rc::clone(edge));
        actors.push(tokio::task::spawn_local(async move {
            for _ in 0..=scene.world.below(5) {
                origin::pause(&scene.world).await;
                client::ask(&scene, &edge).await;
            }
        }));
    }
    {
        let (scene, edge) = (Rc::clone(scene), Rc::clone(edge));
        actors.push(tokio::task::spawn_local(async move { disturb(&scene, &edge).await }));
    }
    for actor in actors {
        if let Err(error) = actor.await {
            world.violated(format!("an actor: {error}"));
        }
    }
}

/// Purges, and changes what the origin has.
async fn disturb(scene: &Rc<Scene>, edge: &Rc<Edge>) {
    let world = &scene.world;
    for _ in 0..world.below(6) {
        tokio::time::sleep(world.millis(0, 1_500)).await;
        let report = edge.cache.store().map(|disks| (disks.is_writable(), disks.reports().len()));
        world.note("health", u64::from(report.is_some_and(|(is_writable, _)| is_writable)));
        let drawn = world.below(100);
        if drawn < 15 {
            disturb_disk(scene);
        } else if drawn < 28 {
            let path = any_path(scene);
            if scene.model.borrow().objects[&path].versions.is_empty() {
                upload(scene, edge, &path).await;
            } else {
                reclaim(scene, edge, path).await;
            }
        } else if drawn < 38 {
            race(scene, edge, any_path(scene)).await;
        } else if drawn < 74 {
            let path = any_path(scene);
            scene.model.borrow_mut().touched.clone_from(&path);
            world.note("renewed", path.len() as u64);
            world.say(|| format!("renewed {path}"));
            scene.renew(&path);
            if path.ends_with(".narinfo") && world.chance(50) {
                notice(scene, edge, &path).await;
            } else if world.chance(50) {
                purge(scene, edge, path).await;
            }
        } else {
            let path = any_path(scene);
            purge(scene, edge, path).await;
        }
    }
}

/// The edge is told of an upload.
async fn notice(scene: &Rc<Scene>, edge: &Edge, path: &str) {
    let key = Key::new(&edge.space, path, None);
    edge.purger.uploaded(vec![key]).await;
    let noticed = Some(scene.world.moment());
    let mut model = scene.model.borrow_mut();
    model.objects.entry(path.to_owned()).or_default().noticed = noticed;
}

/// What is absent is uploaded while a client asks for it.
async fn upload(scene: &Rc<Scene>, edge: &Rc<Edge>, path: &str) {
    let asking = {
        let (scene, edge, path) = (Rc::clone(scene), Rc::clone(edge), path.to_owned());
        tokio::task::spawn_local(async move { client::ask_plainly(&scene, &edge, &path).await })
    };
    origin::pause(&scene.world).await;
    scene.renew(path);
    notice(scene, edge, path).await;
    origin::pause(&scene.world).await;
    client::ask_plainly(scene, edge, path).await;
    if let Err(error) = asking.await {
        scene.world.violated(format!("a client: {error}"));
    }
}

/// What a client asks for is renewed and purged meanwhile.
async fn race(scene: &Rc<Scene>, edge: &Rc<Edge>, path: String) {
    let world = &scene.world;
    let asking = {
        let (scene, edge, path) = (Rc::clone(scene), Rc::clone(edge), path.clone());
        tokio::task::spawn_local(async move { client::ask_plainly(&scene, &edge, &path).await })
    };
    for _ in 0..world.below(4) {
        origin::pause(world).await;
    }
    world.say(|| format!("renewed {path}"));
    scene.renew(&path);
    purge(scene, edge, path.clone()).await;
    client::ask_plainly(scene, edge, &path).await;
    if let Err(error) = asking.await {
        world.violated(format!("a client: {error}"));
    }
    client::ask_plainly(scene, edge, &path).await;
}

/// The file of a narinfo becomes another one under the same name: what was known of the one before
/// counts no longer.
async fn reclaim(scene: &Rc<Scene>, edge: &Edge, path: String) {
    let world = &scene.world;
    let Some(nar) = path.ends_with(".narinfo").then(|| scene.nar_of(&path)).flatten() else {
        return;
    };
    client::ask_plainly(scene, edge, &path).await;
    scene.renew(&path);
    if scene.nar_of(&path).as_ref() != Some(&nar) {
        return;
    }
    let nar = format!("/{nar}");
    purge_of(scene, edge, Purged::Path(nar.clone()), Purging::Hard).await;
    if world.chance(70) {
        client::ask_plainly(scene, edge, &nar).await;
    }
    purge_of(scene, edge, Purged::Path(path.clone()), Purging::Hard).await;
    let got = client::ask_plainly(scene, edge, &path).await;
    client::follow(scene, edge, &path, got).await;
}

/// Disks that work, and take their time.
fn waiting(world: &World) -> Mood {
    Mood { waits: world.below(60), slow: world.below(4), ..Mood::default() }
}

/// One disk or all become slow, fail, are full, hang, or are well again.
fn disturb_disk(scene: &Rc<Scene>) {
    let world = &scene.world;
    let device = if world.chance(50) { 1 + world.below(world.disk.devices().max(1)) } else { 0 };
    let mut mood = Mood { device, ..waiting(world) };
    match world.below(6) {
        0 => {
            mood.slow = 60;
            scene.has_hung.set(true);
        }
        1 => mood.fails = 1 + world.below(30),
        2 => mood.full = 1 + world.below(60),
        3 => {
            world.disk.hang(world.millis(500, 40_000), device);
            scene.has_hung.set(true);
        }
        _ => {}
    }
    world.say(|| format!("the disk: {mood:?}"));
    if mood.fails + mood.full > 0 {
        scene.has_failed.set(true);
    }
    world.disk.mood.set(mood);
}

fn any_path(scene: &Scene) -> String {
    let model = scene.model.borrow();
    let at = usize::try_from(scene.world.below(model.objects.len() as u64)).unwrap_or(0);
    model.objects.keys().nth(at).cloned().unwrap_or_default()
}

async fn purge(scene: &Rc<Scene>, edge: &Edge, path: String) {
    let world = &scene.world;
    let kind = if world.chance(50) { Purging::Hard } else { Purging::Soft };
    let of = match world.below(8) {
        0 => Purged::All,
        1 => Purged::Prefix("/g/".to_owned()),
        2..4 => Purged::Tag(format!("t{}", world.below(2))),
        _ => Purged::Path(path),
    };
    purge_of(scene, edge, of, kind).await;
}

async fn purge_of(scene: &Rc<Scene>, edge: &Edge, of: Purged, kind: Purging) {
    let world = &scene.world;
    let begun = world.moment();
    world.say(|| format!("purge {of:?} {kind:?}"));
    let outcome = match &of {
        Purged::All => edge.purger.all().await,
        Purged::Prefix(prefix) => edge.purger.prefix("web", prefix, kind).await,
        Purged::Tag(tag) => {
            let tags = PurgeTags::new([Tag::parse(tag).expect("a tag")]);
            edge.purger.tags("web", tags, kind).await
        }
        Purged::Path(path) => edge.purger.object(edge.keys(path), kind).await,
    };
    let answered = world.moment();
    world.note("purged", 0);
    world.say(|| format!("purged {of:?}"));
    let took = answered.saturating_sub(begun);
    if took > PURGE_MAX && world.disk.mood.get().slow < 60 {
        world.violated(format!("a purge took {} ms", took.as_millis()));
    }
    let is_lasting = outcome.holds == PurgeHold::Always;
    scene.model.borrow_mut().purges.push(Purge { of, begun, answered, is_lasting });
}

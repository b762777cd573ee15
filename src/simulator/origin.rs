//! The scripted origin: speaks HTTP/1.1 over connections in memory, in pieces and with gaps that
//! the seed draws; refuses, hangs, breaks off and lies as often as it is told.

use super::model::{Object, Version};
use super::scene::Scene;
use crate::simulation::World;
use bytes::{Bytes, BytesMut};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

/// How often, in percent of the requests, the origin misbehaves.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) refuses: u64,
    pub(super) errs: u64,
    pub(super) hangs: u64,
    pub(super) cuts: u64,
    /// Sends another body than it should, if a hash can tell.
    pub(super) lies: u64,
}

impl Faults {
    pub(super) fn is_none(&self) -> bool {
        self.refuses + self.errs + self.hangs + self.cuts + self.lies == 0
    }
}

/// Takes connections for as long as the process lives.
pub(super) fn serve(scene: &Rc<Scene>) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<DuplexStream>();
    let accepting = Rc::clone(scene);
    scene.world.set_origin(Box::new(move |_| {
        let world = &accepting.world;
        if world.chance(accepting.faults.get().refuses) {
            world.note("origin refuses", 0);
            return None;
        }
        let room = 1 << (12 + world.below(5));
        let (near, far) = tokio::io::duplex(usize::try_from(room).unwrap_or(64));
        sender.send(far).ok()?;
        Some(near)
    }));
    let scene = Rc::clone(scene);
    tokio::task::spawn_local(async move {
        while let Some(stream) = receiver.recv().await {
            tokio::task::spawn_local(converse(Rc::clone(&scene), stream));
        }
    });
}

/// What of a request counts.
struct Asked {
    method: String,
    path: String,
    range: Option<String>,
    if_range: Option<String>,
    if_none_match: Option<String>,
    language: Option<String>,
}

async fn converse(scene: Rc<Scene>, mut stream: DuplexStream) {
    let mut read = BytesMut::new();
    loop {
        let end = loop {
            if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8_lossy(&read.split_to(end)).into_owned();
        let asked = parse(&head);
        if answer(&scene, &mut stream, &asked).await.is_none() {
            return;
        }
    }
}

fn parse(head: &str) -> Asked {
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let field = |name: &str| {
        let mut fields = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        let found = fields.find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim().to_owned())
    };
    Asked {
        method: method.to_owned(),
        path: path.to_owned(),
        range: field("range"),
        if_range: field("if-range"),
        if_none_match: field("if-none-match"),
        language: field("accept-language"),
    }
}

/// `None` when the connection is over.
async fn answer(scene: &Rc<Scene>, stream: &mut DuplexStream, asked: &Asked) -> Option<()> {
    let (world, faults) = (&scene.world, scene.faults.get());
    pause(world).await;
    world.say(|| format!("origin: {} {} {:?}", asked.method, asked.path, asked.range));
    world.note("origin answers", asked.path.len() as u64);
    if world.chance(faults.hangs) {
        world.note("origin hangs", 0);
        tokio::time::sleep(world.millis(1_000, 120_000)).await;
        return None;
    }
    if world.chance(faults.errs) {
        let text = "HTTP/1.1 503 x\r\ncontent-length: 4\r\n\r\nbusy";
        return stream.write_all(text.as_bytes()).await.ok();
    }
    let found = {
        let model = scene.model.borrow();
        let object = model.objects.get(&asked.path);
        object.and_then(|object| select(object, asked))
    };
    let Some((version, fields)) = found else { return absent(world, stream).await };
    if asked.if_none_match.as_deref().is_some_and(|tags| tags.contains(&version.etag)) {
        let text = format!("HTTP/1.1 304 x\r\n{fields}\r\n");
        note_sent(scene, asked, &version, Sent::Head);
        return stream.write_all(text.as_bytes()).await.ok();
    }
    let is_same = asked.if_range.as_ref().is_none_or(|tag| *tag == version.etag);
    let span = asked.range.as_deref().filter(|_| is_same);
    let span = span.and_then(|range| parse_range(range, version.body.len()));
    let (status, body, range) = match span {
        Some((from, end)) => {
            let range =
                format!("content-range: bytes {from}-{}/{}\r\n", end - 1, version.body.len());
            (206, version.body.slice(from..end), range)
        }
        None if asked.range.is_some() && is_same => {
            let length = version.body.len();
            let text = format!(
                "HTTP/1.1 416 x\r\ncontent-range: bytes */{length}\r\ncontent-length: 0\r\n\r\n"
            );
            return stream.write_all(text.as_bytes()).await.ok();
        }
        None => (200, version.body.clone(), String::new()),
    };
    let is_chunked = status == 200 && asked.path.starts_with("/g") && world.chance(30);
    let framing = if is_chunked {
        "transfer-encoding: chunked\r\n".to_owned()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    let head = format!("HTTP/1.1 {status} x\r\n{framing}{range}{fields}\r\n");
    let body = if asked.method == "HEAD" { Bytes::new() } else { body };
    let lies = world.chance(faults.lies) && asked.path.ends_with(".nar.xz") && status == 200;
    let body = if lies {
        scene.model.borrow_mut().lied.insert(asked.path.clone());
        wrong(world, &body)
    } else {
        body
    };
    let cut = world.chance(faults.cuts).then(|| world.below(body.len() as u64 + 1));
    stream.write_all(head.as_bytes()).await.ok()?;
    note_sent(scene, asked, &version, Sent::Head);
    let sent = send(world, stream, Sending { body, is_chunked, cut }).await;
    note_sent(scene, asked, &version, Sent::Body);
    sent
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Sent {
    Head,
    Body,
}

/// Tells the model what was sent just now.
fn note_sent(scene: &Scene, asked: &Asked, version: &Version, sent: Sent) {
    let now = scene.world.now();
    let mut model = scene.model.borrow_mut();
    let Some(object) = model.objects.get_mut(&asked.path) else { return };
    if let Some(own) = object.versions.iter_mut().find(|own| own.from == version.from) {
        match sent {
            Sent::Head => own.sent = now,
            Sent::Body => own.ended = now,
        }
    }
}

/// Says that there is none, perhaps when there is one already.
async fn absent(world: &Rc<World>, stream: &mut DuplexStream) -> Option<()> {
    if world.chance(50) {
        pause(world).await;
    }
    let text = "HTTP/1.1 404 x\r\ncontent-length: 4\r\ncache-control: max-age=5\r\n\r\nnone";
    stream.write_all(text.as_bytes()).await.ok()
}

/// The version that is asked for, and the fields that come with it.
fn select(object: &Object, asked: &Asked) -> Option<(Version, String)> {
    let varies = object.versions.iter().any(|version| version.language.is_some());
    let language = if varies { Some(asked.language.as_deref().unwrap_or("en")) } else { None };
    let version = object.current(language)?.clone();
    let mut fields = format!("etag: {}\r\naccept-ranges: bytes\r\n", version.etag);
    if asked.path.starts_with("/g") {
        let lifetime = object.lifetime.as_secs().to_string();
        fields.extend(["cache-control: max-age=", &lifetime, "\r\n"]);
        if varies {
            fields.push_str("vary: accept-language\r\n");
        }
        if !object.tags.is_empty() {
            fields.extend(["surrogate-key: ", &object.tags.join(" "), "\r\n"]);
        }
    }
    Some((version, fields))
}

fn parse_range(range: &str, length: usize) -> Option<(usize, usize)> {
    let (from, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let from = from.parse::<usize>().ok()?;
    let end = last.parse::<usize>().map_or(length, |last| (last + 1).min(length));
    (from < end).then_some((from, end))
}

/// Another body of the same length.
fn wrong(world: &World, body: &Bytes) -> Bytes {
    let mut wrong = body.to_vec();
    if let Some(at) = usize::try_from(world.below(body.len().max(1) as u64)).ok()
        && let Some(byte) = wrong.get_mut(at)
    {
        *byte ^= 0x40;
        world.note("origin lies", 0);
    }
    wrong.into()
}

struct Sending {
    body: Bytes,
    is_chunked: bool,
    /// Breaks off after so many bytes.
    cut: Option<u64>,
}

async fn send(world: &Rc<World>, stream: &mut DuplexStream, sending: Sending) -> Option<()> {
    let Sending { mut body, is_chunked, cut } = sending;
    let mut left = cut.map_or(usize::MAX, |cut| usize::try_from(cut).unwrap_or(usize::MAX));
    let mut style = world.below(4);
    let mut pieces = 0;
    while !body.is_empty() && left > 0 {
        if world.chance(5) {
            style = world.below(4);
        }
        pieces += 1;
        // Small pieces for a while, then larger ones, so that no body takes thousands.
        let most = match style {
            0 if pieces < 50 => 40,
            1 if pieces < 50 => 3_000,
            2 if pieces < 80 => 16 * 1024,
            _ => 96 * 1024,
        };
        let size = usize::try_from(1 + world.below(most)).unwrap_or(1).min(body.len()).min(left);
        let piece = body.split_to(size);
        left -= size;
        if is_chunked {
            stream.write_all(format!("{size:x}\r\n").as_bytes()).await.ok()?;
        }
        stream.write_all(&piece).await.ok()?;
        if is_chunked {
            stream.write_all(b"\r\n").await.ok()?;
        }
        if world.chance(40) {
            pause(world).await;
        }
    }
    if cut.is_some() {
        world.note("origin cuts", 0);
        return None;
    }
    if is_chunked {
        stream.write_all(b"0\r\n\r\n").await.ok()?;
    }
    Some(())
}

/// A gap.
pub(super) async fn pause(world: &Rc<World>) {
    let time = match world.below(20) {
        0..10 => Duration::ZERO,
        10..18 => world.millis(1, 8),
        18 => world.millis(10, 200),
        _ => world.millis(200, 2_500),
    };
    if time.is_zero() {
        tokio::task::yield_now().await;
    } else {
        tokio::time::sleep(time).await;
    }
}

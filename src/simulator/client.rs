//! Clients of the simulation: each asks, reads the body piece by piece with pauses, perhaps leaves,
//! and has what it got judged by the model.

use super::model::{End, Got, Rules, judge};
use super::origin::pause;
use super::scene::{Edge, Scene};
use crate::engine::{AnswerBody, Answering, ClientConnection, Transport};
use bytes::{Buf, Bytes};
use futures_util::future::join_all;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Empty};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Longer than any answer, or piece of one, may be waited for: more than all deadlines together.
const PATIENCE: Duration = Duration::from_mins(10);

/// Bytes of the end that no reader gets before the whole is proven.
const WITHHELD: usize = 16 << 10;
/// How long a hit in memory may take, in simulated time.
const AT_ONCE: Duration = Duration::from_millis(1);

/// What a client asks for.
pub(super) struct Question {
    pub(super) path: String,
    language: Option<&'static str>,
    range: Option<(usize, usize)>,
    if_none_match: Option<String>,
    /// Leaves after so many pieces.
    leaves: Option<u64>,
    /// Whether it must get the object if all works, though its name says too little.
    must_work: bool,
}

/// Asks once.
pub(super) async fn ask(scene: &Rc<Scene>, edge: &Edge) {
    let question = draw(scene);
    let path = question.path.clone();
    let got = put(scene, edge, question).await;
    if path.ends_with(".narinfo") && scene.world.chance(60) {
        follow(scene, edge, &path, got).await;
    }
}

/// Asks for a whole, in the first of its languages.
pub(super) async fn ask_plainly(scene: &Rc<Scene>, edge: &Edge, path: &str) -> Option<Got> {
    let first = scene.model.borrow().objects[path].versions.first().and_then(|v| v.language);
    put(scene, edge, Question { language: first, ..Question::of(path) }).await
}

/// Asks for the file that a narinfo names, as a Nix client does.
pub(super) async fn follow(scene: &Rc<Scene>, edge: &Edge, narinfo: &str, got: Option<Got>) {
    let Some(got) = got.filter(|got| (got.status, got.end) == (200, End::Clean)) else { return };
    let text = String::from_utf8_lossy(&got.body).into_owned();
    let Some(url) = text.lines().find_map(|line| line.strip_prefix("URL: ")) else { return };
    let is_current = || {
        let model = scene.model.borrow();
        model.objects[narinfo].current(None).is_some_and(|now| Some(&now.etag) == got.etag.as_ref())
    };
    let must_work = is_current();
    // Several at once may share a fetch, each at its own pace.
    let readers = if scene.world.chance(30) { 3 } else { 1 };
    let nar = || Question { must_work, ..Question::of(&format!("/{url}")) };
    join_all((0..readers).map(|_| put(scene, edge, nar()))).await;
}

/// Asks `question`, and has the model judge the answer; `None` if there was none.
async fn put(scene: &Rc<Scene>, edge: &Edge, question: Question) -> Option<Got> {
    let world = &scene.world;
    let begun = world.moment();
    let was_faultless = scene.faults.get().is_none();
    let versions = scene.model.borrow().objects[&question.path].versions.len();
    let is_in_memory = scene.is_fresh_in_memory(edge, &question.path);
    world.say(|| format!("client: {} {:?}", question.path, question.range));
    let connection = connection();
    let answering = edge.engine.handle(request(&question), &connection);
    let response = match answering {
        Answering::Now(response) => response,
        Answering::Later(later) => {
            let Ok(response) = tokio::time::timeout(PATIENCE, later).await else {
                world.violated(format!("{}: no answer", question.path));
                return None;
            };
            response
        }
    };
    let waited = world.now().saturating_sub(begun);
    if is_in_memory && waited > AT_ONCE {
        let path = &question.path;
        world.violated(format!("{path}: fresh in memory, and took {} ms", waited.as_millis()));
    }
    let got = read(scene, &question, response, &connection).await?;
    world.note("client got", got.body.len() as u64 + (u64::from(got.status) << 32));
    world.say(|| {
        format!(
            "client: {} -> {} {:?} {} bytes",
            question.path,
            got.status,
            got.end,
            got.body.len()
        )
    });
    let got = Got { begun, language: question.language, ..got };
    let model = scene.model.borrow();
    let object = &model.objects[&question.path];
    // A hash tells only of a whole, and the last bytes of that are withheld until then.
    let length = got.range.map_or_else(|| object.length(), |(_, _, length)| length);
    let first = got.range.map_or(0, |(first, _, _)| first);
    let has_end = first + got.body.len() + WITHHELD > length && !got.body.is_empty();
    let is_told = !model.lied.contains(&question.path)
        || (got.status, got.end) == (200, End::Clean)
        || has_end;
    let is_calm = was_faultless && scene.is_calm();
    // A NAR that its hash proves is fresh for good.
    let ages = is_calm && !scene.has_hung.get() && !question.path.starts_with("/nar/");
    let rules = Rules { purges: &model.purges, ages };
    if is_told && let Err(what) = judge(&question.path, object, &rules, &got) {
        world.violated(what);
    }
    // Until the claim of a narinfo that was renewed is known, another body is a wrong one.
    let is_plain = !question.path.starts_with("/nar/") || object.versions.len() == 1;
    let must_work = is_plain || (question.must_work && object.versions.len() == versions);
    // What a disk does not give is fetched anew, unless there is another one by now.
    let own = object.versions.iter().filter(|version| version.language == question.language);
    let may_be_cut = scene.has_hung.get() && own.count() > 1;
    let is_cut = got.end == End::Cut && !may_be_cut;
    if is_calm && must_work && (is_cut || got.status >= 500) {
        world.violated(format!("{}: {} {:?} though all works", question.path, got.status, got.end));
    }
    Some(got)
}

impl Question {
    fn of(path: &str) -> Self {
        let path = path.to_owned();
        Self {
            path,
            language: None,
            range: None,
            if_none_match: None,
            leaves: None,
            must_work: false,
        }
    }
}

fn draw(scene: &Rc<Scene>) -> Question {
    let (world, model) = (&scene.world, scene.model.borrow());
    let at = usize::try_from(world.below(model.objects.len() as u64)).unwrap_or(0);
    let any = model.objects.iter().nth(at).expect("there are objects");
    // Mostly what was just touched.
    let touched = model.objects.get_key_value(&model.touched).filter(|_| world.chance(40));
    let (path, object) = touched.unwrap_or(any);
    let varies = object.versions.iter().any(|version| version.language.is_some());
    let language = varies.then(|| if world.chance(50) { "en" } else { "de" });
    let current = object.current(language);
    let length = current.map_or(1, |version| version.body.len());
    let is_ranged = world.chance(20) && !path.ends_with(".narinfo");
    let range = is_ranged.then(|| {
        let from = usize::try_from(world.below(length as u64)).unwrap_or(0);
        let bytes = usize::try_from(1 + world.below((length - from) as u64)).unwrap_or(1);
        (from, from + bytes)
    });
    let tag = current.map(|version| version.etag.clone());
    Question {
        path: path.clone(),
        language,
        range,
        if_none_match: tag.filter(|_| world.chance(10)),
        leaves: world.chance(12).then(|| world.below(6)),
        must_work: false,
    }
}

fn request(question: &Question) -> Request<Empty<Bytes>> {
    let mut request = Request::builder().uri(&question.path);
    let host = if question.path.starts_with("/g/") { "web.test" } else { "main.test" };
    request = request.header(header::HOST, host);
    if let Some(language) = question.language {
        request = request.header(header::ACCEPT_LANGUAGE, language);
    }
    if let Some((from, end)) = question.range {
        request = request.header(header::RANGE, format!("bytes={from}-{}", end - 1));
    }
    if let Some(tag) = &question.if_none_match {
        request = request.header(header::IF_NONE_MATCH, tag);
    }
    request.body(Empty::new()).expect("a good request")
}

fn connection() -> Arc<ClientConnection> {
    let peer = ([127, 0, 0, 1], 1).into();
    Arc::new(ClientConnection::new(peer, peer, Transport::Plain))
}

/// Reads to the end; `None` after a violation.
async fn read(
    scene: &Rc<Scene>,
    question: &Question,
    response: Response<AnswerBody>,
    connection: &ClientConnection,
) -> Option<Got> {
    let world = &scene.world;
    let status = response.status().as_u16();
    let field = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let etag = field(header::ETAG).map(str::to_owned);
    let range = field(header::CONTENT_RANGE).filter(|_| status == 206).and_then(parse_range);
    if status == 206 && range.is_none() {
        world.violated(format!("{}: 206 without a range", question.path));
        return None;
    }
    let (mut body, mut got) = (response.into_body(), Vec::new());
    let is_slow = world.chance(30);
    let mut pieces = 0;
    let end = loop {
        if question.leaves == Some(pieces) {
            break End::Left;
        }
        pieces += 1;
        if is_slow && pieces < 60 {
            pause(world).await;
        }
        let Ok(frame) = tokio::time::timeout(PATIENCE, body.frame()).await else {
            world.violated(format!("{}: no end after {} bytes", question.path, got.len()));
            return None;
        };
        match frame {
            None => break End::Clean,
            Some(Err(_)) => break End::Cut,
            Some(Ok(frame)) => {
                let Ok(mut data) = frame.into_data() else { continue };
                while data.has_remaining() {
                    let chunk = data.chunk().to_vec();
                    if connection.is_broken() {
                        break;
                    }
                    data.advance(chunk.len());
                    got.extend_from_slice(&chunk);
                }
                if connection.is_broken() {
                    break End::Cut;
                }
            }
        }
    };
    let begun = Duration::ZERO;
    Some(Got { begun, language: None, status, etag, range, body: got, end })
}

fn parse_range(text: &str) -> Option<(usize, usize, usize)> {
    let (span, length) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (from, last) = span.split_once('-')?;
    Some((from.parse().ok()?, last.parse::<usize>().ok()? + 1, length.parse().ok()?))
}

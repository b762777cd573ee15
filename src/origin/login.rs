//! What an HTTP origin is sent to let the edge in: a name and password, a token, or what a netrc
//! file has for its host. Read when first needed, again when the file has changed, and when the
//! origin refuses it. One per origin, as long lived as it; the value is swapped whole; the locks
//! guard points in time and are never held across an await.
//!
//! The value goes into one header field, marked sensitive, of requests to the origin's own scheme,
//! host and port; it is in no error, no log and no `Debug`. A file that cannot be read any more, as
//! in the midst of a rotation, costs nothing: what was read last goes on being sent.

use super::exchange::FetchError;
use super::netrc;
use super::secret::{Stamp, one_line, one_word, read_text, stamp};
use crate::config::{self, Exposure, Login};
use crate::sync::Mutex;
use crate::tasks::Tasks;
use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A file is looked at this often, while there are requests, for whether it has changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What was refused is read again at most this often.
const RELOAD_EVERY: Duration = Duration::from_secs(5);

/// What lets the edge in to one origin.
#[derive(Debug)]
pub(super) struct Keeper {
    origin: Arc<str>,
    login: Login,
    /// The file of the certificate that is shown over TLS.
    certificate: Option<String>,
    host: String,
    /// Whether it would travel in plain text although no setting permits that.
    is_exposed: bool,
    tasks: Tasks,
    kept: ArcSwapOption<CurrentLogin>,
    moments: Mutex<LoginTimes>,
}

/// What was read last.
#[derive(Debug)]
struct CurrentLogin {
    /// Sensitive: `Debug` does not show it.
    value: HeaderValue,
    stamp: Stamp,
}

#[derive(Debug, Default)]
struct LoginTimes {
    looked: Option<Instant>,
    reloaded: Option<Instant>,
    /// Whether the file could not be read when it was looked at last.
    is_troubled: bool,
}

impl Keeper {
    /// What `origin` at `base` is to be sent; nothing is read yet.
    pub(super) fn new(origin: &config::Origin, base: &Uri, tasks: Tasks) -> Self {
        Self {
            origin: origin.name.as_str().into(),
            login: origin.login.clone(),
            certificate: origin.identity.as_ref().map(|own| own.certificate.display().to_string()),
            host: base.host().unwrap_or_default().to_owned(),
            is_exposed: base.scheme_str() != Some("https") && origin.exposure == Exposure::Never,
            tasks,
            kept: ArcSwapOption::empty(),
            moments: Mutex::default(),
        }
    }

    /// Whether the origin is to know the edge by anything: then a 401 or 403 tells of that, not of
    /// the object.
    pub(super) fn has_any(&self) -> bool {
        self.login != Login::None || self.certificate.is_some()
    }

    /// The value of `Authorization`; none if nothing is configured.
    ///
    /// Fails with [`FetchError::Credentials`], code `missing`, that names the file.
    pub(super) async fn authorization(&self) -> Result<Option<HeaderValue>, FetchError> {
        let Some(file) = self.file() else { return Ok(None) };
        if self.is_exposed {
            return Err(self.missing("not sent over plain http".to_owned()));
        }
        let Some(kept) = self.kept.load_full() else {
            return self.load(file).await.map(Some).map_err(|detail| self.missing(detail));
        };
        if !self.is_time(|moments| &mut moments.looked, LOOK_EVERY) {
            return Ok(Some(kept.value.clone()));
        }
        let read = match stamp(Arc::clone(&file), &self.tasks).await {
            Ok(stamp) if stamp == kept.stamp => Ok(kept.value.clone()),
            Ok(_) => self.load(file).await,
            Err(detail) => Err(detail),
        };
        self.note(read.as_ref().err());
        Ok(Some(read.unwrap_or_else(|_| kept.value.clone())))
    }

    /// Another value than the `refused` one, if there is one by now.
    pub(super) async fn other_than(&self, refused: &HeaderValue) -> Option<HeaderValue> {
        let kept = self.kept.load_full().map(|kept| kept.value.clone());
        if let Some(other) = kept.filter(|value| value != refused) {
            return Some(other);
        }
        let file = self.file()?;
        if !self.is_time(|moments| &mut moments.reloaded, RELOAD_EVERY) {
            return None;
        }
        let read = self.load(file).await;
        self.note(read.as_ref().err());
        read.ok().filter(|value| value != refused)
    }

    /// The fault that a 401 or 403 with this status is.
    pub(super) fn refused(&self, code: &str) -> FetchError {
        let what = match &self.login {
            Login::None => None,
            Login::Basic { user, password_file } => {
                Some(format!("the user {user:?} with the password in {}", password_file.display()))
            }
            Login::Bearer { token_file } => Some(format!("the token in {}", token_file.display())),
            Login::Netrc { file } => {
                Some(format!("the name and password that {} has for {}", file.display(), self.host))
            }
        };
        let certificate =
            self.certificate.as_ref().map(|file| format!("the certificate in {file}"));
        let all: Vec<String> = [what, certificate].into_iter().flatten().collect();
        FetchError::Credentials {
            origin: Arc::clone(&self.origin),
            code: code.to_owned(),
            detail: format!(
                "it refuses {}; mend that, or what they may read there",
                all.join(" and ")
            ),
        }
    }

    fn file(&self) -> Option<Arc<Path>> {
        match &self.login {
            Login::None => None,
            Login::Basic { password_file: file, .. }
            | Login::Bearer { token_file: file }
            | Login::Netrc { file } => Some(Arc::from(file.as_path())),
        }
    }

    /// Whether `every` has passed since the moment, which is now from then on.
    fn is_time(
        &self,
        moment: impl FnOnce(&mut LoginTimes) -> &mut Option<Instant>,
        every: Duration,
    ) -> bool {
        let mut moments = self.moments.lock();
        let moment = moment(&mut moments);
        if moment.is_some_and(|at| at.elapsed() < every) {
            return false;
        }
        *moment = Some(Instant::now());
        true
    }

    /// Says once that the file cannot be read any more.
    fn note(&self, trouble: Option<&String>) {
        let was = std::mem::replace(&mut self.moments.lock().is_troubled, trouble.is_some());
        if let Some(error) = trouble.filter(|_| !was) {
            tracing::warn!(origin = %self.origin, %error, "old credentials stay in use");
        }
    }

    async fn load(&self, file: Arc<Path>) -> Result<HeaderValue, String> {
        let (text, stamp) = read_text(Arc::clone(&file), &self.tasks).await?;
        let credentials = match &self.login {
            Login::None => return Err("nothing is configured".to_owned()),
            Login::Bearer { .. } => format!("Bearer {}", one_word(&text, &file)?),
            Login::Basic { user, .. } => basic(user, one_line(&text, &file)?),
            Login::Netrc { .. } => {
                let entry = netrc::entry(&text, &self.host)
                    .map_err(|error| format!("{}: {error}", file.display()))?;
                basic(&entry.login, &entry.password)
            }
        };
        let mut value = HeaderValue::try_from(credentials)
            .map_err(|_| format!("{} holds what no header field may", file.display()))?;
        value.set_sensitive(true);
        self.kept.store(Some(Arc::new(CurrentLogin { value: value.clone(), stamp })));
        Ok(value)
    }

    fn missing(&self, detail: String) -> FetchError {
        let (origin, code) = (Arc::clone(&self.origin), "missing".to_owned());
        FetchError::Credentials { origin, code, detail }
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

#[cfg(test)]
mod tests {
    use super::super::testing::origin;
    use super::*;
    use crate::config::OriginUrl;
    use std::path::PathBuf;

    fn keeper(login: Login) -> Keeper {
        let base: Uri = "https://cache.example.org:8443/x".parse().unwrap();
        let origin = config::Origin { login, ..origin("office", OriginUrl::Http(base.clone())) };
        Keeper::new(&origin, &base, Tasks::new())
    }

    fn written(folder: &tempfile::TempDir, text: &str) -> PathBuf {
        let path = folder.path().join("secret");
        std::fs::write(&path, text).unwrap();
        path
    }

    async fn sent(keeper: &Keeper) -> String {
        let value = keeper.authorization().await.unwrap().unwrap();
        assert!(value.is_sensitive());
        value.to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn each_way_in_makes_its_own_field() {
        let folder = tempfile::tempdir().unwrap();
        let file = written(&folder, "a:b c\n");
        let basic = Login::Basic { user: "me".to_owned(), password_file: file.clone() };
        let encoded = STANDARD.encode("me:a:b c");
        assert_eq!(sent(&keeper(basic)).await, format!("Basic {encoded}"));
        written(&folder, "tok.en=\n");
        let bearer = Login::Bearer { token_file: file.clone() };
        assert_eq!(sent(&keeper(bearer)).await, "Bearer tok.en=");
        written(&folder, "machine cache.example.org password word");
        let netrc = Login::Netrc { file };
        assert_eq!(sent(&keeper(netrc)).await, format!("Basic {}", STANDARD.encode(":word")));
        assert!(keeper(Login::None).authorization().await.unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_read_again_and_a_missing_one_costs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = written(&folder, "one");
        let keeper = keeper(Login::Bearer { token_file: file.clone() });
        assert_eq!(sent(&keeper).await, "Bearer one");
        assert_eq!(sent(&keeper).await, "Bearer one");
        written(&folder, "second");
        assert_eq!(sent(&keeper).await, "Bearer one", "looked at too soon");
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(sent(&keeper).await, "Bearer second");
        std::fs::remove_file(&file).unwrap();
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(sent(&keeper).await, "Bearer second");
        written(&folder, "two words");
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(sent(&keeper).await, "Bearer second");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_refused_is_read_again_but_not_all_the_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = written(&folder, "one");
        let keeper = keeper(Login::Bearer { token_file: file });
        let one = keeper.authorization().await.unwrap().unwrap();
        assert!(keeper.other_than(&one).await.is_none());
        written(&folder, "two");
        assert!(keeper.other_than(&one).await.is_none(), "read again too soon");
        tokio::time::advance(RELOAD_EVERY).await;
        assert_eq!(keeper.other_than(&one).await.unwrap(), "Bearer two");
        assert_eq!(keeper.other_than(&one).await.unwrap(), "Bearer two");
    }

    #[tokio::test]
    async fn what_is_wrong_names_the_file_and_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let gone = keeper(Login::Bearer { token_file: folder.path().join("none") });
        let file = written(&folder, "hush hush\nhush");
        let password = Login::Basic { user: "me".to_owned(), password_file: file.clone() };
        let wrong = [
            gone,
            keeper(Login::Bearer { token_file: file.clone() }),
            keeper(password),
            keeper(Login::Netrc { file }),
        ];
        for keeper in wrong {
            let error = keeper.authorization().await.unwrap_err();
            let text = format!("{error} {error:?} {keeper:?}");
            assert!(text.contains(&folder.path().display().to_string()), "{text}");
            assert!(text.contains("office") && !text.contains("hush"), "{text}");
        }
        let file = written(&folder, "hush");
        let keeper = keeper(Login::Bearer { token_file: file });
        keeper.authorization().await.unwrap();
        let plain: Uri = "http://cache.example.org".parse().unwrap();
        let login = keeper.login.clone();
        let exposed = config::Origin {
            login,
            exposure: Exposure::Never,
            ..origin("office", OriginUrl::Http(plain.clone()))
        };
        let exposed = Keeper::new(&exposed, &plain, Tasks::new());
        let text = exposed.authorization().await.unwrap_err().to_string();
        assert!(text.contains("not sent over plain http"), "{text}");
        let text = format!("{keeper:?} {}", keeper.refused("403"));
        assert!(text.contains("the token in") && !text.contains("hush"), "{text}");
    }
}

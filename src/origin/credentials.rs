//! The keys of an S3 origin: loaded when first needed, kept, and read again when they expire or
//! the origin refuses them. One per origin; the keys are swapped whole; the one lock guards a
//! point in time and is never held across an await.

use super::exchange::FetchError;
use crate::config::S3Credentials;
use crate::tasks::Tasks;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use reqsign_aws_v4::{Credential, EnvCredentialProvider, ProfileCredentialProvider};
use reqsign_core::{Context, Env, FileRead, ProvideCredential, SigningCredential};
use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Refused keys are read again at most this often.
const RELOAD_EVERY: Duration = Duration::from_secs(5);
/// The longest file of keys or profiles that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A set of keys.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Keys {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// Where an origin's keys come from, and those that were found there.
#[derive(Debug)]
pub(super) struct KeyRing {
    origin: Arc<str>,
    source: S3Credentials,
    context: Context,
    tasks: Tasks,
    kept: ArcSwapOption<Kept>,
    reloaded: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Kept {
    keys: Arc<Keys>,
    /// Present where the source is one of reqsign's: it knows when it expires.
    credential: Option<Credential>,
}

impl KeyRing {
    /// The keys that `source` names, read from this process's environment and files.
    pub(super) fn new(origin: Arc<str>, source: S3Credentials, tasks: Tasks) -> Self {
        Self::in_environment(origin, source, tasks, ProcessEnvironment)
    }

    /// The same in a given environment.
    fn in_environment(
        origin: Arc<str>,
        source: S3Credentials,
        tasks: Tasks,
        environment: impl Env,
    ) -> Self {
        let files = BoundedFiles { tasks: tasks.clone() };
        let context = Context::new().with_env(environment).with_file_read(files);
        let kept = ArcSwapOption::empty();
        Self { origin, source, context, tasks, kept, reloaded: Mutex::new(None) }
    }

    /// The keys to sign with; `None` where requests go unsigned.
    ///
    /// Fails with [`FetchError::Credentials`], code `missing`, that says what was looked for.
    pub(super) async fn keys(&self) -> Result<Option<Arc<Keys>>, FetchError> {
        if self.source == S3Credentials::Anonymous {
            return Ok(None);
        }
        let kept = self.kept.load_full();
        let is_valid =
            |kept: &&Arc<Kept>| kept.credential.as_ref().is_none_or(SigningCredential::is_valid);
        match kept.as_ref().filter(is_valid) {
            Some(kept) => Ok(Some(Arc::clone(&kept.keys))),
            None => self.load().await.map(Some),
        }
    }

    /// Other keys than the `refused` ones, where there are any by now.
    pub(super) async fn other_than(&self, refused: &Keys) -> Option<Arc<Keys>> {
        let kept = self.kept.load_full().map(|kept| Arc::clone(&kept.keys));
        if let Some(keys) = kept.filter(|keys| **keys != *refused) {
            return Some(keys);
        }
        if !self.may_reload() {
            return None;
        }
        self.load().await.ok().filter(|keys| **keys != *refused)
    }

    fn may_reload(&self) -> bool {
        let mut reloaded = self.reloaded.lock();
        if reloaded.is_some_and(|at| at.elapsed() < RELOAD_EVERY) {
            return false;
        }
        *reloaded = Some(Instant::now());
        true
    }

    async fn load(&self) -> Result<Arc<Keys>, FetchError> {
        let (keys, credential) = match &self.source {
            S3Credentials::Files { access_key_id, secret_access_key, session_token } => {
                let keys = Keys {
                    access_key_id: self.value_in(access_key_id).await?,
                    secret_access_key: self.value_in(secret_access_key).await?,
                    session_token: match session_token {
                        Some(path) => Some(self.value_in(path).await?),
                        None => None,
                    },
                };
                (keys, None)
            }
            S3Credentials::Environment => self.from_environment().await?,
            S3Credentials::Profile(name) => self.from_profile(Some(name)).await?,
            S3Credentials::Anonymous => return Err(self.missing("none are configured".to_owned())),
        };
        let keys = Arc::new(keys);
        let kept = Kept { keys: Arc::clone(&keys), credential };
        self.kept.store(Some(Arc::new(kept)));
        Ok(keys)
    }

    async fn from_environment(&self) -> Result<(Keys, Option<Credential>), FetchError> {
        let found = EnvCredentialProvider::new().provide_credential(&self.context).await;
        match found {
            Ok(Some(credential)) if SigningCredential::is_valid(&credential) => {
                Ok(split(credential))
            }
            Ok(_) => self.from_profile(None).await.map_err(|error| match error {
                FetchError::Credentials { origin, code, detail } => {
                    let detail = format!(
                        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not both set, and {detail}"
                    );
                    FetchError::Credentials { origin, code, detail }
                }
                other => other,
            }),
            Err(error) => Err(self.missing(error.to_string())),
        }
    }

    async fn from_profile(
        &self,
        name: Option<&str>,
    ) -> Result<(Keys, Option<Credential>), FetchError> {
        let provider = ProfileCredentialProvider::new();
        let provider = match name {
            Some(name) => provider.with_profile(name),
            None => provider,
        };
        match provider.provide_credential(&self.context).await {
            Ok(Some(credential)) if SigningCredential::is_valid(&credential) => {
                Ok(split(credential))
            }
            Ok(_) => Err(self.missing(self.profile_looked_for(name))),
            Err(error) => {
                let looked_for = self.profile_looked_for(name);
                Err(self.missing(format!("{looked_for} ({error})")))
            }
        }
    }

    /// Names the profile and the files that were searched for it.
    fn profile_looked_for(&self, name: Option<&str>) -> String {
        let variable = |name| self.context.env_var(name);
        let profile = name.map(str::to_owned).or_else(|| variable("AWS_PROFILE"));
        let profile = profile.unwrap_or_else(|| "default".to_owned());
        let file = |name, default: &str| {
            let path = variable(name).unwrap_or_else(|| default.to_owned());
            self.context.expand_home_dir(&path).unwrap_or(path)
        };
        let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials");
        let config = file("AWS_CONFIG_FILE", "~/.aws/config");
        format!(
            "profile `{profile}` with aws_access_key_id and aws_secret_access_key is neither in \
             {credentials} nor in {config}"
        )
    }

    async fn value_in(&self, path: &Path) -> Result<String, FetchError> {
        let file = path.to_path_buf();
        let read = self.tasks.blocking("origin key file", move || read_bounded(&file)).await;
        let shown = path.display();
        let bytes = match read {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(self.missing(format!("cannot read {shown}: {error}"))),
            Err(error) => return Err(self.missing(format!("cannot read {shown}: {error}"))),
        };
        let value = std::str::from_utf8(&bytes).map_or("", str::trim);
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(self.missing(format!(
                "{shown} must hold one value of visible ASCII characters and nothing else"
            )));
        }
        Ok(value.to_owned())
    }

    fn missing(&self, detail: String) -> FetchError {
        FetchError::Credentials {
            origin: Arc::clone(&self.origin),
            code: "missing".to_owned(),
            detail,
        }
    }
}

fn split(credential: Credential) -> (Keys, Option<Credential>) {
    let keys = Keys {
        access_key_id: credential.access_key_id.clone(),
        secret_access_key: credential.secret_access_key.clone(),
        session_token: credential.session_token.clone().filter(|token| !token.is_empty()),
    };
    (keys, Some(credential))
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The process's environment; variables that are not UTF-8 count as unset.
#[derive(Debug)]
struct ProcessEnvironment;

impl Env for ProcessEnvironment {
    fn var(&self, key: &str) -> Option<String> {
        std::env::var(key).ok()
    }

    fn vars(&self) -> HashMap<String, String> {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    fn home_dir(&self) -> Option<PathBuf> {
        std::env::home_dir()
    }
}

/// Reads files on blocking threads, never more than [`FILE_BYTES_MAX`] of one.
#[derive(Debug)]
struct BoundedFiles {
    tasks: Tasks,
}

impl FileRead for BoundedFiles {
    async fn file_read(&self, path: &str) -> reqsign_core::Result<Vec<u8>> {
        let path = PathBuf::from(path);
        let wrong = |error: &dyn fmt::Display| reqsign_core::Error::unexpected(error.to_string());
        self.tasks
            .blocking("origin profile file", move || read_bounded(&path))
            .await
            .map_err(|error| wrong(&error))?
            .map_err(|error| wrong(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqsign_core::StaticEnv;

    fn ring(source: S3Credentials, home: &Path, variables: &[(&str, &str)]) -> KeyRing {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment = StaticEnv {
            home_dir: Some(home.to_path_buf()),
            envs: variables.iter().map(own).collect(),
        };
        KeyRing::in_environment("o".into(), source, Tasks::new(), environment)
    }

    async fn id(ring: &KeyRing) -> String {
        ring.keys().await.unwrap().unwrap().access_key_id.clone()
    }

    #[tokio::test]
    async fn the_environment_comes_first_and_then_the_profile() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        std::fs::write(
            home.path().join(".aws/credentials"),
            "[default]\naws_access_key_id = D\naws_secret_access_key = S\n\
             [mirror]\naws_access_key_id = M\naws_secret_access_key = S\naws_session_token = T\n",
        )
        .unwrap();
        let both = [("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "S")];
        let environment = || S3Credentials::Environment;
        assert_eq!(id(&ring(environment(), home.path(), &both)).await, "E");
        assert_eq!(id(&ring(environment(), home.path(), &[])).await, "D");
        let named = [("AWS_PROFILE", "mirror")];
        let keys = ring(environment(), home.path(), &named).keys().await.unwrap().unwrap();
        assert_eq!((keys.access_key_id.as_str(), keys.session_token.as_deref()), ("M", Some("T")));
        let profile = S3Credentials::Profile("mirror".to_owned());
        assert_eq!(id(&ring(profile, home.path(), &both)).await, "M");
        let empty = [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")];
        assert_eq!(id(&ring(environment(), home.path(), &empty)).await, "D");
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let home = tempfile::tempdir().unwrap();
        let elsewhere = [("AWS_SHARED_CREDENTIALS_FILE", "/none/credentials")];
        let ring = ring(S3Credentials::Environment, home.path(), &elsewhere);
        let error = ring.keys().await.unwrap_err();
        assert!(!error.may_retry());
        let text = error.to_string();
        for part in ["AWS_ACCESS_KEY_ID", "`default`", "/none/credentials", "/.aws/config"] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refused_key_files_are_read_again_but_not_all_the_time() {
        let home = tempfile::tempdir().unwrap();
        let file = |name: &str, value: &str| {
            let path = home.path().join(name);
            std::fs::write(&path, value).unwrap();
            path
        };
        let source = S3Credentials::Files {
            access_key_id: file("id", "one\n"),
            secret_access_key: file("secret", "s"),
            session_token: None,
        };
        let ring = ring(source, home.path(), &[]);
        let one = ring.keys().await.unwrap().unwrap();
        assert_eq!(one.access_key_id, "one");
        assert!(ring.other_than(&one).await.is_none());
        file("id", "two\n");
        assert!(ring.other_than(&one).await.is_none(), "read again too soon");
        assert_eq!(id(&ring).await, "one");
        tokio::time::advance(RELOAD_EVERY).await;
        let two = ring.other_than(&one).await.unwrap();
        assert_eq!(two.access_key_id, "two");
        assert_eq!(id(&ring).await, "two");
        assert_eq!(ring.other_than(&one).await.unwrap().access_key_id, "two");
        assert!(!format!("{ring:?}").contains("two"));
    }

    #[tokio::test]
    async fn a_key_file_that_is_not_one_value_is_named() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("id");
        std::fs::write(&path, "a b\n").unwrap();
        let source = S3Credentials::Files {
            access_key_id: path.clone(),
            secret_access_key: path.clone(),
            session_token: None,
        };
        let text = ring(source, home.path(), &[]).keys().await.unwrap_err().to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
    }

    #[tokio::test]
    async fn anonymous_needs_no_keys() {
        let ring = ring(S3Credentials::Anonymous, Path::new("/none"), &[]);
        assert!(ring.keys().await.unwrap().is_none());
    }
}

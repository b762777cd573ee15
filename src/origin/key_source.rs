//! The sources of a bucket's keys: files, the environment, profiles, a web identity, the
//! endpoints of containers and instances. What these say and how they are asked is reqsign's
//! business; which of them count, and in which order, is told here. One per bucket; no locks.

use super::key_endpoints::KeyEndpoints;
use super::secret::{one_word, read_bounded, read_text};
use crate::client::ErrorChain;
use crate::clock::Timestamp;
use crate::config::S3Credentials;
use crate::tasks::Tasks;
use ini::Ini;
use reqsign_aws_v4::{
    AssumeRoleWithWebIdentityCredentialProvider, Credential, ECSCredentialProvider,
    EnvCredentialProvider, IMDSv2CredentialProvider, ProfileCredentialProvider,
};
use reqsign_core::{Context, Env, FileRead, ProvideCredential};
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// The longest text of a fault that is told, in characters.
const FAULT_CHARS_MAX: usize = 400;
/// The session name of a role, if the profile names none.
const SESSION_NAME: &str = "narthex";

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

/// Keys as they were found.
#[derive(Debug)]
pub(super) struct FoundKeys {
    pub keys: Keys,
    /// When they expire, if they do.
    pub expires: Option<Timestamp>,
}

/// Whether finding keys needs an answer of another machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyLookup {
    /// Files and variables of this machine alone.
    Local,
    /// Endpoints, perhaps.
    Remote,
}

/// The sources of one bucket's keys.
#[derive(Debug)]
pub(super) struct KeySource {
    credentials: S3Credentials,
    /// The region of the token service, if neither variable nor profile names one.
    region: Option<String>,
    context: Context,
    tasks: Tasks,
}

impl KeySource {
    /// As `credentials` says, in this process's environment; `region` is that of a bucket at AWS.
    pub(super) fn new(
        credentials: S3Credentials,
        region: Option<String>,
        endpoints: KeyEndpoints,
        tasks: Tasks,
    ) -> Self {
        let context = Context::new().with_env(ProcessEnvironment).with_http_send(endpoints);
        Self::within(credentials, region, context, tasks)
    }

    /// The same within a given environment, asking endpoints in a given way.
    pub(super) fn within(
        credentials: S3Credentials,
        region: Option<String>,
        context: Context,
        tasks: Tasks,
    ) -> Self {
        let files = BoundedFiles { tasks: tasks.clone() };
        Self { credentials, region, context: context.with_file_read(files), tasks }
    }

    /// Whether there are to be no keys at all.
    pub(super) fn is_anonymous(&self) -> bool {
        self.credentials == S3Credentials::Anonymous
    }

    /// Whether finding keys needs an answer of another machine.
    pub(super) fn reach(&self) -> KeyLookup {
        match &self.credentials {
            S3Credentials::Files { .. } | S3Credentials::Environment | S3Credentials::Anonymous => {
                KeyLookup::Local
            }
            S3Credentials::Usual
            | S3Credentials::WebIdentity
            | S3Credentials::Container
            | S3Credentials::Instance
            | S3Credentials::Profile(_) => KeyLookup::Remote,
        }
    }

    /// Finds the keys; if there are none, the error says what was looked for. The caller sets the
    /// deadline.
    pub(super) async fn find(&self) -> Result<FoundKeys, String> {
        match &self.credentials {
            S3Credentials::Files { access_key_id, secret_access_key, session_token } => {
                let keys = Keys {
                    access_key_id: self.value_in(access_key_id).await?,
                    secret_access_key: self.value_in(secret_access_key).await?,
                    session_token: match session_token {
                        Some(path) => Some(self.value_in(path).await?),
                        None => None,
                    },
                };
                Ok(FoundKeys { keys, expires: None })
            }
            S3Credentials::Environment => {
                self.environment().await?.ok_or_else(|| NO_VARIABLES.to_owned())
            }
            S3Credentials::WebIdentity => self.web_identity().await?.ok_or_else(|| {
                "AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE are not both set".to_owned()
            }),
            S3Credentials::Container => self.container().await?.ok_or_else(|| {
                "neither AWS_CONTAINER_CREDENTIALS_FULL_URI nor \
                 AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is set"
                    .to_owned()
            }),
            S3Credentials::Instance => self.instance().await?.ok_or_else(|| {
                "AWS_EC2_METADATA_DISABLED forbids to ask the instance's metadata".to_owned()
            }),
            S3Credentials::Profile(name) => {
                let found = self.profile(Some(name)).await?;
                found.ok_or_else(|| self.profile_looked_for(Some(name)))
            }
            S3Credentials::Usual => self.usual().await,
            S3Credentials::Anonymous => Err("none are configured".to_owned()),
        }
    }

    /// The first place that has keys. One that is named and fails is a fault, not a reason to look
    /// further; only the metadata of an instance is named by nothing.
    async fn usual(&self) -> Result<FoundKeys, String> {
        if let Some(found) = self.environment().await? {
            return Ok(found);
        }
        if let Some(found) = self.web_identity().await? {
            return Ok(found);
        }
        if let Some(found) = self.profile(None).await? {
            return Ok(found);
        }
        if let Some(found) = self.container().await? {
            return Ok(found);
        }
        let instance = match self.instance().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => "AWS_EC2_METADATA_DISABLED is set".to_owned(),
            Err(error) => error,
        };
        Err(format!(
            "{NO_VARIABLES}, nor are those of a web identity or a container, {}, and the \
             instance's metadata has none ({instance})",
            self.profile_looked_for(None)
        ))
    }

    async fn environment(&self) -> Result<Option<FoundKeys>, String> {
        self.provided(&EnvCredentialProvider::new()).await
    }

    async fn web_identity(&self) -> Result<Option<FoundKeys>, String> {
        let provider = AssumeRoleWithWebIdentityCredentialProvider::new();
        let provider = self.in_region(provider, None);
        let session = self.context.env_var("AWS_ROLE_SESSION_NAME");
        let session = session.unwrap_or_else(|| SESSION_NAME.to_owned());
        self.provided(&provider.with_role_session_name(session)).await
    }

    /// The token service of the region: of the variables', else the profile's, else the bucket's.
    fn in_region(
        &self,
        provider: AssumeRoleWithWebIdentityCredentialProvider,
        profile: Option<&str>,
    ) -> AssumeRoleWithWebIdentityCredentialProvider {
        let variable = |name| self.context.env_var(name).filter(|value| !value.is_empty());
        let named = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
        let named = named.or_else(|| profile.map(str::to_owned)).or_else(|| self.region.clone());
        match named {
            Some(region) => provider.with_region(region).with_regional_sts_endpoint(),
            None => provider,
        }
    }

    async fn container(&self) -> Result<Option<FoundKeys>, String> {
        self.provided(&ECSCredentialProvider::new()).await
    }

    async fn instance(&self) -> Result<Option<FoundKeys>, String> {
        // A new one each time: it would keep a token that the instance knows no more.
        self.provided(&IMDSv2CredentialProvider::new()).await
    }

    /// The keys of a profile, or those of the role that it takes on by a web identity.
    async fn profile(&self, name: Option<&str>) -> Result<Option<FoundKeys>, String> {
        if let Some(role) = self.role(name).await? {
            let provider = AssumeRoleWithWebIdentityCredentialProvider::with_config(
                role.arn.clone(),
                role.token_file,
            );
            let provider = self.in_region(provider, role.region.as_deref());
            let provider = provider.with_role_session_name(role.session);
            let found = self.provided(&provider).await?;
            return found.map(Some).ok_or_else(|| format!("no keys for the role {}", role.arn));
        }
        let provider = ProfileCredentialProvider::new();
        match name {
            Some(name) => self.provided(&provider.with_profile(name)).await,
            None => self.provided(&provider).await,
        }
    }

    /// The role that a profile names, if it names one.
    async fn role(&self, name: Option<&str>) -> Result<Option<WebIdentityRole>, String> {
        let profile = self.profile_name(name);
        let (credentials, config) = self.profile_files();
        let in_config =
            if profile == "default" { profile.clone() } else { format!("profile {profile}") };
        for (file, section) in [(config, in_config), (credentials, profile.clone())] {
            let path = PathBuf::from(&file);
            let read =
                self.tasks.blocking("origin profile file", move || read_bounded(&path)).await;
            // A file that is not there names no role; reqsign's provider says so of the keys too.
            let Ok(Ok(bytes)) = read else { continue };
            let text = String::from_utf8_lossy(&bytes);
            // The error of the parser may quote the file.
            let parsed = Ini::load_from_str_noescape(&text)
                .map_err(|error| format!("{file}: line {}: is no profile file", error.line))?;
            let Some(section) = parsed.section(Some(section)) else { continue };
            let Some(arn) = section.get("role_arn") else { continue };
            let Some(token_file) = section.get("web_identity_token_file") else {
                return Err(format!(
                    "the profile {profile:?} in {file} takes on {arn} by other means than a web \
                     identity; write web_identity_token_file, or let another program do it"
                ));
            };
            let token_file = self.context.expand_home_dir(token_file);
            let session = section.get("role_session_name").unwrap_or(SESSION_NAME);
            return Ok(Some(WebIdentityRole {
                arn: arn.to_owned(),
                token_file: token_file.unwrap_or_default().into(),
                session: session.to_owned(),
                region: section.get("region").map(str::to_owned),
            }));
        }
        Ok(None)
    }

    async fn provided(
        &self,
        provider: &impl ProvideCredential<Credential = Credential>,
    ) -> Result<Option<FoundKeys>, String> {
        match provider.provide_credential(&self.context).await {
            Ok(Some(credential)) => Ok(found(credential)),
            Ok(None) => Ok(None),
            Err(error) => {
                let mut told = ErrorChain::of(&error).to_string();
                if !error.context().is_empty() {
                    told = format!("{told} ({})", error.context().join(", "));
                }
                let told = told.chars().filter(|c| !c.is_control()).take(FAULT_CHARS_MAX);
                Err(told.collect())
            }
        }
    }

    fn profile_name(&self, name: Option<&str>) -> String {
        let name = name.map(str::to_owned).or_else(|| self.context.env_var("AWS_PROFILE"));
        name.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned())
    }

    /// The files of credentials and of profiles.
    fn profile_files(&self) -> (String, String) {
        let file = |name, default: &str| {
            let path = self.context.env_var(name).unwrap_or_else(|| default.to_owned());
            self.context.expand_home_dir(&path).unwrap_or(path)
        };
        let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials");
        (credentials, file("AWS_CONFIG_FILE", "~/.aws/config"))
    }

    /// Names the profile and the files that were searched for it.
    fn profile_looked_for(&self, name: Option<&str>) -> String {
        let profile = self.profile_name(name);
        let (credentials, config) = self.profile_files();
        format!(
            "profile `{profile}` with aws_access_key_id and aws_secret_access_key, or with \
             role_arn and web_identity_token_file, is neither in {credentials} nor in {config}"
        )
    }

    async fn value_in(&self, path: &Path) -> Result<String, String> {
        let (text, _) = read_text(path.into(), &self.tasks).await?;
        one_word(&text, path).map(str::to_owned)
    }
}

const NO_VARIABLES: &str = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not both set";

/// A role that is taken on by a web identity.
struct WebIdentityRole {
    arn: String,
    token_file: PathBuf,
    session: String,
    region: Option<String>,
}

/// The keys of a credential; none if it is empty.
fn found(credential: Credential) -> Option<FoundKeys> {
    let Credential { access_key_id, secret_access_key, session_token, expires_in } = credential;
    if access_key_id.is_empty() || secret_access_key.is_empty() {
        return None;
    }
    let session_token = session_token.filter(|token| !token.is_empty());
    let expires = expires_in.map(|at| Timestamp::from_secs(at.as_second()));
    Some(FoundKeys { keys: Keys { access_key_id, secret_access_key, session_token }, expires })
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

/// Reads files on blocking threads, never more of one than of a secret.
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

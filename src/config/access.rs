//! How an HTTP origin lets the edge in, the proxy of an origin, and which objects an origin is
//! asked for, as the rest of the crate sees it. Values only.

use super::caching::PathPattern;
use crate::nix::Class;
use http::Uri;
use std::fmt;
use std::path::PathBuf;

/// What is sent to an HTTP origin to be let in; the secrets themselves stay in their files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Login {
    /// Nothing.
    #[default]
    None,
    /// A user's name and password (RFC 7617).
    Basic {
        /// The name.
        user: String,
        /// File of the password.
        password_file: PathBuf,
    },
    /// A token (RFC 6750).
    Bearer {
        /// File of the token.
        token_file: PathBuf,
    },
    /// The name and password that a netrc file has for the origin's host.
    Netrc {
        /// The file.
        file: PathBuf,
    },
}

/// Whether credentials may be sent over a connection that others can read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Exposure {
    /// Over https alone.
    #[default]
    Never,
    /// Over plain http too.
    Permitted,
}

/// For which paths an origin is asked, and when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OriginTurns {
    /// It is asked for these alone; empty for all.
    pub only_for: Vec<Objects>,
    /// It is never asked for these.
    pub never_for: Vec<Objects>,
    /// It is asked for these before the origins that do not say so.
    pub first_for: Vec<Objects>,
}

/// Some objects of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Objects {
    /// Those of a class.
    Class(Class),
    /// Those at some paths.
    Paths(PathPattern),
}

impl Objects {
    fn include(&self, class: Class, path: &str) -> bool {
        match self {
            Self::Class(own) => *own == class,
            Self::Paths(pattern) => pattern.is_of(path),
        }
    }
}

/// When an origin is asked for an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AskOrder {
    /// Before the others.
    First,
    /// When its priority says.
    Usual,
    /// Never.
    Never,
}

impl OriginTurns {
    /// When the origin is asked for the object at `path`.
    pub fn turn(&self, class: Class, path: &str) -> AskOrder {
        let is_among = |objects: &[Objects]| objects.iter().any(|some| some.include(class, path));
        let is_meant = self.only_for.is_empty() || is_among(&self.only_for);
        if !is_meant || is_among(&self.never_for) {
            return AskOrder::Never;
        }
        if is_among(&self.first_for) { AskOrder::First } else { AskOrder::Usual }
    }
}

/// Which proxy an origin is asked through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginProxy {
    /// The one that the variables of the environment name for it, if they do.
    Environment,
    /// None, whatever the environment says.
    None,
    /// This one.
    Url(ProxyUrl),
}

/// The URL of an HTTP proxy, with a name and a password if it asks for them; these are in no text
/// that is printed for debugging.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(String);

impl ProxyUrl {
    /// `http://[NAME[:PASSWORD]@]HOST:PORT`; none if `text` is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        let is_address = !authority.host().is_empty() && authority.port_u16().is_some();
        let is_bare = uri.path() == "/" && uri.query().is_none();
        let is_proxy = uri.scheme_str() == Some("http") && is_address && is_bare;
        is_proxy.then(|| Self(text.to_owned()))
    }

    /// The URL, secrets included.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.0.rsplit_once('@').map_or(&*self.0, |(_, place)| place);
        f.debug_tuple("ProxyUrl").field(&place).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_never_asked_for_wins_over_what_is_asked_first() {
        let paths = |text: &str| Objects::Paths(PathPattern::new(text));
        let turns = OriginTurns {
            only_for: vec![Objects::Class(Class::Narinfo), paths("/nar/*"), paths("/log/*")],
            never_for: vec![paths("/nar/x*"), Objects::Class(Class::Log)],
            first_for: vec![paths("/nar/*")],
        };
        for (class, path, turn) in [
            (Class::Narinfo, "/a.narinfo", AskOrder::Usual),
            (Class::Nar, "/nar/a", AskOrder::First),
            (Class::Nar, "/nar/xa", AskOrder::Never),
            (Class::Log, "/log/a", AskOrder::Never),
            (Class::Listing, "/a.ls", AskOrder::Never),
        ] {
            assert_eq!(turns.turn(class, path), turn, "{path}");
        }
        assert_eq!(OriginTurns::default().turn(Class::Log, "/log/a"), AskOrder::Usual);
    }

    #[test]
    fn a_proxy_is_asked_over_http_at_a_port() {
        for good in ["http://p:3128", "http://p:3128/", "http://a:b%40c@[::1]:8"] {
            assert!(ProxyUrl::parse(good).is_some(), "{good}");
        }
        for bad in [
            "p:3128",
            "http://p",
            "https://p:1",
            "socks5://p:1",
            "http://p:1/x",
            "",
            "http://a b@p:1",
        ] {
            assert!(ProxyUrl::parse(bad).is_none(), "{bad}");
        }
        let debug = format!("{:?}", ProxyUrl::parse("http://me:hush@p:3128"));
        assert_eq!(debug, "Some(ProxyUrl(\"p:3128\"))");
    }
}

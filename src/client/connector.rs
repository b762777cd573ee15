//! Connects to origins: every address of the name tried, both families raced (the second begins 250
//! ms after the first), a proxy if there is one for it, TLS if the URL says so. One deadline holds
//! for all, and each address of a family has its share of it. Stateless; used by the pool of a
//! client.

use super::message::BoxError;
use super::proxy::{ProxyConnector, ProxyRule, TargetForm};
use super::trust::TlsTrust;
use crate::config::HttpVersion;
use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tower_service::Service;

/// The other address family is tried after this long (RFC 8305 section 8).
const HAPPY_EYEBALLS: Duration = Duration::from_millis(250);

/// What the connector makes.
type Tcp = MaybeHttpsStream<TokioIo<TcpStream>>;
/// A connection to an origin.
#[cfg(not(test))]
type OriginStream = Tcp;
#[cfg(test)]
use simulated::OriginStream;

/// A connector that establishes each connection within the deadline, or fails.
#[derive(Debug, Clone)]
pub(super) struct DeadlineConnector<R = GaiResolver> {
    inner: HttpsConnector<ProxyConnector<HttpConnector<R>>>,
    way: ConnectionWay,
}

/// How connections are made.
#[derive(Debug, Clone)]
pub(super) struct ConnectionWay {
    /// For all of it.
    pub(super) deadline: Duration,
    /// The versions of HTTP that are spoken.
    pub(super) version: HttpVersion,
    /// The proxies.
    pub(super) proxies: ProxyRule,
}

impl DeadlineConnector {
    pub(super) fn new(trust: &TlsTrust, way: ConnectionWay) -> Self {
        Self::resolving(GaiResolver::new(), trust, way)
    }
}

impl<R> DeadlineConnector<R> {
    /// With names resolved by `resolver`.
    fn resolving(resolver: R, trust: &TlsTrust, way: ConnectionWay) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(resolver);
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        tcp.set_keepalive_interval(Some(Duration::from_secs(10)));
        tcp.set_keepalive_retries(Some(3));
        tcp.set_connect_timeout(Some(way.deadline));
        tcp.set_happy_eyeballs_timeout(Some(HAPPY_EYEBALLS));
        let (rule, version) = (way.proxies.clone(), way.version);
        let hops = ProxyConnector { tcp, rule, version };
        Self { inner: HttpsConnector::from((hops, trust.tls())), way }
    }

    /// How requests for `target` name it on the connections that are made for it.
    pub(super) fn target_form(&self, target: &Uri) -> TargetForm {
        self.way.proxies.target_form(target, self.way.version)
    }
}

impl<R> Service<Uri> for DeadlineConnector<R>
where
    HttpsConnector<ProxyConnector<HttpConnector<R>>>:
        Service<Uri, Response = Tcp, Error = BoxError, Future: Send + 'static>,
{
    type Response = OriginStream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        #[cfg(test)]
        if let Some(connected) = simulated::connect(&target) {
            return connected;
        }
        let connecting = self.inner.call(target);
        let deadline = self.way.deadline;
        Box::pin(async move {
            let connected = tokio::time::timeout(deadline, connecting).await;
            let connected = connected.unwrap_or_else(|_| {
                let text = format!("no connection within {} s", deadline.as_secs());
                Err(io::Error::new(io::ErrorKind::TimedOut, text).into())
            });
            #[cfg(test)]
            let connected = connected.map(|stream| Box::new(stream) as OriginStream);
            connected
        })
    }
}

/// In a simulation, connections to scripted origins of the same process.
#[cfg(test)]
mod simulated {
    use super::BoxError;
    use http::Uri;
    use hyper::rt::{Read, Write};
    use hyper_util::client::legacy::connect::{Connected, Connection};
    use hyper_util::rt::TokioIo;
    use std::pin::Pin;
    use tokio::io::DuplexStream;

    type Connecting = Pin<Box<dyn Future<Output = Result<OriginStream, BoxError>> + Send>>;

    /// What a connection does, real or simulated.
    pub(crate) trait Io: Read + Write + Unpin + Send {
        fn told(&self) -> Connected;
    }

    /// A real connection or a simulated one.
    pub(crate) type OriginStream = Box<dyn Io>;

    impl Io for super::Tcp {
        fn told(&self) -> Connected {
            self.connected()
        }
    }

    impl Io for TokioIo<DuplexStream> {
        fn told(&self) -> Connected {
            Connected::new()
        }
    }

    impl Connection for OriginStream {
        fn connected(&self) -> Connected {
            (**self).told()
        }
    }

    /// The connection to the server of `target`, in a simulation.
    pub(super) fn connect(target: &Uri) -> Option<Connecting> {
        let connected = crate::simulation::connect(target.host().unwrap_or_default())?;
        let stream = connected.map(|stream| Box::new(TokioIo::new(stream)) as OriginStream);
        Some(Box::pin(std::future::ready(stream.map_err(BoxError::from))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_util::client::legacy::connect::dns::Name;
    use hyper_util::client::legacy::connect::{Connection, HttpInfo};
    use std::future::{Ready, ready};
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::Instant;

    /// Knows every name by these addresses.
    #[derive(Debug, Clone)]
    struct Known(Vec<IpAddr>);

    impl Service<Name> for Known {
        type Response = std::vec::IntoIter<SocketAddr>;
        type Error = io::Error;
        type Future = Ready<io::Result<Self::Response>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Name) -> Self::Future {
            let addresses: Vec<_> = self.0.iter().map(|ip| SocketAddr::new(*ip, 0)).collect();
            ready(Ok(addresses.into_iter()))
        }
    }

    const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
    const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// The address that a connection to a name with these addresses reaches.
    async fn reached(addresses: &[IpAddr], port: u16) -> Result<IpAddr, BoxError> {
        let trust = TlsTrust::load(None, None).unwrap();
        let known = Known(addresses.to_vec());
        let way = ConnectionWay {
            deadline: Duration::from_secs(5),
            version: HttpVersion::Auto,
            proxies: ProxyRule::default(),
        };
        let mut connector = DeadlineConnector::resolving(known, &trust, way);
        let uri = format!("http://origin.test:{port}/").parse().unwrap();
        let mut told = http::Extensions::new();
        connector.call(uri).await?.connected().get_extras(&mut told);
        Ok(told.get::<HttpInfo>().unwrap().remote_addr().ip())
    }

    /// A port of both loopback addresses: one that answers over IPv4, and a full queue over IPv6,
    /// so that a connection there gets no answer.
    async fn half_dead() -> (TcpListener, Vec<Box<dyn std::any::Any>>) {
        loop {
            let live = TcpListener::bind((V4, 0)).await.unwrap();
            let address = SocketAddr::new(V6, live.local_addr().unwrap().port());
            let socket = TcpSocket::new_v6().unwrap();
            if socket.bind(address).is_err() {
                continue;
            }
            let mut held: Vec<Box<dyn std::any::Any>> = vec![Box::new(socket.listen(1).unwrap())];
            for _ in 0..2 {
                held.push(Box::new(TcpStream::connect(address).await.unwrap()));
            }
            return (live, held);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_family_that_says_nothing_is_raced_by_the_other() {
        let (live, _held) = half_dead().await;
        let port = live.local_addr().unwrap().port();
        let before = Instant::now();
        assert_eq!(reached(&[V6, V4], port).await.unwrap(), V4);
        let took = before.elapsed();
        assert!(took >= HAPPY_EYEBALLS && took < Duration::from_secs(1), "{took:?}");
    }

    #[tokio::test]
    async fn every_address_is_tried() {
        let live = TcpListener::bind((V4, 0)).await.unwrap();
        let port = live.local_addr().unwrap().port();
        let closed = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));
        assert_eq!(reached(&[closed, V6, V4], port).await.unwrap(), V4);
        assert_eq!(reached(&[V6, closed, V4], port).await.unwrap(), V4);
        assert!(reached(&[closed], port).await.is_err());
    }
}

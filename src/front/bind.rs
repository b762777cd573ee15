//! Opens a listening socket, or says in one line why that failed. Called at start.

use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;

/// Connections that the kernel holds until they are accepted; the system's own limit caps it.
const BACKLOG: i32 = 4096;

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process listens there.
    #[error("{address}: in use; stop what listens there, or choose another port in server.listen")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The process may not listen there.
    #[error(
        "{address}: not allowed; choose a port of 1024 or above, or grant CAP_NET_BIND_SERVICE"
    )]
    Denied {
        /// The address.
        address: SocketAddr,
    },
    /// No interface has the address.
    #[error("{address}: no interface of this machine has that address; listen on one that it has")]
    NotHere {
        /// The address.
        address: SocketAddr,
    },
    /// A TLS listener without certificates.
    #[error("{address}: a TLS listener needs certificates; give server.tls.certificates")]
    NoCertificates {
        /// The address.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("{address}: cannot listen: {source}; change server.listen")]
    Other {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Listens on `address`. `[::]` serves IPv4 too, and serves it alone if the machine has no IPv6.
pub(super) fn listener(address: SocketAddr) -> Result<TcpListener, ListenError> {
    match open(address) {
        Ok(listener) => Ok(listener),
        Err(error) if is_dual_stack(address) && lacks_ipv6(&error) => {
            tracing::warn!(%address, "this machine has no IPv6; listening on IPv4 only");
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            open(address).map_err(|error| bind_error(address, error))
        }
        Err(error) => Err(bind_error(address, error)),
    }
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart finds connections of its predecessor in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn is_dual_stack(address: SocketAddr) -> bool {
    address.is_ipv6() && address.ip().is_unspecified()
}

fn lacks_ipv6(error: &io::Error) -> bool {
    let no_family = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    error.raw_os_error() == Some(no_family) || error.kind() == ErrorKind::AddrNotAvailable
}

fn bind_error(address: SocketAddr, source: io::Error) -> ListenError {
    if source.kind() == ErrorKind::AddrInUse {
        return ListenError::InUse { address };
    }
    if source.kind() == ErrorKind::PermissionDenied {
        return ListenError::Denied { address };
    }
    if source.kind() == ErrorKind::AddrNotAvailable {
        return ListenError::NotHere { address };
    }
    ListenError::Other { address, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let first = listener("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = listener(address).unwrap_err();
        assert!(matches!(error, ListenError::InUse { .. }), "{error}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_named() {
        let error = listener("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert!(matches!(error, ListenError::NotHere { .. }), "{error}");
    }

    #[tokio::test]
    async fn the_unspecified_address_serves_ipv4() {
        let both = listener("[::]:0".parse().unwrap()).unwrap();
        let port = both.local_addr().unwrap().port();
        let client = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (_, peer) = both.accept().await.unwrap();
        assert_eq!(peer.port(), client.local_addr().unwrap().port());
    }
}

//! The progress of a client: the bytes that its kernel has acknowledged. The one measure for
//! HTTP/1.1, TLS and HTTP/2. Read when a deadline has come and when a connection ends, never for
//! each write. Bytes that the socket accepts are no measure, since megabytes may wait in it.

use std::os::fd::RawFd;
use std::time::Duration;
use uapi::c::{IPPROTO_TCP, TCP_INFO};

/// Bytes of `struct tcp_info` (linux/tcp.h) up to the last field that is read here.
const INFO_BYTES: usize = 148;
/// `tcpi_state` of a connection that is over, for example after a reset.
const TCP_CLOSE: u8 = 7;
/// `tcpi_state` of a connection after the peer closed its side. The peer may be gone, or may still
/// read.
const TCP_CLOSE_WAIT: u8 = 8;
/// Times that the kernel is asked within the time that a client may acknowledge nothing.
const LOOKS: u32 = 4;

/// How far a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClientProgress {
    /// Bytes that it has acknowledged since the connection opened.
    pub(super) acknowledged_bytes: u64,
    /// Whether bytes are sent or wait in the kernel that it has not acknowledged.
    pub(super) is_owed: bool,
    /// Whether the connection is over in both directions: it was reset, or nothing answers.
    pub(super) is_over: bool,
    /// Whether the client has closed its side.
    pub(super) is_half_closed: bool,
}

impl ClientProgress {
    /// The progress of the client of `socket`, an open TCP socket. `None` if the kernel does not
    /// tell.
    pub(super) fn of(socket: RawFd) -> Option<Self> {
        let mut info = [0; INFO_BYTES];
        let length = uapi::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &mut info).ok()?;
        if length < INFO_BYTES {
            return None;
        }
        // `tcpi_unacked` counts packets, `tcpi_notsent_bytes` what is behind them.
        let unacknowledged = u32::from_ne_bytes(field(&info, 24)?);
        let not_sent = u32::from_ne_bytes(field(&info, 144)?);
        let is_over = info[0] == TCP_CLOSE;
        Some(Self {
            acknowledged_bytes: u64::from_ne_bytes(field(&info, 120)?),
            is_owed: !is_over && (unacknowledged > 0 || not_sent > 0),
            is_over,
            is_half_closed: info[0] == TCP_CLOSE_WAIT,
        })
    }
}

fn field<const BYTES: usize>(info: &[u8], at: usize) -> Option<[u8; BYTES]> {
    info.get(at..)?.first_chunk().copied()
}

/// How long after one look at the kernel the next is due, if a client may acknowledge nothing for
/// `stall`.
pub(super) fn look_after(stall: Duration) -> Duration {
    stall / LOOKS
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    /// Asks until `is_as_expected`; the kernel acknowledges when it likes.
    fn until(
        server: &TcpStream,
        is_as_expected: impl Fn(ClientProgress) -> bool,
    ) -> ClientProgress {
        loop {
            let progress = ClientProgress::of(server.as_raw_fd()).unwrap();
            if is_as_expected(progress) {
                return progress;
            }
            std::thread::yield_now();
        }
    }

    /// FAULTS.md F2.
    #[test]
    fn bytes_that_wait_in_the_socket_are_not_progress() {
        let (mut client, mut server) = pair();
        server.write_all(&[0; 1000]).unwrap();
        let before = until(&server, |progress| !progress.is_owed).acknowledged_bytes;
        server.set_nonblocking(true).unwrap();
        while server.write(&[0; 16_000]).is_ok() {}
        let full = ClientProgress::of(server.as_raw_fd()).unwrap();
        assert!(full.is_owed);
        let mut buffer = vec![0; 1 << 20];
        client.read_exact(&mut buffer).unwrap();
        let after = until(&server, |now| now.acknowledged_bytes > full.acknowledged_bytes);
        assert!(after.acknowledged_bytes > before + (1 << 19), "{before} {full:?} {after:?}");
    }

    #[test]
    fn a_connection_that_was_reset_owes_nothing() {
        let (client, mut server) = pair();
        server.set_nonblocking(true).unwrap();
        while server.write(&[0; 16_000]).is_ok() {}
        let reset = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
        reset.unwrap();
        drop(client);
        assert!(until(&server, |progress| !progress.is_owed).is_over);
    }

    #[test]
    fn a_client_that_closes_its_side_has_half_closed() {
        for closes_both in [false, true] {
            let (client, server) = pair();
            assert!(!until(&server, |_| true).is_half_closed);
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let client = (!closes_both).then_some(client);
            assert!(!until(&server, |progress| progress.is_half_closed).is_over);
            drop(client);
        }
    }

    #[test]
    fn what_is_no_tcp_socket_tells_nothing() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(ClientProgress::of(file.as_raw_fd()), None);
    }
}

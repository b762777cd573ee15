//! A client that says exactly what it is told to, over blocking sockets with deadlines.

use super::edge::DEADLINE;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// An answer.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// The head as received, status line first.
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    /// Whether the body had the length that its head told.
    pub(super) is_whole: bool,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(400)]);
        write!(f, "{}[{} bytes, whole: {}] {body}", self.head, self.body.len(), self.is_whole)
    }
}

impl Reply {
    /// The values of a field, in order.
    pub(super) fn values(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let of_name = lines.filter(|(other, _)| other.eq_ignore_ascii_case(name));
        of_name.map(|(_, value)| value.trim()).collect()
    }

    /// The only value of a field.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let values = self.values(name);
        assert!(values.len() <= 1, "{name}: {values:?}");
        values.first().copied()
    }

    /// The body as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// GET of a path on a connection of its own.
pub(super) fn get(address: SocketAddr, path: &str) -> Reply {
    ask(address, path, "")
}

/// GET with more header lines, each ended by CRLF.
pub(super) fn ask(address: SocketAddr, path: &str, lines: &str) -> Reply {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n");
    let mut connection = Connection::open(address);
    connection.send(request);
    connection.reply().unwrap_or_else(|| panic!("no answer to GET {path}"))
}

/// A connection that is used as the test likes.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    pub(super) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self { stream, read: Vec::new() }
    }

    /// Sends bytes; the other side may have closed already.
    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Reads some more; false at the end, however it came. Panics if nothing comes in time.
    fn read_more(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.read.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("neither answer nor end; so far {:?}", String::from_utf8_lossy(&self.read))
            }
            Err(_) => false,
        }
    }

    /// The next head; `None` if the connection ends without.
    pub(super) fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.read.drain(..end + 4).collect::<Vec<_>>();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            if !self.read_more() {
                return None;
            }
        }
    }

    /// The next answer to a GET; `None` if the connection ends before its head.
    pub(super) fn reply(&mut self) -> Option<Reply> {
        let head = self.head()?;
        Some(self.rest_of(head))
    }

    /// The answer that `head` begins.
    pub(super) fn rest_of(&mut self, head: String) -> Reply {
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let mut reply = Reply { status, head, body: Vec::new(), is_whole: true };
        if matches!(status, 100..200 | 204 | 304) {
            return reply;
        }
        if reply.value("transfer-encoding") == Some("chunked") {
            self.chunks(&mut reply);
        } else if let Some(length) = reply.value("content-length") {
            let length = length.parse().unwrap();
            while self.read.len() < length && self.read_more() {}
            reply.is_whole = self.read.len() >= length;
            reply.body = self.read.drain(..length.min(self.read.len())).collect();
        } else {
            reply.body = self.rest();
        }
        reply
    }

    fn chunks(&mut self, reply: &mut Reply) {
        loop {
            let end = loop {
                match self.read.windows(2).position(|two| two == b"\r\n") {
                    Some(end) => break end,
                    None if !self.read_more() => {
                        reply.is_whole = false;
                        return;
                    }
                    None => {}
                }
            };
            let line = self.read.drain(..end + 2).collect::<Vec<_>>();
            let size = usize::from_str_radix(str::from_utf8(&line[..end]).unwrap(), 16).unwrap();
            while self.read.len() < size + 2 {
                if !self.read_more() {
                    reply.is_whole = false;
                    return;
                }
            }
            let chunk = self.read.drain(..size + 2).take(size);
            reply.body.extend(chunk);
            if size == 0 {
                return;
            }
        }
    }

    /// Everything until the connection ends.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        while self.read_more() {}
        std::mem::take(&mut self.read)
    }

    /// Waits until at least so many bytes of a body have arrived.
    pub(super) fn at_least(&mut self, bytes: usize) {
        while self.read.len() < bytes {
            assert!(self.read_more(), "ended after {} bytes", self.read.len());
        }
    }
}

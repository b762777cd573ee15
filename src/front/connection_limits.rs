//! Limits on open connections, in all and from one address. One for all listeners. The mutex is
//! held for one look-up. Every open connection holds a permit.

use super::handler::Door;
use crate::sync::Mutex;
use prometheus::IntGauge;
use rustix::process::Resource;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpStream;

/// Connections that may be open in a process that may open so many files: half of them. An answer
/// may have a file open beside its connection, and the disk tier, origins and logs need some too.
/// So idle clients can never take all files.
pub(super) fn connections_within(open_files_max: u64) -> usize {
    usize::try_from(open_files_max / 2).unwrap_or(usize::MAX).max(1)
}

/// How many files this process may open.
pub(super) fn open_files_max() -> u64 {
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The bits of an IPv6 address that its holder may choose freely.
const IPV6_HOST_BITS: u32 = 64;

/// Counts open connections.
#[derive(Debug)]
pub(super) struct ConnectionLimits {
    connections_max: usize,
    connections_per_address_max: usize,
    open: Mutex<ConnectionCounts>,
}

#[derive(Debug, Default)]
struct ConnectionCounts {
    total: usize,
    /// Never larger than `total`: an address without connections is removed.
    by_address: HashMap<IpAddr, usize>,
}

/// The permit of one open connection. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    limits: Arc<ConnectionLimits>,
    address: IpAddr,
}

/// Which limit refused a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LimitReached {
    /// `connections_max`.
    Connections,
    /// `connections_per_address_max`.
    Address,
}

impl LimitReached {
    /// The reason in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections_max",
            Self::Address => "connections_per_address_max",
        }
    }
}

impl ConnectionLimits {
    pub(super) fn new(connections_max: usize, connections_per_address_max: usize) -> Self {
        Self { connections_max, connections_per_address_max, open: Mutex::default() }
    }

    /// A permit for a connection from `peer`. An IPv6 client counts by its /64.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Result<ConnectionPermit, LimitReached> {
        let address = network(peer);
        let mut open = self.open.lock();
        if open.total >= self.connections_max {
            return Err(LimitReached::Connections);
        }
        let from_address = open.by_address.entry(address).or_default();
        if *from_address >= self.connections_per_address_max {
            if *from_address == 0 {
                open.by_address.remove(&address);
            }
            return Err(LimitReached::Address);
        }
        *from_address += 1;
        open.total += 1;
        Ok(ConnectionPermit { limits: Arc::clone(self), address })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut open = self.limits.open.lock();
        open.total = open.total.saturating_sub(1);
        if let Some(count) = open.by_address.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

/// An accepted connection within the limits. It counts until it is dropped.
#[derive(Debug)]
pub(super) struct AcceptedConnection {
    pub(super) door: Door,
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) guard: ConnectionGuard,
}

/// What an open connection holds beside its socket: its permit, and its count in the gauge.
#[derive(Debug)]
pub(super) struct ConnectionGuard {
    _permit: ConnectionPermit,
    gauge: IntGauge,
}

impl ConnectionGuard {
    /// That of a connection with this permit, counted in `gauge`.
    pub(super) fn new(permit: ConnectionPermit, gauge: IntGauge) -> Self {
        gauge.inc();
        Self { _permit: permit, gauge }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let bits = address.to_bits() >> IPV6_HOST_BITS << IPV6_HOST_BITS;
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(limits: &Arc<ConnectionLimits>, peer: &str) -> Result<ConnectionPermit, LimitReached> {
        limits.admit(peer.parse().unwrap())
    }

    #[test]
    fn each_address_has_its_own_limit_and_a_closed_connection_frees_its_place() {
        let limits = Arc::new(ConnectionLimits::new(10, 2));
        let first = admit(&limits, "192.0.2.1").unwrap();
        let _second = admit(&limits, "::ffff:192.0.2.1").unwrap();
        assert_eq!(admit(&limits, "192.0.2.1").unwrap_err(), LimitReached::Address);
        let _other = admit(&limits, "192.0.2.2").unwrap();
        drop(first);
        admit(&limits, "192.0.2.1").unwrap();
    }

    /// FAULTS.md F11.
    #[test]
    fn connections_leave_half_of_the_files_to_the_rest() {
        assert_eq!(connections_within(1024), 512);
        assert_eq!(connections_within(0), 1);
        assert_eq!(u64::try_from(connections_within(u64::MAX)), Ok(u64::MAX / 2));
    }

    #[test]
    fn an_ipv6_client_counts_by_its_network() {
        let limits = Arc::new(ConnectionLimits::new(10, 1));
        let _one = admit(&limits, "2001:db8:0:1::1").unwrap();
        assert_eq!(admit(&limits, "2001:db8:0:1:ffff::9").unwrap_err(), LimitReached::Address);
        admit(&limits, "2001:db8:0:2::1").unwrap();
    }

    #[test]
    fn the_total_is_bounded_and_nothing_is_remembered_of_closed_connections() {
        let limits = Arc::new(ConnectionLimits::new(2, 2));
        let held = (admit(&limits, "192.0.2.1"), admit(&limits, "192.0.2.2"));
        assert_eq!(admit(&limits, "192.0.2.3").unwrap_err(), LimitReached::Connections);
        drop(held);
        let open = limits.open.lock();
        assert_eq!((open.total, open.by_address.len()), (0, 0));
    }

    #[test]
    fn a_limit_of_none_admits_and_remembers_no_address() {
        let limits = Arc::new(ConnectionLimits::new(2, 0));
        assert_eq!(admit(&limits, "192.0.2.1").unwrap_err(), LimitReached::Address);
        assert!(limits.open.lock().by_address.is_empty());
    }
}

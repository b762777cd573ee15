//! For which client an origin is asked. A pure value: by it a client's share is counted of whatever
//! several share.

use std::net::IpAddr;

/// Bits of an IPv6 address that tell clients apart: what one network is given.
const V6_PREFIX_BITS: u32 = 64;

/// The client that an origin is asked for: an address, or none if the edge itself asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Asker(Option<IpAddr>);

impl Asker {
    /// The client at an address.
    pub fn at(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let IpAddr::V6(own) = address else { return Self(Some(address)) };
        let others = 128 - V6_PREFIX_BITS;
        Self(Some(IpAddr::V6((own.to_bits() >> others << others).into())))
    }

    /// Whether it is a client: what the edge fetches by itself has none.
    pub fn is_known(self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_one_client() {
        let at = |text: &str| Asker::at(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
    }
}

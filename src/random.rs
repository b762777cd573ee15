//! Random numbers, of the operating system; in a simulation, of its seed. Stateless.

/// A random number.
pub(crate) fn u64() -> Result<u64, getrandom::Error> {
    #[cfg(test)]
    if let Some(random) = crate::simulation::random() {
        return Ok(random);
    }
    getrandom::u64()
}

/// A random number from 0 to 1, both included; 1 without randomness.
pub(crate) fn share() -> f64 {
    let half = |random: u64| u32::try_from(random >> 32).unwrap_or(u32::MAX);
    u64().map_or(1.0, |random| f64::from(half(random)) / f64::from(u32::MAX))
}

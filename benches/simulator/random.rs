//! The random numbers that traces are made of: the same on every machine and in every version.
//! Pure; called by `traces`.

use std::f64::consts::TAU;

/// SplitMix64 (Steele, Lea, Flood, 2014): small, and good enough for traces.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// The sequence of a seed; `stream` sets apart the sequences of one seed.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        random.next();
        random
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Evenly spread from 0 to below 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Exponentially distributed with this mean.
    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// Log-normal with this median; `sigma` is the deviation of its logarithm.
    pub(crate) fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        median * (sigma * radius * (TAU * self.unit()).cos()).exp()
    }
}

/// Spreads 64 bits over 64 bits, one to one.
pub(crate) fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Ranks from 0, the r-th with probability in proportion to `1 / (r + 1)^alpha`.
#[derive(Debug)]
pub(crate) struct Zipf(Vec<f64>);

impl Zipf {
    /// The distribution over `ranks` ranks.
    pub(crate) fn new(ranks: u32, alpha: f64) -> Self {
        let mut sum = 0.0;
        let weights = (1..=ranks).map(|rank| {
            sum += f64::from(rank).powf(-alpha);
            sum
        });
        Self(weights.collect())
    }

    /// A rank.
    pub(crate) fn sample(&self, random: &mut Random) -> u32 {
        let at = random.unit() * self.0.last().copied().unwrap_or_default();
        let rank = self.0.partition_point(|&sum| sum <= at);
        rank.min(self.0.len().saturating_sub(1)) as u32
    }
}

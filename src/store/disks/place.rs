//! Which disk an object belongs on: weighted rendezvous of its key's hash with each disk's own
//! name. Pure. Called for each look-up and each object that is written.
//!
//! Each disk draws a number for a key, of the two alone, so that adding, removing or reordering
//! disks moves only what belongs on the one that came or went. A disk's share is its size.

use crate::object::KeyHash;
use crate::store::disks::ledger::DiskId;

/// The positions of `disks`, each given by its name and its size in bytes, from the first choice
/// for a key to the last.
pub(super) fn order(hash: KeyHash, disks: &[(DiskId, u64)]) -> Vec<usize> {
    let mut drawn: Vec<(f64, usize)> = disks
        .iter()
        .enumerate()
        .map(|(position, (id, size))| (draw(hash, *id, *size), position))
        .collect();
    drawn.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    drawn.into_iter().map(|(_, position)| position).collect()
}

/// The disk with the greatest number has the object: with `u` uniform in (0, 1), `-size / ln u` is
/// the greatest of all as often as the disk's share of all sizes says.
fn draw(hash: KeyHash, id: DiskId, size: u64) -> f64 {
    let [key_head, key_tail] = halves(hash.0);
    let [id_head, id_tail] = halves(id.0);
    let mixed = mix(mix(key_head ^ id_head).wrapping_add(key_tail ^ id_tail));
    let uniform = (as_float(mixed >> 11) + 0.5) / as_float(1 << 53);
    -as_float(size.max(1)) / uniform.ln()
}

fn halves(bytes: [u8; 16]) -> [u64; 2] {
    let both = u128::from_le_bytes(bytes);
    let tail = u64::try_from(both >> 64).unwrap_or_default();
    let head = u64::try_from(both & u128::from(u64::MAX)).unwrap_or_default();
    [head, tail]
}

/// The finisher of SplitMix64: every bit of the input reaches every bit of the output.
fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[expect(clippy::cast_precision_loss, reason = "53 bits of a size or a draw are enough")]
fn as_float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::hash::sha256;
    use proptest::prelude::*;

    fn hash(number: u32) -> KeyHash {
        KeyHash(*sha256(&number.to_le_bytes()).first_chunk().unwrap())
    }

    fn disks(sizes: &[u64]) -> Vec<(DiskId, u64)> {
        let id = |number: usize| {
            DiskId(*sha256(&[u8::try_from(number).unwrap()]).first_chunk().unwrap())
        };
        sizes.iter().enumerate().map(|(number, size)| (id(number), *size)).collect()
    }

    #[test]
    fn a_disks_share_is_its_size() {
        let disks = disks(&[100 << 30, 300 << 30, 600 << 30]);
        let mut counts = [0_u32; 3];
        for number in 0..20_000 {
            counts[order(hash(number), &disks)[0]] += 1;
        }
        for (count, share) in counts.into_iter().zip([2_000, 6_000, 12_000]) {
            assert!(count.abs_diff(share) < 300, "{counts:?}");
        }
    }

    proptest! {
        #[test]
        fn a_disk_that_goes_or_moves_leaves_the_others_in_their_order(
            sizes in proptest::collection::vec(1_u64..1 << 50, 1..9),
            number: u32,
            gone: prop::sample::Index,
        ) {
            let all = disks(&sizes);
            let named = |of: &[(DiskId, u64)]| -> Vec<DiskId> {
                order(hash(number), of).into_iter().map(|position| of[position].0).collect()
            };
            let before = named(&all);
            prop_assert_eq!(before.len(), all.len());
            let mut reordered = all.clone();
            reordered.reverse();
            prop_assert_eq!(&named(&reordered), &before);
            let (lost, _) = reordered.remove(gone.index(all.len()));
            let left: Vec<_> = before.into_iter().filter(|id| *id != lost).collect();
            prop_assert_eq!(named(&reordered), left);
        }
    }
}

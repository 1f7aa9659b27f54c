//! A set of block names in few bytes (Bloom, "Space/time trade-offs in hash coding with allowable errors", 1970): it
//! never denies a name that is in it, and now and then affirms one that is not.

use crate::id::BlockName;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bits set for each name. With [`BITS_A_NAME`] at least, one strange name in a hundred is affirmed at most.
const HASHES: usize = 5;

/// Bits of a filter for each name in it, at least, up to the largest filter.
const BITS_A_NAME: usize = 10;

/// Bytes of the smallest filter and of the largest. The largest is right for 100,000 names; with four times as many it
/// affirms more than half of all names, and guides nobody any more.
pub const BLOOM_BYTES: std::ops::RangeInclusive<usize> = 8..=128 << 10;

/// Some block names. Its size is a power of two, so that filters of different sizes can be laid over one another.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct Bloom(Bytes);

/// Bytes that are no filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a filter of {0} bytes, which is no power of two from 8 to 131,072")]
pub struct BloomError(usize);

impl Default for Bloom {
    fn default() -> Self {
        Bloom(Bytes::from_static(&[0; *BLOOM_BYTES.start()]))
    }
}

impl std::fmt::Debug for Bloom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bloom({} bytes)", self.0.len())
    }
}

impl TryFrom<Bytes> for Bloom {
    type Error = BloomError;

    fn try_from(bytes: Bytes) -> Result<Bloom, BloomError> {
        let len = bytes.len();
        if len.is_power_of_two() && BLOOM_BYTES.contains(&len) { Ok(Bloom(bytes)) } else { Err(BloomError(len)) }
    }
}

impl From<Bloom> for Bytes {
    fn from(bloom: Bloom) -> Bytes {
        bloom.0
    }
}

impl Bloom {
    /// These names, in a filter of at least so many bytes.
    pub fn of(names: impl ExactSizeIterator<Item = BlockName>, least_bytes: usize) -> Bloom {
        let wanted = (names.len() * BITS_A_NAME / 8).max(least_bytes).min(*BLOOM_BYTES.end());
        let len = wanted.next_power_of_two().max(*BLOOM_BYTES.start());
        let mut bytes = vec![0u8; len];
        for name in names {
            for place in places(&name, len) {
                bytes[place / 8] |= 1 << (place % 8);
            }
        }
        Bloom(bytes.into())
    }

    /// Bytes it takes.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// Whether the name is in it, or seems to be.
    pub fn has(&self, name: &BlockName) -> bool {
        places(name, self.0.len()).all(|place| self.0[place / 8] & 1 << (place % 8) != 0)
    }

    /// All that is in any of these, in a filter as large as the largest.
    pub fn union<'a>(all: impl Iterator<Item = &'a Bloom> + Clone) -> Bloom {
        let len = all.clone().map(Bloom::size).max().unwrap_or(*BLOOM_BYTES.start());
        let mut bytes = vec![0u8; len];
        for one in all {
            // A name's place in a smaller filter is its place in the larger one, less the upper bits.
            for part in bytes.chunks_exact_mut(one.size()) {
                let words = part.as_chunks_mut::<8>().0.iter_mut().zip(one.0.as_chunks::<8>().0);
                words.for_each(|(word, other)| {
                    *word = (u64::from_ne_bytes(*word) | u64::from_ne_bytes(*other)).to_ne_bytes()
                });
            }
        }
        Bloom(bytes.into())
    }
}

/// Where a name's bits are. Names are SHA-256 hashes: their own bytes are as good as any hash of them.
fn places(name: &BlockName, len: usize) -> impl Iterator<Item = usize> {
    let (words, _) = name.0.as_chunks::<4>();
    let bits = len * 8;
    let place = move |word: &[u8; 4]| u32::from_le_bytes(*word) as usize & (bits - 1);
    let places: [usize; HASHES] = std::array::from_fn(|at| place(&words[at]));
    places.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(range: std::ops::Range<u32>) -> Vec<BlockName> {
        range.map(|number| BlockName::of(&number.to_le_bytes())).collect()
    }

    proptest! {
        #[test]
        fn no_name_is_denied_alone_or_in_a_union(some in 0u32..300, more in 0u32..3000, least in 0usize..600) {
            let (some, more) = (names(0..some), names(10_000..10_000 + more));
            let (small, large) = (Bloom::of(some.iter().copied(), least), Bloom::of(more.iter().copied(), 0));
            prop_assert!(some.iter().all(|name| small.has(name)));
            let both = Bloom::union([&small, &large].into_iter());
            prop_assert_eq!(both.size(), small.size().max(large.size()));
            prop_assert!(some.iter().chain(&more).all(|name| both.has(name)));
        }
    }

    #[test]
    fn a_strange_name_is_seldom_affirmed() {
        for count in [10, 820, 6000, 100_000] {
            let bloom = Bloom::of(names(0..count).into_iter(), 0);
            let wrong = names(1_000_000..1_020_000).iter().filter(|name| bloom.has(name)).count();
            assert!(wrong <= 300, "{wrong} of 20,000 with {count} names in {} bytes", bloom.size());
        }
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(Bloom::of(names(0..0).into_iter(), 0), Bloom::default());
        assert_eq!(Bloom::of(names(0..200_000).into_iter(), 0).size(), *BLOOM_BYTES.end());
        assert_eq!(Bloom::union(std::iter::empty()), Bloom::default());
        for wrong in [0, 4, 12, 256 << 10] {
            assert!(Bloom::try_from(Bytes::from(vec![0; wrong])).is_err(), "{wrong}");
        }
    }
}

//! The codec: systematic Reed-Solomon over GF(2^8).

use crate::policy::{Geometry, MAX_SHARDS};
use bytes::Bytes;
use reed_solomon_erasure::galois_8::ReedSolomon;
use std::collections::BTreeMap;

/// Names the code in a shard's header, so that another can come beside it: systematic, from a Vandermonde
/// matrix, over GF(2^8) with the polynomial 0x11d. Shards of another id must not be decoded by this codec.
pub const CODE_ID: u8 = 1;

/// Why there is no block or no shards, by what the caller can do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CodecError {
    /// Nothing to be done with these shards: whoever wrote the group's record or the header is wrong.
    #[error("a geometry of {data}+{parity} shards is impossible: 1 to {MAX_SHARDS} shards, at least one of them data")]
    Geometry { data: u8, parity: u8 },
    /// An empty block has no shards; empty content is not stored as a block.
    #[error("a block of no bytes cannot be cut into shards")]
    Empty,
    /// Get more shards from other participants.
    #[error("{have} shards are too few: {need} are needed")]
    TooFew { have: usize, need: usize },
    /// Leave this shard out and get another.
    #[error("shard {index} does not belong to this block: {why}")]
    Unfit { index: u8, why: String },
}

/// Encodes and decodes. Making the matrices of a geometry takes as long as encoding some hundred KiB, so those of
/// the usual ones are made once, and those of any other each time: no lock, and nothing that changes in use.
pub struct Codec {
    usual: BTreeMap<Geometry, ReedSolomon>,
}

/// The usual geometries: what `survive:M` comes to for M up to 4, and what people write in `rs:K+M`.
const USUAL_DATA: std::ops::RangeInclusive<u8> = 2..=10;
const USUAL_PARITY: std::ops::RangeInclusive<u8> = 1..=4;

impl Default for Codec {
    fn default() -> Self {
        Codec::new()
    }
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codec").finish_non_exhaustive()
    }
}

impl Codec {
    pub fn new() -> Codec {
        let usual = USUAL_DATA.flat_map(|data| USUAL_PARITY.map(move |parity| Geometry { data, parity }));
        Codec { usual: usual.map(|geometry| (geometry, code(geometry))).collect() }
    }

    /// The block's shards in order of index, each of `geometry.shard_bytes(block.len())` bytes. Data shards are
    /// slices of the block, without a copy, save those that reach past its end.
    pub fn encode(&self, geometry: Geometry, block: &Bytes) -> Result<Vec<Bytes>, CodecError> {
        let k = check(geometry, block.len())?;
        if k == 1 {
            return Ok(vec![block.clone(); geometry.shards()]);
        }
        let shard_len = geometry.shard_bytes(block.len());
        let mut shards = Vec::with_capacity(geometry.shards());
        for index in 0..k {
            let from = (index * shard_len).min(block.len());
            let to = (from + shard_len).min(block.len());
            if to - from == shard_len {
                shards.push(block.slice(from..to));
            } else {
                let mut padded = Vec::with_capacity(shard_len);
                padded.extend_from_slice(&block[from..to]);
                padded.resize(shard_len, 0);
                shards.push(Bytes::from(padded));
            }
        }
        if geometry.parity > 0 {
            let mut parity: Vec<_> = (0..geometry.parity).map(|_| vec![0; shard_len]).collect();
            self.with_code(geometry, |code| code.encode_sep(&shards, &mut parity))
                .expect("the shards were just cut to fit");
            shards.extend(parity.into_iter().map(Bytes::from));
        }
        Ok(shards)
    }

    /// The block from any `geometry.data` of its shards, given with their indices; more are welcome. The block
    /// is built in one buffer: each data shard that is here is copied into it once, the others are computed in
    /// place. A copy of the whole block as a shard is handed back as it is.
    pub fn decode(&self, geometry: Geometry, block_bytes: u32, shards: Vec<(u8, Bytes)>) -> Result<Bytes, CodecError> {
        let len = block_bytes as usize;
        let k = check(geometry, len)?;
        let mut held = seat(geometry, len, shards)?;
        let have = held.iter().flatten().count();
        if have < k {
            return Err(CodecError::TooFew { have, need: k });
        }
        if k == 1 {
            return Ok(held.into_iter().flatten().next().expect("there is at least one"));
        }
        let shard_len = geometry.shard_bytes(len);
        let parity = held.split_off(k);
        let mut block = Vec::with_capacity(k * shard_len);
        for shard in &held {
            match shard {
                Some(bytes) => block.extend_from_slice(bytes),
                None => block.resize(block.len() + shard_len, 0),
            }
        }
        let present: Vec<bool> = held.iter().map(Option::is_some).collect();
        drop(held);
        let missing = present.iter().filter(|here| !**here).count();
        if missing > 0 {
            // The kernel wants every shard writable, even those it only reads: a parity shard that somebody
            // else holds too has to be copied. No more of them are offered than it takes.
            let mut wanted = missing;
            let mut parity: Vec<(Vec<u8>, bool)> = parity
                .into_iter()
                .map(|shard| match shard {
                    Some(bytes) if wanted > 0 => {
                        wanted -= 1;
                        (bytes.try_into_mut().map_or_else(|shared| shared.to_vec(), Vec::from), true)
                    }
                    _ => (Vec::new(), false),
                })
                .collect();
            let data = block.chunks_exact_mut(shard_len).zip(present);
            let mut all: Vec<(&mut [u8], bool)> =
                data.chain(parity.iter_mut().map(|(bytes, here)| (bytes.as_mut_slice(), *here))).collect();
            self.with_code(geometry, |code| code.reconstruct_data(&mut all))
                .expect("as many shards of one length as it takes");
        }
        block.truncate(len);
        Ok(Bytes::from(block))
    }

    /// The shards of the `wanted` indices from any `geometry.data` others, in the order asked for.
    pub fn rebuild(
        &self,
        geometry: Geometry,
        block_bytes: u32,
        shards: Vec<(u8, Bytes)>,
        wanted: &[u8],
    ) -> Result<Vec<Bytes>, CodecError> {
        if let Some(&index) = wanted.iter().find(|index| usize::from(**index) >= geometry.shards()) {
            return Err(CodecError::Unfit { index, why: format!("there are only {}", geometry.shards()) });
        }
        let block = self.decode(geometry, block_bytes, shards)?;
        let all = self.encode(geometry, &block)?;
        Ok(wanted.iter().map(|index| all[usize::from(*index)].clone()).collect())
    }

    fn with_code<T>(&self, geometry: Geometry, run: impl FnOnce(&ReedSolomon) -> T) -> T {
        match self.usual.get(&geometry) {
            Some(made) => run(made),
            None => run(&code(geometry)),
        }
    }
}

/// `geometry` has been checked, and has parity.
fn code(geometry: Geometry) -> ReedSolomon {
    ReedSolomon::new(usize::from(geometry.data), usize::from(geometry.parity))
        .expect("a checked geometry fits the field many times over")
}

/// Refuses what would make the kernel panic or divide by zero; gives the number of data shards.
fn check(geometry: Geometry, block_bytes: usize) -> Result<usize, CodecError> {
    let Geometry { data, parity } = geometry;
    if data == 0 || geometry.shards() > usize::from(MAX_SHARDS) {
        return Err(CodecError::Geometry { data, parity });
    }
    if block_bytes == 0 {
        return Err(CodecError::Empty);
    }
    Ok(usize::from(data))
}

/// The shards by index, each checked for its index and length, none twice.
fn seat(geometry: Geometry, block_bytes: usize, shards: Vec<(u8, Bytes)>) -> Result<Vec<Option<Bytes>>, CodecError> {
    let shard_len = geometry.shard_bytes(block_bytes);
    let mut held = vec![None; geometry.shards()];
    for (index, bytes) in shards {
        let unfit = |why| Err(CodecError::Unfit { index, why });
        let Some(place) = held.get_mut(usize::from(index)) else {
            return unfit(format!("there are only {}", geometry.shards()));
        };
        if bytes.len() != shard_len {
            return unfit(format!("it has {} bytes instead of {shard_len}", bytes.len()));
        }
        if place.replace(bytes).is_some() {
            return unfit("it came twice".to_owned());
        }
    }
    Ok(held)
}

#[cfg(test)]
mod tests;

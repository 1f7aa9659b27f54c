//! The store of shards on real files.

mod damage;
mod life;
mod space;

use super::*;
use crate::id::BlockName;
use crate::policy::Geometry;
use std::fs;

const ME: PeerTag = PeerTag(7);
const NO_RESERVE: ShardsOptions = ShardsOptions { me: ME, reserve: Some(0) };

/// A shard of `bytes` bytes whose content follows from `number`.
fn shard(number: u32, bytes: usize) -> Shard {
    let bytes: Vec<u8> =
        (0..bytes as u32).map(|at| (at.wrapping_mul(31) ^ number.wrapping_mul(77) ^ (at >> 8)) as u8).collect();
    let geometry = Geometry { data: 4, parity: 2 };
    let id = ShardId { block: BlockName::of(&number.to_le_bytes()), geometry, index: (number % 6) as u8 };
    let block_bytes = bytes.len() as u32 * 4;
    Shard { id, block_bytes, crc: crc32c::crc32c(&bytes), bytes: bytes.into() }
}

/// Of a small file.
fn small(number: u32) -> Shard {
    shard(number, 1000 + number as usize % 3000)
}

/// Of a whole block.
fn large(number: u32) -> Shard {
    shard(number, 200_000 + number as usize % 3000)
}

fn open(root: &Path) -> Shards {
    Shards::open(root, NO_RESERVE).unwrap()
}

/// All that is in `aside`.
fn aside(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(root.join("aside"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn first_volume(root: &Path) -> PathBuf {
    root.join("volumes/00000001.volume")
}

fn is_missing(result: Result<Shard, ShardError>) -> bool {
    matches!(result, Err(ShardError::Missing { .. }))
}

fn is_damaged(result: Result<Shard, ShardError>) -> bool {
    matches!(result, Err(ShardError::Damaged { .. }))
}

fn spot(shards: &Shards, shard: &Shard) -> Spot {
    shards.store.state.lock().index[&shard.id].spot
}

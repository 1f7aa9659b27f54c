//! The content path over a share in memory.

mod asking;
mod faults;
mod files;
mod healing;
mod model;
mod search;

use super::testing::{Fault, Share};
use super::*;
use crate::group;
use crate::namespace::{Group, Source};
use crate::policy::Policy;
use bytes::Bytes;
use ports::Errno;
use std::future::Future;

const MIB: usize = 1 << 20;
const RW: OpenFlags = OpenFlags { read: true, write: true, append: false, truncate: false };
const RO: OpenFlags = OpenFlags { read: true, write: false, append: false, truncate: false };

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(120), test).await.expect("no test hangs") })
}

/// Bytes that differ from place to place.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = (0..len.div_ceil(8)).flat_map(|_| step().to_le_bytes());
    let mut bytes: Vec<u8> = words.collect();
    bytes.truncate(len);
    bytes
}

fn policy(text: &str) -> Option<Policy> {
    Some(text.parse().unwrap())
}

async fn write(volume: &Volume, handle: HandleId, offset: u64, data: &[u8]) -> Result<(), Errno> {
    for (n, part) in data.chunks(128 << 10).enumerate() {
        let at = offset + (n * (128 << 10)) as u64;
        let written = volume.write(handle, at, Bytes::copy_from_slice(part), false).await?;
        assert_eq!(written as usize, part.len());
    }
    Ok(())
}

async fn read_all(volume: &Volume, ino: Ino) -> Result<Vec<u8>, Errno> {
    let handle = volume.open(ino, RO).await?.handle;
    let mut all = Vec::new();
    let result = loop {
        match volume.read(handle, all.len() as u64, 256 << 10).await {
            Ok(part) if part.is_empty() => break Ok(()),
            Ok(part) => all.extend_from_slice(&part),
            Err(errno) => break Err(errno),
        }
    };
    volume.release(handle).await;
    result.map(|()| all)
}

async fn store(volume: &Volume, ino: Ino, data: &[u8]) -> Result<(), Errno> {
    let handle = volume.open(ino, OpenFlags { truncate: true, ..RW }).await?.handle;
    write(volume, handle, 0, data).await?;
    let flushed = volume.flush(handle).await;
    volume.release(handle).await;
    flushed
}

/// The group of the block at an offset.
fn group_at(share: &Share, ino: Ino, offset: u64) -> Group {
    let namespace = share.namespace();
    let (_, extent) = namespace.extents(ino, offset, offset + 1).next().expect("there is data");
    let Source::Block { name, .. } = &extent.source else { panic!("the data is in a block") };
    namespace.group(namespace.block(name).unwrap().group).unwrap().clone()
}

//! A snapshot of the namespace, cut into pieces that fit a message.

use super::Host;
use crate::id::PeerTag;
use crate::namespace::{Key, Op, Record, Snapshot, VersionVector};
use crate::time::Stamp;
use crate::volume::ports::Control;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A piece is closed once it is this large; one item (an op with its inline content, or an extended attribute)
/// may carry it somewhat over.
const PIECE_BYTES: usize = 512 << 10;

/// Part of a snapshot. The first piece is the `Head`.
#[derive(Serialize, Deserialize)]
enum Piece {
    Head { vector: VersionVector, frontier: Stamp },
    Records(Vec<(Key, Record)>),
    Ops(Vec<Op>),
}

/// What cannot be a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("a piece of the snapshot is malformed ({0}); update both machines to one version of shoal")]
    Malformed(#[from] postcard::Error),
    #[error("the snapshot does not begin with its head; update both machines to one version of shoal")]
    Headless,
    #[error("the snapshot came to no end: {0}")]
    Unfinished(#[from] tokio::task::JoinError),
}

/// The host's namespace as pieces. Nobody waits for more than the copying of its records: cutting and encoding them
/// takes several times as long, and is done when the namespace is free again.
pub async fn pieces_of(host: &Arc<Host>) -> Result<Vec<Bytes>, SnapshotError> {
    let host = host.clone();
    tokio::task::spawn_blocking(move || {
        let snapshot = host.namespace().snapshot();
        to_chunks(&snapshot)
    })
    .await?
}

/// The snapshot as pieces.
pub fn to_chunks(snapshot: &Snapshot) -> Result<Vec<Bytes>, SnapshotError> {
    let head = Piece::Head { vector: snapshot.vector.clone(), frontier: snapshot.frontier };
    let mut chunks = vec![Bytes::from(postcard::to_stdvec(&head)?)];
    cut(&snapshot.base, Piece::Records, &mut chunks)?;
    cut(&snapshot.ops, Piece::Ops, &mut chunks)?;
    Ok(chunks)
}

fn cut<T: Clone + Serialize>(
    items: &[T],
    piece: fn(Vec<T>) -> Piece,
    chunks: &mut Vec<Bytes>,
) -> Result<(), SnapshotError> {
    let (mut held, mut bytes) = (Vec::new(), 0);
    for item in items {
        bytes += encoded_bytes(item)?;
        held.push(item.clone());
        if bytes >= PIECE_BYTES {
            chunks.push(postcard::to_stdvec(&piece(std::mem::take(&mut held)))?.into());
            bytes = 0;
        }
    }
    if !held.is_empty() {
        chunks.push(postcard::to_stdvec(&piece(held))?.into());
    }
    Ok(())
}

fn encoded_bytes<T: Serialize>(item: &T) -> Result<usize, SnapshotError> {
    Ok(postcard::serialize_with_flavor(item, postcard::ser_flavors::Size::default())?)
}

/// The snapshot that the pieces make up.
pub fn from_chunks(chunks: Vec<Bytes>) -> Result<Snapshot, SnapshotError> {
    let mut snapshot = Snapshot::default();
    for (index, chunk) in chunks.into_iter().enumerate() {
        match postcard::from_bytes::<Piece>(&chunk)? {
            Piece::Head { vector, frontier } if index == 0 => (snapshot.vector, snapshot.frontier) = (vector, frontier),
            Piece::Records(records) if index > 0 => snapshot.base.extend(records),
            Piece::Ops(ops) if index > 0 => snapshot.ops.extend(ops),
            _ => return Err(SnapshotError::Headless),
        }
    }
    Ok(snapshot)
}

/// What lies beside a checkpoint's records on disk.
#[derive(Clone, Serialize, Deserialize)]
pub struct CheckpointMark {
    pub me: PeerTag,
    pub vector: VersionVector,
    pub frontier: Stamp,
}

/// Follows the mark where the tree has just taken the place of another: the log of that one is void.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Replaced {
    /// The number of the first segment of the log that counts.
    pub log_from: u32,
    /// The ops above the records. They are in the log as well, unless the peer was killed before they could be.
    pub ops: Vec<Op>,
}

/// The bytes that lie beside the records.
pub fn encode_mark(mark: &CheckpointMark, replaced: Option<&Replaced>) -> Result<Vec<u8>, postcard::Error> {
    let bytes = postcard::to_stdvec(mark)?;
    match replaced {
        Some(replaced) => postcard::to_extend(replaced, bytes),
        None => Ok(bytes),
    }
}

/// What [`encode_mark`] made.
pub fn decode_mark(bytes: &[u8]) -> Result<(CheckpointMark, Option<Replaced>), postcard::Error> {
    let (mark, rest) = postcard::take_from_bytes(bytes)?;
    let replaced = if rest.is_empty() { None } else { Some(postcard::from_bytes(rest)?) };
    Ok((mark, replaced))
}

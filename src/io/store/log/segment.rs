//! One segment of the log as bytes: how records are written, and how they are found again after a crash.

use super::super::error::StoreError;
use crate::namespace::Op;
use std::path::Path;

const MAGIC: &[u8; 8] = b"SHOALLOG";
const VERSION: u32 = 1;
/// Bytes of a segment's own header.
pub(super) const HEADER: usize = 24;

const RECORD_MAGIC: &[u8; 4] = b"OPS1";
/// Bytes before a record's ops.
pub(super) const RECORD_HEADER: usize = 16;
/// The most bytes of ops in one record.
pub const RECORD_BYTES: usize = 16 << 20;

/// The header of segment `number`.
pub(super) fn header(number: u32) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..20]);
    bytes[20..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The segment says it is `number` and of a version known here.
pub(super) fn check_header(path: &Path, bytes: &[u8], number: u32) -> Result<(), StoreError> {
    let Some(bytes) = bytes.get(..HEADER).filter(|bytes| bytes.starts_with(MAGIC)) else {
        return Err(StoreError::damaged(path, Some(0), "it does not start like a log segment"));
    };
    let version = word(bytes, 8);
    if crc32c::crc32c(&bytes[..20]) != word(bytes, 20) {
        return Err(StoreError::damaged(path, Some(0), "its header fails its checksum"));
    }
    if version > VERSION {
        return Err(StoreError::Newer { path: path.to_owned(), found: version.into(), known: VERSION.into() });
    }
    if version != VERSION || word(bytes, 12) != number {
        return Err(StoreError::damaged(path, Some(0), "its header is not that of this segment"));
    }
    Ok(())
}

/// Ops as the payloads of as many records as their size asks for, in order.
pub(super) fn encode(ops: &[Op]) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut records = Vec::new();
    // Halves still to be encoded, the next one last.
    let mut waiting = vec![ops];
    while let Some(part) = waiting.pop() {
        let payload = postcard::to_stdvec(part).map_err(|error| StoreError::Io {
            doing: "encode ops for",
            path: "the log".into(),
            error: std::io::Error::other(error),
        })?;
        if payload.len() <= RECORD_BYTES {
            records.push(payload);
        } else if part.len() > 1 {
            let (first, second) = part.split_at(part.len() / 2);
            waiting.push(second);
            waiting.push(first);
        } else {
            return Err(StoreError::TooLarge { bytes: payload.len(), limit: RECORD_BYTES });
        }
    }
    Ok(records)
}

/// Appends a record to `out`. `durable`: how much of the segment was on stable storage when it was written.
pub(super) fn put_record(out: &mut Vec<u8>, payload: &[u8], durable: u32) {
    let start = out.len();
    out.extend_from_slice(RECORD_MAGIC);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&durable.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out[start..]), payload);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(payload);
}

/// The ops of the record at `at`, if there is a whole and intact one.
pub(super) fn record(segment: &[u8], at: usize) -> Option<&[u8]> {
    let header = segment.get(at..at.checked_add(RECORD_HEADER)?)?;
    let len = word(header, 4) as usize;
    if !header.starts_with(RECORD_MAGIC) || len == 0 || len > RECORD_BYTES {
        return None;
    }
    let payload = segment.get(at + RECORD_HEADER..at + RECORD_HEADER + len)?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), payload);
    (crc == word(header, 12)).then_some(payload)
}

/// Whether the bad record at `at` had once been on stable storage: some intact record behind it says so. Such a
/// record is damage; any other is the tail that a crash tore off, in whatever order the disk wrote it.
pub(super) fn was_durable(segment: &[u8], at: usize) -> bool {
    let rest = &segment[at..];
    let starts = rest.windows(RECORD_MAGIC.len()).enumerate().skip(1).filter(|(_, bytes)| bytes == RECORD_MAGIC);
    starts.map(|(skipped, _)| at + skipped).any(|start| {
        let durable = segment.get(start + 8..start + 12).map_or(0, |bytes| word(bytes, 0) as usize);
        durable > at && durable <= start && record(segment, start).is_some()
    })
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

//! The log as a crash, a rotting disk and many threads leave it.

use super::*;
use crate::id::{Ino, PeerTag};
use crate::namespace::Change;
use crate::time::{Hlc, Stamp};

fn op(peer: u32, seq: u64) -> Op {
    let stamp = Stamp { time: Hlc(seq << 16), author: Author::new(PeerTag(peer), 0) };
    Op { stamp, seq, change: Change::Reap { ino: Ino(seq) } }
}

fn vector(pairs: &[(u32, u64)]) -> VersionVector {
    VersionVector(pairs.iter().map(|(peer, seq)| (Author::new(PeerTag(*peer), 0), *seq)).collect())
}

/// The log with all that it held.
fn reopen(directory: &Path) -> Result<(OpLog, Vec<Op>, Recovery), StoreError> {
    let mut ops = Vec::new();
    let (log, recovery) = OpLog::open(directory, |batch| ops.extend(batch))?;
    Ok((log, ops, recovery))
}

fn first_segment(directory: &Path) -> PathBuf {
    segment_path(directory, 1)
}

#[test]
fn what_was_appended_is_replayed_in_order_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let (log, ops, _) = reopen(home.path()).unwrap();
    assert!(ops.is_empty());
    log.append(&[op(1, 1), op(1, 2)]).unwrap();
    log.append(&[op(2, 1)]).unwrap();
    assert_eq!(log.append(&[]).unwrap(), log.position());
    drop(log);
    let (log, ops, recovery) = reopen(home.path()).unwrap();
    assert_eq!(ops, [op(1, 1), op(1, 2), op(2, 1)]);
    assert_eq!(recovery, Recovery { ops: 3, torn: 0 });
    log.append(&[op(1, 3)]).unwrap();
    drop(log);
    assert_eq!(reopen(home.path()).unwrap().1.len(), 4);
}

#[test]
fn a_tail_torn_at_any_byte_loses_only_the_record_it_tore() {
    let home = tempfile::tempdir().unwrap();
    let (log, ..) = reopen(home.path()).unwrap();
    log.append(&[op(1, 1)]).unwrap();
    let whole = log.bytes() as usize;
    log.append(&[op(1, 2), op(1, 3)]).unwrap();
    drop(log);
    let path = first_segment(home.path());
    let bytes = fs::read(&path).unwrap();
    for end in whole..bytes.len() {
        for tail in [Vec::new(), vec![0; bytes.len() - end]] {
            fs::write(&path, [&bytes[..end], &tail].concat()).unwrap();
            let (log, ops, recovery) = reopen(home.path()).unwrap();
            assert_eq!(ops, [op(1, 1)], "torn at {end}");
            assert_eq!(recovery.torn as usize, end + tail.len() - whole);
            log.append(&[op(1, 9)]).unwrap();
            drop(log);
            assert_eq!(reopen(home.path()).unwrap().1, [op(1, 1), op(1, 9)], "appended after a tear at {end}");
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_in_what_was_durable_is_damage_and_names_file_and_offset() {
    let home = tempfile::tempdir().unwrap();
    let (log, ..) = reopen(home.path()).unwrap();
    let mut starts = Vec::new();
    for seq in 1..=3 {
        starts.push(log.bytes() as usize);
        let position = log.append(&[op(1, seq)]).unwrap();
        log.sync(position).await.unwrap();
    }
    drop(log);
    let path = first_segment(home.path());
    let bytes = fs::read(&path).unwrap();
    for at in starts[1]..starts[2] {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        fs::write(&path, &bad).unwrap();
        let error = reopen(home.path()).err().expect("damage passed for a torn tail");
        assert!(
            matches!(&error, StoreError::Damaged { path: p, offset: Some(o), .. } if *p == path && *o == starts[1] as u64),
            "byte {at}: {error}"
        );
    }
}

#[test]
fn of_records_that_no_sync_covered_the_first_bad_one_and_all_behind_it_are_a_torn_tail() {
    let home = tempfile::tempdir().unwrap();
    drop(reopen(home.path()).unwrap());
    let path = first_segment(home.path());
    let mut bytes = fs::read(&path).unwrap();
    let durable = bytes.len() as u32;
    for seq in 1..=3 {
        let payload = segment::encode(&[op(1, seq)]).unwrap().remove(0);
        let start = bytes.len();
        segment::put_record(&mut bytes, &payload, durable);
        if seq == 2 {
            // The disk wrote the page of the third record, but not that of the second.
            bytes[start..].fill(0);
        }
    }
    fs::write(&path, &bytes).unwrap();
    assert_eq!(reopen(home.path()).unwrap().1, [op(1, 1)]);
}

#[test]
fn a_bad_record_in_any_segment_but_the_last_is_damage() {
    let home = tempfile::tempdir().unwrap();
    let (log, ..) = reopen(home.path()).unwrap();
    log.append(&[op(1, 1)]).unwrap();
    log.trim(&vector(&[])).unwrap();
    log.append(&[op(1, 2)]).unwrap();
    drop(log);
    let path = first_segment(home.path());
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(reopen(home.path()).err(), Some(StoreError::Damaged { path: p, .. }) if p == path));
    fs::remove_file(&path).unwrap();
    drop(reopen(home.path()).expect("the oldest segment may be gone: that is what trimming does"));
}

#[test]
fn a_missing_segment_a_foreign_header_and_a_newer_version_are_told_apart() {
    let home = tempfile::tempdir().unwrap();
    let (log, ..) = reopen(home.path()).unwrap();
    for seq in 1..=3 {
        log.append(&[op(1, seq)]).unwrap();
        log.trim(&vector(&[])).unwrap();
    }
    drop(log);
    let second = segment_path(home.path(), 2);
    let bytes = fs::read(&second).unwrap();
    fs::remove_file(&second).unwrap();
    let error = reopen(home.path()).err().unwrap().to_string();
    assert!(error.contains("00000002.ops") && error.contains("missing"), "{error}");
    fs::write(&second, b"not a segment").unwrap();
    assert!(matches!(reopen(home.path()).err(), Some(StoreError::Damaged { .. })));
    let mut newer = bytes.clone();
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer[..20]);
    newer[20..24].copy_from_slice(&crc.to_le_bytes());
    fs::write(&second, &newer).unwrap();
    let error = reopen(home.path()).err().unwrap().to_string();
    assert!(error.contains("upgrade shoal"), "{error}");
    fs::write(&second, &bytes).unwrap();
    assert_eq!(reopen(home.path()).unwrap().1.len(), 3);
}

#[test]
fn trimming_lets_go_of_covered_segments_only_and_from_the_front() {
    let home = tempfile::tempdir().unwrap();
    let (log, ..) = reopen(home.path()).unwrap();
    for (peer, seq) in [(1, 1), (2, 1), (1, 2)] {
        log.append(&[op(peer, seq)]).unwrap();
        assert_eq!(log.trim(&vector(&[])).unwrap(), 0);
    }
    assert_eq!(log.trim(&vector(&[(1, 2)])).unwrap(), 1, "the second segment holds an op of the other peer");
    assert_eq!(log.trim(&vector(&[(1, 9), (2, 1)])).unwrap(), 2);
    log.append(&[op(1, 3)]).unwrap();
    drop(log);
    assert_eq!(reopen(home.path()).unwrap().1, [op(1, 3)]);
}

#[test]
fn appends_from_many_threads_all_become_durable_and_stay_whole() {
    let home = tempfile::tempdir().unwrap();
    let (log, ..) = reopen(home.path()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    std::thread::scope(|scope| {
        for peer in 1..=8 {
            let (log, runtime) = (&log, &runtime);
            scope.spawn(move || {
                for seq in 1..=50 {
                    let position = log.append(&[op(peer, seq)]).unwrap();
                    if seq % 10 == 0 {
                        runtime.block_on(log.sync(position)).unwrap();
                    }
                    if seq == 25 {
                        log.trim(&vector(&[])).unwrap();
                    }
                }
            });
        }
    });
    drop(log);
    let (_, ops, _) = reopen(home.path()).unwrap();
    for peer in 1..=8 {
        let mine: Vec<u64> = ops.iter().filter(|op| op.stamp.author.peer() == PeerTag(peer)).map(|op| op.seq).collect();
        assert_eq!(mine, (1..=50).collect::<Vec<_>>());
    }
}

#[test]
fn what_nobody_waits_for_becomes_durable_by_itself() {
    let home = tempfile::tempdir().unwrap();
    let (log, ..) = reopen(home.path()).unwrap();
    let mut synced = log.shared.synced.subscribe();
    log.append(&[op(1, 1)]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let done = synced.wait_for(|seen| *seen == Ok(1));
        tokio::time::timeout(Duration::from_secs(20), done).await.expect("never synced").unwrap();
    });
}

#[test]
fn a_batch_too_large_for_a_record_is_split_and_an_op_too_large_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let (log, ..) = reopen(home.path()).unwrap();
    let large = |seq, bytes: usize| {
        let value = Some(bytes::Bytes::from(vec![7; bytes]));
        let change = Change::SetXattr { ino: Ino(1), name: "user.a".into(), value, ctime: Default::default() };
        Op { change, ..op(1, seq) }
    };
    let batch: Vec<Op> = (1..=5).map(|seq| large(seq, 5 << 20)).collect();
    log.append(&batch).unwrap();
    assert!(matches!(log.append(&[large(6, RECORD_BYTES)]), Err(StoreError::TooLarge { .. })));
    // Past 32 MiB a new segment begins.
    log.append(&batch[..2]).unwrap();
    log.append(&[op(1, 6)]).unwrap();
    assert!(segment_path(home.path(), 2).exists());
    drop(log);
    let (_, ops, _) = reopen(home.path()).unwrap();
    assert_eq!((ops.len(), &ops[..5], &ops[7]), (8, &batch[..], &op(1, 6)));
}

#[test]
fn after_a_failure_of_the_disk_every_append_says_so() {
    let home = tempfile::tempdir().unwrap();
    let (log, ..) = reopen(home.path()).unwrap();
    log.shared.stop(&mut log.shared.state.lock(), "the disk is on fire");
    let error = log.append(&[op(1, 1)]).unwrap_err().to_string();
    assert!(error.contains("on fire") && error.contains("check the disk") && !error.contains('\n'), "{error}");
}

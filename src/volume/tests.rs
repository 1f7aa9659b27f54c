//! The content path over a share in memory.

use super::testing::{Fault, Share};
use super::*;
use crate::group;
use crate::namespace::{Group, Source};
use crate::policy::Policy;
use bytes::Bytes;
use ports::Errno;
use proptest::prelude::*;
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

#[derive(Clone, Debug)]
enum Step {
    Write(usize, usize),
    Read(usize, usize),
    Truncate(usize),
    Punch(usize, usize),
    Flush,
    Fsync,
    Reopen(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let offset = || prop_oneof![0usize..8192, 0usize..3 * MIB, Just(MIB - 1), Just(MIB)];
    let len = || prop_oneof![1usize..200, 1usize..10_000, 1usize..2 * MIB];
    prop_oneof![
        6 => (offset(), len()).prop_map(|(at, len)| Step::Write(at, len)),
        4 => (offset(), len()).prop_map(|(at, len)| Step::Read(at, len)),
        2 => offset().prop_map(Step::Truncate),
        2 => (offset(), len()).prop_map(|(at, len)| Step::Punch(at, len)),
        2 => Just(Step::Flush),
        1 => Just(Step::Fsync),
        2 => (0usize..6).prop_map(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn a_file_reads_as_it_was_written(
        steps in proptest::collection::vec(step(), 1..40),
        kept in prop_oneof![Just("rs:4+2"), Just("replicate:3"), Just("survive:2"), Just("replicate:1")],
    ) {
        run(async move {
            let share = Share::new(6);
            let volumes: Vec<Volume> = (0..6).map(|n| share.volume(n)).collect();
            let ino = share.create(0, "file", policy(kept));
            let mut at = 0;
            let mut handle = volumes[at].open(ino, RW).await.unwrap().handle;
            let mut model: Vec<u8> = Vec::new();
            for (n, step) in steps.into_iter().enumerate() {
                let volume = &volumes[at];
                match step {
                    Step::Write(offset, len) => {
                        let data = noise(n as u64 + 1, len);
                        write(volume, handle, offset as u64, &data).await.unwrap();
                        model.resize(model.len().max(offset + len), 0);
                        model[offset..offset + len].copy_from_slice(&data);
                    }
                    Step::Read(offset, len) => {
                        let got = volume.read(handle, offset as u64, len as u32).await.unwrap();
                        let (from, to) = (offset.min(model.len()), (offset + len).min(model.len()));
                        assert!(got == model[from..to], "read of {len} at {offset}");
                    }
                    Step::Truncate(size) => {
                        volume.truncate(ino, size as u64).await.unwrap();
                        model.resize(size, 0);
                    }
                    Step::Punch(offset, len) => {
                        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                        volume.allocate(handle, offset as u64, len as u64, mode).await.unwrap();
                        let (from, to) = (offset.min(model.len()), (offset + len).min(model.len()));
                        model[from..to].fill(0);
                    }
                    Step::Flush => volume.flush(handle).await.unwrap(),
                    Step::Fsync => volume.fsync(handle).await.unwrap(),
                    Step::Reopen(peer) => {
                        volume.flush(handle).await.unwrap();
                        volume.release(handle).await;
                        volume.drop_caches();
                        at = peer;
                        handle = volumes[at].open(ino, RW).await.unwrap().handle;
                    }
                }
                assert_eq!(volumes[at].attributes(ino).unwrap().size, model.len() as u64);
            }
            volumes[at].flush(handle).await.unwrap();
            volumes[at].release(handle).await;
            // Blocks that were overwritten before they were stored may still be on their way.
            while volumes[at].dirty_bytes() > 0 {
                tokio::task::yield_now().await;
            }
            assert!(read_all(&volumes[(at + 1) % 6], ino).await.unwrap() == model);
        });
    }
}

#[test]
fn any_m_participants_may_die() {
    run(async {
        let share = Share::new(6);
        let peers = share.peers();
        let data = noise(1, 2 * MIB + 70_000);
        let coded = share.create(0, "coded", policy("rs:4+2"));
        let copied = share.create(0, "copied", policy("replicate:3"));
        for ino in [coded, copied] {
            store(&share.volume(0), ino, &data).await.unwrap();
        }
        for a in 0..6 {
            for b in a + 1..6 {
                share.fault(peers[a], Fault::Dead);
                share.fault(peers[b], Fault::Dead);
                let reader = (0..6).find(|n| *n != a && *n != b).unwrap();
                for ino in [coded, copied] {
                    assert!(read_all(&share.volume(reader), ino).await.unwrap() == data, "{a} and {b} dead");
                }
                share.fault(peers[a], Fault::None);
                share.fault(peers[b], Fault::None);
            }
        }
    });
}

#[test]
fn too_few_shards_are_an_error_in_time_and_never_wrong_bytes() {
    run(async {
        let share = Share::new(6);
        let peers = share.peers();
        let ino = share.create(0, "file", policy("rs:4+2"));
        store(&share.volume(0), ino, &noise(1, MIB)).await.unwrap();
        for (fault, within) in [(Fault::Dead, Duration::from_secs(1)), (Fault::Silent, Duration::from_secs(3))] {
            for peer in &peers[3..] {
                share.fault(*peer, fault);
            }
            let volume =
                share.volume_with(0, VolumeSettings { read_deadline: Duration::from_secs(1), ..Share::settings() });
            let started = std::time::Instant::now();
            assert_eq!(read_all(&volume, ino).await, Err(Errno(libc::EIO)));
            assert!(started.elapsed() < within);
        }
    });
}

#[test]
fn a_damaged_shard_with_a_right_checksum_is_found_and_worked_around() {
    run(async {
        for kept in ["rs:4+2", "replicate:3"] {
            let share = Share::new(6);
            let ino = share.create(0, "file", policy(kept));
            let data = noise(1, MIB + 9000);
            store(&share.volume(0), ino, &data).await.unwrap();
            let peers = share.peers();
            share.corrupt(peers[0]);
            assert!(read_all(&share.volume(1), ino).await.unwrap() == data);
            assert!(read_all(&share.volume(0), ino).await.unwrap() == data, "also where it lies on its own disk");
            share.corrupt(peers[4]);
            assert!(read_all(&share.volume(1), ino).await.unwrap() == data, "two damaged");
            for peer in peers {
                share.corrupt(peer);
            }
            share.corrupt(share.peers()[0]);
            share.corrupt(share.peers()[4]);
            assert_eq!(read_all(&share.volume(1), ino).await, Err(Errno(libc::EIO)), "all damaged");
        }
    });
}

#[test]
fn a_participant_that_fails_during_a_write_is_replaced_in_its_slot() {
    run(async {
        for fault in [Fault::Silent, Fault::Full, Fault::Dead] {
            let share = Share::new(7);
            let peers = share.peers();
            let volume = share.volume(0);
            let ino = share.create(0, "file", policy("rs:4+2"));
            let data = noise(1, 6 * MIB);
            let handle = volume.open(ino, RW).await.unwrap().handle;
            write(&volume, handle, 0, &data[..3 * MIB]).await.unwrap();
            volume.flush(handle).await.unwrap();
            let first: Vec<_> = {
                let namespace = share.namespace();
                let (_, group) = namespace.groups().next().unwrap();
                group.slots.iter().map(|slot| slot[0].peer).collect()
            };
            let victim = *first.iter().find(|peer| **peer != peers[0]).unwrap();
            share.fault(victim, fault);
            let puts = share.puts();
            write(&volume, handle, 3 * MIB as u64, &data[3 * MIB..]).await.unwrap();
            volume.flush(handle).await.unwrap();
            assert!(share.puts() <= puts + 3 * 7, "only the failed shards are sent again");
            let group = group_at(&share, ino, 5 * MIB as u64);
            let seats: Vec<_> = group.slots.iter().map(|slot| slot[0].peer).collect();
            assert!(!seats.contains(&victim));
            let kept = seats.iter().zip(&first).filter(|(now, before)| now == before).count();
            assert_eq!(kept, 5, "the others keep their slots");
            assert_eq!(group::state(&group, |peer| peer != victim), group::State::Goldilocks);
            volume.release(handle).await;
            share.fault(victim, Fault::Dead);
            assert!(read_all(&share.volume(0), ino).await.unwrap() == data);
        }
    });
}

#[test]
fn no_room_anywhere_is_enospc_and_nobody_answering_is_eio() {
    run(async {
        for (fault, errno) in [(Fault::Full, libc::ENOSPC), (Fault::Silent, libc::EIO)] {
            let share = Share::new(3);
            let volume = share.volume(0);
            let ino = share.create(0, "file", policy("replicate:2"));
            let handle = volume.open(ino, RW).await.unwrap().handle;
            share.peers().into_iter().for_each(|peer| share.fault(peer, fault));
            write(&volume, handle, 0, &noise(1, 100_000)).await.unwrap();
            assert_eq!(volume.flush(handle).await, Err(Errno(errno)));
            share.peers().into_iter().for_each(|peer| share.fault(peer, Fault::None));
            volume.flush(handle).await.expect("told once; then stored after all");
            volume.flush(handle).await.unwrap();
            volume.release(handle).await;
            assert!(read_all(&share.volume(1), ino).await.unwrap() == noise(1, 100_000));
        }
    });
}

#[test]
fn a_write_learns_of_a_failure_in_the_background_once() {
    run(async {
        let share = Share::new(3);
        let volume = share.volume(0);
        let ino = share.create(0, "file", policy("replicate:2"));
        let handle = volume.open(ino, RW).await.unwrap().handle;
        share.peers().into_iter().for_each(|peer| share.fault(peer, Fault::Full));
        // More than the budget: some write has to wait for what cannot be stored.
        let failed = write(&volume, handle, 0, &noise(1, 40 * MIB)).await;
        assert_eq!(failed, Err(Errno(libc::ENOSPC)));
        assert!(volume.dirty_bytes() <= Share::settings().dirty_bytes);
        volume.release(handle).await;
        assert_eq!(volume.dirty_bytes(), 0);
    });
}

#[test]
fn dirty_data_stays_within_its_budget_however_slow_the_stores() {
    run(async {
        let share = Share::new(3);
        let volume = share.volume_with(0, VolumeSettings { dirty_bytes: 4 << 20, ..Share::settings() });
        share.peers().into_iter().for_each(|peer| share.fault(peer, Fault::Slow(Duration::from_millis(10))));
        let mut writers = tokio::task::JoinSet::new();
        for n in 0..4u64 {
            let (share, volume) = (share.clone(), volume.clone());
            writers.spawn(async move {
                let ino = share.create(0, &format!("file {n}"), policy("rs:2+1"));
                let handle = volume.open(ino, RW).await.unwrap().handle;
                let data = noise(n + 1, 5 * MIB);
                for (part, chunk) in data.chunks(100_000).enumerate() {
                    write(&volume, handle, part as u64 * 100_000, chunk).await.unwrap();
                    let held: usize =
                        volume.inner.files.lock().values().map(|file| file.state.lock().overlay.memory()).sum();
                    assert!(held <= 4 << 20, "{held} bytes are dirty");
                }
                volume.flush(handle).await.unwrap();
                volume.release(handle).await;
                assert!(read_all(&share.volume(1), ino).await.unwrap() == data);
            });
        }
        while let Some(done) = writers.join_next().await {
            done.unwrap();
        }
        assert_eq!(volume.dirty_bytes(), 0);
        assert!(volume.inner.files.lock().is_empty() && volume.inner.handles.lock().is_empty());
    });
}

#[test]
fn a_hole_of_a_terabyte_costs_nothing() {
    run(async {
        let share = Share::new(3);
        let volume = share.volume(0);
        let ino = share.create(0, "file", None);
        let handle = volume.open(ino, RW).await.unwrap().handle;
        let end = 1u64 << 40;
        volume.allocate(handle, 0, end, 0).await.unwrap();
        write(&volume, handle, end, b"the end").await.unwrap();
        write(&volume, handle, end / 2, &noise(1, 50_000)).await.unwrap();
        volume.flush(handle).await.unwrap();
        let attributes = volume.attributes(ino).unwrap();
        assert_eq!(attributes.size, end + 7);
        assert!(attributes.blocks512 < 200);
        assert_eq!(&volume.read(handle, end - 3, 100).await.unwrap()[..], b"\0\0\0the end");
        let half = end as i64 / 2;
        assert_eq!(volume.seek(handle, 0, libc::SEEK_DATA).await, Ok(half));
        assert_eq!(volume.seek(handle, half, libc::SEEK_HOLE).await, Ok(half + 50_000));
        assert_eq!(volume.seek(handle, half + 50_000, libc::SEEK_DATA).await, Ok(end as i64));
        assert_eq!(volume.seek(handle, end as i64, libc::SEEK_HOLE).await, Ok(end as i64 + 7));
        assert_eq!(volume.seek(handle, end as i64 + 7, libc::SEEK_DATA).await, Err(Errno(libc::ENXIO)));
        volume.truncate(ino, 10).await.unwrap();
        volume.truncate(ino, end).await.unwrap();
        assert_eq!(volume.seek(handle, 0, libc::SEEK_DATA).await, Err(Errno(libc::ENXIO)));
        assert_eq!(volume.attributes(ino).unwrap().blocks512, 0);
        volume.release(handle).await;
    });
}

#[test]
fn appends_go_to_the_end_whoever_wrote_before() {
    run(async {
        let share = Share::new(3);
        let volume = share.volume(0);
        let ino = share.create(0, "log", None);
        let append = OpenFlags { append: true, ..RW };
        let (a, b) = (volume.open(ino, append).await.unwrap().handle, volume.open(ino, append).await.unwrap().handle);
        let mut writers = tokio::task::JoinSet::new();
        for (handle, byte) in [(a, b'a'), (b, b'b')] {
            let volume = volume.clone();
            writers.spawn(async move {
                for _ in 0..200 {
                    volume.write(handle, 0, Bytes::from(vec![byte; 10]), false).await.unwrap();
                }
                volume.flush(handle).await.unwrap();
            });
        }
        while let Some(done) = writers.join_next().await {
            done.unwrap();
        }
        let all = read_all(&share.volume(1), ino).await.unwrap();
        assert_eq!(all.len(), 4000);
        assert!(all.chunks(10).all(|line| line == [b'a'; 10] || line == [b'b'; 10]));
    });
}

#[test]
fn many_small_extents_of_a_chunk_become_one_block() {
    run(async {
        let share = Share::new(3);
        let volume = share.volume(0);
        let ino = share.create(0, "log", None);
        let mut model = Vec::new();
        for n in 0..100u64 {
            let handle = volume.open(ino, OpenFlags { append: true, ..RW }).await.unwrap().handle;
            let line = noise(n + 1, 300);
            volume.write(handle, 0, Bytes::copy_from_slice(&line), false).await.unwrap();
            model.extend_from_slice(&line);
            volume.flush(handle).await.unwrap();
            volume.release(handle).await;
        }
        assert!(share.namespace().extents(ino, 0, u64::MAX).count() <= 18);
        assert!(read_all(&share.volume(1), ino).await.unwrap() == model);
    });
}

#[test]
fn small_content_is_inline_and_costs_no_shards() {
    run(async {
        let share = Share::new(6);
        let ino = share.create(0, "file", None);
        store(&share.volume(0), ino, &noise(1, 4096)).await.unwrap();
        assert_eq!(share.puts(), 0);
        assert!(read_all(&share.volume(1), ino).await.unwrap() == noise(1, 4096));
        store(&share.volume(1), ino, b"").await.unwrap();
        assert_eq!(read_all(&share.volume(0), ino).await.unwrap(), b"");
    });
}

#[test]
fn equal_content_is_stored_once_for_each_geometry_and_each_keeps_its_redundancy() {
    run(async {
        let share = Share::new(6);
        let peers = share.peers();
        let volume = share.volume(0);
        let data = noise(1, 2 * MIB + 5000);
        let mut files = Vec::new();
        for kept in ["replicate:1", "rs:4+2", "replicate:3", "rs:2+1"] {
            let ino = share.create(0, kept, policy(kept));
            store(&volume, ino, &data).await.unwrap();
            files.push(ino);
        }
        let puts = share.puts();
        let again = share.create(0, "again", policy("rs:4+2"));
        store(&volume, again, &data).await.unwrap();
        assert_eq!(share.puts(), puts, "the same content under the same policy needs no shards");
        share.fault(peers[0], Fault::Dead);
        share.fault(peers[3], Fault::Dead);
        let reader = share.volume(1);
        assert_eq!(read_all(&reader, files[0]).await, Err(Errno(libc::EIO)), "one copy was all it asked for");
        for ino in [files[1], files[2], again] {
            assert!(read_all(&reader, ino).await.unwrap() == data);
        }
    });
}

#[test]
fn a_slow_participant_delays_a_read_by_a_hedge() {
    run(async {
        let share = Share::new(6);
        let ino = share.create(0, "file", policy("rs:4+2"));
        let data = noise(1, MIB);
        store(&share.volume(0), ino, &data).await.unwrap();
        for peer in &share.peers()[1..3] {
            share.fault(*peer, Fault::Slow(Duration::from_secs(60)));
        }
        let started = std::time::Instant::now();
        assert!(read_all(&share.volume(0), ino).await.unwrap() == data);
        assert!(started.elapsed() < Duration::from_secs(2));
    });
}

#[test]
fn readers_of_one_block_share_one_fetch() {
    run(async {
        let share = Share::new(6);
        let ino = share.create(0, "file", policy("rs:4+2"));
        store(&share.volume(0), ino, &noise(1, MIB)).await.unwrap();
        let settings = VolumeSettings { hedge: Duration::from_secs(60), ..Share::settings() };
        let volume = share.volume_with(1, settings);
        let handle = volume.open(ino, RO).await.unwrap().handle;
        let mut readers = tokio::task::JoinSet::new();
        for n in 0..32 {
            let volume = volume.clone();
            readers.spawn(async move { volume.read(handle, n * 1000, 1000).await.unwrap() });
        }
        while let Some(done) = readers.join_next().await {
            assert_eq!(done.unwrap().len(), 1000);
        }
        assert_eq!(share.gets(), 4, "k shards, once");
    });
}

#[test]
fn kernel_pages_are_kept_only_while_the_content_is_what_was_opened_last() {
    run(async {
        let share = Share::new(2);
        let (here, there) = (share.volume(0), share.volume(1));
        let ino = share.create(0, "file", None);
        store(&here, ino, b"one").await.unwrap();
        let keep = |volume: Volume| async move {
            let opened = volume.open(ino, RO).await.unwrap();
            volume.release(opened.handle).await;
            opened.keep_cache
        };
        assert!(keep(here.clone()).await, "its own write went through its own pages");
        assert!(!keep(there.clone()).await, "never opened there");
        assert!(keep(there.clone()).await);
        store(&here, ino, b"two").await.unwrap();
        assert!(!keep(there.clone()).await, "changed elsewhere");
        there.invalidated(ino);
        assert!(!keep(there).await);
    });
}

#[test]
fn a_flush_waits_for_its_ops_and_fsync_makes_every_holder_durable() {
    run(async {
        let share = Share::new(6);
        let volume = share.volume(0);
        let ino = share.create(0, "file", policy("rs:4+2"));
        let handle = volume.open_created(ino, RW).unwrap();
        volume.flush(handle).await.unwrap();
        assert!(share.settled() >= 1, "its creation is known");
        write(&volume, handle, 0, &noise(1, 10_000)).await.unwrap();
        volume.flush(handle).await.unwrap();
        assert_eq!(share.settled(), share.namespace().vector().get(share.peers()[0]));
        volume.fsync(handle).await.unwrap();
        assert!(share.peers().into_iter().all(|peer| share.syncs(peer) == 1));
        volume.fsync(handle).await.unwrap();
        assert!(share.peers().into_iter().all(|peer| share.syncs(peer) == 1), "nothing new, nothing to do");
        volume.release(handle).await;
    });
}

#[test]
fn old_dirty_content_is_committed_without_being_asked() {
    run(async {
        let share = Share::new(3);
        let settings = VolumeSettings { write_back_after: Duration::from_millis(1), ..Share::settings() };
        let volume = share.volume_with(0, settings);
        let ino = share.create(0, "file", None);
        let handle = volume.open(ino, RW).await.unwrap().handle;
        write(&volume, handle, 0, b"soon").await.unwrap();
        while share.namespace().inode(ino).unwrap().size == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(read_all(&share.volume(1), ino).await.unwrap(), b"soon");
        volume.release(handle).await;
    });
}

#[test]
fn ranges_between_alike_files_are_shared() {
    run(async {
        let share = Share::new(6);
        let volume = share.volume(0);
        let data = noise(1, 3 * MIB + 2000);
        let (a, b) = (share.create(0, "a", policy("rs:4+2")), share.create(0, "b", policy("rs:4+2")));
        store(&volume, a, &data).await.unwrap();
        let puts = share.puts();
        let (from, to) = (volume.open(a, RO).await.unwrap().handle, volume.open(b, RW).await.unwrap().handle);
        assert_eq!(volume.copy_range(from, 1000, to, 5, 3 * MIB as u64).await, Ok(3 * MIB as u64));
        volume.flush(to).await.unwrap();
        assert_eq!(share.puts(), puts);
        let copy = read_all(&share.volume(1), b).await.unwrap();
        assert!(copy[..5] == [0; 5] && copy[5..] == data[1000..1000 + 3 * MIB]);
        volume.release(from).await;
        volume.release(to).await;
    });
}

#[test]
fn setuid_goes_with_a_write_but_not_when_set_after_it() {
    run(async {
        let share = Share::new(1);
        let volume = share.volume(0);
        let ino = share.create(0, "file", None);
        let handle = volume.open(ino, RW).await.unwrap().handle;
        share.set_mode(0, ino, 0o6755);
        volume.write(handle, 0, Bytes::from_static(b"x"), true).await.unwrap();
        assert_eq!(volume.attributes(ino).unwrap().mode, 0o755);
        share.set_mode(0, ino, 0o4755);
        volume.flush(handle).await.unwrap();
        assert_eq!(volume.attributes(ino).unwrap().mode, 0o4755);
    });
}

#[test]
fn times_set_while_dirty_stay() {
    run(async {
        let share = Share::new(1);
        let volume = share.volume(0);
        let ino = share.create(0, "file", None);
        let handle = volume.open(ino, RW).await.unwrap().handle;
        write(&volume, handle, 0, b"x").await.unwrap();
        volume.note_times(ino, Some(WallTime(5)));
        assert_eq!(volume.attributes(ino).unwrap().mtime, WallTime(5));
        volume.flush(handle).await.unwrap();
        assert_eq!(volume.attributes(ino).unwrap().mtime, WallTime(5));
    });
}

#[test]
fn survive_reshapes_as_peers_come_and_go() {
    run(async {
        let share = Share::new(6);
        let peers = share.peers();
        let volume = share.volume(0);
        let data = noise(1, 6 * MIB);
        let ino = share.create(0, "file", policy("survive:2"));
        let handle = volume.open(ino, RW).await.unwrap().handle;
        let mut shapes = Vec::new();
        for n in 1..=6 {
            for (at, peer) in peers.iter().enumerate() {
                share.fault(*peer, if at < n { Fault::None } else { Fault::Dead });
            }
            let offset = (n - 1) * MIB;
            write(&volume, handle, offset as u64, &data[offset..offset + MIB]).await.unwrap();
            volume.flush(handle).await.unwrap();
            let geometry = group_at(&share, ino, offset as u64).geometry;
            shapes.push((geometry.data, geometry.parity));
        }
        assert_eq!(shapes, [(1, 0), (1, 1), (2, 1), (2, 2), (3, 2), (4, 2)]);
        volume.release(handle).await;
        assert!(read_all(&share.volume(5), ino).await.unwrap() == data);
    });
}

#[test]
fn a_fixed_policy_with_fewer_machines_than_slots_spreads_when_more_come() {
    run(async {
        let share = Share::new(6);
        let peers = share.peers();
        peers[2..].iter().for_each(|peer| share.fault(*peer, Fault::Dead));
        let volume = share.volume(0);
        let ino = share.create(0, "file", policy("rs:4+2"));
        let handle = volume.open(ino, RW).await.unwrap().handle;
        let data = noise(1, 2 * MIB);
        write(&volume, handle, 0, &data[..MIB]).await.unwrap();
        volume.flush(handle).await.unwrap();
        let cramped = group_at(&share, ino, 0);
        assert_eq!(group::state(&cramped, |peer| peers[..2].contains(&peer)), group::State::Cold);
        peers[2..].iter().for_each(|peer| share.fault(*peer, Fault::None));
        write(&volume, handle, MIB as u64, &data[MIB..]).await.unwrap();
        volume.flush(handle).await.unwrap();
        let spread = group_at(&share, ino, MIB as u64);
        assert_eq!(group::state(&spread, |_| true), group::State::Goldilocks);
        volume.release(handle).await;
        assert!(read_all(&share.volume(4), ino).await.unwrap() == data);
    });
}

#[test]
fn what_takes_more_than_one_op_is_committed_whole() {
    run(async {
        let share = Share::new(3);
        let volume = share.volume(0);
        let ino = share.create(0, "file", None);
        let handle = volume.open(ino, RW).await.unwrap().handle;
        let far = 3 * MIB as u64;
        for n in 0..1500 {
            write(&volume, handle, n * far, &[(n % 200) as u8 + 1; 10]).await.unwrap();
        }
        volume.flush(handle).await.unwrap();
        assert_eq!(share.namespace().extents(ino, 0, u64::MAX).count(), 1500);
        assert_eq!(share.namespace().inode(ino).unwrap().size, 1499 * far + 10);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        volume.allocate(handle, 5, 1498 * far, mode).await.unwrap();
        volume.flush(handle).await.unwrap();
        assert_eq!(share.namespace().extents(ino, 0, u64::MAX).count(), 3);
        assert_eq!(volume.seek(handle, 5, libc::SEEK_DATA).await, Ok((1498 * far) as i64 + 5));
        volume.release(handle).await;
    });
}

#[test]
fn a_version_written_without_seeing_another_goes_to_a_copy() {
    run(async {
        let share = Share::new(3);
        let (a, b) = (share.volume(0), share.volume(1));
        let ino = share.create(0, "file", None);
        store(&a, ino, b"both know this").await.unwrap();
        let mine = a.open(ino, RW).await.unwrap().handle;
        write(&a, mine, 0, b"A").await.unwrap();
        store(&b, ino, b"b's version").await.unwrap();
        a.flush(mine).await.unwrap();
        a.release(mine).await;
        let copy = share.namespace().inode(ino).unwrap().forks[0].1;
        assert_eq!(read_all(&b, ino).await.unwrap(), b"b's version");
        assert_eq!(read_all(&b, copy).await.unwrap(), b"Aoth know this");
    });
}

#[test]
fn a_shared_block_that_nobody_keeps_any_more_is_stored_again() {
    run(async {
        let share = Share::new(6);
        let volume = share.volume(0);
        let (a, b) = (share.create(0, "a", policy("rs:4+2")), share.create(0, "b", policy("rs:4+2")));
        let data = noise(1, MIB);
        store(&volume, a, &data).await.unwrap();
        let handle = volume.open(b, RW).await.unwrap().handle;
        write(&volume, handle, 0, &data).await.unwrap();
        // Stored already: as soon as that is found, the one file that kept it lets it go.
        while volume.dirty_bytes() > 0 {
            tokio::task::yield_now().await;
        }
        store(&volume, a, b"").await.unwrap();
        let puts = share.puts();
        volume.flush(handle).await.unwrap();
        assert_eq!(share.puts(), puts + 6);
        volume.release(handle).await;
        assert!(read_all(&share.volume(1), b).await.unwrap() == data);
    });
}

#[test]
fn an_orphan_lives_while_it_is_open_and_is_reaped_after() {
    run(async {
        let share = Share::new(3);
        let volume = share.volume(0);
        let ino = share.create(0, "file", None);
        let handle = volume.open(ino, RW).await.unwrap().handle;
        write(&volume, handle, 0, b"still here").await.unwrap();
        share.unlink(0, "file");
        volume.note_unlinked(ino);
        assert_eq!(volume.attributes(ino).unwrap().nlink, 0);
        volume.flush(handle).await.unwrap();
        assert_eq!(&volume.read(handle, 0, 100).await.unwrap()[..], b"still here");
        volume.release(handle).await;
        assert_eq!(volume.attributes(ino).err(), Some(Errno(libc::ENOENT)));
        assert!(volume.inner.files.lock().is_empty());
        let closed = share.create(0, "other", None);
        share.unlink(0, "other");
        volume.note_unlinked(closed);
        assert!(share.namespace().inode(closed).is_none());
    });
}

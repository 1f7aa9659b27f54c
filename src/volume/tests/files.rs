//! What a file's users see: sizes, times, holes, appends, sharing, durability.

use super::*;

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
fn an_op_of_scattered_small_writes_fits_a_message() {
    run(async {
        let share = Share::new(3);
        let ino = share.create(0, "sparse", policy("replicate:2"));
        let volume = share.volume(0);
        let handle = volume.open(ino, RW).await.unwrap().handle;
        let page = noise(3, 4096);
        let at = |n: usize| (n * (128 << 10)) as u64;
        for n in 0..1200 {
            write(&volume, handle, at(n), &page).await.unwrap();
        }
        volume.flush(handle).await.unwrap();
        let ops = share.namespace().snapshot().ops;
        for op in ops {
            let bytes = postcard::to_stdvec(&op).unwrap().len();
            assert!(bytes <= crate::wire::MAX_CHUNK_BYTES / 2, "an op of {bytes} bytes can be sent to nobody");
        }
        let other = share.volume(1);
        let handle = other.open(ino, RO).await.unwrap().handle;
        for n in [0, 700, 1199] {
            assert_eq!(other.read(handle, at(n), 4096).await.unwrap(), page);
        }
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
        assert_eq!(share.settled(), share.namespace().vector().get(crate::id::Author::new(share.peers()[0], 0)));
        volume.fsync(handle).await.unwrap();
        assert!(share.peers().into_iter().all(|peer| share.syncs(peer) == 1));
        volume.fsync(handle).await.unwrap();
        assert!(share.peers().into_iter().all(|peer| share.syncs(peer) == 1), "nothing new, nothing to do");
        volume.release(handle).await;
    });
}

#[test]
fn what_is_synced_is_durable_before_an_op_names_it() {
    run(async {
        let share = Share::new(3);
        let volume = share.volume(0);
        let ino = share.create(0, "file", policy("replicate:3"));
        store(&volume, ino, &noise(1, MIB)).await.unwrap();
        let content = || share.namespace().inode(ino).unwrap().content;
        let before = content();
        let handle = volume.open(ino, RW).await.unwrap().handle;
        write(&volume, handle, 0, &noise(2, MIB)).await.unwrap();
        while volume.dirty_bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The shards are put; making them durable takes a while.
        share.peers().into_iter().for_each(|peer| share.fault(peer, Fault::Slow(Duration::from_secs(1))));
        let soon = tokio::time::timeout(Duration::from_millis(500), volume.fsync(handle)).await;
        assert!(soon.is_err(), "the disks are at work");
        assert_eq!(content(), before, "an op that a disk may have kept names what no disk has");
        volume.fsync(handle).await.unwrap();
        assert_ne!(content(), before);
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
fn what_another_machine_committed_while_bytes_were_dirty_stays_around_them() {
    run(async {
        let share = Share::new(3);
        let (a, b) = (share.volume(0), share.volume(1));
        let ino = share.create(0, "file", None);
        store(&a, ino, b"both know this").await.unwrap();
        let mine = a.open(ino, RW).await.unwrap().handle;
        write(&a, mine, 0, b"A").await.unwrap();
        store(&b, ino, b"b's version, a longer one").await.unwrap();
        a.flush(mine).await.unwrap();
        assert_eq!(read_all(&b, ino).await.unwrap(), b"A's version, a longer one");
        a.truncate(ino, 3).await.unwrap();
        write(&a, mine, 5, b"A").await.unwrap();
        a.flush(mine).await.unwrap();
        a.release(mine).await;
        assert_eq!(read_all(&b, ino).await.unwrap(), b"A's\0\0A");
        let mine = a.open(ino, OpenFlags { truncate: true, ..RW }).await.unwrap().handle;
        write(&a, mine, 8, b"A").await.unwrap();
        store(&b, ino, b"b's version, a longer one").await.unwrap();
        a.flush(mine).await.unwrap();
        a.release(mine).await;
        assert_eq!(read_all(&b, ino).await.unwrap(), b"\0\0\0\0\0\0\0\0A");
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
        until("the last handle is closed", || volume.attributes(ino).err() == Some(Errno(libc::ENOENT))).await;
        assert!(volume.inner.files.lock().is_empty());
        let closed = share.create(0, "other", None);
        share.unlink(0, "other");
        volume.note_unlinked(closed);
        until("nobody has it open", || share.namespace().inode(closed).is_none()).await;
    });
}

#[test]
fn an_orphan_lives_while_another_machine_has_it_open() {
    run(async {
        let share = Share::new(3);
        let volume = share.volume(0);
        let ino = share.create(0, "file", None);
        share.open_elsewhere(ino, true);
        share.unlink(0, "file");
        volume.note_unlinked(ino);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(share.namespace().inode(ino).is_some());
        share.open_elsewhere(ino, false);
        until("the other machine closed it", || share.namespace().inode(ino).is_none()).await;
    });
}

async fn until(why: &str, mut done: impl FnMut() -> bool) {
    let reaped = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reaped).await.unwrap_or_else(|_| panic!("not reaped, though {why}"));
}

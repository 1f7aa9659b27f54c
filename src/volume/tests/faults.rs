//! Peers that die, are full, slow, or damage what they hold; and where blocks go.

use super::*;
use crate::id::PeerTag;

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
fn who_is_full_is_passed_over_the_writer_too_and_asked_only_where_no_other_is_left() {
    run(async {
        let share = Share::new(4);
        let peers = share.peers();
        share.fault(peers[0], Fault::Full);
        share.report_free(peers[0], group::ROOM - 1);
        let volume = share.volume(0);
        let data = noise(1, 3 * MIB);
        let ino = share.create(0, "file", policy("replicate:2"));
        store(&volume, ino, &data).await.unwrap();
        assert_eq!((share.puts(), share.shards(peers[0])), (2 * 3, 0), "nobody is asked in vain");
        assert_eq!(share.namespace().groups().count(), 1);
        // Who got full since holds what it held: the same content needs no other place.
        let held: Vec<PeerTag> = peers.iter().copied().filter(|peer| share.shards(*peer) > 0).collect();
        share.report_free(held[0], 0);
        let again = share.create(0, "again", policy("replicate:2"));
        store(&volume, again, &data).await.unwrap();
        assert_eq!(share.puts(), 2 * 3);
        // All say that they are full, which is no longer true of three.
        peers.iter().for_each(|peer| share.report_free(*peer, 0));
        let other = share.create(0, "other", policy("replicate:2"));
        store(&volume, other, &noise(2, MIB)).await.unwrap();
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

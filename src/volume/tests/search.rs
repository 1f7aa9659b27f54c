//! Shards that are not where the records say, and are found all the same.

use super::*;
use crate::group::{Outcome, Work};
use crate::id::PeerTag;
use crate::namespace::Change;

/// A share whose peers search as the real ones do.
fn searching(peers: u8) -> Share {
    let share = Share::new(peers);
    share.search_by(super::asking::ask_around);
    share
}

#[test]
fn a_peer_whose_records_are_out_of_date_reads_what_has_moved() {
    run(async {
        let share = searching(9);
        let ino = share.create(0, "file", policy("rs:4+2"));
        let data = noise(5, 3 * MIB + 9000);
        store(&share.volume(0), ino, &data).await.unwrap();
        let peers = share.peers();
        let (group, seats): (_, Vec<PeerTag>) = {
            let namespace = share.namespace();
            let (id, group) = namespace.groups().next().unwrap();
            (id, group.slots.iter().map(|slot| slot[0].peer).collect())
        };
        let outsiders: Vec<usize> = (0..9).filter(|n| !seats.contains(&peers[*n])).collect();
        let reader = outsiders[0];
        // It hears of nothing from here on. Three slots move meanwhile, and those who had them die.
        share.freeze(peers[reader]);
        let new = [1, 2, 2].map(|at: usize| peers[outsiders[at]]);
        for (slot, recruit) in (0u8..).zip(new) {
            let leader = peers.iter().position(|peer| *peer == seats[5]).unwrap();
            let work = Work::Fill { group, seats: vec![(slot, recruit)] };
            assert_eq!(share.volume(leader).work(&work).await, Outcome::Done { filled: vec![(slot, recruit)] });
            let (peer, old) = (recruit, seats[usize::from(slot)]);
            share.change(leader, vec![Change::Seat { group, slot, peer }]);
            share.fault(old, Fault::Dead);
        }
        assert!(read_all(&share.volume(reader), ino).await.unwrap() == data);
        assert!(share.searches() > 0);
        let searches = share.searches();
        assert!(read_all(&share.volume(outsiders[1]), ino).await.unwrap() == data);
        assert_eq!(share.searches(), searches, "who is up to date need not search");
    });
}

#[test]
fn shards_that_no_record_leads_to_are_found_by_a_search() {
    run(async {
        for kept in ["rs:4+2", "replicate:2"] {
            let share = searching(9);
            let ino = share.create(0, "file", policy(kept));
            let data = noise(3, 2 * MIB + 9000);
            store(&share.volume(0), ino, &data).await.unwrap();
            let peers = share.peers();
            let (seated, others): (Vec<_>, Vec<_>) = peers.iter().copied().partition(|peer| share.shards(*peer) > 0);
            let reader = peers.iter().position(|peer| others.contains(peer)).unwrap();
            assert!(read_all(&share.volume(reader), ino).await.unwrap() == data);
            assert_eq!(share.searches(), 0, "nobody searches for what is where it should be");
            let mut far = others.into_iter().cycle();
            for peer in &seated {
                share.carry_off(*peer, far.next().unwrap());
            }
            for n in [reader, (reader + 1) % 9] {
                assert!(read_all(&share.volume(n), ino).await.unwrap() == data, "{kept} by {n}");
            }
            assert!(share.searches() > 0);
        }
    });
}

#[test]
fn a_search_helps_before_silent_participants_have_used_up_the_deadline() {
    run(async {
        let share = searching(6);
        let ino = share.create(0, "file", policy("replicate:2"));
        let data = noise(4, MIB);
        store(&share.volume(0), ino, &data).await.unwrap();
        let holder = share.peers().into_iter().find(|peer| share.shards(*peer) > 0).unwrap();
        let seated: Vec<_> = share.peers().into_iter().filter(|peer| share.shards(*peer) > 0).collect();
        let free: Vec<_> = share.peers().into_iter().filter(|peer| !seated.contains(peer)).collect();
        share.carry_off(holder, free[0]);
        seated.iter().for_each(|peer| share.fault(*peer, Fault::Silent));
        let reader = share.peers().iter().position(|peer| *peer == free[1]).unwrap();
        assert!(read_all(&share.volume(reader), ino).await.unwrap() == data);
    });
}

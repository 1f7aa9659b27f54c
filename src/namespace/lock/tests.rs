//! The lock table against a model that keeps one entry a byte.

use super::*;
use proptest::prelude::*;

const FILE: Ino = Ino(7);
const BYTES: u64 = 12;

fn owner(number: u64) -> LockOwner {
    LockOwner { peer: PeerTag(1), number }
}

fn lock(owner: u64, kind: LockKind, first: u64, last: u64) -> Lock {
    Lock { owner: self::owner(owner), kind, first, last, pid: owner as u32 }
}

#[derive(Clone, Debug)]
enum Step {
    Take(u64, LockKind, u64, u64),
    Unlock(u64, u64, u64),
    Release(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0..BYTES, 0..BYTES).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let kind = prop_oneof![Just(LockKind::Shared), Just(LockKind::Exclusive)];
    prop_oneof![
        6 => (0..4u64, kind, range.clone()).prop_map(|(owner, kind, (a, b))| Step::Take(owner, kind, a, b)),
        3 => (0..4u64, range).prop_map(|(owner, (a, b))| Step::Unlock(owner, a, b)),
        1 => (0..4u64).prop_map(Step::Release),
    ]
}

#[derive(Default)]
struct Model {
    bytes: Vec<BTreeMap<u64, LockKind>>,
}

impl Model {
    fn take(&mut self, owner: u64, kind: LockKind, first: u64, last: u64) -> bool {
        let free = self.bytes[first as usize..=last as usize].iter().all(|byte| {
            byte.iter().all(|(other, held)| *other == owner || (*held == LockKind::Shared && kind == LockKind::Shared))
        });
        if free {
            for byte in &mut self.bytes[first as usize..=last as usize] {
                byte.insert(owner, kind);
            }
        }
        free
    }

    fn unlock(&mut self, owner: u64, first: u64, last: u64) {
        for byte in &mut self.bytes[first as usize..=last as usize] {
            byte.remove(&owner);
        }
    }
}

proptest! {
    #[test]
    fn ranges_split_and_merge_as_single_bytes_would(steps in prop::collection::vec(step(), 1..60)) {
        let mut table = LockTable::default();
        let mut model = Model { bytes: vec![BTreeMap::new(); BYTES as usize] };
        for step in steps {
            match step {
                Step::Take(owner, kind, first, last) => {
                    let taken = table.take(FILE, lock(owner, kind, first, last)).is_ok();
                    prop_assert_eq!(taken, model.take(owner, kind, first, last));
                }
                Step::Unlock(owner, first, last) => {
                    table.unlock(FILE, self::owner(owner), first, last);
                    model.unlock(owner, first, last);
                }
                Step::Release(owner) => {
                    table.release(FILE, self::owner(owner));
                    model.unlock(owner, 0, BYTES - 1);
                }
            }
            let mut bytes = vec![BTreeMap::new(); BYTES as usize];
            for held in table.held(FILE) {
                for byte in held.first..=held.last {
                    prop_assert!(bytes[byte as usize].insert(held.owner.number, held.kind).is_none());
                }
                for other in table.held(FILE) {
                    let mergeable = other.owner == held.owner && other.kind == held.kind && held.last + 1 == other.first;
                    prop_assert!(!mergeable, "{:?} and {:?} are one", held, other);
                }
            }
            prop_assert_eq!(&bytes, &model.bytes);
        }
    }
}

#[test]
fn whole_file_locks_reach_the_last_byte() {
    let mut table = LockTable::default();
    let whole = |owner, kind| lock(owner, kind, 0, i64::MAX as u64);
    table.take(FILE, whole(1, LockKind::Exclusive)).unwrap();
    assert_eq!(table.take(FILE, whole(2, LockKind::Shared)), Err(LockError::Held));
    assert_eq!(table.conflict(FILE, &lock(2, LockKind::Shared, u64::MAX >> 1, u64::MAX >> 1)).unwrap().owner.number, 1);
    table.release(FILE, self::owner(1));
    table.take(FILE, whole(2, LockKind::Shared)).unwrap();
    assert!(table.files.len() == 1);
    table.release(FILE, self::owner(2));
    assert!(table.files.is_empty(), "a file without locks is forgotten");
}

#[test]
fn waiters_are_granted_in_the_order_they_came() {
    let mut table = LockTable::default();
    table.take(FILE, lock(1, LockKind::Exclusive, 0, 9)).unwrap();
    let wait = |table: &mut LockTable, owner, kind| match table.ask(FILE, lock(owner, kind, 0, 9)).unwrap().0 {
        Asked::Waiting(id) => id,
        Asked::Granted => panic!("granted to {owner} against an exclusive lock"),
    };
    let second = wait(&mut table, 2, LockKind::Shared);
    let third = wait(&mut table, 3, LockKind::Exclusive);
    let fourth = wait(&mut table, 4, LockKind::Shared);
    assert_eq!(table.release(FILE, self::owner(1)), vec![second, fourth]);
    assert_eq!(table.release(FILE, self::owner(2)), vec![]);
    assert_eq!(table.release(FILE, self::owner(4)), vec![third]);
    assert!(!table.cancel(third), "a granted request cannot be cancelled");
}

#[test]
fn a_circle_of_waiters_is_refused() {
    let mut table = LockTable::default();
    table.take(FILE, lock(1, LockKind::Exclusive, 0, 0)).unwrap();
    table.take(FILE, lock(2, LockKind::Exclusive, 1, 1)).unwrap();
    table.take(Ino(8), lock(3, LockKind::Exclusive, 0, 0)).unwrap();
    table.ask(FILE, lock(1, LockKind::Exclusive, 1, 1)).unwrap();
    table.ask(Ino(8), lock(2, LockKind::Shared, 0, 0)).unwrap();
    assert_eq!(table.ask(FILE, lock(3, LockKind::Shared, 0, 0)), Err(LockError::Deadlock));
}

#[test]
fn locks_of_memory_are_shared_on_one_machine_only() {
    let mut table = LockTable::default();
    let of = |peer: u32, number, kind| Lock { owner: LockOwner { peer: PeerTag(peer), number }, ..lock(0, kind, 0, 9) };
    table.take(FILE, of(1, 1, LockKind::SharedHere)).unwrap();
    table.take(FILE, of(1, 2, LockKind::SharedHere)).unwrap();
    assert_eq!(table.take(FILE, of(1, 3, LockKind::Exclusive)), Err(LockError::Held));
    assert_eq!(table.take(FILE, of(1, 3, LockKind::Shared)), Err(LockError::Held));
    assert_eq!(table.take(FILE, of(2, 1, LockKind::SharedHere)), Err(LockError::Held));
    table.release(FILE, of(1, 1, LockKind::Shared).owner);
    assert_eq!(table.take(FILE, of(2, 1, LockKind::SharedHere)), Err(LockError::Held), "one is left");
    table.release(FILE, of(1, 2, LockKind::Shared).owner);
    table.take(FILE, of(2, 1, LockKind::SharedHere)).unwrap();
}

//! What users do to the things they share, and what that is to be held against: places that hold one value each (the
//! names of directories; what a file is made of), and the locks of a file.

use super::order::Step;
use crate::namespace::LockOwner;
use std::collections::BTreeMap;

/// A value that was found at some places and what it was replaced by, all at once; a look, where that is the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Put(pub Vec<(usize, u64, u64)>);

impl Put {
    /// What was found at a place, and left there.
    pub fn look(place: usize, found: u64) -> Put {
        Put(vec![(place, found, found)])
    }
}

impl Step for Put {
    type State = Vec<u64>;

    fn done(&self, state: &Vec<u64>) -> Option<Vec<u64>> {
        let fits = |(place, found, _): &(usize, u64, u64)| state.get(*place) == Some(found);
        self.0.iter().all(fits).then(|| {
            let mut state = state.clone();
            self.0.iter().for_each(|(place, _, left)| state[*place] = *left);
            state
        })
    }

    fn is_look(&self) -> bool {
        self.0.iter().all(|(_, found, left)| found == left)
    }
}

/// What somebody does to the locks of a file, each of which is one of all of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Locking {
    Take {
        owner: LockOwner,
        exclusive: bool,
    },
    Free {
        owner: LockOwner,
    },
    /// The lock was refused, for others held some.
    Refused {
        owner: LockOwner,
        exclusive: bool,
    },
}

/// Who holds a lock of a file, and whether that is an exclusive one.
pub(super) type Holders = BTreeMap<LockOwner, bool>;

/// Whether a lock would be in somebody's way.
pub(super) fn conflicts(holders: &Holders, owner: LockOwner, exclusive: bool) -> bool {
    holders.iter().any(|(other, theirs)| *other != owner && (exclusive || *theirs))
}

impl Step for Locking {
    type State = Holders;

    fn done(&self, state: &Holders) -> Option<Holders> {
        let mut after = state.clone();
        match *self {
            Locking::Take { owner, exclusive } => {
                after.insert(owner, exclusive);
                (!conflicts(state, owner, exclusive)).then_some(after)
            }
            Locking::Free { owner } => after.remove(&owner).map(|_| after),
            Locking::Refused { owner, exclusive } => conflicts(state, owner, exclusive).then_some(after),
        }
    }

    fn is_look(&self) -> bool {
        matches!(self, Locking::Refused { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::super::order::{Record, verdict};
    use super::*;
    use crate::id::PeerTag;
    use crate::time::Instant;

    fn record<S>((step, called, returned): (S, u64, u64)) -> Record<S> {
        let returned = (returned > 0).then_some(Instant(returned));
        Record { by: 0, step, called: Instant(called), returned }
    }

    fn names(history: Vec<(Put, u64, u64)>) -> Option<usize> {
        verdict(&vec![0; 2], &history.into_iter().map(record).collect::<Vec<_>>()).place()
    }

    #[test]
    fn a_name_has_one_maker_and_one_remover() {
        let (create, other) = (Put(vec![(0, 0, 7)]), Put(vec![(0, 0, 8)]));
        assert_eq!(names(vec![(create.clone(), 1, 4), (Put::look(0, 7), 2, 3)]), None, "one made it, one was refused");
        assert!(names(vec![(create.clone(), 1, 4), (other.clone(), 2, 3)]).is_some());
        let remove = Put(vec![(0, 7, 0)]);
        assert_eq!(names(vec![(create.clone(), 1, 4), (remove.clone(), 2, 6), (other, 5, 7)]), None);
        assert!(names(vec![(create, 1, 2), (remove.clone(), 3, 5), (remove, 4, 6)]).is_some());
    }

    #[test]
    fn a_move_takes_the_one_name_and_gives_the_other_at_once() {
        let (create, over) = (Put(vec![(0, 0, 7)]), Put(vec![(1, 0, 8)]));
        let rename = Put(vec![(0, 7, 0), (1, 8, 7)]);
        let begin = [(create, 1, 2), (over, 1, 2), (rename, 3, 6)];
        let then = |looks: &[(Put, u64, u64)]| names(begin.iter().chain(looks).cloned().collect());
        assert_eq!(then(&[(Put::look(1, 8), 4, 5), (Put::look(0, 0), 4, 5)]), None);
        assert_eq!(then(&[(Put::look(1, 7), 7, 8), (Put::look(0, 0), 7, 8)]), None);
        assert_eq!(then(&[(Put::look(1, 0), 4, 5)]), Some(3), "a name that is replaced is never missing");
        assert_eq!(then(&[(Put::look(0, 7), 7, 8)]), Some(3));
    }

    fn locks(history: &[(Locking, u64, u64)]) -> Option<usize> {
        verdict(&Holders::new(), &history.iter().copied().map(record).collect::<Vec<_>>()).place()
    }

    #[test]
    fn locks_exclude_one_another_as_they_should() {
        let owner = |number| LockOwner { peer: PeerTag(1), number };
        let take = |number, exclusive| Locking::Take { owner: owner(number), exclusive };
        let free = |number| Locking::Free { owner: owner(number) };
        let refused = |number, exclusive| Locking::Refused { owner: owner(number), exclusive };
        assert_eq!(locks(&[(take(1, false), 1, 2), (take(2, false), 3, 4)]), None);
        assert_eq!(locks(&[(take(1, true), 1, 2), (take(2, false), 3, 4)]), Some(1));
        assert_eq!(locks(&[(take(1, false), 1, 2), (take(2, true), 3, 4)]), Some(1));
        // Who waits has it when it is free, though that was not answered yet.
        assert_eq!(locks(&[(take(1, true), 1, 2), (take(2, true), 1, 5), (free(1), 3, 7)]), None);
        assert!(locks(&[(take(1, true), 1, 2), (take(2, true), 1, 5), (free(1), 6, 7)]).is_some());
        assert_eq!(locks(&[(take(1, true), 1, 2), (refused(2, false), 3, 4)]), None);
        assert_eq!(locks(&[(take(1, false), 1, 2), (refused(2, false), 3, 4)]), Some(1), "nothing was in its way");
        assert_eq!(locks(&[(take(1, false), 1, 2), (refused(2, true), 3, 4), (free(1), 5, 6)]), None);
        assert_eq!(locks(&[(take(1, true), 1, 2), (free(1), 3, 4), (refused(2, true), 5, 6)]), Some(2));
        // The lock of a machine that died is free at some time after.
        assert_eq!(
            locks(&[(take(1, true), 1, 2), (free(1), 3, 0), (refused(2, true), 4, 5), (take(2, true), 6, 9)]),
            None
        );
        assert_eq!(locks(&[(take(1, true), 1, 2), (take(2, true), 6, 9), (free(1), 10, 0)]), Some(1));
    }
}

//! Whether what several did with one thing at the same time can have been done one after another, each at some moment
//! between its call and its return: linearizability (Herlihy and Wing, "Linearizability: A Correctness Condition for
//! Concurrent Objects", 1990). The search for such an order is Wing and Gong's ("Testing and Verifying Concurrent
//! Objects", 1993), which tries each step that may come next, with Lowe's memory of what was tried before ("Testing for
//! Linearizability", 2017).
//!
//! What only **looks** (a look at a name, an attempt that is refused) is held to less, as a peer looks at what it has
//! itself: it must see every change that had returned when it was called, and none that was called after it returned; but
//! of two looks at a change that is just being made, the later may see what was before it.

use crate::time::Instant;
use std::collections::BTreeSet;

/// Something that can be done with a thing.
pub(super) trait Step: PartialEq {
    type State: Clone + Ord;

    /// How the thing is afterwards; `None`: with the thing so, this cannot be done, or not with this result.
    fn done(&self, state: &Self::State) -> Option<Self::State>;

    /// It leaves everything as it is.
    fn is_look(&self) -> bool;
}

/// What somebody did.
#[derive(Clone, Debug)]
pub(super) struct Record<S> {
    /// The machine on which.
    pub by: usize,
    pub step: S,
    pub called: Instant,
    /// `None`: without an answer. It is done at any later time, or never.
    pub returned: Option<Instant>,
}

/// The most configurations that are looked at: a history that takes more is too tangled to be judged.
const TRIES: usize = 200_000;

/// What was found out about a history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Some order explains all of it.
    Explained,
    /// None does: no way leads past the step at this place.
    Unexplained(usize),
    /// There are more ways than can be looked at.
    Tangled,
}

#[cfg(test)]
impl Verdict {
    /// The place of the step that is not explained.
    pub fn place(self) -> Option<usize> {
        match self {
            Verdict::Explained => None,
            Verdict::Unexplained(at) => Some(at),
            Verdict::Tangled => panic!("it is too tangled"),
        }
    }
}

/// How far one order has come.
struct Config<State> {
    state: State,
    /// All before this one are done, of those with an answer, in the order of their calls.
    first: usize,
    /// Those after it that are done, too.
    beyond: BTreeSet<usize>,
    /// Those without an answer that are done.
    unanswered: BTreeSet<usize>,
}

/// Whether some order explains all of a history, with the thing so at the beginning.
pub(super) fn verdict<S: Step>(begin: &S::State, history: &[Record<S>]) -> Verdict {
    let mut order: Vec<usize> = (0..history.len()).collect();
    order.sort_by_key(|at| history[*at].called);
    let (answered, unanswered): (Vec<usize>, Vec<usize>) =
        order.into_iter().partition(|at| history[*at].returned.is_some());
    let answered: Vec<&Record<S>> = answered.iter().map(|at| &history[*at]).collect();
    let unanswered: Vec<&Record<S>> = unanswered.iter().map(|at| &history[*at]).collect();
    let mut left =
        vec![Config { state: begin.clone(), first: 0, beyond: BTreeSet::new(), unanswered: BTreeSet::new() }];
    let (mut tried, mut furthest) = (BTreeSet::new(), (0, None));
    while let Some(mut config) = left.pop() {
        let next = config.look(&answered);
        if config.first == answered.len() {
            return Verdict::Explained;
        }
        let key = (config.first, config.beyond.clone(), config.unanswered.clone(), config.state.clone());
        if !tried.insert(key) {
            continue;
        }
        if tried.len() > TRIES {
            return Verdict::Tangled;
        }
        let done = config.first + config.beyond.len();
        if furthest.1.is_none() || done > furthest.0 {
            furthest = (done, config.stuck(&answered));
        }
        // The one that is tried first comes last: of those with an answer, the one that had it first.
        let left_undone = |at: &usize| !config.unanswered.contains(at);
        for at in (0..unanswered.len()).filter(left_undone) {
            let record = unanswered[at];
            // Of several that are alike, it makes no difference which: the first.
            if record.called <= next
                && !(0..at).filter(left_undone).any(|before| unanswered[before].step == record.step)
                && let Some(state) = record.step.done(&config.state)
            {
                let mut with = config.unanswered.clone();
                with.insert(at);
                left.push(Config { state, first: config.first, beyond: config.beyond.clone(), unanswered: with });
            }
        }
        let mut candidates: Vec<usize> = (config.first..answered.len())
            .take_while(|at| answered[*at].called <= next)
            .filter(|at| !config.beyond.contains(at) && !answered[*at].step.is_look())
            .collect();
        candidates.sort_by_key(|at| std::cmp::Reverse(answered[*at].returned));
        for at in candidates {
            if let Some(state) = answered[at].step.done(&config.state) {
                let mut beyond = config.beyond.clone();
                beyond.insert(at);
                left.push(Config { state, first: config.first, beyond, unanswered: config.unanswered.clone() });
            }
        }
    }
    let stuck = furthest.1.map(|at| answered[at]);
    let place = history.iter().position(|record| stuck.is_some_and(|stuck| std::ptr::eq(record, stuck)));
    place.map_or(Verdict::Explained, Verdict::Unexplained)
}

impl<State: Clone> Config<State> {
    /// Looks that see what there is now are done: that is in nobody's way. Until when a change must have been called that
    /// comes next.
    fn look<S: Step<State = State>>(&mut self, answered: &[&Record<S>]) -> Instant {
        let latest = Instant(u64::MAX);
        // Until when what comes next must have been called: a look comes after changes that had returned by its call, and a
        // change after everything that had.
        let (mut look, mut change) = (latest, latest);
        for (at, record) in answered.iter().enumerate().skip(self.first) {
            if record.called > look {
                break;
            }
            if self.beyond.contains(&at) {
                continue;
            }
            let returned = record.returned.unwrap_or(latest);
            if !record.step.is_look() {
                (look, change) = (look.min(returned), change.min(returned));
            } else if record.step.done(&self.state).is_some() {
                self.beyond.insert(at);
            } else {
                change = change.min(returned);
            }
        }
        while self.beyond.remove(&self.first) {
            self.first += 1;
        }
        change
    }

    /// Of what is not done, what had its answer first.
    fn stuck<S: Step<State = State>>(&self, answered: &[&Record<S>]) -> Option<usize> {
        (self.first..answered.len()).filter(|at| !self.beyond.contains(at)).min_by_key(|at| answered[*at].returned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register: what is there is taken for something else.
    #[derive(Clone, Copy, PartialEq, Debug)]
    struct Swap(u8, u8);

    impl Step for Swap {
        type State = u8;

        fn done(&self, state: &u8) -> Option<u8> {
            (*state == self.0).then_some(self.1)
        }

        fn is_look(&self) -> bool {
            self.0 == self.1
        }
    }

    /// Steps with the times of call and return; 0 for a return that did not come.
    fn judged(history: &[(Swap, u64, u64)]) -> Option<usize> {
        let record = |(step, called, returned): &(Swap, u64, u64)| Record {
            by: 0,
            step: *step,
            called: Instant(*called),
            returned: (*returned > 0).then_some(Instant(*returned)),
        };
        verdict(&0, &history.iter().map(record).collect::<Vec<_>>()).place()
    }

    #[test]
    fn one_after_another_each_sees_what_the_last_one_left() {
        assert_eq!(judged(&[]), None);
        assert_eq!(judged(&[(Swap(0, 1), 1, 2), (Swap(1, 2), 3, 4), (Swap(2, 2), 5, 6)]), None);
        assert_eq!(judged(&[(Swap(0, 1), 1, 2), (Swap(2, 3), 3, 4)]), Some(1), "nothing made it 2");
        assert_eq!(judged(&[(Swap(1, 2), 1, 2), (Swap(0, 1), 3, 4)]), Some(0), "what comes after explains nothing");
    }

    #[test]
    fn those_at_the_same_time_come_in_any_order_that_fits_all() {
        let (a, b, c) = (Swap(0, 1), Swap(1, 2), Swap(2, 3));
        assert_eq!(judged(&[(c, 1, 9), (b, 2, 8), (a, 3, 7)]), None);
        assert_eq!(judged(&[(c, 1, 9), (b, 2, 4), (a, 5, 7)]), Some(1), "b had returned before a was called");
        // The first fit leads nowhere: of two ways from 0 only one goes on.
        assert_eq!(judged(&[(Swap(0, 5), 1, 4), (Swap(5, 0), 1, 5), (Swap(0, 1), 1, 3), (Swap(1, 7), 6, 7)]), None);
    }

    #[test]
    fn two_that_both_won_are_told() {
        assert!(judged(&[(Swap(0, 1), 1, 5), (Swap(0, 2), 2, 6)]).is_some());
        assert_eq!(judged(&[(Swap(0, 1), 1, 5), (Swap(0, 2), 2, 6), (Swap(1, 0), 3, 4)]), None, "one was taken back");
    }

    #[test]
    fn what_had_no_answer_was_done_later_or_never() {
        assert_eq!(judged(&[(Swap(0, 1), 1, 0), (Swap(0, 0), 2, 3), (Swap(1, 1), 50, 51)]), None);
        assert_eq!(judged(&[(Swap(0, 1), 1, 0), (Swap(0, 2), 2, 3)]), None);
        assert_eq!(judged(&[(Swap(0, 1), 9, 0), (Swap(1, 1), 2, 3)]), Some(1), "not before it was called");
        assert!(judged(&[(Swap(0, 1), 1, 0), (Swap(1, 2), 2, 3), (Swap(1, 1), 4, 5)]).is_some(), "not twice");
        // Not even where a refusal had returned before it was called.
        assert_eq!(judged(&[(Swap(1, 1), 1, 2), (Swap(0, 1), 3, 0)]), Some(0));
    }

    #[test]
    fn looks_see_all_that_had_returned_and_nothing_that_was_not_called() {
        let change = (Swap(0, 1), 10, 20);
        for (look, fits) in [
            ((Swap(0, 0), 1, 2), true),
            ((Swap(1, 1), 1, 2), false),
            ((Swap(0, 0), 12, 13), true),
            ((Swap(1, 1), 12, 13), true),
            ((Swap(0, 0), 21, 22), false),
            ((Swap(1, 1), 21, 22), true),
        ] {
            assert_eq!(judged(&[change, look]).is_none(), fits, "{look:?}");
        }
        // Of two looks at what is just being made, the later may see what was before it...
        assert_eq!(judged(&[change, (Swap(1, 1), 11, 12), (Swap(0, 0), 13, 14)]), None);
        // ...but not once somebody has built on that.
        assert!(judged(&[change, (Swap(1, 2), 11, 12), (Swap(0, 0), 13, 14)]).is_some());
        // What is called after a look that saw a change comes after that change.
        assert!(judged(&[change, (Swap(1, 1), 11, 12), (Swap(0, 5), 13, 14), (Swap(5, 0), 15, 16)]).is_some());
    }

    #[test]
    fn a_long_history_takes_no_longer_than_its_length() {
        let mut history: Vec<(Swap, u64, u64)> = Vec::new();
        for at in 0..2000u64 {
            let (from, to) = ((at % 200) as u8, ((at + 1) % 200) as u8);
            history.push((Swap(from, to), at * 10 + 1, at * 10 + 15));
            history.push((Swap(from, from), at * 10 + 1, at * 10 + 12));
        }
        // Some of which nobody knows whether they were done.
        history.extend((0..10).map(|at| (Swap(250, 251), at * 100, 0)));
        assert_eq!(judged(&history), None);
        history.push((Swap(0, 0), 3, 4));
        assert_eq!(judged(&history), None);
        history.push((Swap(7, 7), 3, 4));
        assert_eq!(judged(&history), Some(history.len() - 1));
    }

    #[test]
    fn what_is_alike_tangles_nothing() {
        let record = |step: (u8, u8), called, returned: u64| Record {
            by: 0,
            step: Swap(step.0, step.1),
            called: Instant(called),
            returned: (returned > 0).then_some(Instant(returned)),
        };
        // Any of them may be done now and then, or never, and nothing explains the look.
        let mut history: Vec<Record<Swap>> = Vec::new();
        for n in 0..60 {
            history.push(record((0, 1), n, 0));
            history.push(record((1, 0), n, 0));
        }
        history.push(record((2, 2), 100, 101));
        assert_eq!(verdict(&0, &history), Verdict::Unexplained(history.len() - 1));
        // Where each is another, there are more orders than anybody looks at.
        let mut history: Vec<Record<Swap>> = (3..40).map(|n| record((0, n), 0, 0)).collect();
        history.extend((3..40).map(|n| record((n, 0), 0, 0)));
        history.push(record((2, 2), 100, 101));
        assert_eq!(verdict(&0, &history), Verdict::Tangled);
    }
}

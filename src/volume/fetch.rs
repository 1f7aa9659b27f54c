//! Fetching a block: k of its shards from whoever has them soonest, decoded and checked against its name. Its group says
//! who that is; where that does not lead to k shards, a search may.

use super::Volume;
use super::ports::{Errno, Shard, ShardError, ShardId};
use crate::id::{BlockName, GroupId, PeerTag};
use crate::namespace::NewBlock;
use crate::policy::Geometry;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Until the participants are asked once more, when too few answered.
const AGAIN: Duration = Duration::from_millis(250);

/// How soon a peer that lives and was called dead, as happens on a machine with too much to do, has objected and is back.
const BACK: Duration = Duration::from_secs(4);

/// The longest a hedge grows: where everybody is slow, asking more of them makes it slower.
const SLOWEST_HEDGE: Duration = Duration::from_secs(1);

/// How many sets of shards are tried to find the damaged ones.
const SETS: usize = 4096;

/// After this part of the read deadline without a block, others than the participants are asked as well.
const PATIENT_PART: u32 = 4;

/// A block as the namespace, or a search, describes it now, and who is asked for it, in this order.
pub(super) struct Wanted {
    pub name: BlockName,
    pub group: GroupId,
    pub geometry: Geometry,
    pub len: u32,
    pub sources: VecDeque<(u8, PeerTag)>,
}

impl Wanted {
    fn shard(&self, index: u8) -> ShardId {
        ShardId { block: self.name, geometry: self.geometry, index }
    }
}

/// Who was asked, and what became of it.
pub(super) type Asked = BTreeMap<(u8, PeerTag), &'static str>;

/// Shards that came in, and whose they are.
type Held = Vec<(u8, PeerTag, Bytes)>;

impl Volume {
    /// Gets a block from its group's participants, within the read deadline.
    pub(super) async fn fetch(&self, block: NewBlock) -> Result<Bytes, Errno> {
        self.inner.pace.people();
        self.fetch_patiently(block, self.inner.settings.hedge).await
    }

    /// Gets a block, asking one more participant whenever nothing comes for the time of a hedge.
    pub(super) async fn fetch_patiently(&self, block: NewBlock, hedge: Duration) -> Result<Bytes, Errno> {
        let patience = self.inner.settings.read_deadline;
        let deadline = Instant::now() + patience;
        let (mut asked, mut asked_elsewhere) = (Asked::new(), Asked::new());
        let given_up = Notify::new();
        let seated = async {
            let fetched = self.fetch_seated(block, hedge, deadline, &mut asked).await;
            if fetched.is_err() {
                given_up.notify_one();
            }
            fetched
        };
        let mut searched = false;
        let elsewhere = async {
            let _ = timeout(patience / PATIENT_PART, given_up.notified()).await;
            let found = self.fetch_elsewhere(block, hedge, deadline, &mut asked_elsewhere).await;
            searched = found.is_some();
            found
        };
        let fetched = first_of(seated, elsewhere).await;
        let place = || self.inner.control.namespace().block(&block.name).map_or(block.group, |known| known.group);
        match fetched {
            Ok(bytes) => {
                if searched {
                    tracing::warn!(block = %block.name, group = %place(), asked = told(&asked), found = told(&asked_elsewhere), "a block was found by a search: its group's participants did not give it");
                }
                Ok(bytes)
            }
            Err(why) => {
                tracing::error!(block = %block.name, group = %place(), asked = told(&asked), found = told(&asked_elsewhere), "a block cannot be read: {why}, and a search did not give it");
                Err(Errno(libc::EIO))
            }
        }
    }

    /// Gets a block from the participants of its group, or says why not.
    async fn fetch_seated(
        &self,
        block: NewBlock,
        hedge: Duration,
        deadline: Instant,
        asked: &mut Asked,
    ) -> Result<Bytes, &'static str> {
        let back = Instant::now() + BACK;
        loop {
            let Some(wanted) = self.wanted(block) else {
                // The op that says where it is comes from another peer than the one that named it here.
                if Instant::now() + AGAIN >= deadline {
                    return Err("the namespace does not know where it is");
                }
                sleep(AGAIN).await;
                continue;
            };
            match self.fetch_once(wanted, hedge, deadline, asked).await {
                Some(bytes) => return Ok(bytes),
                None if Instant::now() + AGAIN >= deadline => return Err("too few shards within the deadline"),
                // Whoever is dead or has lost its shard will not answer better the next time.
                None if !asked.iter().any(|((_, peer), fate)| {
                    *fate == SILENT && (self.inner.control.is_alive(*peer) || Instant::now() < back)
                }) =>
                {
                    return Err("too few shards are left");
                }
                None => sleep(AGAIN).await,
            }
        }
    }

    pub(super) fn wanted(&self, block: NewBlock) -> Option<Wanted> {
        let control = &self.inner.control;
        let (id, len, geometry, seats) = {
            let namespace = control.namespace();
            let place = namespace.block(&block.name).map(|known| (known.group, known.len));
            let (id, len) = place.unwrap_or((block.group, block.len));
            let group = namespace.group(id)?;
            let slots = group.slots.iter().zip(0u8..);
            let seats: Vec<(u8, PeerTag)> =
                slots.flat_map(|(slot, index)| slot.iter().map(move |seat| (index, seat.peer))).collect();
            (id, len, group.geometry, seats)
        };
        Some(Wanted { name: block.name, group: id, geometry, len, sources: self.soonest_first(seats) })
    }

    /// Who has which shard, in the order in which they are asked.
    pub(super) fn soonest_first(&self, mut sources: Vec<(u8, PeerTag)>) -> VecDeque<(u8, PeerTag)> {
        let control = &self.inner.control;
        let me = control.me();
        // Times within a factor of two count as equal: then data shards go first, which need no decoding.
        let pace = |peer: PeerTag| self.inner.network.latency_us(peer).max(256).ilog2();
        sources.sort_by_cached_key(|(index, peer)| {
            if *peer == me { (false, false, 0, *index) } else { (true, !control.is_alive(*peer), pace(*peer), *index) }
        });
        sources.into()
    }

    /// Asks those who may have shards, each once: the first k, then one more whenever one fails or time passes.
    pub(super) async fn fetch_once(
        &self,
        mut wanted: Wanted,
        hedge: Duration,
        deadline: Instant,
        asked: &mut Asked,
    ) -> Option<Bytes> {
        let late = |slowest: Duration| hedge.max(slowest * 3).min(SLOWEST_HEDGE.max(hedge));
        let need = usize::from(wanted.geometry.data);
        let mut held = Held::new();
        let mut asking: JoinSet<(u8, PeerTag, Result<Shard, ShardError>)> = JoinSet::new();
        let mut slowest = Duration::ZERO;
        let mut mismatch = false;
        let mut sets = 0;
        let mut in_flight: Vec<u8> = Vec::new();
        let mut more = need;
        let mut hedge_at = Instant::now();
        loop {
            while more > 0 {
                let Some((index, peer)) = next(&mut wanted.sources, &held, &in_flight) else { break };
                more -= 1;
                asked.insert((index, peer), SILENT);
                in_flight.push(index);
                if peer != self.inner.control.me() {
                    slowest = slowest.max(Duration::from_micros(self.inner.network.latency_us(peer)));
                }
                hedge_at = Instant::now() + late(slowest);
                let volume = self.clone();
                let id = wanted.shard(index);
                asking.spawn(async move {
                    let inner = &volume.inner;
                    let local = peer == inner.control.me();
                    (index, peer, if local { inner.store.get(id).await } else { inner.network.get(peer, id).await })
                });
            }
            more = 0;
            tokio::select! {
                biased;
                joined = asking.join_next() => match joined {
                    None => return None,
                    Some(Err(_)) => more = 1,
                    Some(Ok((index, peer, got))) => {
                        in_flight.retain(|one| *one != index);
                        // Whoever else is late is late from here on: on a busy machine all of them are at first.
                        hedge_at = Instant::now() + late(slowest);
                        let fate = judge(&wanted, index, &got);
                        asked.insert((index, peer), fate);
                        let shard = match got {
                            Ok(shard) => shard,
                            Err(why) => {
                                self.report(peer, wanted.shard(index), &why);
                                more = 1;
                                continue;
                            }
                        };
                        if fate != HERE {
                            tracing::warn!(block = %wanted.name, group = %wanted.group, %peer, index, "a shard is not what its group says: {fate}");
                            more = 1;
                            continue;
                        }
                        if held.iter().any(|(one, ..)| *one == index) {
                            more = 1;
                            continue;
                        }
                        held.push((index, peer, shard.bytes));
                        if held.len() >= need {
                            if let Some(block) = self.solve(&wanted, &held, &mut sets).await {
                                if mismatch {
                                    self.name_liars(&wanted, &held, &block);
                                }
                                return Some(block);
                            }
                            mismatch = true;
                            more = wanted.sources.len();
                        }
                    }
                },
                () = sleep_until(hedge_at), if !wanted.sources.is_empty() => more = 1,
                () = sleep_until(deadline) => return None,
            }
        }
    }

    /// The block, if some k of the shards, the newest among them, decode to what the name says.
    async fn solve(&self, wanted: &Wanted, held: &Held, sets: &mut usize) -> Option<Bytes> {
        let need = usize::from(wanted.geometry.data);
        let newest = held.len() - 1;
        let (name, geometry, len) = (wanted.name, wanted.geometry, wanted.len);
        let shards: Vec<(u8, Bytes)> = held.iter().map(|(index, _, bytes)| (*index, bytes.clone())).collect();
        let left = SETS.saturating_sub(*sets);
        let volume = self.clone();
        let light = len <= 64 << 10 && held.len() == need;
        let (tried, block) = self
            .compute(light, move || {
                let mut tried = 0;
                for set in Sets::new(newest, need - 1).take(left) {
                    tried += 1;
                    let chosen = set.iter().chain(std::iter::once(&newest)).map(|at| shards[*at].clone()).collect();
                    let decoded = volume.inner.codec.decode(geometry, len, chosen);
                    if let Some(block) = decoded.ok().filter(|block| BlockName::of(block) == name) {
                        return (tried, Some(block));
                    }
                }
                (tried, None)
            })
            .await
            .ok()?;
        *sets += tried;
        if block.is_none() {
            tracing::warn!(block = %name, group = %wanted.group, shards = held.len(), "the shards do not give the block: one is damaged; trying others");
        }
        block
    }

    /// Says whose shards were wrong, now that the right ones are known.
    fn name_liars(&self, wanted: &Wanted, held: &Held, block: &Bytes) {
        let Ok(right) = self.inner.codec.encode(wanted.geometry, block) else { return };
        for (index, peer, bytes) in held {
            if right.get(usize::from(*index)) != Some(bytes) {
                tracing::error!(block = %wanted.name, group = %wanted.group, %peer, index, "a damaged shard was found and worked around");
                self.inner.control.suspect(*peer, wanted.shard(*index));
            }
        }
    }
}

/// What comes first of either, and when neither comes, why `seated` did not.
async fn first_of<T, E>(
    seated: impl Future<Output = Result<T, E>>,
    elsewhere: impl Future<Output = Option<T>>,
) -> Result<T, E> {
    let (mut seated, mut elsewhere) = (pin!(seated), pin!(elsewhere));
    tokio::select! {
        biased;
        got = &mut seated => match got {
            Ok(got) => Ok(got),
            Err(why) => elsewhere.await.ok_or(why),
        },
        got = &mut elsewhere => match got {
            Some(got) => Ok(got),
            None => seated.await,
        },
    }
}

/// Who was asked for which shard and what became of it, for the log.
fn told(asked: &Asked) -> String {
    let told = asked.iter().map(|((index, peer), fate)| format!("{peer} for {index}: {fate}"));
    told.collect::<Vec<_>>().join(", ")
}

const SILENT: &str = "no answer";
const HERE: &str = "there";

/// What an answer is worth.
fn judge(wanted: &Wanted, index: u8, got: &Result<Shard, ShardError>) -> &'static str {
    match got {
        Ok(shard) if shard.id != wanted.shard(index) => "another shard",
        Ok(shard) if shard.block_bytes != wanted.len => "a shard of a block of another length",
        Ok(shard) if shard.bytes.len() != wanted.geometry.shard_bytes(wanted.len as usize) => {
            "a shard of a wrong length"
        }
        Ok(_) => HERE,
        Err(ShardError::Missing { .. }) => "not there",
        Err(ShardError::Damaged { .. }) => "damaged",
        Err(ShardError::Unreachable { .. }) => SILENT,
        Err(ShardError::Full { .. } | ShardError::Disk(_)) => "its store failed",
    }
}

/// The next to ask: for a shard nobody is asked for, if there is one.
fn next(sources: &mut VecDeque<(u8, PeerTag)>, held: &Held, in_flight: &[u8]) -> Option<(u8, PeerTag)> {
    sources.retain(|(index, _)| held.iter().all(|(one, ..)| one != index));
    let fresh = sources.iter().position(|(index, _)| !in_flight.contains(index)).unwrap_or(0);
    sources.remove(fresh)
}

/// Every choice of `take` out of the first `of` numbers, ascending.
struct Sets {
    of: usize,
    set: Option<Vec<usize>>,
}

impl Sets {
    fn new(of: usize, take: usize) -> Sets {
        Sets { of, set: (take <= of).then(|| (0..take).collect()) }
    }
}

impl Iterator for Sets {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        let now = self.set.take()?;
        let mut after = now.clone();
        let grow = (0..after.len()).rev().find(|at| after[*at] < self.of - (after.len() - at));
        self.set = grow.map(|at| {
            let first = after[at] + 1;
            after[at..].iter_mut().zip(first..).for_each(|(slot, number)| *slot = number);
            after
        });
        Some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_comes_once() {
        let sets: Vec<_> = Sets::new(4, 2).collect();
        assert_eq!(sets, [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]);
        assert_eq!(Sets::new(3, 0).count(), 1);
        assert_eq!(Sets::new(18, 15).count(), 816);
        assert_eq!(Sets::new(2, 3).count(), 0);
    }
}

//! What the data path asks of the peer, and how it waits for the answers: each for so long at most.

use super::{Applicant, Host, steady};
use crate::id::{Author, BlockName, Ino, PeerTag};
use crate::namespace::{Change, Lock, LockRequest, Namespace, Naming, PeerRecord};
use crate::peer::{Event, Hindrance, Need};
use crate::time::WallTime;
use crate::volume::ports::{BoxFuture, Candidate, Control, Errno, Obtained, Pin, Planned, Refusal, ShardId};
use crate::wire::{LockOutcome, Request, Response, decode_inos, encode_inos};
use parking_lot::RwLockReadGuard;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// The longest a change waits for the other peers. Dead ones are found out within seconds and no longer waited
/// for, so running into this means a live peer that does not answer.
const SETTLE_DEADLINE: Duration = Duration::from_secs(30);

/// After which peers are asked again to keep something on stable storage.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How long a holder may take to note that its shard is suspected.
const SUSPECT_DEADLINE: Duration = Duration::from_secs(3);

/// The longest a search is waited for: three rounds, on a very busy machine.
const SEARCH_DEADLINE: Duration = Duration::from_secs(5);

/// The longest somebody waits for a lease: its holder stores what is unsaved first, or is found dead and deposed.
const LEASE_DEADLINE: Duration = Duration::from_secs(20);

/// How long a peer may take to say which files it has open.
const OPEN_DEADLINE: Duration = Duration::from_secs(3);

impl Control for Host {
    fn me(&self) -> PeerTag {
        self.me
    }

    fn author(&self) -> Author {
        Author::new(self.me, self.epoch.load(Ordering::Relaxed))
    }

    fn namespace(&self) -> RwLockReadGuard<'_, Namespace> {
        self.namespace.read()
    }

    fn change(&self, plan: &mut dyn FnMut(&Namespace) -> Result<Vec<Change>, Errno>) -> Result<u64, Errno> {
        let mut core = self.core.lock();
        let changes = plan(&self.namespace.read())?;
        self.change_in(&mut core, changes)
    }

    fn change_under(&self, plan: &mut dyn FnMut(&Namespace) -> Result<Planned, Errno>) -> Result<u64, Refusal> {
        let mut core = self.core.lock();
        let planned = {
            let namespace = self.namespace.read();
            // What is looked at must be the newest, or the plan may fail for a reason that is none any more.
            core.may(&namespace, &[], steady()).map_err(|_| Refusal::OutOfTouch)?;
            let planned = plan(&namespace).map_err(Refusal::Errno)?;
            let may = match planned.unsaved {
                true => core.may_store(&namespace, &planned.leases, steady()),
                false => core.may(&namespace, &planned.leases, steady()),
            };
            match may {
                Ok(()) => planned,
                Err(Hindrance::OutOfTouch) => return Err(Refusal::OutOfTouch),
                Err(Hindrance::Elsewhere) => return Err(Refusal::Elsewhere(planned.leases)),
            }
        };
        self.change_in(&mut core, planned.changes).map_err(Refusal::Errno)
    }

    fn pin(&self, ino: Ino) -> Result<Pin, Refusal> {
        match self.core.lock().pin(&self.namespace.read(), ino, steady()) {
            Ok(()) => {
                let this = self.this.clone();
                Ok(Pin::new(move || {
                    if let Some(host) = this.upgrade() {
                        let mut core = host.core.lock();
                        let effects = core.unpin(&mut host.namespace.write(), ino, host.moment());
                        host.carry_out(&mut core, effects);
                    }
                }))
            }
            Err(Hindrance::OutOfTouch) => Err(Refusal::OutOfTouch),
            Err(Hindrance::Elsewhere) => Err(Refusal::Elsewhere(vec![ino])),
        }
    }

    fn in_touch(&self) -> bool {
        steady().0 < self.in_touch_until.load(Ordering::Relaxed)
    }

    fn obtain(&self, leases: Vec<Ino>) -> BoxFuture<'_, Result<(), Errno>> {
        Box::pin(async move {
            let need = if leases.is_empty() { Need::Touch } else { Need::Leases(leases.iter().copied().collect()) };
            self.provided(need, &leases, LEASE_DEADLINE).await.map(drop)
        })
    }

    fn obtain_for(&self, leases: Vec<Ino>, naming: Naming) -> BoxFuture<'_, Result<Obtained, Errno>> {
        Box::pin(async move {
            let need = Need::Naming { wish: self.random(), naming, leases: leases.iter().copied().collect() };
            // Whoever does it answers when all the others know.
            self.provided(need, &leases, LEASE_DEADLINE + SETTLE_DEADLINE).await
        })
    }

    fn lock(&self, ino: Ino, request: LockRequest) -> BoxFuture<'_, Result<Option<Lock>, Errno>> {
        Box::pin(async move {
            let id = self.next_need.fetch_add(1, Ordering::Relaxed);
            let (tell, told) = oneshot::channel();
            self.locks.lock().insert(id, Applicant { tell, ino, request });
            let mut waiting = WaitingForLock { host: self, id, ino, request, told, answered: false };
            self.handle(Event::Lock { id, ino, request });
            let outcome = match request {
                // For as long as its holder likes.
                LockRequest::Take { wait: true, .. } => (&mut waiting.told).await.ok(),
                _ => tokio::time::timeout(LEASE_DEADLINE, &mut waiting.told).await.ok().and_then(Result::ok),
            };
            waiting.answered = outcome.is_some();
            match outcome {
                Some(LockOutcome::Done) => Ok(None),
                Some(LockOutcome::Held(lock)) => Ok(Some(lock)),
                Some(LockOutcome::Deadlock) => Err(Errno(libc::EDEADLK)),
                Some(LockOutcome::TooMany | LockOutcome::Queued | LockOutcome::Again) => Err(Errno(libc::ENOLCK)),
                None => {
                    tracing::error!(%ino, "the peer that keeps the file's locks did not answer within {LEASE_DEADLINE:?}");
                    Err(Errno(libc::EIO))
                }
            }
        })
    }

    fn unlock(&self, ino: Ino, owner: u64, first: u64, last: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let id = self.next_need.fetch_add(1, Ordering::Relaxed);
            let (tell, told) = oneshot::channel();
            self.needs.lock().insert(id, tell);
            self.handle(Event::Unlock { id, ino, owner, first, last });
            // Whoever keeps it has been told, or is when it can be.
            let _ = tokio::time::timeout(LEASE_DEADLINE, told).await;
            self.needs.lock().remove(&id);
        })
    }

    fn open_elsewhere(&self, inos: Vec<Ino>) -> BoxFuture<'_, BTreeSet<Ino>> {
        Box::pin(async move {
            let Some(network) = self.network.get().cloned() else { return BTreeSet::new() };
            let others = self.roster().into_iter().map(|peer| peer.key.tag()).filter(|peer| *peer != self.me);
            let mut asked = tokio::task::JoinSet::new();
            for peer in others.filter(|peer| self.is_alive(*peer)) {
                let (network, inos) = (network.clone(), inos.clone());
                asked.spawn(async move {
                    let (request, body) = (Request::Open { count: inos.len() as u16 }, encode_inos(&inos));
                    match network.request(peer, request, body, OPEN_DEADLINE).await {
                        Ok((Response::Open { .. }, body)) => decode_inos(&body).unwrap_or(inos),
                        _ => inos,
                    }
                });
            }
            let mut open = BTreeSet::new();
            while let Some(answer) = asked.join_next().await {
                open.extend(answer.unwrap_or_else(|_| inos.clone()));
            }
            open
        })
    }

    fn settle(&self, seq: u64, durable: bool) -> BoxFuture<'_, Result<(), Errno>> {
        Box::pin(async move {
            let deadline = tokio::time::Instant::now() + SETTLE_DEADLINE;
            let author = self.author();
            let mut ask_at = tokio::time::Instant::now();
            loop {
                // Asked again, since somebody may have got what it is to keep only after it was asked.
                if durable && ask_at <= tokio::time::Instant::now() {
                    ask_at = tokio::time::Instant::now() + ASK_AGAIN;
                    let mut core = self.core.lock();
                    let effects = core.request_durable(&self.namespace.read(), seq);
                    self.carry_out(&mut core, effects);
                }
                let news = self.settled.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                // Made anew in another epoch meanwhile, on stable storage: whoever is there gets it with all the rest.
                if self.author() != author || self.core.lock().is_settled(seq, durable, steady()) {
                    return Ok(());
                }
                let until = if durable { deadline.min(ask_at) } else { deadline };
                if tokio::time::timeout_at(until, news).await.is_err() && deadline <= tokio::time::Instant::now() {
                    let peers: Vec<PeerTag> = self.core.lock().unsettled(seq, durable, steady()).collect();
                    tracing::error!("change {seq} was not acknowledged within {SETTLE_DEADLINE:?} by {peers:?}");
                    return Err(Errno(libc::EIO));
                }
            }
        })
    }

    fn new_number(&self) -> u64 {
        Ino::new(self.me, self.next_number.fetch_add(1, Ordering::Relaxed)).0
    }

    fn candidates(&self) -> Vec<Candidate> {
        // Recursive: the caller may hold the namespace already.
        let namespace = self.namespace.read_recursive();
        let view = self.view.read();
        let candidate = |(peer, record): (PeerTag, &PeerRecord)| {
            let seen = view.get(&peer).copied().unwrap_or_default();
            Candidate {
                peer,
                alive: seen.alive || peer == self.me,
                zone: record.zone.clone(),
                address: record.addresses.first().map(|address| address.ip()),
                host: record.host.clone(),
                free: seen.usage.map_or(u64::MAX, |usage| usage.free),
                stored: seen.usage.map_or(0, |usage| usage.stored),
                disk: seen.usage.map_or(0, |usage| usage.disk),
                leaving: namespace.standing(peer).leaving,
            }
        };
        namespace.peers().map(candidate).collect()
    }

    fn is_alive(&self, peer: PeerTag) -> bool {
        peer == self.me || self.view.read().get(&peer).is_some_and(|seen| seen.alive)
    }

    fn has_majority(&self) -> bool {
        // Recursive: the caller may hold the namespace already.
        let namespace = self.namespace.read_recursive();
        let view = self.view.read();
        let alive = |peer: &PeerTag| *peer == self.me || view.get(peer).is_some_and(|seen| seen.alive);
        let (all, there) =
            namespace.peers().fold((0, 0), |(all, there), (peer, _)| (all + 1, there + usize::from(alive(&peer))));
        there * 2 > all
    }

    fn suspect(&self, holder: PeerTag, id: ShardId) {
        if holder == self.me {
            return self.suspected(id);
        }
        let Some(network) = self.network.get().cloned() else { return };
        self.runtime.spawn(async move {
            // Where it does not arrive, the holder's own round finds the shard missing, or its scrub finds it bad.
            let _ = network.request(holder, Request::Suspect(id), bytes::Bytes::new(), SUSPECT_DEADLINE).await;
        });
    }

    fn search(&self, block: BlockName) -> BoxFuture<'_, Vec<(PeerTag, ShardId)>> {
        Box::pin(async move {
            let search = self.next_search.fetch_add(1, Ordering::Relaxed);
            let (tell, told) = oneshot::channel();
            self.searches.lock().insert(search, tell);
            self.handle(Event::Search { search, block });
            // The core ends every search it is given; a host that stops gives none back.
            tokio::time::timeout(SEARCH_DEADLINE, told).await.ok().and_then(Result::ok).unwrap_or_default()
        })
    }

    fn random(&self) -> u64 {
        rand::random()
    }

    fn now(&self) -> WallTime {
        super::super::setup::now()
    }
}

impl Host {
    /// Waits for what is needed: leases, or what is to be done under them.
    async fn provided(&self, need: Need, leases: &[Ino], deadline: Duration) -> Result<Obtained, Errno> {
        let id = self.next_need.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        self.needs.lock().insert(id, tell);
        let forget = Forget { host: self, id };
        self.handle(Event::Need { id, need });
        let provided = tokio::time::timeout(deadline, told).await;
        drop(forget);
        if let Ok(Ok(obtained)) = provided {
            return obtained;
        }
        let why = self.with_core(|core, namespace| core.what_is_missing(namespace, leases, steady()));
        tracing::error!("a lease did not come within {deadline:?}: {why}");
        Err(Errno(libc::EIO))
    }
}

/// A need that ends with whoever has it.
struct Forget<'a> {
    host: &'a Host,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if self.host.needs.lock().remove(&self.id).is_some() {
            self.host.handle(Event::Forget { id: self.id });
        }
    }
}

/// A request for a lock that is taken back with whoever made it.
struct WaitingForLock<'a> {
    host: &'a Host,
    id: u64,
    ino: Ino,
    request: LockRequest,
    told: oneshot::Receiver<LockOutcome>,
    answered: bool,
}

impl Drop for WaitingForLock<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        // Whoever answers from now on finds nobody there, and lets go of the lock.
        self.told.close();
        match self.told.try_recv() {
            Ok(outcome) => self.host.let_go_of(self.ino, self.request, outcome),
            Err(_) => self.host.handle(Event::ForgetLock { id: self.id }),
        }
        self.host.locks.lock().remove(&self.id);
    }
}

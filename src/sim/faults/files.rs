//! Users append records to one file and read it. A record is laid behind what is there while the file's lease is here, and
//! is stored when the file is closed, or when the lease is to go elsewhere: as in `volume/write` and `volume/commit`.
//!
//! What the file is made of is one value, that of all records in their order, each laid on the last one's: so who appends
//! finds one value and leaves another.

use super::acts::Put;
use super::sides::Done;
use super::users::{Thing, Wish};
use super::world::{What, World};
use crate::id::Ino;
use crate::namespace::{Change, Extent, Namespace, Source};
use crate::peer::Hindrance;
use crate::time::Stamp;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::time::Duration;

/// From when a record was written until the file is closed, at the most.
const OPEN: Duration = Duration::from_millis(60);

/// How soon it is tried again to store what is to be stored before the lease goes.
const AGAIN: Duration = Duration::from_millis(50);

/// What was written on a machine and is not stored yet.
pub(super) struct Unsaved {
    run: u64,
    /// What was there when it began.
    began: Stamp,
    size: u64,
    value: u64,
    pieces: Vec<(u64, Bytes)>,
    /// What users appended in it.
    acts: Vec<u64>,
    /// The lease went to others without this machine's doing.
    lost: bool,
}

/// The value of some records and one more.
fn with(value: u64, record: &[u8]) -> u64 {
    // FNV-1a (Fowler, Noll and Vo): any that tells different files apart.
    record.iter().fold(value, |value, byte| (value ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The value of a file.
fn value(names: &Namespace, file: Ino) -> u64 {
    names.extents(file, 0, u64::MAX).fold(0xcbf2_9ce4_8422_2325, |value, (_, extent)| match &extent.source {
        Source::Inline(bytes) => with(value, bytes),
        Source::Block { .. } | Source::Hole => value,
    })
}

impl super::users::Users {
    /// Whether something that one of these machines wrote is not stored yet.
    pub fn has_unsaved(&self, members: &BTreeSet<usize>) -> bool {
        members.iter().any(|n| self.unsaved.contains_key(n))
    }
}

impl World<'_> {
    /// What the file is made of, as a machine knows it.
    pub(super) fn content_at(&self, n: usize) -> u64 {
        value(&self.machines[n].namespace, self.users.furniture.file)
    }

    /// The records that somebody finds in the file on a machine.
    pub(super) fn records_at(&self, n: usize) -> BTreeSet<u64> {
        let names = &self.machines[n].namespace;
        let stored =
            names.extents(self.users.furniture.file, 0, u64::MAX).filter_map(|(_, extent)| match &extent.source {
                Source::Inline(bytes) => Some(bytes.clone()),
                Source::Block { .. } | Source::Hole => None,
            });
        let run = self.machines[n].run;
        let unsaved = self.users.unsaved.get(&n).filter(|unsaved| unsaved.run == run);
        let unsaved = unsaved.into_iter().flat_map(|unsaved| unsaved.pieces.iter().map(|(_, bytes)| bytes.clone()));
        stored.chain(unsaved).filter_map(|bytes| Some(u64::from_le_bytes(bytes.as_ref().try_into().ok()?))).collect()
    }

    /// What was not stored when a machine stopped is gone.
    fn drop_old_unsaved(&mut self, n: usize) {
        if self.users.unsaved.get(&n).is_some_and(|unsaved| unsaved.run != self.machines[n].run) {
            self.users.unsaved.remove(&n);
        }
    }

    /// Somebody writes a record at the end, and closes the file a moment later.
    pub(super) fn append(&mut self, id: u64) {
        let Some(doing) = self.users.doing.get(&id) else { return };
        let (n, called, file) = (doing.n, doing.called, self.users.furniture.file);
        self.drop_old_unsaved(n);
        if self.users.unsaved.get(&n).is_some_and(|unsaved| unsaved.acts.contains(&id)) {
            return self.close(id);
        }
        let now = self.queue.now();
        let machine = &mut self.machines[n];
        let Some(peer) = machine.peer.as_mut() else { return };
        if let Err(hindrance) = peer.pin(&machine.namespace, file, now) {
            return self.overcome(id, hindrance, &[file]);
        }
        if let Some(inode) = machine.namespace.inode(file) {
            let unsaved = self.users.unsaved.entry(n).or_insert_with(|| Unsaved {
                run: machine.run,
                began: inode.content,
                size: inode.size,
                value: value(&machine.namespace, file),
                pieces: Vec::new(),
                acts: Vec::new(),
                lost: false,
            });
            let record = Bytes::copy_from_slice(&id.to_le_bytes());
            let (before, after) = (unsaved.value, with(unsaved.value, &record));
            unsaved.pieces.push((unsaved.size, record.clone()));
            unsaved.size += record.len() as u64;
            unsaved.value = after;
            unsaved.acts.push(id);
            self.users.written.insert(id);
            let step = Put(vec![(0, before, after)]);
            let judged = self.note(id, n, Done::Put(Thing::File, step), called, None);
            self.report.judged_acts += u32::from(judged);
        }
        let moment = self.moment();
        let machine = &mut self.machines[n];
        let Some(peer) = machine.peer.as_mut() else { return };
        let effects = peer.unpin(&mut machine.namespace, file, moment);
        self.carry_out(n, effects);
        let after = self.users.chance.up_to(OPEN);
        self.queue.after(after, What::GoOn(id));
    }

    /// What was written is stored before `close` returns.
    fn close(&mut self, id: u64) {
        let Some(n) = self.users.doing.get(&id).map(|doing| doing.n) else { return };
        if let Err(hindrance) = self.store(n) {
            let file = self.users.furniture.file;
            self.overcome(id, hindrance, &[file]);
        }
    }

    /// Makes the op that has what is unsaved.
    fn store(&mut self, n: usize) -> Result<(), Hindrance> {
        self.drop_old_unsaved(n);
        let (file, now) = (self.users.furniture.file, self.queue.now());
        let (time, machine) = (self.wall(), &mut self.machines[n]);
        let (Some(unsaved), Some(peer)) = (self.users.unsaved.get(&n), machine.peer.as_mut()) else { return Ok(()) };
        peer.may_store(&machine.namespace, &[file], now)?;
        let unsaved_acts = unsaved.acts.clone();
        let write = machine.namespace.inode(file).filter(|inode| !unsaved.lost || inode.content == unsaved.began);
        let write = write.map(|inode| {
            let extent = |(at, bytes): &(u64, Bytes)| {
                (*at, Extent { len: bytes.len() as u32, source: Source::Inline(bytes.clone()) })
            };
            Change::Write {
                ino: file,
                base: inode.content,
                linked: inode.nlink > 0,
                extents: unsaved.pieces.iter().map(extent).collect(),
                blocks: Vec::new(),
                size: unsaved.size.max(inode.size),
                mtime: time,
                ctime: time,
                clear_suid: false,
            }
        });
        self.users.unsaved.remove(&n);
        let seq = write.map_or(0, |write| self.change(n, vec![write]));
        match self.author(n).filter(|_| seq > 0) {
            Some(author) => {
                self.users.changed(Thing::File, author, seq);
                unsaved_acts.into_iter().for_each(|id| self.is_made(id, seq));
            }
            // Others wrote it meanwhile: who wrote here is told that it is lost.
            None => {
                for id in unsaved_acts {
                    self.users.doing.remove(&id);
                    self.users.written.remove(&id);
                }
            }
        }
        Ok(())
    }

    /// The file's lease, or a lock of it, is to go elsewhere; whether what is unsaved is stored, as far as it can be.
    pub(super) fn store_before_it_goes(&mut self, n: usize) -> bool {
        match self.store(n) {
            Err(Hindrance::OutOfTouch) => {
                let (run, file) = (self.machines[n].run, self.users.furniture.file);
                self.queue.after(AGAIN, What::Recalled(n, run, file));
                false
            }
            Ok(()) | Err(Hindrance::Elsewhere) => true,
        }
    }

    /// Leases of this machine went to others.
    pub(super) fn users_deposed(&mut self, n: usize) {
        let machine = &self.machines[n];
        let here = machine.namespace.holder(self.users.furniture.file) == machine.tag;
        if let Some(unsaved) = self.users.unsaved.get_mut(&n).filter(|_| !here) {
            unsaved.lost = true;
        }
    }

    /// Somebody reads the file, where nothing was written that is not stored: what is read of that goes with the machine.
    pub(super) fn read_file(&mut self, id: u64) {
        let Some(doing) = self.users.doing.get(&id) else { return };
        let n = doing.n;
        debug_assert_eq!(doing.wish, Wish::Read);
        self.drop_old_unsaved(n);
        if let Err(hindrance) = self.may(n, &[]) {
            return self.overcome(id, hindrance, &[]);
        }
        if self.users.unsaved.contains_key(&n) {
            self.queue.after(OPEN, What::GoOn(id));
            return;
        }
        let look = Put::look(0, self.content_at(n));
        self.saw(id, Thing::File, look);
    }
}

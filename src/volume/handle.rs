//! Open files: handles, the state an inode has while it is open or dirty here, and its attributes.

use super::dirty::{Content, Overlay};
use super::ports::Errno;
use super::read::Pattern;
use super::{Attributes, HandleId, MAX_FILE_BYTES, OpenFlags, Opened, Volume};
use crate::id::Ino;
use crate::namespace::{Inode, Kind};
use crate::time::{Stamp, WallTime};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Extents looked at to tell how much of a file is holes; one with more counts as dense.
const COUNTED_EXTENTS: usize = 1024;

/// An open file description.
pub(super) struct Handle {
    pub file: Arc<FileState>,
    pub flags: OpenFlags,
    pub pattern: Mutex<Pattern>,
}

/// An inode that is open or dirty here.
pub(super) struct FileState {
    pub ino: Ino,
    pub opens: AtomicUsize,
    /// Never held across an await, nor while the namespace is asked for: the namespace's lock comes first.
    pub state: Mutex<FileContent>,
    /// Held by whoever commits: one at a time, for each builds on the one before.
    pub turn: tokio::sync::Mutex<()>,
}

/// What is known here of a file beyond the namespace.
#[derive(Default)]
pub(super) struct FileContent {
    pub overlay: Overlay,
    /// `None` when everything is in the namespace.
    pub unsaved: Option<Unsaved>,
    /// Permits of the budget held for the overlay's dirty bytes.
    pub held: usize,
    /// Storing went wrong and nobody has been told.
    pub error: Option<Errno>,
    /// A write-back is on its way.
    pub timer: bool,
    /// What is unsaved was written under a lease that went elsewhere since, without this machine's doing.
    pub lost: bool,
    /// The last op of this peer about this file's content; and up to where `settle` was waited for.
    pub seq: u64,
    pub settled: u64,
}

/// What the next op about the content says besides the extents.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unsaved {
    /// The content when the changes began.
    pub began: Stamp,
    pub size: u64,
    /// It was cut to a size; else it is only as large as what was written needs.
    pub resized: bool,
    pub mtime: WallTime,
    pub ctime: WallTime,
    /// Counts changes, to see whether one came while an op was made.
    pub changes: u64,
}

impl Volume {
    pub(super) fn handle(&self, id: HandleId) -> Result<Arc<Handle>, Errno> {
        self.inner.handles.lock().get(&id).cloned().ok_or(Errno(libc::EBADF))
    }

    /// The state of an inode, made if there is none.
    pub(super) fn file(&self, ino: Ino) -> Arc<FileState> {
        let fresh = || {
            Arc::new(FileState {
                ino,
                opens: AtomicUsize::new(0),
                state: Mutex::default(),
                turn: tokio::sync::Mutex::new(()),
            })
        };
        self.inner.files.lock().entry(ino).or_insert_with(fresh).clone()
    }

    pub(super) fn known_file(&self, ino: Ino) -> Option<Arc<FileState>> {
        self.inner.files.lock().get(&ino).cloned()
    }

    /// Forgets the state if it says nothing any more.
    pub(super) fn let_go(&self, file: &Arc<FileState>) {
        let mut files = self.inner.files.lock();
        // Ours and the map's: nobody else can come by one while the map is locked.
        if file.opens.load(Ordering::Relaxed) == 0
            && Arc::strong_count(file) <= 2
            && file.state.lock().unsaved.is_none()
        {
            files.remove(&file.ino);
        }
    }

    /// The attributes of an inode, dirty size and times included. `ENOENT` for one that is gone; an orphan
    /// still has them until it is reaped.
    pub fn attributes(&self, ino: Ino) -> Result<Attributes, Errno> {
        let file = self.known_file(ino);
        let namespace = self.inner.control.namespace();
        let inode = namespace.inode(ino).ok_or(Errno(libc::ENOENT))?;
        let mut attributes = plain(ino, inode);
        if inode.kind != Kind::File {
            return Ok(attributes);
        }
        let dense = |size: u64| size.div_ceil(512);
        let extents = namespace.extents(ino, 0, u64::MAX).take(COUNTED_EXTENTS + 1);
        let (count, bytes) = extents.fold((0, 0), |(n, sum), (_, extent)| (n + 1, sum + u64::from(extent.len)));
        attributes.blocks512 = if count > COUNTED_EXTENTS { dense(inode.size) } else { dense(bytes) };
        if let Some(file) = file {
            let state = file.state.lock();
            if let Some(unsaved) = &state.unsaved {
                let data =
                    state.overlay.range(0, u64::MAX).filter(|(_, piece)| !matches!(piece.content, Content::Hole));
                let laid: u64 = data.map(|(_, piece)| piece.len).sum();
                attributes.size = unsaved.size;
                attributes.mtime = unsaved.mtime;
                attributes.ctime = inode.ctime.max(unsaved.ctime);
                attributes.blocks512 = (attributes.blocks512 + dense(laid)).min(dense(unsaved.size));
            }
        }
        Ok(attributes)
    }

    /// Opens a regular file; `O_TRUNC` is honoured here. Access is the caller's to check.
    pub async fn open(&self, ino: Ino, flags: OpenFlags) -> Result<Opened, Errno> {
        self.in_touch().await?;
        let content = {
            let namespace = self.inner.control.namespace();
            let inode = namespace.inode(ino).ok_or(Errno(libc::ENOENT))?;
            regular(inode)?;
            inode.content
        };
        let handle = self.add_handle(ino, flags);
        if flags.truncate && flags.write {
            let file = self.file(ino);
            let emptied = match self.pin(ino).await {
                Ok(_pin) => self.change_content(&file, |state, _| state.resize(0)),
                Err(errno) => Err(errno),
            };
            if let Err(errno) = emptied {
                self.drop_handle(handle);
                return Err(errno);
            }
        }
        let keep_cache = self.inner.opened.get(&ino) == Some(content) && !flags.truncate;
        self.inner.opened.insert(ino, content);
        Ok(Opened { handle, keep_cache })
    }

    /// Opens a file just created here (its inode is in the namespace already); nothing is truncated. The next
    /// `flush` waits until the creation is known to the connected peers.
    pub fn open_created(&self, ino: Ino, flags: OpenFlags) -> Result<HandleId, Errno> {
        let (content, seq) = {
            let namespace = self.inner.control.namespace();
            let inode = namespace.inode(ino).ok_or(Errno(libc::ENOENT))?;
            regular(inode)?;
            (inode.content, namespace.vector().get(self.inner.control.author()))
        };
        let handle = self.add_handle(ino, flags);
        self.inner.opened.insert(ino, content);
        let file = self.file(ino);
        let mut state = file.state.lock();
        state.seq = state.seq.max(seq);
        drop(state);
        Ok(handle)
    }

    fn add_handle(&self, ino: Ino, flags: OpenFlags) -> HandleId {
        let id = HandleId(self.inner.next_handle.fetch_add(1, Ordering::Relaxed));
        let file = self.file(ino);
        file.opens.fetch_add(1, Ordering::Relaxed);
        self.inner.handles.lock().insert(id, Arc::new(Handle { file, flags, pattern: Mutex::default() }));
        id
    }

    fn drop_handle(&self, id: HandleId) -> Option<(Arc<FileState>, bool)> {
        let handle = self.inner.handles.lock().remove(&id)?;
        let last = handle.file.opens.fetch_sub(1, Ordering::Relaxed) == 1;
        Some((handle.file.clone(), last))
    }

    /// The inode behind a handle.
    pub fn handle_ino(&self, handle: HandleId) -> Result<Ino, Errno> {
        Ok(self.handle(handle)?.file.ino)
    }

    /// Whether some handle of this machine has it open.
    pub fn is_open(&self, ino: Ino) -> bool {
        self.known_file(ino).is_some_and(|file| file.opens.load(Ordering::Relaxed) > 0)
    }

    /// The last use of the handle is gone. What a shared mapping wrote after the last close is stored now; the
    /// last handle of an orphan reaps it.
    pub async fn release(&self, handle: HandleId) {
        let Some((file, last)) = self.drop_handle(handle) else { return };
        if last {
            if self.is_orphan(file.ino) {
                self.forget_content(&file);
                self.reap(file.ino);
            } else if file.state.lock().unsaved.is_some()
                && let Err(errno) = self.commit(&file).await
                && file.opens.load(Ordering::Relaxed) == 0
            {
                tracing::error!(ino = %file.ino, %errno, "the content of a closed file could not be stored: what was written since its last flush is lost");
                self.forget_content(&file);
            }
        }
        self.let_go(&file);
    }

    /// Whether its last name is gone.
    pub(super) fn is_orphan(&self, ino: Ino) -> bool {
        self.inner.control.namespace().inode(ino).is_none_or(|inode| inode.orphaned.is_some())
    }

    /// Drops what is not in the namespace.
    pub(super) fn forget_content(&self, file: &FileState) {
        let mut state = file.state.lock();
        state.overlay = Overlay::default();
        state.unsaved = None;
        state.error = None;
        state.lost = false;
        self.balance(&mut state, 0);
    }

    /// A name of `ino` went: if that was the last, by an op of this peer, and it is not open here, it is reaped.
    pub fn note_unlinked(&self, ino: Ino) {
        if !self.is_open(ino) {
            if let Some(file) = self.known_file(ino)
                && self.is_orphan(ino)
            {
                self.forget_content(&file);
            }
            self.reap(ino);
        }
    }

    /// To be called just before times are set by an op: an uncommitted write shall not change them afterwards.
    pub fn note_times(&self, ino: Ino, mtime: Option<WallTime>) {
        if let (Some(file), Some(mtime)) = (self.known_file(ino), mtime)
            && let Some(unsaved) = &mut file.state.lock().unsaved
        {
            unsaved.mtime = mtime;
            unsaved.changes += 1;
        }
    }

    /// Another machine changed the content of `ino`: pages of it must not outlive the next open.
    pub fn invalidated(&self, ino: Ino) {
        self.inner.opened.remove(&ino);
    }

    /// Changes a file's content under its lock, the caller having its lease pinned; `change` is told the size before. Begins to note what is
    /// unsaved, moves the times, and sees to the write-back.
    pub(super) fn change_content<T>(
        &self,
        file: &Arc<FileState>,
        change: impl FnOnce(&mut FileContent, u64) -> T,
    ) -> Result<T, Errno> {
        self.may_write(&self.inner.control.namespace(), file.ino)?;
        let now = self.inner.control.now();
        let mut state = file.state.lock();
        if state.unsaved.is_none() {
            // The namespace's lock comes before the file's.
            drop(state);
            let namespace = self.inner.control.namespace();
            let inode = namespace.inode(file.ino).ok_or(Errno(libc::ESTALE))?;
            state = file.state.lock();
            state.unsaved.get_or_insert(Unsaved {
                began: inode.content,
                size: inode.size,
                resized: false,
                mtime: inode.mtime,
                ctime: inode.ctime,
                changes: 0,
            });
            drop(namespace);
        }
        let size = state.unsaved.map_or(0, |unsaved| unsaved.size);
        let done = change(&mut state, size);
        if let Some(unsaved) = &mut state.unsaved {
            unsaved.mtime = now;
            unsaved.ctime = now.max(unsaved.ctime);
            unsaved.changes += 1;
        }
        self.balance(&mut state, 0);
        if !state.timer {
            state.timer = true;
            drop(state);
            self.write_back_later(file);
        }
        Ok(done)
    }

    /// Gives back what the dirty bytes no longer need of the budget, `extra` permits having come in.
    pub(super) fn balance(&self, state: &mut FileContent, extra: usize) {
        let have = state.held + extra;
        let need = state.overlay.dirty_bytes();
        debug_assert!(have >= need, "dirty bytes without a reservation");
        self.inner.budget.add_permits(have.saturating_sub(need));
        state.held = need;
    }
}

impl FileContent {
    /// Sets the size: what is past it goes, what is new reads as zeros.
    pub fn resize(&mut self, size: u64) {
        let Some(unsaved) = &mut self.unsaved else { return };
        let before = std::mem::replace(&mut unsaved.size, size);
        unsaved.resized |= size <= before;
        if size < before {
            // Over what was laid there, and what the namespace has there or comes to have.
            self.overlay.punch(size, MAX_FILE_BYTES);
        }
    }

    /// The size, if changes are waiting here.
    pub fn size(&self) -> Option<u64> {
        self.unsaved.map(|unsaved| unsaved.size)
    }
}

fn regular(inode: &Inode) -> Result<(), Errno> {
    match inode.kind {
        Kind::File => Ok(()),
        Kind::Directory => Err(Errno(libc::EISDIR)),
        Kind::Symlink { .. } => Err(Errno(libc::ELOOP)),
        Kind::Special { .. } => Err(Errno(libc::ENXIO)),
    }
}

fn plain(ino: Ino, inode: &Inode) -> Attributes {
    let (format, rdev) = match &inode.kind {
        Kind::File => (libc::S_IFREG, 0),
        Kind::Directory => (libc::S_IFDIR, 0),
        Kind::Symlink { .. } => (libc::S_IFLNK, 0),
        Kind::Special { format, device } => (*format, *device),
    };
    Attributes {
        ino,
        format,
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        size: inode.size,
        blocks512: 0,
        nlink: inode.nlink,
        rdev,
        atime: inode.atime,
        mtime: inode.mtime,
        ctime: inode.ctime,
        btime: inode.btime,
    }
}

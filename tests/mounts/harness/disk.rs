//! A disk that forgets: when its power is cut, what was not synced is gone, or is there in part.
//!
//! It keeps a home's files in memory and promises no more than POSIX does. Of the writes of a file since its last
//! `fsync` any pages may have reached the disk. Of the changes of names those of a directory that was synced have, and of
//! the others all up to some moment: so a journal keeps a rename whole.

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use shoal::sim::chance::Chance;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The kernel is to remember nothing.
const TTL: Duration = Duration::ZERO;

/// What reaches a disk at once.
const PAGE: usize = 4096;

/// What `statfs` says, in pages.
const CAPACITY: u64 = (8 << 30) / PAGE as u64;

const ROOT: u64 = 1;

#[derive(Clone)]
enum Body {
    File(Vec<u8>),
    Directory(BTreeMap<OsString, u64>),
    /// A socket.
    Other,
}

/// A change that no sync has covered.
enum Pending {
    Write {
        at: usize,
        bytes: Vec<u8>,
    },
    Resize(usize),
    Zero {
        at: usize,
        end: usize,
    },
    /// With its number among all changes of names.
    Name {
        number: u64,
        name: OsString,
        node: Option<u64>,
    },
}

struct Node {
    format: u32,
    mode: u32,
    now: Body,
    durable: Body,
    pending: Vec<Pending>,
}

impl Node {
    fn new(format: u32, mode: u32) -> Node {
        let empty = match format {
            libc::S_IFDIR => Body::Directory(BTreeMap::new()),
            libc::S_IFREG => Body::File(Vec::new()),
            _ => Body::Other,
        };
        Node { format, mode: mode & 0o7777, now: empty.clone(), durable: empty, pending: Vec::new() }
    }

    fn change(&mut self, pending: Pending) {
        pending.apply(&mut self.now);
        self.pending.push(pending);
    }

    fn sync(&mut self) {
        self.pending.drain(..).for_each(|pending| pending.apply(&mut self.durable));
    }

    /// Of the names what was changed before that moment, of the content whatever chance has let through.
    fn cut(&mut self, moment: u64, chance: &mut Chance) {
        let through = [0.0, 0.5, 0.9][chance.below(3)];
        for pending in self.pending.drain(..) {
            match pending {
                Pending::Name { number, .. } if number > moment => {}
                Pending::Name { .. } => pending.apply(&mut self.durable),
                Pending::Write { at, bytes } => {
                    let mut done = 0;
                    while done < bytes.len() {
                        let end = (done + PAGE - (at + done) % PAGE).min(bytes.len());
                        if chance.happens(through) {
                            let page = Pending::Write { at: at + done, bytes: bytes[done..end].to_vec() };
                            page.apply(&mut self.durable);
                        }
                        done = end;
                    }
                }
                Pending::Resize(_) | Pending::Zero { .. } if chance.happens(through) => {
                    pending.apply(&mut self.durable);
                }
                Pending::Resize(_) | Pending::Zero { .. } => {}
            }
        }
        self.now = self.durable.clone();
    }
}

impl Pending {
    fn apply(&self, body: &mut Body) {
        match (self, body) {
            (Pending::Write { at, bytes }, Body::File(file)) => {
                file.resize(file.len().max(at + bytes.len()), 0);
                file[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            (Pending::Resize(size), Body::File(file)) => file.resize(*size, 0),
            (Pending::Zero { at, end }, Body::File(file)) => {
                let end = (*end).min(file.len());
                file[(*at).min(end)..end].fill(0);
            }
            (Pending::Name { name, node, .. }, Body::Directory(names)) => {
                match node {
                    Some(node) => names.insert(name.clone(), *node),
                    None => names.remove(name),
                };
            }
            _ => {}
        }
    }
}

struct State {
    nodes: BTreeMap<u64, Node>,
    last: u64,
    /// Counts changes of names.
    changes: u64,
}

impl State {
    fn node(&mut self, number: u64) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&number).ok_or(Errno::ENOENT)
    }

    fn names(&mut self, directory: u64) -> Result<&BTreeMap<OsString, u64>, Errno> {
        match &self.node(directory)?.now {
            Body::Directory(names) => Ok(names),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn find(&mut self, directory: u64, name: &OsStr) -> Result<u64, Errno> {
        self.names(directory)?.get(name).copied().ok_or(Errno::ENOENT)
    }

    fn make(&mut self, directory: u64, name: &OsStr, node: Node) -> Result<FileAttr, Errno> {
        if self.find(directory, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        self.last += 1;
        let made = self.last;
        self.nodes.insert(made, node);
        self.name(&[(directory, name, Some(made))])?;
        self.attributes(made)
    }

    /// Changes names, in one step.
    fn name(&mut self, changes: &[(u64, &OsStr, Option<u64>)]) -> Result<(), Errno> {
        self.changes += 1;
        let number = self.changes;
        for (directory, name, node) in changes {
            self.node(*directory)?.change(Pending::Name { number, name: (*name).to_owned(), node: *node });
        }
        Ok(())
    }

    fn attributes(&mut self, number: u64) -> Result<FileAttr, Errno> {
        let node = self.node(number)?;
        let (kind, size) = match &node.now {
            Body::File(bytes) => (FileType::RegularFile, bytes.len() as u64),
            Body::Directory(_) => (FileType::Directory, 0),
            Body::Other => (FileType::Socket, 0),
        };
        debug_assert!(matches!(node.format, libc::S_IFREG | libc::S_IFDIR | libc::S_IFSOCK));
        Ok(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: node.mode as u16,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: PAGE as u32,
            flags: 0,
        })
    }
}

/// A disk, mounted as long as this lives.
pub struct Disk {
    state: Arc<Mutex<State>>,
    _session: BackgroundSession,
}

impl Disk {
    /// An empty disk, mounted there.
    pub fn mount(at: &Path) -> Disk {
        let root = Node::new(libc::S_IFDIR, 0o700);
        let state = State { nodes: BTreeMap::from([(ROOT, root)]), last: ROOT, changes: 0 };
        let state = Arc::new(Mutex::new(state));
        let session = fuser::spawn_mount(Served(state.clone()), at, &Config::default());
        let session = session.unwrap_or_else(|e| panic!("no disk can be mounted at {}: {e}", at.display()));
        Disk { state, _session: session }
    }

    /// Cuts the power. Nobody may have anything open there.
    pub fn cut(&self, chance: &mut Chance) {
        let mut state = self.state.lock().unwrap();
        let pending = state.nodes.values().flat_map(|node| &node.pending);
        let numbers: Vec<u64> =
            pending.filter_map(|p| if let Pending::Name { number, .. } = p { Some(*number) } else { None }).collect();
        let moment = if numbers.is_empty() || chance.happens(0.3) { 0 } else { numbers[chance.below(numbers.len())] };
        state.nodes.values_mut().for_each(|node| node.cut(moment, chance));
    }
}

struct Served(Arc<Mutex<State>>);

impl Served {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn change(&self, number: INodeNo, pending: Pending) -> Result<(), Errno> {
        self.state().node(number.0).map(|node| node.change(pending))
    }

    fn sync(&self, number: INodeNo, reply: ReplyEmpty) {
        done(self.state().node(number.0).map(Node::sync), reply);
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.state();
        let removed = state.find(parent.0, name).and_then(|node| {
            if state.names(node).is_ok_and(|names| !names.is_empty()) {
                return Err(Errno::ENOTEMPTY);
            }
            state.name(&[(parent.0, name, None)])
        });
        done(removed, reply);
    }
}

fn done(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn entry(result: Result<FileAttr, Errno>, reply: ReplyEntry) {
    match result {
        Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Served {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = self.state();
        entry(state.find(parent.0, name).and_then(|node| state.attributes(node)), reply);
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.state().attributes(number.0) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.state();
        let set = state.node(number.0).map(|node| {
            // Modes are nothing that a home depends on: they are durable at once.
            node.mode = mode.map_or(node.mode, |mode| mode & 0o7777);
            if let Some(size) = size {
                node.change(Pending::Resize(size as usize));
            }
        });
        match set.and_then(|()| state.attributes(number.0)) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        entry(self.state().make(parent.0, name, Node::new(mode & libc::S_IFMT, mode)), reply);
    }

    fn mkdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        entry(self.state().make(parent.0, name, Node::new(libc::S_IFDIR, mode)), reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut state = self.state();
        let renamed = state
            .find(parent.0, name)
            .and_then(|node| state.name(&[(parent.0, name, None), (new_parent.0, new_name, Some(node))]));
        done(renamed, reply);
    }

    fn create(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.state().make(parent.0, name, Node::new(libc::S_IFREG, mode)) {
            Ok(attr) => reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _request: &Request, _number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _request: &Request,
        number: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.state().node(number.0).map(|node| &node.now) {
            Ok(Body::File(bytes)) => {
                let from = (offset as usize).min(bytes.len());
                reply.data(&bytes[from..(from + size as usize).min(bytes.len())]);
            }
            Ok(_) => reply.error(Errno::EISDIR),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _request: &Request,
        number: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.change(number, Pending::Write { at: offset as usize, bytes: data.to_vec() }) {
            Ok(()) => reply.written(data.len() as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _request: &Request, _number: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _request: &Request, number: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.sync(number, reply);
    }

    fn fsyncdir(&self, _request: &Request, number: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.sync(number, reply);
    }

    fn fallocate(
        &self,
        _request: &Request,
        number: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE {
            return reply.error(Errno::EOPNOTSUPP);
        }
        done(self.change(number, Pending::Zero { at: offset as usize, end: (offset + length) as usize }), reply);
    }

    fn readdir(&self, _request: &Request, number: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut state = self.state();
        let mut listed = vec![(OsString::from("."), number.0), (OsString::from(".."), number.0)];
        match state.names(number.0) {
            Ok(names) => listed.extend(names.iter().map(|(name, node)| (name.clone(), *node))),
            Err(errno) => return reply.error(errno),
        }
        for (at, (name, node)) in listed.into_iter().enumerate().skip(offset as usize) {
            let Ok(attr) = state.attributes(node) else { continue };
            if reply.add(INodeNo(node), at as u64 + 1, attr.kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        reply.statfs(CAPACITY, CAPACITY, CAPACITY, 1 << 20, 1 << 20, PAGE as u32, 255, PAGE as u32);
    }
}

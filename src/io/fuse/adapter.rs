//! The kernel's requests, each answered at once from memory or by a task. The kernel's types end here.

use super::caller;
use super::convert::{errno, file_attr, file_type, lock_type, stale, time_change};
use super::invalidate::Invalidator;
use super::mount::MAX_REQUEST_BYTES;
use super::serving::{GENERATION, Serving, answer, sized};
use crate::id::Ino;
use crate::namespace::{Kind, LockRequest};
use crate::volume::attributes::AttributeChange;
use crate::volume::names::{NewFile, NewNode};
use crate::volume::ports::Refusal;
use crate::volume::{HandleId, OpenFlags, Volume};
use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, InitFlags, IoctlFlags, KernelConfig,
    RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What is asked of the kernel where it has it. Not among them: the write-back cache (the kernel would own size and
/// times and not see other machines' changes), and what fuser 0.18 cannot answer (`SETXATTR_EXT`, `ALLOW_IDMAP`,
/// `SECURITY_CTX`, `CREATE_SUPP_GROUP`). Nor truncation by opening (`ATOMIC_O_TRUNC`): the kernel would empty a program
/// that is running before it notices that it must not.
const CAPABILITIES: [InitFlags; 14] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_POSIX_LOCKS,
    InitFlags::FUSE_FLOCK_LOCKS,
    InitFlags::FUSE_BIG_WRITES,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ABORT_ERROR,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_DONT_MASK,
];

/// Requests the kernel may have in the background at once: read-ahead and direct I/O.
const MAX_BACKGROUND: u16 = 64;

/// The most of one `copy_file_range`; the kernel asks again for the rest.
const MAX_COPY: u64 = 1 << 30;

/// The block size in which `statfs` counts.
const STATFS_BLOCK: u32 = 4096;

pub(super) struct Adapter {
    inner: Arc<Serving>,
    runtime: tokio::runtime::Handle,
}

/// Runs a callback; one that panics has its reply dropped, which answers `EIO`, and the thread lives on.
fn guarded(what: &'static str, callback: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(callback)).is_err() {
        tracing::error!("the answer to {what} panicked; the caller got EIO");
    }
}

fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

fn handle(handle: FileHandle) -> HandleId {
    HandleId(handle.0)
}

impl Adapter {
    pub(super) fn new(
        volume: Volume,
        runtime: tokio::runtime::Handle,
        invalidator: Invalidator,
        cache_for: Duration,
    ) -> Adapter {
        let inner = Serving::new(volume, invalidator, cache_for);
        Adapter { inner: Arc::new(inner), runtime }
    }

    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, task: impl FnOnce(Arc<Serving>) -> F) {
        self.runtime.spawn(task(self.inner.clone()));
    }

    fn make(&self, parent: INodeNo, name: &OsStr, node: NewNode, reply: ReplyEntry) {
        let name = Bytes::copy_from_slice(name.as_bytes());
        self.spawn(|inner| async move {
            let made = inner.volume.make(ino(parent), &name, node).await;
            inner.entry(reply, made);
        });
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            // What an older kernel lacks is done without.
            let _ = config.add_capabilities(capability);
        }
        let _ = config.set_max_write(MAX_REQUEST_BYTES);
        let _ = config.set_max_background(MAX_BACKGROUND);
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.direct_append = config.capabilities().contains(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);
            inner.acls = config.capabilities().contains(InitFlags::FUSE_POSIX_ACL);
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guarded("lookup", || {
            if self.inner.volume.control().in_touch() {
                return self.inner.entry(reply, self.inner.volume.lookup(ino(parent), name.as_bytes()));
            }
            let name = Bytes::copy_from_slice(name.as_bytes());
            self.spawn(|inner| async move {
                let found = match inner.volume.in_touch().await {
                    Ok(()) => inner.volume.lookup(ino(parent), &name),
                    Err(errno) => Err(errno),
                };
                inner.entry(reply, found);
            });
        });
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        guarded("getattr", || self.inner.attr(reply, self.inner.volume.attributes(ino(number))));
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (atime, mtime) = (atime.map(time_change), mtime.map(time_change));
        let change = AttributeChange { mode, uid, gid, size, atime, mtime };
        let caller = request.uid();
        self.spawn(|inner| async move {
            let set = inner.volume.set_attributes(ino(number), change, caller).await;
            inner.attr(reply, set);
        });
    }

    fn readlink(&self, _request: &Request, number: INodeNo, reply: ReplyData) {
        guarded("readlink", || {
            answer!(reply, self.inner.volume.read_link(ino(number)).map_err(stale), target => reply.data(&target));
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = match mode & libc::S_IFMT {
            libc::S_IFREG | 0 => Kind::File,
            format @ (libc::S_IFCHR | libc::S_IFBLK) => Kind::Special { format, device: rdev },
            format @ (libc::S_IFIFO | libc::S_IFSOCK) => Kind::Special { format, device: 0 },
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        let node = NewNode { kind, mode: mode & 0o7777, umask, uid: request.uid(), gid: request.gid() };
        self.make(parent, name, node, reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let node =
            NewNode { kind: Kind::Directory, mode: mode & 0o7777, umask, uid: request.uid(), gid: request.gid() };
        self.make(parent, name, node, reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let kind = Kind::Symlink { target: Bytes::copy_from_slice(target.as_os_str().as_bytes()) };
        self.make(parent, name, NewNode { kind, mode: 0o777, umask: 0, uid: request.uid(), gid: request.gid() }, reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = Bytes::copy_from_slice(name.as_bytes());
        self.spawn(|inner| async move {
            answer!(reply, inner.volume.unlink(ino(parent), &name).await, () => reply.ok());
        });
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = Bytes::copy_from_slice(name.as_bytes());
        self.spawn(|inner| async move {
            answer!(reply, inner.volume.rmdir(ino(parent), &name).await, () => reply.ok());
        });
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, new_name) = (Bytes::copy_from_slice(name.as_bytes()), Bytes::copy_from_slice(new_name.as_bytes()));
        self.spawn(|inner| async move {
            let renamed = inner.volume.rename(ino(parent), &name, ino(new_parent), &new_name, flags.bits()).await;
            answer!(reply, renamed, () => reply.ok());
        });
    }

    fn link(&self, _request: &Request, number: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        let name = Bytes::copy_from_slice(new_name.as_bytes());
        self.spawn(|inner| async move {
            let linked = inner.volume.link(ino(number), ino(new_parent), &name).await;
            inner.entry(reply, linked);
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        guarded("create", || {
            let (parent, mode, uid, gid) = (ino(parent), mode & 0o7777, request.uid(), request.gid());
            let new = NewFile { parent, name: name.as_bytes(), mode, umask, uid, gid, flags };
            match self.inner.volume.create_now(new) {
                Ok(created) => self.inner.created(reply, created, flags),
                Err(Refusal::Errno(error)) => reply.error(errno(error)),
                Err(Refusal::OutOfTouch | Refusal::Elsewhere(_)) => {
                    let name = Bytes::copy_from_slice(name.as_bytes());
                    self.spawn(|inner| async move {
                        let new = NewFile { parent, name: &name, mode, umask, uid, gid, flags };
                        answer!(reply, inner.volume.create(new).await, created => inner.created(reply, created, flags));
                    });
                }
            }
        });
    }

    fn open(&self, _request: &Request, number: INodeNo, flags: fuser::OpenFlags, reply: ReplyOpen) {
        self.spawn(|inner| async move {
            let opened = inner.open(ino(number), OpenFlags::from_libc(flags.0)).await;
            answer!(reply, opened, (handle, flags) => reply.opened(FileHandle(handle.0), flags));
        });
    }

    fn read(
        &self,
        _request: &Request,
        _number: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: fuser::OpenFlags,
        _owner: Option<fuser::LockOwner>,
        reply: ReplyData,
    ) {
        self.spawn(|inner| async move {
            answer!(reply, inner.volume.read(handle(fh), offset, size).await, data => reply.data(&data));
        });
    }

    fn write(
        &self,
        _request: &Request,
        _number: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: fuser::OpenFlags,
        _owner: Option<fuser::LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = Bytes::copy_from_slice(data);
        self.spawn(|inner| async move {
            let written = inner.write(handle(fh), offset, data, write_flags).await;
            answer!(reply, written, bytes => reply.written(bytes));
        });
    }

    fn flush(&self, _request: &Request, number: INodeNo, fh: FileHandle, owner: fuser::LockOwner, reply: ReplyEmpty) {
        self.spawn(|inner| async move {
            let flushed = inner.volume.flush(handle(fh)).await;
            // Any close lets go of the process' byte-range locks; after the flush, so that who gets them next sees
            // what was written under them.
            inner.volume.control().unlock(ino(number), owner.0, 0, u64::MAX).await;
            answer!(reply, flushed, () => reply.ok());
        });
    }

    fn release(
        &self,
        _request: &Request,
        number: INodeNo,
        fh: FileHandle,
        _flags: fuser::OpenFlags,
        owner: Option<fuser::LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.spawn(|inner| async move {
            if let Some(owner) = owner {
                inner.volume.control().unlock(ino(number), owner.0, 0, u64::MAX).await;
            }
            inner.release(ino(number), handle(fh)).await;
            reply.ok();
        });
    }

    fn fsync(&self, _request: &Request, _number: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.spawn(|inner| async move {
            answer!(reply, inner.volume.fsync(handle(fh)).await, () => reply.ok());
        });
    }

    fn opendir(&self, _request: &Request, number: INodeNo, _flags: fuser::OpenFlags, reply: ReplyOpen) {
        guarded("opendir", || {
            if self.inner.volume.control().in_touch() {
                return self.inner.open_directory(ino(number), reply);
            }
            self.spawn(|inner| async move {
                match inner.volume.in_touch().await {
                    Ok(()) => inner.open_directory(ino(number), reply),
                    Err(error) => reply.error(errno(error)),
                }
            });
        });
    }

    fn readdir(&self, _request: &Request, _number: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        guarded("readdir", || {
            let read = self.inner.directory(fh).and_then(|directory| {
                directory.read(offset, &mut |listed| {
                    let name = OsStr::from_bytes(&listed.name);
                    !reply.add(INodeNo(listed.ino.0), listed.next, file_type(listed.format), name)
                })
            });
            answer!(reply, read, () => reply.ok());
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _number: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        guarded("readdirplus", || {
            let inner = &self.inner;
            let read = inner.directory(fh).and_then(|directory| {
                directory.read(offset, &mut |listed| {
                    // One that went in the meantime is left out.
                    let Some(attributes) = directory.attributes(&listed) else { return true };
                    let (name, attr) = (OsStr::from_bytes(&listed.name), file_attr(&attributes));
                    !reply.add(attr.ino, listed.next, name, &inner.cache_for, &attr, GENERATION)
                })
            });
            answer!(reply, read, () => reply.ok());
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _number: INodeNo,
        fh: FileHandle,
        _flags: fuser::OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.inner.drop_directory(fh);
        reply.ok();
    }

    fn fsyncdir(&self, _request: &Request, _number: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.spawn(|inner| async move {
            answer!(reply, inner.volume.sync_names().await, () => reply.ok());
        });
    }

    fn statfs(&self, _request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        guarded("statfs", || {
            let figures = self.inner.volume.figures();
            let block = u64::from(STATFS_BLOCK);
            let (used, free) = (figures.used.div_ceil(block), figures.free / block);
            // Inodes have no limit of their own; a number far away keeps `df -i` and installers content.
            let inodes_free = u64::from(u32::MAX);
            let inodes = figures.inodes + inodes_free;
            reply.statfs(used + free, free, free, inodes, inodes_free, STATFS_BLOCK, 255, STATFS_BLOCK);
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (Bytes::copy_from_slice(name.as_bytes()), Bytes::copy_from_slice(value));
        let (number, uid, gid, thread) = (ino(number), request.uid(), request.gid(), request.pid());
        self.spawn(|inner| async move {
            let set = match inner.acl(&name) {
                Ok(true) => {
                    let outsider = uid != 0
                        && inner
                            .volume
                            .attributes(number)
                            .is_ok_and(|of| of.gid != gid && !caller::is_in_group(thread, of.gid));
                    inner.volume.set_acl(number, &name, &value, outsider).await
                }
                Ok(false) => inner.volume.set_xattr(number, &name, &value, flags).await,
                Err(error) => Err(error),
            };
            answer!(reply, set.map_err(stale), () => reply.ok());
        });
    }

    fn getxattr(&self, _request: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        guarded("getxattr", || {
            let value = self.inner.acl(name.as_bytes());
            let value = value.and_then(|_| self.inner.volume.xattr(ino(number), name.as_bytes())).map_err(stale);
            answer!(reply, value, value => sized(reply, size, &value));
        });
    }

    fn listxattr(&self, _request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        guarded("listxattr", || {
            answer!(reply, self.inner.volume.xattrs(ino(number)).map_err(stale), list => sized(reply, size, &list));
        });
    }

    fn removexattr(&self, _request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = Bytes::copy_from_slice(name.as_bytes());
        self.spawn(|inner| async move {
            let removed = match inner.acl(&name) {
                Ok(_) => inner.volume.remove_xattr(ino(number), &name).await,
                Err(error) => Err(error),
            };
            answer!(reply, removed.map_err(stale), () => reply.ok());
        });
    }

    fn getlk(
        &self,
        _request: &Request,
        number: INodeNo,
        _fh: FileHandle,
        owner: fuser::LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        match self.inner.asked_lock(ino(number), owner, start, end, kind, pid) {
            Ok(None) => reply.locked(start, end, libc::F_UNLCK, 0),
            Ok(Some(wanted)) => self.spawn(|inner| async move {
                let request = LockRequest::Test { lock: wanted };
                answer!(reply, inner.volume.control().lock(ino(number), request).await, held => match held {
                    Some(held) => reply.locked(held.first, held.last, lock_type(held.kind), held.pid),
                    None => reply.locked(start, end, libc::F_UNLCK, 0),
                });
            }),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setlk(
        &self,
        request: &Request,
        number: INodeNo,
        _fh: FileHandle,
        owner: fuser::LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let thread = request.pid();
        match self.inner.asked_lock(ino(number), owner, start, end, kind, pid) {
            Ok(Some(wanted)) => self.spawn(|inner| async move {
                let locked = inner.lock(ino(number), wanted, sleep, thread).await;
                answer!(reply, locked, () => reply.ok());
            }),
            Ok(None) => self.spawn(|inner| async move {
                inner.volume.control().unlock(ino(number), owner.0, start, end).await;
                reply.ok();
            }),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn fallocate(
        &self,
        request: &Request,
        _number: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let suid = request.uid() != 0;
        self.spawn(|inner| async move {
            let allocated = match inner.volume.before_change(handle(fh), suid).await {
                Ok(()) => inner.volume.allocate(handle(fh), offset, length, mode).await,
                Err(error) => Err(error),
            };
            answer!(reply, allocated, () => reply.ok());
        });
    }

    fn lseek(&self, _request: &Request, _number: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.spawn(|inner| async move {
            answer!(reply, inner.volume.seek(handle(fh), offset, whence).await, found => reply.offset(found));
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _from: INodeNo,
        from_fh: FileHandle,
        from_offset: u64,
        _to: INodeNo,
        to_fh: FileHandle,
        to_offset: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (len, suid) = (len.min(MAX_COPY), request.uid() != 0);
        self.spawn(|inner| async move {
            let (from, to) = (handle(from_fh), handle(to_fh));
            let copied = match inner.volume.before_change(to, suid).await {
                Ok(()) => inner.volume.copy_range(from, from_offset, to, to_offset, len).await,
                Err(error) => Err(error),
            };
            answer!(reply, copied, bytes => reply.written(u32::try_from(bytes).unwrap_or(u32::MAX)));
        });
    }

    // Not for a file system of this kind; the kernel remembers the answer.

    fn ioctl(
        &self,
        _request: &Request,
        _number: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    fn bmap(&self, _request: &Request, _number: INodeNo, _block_size: u32, _index: u64, reply: ReplyBmap) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn poll(
        &self,
        _request: &Request,
        _number: INodeNo,
        _fh: FileHandle,
        _notifier: fuser::PollNotifier,
        _events: fuser::PollEvents,
        _flags: fuser::PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }
}

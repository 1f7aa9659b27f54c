//! Between the kernel's types and the volume's.

use crate::id::PeerTag;
use crate::namespace;
use crate::time::WallTime;
use crate::volume::Attributes;
use crate::volume::attributes::TimeChange;
use crate::volume::ports::Errno;
use fuser::{FileAttr, FileType, INodeNo, LockOwner, TimeOrNow};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What `stat` names as the best size of a transfer: that of a copying program's buffer.
const BLOCK_SIZE: u32 = 128 << 10;

pub(super) fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.0)
}

/// For a request about an inode by its number, which the kernel has from a name: where the inode is gone, the name
/// may stand for another by now. `ESTALE` makes the kernel look it up again; `ENOENT` would reach the program.
pub(super) fn stale(errno: Errno) -> Errno {
    if errno.0 == libc::ENOENT { Errno(libc::ESTALE) } else { errno }
}

pub(super) fn file_type(format: u32) -> FileType {
    match format & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

pub(super) fn file_attr(of: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(of.ino.0),
        size: of.size,
        blocks: of.blocks512,
        atime: system_time(of.atime),
        mtime: system_time(of.mtime),
        ctime: system_time(of.ctime),
        crtime: system_time(of.btime),
        kind: file_type(of.format),
        perm: (of.mode & 0o7777) as u16,
        nlink: of.nlink,
        uid: of.uid,
        gid: of.gid,
        rdev: of.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

fn system_time(time: WallTime) -> SystemTime {
    let distance = Duration::from_nanos(time.0.unsigned_abs());
    if time.0 >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance }
}

pub(super) fn time_change(time: TimeOrNow) -> TimeChange {
    match time {
        TimeOrNow::Now => TimeChange::Now,
        TimeOrNow::SpecificTime(time) => TimeChange::At(wall_time(time)),
    }
}

/// The time the caller of `utimensat` meant, as near as nanoseconds in 64 bits come to it (1677 to 2262). For a
/// time before 1970 fuser takes the nanoseconds off where they were to be added; this undoes it.
fn wall_time(time: SystemTime) -> WallTime {
    const SECOND: i128 = 1_000_000_000;
    let nanos = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos().try_into().unwrap_or(i128::MAX),
        Err(error) => {
            let before = error.duration();
            i128::from(before.subsec_nanos()) - i128::from(before.as_secs()) * SECOND
        }
    };
    WallTime(i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX }))
}

/// A request for a lock, in a file that may be memory; `None` is for unlocking.
pub(super) fn lock(
    peer: PeerTag,
    owner: LockOwner,
    first: u64,
    last: u64,
    kind: i32,
    pid: u32,
    memory: bool,
) -> Result<Option<namespace::Lock>, Errno> {
    let kind = match kind {
        libc::F_RDLCK if memory => namespace::LockKind::SharedHere,
        libc::F_RDLCK => namespace::LockKind::Shared,
        libc::F_WRLCK => namespace::LockKind::Exclusive,
        libc::F_UNLCK => return Ok(None),
        _ => return Err(Errno(libc::EINVAL)),
    };
    if first > last {
        return Err(Errno(libc::EINVAL));
    }
    let owner = namespace::LockOwner { peer, number: owner.0 };
    Ok(Some(namespace::Lock { owner, kind, first, last, pid }))
}

pub(super) fn lock_type(kind: namespace::LockKind) -> i32 {
    match kind {
        namespace::LockKind::Shared | namespace::LockKind::SharedHere => libc::F_RDLCK,
        namespace::LockKind::Exclusive => libc::F_WRLCK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_their_fraction() {
        // What fuser makes of -1 s + 0.25 s.
        let fuser_gives = UNIX_EPOCH - Duration::new(1, 250_000_000);
        assert_eq!(wall_time(fuser_gives), WallTime(-750_000_000));
        assert_eq!(wall_time(UNIX_EPOCH + Duration::new(1, 5)), WallTime(1_000_000_005));
        assert_eq!(system_time(WallTime(-750_000_000)), UNIX_EPOCH - Duration::from_millis(750));
    }

    #[test]
    fn times_out_of_range_are_clamped() {
        assert_eq!(wall_time(UNIX_EPOCH + Duration::from_secs(1 << 40)), WallTime(i64::MAX));
        assert_eq!(wall_time(UNIX_EPOCH - Duration::from_secs(1 << 40)), WallTime(i64::MIN));
    }
}

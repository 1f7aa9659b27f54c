//! The few system calls that the standard library lacks, and the two ways of writing files that last.

use sha2::{Digest, Sha256};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of a file system: what an ordinary user may still take, and its size.
pub(super) struct Space {
    pub available: u64,
    pub capacity: u64,
}

/// The space of the file system that `path` lies on.
pub(super) fn space(path: &Path) -> io::Result<Space> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` ends in NUL and `stat` is large enough; it is read only when the call filled it.
    let stat = unsafe {
        if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        stat.assume_init()
    };
    let unit = stat.f_frsize;
    Ok(Space { available: unit.saturating_mul(stat.f_bavail), capacity: unit.saturating_mul(stat.f_blocks) })
}

/// A number that stands for the file system `path` lies on: the same for all processes of one machine (its boot and the
/// number of the device), and nowhere else. 0 where it cannot be told.
pub(super) fn file_system(path: &Path) -> u64 {
    let Ok(boot) = std::fs::read("/proc/sys/kernel/random/boot_id") else { return 0 };
    let Ok(at) = std::fs::metadata(path) else { return 0 };
    let digest = Sha256::new().chain_update(&boot).chain_update(at.dev().to_le_bytes()).finalize();
    u64::from_le_bytes(digest[..8].try_into().unwrap_or_default()).max(1)
}

/// Gives the disk blocks wholly inside the range back; the range then reads as zeros. File systems that cannot
/// are left as they are.
pub(super) fn punch(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: plain values and an open descriptor.
    if unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, len as i64) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::EOPNOTSUPP) { Ok(()) } else { Err(error) }
}

/// Writes both parts at `offset`, one after the other, in one call where the kernel takes it all.
pub(super) fn write_both_at(file: &File, head: &[u8], body: &[u8], offset: u64) -> io::Result<()> {
    let total = head.len() + body.len();
    let mut done = 0;
    while done < total {
        let head_left = &head[done.min(head.len())..];
        let body_left = &body[done.saturating_sub(head.len())..];
        let parts = [IoSlice::new(head_left), IoSlice::new(body_left)];
        // SAFETY: IoSlice has the layout of iovec, and both slices live through the call.
        let count = unsafe {
            libc::pwritev(file.as_raw_fd(), parts.as_ptr().cast(), parts.len() as i32, (offset + done as u64) as i64)
        };
        match count {
            1.. => done += count as usize,
            0 => return Err(io::ErrorKind::WriteZero.into()),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// Up to `len` bytes at `offset`: fewer only at the end of the file. The buffer is not zeroed first.
pub(super) fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes: Vec<u8> = Vec::with_capacity(len);
    while bytes.len() < len {
        let done = bytes.len();
        let room = &mut bytes.spare_capacity_mut()[..len - done];
        // SAFETY: the kernel writes at most `room.len()` bytes there, and `count` of them are then filled.
        let count = unsafe {
            let count =
                libc::pread(file.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), (offset + done as u64) as i64);
            if count > 0 {
                bytes.set_len(done + count as usize);
            }
            count
        };
        match count {
            1.. => {}
            0 => break,
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(bytes)
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes the name of a file or directory durable.
pub(super) fn sync_name(path: &Path) -> io::Result<()> {
    sync_directory(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// Writes a whole small file so that after a crash it is there entirely or not at all. Durable on return.
pub fn write_whole(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_name(path)
}

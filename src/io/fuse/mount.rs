//! Mounting and unmounting: `mount(2)` as root, the `fusermount3` program otherwise.
//!
//! fuser's own mount code may take down a newer mount at the same place, so only its session is used.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The largest read and write of one request, in bytes.
pub(super) const MAX_REQUEST_BYTES: u32 = 1 << 20;

/// Why a share could not be mounted or unmounted, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("the mountpoint {} does not exist: create it with 'mkdir -p {}'", .0.display(), .0.display())]
    Missing(PathBuf),
    #[error("the mountpoint {} is not a directory: choose an empty directory", .0.display())]
    NotDirectory(PathBuf),
    #[error("the mountpoint {} is not empty, and mounting would hide what is in it: choose an empty directory", .0.display())]
    NotEmpty(PathBuf),
    #[error("something is already mounted at {}: unmount it with 'umount {}', or choose another directory", .0.display(), .0.display())]
    AlreadyMounted(PathBuf),
    #[error("a mount whose process is gone is still at {}: remove it with 'umount -l {}'", .0.display(), .0.display())]
    Stale(PathBuf),
    #[error(
        "there is no FUSE device at /dev/fuse: load the module with 'modprobe fuse'; a container needs '--device /dev/fuse --cap-add SYS_ADMIN'"
    )]
    NoDevice,
    #[error("mounting at {} is not permitted ({why}): run as root, or install the fuse3 package", .path.display())]
    NotPermitted { path: PathBuf, why: String },
    #[error("nothing of this peer is mounted at {}", .0.display())]
    NotMounted(PathBuf),
    #[error("{} cannot be {doing}: {why}", .path.display())]
    Failed { path: PathBuf, doing: &'static str, why: String },
}

/// Who may use a mount, and how the kernel shows it.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// How long the kernel trusts a name or attributes without asking again. By default not at all: an `open` that
    /// starts after a `close` on another machine sees what that wrote, and an announcement to the kernel may
    /// come later than the first of these. Asking costs one answer from memory.
    pub cache_for: Duration,
    /// Threads that take requests from the kernel.
    pub threads: usize,
    /// Bytes the kernel reads ahead of a sequential reader. Only root can set it.
    pub read_ahead: u32,
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions { cache_for: Duration::ZERO, threads: 2, read_ahead: 4 << 20 }
    }
}

/// A device of the kernel's `major:minor`, as `/proc/self/mountinfo` prints it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Device(String);

/// A kernel connection that is mounted and not served yet.
pub(super) struct Connection {
    pub fd: OwnedFd,
    /// The mountpoint without symlinks and relative parts.
    pub mountpoint: PathBuf,
    /// Tells this mount from a later one at the same place; unknown where `/proc` is not mounted.
    pub device: Option<Device>,
}

/// Whether this process may call `mount(2)`.
pub(super) fn is_root() -> bool {
    // SAFETY: takes no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Checks the mountpoint and mounts there.
pub(super) fn mount(mountpoint: &Path) -> Result<Connection, MountError> {
    let mountpoint = check(mountpoint)?;
    let fd = match open_device() {
        Ok(fd) => fd,
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => return Err(MountError::NoDevice),
            _ => {
                return Err(MountError::NotPermitted {
                    path: mountpoint,
                    why: format!("/dev/fuse: {error}; root can open it to all with 'chmod 666 /dev/fuse'"),
                });
            }
        },
    };
    let fd = if is_root() {
        mount_directly(fd, &mountpoint)?
    } else {
        drop(fd);
        mount_by_program(&mountpoint)?
    };
    let device = device_at(&mountpoint);
    Ok(Connection { fd, mountpoint, device })
}

/// Sets how far the kernel reads ahead; after the handshake, which limits it. Its 128 KiB would make eight requests
/// of one block. A failure costs speed only.
pub(super) fn set_read_ahead(device: &Device, bytes: u32) {
    let setting = format!("/sys/class/bdi/{}/read_ahead_kb", device.0);
    if let Err(error) = std::fs::write(&setting, (bytes / 1024).to_string()) {
        tracing::debug!(%error, setting, "the kernel's read-ahead stays small");
    }
}

/// Lets go of the mount if it is still the one that was made.
pub(super) fn unmount(mountpoint: &Path, device: Option<&Device>) -> Result<(), MountError> {
    if let (Some(ours), Some(there)) = (device, device_at(mountpoint))
        && *ours != there
    {
        return Err(MountError::NotMounted(mountpoint.to_owned()));
    }
    let failed = |why: String| MountError::Failed { path: mountpoint.to_owned(), doing: "unmounted", why };
    let path = c_path(mountpoint)?;
    // SAFETY: `path` is a C string that lives through the call.
    if unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EPERM) => {
            let output = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(mountpoint).output();
            match output {
                Ok(output) if output.status.success() => Ok(()),
                Ok(output) => Err(failed(one_line(&output.stderr))),
                Err(error) => Err(failed(format!("fusermount3: {error}; install the fuse3 package"))),
            }
        }
        error if error.raw_os_error() == Some(libc::EINVAL) => Err(MountError::NotMounted(mountpoint.to_owned())),
        error => Err(failed(error.to_string())),
    }
}

fn check(mountpoint: &Path) -> Result<PathBuf, MountError> {
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(libc::ENOENT) => MountError::Missing(mountpoint.to_owned()),
        Some(libc::ENOTDIR) => MountError::NotDirectory(mountpoint.to_owned()),
        Some(libc::ENOTCONN | libc::ECONNABORTED) => MountError::Stale(mountpoint.to_owned()),
        _ => MountError::Failed { path: mountpoint.to_owned(), doing: "used as a mountpoint", why: error.to_string() },
    };
    let path = mountpoint.canonicalize().map_err(failed)?;
    if !path.metadata().map_err(failed)?.is_dir() {
        return Err(MountError::NotDirectory(path));
    }
    if device_at(&path).is_some() {
        return Err(MountError::AlreadyMounted(path));
    }
    match path.read_dir().map_err(failed)?.next() {
        None => Ok(path),
        Some(_) => Err(MountError::NotEmpty(path)),
    }
}

fn open_device() -> io::Result<OwnedFd> {
    let file = std::fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/fuse")?;
    // Something else may lie there: containers put /dev/null over what they hide.
    if file.metadata()?.rdev() != libc::makedev(10, 229) {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    Ok(file.into())
}

fn mount_directly(fd: OwnedFd, mountpoint: &Path) -> Result<OwnedFd, MountError> {
    // SAFETY: take no arguments and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let data = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},allow_other,default_permissions,max_read={MAX_REQUEST_BYTES}",
        fd.as_raw_fd()
    );
    let data = CString::new(data).expect("no NUL among the options");
    let path = c_path(mountpoint)?;
    let flags = libc::MS_NODEV | libc::MS_NOSUID | libc::MS_NOATIME;
    // SAFETY: all four are C strings that live through the call.
    let result =
        unsafe { libc::mount(c"shoal".as_ptr(), path.as_ptr(), c"fuse.shoal".as_ptr(), flags, data.as_ptr().cast()) };
    if result == 0 {
        return Ok(fd);
    }
    let error = io::Error::last_os_error();
    let path = mountpoint.to_owned();
    Err(match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            MountError::NotPermitted { path, why: format!("mount: {error}; in a container, add '--cap-add SYS_ADMIN'") }
        }
        Some(libc::ENODEV) => MountError::NoDevice,
        _ => MountError::Failed { path, doing: "mounted", why: error.to_string() },
    })
}

/// `fusermount3` mounts for us and hands the descriptor back over a socket.
fn mount_by_program(mountpoint: &Path) -> Result<OwnedFd, MountError> {
    let refused = |why: String| MountError::NotPermitted { path: mountpoint.to_owned(), why };
    let (ours, theirs) = UnixStream::pair().map_err(|error| refused(error.to_string()))?;
    let theirs_fd = theirs.as_raw_fd();
    let options =
        format!("fsname=shoal,subtype=shoal,default_permissions,nodev,nosuid,noatime,max_read={MAX_REQUEST_BYTES}");
    let mut command = Command::new("fusermount3");
    command.arg("-o").arg(options).arg("--").arg(mountpoint);
    command.env("_FUSE_COMMFD", theirs_fd.to_string()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: between fork and exec only fcntl is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(move || match libc::fcntl(theirs_fd, libc::F_SETFD, 0) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    let child = command.spawn().map_err(|error| refused(format!("fusermount3: {error}")))?;
    drop(theirs);
    let received = receive_descriptor(&ours);
    let output = child.wait_with_output().map_err(|error| refused(format!("fusermount3: {error}")))?;
    match received {
        Ok(fd) if output.status.success() => Ok(fd),
        _ => Err(refused(one_line(&output.stderr))),
    }
}

fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
    // A program that never answers must not hold us.
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut byte = [0u8; 1];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // Room for one descriptor, aligned as a header must be.
    let mut control = [0u64; 8];
    // SAFETY: all-zero is a valid msghdr; its pointers are set below to buffers that live through the call.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = std::mem::size_of_val(&control);
    // SAFETY: the descriptor is open and `message` describes live buffers of the stated sizes.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    let none = || io::Error::new(io::ErrorKind::UnexpectedEof, "no descriptor came");
    // SAFETY: the kernel filled `message`; the macros stay within its control buffer, and a descriptor that came
    // with SCM_RIGHTS is ours alone.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        if header.is_null() || (*header).cmsg_level != libc::SOL_SOCKET || (*header).cmsg_type != libc::SCM_RIGHTS {
            return Err(none());
        }
        let fd = libc::CMSG_DATA(header).cast::<i32>().read_unaligned();
        if fd < 0 { Err(none()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// The device of the uppermost mount at exactly this path.
fn device_at(path: &Path) -> Option<Device> {
    let table = std::fs::read("/proc/self/mountinfo").ok()?;
    table.split(|byte| *byte == b'\n').rev().find_map(|line| {
        // 36 35 98:0 /root /mount/point options ...
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        let (device, _root, at) = (fields.next()?, fields.next()?, fields.next()?);
        (unescape(at) == path.as_os_str()).then(|| Device(String::from_utf8_lossy(device).into_owned()))
    })
}

/// Undoes the kernel's `\040` for a space, and the like.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\').then(|| tail.get(..3)).flatten().and_then(|digits| {
            digits.iter().try_fold(0u32, |sum, digit| (*digit as char).to_digit(8).map(|digit| sum * 8 + digit))
        });
        match octal.and_then(|code| u8::try_from(code).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes)
}

fn c_path(path: &Path) -> Result<CString, MountError> {
    CString::new(OsStr::as_bytes(path.as_os_str())).map_err(|_| MountError::Missing(path.to_owned()))
}

fn one_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "fusermount3 failed without a word".into() } else { lines.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bad_mountpoint_is_named_with_a_remedy() {
        let home = tempfile::tempdir().unwrap();
        let check = |path: &Path| check(path).unwrap_err().to_string();
        let missing = check(&home.path().join("absent"));
        assert!(missing.contains("does not exist") && missing.contains("mkdir -p"), "{missing}");
        let file = home.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(check(&file).contains("is not a directory"));
        assert!(check(&file.join("below")).contains("is not a directory"));
        assert!(check(home.path()).contains("is not empty"));
        assert!(check(Path::new("/proc")).contains("already mounted"));
        for text in [missing, check(&file), check(home.path()), check(Path::new("/proc"))] {
            assert_eq!(text.lines().count(), 1);
        }
    }

    #[test]
    fn escaped_mountpoints_are_read_back() {
        assert_eq!(unescape(br"/mnt/a\040b\134c"), OsStr::new(r"/mnt/a b\c"));
        assert_eq!(unescape(br"/mnt/\"), OsStr::new(r"/mnt/\"));
        assert_eq!(unescape(br"/mnt/\777"), OsStr::new(r"/mnt/\777"));
    }

    #[test]
    fn unmounting_what_is_not_mounted_says_so() {
        let home = tempfile::tempdir().unwrap();
        assert!(matches!(unmount(home.path(), None), Err(MountError::NotMounted(_) | MountError::Failed { .. })));
    }
}

//! Which path of the share a person means, and where shares are mounted on this machine.

use super::{LOOK_DEADLINE, unexpected};
use crate::io::control::{ByteText, Client, ControlReply, ControlRequest};
use anyhow::{Context, bail};
use std::ffi::{CString, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// How long a mountpoint may take to say what it is. A peer answers that from memory.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// How the kernel names the file system of a mount of a share.
const FILE_SYSTEM: &[u8] = b"fuse.shoal";

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mounted {
    /// `major:minor`: the same for every bind mount of one mount.
    pub device: String,
    /// The directory of the file system that is seen at the mountpoint.
    pub root: PathBuf,
    pub mountpoint: PathBuf,
    pub is_share: bool,
}

/// The absolute path in the share for a path inside a mount of it, or for one with a leading `/` outside any.
pub fn in_share(client: &Client, given: &Path) -> anyhow::Result<ByteText> {
    let mounts = mounts()?;
    let ours = our_mounts(client)?;
    let mut place = locate(&absolute(given)?, &mounts, &ours);
    if place == Place::Outside {
        // A link outside that leads into a mount.
        let real = std::fs::canonicalize(given);
        place = real.map_or(Place::Outside, |real| locate(&real, &mounts, &ours));
    }
    match place {
        Place::Ours(path) => Ok(ByteText::from(path.as_path())),
        Place::Foreign(mountpoint) => bail!(
            "{} lies in the mount {} of another peer's home than {}; give that home with --home",
            given.display(),
            mountpoint.display(),
            client.home().display()
        ),
        Place::Outside if given.is_absolute() => Ok(ByteText::from(lexical(given).as_path())),
        Place::Outside => bail!(
            "{} is in no mount of this share; give a path inside a mount, or its path in the share with a leading /",
            given.display()
        ),
    }
}

/// Where the peer has the share mounted.
pub fn our_mounts(client: &Client) -> anyhow::Result<Vec<PathBuf>> {
    match client.call(&ControlRequest::WhichMounts, LOOK_DEADLINE, |_| ())? {
        ControlReply::Mounts(mounts) => Ok(mounts.iter().map(|mount| mount.mountpoint.to_path()).collect()),
        other => Err(unexpected(&other)),
    }
}

/// The real absolute path, but for a symbolic link at its end: that is meant itself. Where directories on the way
/// are missing, the path as it is written.
pub fn absolute(given: &Path) -> anyhow::Result<PathBuf> {
    let written = std::path::absolute(given).with_context(|| format!("'{}' is no path", given.display()))?;
    let real = match (written.parent(), written.components().next_back()) {
        (Some(parent), Some(Component::Normal(name))) => std::fs::canonicalize(parent).map(|parent| parent.join(name)),
        _ => std::fs::canonicalize(&written),
    };
    Ok(real.unwrap_or_else(|_| lexical(&written)))
}

/// The mount of a share at exactly this path.
pub fn mount_at(mountpoint: &Path) -> anyhow::Result<Option<Mounted>> {
    Ok(mounts()?.into_iter().rev().find(|mount| mount.mountpoint == mountpoint).filter(|mount| mount.is_share))
}

/// A mount of anything at or below a directory.
pub fn mounted_below(directory: &Path) -> anyhow::Result<Option<PathBuf>> {
    Ok(mounts()?.into_iter().map(|mount| mount.mountpoint).find(|mountpoint| mountpoint.starts_with(directory)))
}

/// What a mountpoint says when it is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Something,
    /// The process behind the mount is gone, and the kernel knows it.
    Gone,
    /// Nothing within the time for it.
    Nothing,
}

/// Asks a mountpoint for its attributes, in a thread that is left behind where no answer comes.
pub fn answer(mountpoint: &Path) -> Answer {
    let (said, hears) = mpsc::channel();
    let path = mountpoint.to_owned();
    std::thread::spawn(move || {
        let _ = said.send(std::fs::metadata(path));
    });
    match hears.recv_timeout(ANSWER_DEADLINE) {
        Err(_) => Answer::Nothing,
        Ok(Err(error)) if matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)) => Answer::Gone,
        Ok(_) => Answer::Something,
    }
}

/// Lets go of a mount at once, whatever is behind it.
pub fn detach(mountpoint: &Path) -> anyhow::Result<()> {
    let detached = match umount(mountpoint, libc::MNT_DETACH) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => umount_by_program(mountpoint).or(Err(error)),
        other => other,
    };
    detached.with_context(|| format!("{} cannot be unmounted", mountpoint.display()))
}

/// The same, and has every call that waits in it fail. Only for a mount that no living process serves.
pub fn abort(mount: &Mounted) -> anyhow::Result<()> {
    match umount(&mount.mountpoint, libc::MNT_FORCE | libc::MNT_DETACH) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            // The kernel gives this to who mounted.
            let connection = mount.device.rsplit(':').next().unwrap_or_default();
            let switch = format!("/sys/fs/fuse/connections/{connection}/abort");
            std::fs::write(&switch, "1").with_context(|| {
                let shown = mount.mountpoint.display();
                format!("{shown} is stuck, and {switch} cannot be used to end it; run umount -f -l {shown} as root")
            })?;
            detach(&mount.mountpoint)
        }
        other => other.with_context(|| format!("{} cannot be unmounted", mount.mountpoint.display())),
    }
}

fn umount(mountpoint: &Path, flags: libc::c_int) -> std::io::Result<()> {
    let path = CString::new(mountpoint.as_os_str().as_bytes())?;
    // SAFETY: the path is a string that ends with a zero byte and lives through the call.
    match unsafe { libc::umount2(path.as_ptr(), flags) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn umount_by_program(mountpoint: &Path) -> std::io::Result<()> {
    let helper = std::process::Command::new("fusermount3").args(["-u", "-z", "--"]).arg(mountpoint).output()?;
    if helper.status.success() { Ok(()) } else { Err(std::io::ErrorKind::PermissionDenied.into()) }
}

fn mounts() -> anyhow::Result<Vec<Mounted>> {
    let text = std::fs::read("/proc/self/mountinfo").context("/proc/self/mountinfo cannot be read")?;
    Ok(text.split(|&byte| byte == b'\n').filter_map(parse).collect())
}

/// `36 35 98:0 /root /mountpoint options [tags] - type source options`.
fn parse(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let root = unescape(fields.next()?);
    let mountpoint = unescape(fields.next()?);
    fields.find(|field| field == b"-")?;
    Some(Mounted { device, root, mountpoint, is_share: fields.next()? == FILE_SYSTEM })
}

/// The kernel writes blanks, line ends and backslashes as a backslash and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if first == b'\\' => {
                Some(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'))
            }
            _ => None,
        };
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[derive(PartialEq, Eq, Debug)]
enum Place {
    /// A path in the share.
    Ours(PathBuf),
    /// In this mount of another peer.
    Foreign(PathBuf),
    Outside,
}

fn locate(absolute: &Path, mounts: &[Mounted], ours: &[PathBuf]) -> Place {
    // The longest mountpoint wins; among equal ones the last, which covers the others.
    let holding = mounts.iter().filter(|mount| absolute.starts_with(&mount.mountpoint));
    let Some(mount) = holding.max_by_key(|mount| mount.mountpoint.as_os_str().len()).filter(|mount| mount.is_share)
    else {
        return Place::Outside;
    };
    let is_ours =
        mounts.iter().any(|other| other.is_share && other.device == mount.device && ours.contains(&other.mountpoint));
    match absolute.strip_prefix(&mount.mountpoint) {
        Ok(inside) if is_ours => Place::Ours(lexical(&mount.root.join(inside))),
        _ => Place::Foreign(mount.mountpoint.clone()),
    }
}

/// An absolute path without `.`, `..` and doubled slashes, as it is written.
fn lexical(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
90 22 0:50 / /mnt/shared rw,nosuid shared:7 master:1 - fuse.shoal shoal rw,user_id=0
91 22 0:51 / /mnt/other rw - fuse.shoal shoal rw
92 22 0:50 /photos /home/me/my\040photos rw - fuse.shoal shoal rw
93 90 0:52 / /mnt/shared/tmp rw - tmpfs tmpfs rw
";

    fn place(path: &str) -> Place {
        let mounts: Vec<Mounted> = LINES.as_bytes().split(|&b| b == b'\n').filter_map(parse).collect();
        assert_eq!(mounts.len(), 5);
        locate(Path::new(path), &mounts, &[PathBuf::from("/mnt/shared")])
    }

    #[test]
    fn a_path_inside_a_mount_is_the_path_in_the_share() {
        let ours = |path: &str| Place::Ours(path.into());
        assert_eq!(place("/mnt/shared"), ours("/"));
        assert_eq!(place("/mnt/shared/a/b c"), ours("/a/b c"));
        assert_eq!(place("/home/me/my photos/x.jpg"), ours("/photos/x.jpg"));
    }

    #[test]
    fn other_mounts_and_what_covers_a_mount_are_not_ours() {
        assert_eq!(place("/mnt/other/a"), Place::Foreign("/mnt/other".into()));
        assert_eq!(place("/mnt/shared/tmp/a"), Place::Outside);
        assert_eq!(place("/mnt/sharedmore"), Place::Outside);
        assert_eq!(place("/a"), Place::Outside);
    }

    #[test]
    fn a_link_at_the_end_is_meant_itself() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("d")).unwrap();
        std::os::unix::fs::symlink("d", real.join("link")).unwrap();
        assert_eq!(absolute(&real.join("link")).unwrap(), real.join("link"));
        assert_eq!(absolute(&real.join("link/inside")).unwrap(), real.join("d/inside"));
        assert_eq!(absolute(Path::new("/no/such/../place/")).unwrap(), Path::new("/no/place"));
    }

    #[test]
    fn escapes_of_the_kernel_are_undone() {
        assert_eq!(unescape(br"/a\040b\134c\011"), Path::new("/a b\\c\t"));
        assert_eq!(unescape(br"/a\9\04"), Path::new(r"/a\9\04"));
    }
}

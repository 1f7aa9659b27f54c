//! Trees of files with everything a file can carry, and what two trees that should be equal differ in.

use super::command::tool;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Sizes around every boundary of the content path.
pub const SIZES: &[usize] =
    &[0, 1, 4095, 4096, 4097, 65_536, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 * (1 << 20) + 17];

/// Bytes that no two seeds share and no compressor likes.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Makes a tree under `dir` with some of everything: sizes, holes, links, modes, owners, names, times, extended
/// attributes; `files` small files besides.
pub fn plant(dir: &Path, files: usize) {
    fs::create_dir_all(dir).unwrap();
    for (i, size) in SIZES.iter().enumerate() {
        fs::write(dir.join(format!("size-{size}")), noise(i as u64 + 1, *size)).unwrap();
    }
    plant_small(dir, files);
    plant_holes(dir);
    plant_links(dir);
    plant_names(dir);
    plant_attributes(dir);
    plant_modes(dir);
    plant_times(dir);
    plant_access_times(dir);
}

fn plant_small(dir: &Path, files: usize) {
    for i in 0..files {
        let parent = dir.join(format!("small/{}/{}", i % 7, i % 3));
        fs::create_dir_all(&parent).unwrap();
        let size = [0, 3, 80, 700, 4000, 4200, 9000, 30_000][i % 8];
        fs::write(parent.join(format!("file-{i:05}.txt")), noise(1000 + i as u64, size)).unwrap();
    }
    let mut deep = dir.to_path_buf();
    for level in 0..20 {
        deep.push(format!("level-{level}"));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), b"deep down\n").unwrap();
    fs::create_dir(dir.join("empty directory")).unwrap();
}

fn plant_holes(dir: &Path) {
    let sparse = fs::File::create(dir.join("sparse")).unwrap();
    sparse.write_all_at(&noise(41, 5000), 3 << 20).unwrap();
    sparse.write_all_at(&noise(42, 100), 7 << 20).unwrap();
    sparse.set_len(12 << 20).unwrap();
    fs::File::create(dir.join("only a hole")).unwrap().set_len(5 << 20).unwrap();
}

fn plant_links(dir: &Path) {
    use std::os::unix::fs::symlink;
    symlink("size-4096", dir.join("symlink")).unwrap();
    symlink("../no/such/thing", dir.join("dangling")).unwrap();
    symlink("/", dir.join("absolute")).unwrap();
    symlink("x/".repeat(1000), dir.join("long symlink")).unwrap();
    fs::create_dir(dir.join("links")).unwrap();
    fs::hard_link(dir.join("size-4097"), dir.join("links/same")).unwrap();
    fs::hard_link(dir.join("size-4097"), dir.join("links/same again")).unwrap();
    tool(&[OsStr::new("mkfifo"), dir.join("fifo").as_os_str()]);
    if is_root() {
        tool(&["mknod", dir.join("null").to_str().unwrap(), "c", "1", "3"]);
    }
}

fn plant_names(dir: &Path) {
    let dir = dir.join("names");
    fs::create_dir(&dir).unwrap();
    let long = "n".repeat(255);
    let names: &[&[u8]] = &[
        b"with space",
        b"new\nline",
        b"tab\tquote\"apostrophe'backslash\\",
        b"-dash",
        b"\xff\xfe not utf-8 \x80",
        "h\u{e9}\u{4e2d}\u{1f40b}".as_bytes(),
        "h\u{65}\u{301}".as_bytes(),
        b"star*?[a]",
        b"~",
        b".hidden",
        long.as_bytes(),
    ];
    for name in names {
        fs::write(dir.join(OsStr::from_bytes(name)), name).unwrap();
    }
}

fn plant_attributes(dir: &Path) {
    let file = dir.join("attributed");
    fs::write(&file, b"with attributes").unwrap();
    set_xattr(&file, "user.short", b"x");
    set_xattr(&file, "user.empty", b"");
    set_xattr(&file, "user.binary", &noise(7, 900));
    fs::create_dir(dir.join("attributed directory")).unwrap();
    set_xattr(&dir.join("attributed directory"), "user.note", b"on a directory");
    if is_root() {
        for name in ["attributed", "attributed directory", "dangling", "fifo"] {
            set_xattr(&dir.join(name), "trusted.note", name.as_bytes());
        }
        tool(&["setcap", "cap_net_bind_service=ep", file.to_str().unwrap()]);
    }
}

fn plant_modes(dir: &Path) {
    let dir = dir.join("modes");
    fs::create_dir(&dir).unwrap();
    for mode in [0o000, 0o400, 0o644, 0o755, 0o777, 0o4755, 0o2755, 0o6711] {
        let file = dir.join(format!("file-{mode:o}"));
        fs::write(&file, format!("{mode:o}")).unwrap();
        let owner = if is_root() { Some(1000 + mode) } else { None };
        std::os::unix::fs::lchown(&file, owner, owner).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }
    for mode in [0o700, 0o755, 0o1777, 0o2775] {
        let sub = dir.join(format!("dir-{mode:o}"));
        fs::create_dir(&sub).unwrap();
        fs::set_permissions(&sub, fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn plant_times(dir: &Path) {
    let file = dir.join("times");
    fs::create_dir(&file).unwrap();
    for (name, time) in [
        ("epoch", "@0"),
        ("before the epoch", "@-86400"),
        ("nanoseconds", "@1234567890.123456789"),
        ("after 2038", "@4000000000.5"),
    ] {
        fs::write(file.join(name), name).unwrap();
        tool(&["touch", "-d", time, file.join(name).to_str().unwrap()]);
    }
    tool(&["touch", "-h", "-d", "@1000000000.25", dir.join("symlink").to_str().unwrap()]);
    tool(&["touch", "-d", "@1100000000.75", dir.join("empty directory").to_str().unwrap()]);
}

/// From this second on, access times are planted: so far ahead that no read of the source moves them, which is how
/// the kernel keeps access times by default (`relatime`).
const PLANTED_ACCESS: i64 = 4_100_000_000;

/// Gives every name an access time of its own.
fn plant_access_times(dir: &Path) {
    let mut paths = vec![dir.to_path_buf()];
    let mut planted = 0;
    while let Some(path) = paths.pop() {
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        planted += 1;
        let access = libc::timespec { tv_sec: PLANTED_ACCESS + planted, tv_nsec: 1000 + planted };
        let times = [access, libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT }];
        // SAFETY: the path is terminated, and there are two times.
        let done = unsafe {
            libc::utimensat(libc::AT_FDCWD, c_path(&path).as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW)
        };
        assert_eq!(done, 0, "the times of {}: {}", path.display(), std::io::Error::last_os_error());
    }
}

/// What can be seen of one file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    pub kind: char,
    pub mode: u32,
    pub owner: (u32, u32),
    pub size: u64,
    pub modified: (i64, i64),
    /// A planted access time; others change by reading.
    pub accessed: Option<(i64, i64)>,
    /// SHA-256 of the content, or the target of a symbolic link, or a device's number.
    pub content: String,
    /// The first of the names that share this inode.
    pub same_as: Vec<u8>,
    pub attributes: BTreeMap<String, Vec<u8>>,
}

/// Everything below `dir`, by path relative to it (the directory itself is the empty path).
pub fn survey(dir: &Path) -> BTreeMap<Vec<u8>, Facts> {
    let mut found = BTreeMap::new();
    let mut paths = vec![PathBuf::new()];
    while let Some(path) = paths.pop() {
        let full = if path.as_os_str().is_empty() { dir.to_path_buf() } else { dir.join(&path) };
        let meta = fs::symlink_metadata(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()));
        let (kind, content) = content(&full, &meta);
        if kind == 'd' {
            let entries = fs::read_dir(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()));
            paths.extend(entries.map(|e| path.join(e.unwrap().file_name())));
        }
        let size = if kind == 'd' { 0 } else { meta.size() };
        let facts = Facts {
            kind,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            size,
            modified: (meta.mtime(), meta.mtime_nsec()),
            accessed: (meta.atime() >= PLANTED_ACCESS).then(|| (meta.atime(), meta.atime_nsec())),
            content,
            same_as: inode_key(&meta),
            attributes: xattrs(&full),
        };
        found.insert(path.as_os_str().as_bytes().to_vec(), facts);
    }
    name_links(&mut found);
    found
}

fn content(path: &Path, meta: &fs::Metadata) -> (char, String) {
    let kind = meta.file_type();
    if kind.is_file() {
        ('f', sha256(path))
    } else if kind.is_dir() {
        ('d', String::new())
    } else if kind.is_symlink() {
        ('l', format!("{:?}", fs::read_link(path).unwrap()))
    } else if kind.is_fifo() {
        ('p', String::new())
    } else {
        ('c', format!("{:x}", meta.rdev()))
    }
}

/// For a file with several names the inode, so that `name_links` can put a name in its place.
fn inode_key(meta: &fs::Metadata) -> Vec<u8> {
    if meta.is_dir() || meta.nlink() == 1 { Vec::new() } else { meta.ino().to_be_bytes().to_vec() }
}

fn name_links(found: &mut BTreeMap<Vec<u8>, Facts>) {
    let mut first = BTreeMap::new();
    for (path, facts) in found {
        if !facts.same_as.is_empty() {
            facts.same_as = first.entry(facts.same_as.clone()).or_insert_with(|| path.clone()).clone();
        }
    }
}

/// The SHA-256 of a file's content, in hexadecimal.
pub fn sha256(path: &Path) -> String {
    try_sha256(path).unwrap_or_else(|e| panic!("{} cannot be read: {e}", path.display()))
}

pub fn try_sha256(path: &Path) -> std::io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(shoal::id::hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Panics with the first differences between what there should be and what there is.
#[track_caller]
pub fn assert_same(what: &str, expected: &BTreeMap<Vec<u8>, Facts>, found: &BTreeMap<Vec<u8>, Facts>) {
    let mut differences = Vec::new();
    for path in expected.keys().chain(found.keys().filter(|p| !expected.contains_key(*p))) {
        let (a, b) = (expected.get(path), found.get(path));
        if a != b {
            differences.push(format!("{:?}\n   expected {a:?}\n   found    {b:?}", String::from_utf8_lossy(path)));
        }
    }
    let shown = differences.iter().take(8).cloned().collect::<Vec<_>>().join("\n");
    assert!(differences.is_empty(), "{what}: {} of {} differ:\n{shown}", differences.len(), expected.len());
}

pub fn is_root() -> bool {
    // SAFETY: geteuid has no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    try_set_xattr(path, name, value).unwrap_or_else(|e| panic!("{name} of {}: {e}", path.display()));
}

pub fn try_set_xattr(path: &Path, name: &str, value: &[u8]) -> std::io::Result<()> {
    set_xattr_with(path, name, value, 0)
}

/// `lsetxattr` with these flags.
pub fn set_xattr_with(path: &Path, name: &str, value: &[u8], flags: i32) -> std::io::Result<()> {
    let (path, name) = (c_path(path), CString::new(name).unwrap());
    // SAFETY: the strings are terminated, and the value's length is its own.
    let done = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

pub fn remove_xattr(path: &Path, name: &str) -> std::io::Result<()> {
    let (path, name) = (c_path(path), CString::new(name).unwrap());
    // SAFETY: the strings are terminated.
    let done = unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

pub fn xattr(path: &Path, name: &str) -> std::io::Result<Vec<u8>> {
    let (path, name) = (c_path(path), CString::new(name).unwrap());
    let mut value = vec![0u8; 1 << 16];
    // SAFETY: the strings are terminated, and the buffer is as long as we say.
    let len = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    if len < 0 {
        return Err(std::io::Error::last_os_error());
    }
    value.truncate(len as usize);
    Ok(value)
}

/// The extended attributes, without the share's own (`user.shoal.`).
pub fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let c = c_path(path);
    let mut list = vec![0u8; 1 << 16];
    // SAFETY: the string is terminated, and the buffer is as long as we say.
    let len = unsafe { libc::llistxattr(c.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    assert!(len >= 0, "listing the attributes of {}: {}", path.display(), std::io::Error::last_os_error());
    list.truncate(len as usize);
    list.split(|b| *b == 0)
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .filter(|name| !name.is_empty() && !name.starts_with("user.shoal."))
        .map(|name| (name.clone(), xattr(path, &name).unwrap_or_else(|e| panic!("{name}: {e}"))))
        .collect()
}

/// `renameat2` with these flags.
pub fn rename_with(from: &Path, to: &Path, flags: u32) -> std::io::Result<()> {
    let (from, to) = (c_path(from), c_path(to));
    // SAFETY: both paths are terminated.
    match unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Flips one byte in the middle of every large file of a home that is not its log or its tree; how many there were.
pub fn flip_shards(home: &Path) -> usize {
    let mut flipped = 0;
    let mut dirs = vec![home.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if is_shard(&path) {
                let mut bytes = fs::read(&path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x40;
                fs::write(&path, bytes).unwrap();
                flipped += 1;
            }
        }
    }
    flipped
}

fn is_shard(path: &Path) -> bool {
    let large = fs::metadata(path).is_ok_and(|m| m.len() > 100_000);
    large && path.to_str().is_some_and(|p| p.contains("shard"))
}

/// Writes a file, and says also what closing it says.
pub fn write_closed(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    close(file)
}

/// Closes a file, and says what that says: `std` drops it.
pub fn close(file: fs::File) -> std::io::Result<()> {
    use std::os::fd::IntoRawFd;
    // SAFETY: the descriptor is the file's own, and nobody else has it.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

//! One step of the model test: a few calls on one or two names, as a program makes them, and what comes of them.

use super::plain::Plain;
use crate::harness::tree;
use shoal::sim::chance::Chance;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Names of a directory: so few that most steps meet what others left.
const NAMES: [&str; 6] = ["a", "b", "c", "two words", "\u{e4}\u{4e2d}\u{1f40b}", ".hidden"];

/// Directories below one another.
const DEPTH: usize = 4;

/// Of what is written at once: inline, a block, more than one.
const LENGTHS: [usize; 8] = [0, 1, 100, 4095, 4096, 4097, 20_000, 70_000];
const LONG: usize = (1 << 20) + 17;

const ATTRIBUTES: [&str; 3] = ["user.a", "user.b", "trusted.c"];

/// The names on the way from the directory of the test.
pub type Names = Vec<&'static str>;

/// Bytes that follow from a number.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    seed: u64,
    len: usize,
}

impl Noise {
    pub fn bytes(&self) -> Vec<u8> {
        tree::noise(self.seed, self.len)
    }
}

#[derive(Clone, Debug)]
pub enum Step {
    Create { path: Names, exclusive: bool, mode: u32 },
    MakeDirectory { path: Names, mode: u32 },
    Symlink { path: Names, target: String },
    Link { from: Names, to: Names },
    Rename { from: Names, to: Names, flags: u32 },
    Unlink { path: Names },
    RemoveDirectory { path: Names },
    Write { path: Names, at: u64, noise: Noise, sync: bool },
    Append { path: Names, noise: Noise },
    Replace { path: Names, noise: Noise },
    Truncate { path: Names, size: u64 },
    Allocate { path: Names, mode: i32, at: u64, len: u64 },
    Copy { from: Names, from_at: u64, to: Names, to_at: u64, len: u64 },
    ChangeMode { path: Names, mode: u32 },
    ChangeOwner { path: Names, owner: (u32, u32) },
    SetModified { path: Names, time: (i64, i64) },
    SetAttribute { path: Names, name: &'static str, noise: Noise, flags: i32 },
    RemoveAttribute { path: Names, name: &'static str },
    Read { path: Names, at: u64, len: usize },
    Look { path: Names },
    List { path: Names },
}

/// What a step shows besides that it succeeded.
#[derive(Clone, PartialEq, Debug)]
pub enum Seen {
    Nothing,
    Bytes(Vec<u8>),
    Count(u64),
    Facts(Facts),
    Names(Vec<String>),
}

/// What `lstat` says.
#[derive(Clone, PartialEq, Debug)]
pub struct Facts {
    pub kind: char,
    pub mode: u32,
    pub owner: (u32, u32),
    pub links: u64,
    /// Not of directories, where every file system says what it likes.
    pub size: Option<u64>,
    /// Unknown where nobody set it.
    pub modified: Option<(i64, i64)>,
}

impl Facts {
    pub fn of(meta: &fs::Metadata) -> Facts {
        let kind = meta.file_type();
        let kind = if kind.is_dir() {
            'd'
        } else if kind.is_symlink() {
            'l'
        } else {
            'f'
        };
        Facts {
            kind,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            links: meta.nlink(),
            size: (kind != 'd').then(|| meta.size()),
            modified: Some((meta.mtime(), meta.mtime_nsec())),
        }
    }
}

/// What came of a step: what was seen, or the number of the error.
pub type Outcome = Result<Seen, i32>;

/// How what was found differs from what was expected.
pub fn difference(expected: &Outcome, found: &Outcome) -> Option<String> {
    if let (Ok(Seen::Bytes(expected)), Ok(Seen::Bytes(found))) = (expected, found) {
        return different_bytes(expected, found);
    }
    let mut found = found.clone();
    if let (Ok(Seen::Facts(expected)), Ok(Seen::Facts(found))) = (expected, &mut found)
        && expected.modified.is_none()
    {
        found.modified = None;
    }
    (*expected != found).then(|| format!("expected {expected:?}\n   found {found:?}"))
}

pub fn different_bytes(expected: &[u8], found: &[u8]) -> Option<String> {
    if expected == found {
        return None;
    }
    let at = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
    let some = |bytes: &[u8]| bytes[at.min(bytes.len())..].iter().take(8).copied().collect::<Vec<_>>();
    let (expected_len, found_len) = (expected.len(), found.len());
    Some(format!(
        "of {expected_len} bytes {found_len} are there; from byte {at} on {:?} is expected and {:?} found",
        some(expected),
        some(found)
    ))
}

/// A name to do something with: mostly one that is there.
fn path(chance: &mut Chance, plain: &Plain) -> Names {
    let mut path = Names::new();
    loop {
        let there = plain.names(&path);
        let name = match there.is_empty() || chance.happens(0.3) {
            true => NAMES[chance.below(NAMES.len())],
            false => there[chance.below(there.len())],
        };
        path.push(name);
        let deeper = if plain.is_directory(&path) { 0.6 } else { 0.04 };
        if path.len() == DEPTH || !chance.happens(deeper) {
            return path;
        }
    }
}

fn length(chance: &mut Chance) -> usize {
    if chance.happens(0.02) { LONG } else { LENGTHS[chance.below(LENGTHS.len())] }
}

fn noise(chance: &mut Chance) -> Noise {
    Noise { seed: chance.bits(), len: length(chance) }
}

fn offset(chance: &mut Chance) -> u64 {
    match chance.below(8) {
        0 => 0,
        1 => (1 << 20) - 5,
        2 => LENGTHS[chance.below(LENGTHS.len())] as u64,
        _ => chance.below(30_000) as u64,
    }
}

impl Step {
    pub fn draw(chance: &mut Chance, plain: &Plain) -> Step {
        let path = path(chance, plain);
        match chance.below(100) {
            0..12 => {
                Step::Create { path, exclusive: chance.happens(0.5), mode: [0o600, 0o640, 0o755][chance.below(3)] }
            }
            12..22 => Step::MakeDirectory { path, mode: [0o700, 0o755][chance.below(2)] },
            22..25 => Step::Symlink { path, target: format!("no/such/{}", "x".repeat(chance.below(200))) },
            25..30 => Step::Link { from: path, to: self::path(chance, plain) },
            30..42 => {
                let flags = [0, 0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE][chance.below(5)];
                Step::Rename { from: path, to: self::path(chance, plain), flags }
            }
            42..47 => Step::Unlink { path },
            47..50 => Step::RemoveDirectory { path },
            50..58 => Step::Write { path, at: offset(chance), noise: noise(chance), sync: chance.happens(0.2) },
            58..63 => Step::Append { path, noise: noise(chance) },
            63..67 => Step::Replace { path, noise: noise(chance) },
            67..71 => Step::Truncate { path, size: offset(chance) },
            71..74 => {
                let (punch, zero) = (libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE);
                let keep = libc::FALLOC_FL_KEEP_SIZE;
                let mode = [punch | keep, zero, zero | keep, 0, keep][chance.below(5)];
                Step::Allocate { path, mode, at: offset(chance), len: 1 + length(chance) as u64 }
            }
            74..76 => Step::Copy {
                from: path,
                from_at: offset(chance),
                to: self::path(chance, plain),
                to_at: offset(chance),
                len: length(chance) as u64,
            },
            76..79 => {
                let mode = [0o600, 0o644, 0o751, 0o1777, 0o2770, 0o4755, 0o6711, 0o2640][chance.below(8)];
                Step::ChangeMode { path, mode }
            }
            79..81 => Step::ChangeOwner { path, owner: (chance.below(3) as u32 * 1000, chance.below(3) as u32 * 1000) },
            81..84 => {
                let time = (chance.below(1 << 32) as i64 - 1000, chance.below(1_000_000_000) as i64);
                Step::SetModified { path, time }
            }
            84..87 => {
                let flags = [0, 0, libc::XATTR_CREATE, libc::XATTR_REPLACE][chance.below(4)];
                let noise = Noise { seed: chance.bits(), len: chance.below(300) };
                Step::SetAttribute { path, name: ATTRIBUTES[chance.below(3)], noise, flags }
            }
            87..89 => Step::RemoveAttribute { path, name: ATTRIBUTES[chance.below(3)] },
            89..94 => Step::Read { path, at: offset(chance), len: length(chance) },
            94..97 => Step::Look { path },
            _ => Step::List { path },
        }
    }

    /// The names that the step is about.
    pub fn names(&self) -> Vec<&Names> {
        use Step::*;
        match self {
            Link { from, to } | Rename { from, to, .. } | Copy { from, to, .. } => vec![from, to],
            Create { path, .. } | MakeDirectory { path, .. } | Symlink { path, .. } | Unlink { path } => vec![path],
            RemoveDirectory { path } | Write { path, .. } | Append { path, .. } | Replace { path, .. } => vec![path],
            Truncate { path, .. } | Allocate { path, .. } | ChangeMode { path, .. } => vec![path],
            ChangeOwner { path, .. } | SetModified { path, .. } | SetAttribute { path, .. } => vec![path],
            RemoveAttribute { path, .. } | Read { path, .. } | Look { path } | List { path } => vec![path],
        }
    }

    /// Does the step below a directory.
    pub fn act(&self, root: &Path) -> Outcome {
        let at = |names: &Names| -> PathBuf { root.join(names.join("/")) };
        let done = match self {
            Step::Create { path, exclusive, mode } => {
                let mut options = OpenOptions::new();
                options.write(true).create(true).create_new(*exclusive).truncate(false).mode(*mode);
                options.open(at(path)).and_then(tree::close)
            }
            Step::MakeDirectory { path, mode } => fs::DirBuilder::new().mode(*mode).create(at(path)),
            Step::Symlink { path, target } => std::os::unix::fs::symlink(target, at(path)),
            Step::Link { from, to } => fs::hard_link(at(from), at(to)),
            Step::Rename { from, to, flags } => tree::rename_with(&at(from), &at(to), *flags),
            Step::Unlink { path } => fs::remove_file(at(path)),
            Step::RemoveDirectory { path } => fs::remove_dir(at(path)),
            Step::Write { path, at: offset, noise, sync } => open_to_write(&at(path)).and_then(|file| {
                file.write_all_at(&noise.bytes(), *offset)?;
                if *sync {
                    file.sync_all()?;
                }
                tree::close(file)
            }),
            Step::Append { path, noise } => OpenOptions::new().append(true).open(at(path)).and_then(|mut file| {
                io::Write::write_all(&mut file, &noise.bytes())?;
                tree::close(file)
            }),
            Step::Replace { path, noise } => {
                let file = OpenOptions::new().write(true).truncate(true).open(at(path));
                file.and_then(|file| {
                    file.write_all_at(&noise.bytes(), 0)?;
                    tree::close(file)
                })
            }
            Step::Truncate { path, size } => truncate(&at(path), *size),
            Step::Allocate { path, mode, at: offset, len } => open_to_write(&at(path)).and_then(|file| {
                allocate(&file, *mode, *offset, *len)?;
                tree::close(file)
            }),
            Step::Copy { from, from_at, to, to_at, len } => {
                return numbered(copy(&at(from), *from_at, &at(to), *to_at, *len)).map(Seen::Count);
            }
            Step::ChangeMode { path, mode } => fs::set_permissions(at(path), Permissions::from_mode(*mode)),
            Step::ChangeOwner { path, owner: (user, group) } => {
                std::os::unix::fs::lchown(at(path), Some(*user), Some(*group))
            }
            Step::SetModified { path, time } => set_modified(&at(path), *time),
            Step::SetAttribute { path, name, noise, flags } => {
                tree::set_xattr_with(&at(path), name, &noise.bytes(), *flags)
            }
            Step::RemoveAttribute { path, name } => tree::remove_xattr(&at(path), name),
            Step::Read { path, at: offset, len } => return numbered(read(&at(path), *offset, *len)).map(Seen::Bytes),
            Step::Look { path } => {
                return numbered(fs::symlink_metadata(at(path))).map(|meta| Seen::Facts(Facts::of(&meta)));
            }
            Step::List { path } => return numbered(list(&at(path))).map(Seen::Names),
        };
        numbered(done).map(|()| Seen::Nothing)
    }
}

fn numbered<T>(result: io::Result<T>) -> Result<T, i32> {
    result.map_err(|error| error.raw_os_error().unwrap_or_else(|| panic!("no error of a call: {error}")))
}

fn open_to_write(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

fn checked(done: i32) -> io::Result<()> {
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn truncate(path: &Path, size: u64) -> io::Result<()> {
    // SAFETY: the path is terminated.
    checked(unsafe { libc::truncate(c_path(path).as_ptr(), size as i64) })
}

fn allocate(file: &File, mode: i32, at: u64, len: u64) -> io::Result<()> {
    // SAFETY: plain values and an open descriptor.
    checked(unsafe { libc::fallocate(file.as_raw_fd(), mode, at as i64, len as i64) })
}

fn copy(from: &Path, from_at: u64, to: &Path, to_at: u64, len: u64) -> io::Result<u64> {
    let (from, to) = (File::open(from)?, open_to_write(to)?);
    let (mut from_at, mut to_at) = (from_at as i64, to_at as i64);
    // SAFETY: two open descriptors, and offsets that live through the call.
    let copied =
        unsafe { libc::copy_file_range(from.as_raw_fd(), &mut from_at, to.as_raw_fd(), &mut to_at, len as usize, 0) };
    if copied < 0 {
        return Err(io::Error::last_os_error());
    }
    tree::close(to)?;
    Ok(copied as u64)
}

fn set_modified(path: &Path, (tv_sec, tv_nsec): (i64, i64)) -> io::Result<()> {
    let times = [libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT }, libc::timespec { tv_sec, tv_nsec }];
    // SAFETY: the path is terminated, and there are two times.
    checked(unsafe {
        libc::utimensat(libc::AT_FDCWD, c_path(path).as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW)
    })
}

fn read(path: &Path, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = vec![0; len];
    let mut filled = 0;
    // At least once, for what it says of a directory.
    loop {
        match file.read_at(&mut bytes[filled..], at + filled as u64)? {
            0 => break,
            more => filled += more,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

pub fn list(path: &Path) -> io::Result<Vec<String>> {
    let mut names = fs::read_dir(path)?
        .map(|entry| Ok(entry?.file_name().into_string().unwrap()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

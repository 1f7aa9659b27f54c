//! POSIX access control lists: extended attributes whose meaning the kernel knows.
//!
//! The kernel checks access by them where it is told that the mount has them. What is here: what a new file takes over
//! from its directory, and that a list and the permission bits say the same. The bits are what counts: a list is kept
//! as it was set, and shown with the present bits in it, so a `chmod` changes both, whichever machine it comes from.

use super::Errno;

/// Who may do what with an inode.
pub const ACCESS: &[u8] = b"system.posix_acl_access";

/// What is made in a directory takes over.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

/// Whether an attribute is a list.
pub fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;

const USER_OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OWNER: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// What one entry lets somebody do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    tag: u16,
    /// Reading 4, writing 2, executing 1.
    permissions: u16,
    /// Of whom, for users and groups.
    id: u32,
}

/// A list that is one: an entry each for owner, group and others, and a mask where there is more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acl(Vec<Entry>);

impl Acl {
    /// The list in the kernel's form; `None` is one without entries, which takes a list away.
    pub fn parse(bytes: &[u8]) -> Result<Option<Acl>, Errno> {
        let invalid = Errno(libc::EINVAL);
        let (version, rest) = bytes.split_first_chunk::<HEADER>().ok_or(invalid)?;
        if u32::from_le_bytes(*version) != VERSION || rest.len() % ENTRY != 0 {
            return Err(invalid);
        }
        let short = |at: &[u8]| u16::from_le_bytes([at[0], at[1]]);
        let entries = rest.chunks_exact(ENTRY).map(|entry| Entry {
            tag: short(entry),
            permissions: short(&entry[2..]),
            id: u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]),
        });
        let acl = Acl(entries.collect());
        if acl.0.is_empty() {
            return Ok(None);
        }
        if acl.is_whole() { Ok(Some(acl)) } else { Err(invalid) }
    }

    fn is_whole(&self) -> bool {
        let count = |tag| self.0.iter().filter(|entry| entry.tag == tag).count();
        let more = count(USER) + count(GROUP) > 0;
        let known = [USER_OWNER, USER, GROUP_OWNER, GROUP, MASK, OTHER];
        self.0.iter().all(|entry| known.contains(&entry.tag) && entry.permissions <= 7)
            && self.0.windows(2).all(|two| two[0].tag <= two[1].tag)
            && [USER_OWNER, GROUP_OWNER, OTHER].iter().all(|tag| count(*tag) == 1)
            && count(MASK) <= 1
            && (count(MASK) == 1 || !more)
    }

    /// In the kernel's form.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            bytes.extend_from_slice(&entry.tag.to_le_bytes());
            bytes.extend_from_slice(&entry.permissions.to_le_bytes());
            bytes.extend_from_slice(&entry.id.to_le_bytes());
        }
        bytes
    }

    /// Whether it says no more than permission bits can.
    pub fn is_plain(&self) -> bool {
        self.0.len() == 3
    }

    /// What the permission bits show of it: for the group the most that anybody but the owner and others may.
    pub fn mode(&self) -> u32 {
        self.0.iter().fold(0, |mode, entry| match self.shift(entry) {
            Some(shift) => mode | u32::from(entry.permissions) << shift,
            None => mode,
        })
    }

    /// The list with these permission bits in it.
    pub fn with_mode(mut self, mode: u32) -> Acl {
        for at in 0..self.0.len() {
            if let Some(shift) = self.shift(&self.0[at]) {
                self.0[at].permissions = (mode >> shift & 7) as u16;
            }
        }
        self
    }

    /// Where the permission bits of an entry are, if they are among the mode's.
    fn shift(&self, entry: &Entry) -> Option<u32> {
        let masked = self.0.iter().any(|entry| entry.tag == MASK);
        match entry.tag {
            USER_OWNER => Some(6),
            MASK => Some(3),
            GROUP_OWNER if !masked => Some(3),
            OTHER => Some(0),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl(entries
            .iter()
            .map(|(tag, permissions, id)| Entry { tag: *tag, permissions: *permissions, id: *id })
            .collect())
    }

    fn shared() -> Acl {
        let nobody = u32::MAX;
        acl(&[
            (USER_OWNER, 7, nobody),
            (USER, 6, 1000),
            (GROUP_OWNER, 5, nobody),
            (GROUP, 7, 50),
            (MASK, 6, nobody),
            (OTHER, 4, nobody),
        ])
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let bytes = shared().bytes();
        assert_eq!(Acl::parse(&bytes), Ok(Some(shared())));
        assert_eq!(Acl::parse(&bytes[..4]), Ok(None), "no entries: no list");
        for cut in (0..4).chain(5..12) {
            assert_eq!(Acl::parse(&bytes[..cut]), Err(Errno(libc::EINVAL)), "{cut} bytes");
        }
        let mut newer = bytes.clone();
        newer[0] = 3;
        assert_eq!(Acl::parse(&newer), Err(Errno(libc::EINVAL)));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let plain = [(USER_OWNER, 6, 0), (GROUP_OWNER, 4, 0), (OTHER, 0, 0)];
        assert!(acl(&plain).is_whole() && acl(&plain).is_plain());
        let with = |entry, at| {
            let mut entries = plain.to_vec();
            entries.insert(at, entry);
            acl(&entries).is_whole()
        };
        assert!(with((MASK, 7, 0), 2));
        assert!(!with((USER, 7, 5), 1), "who is named needs a mask");
        assert!(!with((OTHER, 7, 0), 3), "there are others only once");
        assert!(!with((MASK, 7, 0), 3), "each has its place");
        assert!(!with((MASK, 8, 0), 2), "there is no fourth permission");
        assert!(!with((0x40, 7, 0), 3), "nor such an entry");
        assert!(!acl(&plain[1..]).is_whole(), "an owner there has to be");
    }

    #[test]
    fn bits_and_list_say_the_same() {
        assert_eq!(shared().mode(), 0o764, "the mask is what the group's bits show");
        let changed = shared().with_mode(0o100_640);
        assert_eq!((changed.mode(), changed.0[2].permissions, changed.0[1].permissions), (0o640, 5, 6));
        let plain = acl(&[(USER_OWNER, 6, 0), (GROUP_OWNER, 4, 0), (OTHER, 0, 0)]);
        assert_eq!(plain.mode(), 0o640);
        assert_eq!(plain.with_mode(0o751).mode(), 0o751);
    }
}

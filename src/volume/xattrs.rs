//! Extended attributes, and the policy shown as one of them.

use super::Volume;
use super::names::inode;
use super::ports::{Errno, Planned};
use crate::id::Ino;
use crate::namespace::acl::{self, Acl};
use crate::namespace::{Change, Inode, Kind, NAME_BYTES, Namespace, SetAttributes, XATTR_BYTES};
use crate::policy::Policy;
use bytes::Bytes;

/// The policy of a file or directory. Read: its own or the inherited one. Written: its own; empty, or removed,
/// inherits again. It is not listed, so that copying attributes does not pin what was inherited.
pub const POLICY_XATTR: &[u8] = b"user.shoal.policy";

/// The most bytes of names that `listxattr` gives, as everywhere on Linux.
pub const LIST_BYTES: usize = 65_536;

/// The most bytes of names and values of one inode.
pub const INODE_XATTR_BYTES: usize = 1 << 20;

/// Whether this kind of inode may have attributes of this name.
fn allowed(inode: &Inode, name: &[u8], refusal: i32) -> Result<(), Errno> {
    if name.is_empty() || name.len() > NAME_BYTES {
        return Err(Errno(libc::ERANGE));
    }
    let plain = matches!(inode.kind, Kind::File | Kind::Directory);
    match name.split(|byte| *byte == b'.').next() {
        Some(b"user") if !plain => Err(Errno(refusal)),
        Some(b"user" | b"trusted" | b"security") => Ok(()),
        _ if acl::is_acl(name) && !matches!(inode.kind, Kind::Symlink { .. }) => Ok(()),
        _ => Err(Errno(libc::EOPNOTSUPP)),
    }
}

impl Volume {
    /// The value of an attribute.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Bytes, Errno> {
        let names = self.control().namespace();
        let inode = inode(&names, ino)?;
        allowed(inode, name, libc::ENODATA)?;
        if name == POLICY_XATTR {
            return Ok(Bytes::from(names.policy(ino).to_string()));
        }
        let value = names.xattr(ino, name).cloned().ok_or(Errno(libc::ENODATA))?;
        match Acl::parse(&value) {
            Ok(Some(list)) if name == acl::ACCESS => Ok(list.with_mode(inode.mode).bytes().into()),
            _ => Ok(value),
        }
    }

    /// The names of all attributes, a NUL after each.
    pub fn xattrs(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        let names = self.control().namespace();
        inode(&names, ino)?;
        let mut list = Vec::new();
        for (name, _) in names.xattrs(ino) {
            list.extend_from_slice(name);
            list.push(0);
        }
        if list.len() > LIST_BYTES { Err(Errno(libc::E2BIG)) } else { Ok(list) }
    }

    /// Sets an attribute; `flags` as for `setxattr(2)`.
    pub async fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> Result<(), Errno> {
        if value.len() > XATTR_BYTES {
            return Err(Errno(libc::E2BIG));
        }
        let (create, replace) = (flags & libc::XATTR_CREATE != 0, flags & libc::XATTR_REPLACE != 0);
        if flags & !(libc::XATTR_CREATE | libc::XATTR_REPLACE) != 0 || (create && replace) {
            return Err(Errno(libc::EINVAL));
        }
        if acl::is_acl(name) {
            return self.set_acl(ino, name, value, true).await;
        }
        if name == POLICY_XATTR {
            return self.set_policy(ino, parsed_policy(value)?, |own| exists(own.is_some(), create, replace)).await;
        }
        let (name, value) = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
        let ctime = self.control().now();
        let plan = |names: &Namespace| {
            allowed(inode(names, ino)?, &name, libc::EPERM)?;
            exists(names.xattr(ino, &name).is_some(), create, replace)?;
            room(names, ino, &name, &value)?;
            let change = Change::SetXattr { ino, name: name.clone(), value: Some(value.clone()), ctime };
            Ok(Planned::under(vec![ino], vec![change]))
        };
        let seq = self.change(plan).await?;
        self.settle(seq).await
    }

    /// Sets an access control list, or takes it away; with the access list goes the mode. `outsider`: the caller is
    /// neither root nor in the file's group, so setgid goes.
    pub async fn set_acl(&self, ino: Ino, name: &[u8], value: &[u8], outsider: bool) -> Result<(), Errno> {
        let list = if value.is_empty() { None } else { Acl::parse(value)? };
        let (name, ctime) = (Bytes::copy_from_slice(name), self.control().now());
        let plan = |names: &Namespace| {
            let inode = inode(names, ino)?;
            allowed(inode, &name, libc::EPERM)?;
            let access = name == acl::ACCESS;
            if !access && !matches!(inode.kind, Kind::Directory) {
                return if list.is_some() { Err(Errno(libc::EACCES)) } else { Ok(Planned::default()) };
            }
            let mut changes = Vec::new();
            if let Some(list) = list.as_ref().filter(|_| access) {
                let kept = if outsider { 0o5000 } else { 0o7000 };
                let mode = Some(inode.mode & kept | list.mode());
                changes.push(Change::SetAttributes { ino, set: SetAttributes { mode, ..SetAttributes::default() } });
            }
            // One that says no more than the mode is not kept.
            let value = list.as_ref().filter(|list| !access || !list.is_plain()).map(|list| Bytes::from(list.bytes()));
            match &value {
                Some(value) => room(names, ino, &name, value)?,
                None if names.xattr(ino, &name).is_none() => return Ok(Planned::under(vec![ino], changes)),
                None => {}
            }
            changes.push(Change::SetXattr { ino, name: name.clone(), value, ctime });
            Ok(Planned::under(vec![ino], changes))
        };
        let seq = self.change(plan).await?;
        self.settle(seq).await
    }

    /// Removes an attribute.
    pub async fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<(), Errno> {
        if acl::is_acl(name) {
            return self.set_acl(ino, name, b"", false).await;
        }
        if name == POLICY_XATTR {
            return self.set_policy(ino, None, |own| own.map(|_| ()).ok_or(Errno(libc::ENODATA))).await;
        }
        let name = Bytes::copy_from_slice(name);
        let ctime = self.control().now();
        let plan = |names: &Namespace| {
            allowed(inode(names, ino)?, &name, libc::EPERM)?;
            names.xattr(ino, &name).ok_or(Errno(libc::ENODATA))?;
            let change = Change::SetXattr { ino, name: name.clone(), value: None, ctime };
            Ok(Planned::under(vec![ino], vec![change]))
        };
        let seq = self.change(plan).await?;
        self.settle(seq).await
    }

    /// Sets the policy for what is written from now on (to a file, or below a directory); `None` inherits.
    pub async fn set_policy(
        &self,
        ino: Ino,
        policy: Option<Policy>,
        check: impl Fn(Option<Policy>) -> Result<(), Errno> + Send + Sync,
    ) -> Result<(), Errno> {
        let plan = |names: &Namespace| {
            let inode = inode(names, ino)?;
            allowed(inode, POLICY_XATTR, libc::EPERM)?;
            check(inode.policy)?;
            Ok(Planned::under(vec![ino], vec![Change::SetPolicy { ino, policy }]))
        };
        let seq = self.change(plan).await?;
        self.settle(seq).await
    }
}

fn parsed_policy(value: &[u8]) -> Result<Option<Policy>, Errno> {
    let text = std::str::from_utf8(value).map_err(|_| Errno(libc::EINVAL))?.trim_end_matches('\0').trim();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| Errno(libc::EINVAL))
}

fn exists(there: bool, create: bool, replace: bool) -> Result<(), Errno> {
    match there {
        true if create => Err(Errno(libc::EEXIST)),
        false if replace => Err(Errno(libc::ENODATA)),
        _ => Ok(()),
    }
}

/// That the inode's attributes stay within bounds with this one.
fn room(names: &Namespace, ino: Ino, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    let (mut list, mut all) = (name.len() + 1, name.len() + value.len());
    for (other, held) in names.xattrs(ino).filter(|(other, _)| other.as_ref() != name) {
        list += other.len() + 1;
        all += other.len() + held.len();
    }
    if list > LIST_BYTES || all > INODE_XATTR_BYTES { Err(Errno(libc::ENOSPC)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_with_or_without_line_ends() {
        assert_eq!(parsed_policy(b"rs:4+2\n"), Ok(Some(Policy::ReedSolomon { data: 4, parity: 2 })));
        assert_eq!(parsed_policy(b"replicate:3\0"), Ok(Some(Policy::Replicate(3))));
        assert_eq!(parsed_policy(b""), Ok(None));
        assert_eq!(parsed_policy(b"rs:40+2"), Err(Errno(libc::EINVAL)));
        assert_eq!(parsed_policy(b"\xff"), Err(Errno(libc::EINVAL)));
    }
}

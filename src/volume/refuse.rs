//! `partition = refuse`: where a directory says so, a side of a partition that is no majority of the roster changes nothing
//! below it. What the kernel asks for is checked where it is planned, under the lock under which it is applied.

use super::Volume;
use super::ports::Errno;
use crate::id::Ino;
use crate::namespace::{Change, Namespace};
use crate::policy::Partition;

impl Volume {
    /// As [`super::ports::Control::change`], for what an owner asks for, without a lease: `EROFS` where a directory refuses
    /// it on this side.
    pub fn change_at_once(&self, plan: &mut dyn FnMut(&Namespace) -> Result<Vec<Change>, Errno>) -> Result<u64, Errno> {
        self.control().change(&mut |names| plan(names).and_then(|changes| self.permitted(names, changes)))
    }

    /// The changes, if this side may make them.
    pub(super) fn permitted(&self, names: &Namespace, changes: Vec<Change>) -> Result<Vec<Change>, Errno> {
        let refused = changes.iter().any(|change| names.refuses(change));
        if refused && !self.control().has_majority() { Err(Errno(libc::EROFS)) } else { Ok(changes) }
    }

    /// Whether the content of a file may be changed on this side: `EROFS` where its directory refuses it.
    pub(super) fn may_write(&self, names: &Namespace, ino: Ino) -> Result<(), Errno> {
        match names.partition(ino) {
            Partition::Refuse if !self.control().has_majority() => Err(Errno(libc::EROFS)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::attributes::AttributeChange;
    use super::super::names::{NewFile, NewNode};
    use super::super::testing::{Fault, Share};
    use super::super::{HandleId, OpenFlags};
    use super::*;
    use crate::namespace::Kind;
    use crate::policy::Policy;
    use bytes::Bytes;

    const REFUSED: Errno = Errno(libc::EROFS);
    const WRITES: OpenFlags = OpenFlags { read: true, write: true, append: false, truncate: false };

    /// Four peers, with a directory in the root that refuses, a file in it, and one beside it.
    async fn share() -> (Share, Volume, Ino, Ino) {
        let share = Share::new(4);
        let volume = share.volume(0);
        let node = |kind| NewNode { kind, mode: 0o755, umask: 0, uid: 0, gid: 0 };
        let dir = volume.make(Ino::ROOT, b"strict", node(Kind::Directory)).await.unwrap().ino;
        let below = volume.make(dir, b"below", node(Kind::Directory)).await.unwrap().ino;
        share.change(0, vec![Change::SetPartition { ino: dir, mode: Some(Partition::Refuse) }]);
        share.change(0, vec![Change::SetPolicy { ino: Ino::ROOT, policy: Some(Policy::Replicate(1)) }]);
        volume.make(below, b"file", node(Kind::File)).await.unwrap();
        volume.make(below, b"empty", node(Kind::Directory)).await.unwrap();
        volume.make(Ino::ROOT, b"free", node(Kind::File)).await.unwrap();
        (share, volume, dir, below)
    }

    fn cut(share: &Share, fault: Fault) {
        share.peers()[2..].iter().for_each(|peer| share.fault(*peer, fault));
    }

    async fn open(volume: &Volume, dir: Ino, name: &[u8]) -> HandleId {
        let ino = volume.lookup(dir, name).unwrap().ino;
        volume.open(ino, WRITES).await.unwrap().handle
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_side_without_a_majority_changes_nothing_below_and_anything_beside() {
        let (share, volume, dir, below) = share().await;
        let (file, free) = (open(&volume, below, b"file").await, open(&volume, Ino::ROOT, b"free").await);
        let write = |handle| volume.write(handle, 0, Bytes::from_static(b"bytes"), false);
        write(file).await.unwrap();
        volume.flush(file).await.unwrap();
        cut(&share, Fault::Dead);
        let ino = volume.lookup(below, b"file").unwrap().ino;
        let node = NewNode { kind: Kind::Directory, mode: 0o755, umask: 0, uid: 0, gid: 0 };
        let new = NewFile { parent: dir, name: b"new", mode: 0o644, umask: 0, uid: 0, gid: 0, flags: libc::O_RDWR };
        let mode = AttributeChange { mode: Some(0o600), ..AttributeChange::default() };
        let size = AttributeChange { size: Some(1), ..AttributeChange::default() };
        assert_eq!(volume.make(below, b"new", node.clone()).await.map(|_| ()), Err(REFUSED));
        assert_eq!(volume.create(new).await.map(|_| ()), Err(REFUSED));
        assert_eq!(volume.unlink(below, b"file").await, Err(REFUSED));
        assert_eq!(volume.rmdir(below, b"empty").await, Err(REFUSED));
        assert_eq!(volume.rename(below, b"file", Ino::ROOT, b"out", 0).await, Err(REFUSED));
        assert_eq!(volume.rename(Ino::ROOT, b"free", below, b"in", 0).await, Err(REFUSED));
        assert_eq!(volume.link(ino, Ino::ROOT, b"link").await.map(|_| ()), Err(REFUSED));
        assert_eq!(volume.set_attributes(ino, mode, 0).await.map(|_| ()), Err(REFUSED));
        assert_eq!(volume.set_attributes(ino, size, 0).await.map(|_| ()), Err(REFUSED));
        assert_eq!(volume.set_xattr(ino, b"user.a", b"1", 0).await, Err(REFUSED));
        assert_eq!(write(file).await, Err(REFUSED));
        assert_eq!(volume.read(file, 0, 9).await.as_deref(), Ok(&b"bytes"[..]), "reads go on");
        volume.make(Ino::ROOT, b"beside", node.clone()).await.unwrap();
        write(free).await.unwrap();
        volume.flush(free).await.unwrap();
        cut(&share, Fault::None);
        volume.make(below, b"new", node).await.unwrap();
        write(file).await.unwrap();
        volume.flush(file).await.unwrap();
        volume.unlink(below, b"file").await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_written_before_is_refused_at_close_and_stored_when_the_majority_is_back() {
        let (share, volume, _, below) = share().await;
        let file = open(&volume, below, b"file").await;
        volume.write(file, 0, Bytes::from_static(b"before"), false).await.unwrap();
        cut(&share, Fault::Dead);
        assert_eq!(volume.flush(file).await, Err(REFUSED));
        assert_eq!(volume.read(file, 0, 9).await.as_deref(), Ok(&b"before"[..]));
        cut(&share, Fault::None);
        volume.flush(file).await.unwrap();
        let ino = volume.lookup(below, b"file").unwrap().ino;
        assert_eq!(share.namespace().inode(ino).unwrap().size, 6);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_directory_below_may_keep_both_and_more_than_half_is_a_majority() {
        let (share, volume, _, below) = share().await;
        let node = NewNode { kind: Kind::Directory, mode: 0o755, umask: 0, uid: 0, gid: 0 };
        share.fault(share.peers()[3], Fault::Dead);
        volume.make(below, b"three of four", node.clone()).await.unwrap();
        cut(&share, Fault::Dead);
        assert_eq!(volume.make(below, b"two of four", node.clone()).await.map(|_| ()), Err(REFUSED));
        share.change(0, vec![Change::SetPartition { ino: below, mode: Some(Partition::KeepBoth) }]);
        volume.make(below, b"two of four", node).await.unwrap();
    }
}

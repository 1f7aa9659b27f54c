//! What may not be lost: what everybody made and gave up, noted as they saw it, held against the tree of all ops.

use super::*;

/// What something that is no directory holds.
#[derive(PartialEq, Debug)]
pub enum Holds {
    Bytes(Vec<u8>),
    /// Symlinks and special files: what they are.
    Kind(Kind),
}

/// What one op means to its maker.
#[derive(Debug)]
pub enum Fact {
    /// This op is a version of an inode.
    Version(Ino, Holds),
    /// Who saw this version put another in its place, or took its only name away.
    Superseded(Stamp),
    Directory(Ino),
    RemovedDirectory(Ino),
}

/// The facts of all ops, by the op's stamp.
#[derive(Default)]
pub struct Losses(Vec<(Stamp, Fact)>);

impl Losses {
    pub fn note(&mut self, op: Stamp, fact: Fact) {
        self.0.push((op, fact));
    }

    /// Nothing that reached anybody, and that builds on nothing a power cut took, is lost: each version is there with
    /// what it held, unless someone who saw it put another in its place or took its only name. Directories stay until
    /// someone removes them.
    pub fn check(
        &self,
        namespace: &Namespace,
        blocks: &BTreeMap<BlockName, Vec<u8>>,
        reached: &BTreeSet<Stamp>,
        founded: &BTreeSet<Stamp>,
    ) {
        let mut superseded = BTreeSet::new();
        let (mut directories, mut removed) = (BTreeSet::new(), BTreeSet::new());
        let facts = || self.0.iter().filter(|(op, _)| reached.contains(op));
        for (op, fact) in facts() {
            match fact {
                Fact::Superseded(version) => drop(superseded.insert(*version)),
                Fact::Directory(ino) => drop(founded.contains(op).then(|| directories.insert(*ino))),
                Fact::RemovedDirectory(ino) => drop(removed.insert(*ino)),
                Fact::Version(..) => {}
            }
        }
        let found: BTreeMap<Stamp, (Ino, Inode)> = visible(namespace)
            .into_iter()
            .filter_map(|(key, record)| match (key, record) {
                (Key::Inode(ino), Record::Inode(inode)) if inode.nlink > 0 && inode.kind != Kind::Directory => {
                    Some((inode.content, (ino, *inode)))
                }
                _ => None,
            })
            .collect();
        for (version, fact) in facts() {
            let Fact::Version(ino, holds) = fact else { continue };
            if superseded.contains(version) || !founded.contains(version) {
                continue;
            }
            let (ino, inode) = found.get(version).unwrap_or_else(|| panic!("version {version} of {ino} is lost"));
            let there = match &inode.kind {
                Kind::File => Holds::Bytes(read(namespace, blocks, *ino)),
                kind => Holds::Kind(kind.clone()),
            };
            assert_eq!(&there, holds, "version {version} of {ino} holds something else");
        }
        // Of those that became one, who removes one removes them all.
        let removed: BTreeSet<Ino> = removed.iter().map(|ino| namespace.survivor(*ino)).collect();
        for ino in directories.iter().filter(|ino| !removed.contains(&namespace.survivor(**ino))) {
            assert!(namespace.path(*ino).is_some(), "directory {ino} is lost");
        }
    }
}

/// What was last said of everything that has a name holds: owners, access times, extended attributes, policies. Not of
/// directories that became one with others: which of them was meant depends on when.
pub fn attributes_are_as_last_said(namespace: &Namespace, ops: &[Op]) {
    let mut said: BTreeMap<Ino, SetAttributes> = BTreeMap::new();
    let mut xattrs = BTreeMap::new();
    let mut policies = BTreeMap::new();
    for op in ops {
        match op.change.itself() {
            Change::Create { ino, uid, gid, time, .. } => {
                let set = SetAttributes { uid: Some(*uid), gid: Some(*gid), atime: Some(*time), ..Default::default() };
                said.insert(*ino, set);
            }
            Change::SetAttributes { ino, set } => {
                let last = said.entry(*ino).or_default();
                last.uid = set.uid.or(last.uid);
                last.gid = set.gid.or(last.gid);
                last.atime = set.atime.or(last.atime);
            }
            Change::SetXattr { ino, name, value, .. } => drop(xattrs.insert((*ino, name.clone()), value.clone())),
            Change::SetPolicy { ino, policy } => drop(policies.insert(*ino, *policy)),
            _ => {}
        }
    }
    let one_of_several = |ino: Ino| namespace.survivor(ino) != ino || namespace.tree.merged_into(ino).next().is_some();
    let named = |ino: &Ino| namespace.inode(*ino).filter(|inode| inode.nlink > 0 && !one_of_several(*ino));
    for (ino, last) in said {
        let Some(inode) = named(&ino) else { continue };
        assert_eq!(last.uid.unwrap_or(inode.uid), inode.uid, "the owner of {ino}");
        assert_eq!(last.gid.unwrap_or(inode.gid), inode.gid, "the group of {ino}");
        assert_eq!(last.atime.unwrap_or(inode.atime), inode.atime, "the access time of {ino}");
    }
    for ((ino, name), value) in xattrs.iter().filter(|((ino, _), _)| named(ino).is_some()) {
        assert_eq!(namespace.xattr(*ino, name), value.as_ref(), "{name:?} of {ino}");
    }
    for (ino, policy) in policies {
        assert!(named(&ino).is_none_or(|inode| inode.policy == policy), "the policy of {ino}");
    }
}

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
    /// The inode got a name.
    Named(Ino, Place),
    /// A name of the inode became another.
    Moved(Ino, Place, Place),
    /// A name of the inode went, by someone who saw this version.
    Removed(Ino, Place, Stamp),
    Directory(Ino),
    RemovedDirectory(Ino),
}

/// The facts of all ops, by the op's stamp.
#[derive(Default)]
pub struct Losses {
    facts: Vec<(Stamp, Fact)>,
    /// The name its maker asked for, of each entry an op made: it may have got a conflict name.
    wished: BTreeMap<(Stamp, Ino), Place>,
}

/// The names of one inode, each as all the places it was at, and whether someone removed it.
#[derive(Default)]
struct Names(Vec<(BTreeSet<Place>, bool)>);

impl Names {
    fn join(&mut self, places: BTreeSet<Place>, removed: bool) {
        let (same, others) = std::mem::take(&mut self.0).into_iter().partition(|(at, _)| !at.is_disjoint(&places));
        self.0 = others;
        let same: Vec<_> = same;
        let removed = removed || same.iter().any(|(_, removed)| *removed);
        self.0.push((same.into_iter().flat_map(|(at, _)| at).chain(places).collect(), removed));
    }
}

impl Losses {
    pub fn note(&mut self, op: Stamp, fact: Fact) {
        match &fact {
            Fact::Named(ino, place) | Fact::Moved(ino, _, place) => {
                self.wished.insert((op, *ino), place.clone());
            }
            _ => {}
        }
        self.facts.push((op, fact));
    }

    /// The name that an entry stands for, wherever someone sees it. One that a conflict or a return made has none but
    /// the op that made it: where that put it depends on what else had arrived.
    pub fn wish(&self, entry: Entry) -> Place {
        let unasked = || place(Ino(0), &entry.stamp.to_string());
        self.wished.get(&(entry.stamp, entry.ino)).cloned().unwrap_or_else(unasked)
    }

    /// Nothing that reached anybody, and that builds on nothing a power cut took, is lost: each version is there with what it held, unless someone who saw it put
    /// another in its place or took its only name, or somebody took each of its names and one of them saw it.
    /// Directories stay until someone removes them.
    pub fn check(
        &self,
        namespace: &Namespace,
        blocks: &BTreeMap<BlockName, Vec<u8>>,
        reached: &BTreeSet<Stamp>,
        founded: &BTreeSet<Stamp>,
    ) {
        let mut names: BTreeMap<Ino, Names> = BTreeMap::new();
        let mut superseded = BTreeSet::new();
        // Which inodes held a version when someone who saw it took a name of theirs.
        let mut seen_going: BTreeMap<Stamp, Vec<Ino>> = BTreeMap::new();
        let (mut directories, mut removed) = (BTreeSet::new(), BTreeSet::new());
        let facts = || self.facts.iter().filter(|(op, _)| reached.contains(op));
        for (op, fact) in facts() {
            match fact {
                Fact::Superseded(version) => drop(superseded.insert(*version)),
                Fact::Named(ino, place) if founded.contains(op) => {
                    names.entry(*ino).or_default().join([place.clone()].into(), false)
                }
                Fact::Moved(ino, from, to) => {
                    names.entry(*ino).or_default().join([from.clone(), to.clone()].into(), false);
                }
                Fact::Removed(ino, place, version) => {
                    names.entry(*ino).or_default().join([place.clone()].into(), true);
                    seen_going.entry(*version).or_default().push(*ino);
                }
                Fact::Directory(ino) => drop(founded.contains(op).then(|| directories.insert(*ino))),
                Fact::RemovedDirectory(ino) => drop(removed.insert(*ino)),
                Fact::Version(..) | Fact::Named(..) => {}
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
            if !founded.contains(version) {
                continue;
            }
            let nameless = |ino: &Ino| names.get(ino).is_some_and(|names| names.0.iter().all(|(_, removed)| *removed));
            let gone = |held: &Vec<Ino>| nameless(ino) || held.iter().any(nameless);
            if superseded.contains(version) || seen_going.get(version).is_some_and(gone) {
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
        match &op.change {
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

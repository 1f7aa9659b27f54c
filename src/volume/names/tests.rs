//! Names, attributes, extended attributes and directories of a share of one machine.

use super::*;
use crate::namespace::acl;
use crate::policy::Policy;
use crate::time::WallTime;
use crate::volume::attributes::{AttributeChange, TimeChange};
use crate::volume::testing::Share;
use crate::volume::xattrs::POLICY_XATTR;

const ROOT: Ino = Ino::ROOT;

fn volume() -> Volume {
    Share::new(1).volume(0)
}

fn node(kind: Kind) -> NewNode {
    NewNode { kind, mode: 0o755, umask: 0, uid: 10, gid: 20 }
}

async fn dir(volume: &Volume, parent: Ino, name: &str) -> Ino {
    volume.make(parent, name.as_bytes(), node(Kind::Directory)).await.unwrap().ino
}

async fn file(volume: &Volume, parent: Ino, name: &str) -> Ino {
    volume.make(parent, name.as_bytes(), node(Kind::File)).await.unwrap().ino
}

/// A file `f` in the root, opened with these flags.
fn new(flags: i32) -> NewFile<'static> {
    NewFile { parent: ROOT, name: b"f", mode: 0o640, umask: 0, uid: 1, gid: 2, flags }
}

fn names(volume: &Volume, dir: Ino) -> Vec<String> {
    let names = volume.control().namespace();
    names.entries(dir).map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
}

fn error<T: std::fmt::Debug>(result: Result<T, Errno>) -> i32 {
    result.unwrap_err().0
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_cannot_be_made_are_refused() {
    let v = volume();
    let d = dir(&v, ROOT, "d").await;
    let f = file(&v, d, "f").await;
    assert_eq!(error(v.make(d, b"f", node(Kind::Directory)).await), libc::EEXIST);
    assert_eq!(error(v.make(f, b"x", node(Kind::File)).await), libc::ENOTDIR);
    assert_eq!(error(v.make(Ino(99), b"x", node(Kind::File)).await), libc::ENOENT);
    assert_eq!(error(v.make(d, &[b'x'; 256], node(Kind::File)).await), libc::ENAMETOOLONG);
    assert_eq!(error(v.make(d, b"..", node(Kind::File)).await), libc::EINVAL);
    assert_eq!(error(v.make(d, b"a/b", node(Kind::File)).await), libc::EINVAL);
    let long = node(Kind::Symlink { target: vec![b't'; 4096].into() });
    assert_eq!(error(v.make(d, b"s", long).await), libc::ENAMETOOLONG);
    assert_eq!(names(&v, d), ["f"]);
    v.make(d, &[b'x'; 255], node(Kind::File)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lookups_tell_missing_names_from_wrong_parents() {
    let v = volume();
    let d = dir(&v, ROOT, "d").await;
    let f = file(&v, d, "f").await;
    assert_eq!(v.lookup(d, b"f").unwrap().ino, f);
    assert_eq!(error(v.lookup(d, b"g")), libc::ENOENT);
    assert_eq!(error(v.lookup(f, b"g")), libc::ENOTDIR);
    assert_eq!(error(v.lookup(d, &[b'x'; 256])), libc::ENAMETOOLONG);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setgid_directory_hands_its_group_down() {
    let v = volume();
    let d = dir(&v, ROOT, "d").await;
    let shared = AttributeChange { mode: Some(0o2775), gid: Some(77), ..Default::default() };
    v.set_attributes(d, shared, 0).await.unwrap();
    let below = v.make(d, b"below", node(Kind::Directory)).await.unwrap();
    assert_eq!((below.gid, below.mode), (77, 0o2755));
    let f = v.make(d, b"f", node(Kind::File)).await.unwrap();
    assert_eq!((f.gid, f.mode), (77, 0o755));
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_a_taken_name_sends_the_kernel_back_to_look() {
    let v = volume();
    let (attributes, handle) = v.create(new(libc::O_RDWR)).await.unwrap();
    assert_eq!((attributes.mode, attributes.uid, attributes.gid, attributes.nlink), (0o640, 1, 2, 1));
    assert_eq!(v.handle_ino(handle), Ok(attributes.ino));
    assert_eq!(error(v.create(new(libc::O_RDWR)).await), libc::ESTALE);
    assert_eq!(error(v.create(new(libc::O_RDWR | libc::O_EXCL)).await), libc::EEXIST);
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_tells_directories_from_the_rest() {
    let v = volume();
    let d = dir(&v, ROOT, "d").await;
    file(&v, d, "f").await;
    assert_eq!(error(v.unlink(ROOT, b"d").await), libc::EISDIR);
    assert_eq!(error(v.rmdir(d, b"f").await), libc::ENOTDIR);
    assert_eq!(error(v.rmdir(ROOT, b"d").await), libc::ENOTEMPTY);
    assert_eq!(error(v.unlink(d, b"g").await), libc::ENOENT);
    v.unlink(d, b"f").await.unwrap();
    v.rmdir(ROOT, b"d").await.unwrap();
    assert_eq!(error(v.lookup(ROOT, b"d")), libc::ENOENT);
    assert_eq!(error(v.make(d, b"late", node(Kind::File)).await), libc::ENOENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_gone_with_its_last_name() {
    let v = volume();
    let f = file(&v, ROOT, "f").await;
    assert_eq!(v.link(f, ROOT, b"g").await.unwrap().nlink, 2);
    v.unlink(ROOT, b"f").await.unwrap();
    assert_eq!(v.attributes(f).unwrap().nlink, 1);
    v.unlink(ROOT, b"g").await.unwrap();
    assert_eq!(v.attributes(f).unwrap().nlink, 0, "who has just looked it up may still open it");
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while v.attributes(f).is_ok() {
        assert!(std::time::Instant::now() < deadline, "it was never reaped");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(error(v.attributes(f)), libc::ENOENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_no_directory_gets_a_second_name() {
    let v = volume();
    let d = dir(&v, ROOT, "d").await;
    let f = file(&v, d, "f").await;
    assert_eq!(error(v.link(d, ROOT, b"e").await), libc::EPERM);
    assert_eq!(error(v.link(f, ROOT, b"d").await), libc::EEXIST);
    assert_eq!(error(v.link(f, f, b"x").await), libc::ENOTDIR);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_replaces_only_its_like() {
    let v = volume();
    let (a, b) = (dir(&v, ROOT, "a").await, dir(&v, ROOT, "b").await);
    let f = file(&v, a, "f").await;
    file(&v, b, "g").await;
    assert_eq!(error(v.rename(ROOT, b"a", b, b"g", 0).await), libc::ENOTDIR);
    assert_eq!(error(v.rename(a, b"f", ROOT, b"b", 0).await), libc::EISDIR);
    assert_eq!(error(v.rename(ROOT, b"a", ROOT, b"b", 0).await), libc::ENOTEMPTY);
    assert_eq!(error(v.rename(a, b"f", b, b"g", libc::RENAME_NOREPLACE).await), libc::EEXIST);
    assert_eq!(error(v.rename(a, b"f", b, b"g", libc::RENAME_WHITEOUT).await), libc::EINVAL);
    assert_eq!(error(v.rename(a, b"x", b, b"g", 0).await), libc::ENOENT);
    v.rename(a, b"f", b, b"g", 0).await.unwrap();
    assert_eq!((v.lookup(b, b"g").unwrap().ino, names(&v, a)), (f, vec![]));
    v.rename(ROOT, b"b", ROOT, b"a", 0).await.unwrap();
    assert_eq!(names(&v, ROOT), ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn renaming_a_file_to_another_of_its_names_does_nothing() {
    let v = volume();
    let f = file(&v, ROOT, "f").await;
    v.link(f, ROOT, b"g").await.unwrap();
    v.rename(ROOT, b"f", ROOT, b"g", 0).await.unwrap();
    assert_eq!(names(&v, ROOT), ["f", "g"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_directory_goes_into_itself() {
    let v = volume();
    let a = dir(&v, ROOT, "a").await;
    let b = dir(&v, a, "b").await;
    let c = dir(&v, b, "c").await;
    assert_eq!(error(v.rename(ROOT, b"a", c, b"x", 0).await), libc::EINVAL);
    assert_eq!(error(v.rename(ROOT, b"a", a, b"x", 0).await), libc::EINVAL);
    assert_eq!(error(v.rename(ROOT, b"a", b, b"c", libc::RENAME_EXCHANGE).await), libc::EINVAL);
    assert_eq!(error(v.rename(b, b"c", ROOT, b"a", libc::RENAME_EXCHANGE).await), libc::EINVAL);
    assert_eq!(error(v.rename(b, b"c", ROOT, b"a", 0).await), libc::ENOTEMPTY);
    v.rename(b, b"c", ROOT, b"c", 0).await.unwrap();
    let nlink = |ino| v.attributes(ino).unwrap().nlink;
    assert_eq!((nlink(ROOT), nlink(a), nlink(b), nlink(c)), (4, 3, 2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_swaps_unlike_things() {
    let v = volume();
    let a = dir(&v, ROOT, "a").await;
    let below = dir(&v, a, "below").await;
    let f = file(&v, ROOT, "f").await;
    assert_eq!(error(v.rename(a, b"below", ROOT, b"x", libc::RENAME_EXCHANGE).await), libc::ENOENT);
    v.rename(a, b"below", ROOT, b"f", libc::RENAME_EXCHANGE).await.unwrap();
    assert_eq!((v.lookup(a, b"below").unwrap().ino, v.lookup(ROOT, b"f").unwrap().ino), (f, below));
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_the_owner_takes_setuid_away() {
    let v = volume();
    let f = file(&v, ROOT, "f").await;
    let mode = |mode| AttributeChange { mode: Some(mode), ..Default::default() };
    v.set_attributes(f, mode(0o6755), 0).await.unwrap();
    let owner = AttributeChange { uid: Some(5), ..Default::default() };
    assert_eq!(v.set_attributes(f, owner, 5).await.unwrap().mode, 0o755);
    v.set_attributes(f, mode(0o2745), 0).await.unwrap();
    assert_eq!(v.set_attributes(f, owner, 5).await.unwrap().mode, 0o2745, "mandatory locking is not execution");
    let d = dir(&v, ROOT, "d").await;
    v.set_attributes(d, mode(0o2755), 0).await.unwrap();
    assert_eq!(v.set_attributes(d, owner, 5).await.unwrap().mode, 0o2755, "a directory keeps handing its group down");
}

#[tokio::test(flavor = "multi_thread")]
async fn times_are_set_to_the_nanosecond() {
    let v = volume();
    let f = file(&v, ROOT, "f").await;
    let before = v.attributes(f).unwrap();
    let at = |time| Some(TimeChange::At(WallTime(time)));
    let change = AttributeChange { atime: at(-5), mtime: at(1_000_000_000_000_000_001), ..Default::default() };
    let after = v.set_attributes(f, change, 0).await.unwrap();
    assert_eq!((after.atime.0, after.mtime.0), (-5, 1_000_000_000_000_000_001));
    assert!(after.ctime >= before.ctime);
}

#[tokio::test(flavor = "multi_thread")]
async fn extended_attributes_follow_their_flags() {
    let v = volume();
    let f = file(&v, ROOT, "f").await;
    assert_eq!(error(v.xattr(f, b"user.a")), libc::ENODATA);
    assert_eq!(error(v.set_xattr(f, b"user.a", b"1", libc::XATTR_REPLACE).await), libc::ENODATA);
    v.set_xattr(f, b"user.a", b"1", libc::XATTR_CREATE).await.unwrap();
    assert_eq!(error(v.set_xattr(f, b"user.a", b"2", libc::XATTR_CREATE).await), libc::EEXIST);
    v.set_xattr(f, b"user.a", b"2", libc::XATTR_REPLACE).await.unwrap();
    v.set_xattr(f, b"trusted.b", b"", 0).await.unwrap();
    assert_eq!(v.xattr(f, b"user.a").unwrap(), b"2"[..]);
    assert_eq!(v.xattrs(f).unwrap(), b"trusted.b\0user.a\0");
    v.remove_xattr(f, b"user.a").await.unwrap();
    assert_eq!(error(v.remove_xattr(f, b"user.a").await), libc::ENODATA);
    assert_eq!(error(v.set_xattr(f, b"user.a", &[0; 65_537], 0).await), libc::E2BIG);
    assert_eq!(error(v.set_xattr(f, b"system.other", b"", 0).await), libc::EOPNOTSUPP);
    let link = v.make(ROOT, b"l", node(Kind::Symlink { target: b"f"[..].into() })).await.unwrap().ino;
    assert_eq!(error(v.set_xattr(link, b"user.a", b"1", 0).await), libc::EPERM);
    assert_eq!(error(v.set_acl(link, acl::ACCESS, b"", true).await), libc::EOPNOTSUPP);
    assert_eq!(v.read_link(link).unwrap(), b"f"[..]);
}

/// For owner, user 1000, group, mask and others, as the kernel has it.
fn list([owner, user, group, mask, other]: [u8; 5]) -> Vec<u8> {
    let entry = |tag: u8, permissions: u8, id: u32| [&[tag, 0, permissions, 0], &id.to_le_bytes()[..]].concat();
    let none = u32::MAX;
    let entries = [
        entry(1, owner, none),
        entry(2, user, 1000),
        entry(4, group, none),
        entry(16, mask, none),
        entry(32, other, none),
    ];
    [&[2, 0, 0, 0], &entries.concat()[..]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn access_control_lists_and_modes_say_the_same_and_are_handed_down() {
    let v = volume();
    let mode = |ino| v.attributes(ino).unwrap().mode;
    let f = file(&v, ROOT, "f").await;
    let chmod = |mode| AttributeChange { mode: Some(mode), ..Default::default() };
    v.set_attributes(f, chmod(0o2751), 0).await.unwrap();
    v.set_acl(f, acl::ACCESS, &list([6, 7, 4, 5, 0]), false).await.unwrap();
    assert_eq!(mode(f), 0o2650, "the group's bits are the mask, and setgid stays");
    v.set_attributes(f, chmod(0o2714), 0).await.unwrap();
    assert_eq!(v.xattr(f, acl::ACCESS).unwrap(), list([7, 7, 4, 1, 4]));
    v.set_acl(f, acl::ACCESS, &list([6, 7, 4, 5, 0]), true).await.unwrap();
    assert_eq!(mode(f), 0o650, "who is not of the group leaves no setgid");
    v.set_acl(f, acl::ACCESS, b"", true).await.unwrap();
    assert_eq!(error(v.xattr(f, acl::ACCESS)), libc::ENODATA);
    v.set_acl(f, acl::ACCESS, b"", true).await.unwrap();
    assert_eq!(error(v.set_acl(f, acl::DEFAULT, &list([7; 5]), true).await), libc::EACCES);
    assert_eq!(error(v.set_acl(f, acl::ACCESS, b"xyz", true).await), libc::EINVAL);

    let d = dir(&v, ROOT, "d").await;
    v.set_acl(d, acl::DEFAULT, &list([7, 7, 5, 7, 1]), false).await.unwrap();
    let asked = |kind| NewNode { mode: 0o666, umask: 0o077, ..node(kind) };
    let below = v.make(d, b"below", asked(Kind::Directory)).await.unwrap();
    assert_eq!(below.mode, 0o660, "what was asked for and is allowed, whatever the umask");
    assert_eq!(v.xattr(below.ino, acl::ACCESS).unwrap(), list([6, 7, 5, 6, 0]));
    assert_eq!(v.xattr(below.ino, acl::DEFAULT).unwrap(), list([7, 7, 5, 7, 1]));
    let fifo = v.make(below.ino, b"fifo", asked(Kind::Special { format: libc::S_IFIFO, device: 0 })).await.unwrap();
    assert_eq!(v.xattr(fifo.ino, acl::ACCESS).unwrap(), list([6, 7, 5, 6, 0]));
    assert_eq!(error(v.xattr(fifo.ino, acl::DEFAULT)), libc::ENODATA);
    let link = v.make(d, b"link", asked(Kind::Symlink { target: b"x"[..].into() })).await.unwrap();
    assert_eq!(v.xattrs(link.ino).unwrap(), b"");
    v.set_acl(d, acl::DEFAULT, b"", false).await.unwrap();
    assert_eq!(v.make(d, b"later", asked(Kind::File)).await.unwrap().mode, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_attributes_of_one_file_are_bounded() {
    let v = volume();
    let f = file(&v, ROOT, "f").await;
    for number in 0..15 {
        v.set_xattr(f, format!("user.{number}").as_bytes(), &[1; 65_536], 0).await.unwrap();
    }
    assert_eq!(error(v.set_xattr(f, b"user.more", &[1; 65_536], 0).await), libc::ENOSPC);
    v.set_xattr(f, b"user.3", &[2; 65_536], 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_is_an_attribute_that_is_inherited() {
    let v = volume();
    let d = dir(&v, ROOT, "d").await;
    let shown = |ino| String::from_utf8(v.xattr(ino, POLICY_XATTR).unwrap().to_vec()).unwrap();
    assert_eq!(shown(d), "survive:2");
    assert_eq!(error(v.remove_xattr(d, POLICY_XATTR).await), libc::ENODATA);
    assert_eq!(error(v.set_xattr(d, POLICY_XATTR, b"rs:4", 0).await), libc::EINVAL);
    v.set_xattr(d, POLICY_XATTR, b"rs:4+2", 0).await.unwrap();
    let below = dir(&v, d, "below").await;
    assert_eq!((shown(d), shown(below)), ("rs:4+2".into(), "rs:4+2".into()));
    assert_eq!(v.control().namespace().policy(below), Policy::ReedSolomon { data: 4, parity: 2 });
    assert_eq!(v.xattrs(d).unwrap(), b"", "what is inherited must not be pinned by copying");
    v.set_xattr(d, POLICY_XATTR, b"", 0).await.unwrap();
    assert_eq!(shown(below), "survive:2");
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_count_files_and_what_is_left() {
    let v = volume();
    dir(&v, ROOT, "d").await;
    file(&v, ROOT, "f").await;
    let figures = v.figures();
    assert_eq!(figures.free, v.control().candidates()[0].free, "one machine keeps one copy");
    assert!(figures.inodes >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_read_once_over_whatever_changes_meanwhile() {
    let v = volume();
    let d = dir(&v, ROOT, "d").await;
    for number in 0..100 {
        file(&v, d, &format!("f{number:03}")).await;
    }
    let open = v.open_directory(d).unwrap();
    let mut seen = Vec::new();
    let mut next = 0;
    let mut round = 0;
    loop {
        let mut given = 0;
        open.read(next, &mut |listed| {
            if given == 7 {
                return false;
            }
            given += 1;
            next = listed.next;
            seen.push(String::from_utf8_lossy(&listed.name).into_owned());
            true
        })
        .unwrap();
        if given == 0 {
            break;
        }
        file(&v, d, &format!("a{round:03}")).await;
        if round < 20 {
            v.unlink(d, format!("f{:03}", 99 - round).as_bytes()).await.unwrap();
        }
        round += 1;
    }
    let stayed: Vec<String> = seen.iter().filter(|name| name.as_str() <= "f079").cloned().collect();
    let expected: Vec<String> =
        [".".into(), "..".into()].into_iter().chain((0..80).map(|number| format!("f{number:03}"))).collect();
    assert_eq!(stayed, expected);
    let mut again = 0;
    open.read(0, &mut |_| {
        again += 1;
        true
    })
    .unwrap();
    assert_eq!(again, 2 + 100 - round.min(20) + round, "rewinding looks again");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_directories_are_opened_as_such() {
    let v = volume();
    let f = file(&v, ROOT, "f").await;
    assert_eq!(v.open_directory(f).map(|_| ()), Err(Errno(libc::ENOTDIR)));
    assert_eq!(v.open_directory(Ino(99)).map(|_| ()), Err(Errno(libc::ENOENT)));
}

//! The measuring tools measure: a copy is equal, and every kind of difference is seen.

use crate::harness::{Cluster, tool, tree};
use std::fs;

#[test]
fn a_copy_on_the_same_disk_is_equal_and_each_change_to_it_shows() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    tree::plant(&a, 40);
    tool(&["cp", "-a", a.to_str().unwrap(), b.to_str().unwrap()]);
    let expected = tree::survey(&a);
    tree::assert_same("a copy", &expected, &tree::survey(&b));

    let differs = |what: &str, change: &dyn Fn()| {
        change();
        assert_ne!(expected, tree::survey(&b), "{what} was not noticed");
        fs::remove_dir_all(&b).unwrap();
        tool(&["cp", "-a", a.to_str().unwrap(), b.to_str().unwrap()]);
    };
    differs("a byte", &|| fs::write(b.join("size-1"), b"!").unwrap());
    differs("an attribute", &|| tree::set_xattr(&b.join("attributed"), "user.short", b"y"));
    differs("a mode", &|| drop(tool(&["chmod", "600", b.join("modes/file-644").to_str().unwrap()])));
    differs("a time", &|| drop(tool(&["touch", b.join("times/epoch").to_str().unwrap()])));
    differs("a missing file", &|| fs::remove_file(b.join("size-0")).unwrap());
    differs("a broken link", &|| {
        fs::remove_file(b.join("links/same")).unwrap();
        tool(&["cp", "-p", b.join("size-4097").to_str().unwrap(), b.join("links/same").to_str().unwrap()]);
    });
}

#[test]
fn machines_of_a_cluster_reach_one_another_until_cut_off() {
    let cluster = Cluster::namespaces(4, 2);
    let reaches = |from, to| cluster.reaches(from, to);
    assert!(reaches(0, 2), "within a subnet");
    assert!(reaches(0, 1), "across subnets");
    cluster.cut(1);
    assert!(!reaches(0, 1), "a machine that was cut off");
    cluster.mend(1);
    assert!(reaches(0, 1), "a mended machine");
}

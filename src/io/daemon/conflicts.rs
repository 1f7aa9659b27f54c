//! The conflicts of the share, as people are told of them.

use super::{Host, report};
use crate::io::control::{ByteText, ConflictReport, ConflictsReport, DeedReport};
use crate::namespace::{Deed, Did, Kind, Namespace};
use crate::volume::ports::Control;

/// The most conflicts in one answer.
const LISTED: usize = 1000;

/// The conflicts about names at or below a path, or all.
pub fn conflicts(host: &Host, path: Option<&[u8]>) -> Result<ConflictsReport, String> {
    let names = host.namespace();
    if let Some(path) = path
        && names.resolve(path).is_none()
    {
        return Err(report::no_such_path(path));
    }
    let mut report = ConflictsReport::default();
    for (place, conflict) in names.conflicts() {
        let at = names.path_of(&place);
        let other = conflict.other.as_ref().map(|other| names.path_of(other));
        if path.is_some_and(|path| !below(&at, path) && !other.as_ref().is_some_and(|other| below(other, path))) {
            continue;
        }
        if report.conflicts.len() == LISTED {
            report.more += 1;
            continue;
        }
        report.conflicts.push(ConflictReport {
            path: String::from_utf8_lossy(&at).into_owned(),
            path_bytes: ByteText(at),
            kind: match names.inode(conflict.ino).map(|inode| &inode.kind) {
                Some(Kind::Directory) => "directory",
                Some(Kind::Symlink { .. }) => "symlink",
                Some(Kind::Special { .. }) => "special",
                Some(Kind::File) | None => "file",
            }
            .to_owned(),
            this: deed(&names, conflict.here),
            other: deed(&names, conflict.there),
            other_path: other.map(|other| String::from_utf8_lossy(&other).into_owned()),
            has_other_version: conflict.beside().is_some(),
        });
    }
    Ok(report)
}

/// Whether a path is another one or lies below it.
fn below(path: &[u8], above: &[u8]) -> bool {
    let above = above.strip_suffix(b"/").unwrap_or(above);
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn deed(names: &Namespace, deed: Deed) -> DeedReport {
    let peer = deed.stamp.author.peer();
    DeedReport {
        what: match deed.what {
            Did::Created => "created",
            Did::Changed => "changed",
            Did::Deleted => "deleted",
            Did::Moved => "moved",
            Did::MovedInCircle => "moved-in-circle",
        }
        .to_owned(),
        by: names.peer(peer).map_or_else(|| peer.to_string(), |record| record.name.clone()),
        peer: peer.to_string(),
        at: deed.stamp.time.millis() / 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_below_directories_and_not_below_names_that_begin_like_it() {
        assert!(below(b"/a/b", b"/a") && below(b"/a/b", b"/a/") && below(b"/a", b"/a") && below(b"/a", b"/"));
        assert!(!below(b"/ab", b"/a") && !below(b"/a", b"/a/b"));
    }
}

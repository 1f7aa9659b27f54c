//! Where things go that are no shards, or no longer good ones: never served again, never deleted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Moves something that does not belong into `aside`, under a name that is free there.
pub(super) fn set_aside(aside: &Path, path: &Path) -> io::Result<PathBuf> {
    let to = free_name(aside, &path.file_name().unwrap_or_default().to_string_lossy());
    fs::rename(path, &to)?;
    Ok(to)
}

/// A path in `aside` that nothing has.
pub(super) fn free_name(aside: &Path, name: &str) -> PathBuf {
    let mut to = aside.join(name);
    let mut again = 1;
    while to.symlink_metadata().is_ok() {
        to = aside.join(format!("{name}.{again}"));
        again += 1;
    }
    to
}

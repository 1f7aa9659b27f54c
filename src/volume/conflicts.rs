//! Carrying out what a person decides about a conflict.

use super::Volume;
use super::ports::Errno;
use crate::id::Ino;
use crate::namespace::{Change, Resolution};

impl Volume {
    /// Settles the conflicts about a path in the share, everywhere; how many it were. The error is for people.
    pub async fn resolve_conflict(&self, path: &[u8], how: Resolution) -> Result<usize, String> {
        let control = self.control();
        let time = control.now();
        let mut refused = None;
        let mut gone: Vec<Ino> = Vec::new();
        let mut settled = 0;
        let made = self.change_at_once(&mut |names| {
            let changes = names.resolution(path, how, time).map_err(|why| {
                refused = Some(why);
                Errno(libc::EINVAL)
            })?;
            settled = changes.len();
            gone = changes.iter().filter_map(Change::takes_a_name_from).collect();
            Ok(changes)
        });
        let shown = String::from_utf8_lossy(path);
        let seq = made.map_err(|errno| refused.unwrap_or_else(|| format!("{shown}: {errno}")))?;
        gone.into_iter().for_each(|ino| self.linger(ino));
        let everywhere = self.settle(seq).await;
        everywhere
            .map_err(|errno| format!("the conflict about {shown} was settled here, but not everywhere: {errno}"))?;
        Ok(settled)
    }
}

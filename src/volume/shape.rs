//! Changing a file's shape: size, holes, ranges shared with another file; and finding its holes.

use super::dirty::{CHUNK, Content};
use super::handle::FileState;
use super::ports::Errno;
use super::read::Part;
use super::{HandleId, MAX_FILE_BYTES, Volume};
use crate::id::Ino;
use crate::policy::Policy;
use std::sync::Arc;

/// The most bytes one `copy_range` takes: a longer copy comes back for the rest.
const COPY: u64 = 64 * CHUNK;

impl Volume {
    /// Sets the size: what is past it goes, what is new reads as zeros. Known to the connected peers when this
    /// returns.
    pub async fn truncate(&self, ino: Ino, size: u64) -> Result<(), Errno> {
        if size > MAX_FILE_BYTES {
            return Err(Errno(libc::EFBIG));
        }
        let file = self.file(ino);
        let done = self.truncate_now(&file, size).await;
        self.let_go(&file);
        done
    }

    async fn truncate_now(&self, file: &Arc<FileState>, size: u64) -> Result<(), Errno> {
        self.clear_privileges(file, false).await?;
        {
            let _pin = self.pin(file.ino).await?;
            self.change_content(file, |state, _| state.resize(size))?;
        }
        if self.is_orphan(file.ino) {
            return Ok(());
        }
        self.commit(file).await?;
        self.settle_file(file).await
    }

    /// `fallocate(2)`: mode 0 and `KEEP_SIZE` promise nothing about space, `PUNCH_HOLE` and `ZERO_RANGE` make
    /// zeros; other modes are `EOPNOTSUPP`.
    pub async fn allocate(&self, handle: HandleId, offset: u64, len: u64, mode: i32) -> Result<(), Errno> {
        let handle = self.handle(handle)?;
        if !handle.flags.write {
            return Err(Errno(libc::EBADF));
        }
        let end = offset.checked_add(len).filter(|end| *end <= MAX_FILE_BYTES).ok_or(Errno(libc::EFBIG))?;
        if len == 0 {
            return Err(Errno(libc::EINVAL));
        }
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let zeros = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => false,
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => true,
            libc::FALLOC_FL_ZERO_RANGE => true,
            _ => return Err(Errno(libc::EOPNOTSUPP)),
        };
        let _pin = self.pin(handle.file.ino).await?;
        self.change_content(&handle.file, |state, size| {
            if zeros {
                state.overlay.punch(offset, end.min(size));
            }
            if !keep_size && end > size {
                state.resize(end);
            }
        })
    }

    /// `lseek(2)` for `SEEK_DATA` and `SEEK_HOLE`.
    pub async fn seek(&self, handle: HandleId, offset: i64, whence: i32) -> Result<i64, Errno> {
        let handle = self.handle(handle)?;
        let ino = handle.file.ino;
        let size = self.attributes(ino)?.size;
        let none = Errno(libc::ENXIO);
        let from = u64::try_from(offset).ok().filter(|from| *from < size).ok_or(none)?;
        let want_data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return Err(Errno(libc::EINVAL)),
        };
        let mut at = from;
        while at < size {
            // A look at a time, so that the namespace is not held up by a file of many extents.
            let to = (at + 256 * CHUNK).min(size);
            let hit = self.layout(ino, at, to)?.into_iter().find(|(_, _, data)| *data == want_data);
            if let Some((start, ..)) = hit {
                return Ok(start as i64);
            }
            at = if want_data { self.next_data(&handle.file, to).unwrap_or(size) } else { to };
        }
        // The end of the file counts as a hole.
        if want_data { Err(none) } else { Ok(size as i64) }
    }

    /// Where something may be written at or after `from`.
    fn next_data(&self, file: &FileState, from: u64) -> Option<u64> {
        let namespace = self.inner.control.namespace();
        let settled = namespace.extents(file.ino, from, u64::MAX).next().map(|(at, _)| at.max(from));
        let state = file.state.lock();
        let mut laid = state.overlay.range(from, u64::MAX).filter(|(_, piece)| !matches!(piece.content, Content::Hole));
        let laid = laid.next().map(|(at, _)| at.max(from));
        settled.into_iter().chain(laid).min()
    }

    /// `copy_file_range(2)`; what lies in blocks is shared, not copied, when both files are kept the same way.
    pub async fn copy_range(
        &self,
        from: HandleId,
        from_offset: u64,
        to: HandleId,
        to_offset: u64,
        len: u64,
    ) -> Result<u64, Errno> {
        let (from, target) = (self.handle(from)?, self.handle(to)?);
        if !from.flags.read || !target.flags.write || target.flags.append {
            return Err(Errno(libc::EBADF));
        }
        let len = len.min(COPY).min(MAX_FILE_BYTES.saturating_sub(to_offset));
        let (start, end) = (from_offset, from_offset.saturating_add(len));
        let same_file = from.file.ino == target.file.ino;
        if same_file && start < to_offset.saturating_add(len) && to_offset < end {
            return Err(Errno(libc::EINVAL));
        }
        let alike = {
            let namespace = self.inner.control.namespace();
            let policy = namespace.policy(target.file.ino);
            // A `survive` policy asks for what the peers there are now allow: an old block may have less.
            namespace.policy(from.file.ino) == policy && !matches!(policy, Policy::Survive(_))
        };
        let mut done = 0;
        for part in self.parts(from.file.ino, start, end)? {
            let at = to_offset + (part.at() - start);
            let copied = match &part {
                Part::Zeros { len, .. } => {
                    let _pin = self.pin(target.file.ino).await?;
                    self.change_content(&target.file, |state, size| {
                        state.overlay.punch(at, (at + len).min(size.max(at)));
                        if at + len > size {
                            state.resize(at + len);
                        }
                    })
                }
                Part::Block { len, block, inside, .. } if alike && block.len > 0 => {
                    let _pin = self.pin(target.file.ino).await?;
                    self.change_content(&target.file, |state, size| {
                        state.overlay.share(at, *len as u32, *block, *inside);
                        if let Some(unsaved) = &mut state.unsaved {
                            unsaved.size = size.max(at + len);
                        }
                    })
                }
                part => {
                    let (part_at, part_end) = (part.at(), part.end());
                    let bytes = self.assemble(vec![part.clone()], part_at, part_end).await?;
                    self.write(to, at, bytes, false).await.map(|_| ())
                }
            };
            match copied {
                Ok(()) => done += part.len(),
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }
}

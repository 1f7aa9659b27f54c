//! Inviting and admitting: the book of invitations on disk, and what a joiner is given.

use super::{Host, snapshot};
use crate::id::PeerKey;
use crate::namespace::Change;
use crate::volume::ports::{Control, Errno};
use crate::wire::{InviteBook, Inviter, JoinRefusal, JoinRequest, JoinWelcome, Secret, Ticket};
use bytes::Bytes;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The invitations of this peer, and the file they are kept in.
pub struct Invitations {
    book: Mutex<InviteBook>,
    file: PathBuf,
}

impl Invitations {
    /// The book in `home`; a new one if there is none.
    pub fn open(home: &Path, share: crate::id::ShareId) -> anyhow::Result<Invitations> {
        let file = home.join("invitations");
        let book = match std::fs::read(&file) {
            Ok(bytes) => postcard::from_bytes(&bytes).map_err(|_| {
                anyhow::anyhow!(
                    "{} is damaged; remove it (its tickets are then void) and make new ones with `shoal invite`",
                    file.display()
                )
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => InviteBook::new(share),
            Err(error) => anyhow::bail!("{} cannot be read: {error}; check its owner and the disk", file.display()),
        };
        Ok(Invitations { book: Mutex::new(book), file })
    }

    fn save(&self, book: &InviteBook) -> Result<(), String> {
        let bytes = postcard::to_stdvec(book).map_err(|error| error.to_string())?;
        let say = |error: std::io::Error| format!("{} cannot be written: {error}", self.file.display());
        crate::io::store::write_whole(&self.file, &bytes, 0o600).map_err(say)
    }
}

/// A new ticket.
pub fn issue(invitations: &Invitations, host: &Host, expires_secs: u64, uses: u32) -> Result<String, String> {
    let me = host.namespace().peer(host.me()).cloned().ok_or("this peer is not on the roster; it was evicted")?;
    let secret = Secret(rand::random());
    let now = host.now().millis() / 1000;
    let expires = now.saturating_add(expires_secs);
    let mut book = invitations.book.lock();
    book.issue(&secret, expires, uses, now);
    invitations.save(&book)?;
    let inviters = vec![Inviter { key: me.key, addresses: me.addresses }];
    Ok(Ticket { share: host.share(), inviters, secret, expires }.to_text().to_string())
}

/// Lets a joiner in, or says why not. Its admission is on every connected peer before it is welcomed.
pub async fn admit(
    invitations: &Invitations,
    host: &Arc<Host>,
    from: PeerKey,
    request: JoinRequest,
) -> Result<(JoinWelcome, Vec<Bytes>), JoinRefusal> {
    let now = host.now().millis() / 1000;
    let tag = from.tag();
    if request.record.key != from {
        return Err(JoinRefusal::BadRecord("its key is not the one it proved".into()));
    }
    let seq = {
        let mut book = invitations.book.lock();
        book.check(request.share, &request.secret, now)?;
        let admitted = admit_under_lock(host, tag, &request)?;
        book.redeem(request.share, &request.secret, now)?;
        invitations.save(&book).map_err(JoinRefusal::Unavailable)?;
        admitted
    };
    // On stable storage, too: a peer that forgot whom it let in would not ask the newcomer what it had made before.
    host.settle(seq, true).await.map_err(|error| JoinRefusal::Unavailable(error.to_string()))?;
    let chunks = snapshot::pieces_of(host).await.map_err(|error| JoinRefusal::Unavailable(error.to_string()))?;
    let roster = host.namespace().peers().map(|(tag, record)| (tag, record.clone())).collect();
    Ok((JoinWelcome { your_tag: tag, roster }, chunks))
}

fn admit_under_lock(host: &Host, tag: crate::id::PeerTag, request: &JoinRequest) -> Result<u64, JoinRefusal> {
    let mut refusal = None;
    let admitted = host.change(&mut |namespace| {
        let me = host.me();
        if namespace.peer(me).is_none() || namespace.standing(me).leaving {
            // Nobody takes ops of a machine that has left, and whoever it let in would be nobody's peer.
            refusal = Some(JoinRefusal::Unavailable("it leaves the share; ask for a ticket elsewhere".into()));
        } else if let Some(known) = namespace.peer(tag)
            && known.key != request.record.key
        {
            refusal = Some(JoinRefusal::TagTaken);
        } else if namespace.peers().any(|(other, record)| other != tag && record.name == request.record.name) {
            refusal = Some(JoinRefusal::NameTaken(request.record.name.clone()));
        }
        if refusal.is_some() {
            Err(Errno(libc::EEXIST))
        } else {
            Ok(vec![Change::Admit { peer: request.record.clone() }])
        }
    });
    admitted.map_err(|error| refusal.unwrap_or(JoinRefusal::Unavailable(error.to_string())))
}

//! The invitations a peer has given out. Pure: the time and the secret come in; the daemon keeps the book on disk.

use super::{JoinRefusal, Secret};
use crate::id::ShareId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The most invitations a book holds; the one that expired or expires first makes room.
pub const MAX_INVITATIONS: usize = 1024;
/// How long a spent invitation is remembered past its expiry, in seconds, so that its holder is told why.
const REMEMBERED: u64 = 30 * 24 * 3600;

/// The invitations of one share, kept by the hash of their secret: who reads the book cannot join with it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InviteBook {
    share: ShareId,
    invitations: BTreeMap<[u8; 32], Invitation>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Invitation {
    /// Seconds since 1970; refused from then on.
    expires: u64,
    uses_left: u32,
}

impl InviteBook {
    pub fn new(share: ShareId) -> InviteBook {
        InviteBook { share, invitations: BTreeMap::new() }
    }

    /// Writes an invitation down. `now` and `expires` in seconds since 1970.
    pub fn issue(&mut self, secret: &Secret, expires: u64, uses: u32, now: u64) {
        self.invitations.retain(|_, invitation| invitation.expires.saturating_add(REMEMBERED) > now);
        while self.invitations.len() >= MAX_INVITATIONS {
            let first = self.invitations.iter().min_by_key(|(_, invitation)| invitation.expires);
            if let Some(hash) = first.map(|(hash, _)| *hash) {
                self.invitations.remove(&hash);
            }
        }
        self.invitations.insert(hash(secret), Invitation { expires, uses_left: uses });
    }

    /// Whether the secret would be good for joining now; nothing is used up.
    pub fn check(&self, share: ShareId, secret: &Secret, now: u64) -> Result<(), JoinRefusal> {
        if share != self.share {
            return Err(JoinRefusal::WrongShare);
        }
        match self.invitations.get(&hash(secret)) {
            None => Err(JoinRefusal::UnknownTicket),
            Some(invitation) if invitation.expires <= now => Err(JoinRefusal::Expired),
            Some(invitation) if invitation.uses_left == 0 => Err(JoinRefusal::UsedUp),
            Some(_) => Ok(()),
        }
    }

    /// Uses the secret once. Write the book to stable storage before the joiner is welcomed.
    pub fn redeem(&mut self, share: ShareId, secret: &Secret, now: u64) -> Result<(), JoinRefusal> {
        self.check(share, secret, now)?;
        if let Some(invitation) = self.invitations.get_mut(&hash(secret)) {
            invitation.uses_left -= 1;
        }
        Ok(())
    }
}

fn hash(secret: &Secret) -> [u8; 32] {
    Sha256::digest(secret.0).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: ShareId = ShareId([1; 16]);

    #[test]
    fn an_invitation_is_good_for_its_uses_until_it_expires() {
        let (secret, mut book) = (Secret([7; 32]), InviteBook::new(SHARE));
        book.issue(&secret, 100, 2, 10);
        assert_eq!(book.redeem(SHARE, &secret, 99), Ok(()));
        assert_eq!(book.redeem(SHARE, &secret, 100), Err(JoinRefusal::Expired));
        assert_eq!(book.redeem(SHARE, &secret, 99), Ok(()));
        assert_eq!(book.redeem(SHARE, &secret, 99), Err(JoinRefusal::UsedUp));
    }

    #[test]
    fn strangers_and_other_shares_are_refused_each_in_its_way() {
        let (secret, mut book) = (Secret([7; 32]), InviteBook::new(SHARE));
        book.issue(&secret, 100, 1, 10);
        assert_eq!(book.redeem(ShareId([2; 16]), &secret, 20), Err(JoinRefusal::WrongShare));
        assert_eq!(book.redeem(SHARE, &Secret([8; 32]), 20), Err(JoinRefusal::UnknownTicket));
        assert_eq!(book.check(SHARE, &secret, 20), Ok(()), "refusals use nothing up");
    }

    #[test]
    fn the_book_survives_being_written_down_and_holds_no_secret() {
        let (secret, mut book) = (Secret([7; 32]), InviteBook::new(SHARE));
        book.issue(&secret, 100, 1, 10);
        let bytes = postcard::to_stdvec(&book).unwrap();
        assert_eq!(postcard::from_bytes::<InviteBook>(&bytes).unwrap(), book);
        assert!(!bytes.windows(32).any(|window| window == secret.0));
    }

    #[test]
    fn the_book_is_bounded_and_forgets_the_long_expired() {
        let mut book = InviteBook::new(SHARE);
        for n in 0..MAX_INVITATIONS as u64 + 10 {
            let mut secret = Secret([0; 32]);
            secret.0[..8].copy_from_slice(&n.to_le_bytes());
            book.issue(&secret, 1000 + n, 1, 10);
        }
        assert_eq!(book.invitations.len(), MAX_INVITATIONS);
        book.issue(&Secret([9; 32]), u64::MAX, 1, 3000 + REMEMBERED);
        assert_eq!(book.invitations.len(), 1);
    }
}

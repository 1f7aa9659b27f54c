//! Tickets: one line of text that lets a new machine find the share, know its inviters by their keys, and
//! prove that it was invited.

use super::{MAX_ADDRESSES, MAX_INVITERS, base32};
use crate::id::{PeerKey, ShareId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fmt, net::SocketAddr, str::FromStr};
use zeroize::{Zeroize, Zeroizing};

const PREFIX: &str = "shoal";
const VERSION: &str = "1";
const CHECKSUM_BYTES: usize = 4;
/// The most characters of a ticket that is looked at.
const MAX_TICKET: usize = 16 << 10;

/// What only the inviter and the invited know. Wiped when dropped, and never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub [u8; 32]);

/// A peer that admits whoever brings the ticket.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Inviter {
    pub key: PeerKey,
    /// Where it listens, best first, at most [`MAX_ADDRESSES`].
    pub addresses: Vec<SocketAddr>,
}

/// An invitation to a share.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ticket {
    pub share: ShareId,
    /// At most [`MAX_INVITERS`], at least one.
    pub inviters: Vec<Inviter>,
    pub secret: Secret,
    /// Seconds since 1970; refused from then on.
    pub expires: u64,
}

/// Why a text is no ticket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TicketError {
    #[error("this is not a ticket: it should start with 'shoal1-'; copy the whole line that 'shoal invite' prints")]
    NotATicket,
    #[error("this ticket was made by a newer shoal: update the program on this machine")]
    Newer,
    #[error("this ticket is damaged or was tampered with (its checksum does not match): copy the whole line again")]
    Tampered,
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Ticket {
    /// The line that people copy. It holds the secret: show it to nobody but the person who asked.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(postcard::to_stdvec(self).unwrap_or_default());
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        let code = Zeroizing::new(base32::encode(&bytes));
        Zeroizing::new(format!("{PREFIX}{VERSION}-{}", code.as_str()))
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Ticket, TicketError> {
        let text = text.trim();
        if text.len() > MAX_TICKET || !text.is_ascii() {
            return Err(TicketError::NotATicket);
        }
        let (kind, code) = text.split_once('-').ok_or(TicketError::NotATicket)?;
        let kind = kind.to_ascii_lowercase();
        let version = kind.strip_prefix(PREFIX).ok_or(TicketError::NotATicket)?;
        if version != VERSION {
            let number = version.parse::<u32>().is_ok_and(|number| number > 1);
            return Err(if number { TicketError::Newer } else { TicketError::NotATicket });
        }
        let bytes = Zeroizing::new(base32::decode(code).ok_or(TicketError::Tampered)?);
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TicketError::Tampered)?;
        if checksum(body) != *sum {
            return Err(TicketError::Tampered);
        }
        match postcard::take_from_bytes::<Ticket>(body) {
            Ok((ticket, [])) if ticket.is_bounded() => Ok(ticket),
            _ => Err(TicketError::NotATicket),
        }
    }
}

impl Ticket {
    fn is_bounded(&self) -> bool {
        (1..=MAX_INVITERS).contains(&self.inviters.len())
            && self.inviters.iter().all(|inviter| inviter.addresses.len() <= MAX_ADDRESSES)
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = Sha256::digest(bytes);
    [hash[0], hash[1], hash[2], hash[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            share: ShareId([1; 16]),
            inviters: vec![Inviter {
                key: PeerKey([2; 32]),
                addresses: vec!["192.0.2.1:7400".parse().unwrap(), "[2001:db8::1]:7400".parse().unwrap()],
            }],
            secret: Secret([3; 32]),
            expires: 1_900_000_000,
        }
    }

    #[test]
    fn a_ticket_survives_printing_and_parsing_in_any_case() {
        let text = ticket().to_text();
        assert!(text.starts_with("shoal1-aeaqcaibaeaqcaibaeaqcaibaeaq"), "{}", text.as_str());
        assert_eq!(text.parse::<Ticket>(), Ok(ticket()));
        assert_eq!(format!(" {}\n", text.to_uppercase()).parse::<Ticket>(), Ok(ticket()));
    }

    #[test]
    fn one_changed_character_is_tampering() {
        let text = ticket().to_text();
        for at in ["shoal1-".len(), text.len() / 2, text.len() - 2] {
            let mut changed = text.as_bytes().to_vec();
            changed[at] = if changed[at] == b'b' { b'c' } else { b'b' };
            assert_eq!(String::from_utf8(changed).unwrap().parse::<Ticket>(), Err(TicketError::Tampered));
        }
        assert_eq!(text[..text.len() - 8].parse::<Ticket>(), Err(TicketError::Tampered));
        assert_eq!("shoal1-".parse::<Ticket>(), Err(TicketError::Tampered));
    }

    #[test]
    fn other_texts_and_newer_tickets_are_told_apart() {
        for text in ["", "hello", "shoal-abc", "shoalx-abc", "shoal0-abc", "ticket1-abc", "shoal1 abc"] {
            assert_eq!(text.parse::<Ticket>(), Err(TicketError::NotATicket), "{text}");
        }
        assert_eq!("shoal2-abc".parse::<Ticket>(), Err(TicketError::Newer));
    }

    #[test]
    fn a_ticket_of_too_many_inviters_is_none() {
        let mut crowded = ticket();
        crowded.inviters = vec![crowded.inviters[0].clone(); MAX_INVITERS + 1];
        assert_eq!(crowded.to_text().parse::<Ticket>(), Err(TicketError::NotATicket));
    }

    #[test]
    fn the_secret_is_never_printed() {
        assert!(format!("{:?}", ticket()).contains("Secret(..)"));
    }
}

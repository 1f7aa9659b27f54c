//! What a directory asks for (`Policy`) and what a group is given (`Geometry`).

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What the user chose for a directory or a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Policy {
    /// `replicate:N`: N whole copies.
    Replicate(u8),
    /// `rs:K+M`: K data shards and M parity shards.
    ReedSolomon { data: u8, parity: u8 },
    /// `survive:M`: whatever geometry survives the loss of M machines, as far as the number of peers allows.
    Survive(u8),
}

/// What a directory asks for while a partition keeps machines apart. Inherited, like the policy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Partition {
    /// `keep-both`: every side goes on, and what they did is merged when they meet.
    #[default]
    KeepBoth,
    /// `refuse`: a side that is no majority of the roster changes nothing.
    Refuse,
}

impl FromStr for Partition {
    type Err = String;

    fn from_str(text: &str) -> Result<Partition, String> {
        match text.trim() {
            "keep-both" => Ok(Partition::KeepBoth),
            "refuse" => Ok(Partition::Refuse),
            other => Err(format!("'{}' is neither keep-both nor refuse", other.chars().take(64).collect::<String>())),
        }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Partition::KeepBoth => "keep-both",
            Partition::Refuse => "refuse",
        })
    }
}

/// `data` + `parity` shards; any `data` of them give the block back. `data` = 1 is replication.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Geometry {
    pub data: u8,
    pub parity: u8,
}

/// The most shards of one block: the code works over GF(2^8), and 32 machines a block is past any use on
/// the hundred peers a share is made for.
pub const MAX_SHARDS: u8 = 32;

/// The policy of a share whose founder chose none.
pub const DEFAULT_POLICY: Policy = Policy::Survive(2);

impl Policy {
    /// The geometry for a share of `peers` usable peers (at least 1 is assumed). Fixed policies do not look at
    /// it. `survive:M` goes one copy, two copies, 2+1, 2+2, 3+2, 4+2 for M = 2: as much redundancy as was asked
    /// for once there are M + 2 peers, and storage overhead 1.5 from 3 M peers on.
    pub fn geometry(self, peers: usize) -> Geometry {
        match self {
            Policy::Replicate(copies) => Geometry { data: 1, parity: copies - 1 },
            Policy::ReedSolomon { data, parity } => Geometry { data, parity },
            Policy::Survive(0) => Geometry { data: 1, parity: 0 },
            Policy::Survive(losses) => match peers {
                0 | 1 => Geometry { data: 1, parity: 0 },
                2 => Geometry { data: 1, parity: 1 },
                _ => {
                    let peers = peers.min(MAX_SHARDS as usize) as u8;
                    let parity = losses.min(peers - 2);
                    Geometry { data: (peers - parity).min(2 * losses), parity }
                }
            },
        }
    }
}

impl Geometry {
    /// Shards in all.
    pub fn shards(self) -> usize {
        usize::from(self.data) + usize::from(self.parity)
    }

    /// Bytes of one shard of a block of `block_bytes` (at least 1).
    pub fn shard_bytes(self, block_bytes: usize) -> usize {
        block_bytes.div_ceil(usize::from(self.data))
    }
}

/// Why a text is no policy; the message says what would be one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "'{text}' is no policy: {why}; use replicate:N (N 1 to 32), rs:K+M (K + M at most 32, both at least 1) or survive:M (M 0 to 16)"
)]
pub struct PolicyError {
    text: String,
    why: &'static str,
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Policy, PolicyError> {
        let fail = |why| PolicyError { text: text.chars().take(64).collect(), why };
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            if plain {
                digits.parse::<u32>().map_err(|_| fail("the number is too large"))
            } else {
                Err(fail("a number is missing"))
            }
        };
        let (kind, rest) = text.trim().split_once(':').ok_or_else(|| fail("there is no ':'"))?;
        match kind {
            "replicate" => match number(rest)? {
                copies @ 1..=32 => Ok(Policy::Replicate(copies as u8)),
                _ => Err(fail("the number of copies is out of range")),
            },
            "rs" => {
                let (data, parity) = rest.split_once('+').ok_or_else(|| fail("there is no '+'"))?;
                let (data, parity) = (number(data)?, number(parity)?);
                if data == 0 || parity == 0 {
                    return Err(fail("both parts must be at least 1"));
                }
                if data.saturating_add(parity) > u32::from(MAX_SHARDS) {
                    return Err(fail("it has too many shards"));
                }
                Ok(Policy::ReedSolomon { data: data as u8, parity: parity as u8 })
            }
            "survive" => match number(rest)? {
                losses @ 0..=16 => Ok(Policy::Survive(losses as u8)),
                _ => Err(fail("the number of losses is out of range")),
            },
            _ => Err(fail("it starts with none of the three kinds")),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Policy::Replicate(copies) => write!(f, "replicate:{copies}"),
            Policy::ReedSolomon { data, parity } => write!(f, "rs:{data}+{parity}"),
            Policy::Survive(losses) => write!(f, "survive:{losses}"),
        }
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.data, self.parity) {
            (1, 0) => f.write_str("1 copy"),
            (1, _) => write!(f, "{} copies", self.shards()),
            (data, parity) => write!(f, "{data}+{parity}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survive_reshapes_with_the_number_of_peers() {
        let shape = |losses, peers| {
            let g = Policy::Survive(losses).geometry(peers);
            (g.data, g.parity)
        };
        assert_eq!(
            (1..=8).map(|n| shape(2, n)).collect::<Vec<_>>(),
            [(1, 0), (1, 1), (2, 1), (2, 2), (3, 2), (4, 2), (4, 2), (4, 2)]
        );
        assert_eq!((shape(1, 3), shape(1, 9), shape(3, 9), shape(16, 100)), ((2, 1), (2, 1), (6, 3), (16, 16)));
    }

    #[test]
    fn every_policy_survives_printing_and_parsing() {
        for text in ["replicate:1", "replicate:32", "rs:4+2", "rs:30+2", "survive:0", "survive:16"] {
            assert_eq!(text.parse::<Policy>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "rs:4",
            "rs:0+2",
            "rs:4+0",
            "rs:31+2",
            "replicate:0",
            "replicate:33",
            "survive:17",
            "rs:+4+2",
            "raid:5",
            "replicate:-1",
            "rs:99999999999+1",
        ] {
            let error = text.parse::<Policy>().expect_err(text);
            assert!(error.to_string().contains("rs:K+M"));
        }
    }
}

//! Who is alive, and who holds what. Pure.
//!
//! SWIM (Das, Gupta and Motivala, 2002) with suspicion, by way of foca: each peer probes one other at a time,
//! directly and then through third ones; what it finds travels along with the probes of all. Nobody sends more
//! the larger the share is.
//!
//! Search finds shards that no record leads to: it asks neighbours, who ask theirs, guided by summaries of what is
//! where.

mod bloom;
mod codec;
mod membership;
mod probe;
mod query;
mod search;
mod settings;
mod summaries;
mod view;

pub use bloom::{BLOOM_BYTES, Bloom};
pub use codec::{DATAGRAM_BYTES, Member, Purpose};
pub use membership::{Membership, MembershipEffect, MembershipEvent, MembershipTimer};
pub use query::{Answer, MAX_HOPS, MAX_PIECES, Piece, Query, QueryId, SearchMessage, Spread};
pub use search::{SEARCHES, Search, SearchEffect, SearchEvent, SearchSettings, SearchTimer};
pub use settings::Settings;
pub use summaries::{MAX_LEVELS, SummarySettings};
pub use view::{VIEW_EACH_WAY, neighbours};

//! Who is alive. Pure.
//!
//! SWIM (Das, Gupta and Motivala, 2002) with suspicion, by way of foca: each peer probes one other at a time,
//! directly and then through third ones; what it finds travels along with the probes of all. Nobody sends more
//! the larger the share is.

mod codec;
mod membership;
mod probe;
mod settings;
mod view;

pub use codec::{DATAGRAM_BYTES, Member};
pub use membership::{Membership, MembershipEffect, MembershipEvent, MembershipTimer};
pub use settings::Settings;
pub use view::{VIEW_EACH_WAY, neighbours};

//! How fast the dead are to be found dead, and what it costs: the settings of membership, each set derived from what it
//! is for.

use super::codec::DATAGRAM_BYTES;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

/// What one peer sends, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// From a probe's beginning to its verdict: whoever has answered by then, directly or through others, is alive.
    pub probe_period: Duration,
    /// After this long without an answer, others are asked to try.
    pub probe_rtt: Duration,
    /// The pause between a probe that was answered and the next. After one that was not, the next begins at once.
    pub probe_rest: Duration,
    /// How many others are asked to try, and how many are told of news at a time.
    pub fan_out: usize,
    /// Who did not answer has this long to object before it is declared dead.
    pub suspect_to_down_after: Duration,
    /// News is passed on this often, and at once when it comes. `None`: it only rides on probes and their answers, and
    /// those who need it are told by [`super::Membership::tell`].
    pub gossip_period: Option<Duration>,
    /// Peers on the roster that are not alive are called this often.
    pub announce_period: Duration,
    /// How many of them at a time.
    pub calls: usize,
}

impl Settings {
    /// Finds a dead peer dead within `detection`: on average three periods pass until somebody's probe misses it
    /// and its own period is over, two fifths of the time are for objections, and the news needs a few hops.
    /// What is left is for bad luck: among many peers, the next probe of any one of them is only likely, not
    /// certain, to come in the next period.
    pub fn within(detection: Duration) -> Settings {
        Settings {
            probe_period: detection / 12,
            probe_rtt: detection / 30,
            probe_rest: Duration::ZERO,
            fan_out: 3,
            suspect_to_down_after: detection * 2 / 5,
            gossip_period: Some(detection / 20),
            announce_period: detection / 3,
            calls: 5,
        }
    }

    /// Sends as little as it can: a probe and its answer every `cycle`, which are two datagrams a peer and `cycle`, and
    /// a few more for each death and each newcomer. Each peer is probed by somebody every `cycle` on average.
    ///
    /// The verdict does not wait for the end of the cycle. `probe_rtt` is three times the round trip of a wide network
    /// (0.1 s), a probe through a third peer takes two round trips more, and an objection one; so a dead peer is known
    /// dead 0.7 s after the probe that finds it, and `cycle` + 0.7 s after its death on average. News rides on probes
    /// and answers; those who need it at once are told by [`super::Membership::tell`].
    ///
    /// The dead are called once in twenty cycles, for whoever is called and is gone for good costs a datagram.
    pub fn frugal(cycle: Duration) -> Settings {
        let probe_period = Duration::from_millis(450);
        Settings {
            probe_period,
            probe_rtt: Duration::from_millis(200),
            probe_rest: cycle.saturating_sub(probe_period),
            fan_out: 1,
            suspect_to_down_after: Duration::from_millis(250),
            gossip_period: None,
            announce_period: cycle * 20,
            calls: 1,
        }
    }

    /// For shares whose peers come and go all the time. Data of three copies dies when the last of them dies before
    /// anybody has made the first one good: at a chance c to die per second, about 3 c^3 D^2 of the items each second,
    /// D being the time from a death to the end of its repair. So everything is spent on D, and nothing on telling
    /// everybody everything: it is [`Settings::frugal`] with a cycle of half a second, that is four datagrams a peer and
    /// second, for a D of little more than a second.
    pub fn high_churn() -> Settings {
        Settings { announce_period: Duration::from_secs(20), ..Settings::frugal(Duration::from_millis(500)) }
    }

    pub(super) fn foca(&self) -> foca::Config {
        let at_least_one = |members: usize| NonZeroUsize::new(members).unwrap_or(NonZeroUsize::MIN);
        let often = |frequency, members| foca::PeriodicParams { frequency, num_members: at_least_one(members) };
        foca::Config {
            probe_period: self.probe_period,
            probe_rtt: self.probe_rtt,
            num_indirect_probes: at_least_one(self.fan_out),
            max_transmissions: NonZeroU8::new(12).expect("a literal that is not 0"),
            suspect_to_down_after: self.suspect_to_down_after,
            // A peer takes no more room dead than alive, and comes back under another generation.
            remove_down_after: None,
            max_packet_size: at_least_one(DATAGRAM_BYTES),
            notify_down_members: true,
            periodic_announce: Some(often(self.announce_period * 10, 1)),
            // foca stops this as soon as it knows nobody alive, which is when it is needed most: see `call`.
            periodic_announce_to_down_members: None,
            periodic_gossip: self.gossip_period.map(|period| often(period, self.fan_out)),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings::within(Duration::from_secs(3))
    }
}

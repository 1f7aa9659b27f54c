//! What goes over the control socket, one JSON value a line.

use super::report::{
    CanStopReport, CheckReport, ConflictsReport, EvictReport, GroupsReport, HealingReport, LeaveReport, MountReport,
    PeersReport, PolicyReport, ScrubReport, StatsReport, StatusReport, WhereReport,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What a command asks of the running peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlRequest {
    /// Is anybody there: [`ControlReply::Pong`].
    Ping,
    /// Mount the share on this absolute path; answered when the mount answers: [`ControlReply::Done`].
    Mount { mountpoint: ByteText },
    /// Flush, then let go of the mount: [`ControlReply::Done`], or an error that says what is not safe.
    Unmount { mountpoint: ByteText },
    /// Flush and unmount everything and end the process: [`ControlReply::Done`] once all is safe.
    Stop,
    /// [`ControlReply::Status`].
    Status,
    /// [`ControlReply::Peers`].
    Peers,
    /// [`ControlReply::Groups`].
    Groups,
    /// Where the file at this absolute path in the share lies: [`ControlReply::Where`].
    Where { path: ByteText },
    /// Shows, or with `set` and `partition` changes, the policy of a path in the share, and what it asks for in a
    /// partition: [`ControlReply::Policy`].
    Policy {
        path: ByteText,
        set: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        partition: Option<String>,
    },
    /// A new ticket: [`ControlReply::Invite`].
    Invite { expires_secs: u64, uses: u32 },
    /// The counters of all reachable peers, summed: [`ControlReply::Stats`].
    Stats,
    /// Every reachable peer forgets cached content, so that the next read is a real one: [`ControlReply::Done`].
    DropCaches,
    /// Where this peer has the share mounted: [`ControlReply::Mounts`].
    WhichMounts,
    /// What the share would be without these peers, by id or name: [`ControlReply::CanStop`].
    CanStop { peers: Vec<String> },
    /// Take a peer, by id or name, off the roster: [`ControlReply::Evicted`], or an error that says what would be lost.
    Evict { peer: String, accept_loss: bool },
    /// Hand over what this peer holds, then take it off the roster and end it: progress all the while, and
    /// [`ControlReply::Left`] when the machine may be switched off.
    Leave { accept_loss: bool },
    /// Every reachable peer looks at its groups now, and tries again what failed; with `watch`, progress until all is
    /// well: [`ControlReply::Healing`].
    Repair { watch: bool },
    /// How the shards are checked; with `now`, every reachable peer reads all of its own, with progress:
    /// [`ControlReply::Scrub`].
    Scrub { now: bool },
    /// Whether the tree is sound and every shard where it should be; with `read`, every shard is read: progress, and
    /// [`ControlReply::Check`].
    Check { read: bool },
    /// Stay after all: [`ControlReply::Done`].
    CancelLeave,
    /// For so many seconds from now this peer's being away is no reason for repair; 0: it is again:
    /// [`ControlReply::Done`].
    Maintenance { secs: u64 },
    /// The conflicts that nobody has settled, at or below this absolute path in the share, or all:
    /// [`ControlReply::Conflicts`].
    Conflicts { path: Option<ByteText> },
    /// Settle the conflicts about this absolute path in the share; `how` is `keep-this`, `keep-other` or `keep-both`:
    /// [`ControlReply::Resolved`], or an error that says what is in the way.
    Resolve { path: ByteText, how: String },
}

/// What the peer answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlReply {
    /// To `Ping`: the process and what it is running.
    Pong {
        pid: u32,
        version: String,
        peer: String,
    },
    /// It is done, and there is nothing to say.
    Done,
    Status(Box<StatusReport>),
    Peers(PeersReport),
    Groups(GroupsReport),
    Where(WhereReport),
    Policy(PolicyReport),
    Invite {
        ticket: String,
    },
    Stats(StatsReport),
    Mounts(Vec<MountReport>),
    CanStop(CanStopReport),
    Check(CheckReport),
    Evicted(EvictReport),
    Left(LeaveReport),
    Healing(HealingReport),
    Scrub(ScrubReport),
    Conflicts(ConflictsReport),
    Resolved {
        conflicts: u64,
    },
}

/// How far a long command has come.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done, in a few words.
    pub text: String,
    pub done: u64,
    /// 0: not known.
    pub total: u64,
}

/// One line of an answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Progress(Progress),
    Reply(ControlReply),
    Error { message: String },
}

/// Bytes that are mostly text, as paths are. In JSON they are a string in which `%` and every byte that is no
/// UTF-8 stand as `%` and two hexadecimal digits, so that any path makes the way there and back.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteText(pub Vec<u8>);

impl ByteText {
    /// These bytes as a path of the local machine.
    pub fn to_path(&self) -> PathBuf {
        PathBuf::from(std::ffi::OsString::from_vec(self.0.clone()))
    }

    fn encode(&self) -> String {
        let mut text = String::with_capacity(self.0.len());
        for chunk in self.0.utf8_chunks() {
            text.push_str(&chunk.valid().replace('%', "%25"));
            for byte in chunk.invalid() {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
        text
    }

    fn decode(text: &str) -> Option<ByteText> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            if first == b'%' {
                let (digits, after) = rest.split_at_checked(2)?;
                let [byte] = crate::id::unhex::<1>(std::str::from_utf8(digits).ok()?)?;
                bytes.push(byte);
                rest = after;
            } else {
                bytes.push(first);
            }
        }
        Some(ByteText(bytes))
    }
}

impl From<&Path> for ByteText {
    fn from(path: &Path) -> ByteText {
        ByteText(path.as_os_str().as_bytes().to_vec())
    }
}

impl From<&OsStr> for ByteText {
    fn from(text: &OsStr) -> ByteText {
        ByteText(text.as_bytes().to_vec())
    }
}

impl From<&[u8]> for ByteText {
    fn from(bytes: &[u8]) -> ByteText {
        ByteText(bytes.to_vec())
    }
}

impl fmt::Display for ByteText {
    /// For people: bytes that are no UTF-8 show as replacement characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for ByteText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.encode())
    }
}

impl Serialize for ByteText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.encode())
    }
}

impl<'de> Deserialize<'de> for ByteText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ByteText, D::Error> {
        let text = String::deserialize(deserializer)?;
        ByteText::decode(&text)
            .ok_or_else(|| serde::de::Error::custom("a '%' is not followed by two hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_make_the_way_there_and_back() {
        let all: Vec<u8> = (0..=255).collect();
        for bytes in [&b""[..], b"/plain", "/grün 100%".as_bytes(), b"/a\xffb\n", b"%41", &all] {
            let text = ByteText(bytes.to_vec());
            let json = serde_json::to_string(&text).unwrap();
            assert!(!json.contains('\n'));
            assert_eq!(serde_json::from_str::<ByteText>(&json).unwrap(), text);
        }
        assert_eq!(serde_json::to_string(&ByteText::from(Path::new("/a b"))).unwrap(), "\"/a b\"");
        for bad in ["\"%\"", "\"%4\"", "\"%zz\"", "\"%+1\""] {
            assert!(serde_json::from_str::<ByteText>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn requests_and_lines_have_these_forms() {
        let request =
            ControlRequest::Policy { path: ByteText(b"/a".to_vec()), set: Some("rs:4+2".into()), partition: None };
        assert_eq!(serde_json::to_string(&ControlRequest::Ping).unwrap(), r#""ping""#);
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"policy":{"path":"/a","set":"rs:4+2"}}"#);
        assert_eq!(serde_json::to_string(&Line::Reply(ControlReply::Done)).unwrap(), r#"{"reply":"done"}"#);
        let progress = Line::Progress(Progress { text: "flushing".into(), done: 1, total: 2 });
        assert_eq!(serde_json::to_string(&progress).unwrap(), r#"{"progress":{"text":"flushing","done":1,"total":2}}"#);
        let error = Line::Error { message: "no".into() };
        assert_eq!(serde_json::to_string(&error).unwrap(), r#"{"error":{"message":"no"}}"#);
    }
}

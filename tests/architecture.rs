//! Who may import whom. The table below is the architecture; a new edge is a decision and is written down here
//! first. The files are read as text: comments, literals and test-only code are left out, every path that is
//! left is resolved to the module it names and held against the table.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Values every part shares.
const VALUES: &[&str] = &["id", "time", "policy", "config"];

/// The modules that decide: time comes in as a value, effects go out as values.
const PURE: &[&str] = &["id", "time", "policy", "erasure", "namespace", "group", "overlay", "peer", "sim"];

/// What each part may name of the others. A part may always name itself; an entry covers what lies below it.
const TABLE: &[(&str, &[&str])] = &[
    ("id", &["time", "policy"]),
    ("time", &["id", "policy"]),
    ("policy", &["id", "time"]),
    ("config", &["id", "time", "policy"]),
    ("erasure", &["policy"]),
    ("namespace", &["id", "time", "policy"]),
    ("group", &["id", "time", "policy", "namespace", "volume::ports"]),
    ("overlay", &["id", "time", "policy"]),
    ("peer", &["id", "time", "policy", "config", "erasure", "namespace", "group", "overlay", "wire", "volume::ports"]),
    ("volume", &["id", "time", "policy", "config", "namespace", "erasure", "group"]),
    ("wire", &["id", "time", "policy", "config", "namespace", "group", "overlay", "volume::ports"]),
    ("io::store", DEVICE),
    ("io::quic", DEVICE),
    ("io::fuse", DEVICE),
    ("io::control", DEVICE),
    (
        "io::daemon",
        &[
            "id",
            "time",
            "policy",
            "config",
            "erasure",
            "namespace",
            "group",
            "overlay",
            "peer",
            "wire",
            "volume",
            "io::store",
            "io::quic",
            "io::fuse",
            "io::control",
        ],
    ),
    ("sim", &["id", "time", "policy", "namespace", "group", "overlay", "peer", "wire", "volume::ports"]),
    ("cli", &["id", "time", "policy", "config", "sim", "io::daemon", "io::control"]),
    ("main", &["cli"]),
    ("lib", &[]),
    ("io", &[]),
];

/// A device knows the parts it serves, and no other device.
const DEVICE: &[&str] =
    &["id", "time", "policy", "config", "erasure", "namespace", "group", "overlay", "peer", "wire", "volume"];

/// What a pure module may not name: paths by their beginning.
const IMPURE_PATHS: &[(&str, &str)] = &[
    ("std::time::SystemTime", "a clock"),
    ("std::time::Instant", "a clock"),
    ("std::fs", "a disk"),
    ("std::io", "a device"),
    ("std::thread", "a thread"),
    ("std::net::UdpSocket", "a socket"),
    ("std::net::TcpStream", "a socket"),
    ("std::net::TcpListener", "a socket"),
    ("std::os", "a device"),
    ("std::process", "a process"),
    ("std::env", "the environment"),
    ("tokio", "a run-time"),
    ("quinn", "a socket"),
    ("fuser", "a device"),
    ("redb", "a disk"),
    ("parking_lot", "a lock"),
    ("rand::rng", "hidden randomness"),
    ("rand::random", "hidden randomness"),
    ("rand::rngs::ThreadRng", "hidden randomness"),
    ("rand::rngs::SysRng", "hidden randomness"),
];

/// What a pure module may not name: single words, wherever they stand.
const IMPURE_WORDS: &[(&str, &str)] = &[
    ("SystemTime", "a clock"),
    ("Mutex", "a lock"),
    ("RwLock", "a lock"),
    ("LazyLock", "a global"),
    ("static", "a global"),
    ("thread_local", "a global"),
    ("async", "async code"),
    ("await", "async code"),
    ("UdpSocket", "a socket"),
    ("TcpStream", "a socket"),
    ("TcpListener", "a socket"),
    ("HashMap", "an order that differs between runs (use BTreeMap)"),
    ("HashSet", "an order that differs between runs (use BTreeSet)"),
];

#[test]
fn modules_import_only_what_the_table_allows() {
    let mut wrong = Vec::new();
    for source in sources() {
        let part = source.part();
        let Some((_, allowed)) = TABLE.iter().find(|(name, _)| *name == part) else {
            wrong.push(format!("{}:1: '{part}' is not in the import table: decide what it may import", source.file));
            continue;
        };
        for (line, path) in &source.paths {
            let Some(target) = source.resolve(path) else { continue };
            let own = covers(&part, &target) || (part == "io" || part == "lib");
            if !own && !allowed.iter().any(|a| covers(a, &target)) {
                wrong.push(format!(
                    "{}:{line}: {part} imports {}, which the table does not allow (it may import: {})",
                    source.file,
                    target.join("::"),
                    if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") }
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn pure_modules_touch_no_clock_socket_disk_lock_or_chance() {
    let mut wrong = Vec::new();
    for source in sources() {
        let part = source.part();
        if !PURE.contains(&part.as_str()) {
            continue;
        }
        for (line, path) in &source.paths {
            let text = path.join("::");
            let by_path = IMPURE_PATHS.iter().find(|(start, _)| {
                let start: Vec<_> = start.split("::").collect();
                path.len() >= start.len() && start.iter().zip(path).all(|(a, b)| a == b)
            });
            let by_word = IMPURE_WORDS.iter().find(|(word, _)| path.iter().any(|p| p == word));
            if let Some((_, what)) = by_path.or(by_word) {
                wrong.push(format!("{}:{line}: {part} is pure, and '{text}' is {what}", source.file));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_module_says_what_it_is() {
    let wrong: Vec<_> = sources()
        .into_iter()
        .filter(|s| s.part() != "main" && !s.text.trim_start().starts_with("//!"))
        .map(|s| format!("{}:1: a module opens with a `//!` comment", s.file))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_table_names_only_parts_that_can_exist() {
    let known: Vec<_> = TABLE.iter().map(|(name, _)| *name).collect();
    for (name, allowed) in TABLE {
        for target in *allowed {
            let found = known.contains(target) || *target == "volume::ports";
            assert!(found, "the table lets {name} import '{target}', which is no part");
        }
    }
    assert!(VALUES.iter().all(|v| known.contains(v)));
}

#[test]
fn the_reader_sees_through_groups_literals_and_comments() {
    let text = "use crate::{id::Ino, time::{self, Hlc}};\n// use crate::io::quic;\nlet a = \"crate::cli\"; /* crate::wire */\n\
                let c = '\"'; fn f<'a>() { super::super::peer::go() }\n#[cfg(test)]\nmod tests {\n use crate::cli;\n}\n\
                let d = r#\"crate::wire \"#; crate::erasure::encode();";
    let found: Vec<_> = paths(&tokens(&without_tests(&code_only(text))))
        .into_iter()
        .map(|(line, path)| (line, path.join("::")))
        .filter(|(_, path)| path.contains("::"))
        .collect();
    let expected = [
        (1, "crate::id::Ino"),
        (1, "crate::time::self"),
        (1, "crate::time::Hlc"),
        (4, "super::super::peer::go"),
        (9, "crate::erasure::encode"),
    ];
    assert_eq!(found, expected.map(|(line, path)| (line, path.to_owned())));
}

/// One file of `src/`, with the paths its non-test code names.
struct Source {
    file: String,
    /// The module's own path: `["io", "quic", "tls"]`.
    module: Vec<String>,
    text: String,
    paths: Vec<(usize, Vec<String>)>,
}

impl Source {
    /// The row of the table this file belongs to.
    fn part(&self) -> String {
        match self.module.first().map(String::as_str) {
            Some("io") if self.module.len() > 1 => self.module[..2].join("::"),
            Some(first) => first.to_owned(),
            None => "lib".to_owned(),
        }
    }

    /// The module inside the crate that a path names, or None for a path out of the crate or a plain name.
    fn resolve(&self, path: &[String]) -> Option<Vec<String>> {
        let first = path.first()?.as_str();
        let (base, rest) = match first {
            "crate" => (0, &path[1..]),
            "shoal" if self.part() == "main" => (0, &path[1..]),
            "super" => {
                let ups = path.iter().take_while(|p| *p == "super").count();
                (self.module.len().checked_sub(ups)?, &path[ups..])
            }
            _ => return None,
        };
        let mut target: Vec<String> = self.module[..base].to_vec();
        target.extend(rest.iter().filter(|p| *p != "self").cloned());
        (!target.is_empty()).then_some(target)
    }
}

/// Whether `target` lies at or below `part`.
fn covers(part: &str, target: &[String]) -> bool {
    let part: Vec<_> = part.split("::").collect();
    target.len() >= part.len() && part.iter().zip(target).all(|(a, b)| a == b)
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let texts: BTreeMap<PathBuf, String> =
        files.into_iter().map(|f| (f.clone(), fs::read_to_string(&f).unwrap())).collect();
    let test_only: Vec<PathBuf> = texts.iter().flat_map(|(file, text)| test_modules(file, text)).collect();
    let sources: Vec<_> = texts
        .into_iter()
        .filter(|(file, _)| !test_only.iter().any(|t| file.starts_with(t) || *file == t.with_extension("rs")))
        .map(|(file, text)| {
            let inside = file.strip_prefix(&root).unwrap().with_extension("");
            let mut module: Vec<String> = inside.iter().map(|p| p.to_str().unwrap().to_owned()).collect();
            if module.last().is_some_and(|last| last == "mod" || (module.len() == 1 && last == "lib")) {
                module.pop();
            }
            let paths = paths(&tokens(&without_tests(&code_only(&text))));
            let file = Path::new("src").join(file.strip_prefix(&root).unwrap()).display().to_string();
            Source { file, module, text, paths }
        })
        .collect();
    assert!(sources.len() > 10, "the sources of the crate were not found under {}", root.display());
    sources
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// Files (without extension) that a `#[cfg(test)] mod name;` of this file brings in.
fn test_modules(file: &Path, text: &str) -> Vec<PathBuf> {
    let base = match file.file_stem().and_then(|s| s.to_str()) {
        Some("mod" | "lib" | "main") => file.parent().unwrap().to_path_buf(),
        _ => file.with_extension(""),
    };
    let code = code_only(text);
    code.split("#[cfg(test)]")
        .skip(1)
        .filter_map(|after| {
            let after = after.trim_start().trim_start_matches("pub(crate)").trim_start();
            let (name, rest) = after.strip_prefix("mod ")?.split_once([';', '{'])?;
            after[..after.len() - rest.len()].ends_with(';').then(|| base.join(name.trim()))
        })
        .collect()
}

/// The text with comments and the insides of literals blanked, line for line.
fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    let blank = |out: &mut Vec<u8>, from: usize, to: usize| {
        out.extend(bytes[from..to.min(bytes.len())].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
    };
    while i < bytes.len() {
        let end = if bytes[i..].starts_with(b"//") {
            i + bytes[i..].iter().position(|b| *b == b'\n').unwrap_or(bytes.len() - i)
        } else if bytes[i..].starts_with(b"/*") {
            let (mut depth, mut at) = (1, i + 2);
            while depth > 0 && at < bytes.len() {
                match &bytes[at..] {
                    [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
                    [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
                    _ => at += 1,
                }
            }
            at
        } else if let Some(hashes) = raw_string(bytes, i) {
            let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
            let body = i + 2 + hashes;
            body + bytes[body..].windows(close.len()).position(|w| w == close).unwrap_or(bytes.len() - body)
                + close.len()
        } else if bytes[i] == b'"' {
            let mut at = i + 1;
            while at < bytes.len() && bytes[at] != b'"' {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            at + 1
        } else if bytes[i] == b'\'' && matches!(&bytes[i + 1..], [b'\\', ..]) {
            i + 3 + bytes[i + 3..].iter().position(|b| *b == b'\'').unwrap_or(0) + 1
        } else if bytes[i] == b'\'' && matches!(&bytes[i + 1..], [_, b'\'', ..]) {
            i + 3
        } else {
            out.push(bytes[i]);
            i += 1;
            continue;
        };
        blank(&mut out, i, end);
        i = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The number of `#` of a raw string that begins here.
fn raw_string(bytes: &[u8], at: usize) -> Option<usize> {
    let starts = bytes[at] == b'r' && (at == 0 || !is_word(bytes[at - 1]) || bytes[at - 1] == b'b');
    let hashes = bytes[at + 1..].iter().take_while(|b| **b == b'#').count();
    (starts && bytes.get(at + 1 + hashes) == Some(&b'"')).then_some(hashes)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Blanks every item that stands under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some(start) = out.find("#[cfg(test)]") {
        let mut depth = 0;
        let mut end = out.len();
        for (offset, c) in out[start..].char_indices().skip("#[cfg(test)]".len()) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 && (c == '}' || c == ';') {
                end = start + offset + 1;
                break;
            }
        }
        let blanked: String = out[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(start..end, &blanked);
    }
    out
}

#[derive(PartialEq)]
enum Token {
    Word(String),
    Colons,
    Mark(char),
}

fn tokens(code: &str) -> Vec<(usize, Token)> {
    let mut out = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            if let Some(lifetime) = rest.strip_prefix('\'') {
                rest = lifetime.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').trim_start();
                continue;
            }
            let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            let (token, used) = if word > 0 {
                (Token::Word(rest[..word].to_owned()), word)
            } else if rest.starts_with("::") {
                (Token::Colons, 2)
            } else {
                (Token::Mark(first), first.len_utf8())
            };
            out.push((number + 1, token));
            rest = rest[used..].trim_start();
        }
    }
    out
}

/// Every path in the code, `use` trees and groups spread out, with its line.
fn paths(tokens: &[(usize, Token)]) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if matches!(tokens[at].1, Token::Word(_)) {
            at = path(tokens, at, Vec::new(), &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads the path that begins at the word `at`; returns where the text goes on.
fn path(
    tokens: &[(usize, Token)],
    mut at: usize,
    mut so_far: Vec<String>,
    found: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let line = tokens[at].0;
    while let Some((_, Token::Word(word))) = tokens.get(at) {
        so_far.push(word.clone());
        at += 1;
        if tokens.get(at).is_none_or(|t| t.1 != Token::Colons) {
            break;
        }
        at += 1;
        if tokens.get(at).is_some_and(|t| t.1 == Token::Mark('{')) {
            at += 1;
            while let Some((_, token)) = tokens.get(at) {
                at = match token {
                    Token::Word(_) => path(tokens, at, so_far.clone(), found),
                    Token::Mark('}') => return at + 1,
                    _ => at + 1,
                };
            }
            return at;
        }
    }
    found.push((line, so_far));
    at
}

//! `shoal compare`: what policies cost, measured on a running share and not computed.
//!
//! The files go through a scratch directory per policy. Every peer's counters are read before and after, so stored
//! and sent bytes and processor time are what the machines did, upkeep of the share during that time included.

mod files;
mod measure;

use super::{connect, interrupt, output, serve, sharepath, unexpected};
use crate::io::control::{ByteText, Client, ControlReply, ControlRequest};
use crate::policy::Policy;
use anyhow::{Context, bail};
use files::Item;
use measure::Measured;
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Files and directories to measure with; a made-up sample of small and large files unless given
    pub paths: Vec<PathBuf>,
    /// The policies to compare
    #[arg(long, value_delimiter = ',', default_value = "replicate:3,rs:4+2", value_name = "POLICY,..")]
    pub policies: Vec<Policy>,
    #[command(flatten)]
    pub format: output::Format,
}

/// What `--json` prints.
#[derive(serde::Serialize, Debug)]
struct Comparison {
    files: u64,
    files_bytes: u64,
    policies: Vec<Measured>,
}

pub fn run(home: &Path, args: Args) -> anyhow::Result<()> {
    if serve::running(home)?.is_none() {
        bail!(
            "no peer is running for {}; compare measures a running share: start it with shoal mount or shoal serve",
            home.display()
        );
    }
    let client = connect(home)?;
    interrupt::watch()?;
    let items = if args.paths.is_empty() { files::sample() } else { files::found(&args.paths)? };
    let files_bytes = items.iter().map(|item| item.bytes).sum();
    if files_bytes == 0 {
        bail!("there is nothing to measure: the files given are empty or no plain files");
    }
    let comparison = {
        let scratch = Scratch::make(&client)?;
        Comparison { files: items.len() as u64, files_bytes, policies: compare(&client, &scratch, &items, &args)? }
    };
    if args.format.json {
        return output::print_json(&comparison);
    }
    output::print(&text(&comparison))
}

fn compare(client: &Client, scratch: &Scratch, items: &[Item], args: &Args) -> anyhow::Result<Vec<Measured>> {
    let mut policies: Vec<Policy> = Vec::new();
    for &policy in &args.policies {
        if !policies.contains(&policy) {
            policies.push(policy);
        }
    }
    // Content that the share has already would cost nothing to store: each policy gets its own variant of it.
    let first: u8 = rand::random();
    let mut results = Vec::new();
    for (index, policy) in policies.into_iter().enumerate() {
        let directory = scratch.directory(client, policy)?;
        let variant = files::Variant::new(first, index);
        results.push(measure::measure(client, policy, &directory, items, variant)?);
    }
    // Only now does the scratch go: freeing one policy's blocks while the next is measured would falsify it.
    Ok(results)
}

/// The scratch directory in the share, and the mount that was made for it; both go when it is dropped.
struct Scratch {
    client: Client,
    root: PathBuf,
    /// The same directory as the share sees it.
    in_share: String,
    /// Made for this, if the share was not mounted here.
    mount: Option<PathBuf>,
}

impl Scratch {
    fn make(client: &Client) -> anyhow::Result<Scratch> {
        let name = format!(".shoal-compare-{}", std::process::id());
        let (mountpoint, mount) = match sharepath::our_mounts(client)?.into_iter().next() {
            Some(mountpoint) => (mountpoint, None),
            None => {
                let made = client.home().join("run").join(format!("compare-{}", std::process::id()));
                mount(client, &made)?;
                (made.clone(), Some(made))
            }
        };
        let scratch =
            Scratch { client: client.clone(), root: mountpoint.join(&name), in_share: format!("/{name}"), mount };
        let shown = scratch.root.display();
        std::fs::create_dir(&scratch.root).with_context(|| format!("the scratch directory {shown} cannot be made"))?;
        Ok(scratch)
    }

    /// A directory with this policy.
    fn directory(&self, client: &Client, policy: Policy) -> anyhow::Result<PathBuf> {
        let directory = self.root.join(policy.to_string());
        std::fs::create_dir(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
        let path = ByteText(format!("{}/{policy}", self.in_share).into_bytes());
        let request = ControlRequest::Policy { path, set: Some(policy.to_string()), partition: None };
        match client.call(&request, super::CHANGE_DEADLINE, |_| ())? {
            ControlReply::Policy(_) => Ok(directory),
            other => Err(unexpected(&other)),
        }
    }
}

fn mount(client: &Client, mountpoint: &Path) -> anyhow::Result<()> {
    let shown = mountpoint.display();
    std::fs::create_dir_all(mountpoint).with_context(|| format!("the directory {shown} cannot be made"))?;
    match client.call(&ControlRequest::Mount { mountpoint: mountpoint.into() }, super::CHANGE_DEADLINE, |_| ()) {
        Ok(ControlReply::Done) => Ok(()),
        Ok(other) => Err(unexpected(&other)),
        Err(error) => {
            let _ = std::fs::remove_dir(mountpoint);
            Err(error).context("the share is not mounted here, and cannot be mounted for this")
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let warn = |what: String| eprintln_quiet(&format!("shoal: {what}\n"));
        match std::fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                warn(format!("the scratch directory {} is left behind: {error}; remove it", self.root.display()));
            }
            _ => {}
        }
        let Some(mountpoint) = &self.mount else { return };
        let request = ControlRequest::Unmount { mountpoint: mountpoint.as_path().into() };
        if let Err(error) = self.client.call(&request, super::CHANGE_DEADLINE, |_| ()) {
            warn(format!("{} is left mounted: {error}", mountpoint.display()));
        }
        let _ = std::fs::remove_dir(mountpoint);
    }
}

fn eprintln_quiet(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
}

fn text(comparison: &Comparison) -> String {
    let mut table = output::table(&[
        "policy",
        "stored",
        "overhead",
        "sent writing",
        "sent reading",
        "write s",
        "read s",
        "CPU s writing",
        "CPU s reading",
        "losses survived",
    ]);
    for measured in &comparison.policies {
        table.add_row([
            measured.policy.clone(),
            output::bytes(measured.stored_bytes),
            format!("{:.2}", measured.overhead),
            output::bytes(measured.write_network_bytes),
            output::bytes(measured.read_network_bytes),
            format!("{:.2}", measured.write_seconds),
            format!("{:.2}", measured.read_seconds),
            format!("{:.2}", measured.write_cpu_seconds),
            format!("{:.2}", measured.read_cpu_seconds),
            measured.survives.to_string(),
        ]);
    }
    output::right(&mut table, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    format!(
        "{}, {}: measured on this share, all machines together.\n\n{}\n",
        output::count(comparison.files, "file", "files"),
        output::bytes(comparison.files_bytes),
        output::text(&table)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comparison_has_these_names_for_scripts() {
        let measured = Measured { policy: "rs:4+2".into(), stored_bytes: 150, overhead: 1.5, ..Measured::default() };
        let comparison = Comparison { files: 1, files_bytes: 100, policies: vec![measured] };
        let json = serde_json::to_value(&comparison).unwrap();
        let names: Vec<&String> = json["policies"][0].as_object().unwrap().keys().collect();
        assert_eq!(json["files_bytes"], 100);
        for name in [
            "policy",
            "files_bytes",
            "stored_bytes",
            "overhead",
            "write_network_bytes",
            "read_network_bytes",
            "write_seconds",
            "read_seconds",
            "write_cpu_seconds",
            "read_cpu_seconds",
            "survives",
        ] {
            assert!(names.iter().any(|n| *n == name), "{name}");
        }
        assert!(text(&comparison).contains("rs:4+2   150 B      1.50"), "{}", text(&comparison));
    }
}

//! Machines with a network of their own: a network namespace per peer, cabled to bridges in one more namespace,
//! the hub, which also routes between subnets. Nothing is added to the machine's own network.

use super::command::{PATIENCE, run, tool};
use std::process::Command;

/// The namespaces and cables of one cluster.
pub struct Network {
    /// Prefix of the names: says who made them.
    prefix: String,
    subnets: usize,
    peers: usize,
    /// By how much each peer's address is past its first one.
    moved: Vec<usize>,
}

impl Network {
    /// Lays the cables for `peers` machines, spread over `subnets` subnets in turn.
    pub fn new(prefix: &str, peers: usize, subnets: usize) -> Network {
        let net = Network { prefix: prefix.to_owned(), subnets, peers, moved: vec![0; peers] };
        let hub = net.hub();
        let made = run(Command::new("ip").args(["netns", "add", &hub]), PATIENCE);
        assert!(
            made.code == Some(0),
            "network namespaces are not possible here, and these tests need them (root, iproute2): {}",
            made.stderr.trim()
        );
        // A router answers for every subnet.
        net.join();
        for subnet in 0..subnets {
            let bridge = format!("br{subnet}");
            tool(&["ip", "-n", &hub, "link", "add", &bridge, "type", "bridge"]);
            tool(&["ip", "-n", &hub, "addr", "add", &format!("10.77.{subnet}.1/24"), "dev", &bridge]);
            tool(&["ip", "-n", &hub, "link", "set", &bridge, "up"]);
        }
        for peer in 0..peers {
            let (ns, port, bridge) = (net.namespace(peer), net.port(peer), net.bridge(peer));
            tool(&["ip", "netns", "add", &ns]);
            tool(&["ip", "link", "add", &port, "netns", &hub, "type", "veth", "peer", "name", "eth0", "netns", &ns]);
            tool(&["ip", "-n", &hub, "link", "set", &port, "master", &bridge, "up"]);
            tool(&["ip", "-n", &ns, "link", "set", "lo", "up"]);
            tool(&["ip", "-n", &ns, "addr", "add", &format!("{}/24", net.address(peer)), "dev", "eth0"]);
            tool(&["ip", "-n", &ns, "link", "set", "eth0", "up"]);
            tool(&["ip", "-n", &ns, "route", "add", "default", "via", &format!("10.77.{}.1", peer % subnets)]);
        }
        net
    }

    /// The peer's address.
    pub fn address(&self, peer: usize) -> String {
        format!("10.77.{}.{}", peer % self.subnets, 10 + peer + self.moved[peer])
    }

    /// A command that runs as if on that peer's machine. Not `ip netns exec`, which would give it a mount
    /// namespace of its own and so hide its mount from everyone.
    pub fn command(&self, peer: usize, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace(peer))).arg(program);
        command
    }

    /// Pulls the peer's cable out of its bridge: packets vanish without a word, as from a dead switch.
    pub fn cut(&self, peer: usize) {
        tool(&["ip", "-n", &self.hub(), "link", "set", &self.port(peer), "nomaster"]);
    }

    pub fn mend(&self, peer: usize) {
        tool(&["ip", "-n", &self.hub(), "link", "set", &self.port(peer), "master", &self.bridge(peer)]);
    }

    /// Nothing goes from one subnet to another any more.
    pub fn part(&self) {
        self.forward("0");
    }

    pub fn join(&self) {
        self.forward("1");
    }

    fn forward(&self, on: &str) {
        // /proc/sys/net is the hub's own because the process is in it.
        let write = format!("echo {on} > /proc/sys/net/ipv4/ip_forward");
        tool(&["nsenter", &format!("--net=/run/netns/{}", self.hub()), "sh", "-c", &write]);
    }

    /// Gives the peer's machine another address in its subnet in place of the one it has, as a router that hands
    /// them out may.
    pub fn readdress(&mut self, peer: usize) {
        let (ns, old) = (self.namespace(peer), self.address(peer));
        self.moved[peer] += 100;
        // In this order: the second address of a subnet goes with the first.
        tool(&["ip", "-n", &ns, "addr", "del", &format!("{old}/24"), "dev", "eth0"]);
        tool(&["ip", "-n", &ns, "addr", "add", &format!("{}/24", self.address(peer)), "dev", "eth0"]);
    }

    fn hub(&self) -> String {
        format!("{}hub", self.prefix)
    }

    fn namespace(&self, peer: usize) -> String {
        format!("{}p{peer}", self.prefix)
    }

    fn port(&self, peer: usize) -> String {
        format!("port{peer}")
    }

    fn bridge(&self, peer: usize) -> String {
        format!("br{}", peer % self.subnets)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in (0..self.peers).map(|p| self.namespace(p)).chain([self.hub()]) {
            let _ = Command::new("ip").args(["netns", "del", &name]).stderr(std::process::Stdio::null()).status();
        }
    }
}

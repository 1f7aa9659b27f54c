//! What this machine is to the others: its addresses, its name, what tells it apart.

use crate::config::Config;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

/// The addresses to tell other peers for a socket that listens at `listen`: itself, or, if it listens everywhere,
/// this machine's addresses, those that reach furthest first; loopback only if there is nothing else. At most 8.
pub fn advertised(listen: SocketAddr) -> Vec<SocketAddr> {
    if !listen.ip().is_unspecified() {
        return vec![listen];
    }
    let mut found = interface_addresses();
    found.retain(|ip| ip.is_ipv4() == listen.is_ipv4() || listen.is_ipv6());
    if found.iter().any(|ip| !ip.is_loopback()) {
        found.retain(|ip| !ip.is_loopback());
    }
    found.sort();
    found.dedup();
    found.truncate(8);
    found.into_iter().map(|ip| SocketAddr::new(ip, listen.port())).collect()
}

/// The addresses of the interfaces that are up, without link-local ones.
fn interface_addresses() -> Vec<IpAddr> {
    let mut found = Vec::new();
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: getifaddrs fills `list` with a list that freeifaddrs takes back; 0 means it did.
    if unsafe { libc::getifaddrs(&mut list) } != 0 {
        return found;
    }
    let mut next = list;
    while !next.is_null() {
        // SAFETY: `next` is a node of the list, which lives until freeifaddrs.
        let node = unsafe { &*next };
        next = node.ifa_next;
        if node.ifa_addr.is_null() || node.ifa_flags & libc::IFF_UP as u32 == 0 {
            continue;
        }
        // SAFETY: ifa_addr is not null and points at a sockaddr of the family it names.
        match i32::from(unsafe { (*node.ifa_addr).sa_family }) {
            libc::AF_INET => {
                // SAFETY: the family says it is a sockaddr_in.
                let address = unsafe { &*node.ifa_addr.cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
                if !ip.is_link_local() {
                    found.push(IpAddr::V4(ip));
                }
            }
            libc::AF_INET6 => {
                // SAFETY: the family says it is a sockaddr_in6.
                let address = unsafe { &*node.ifa_addr.cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
                if !ip.is_unicast_link_local() {
                    found.push(IpAddr::V6(ip));
                }
            }
            _ => {}
        }
    }
    // SAFETY: the list came from getifaddrs and is used no more.
    unsafe { libc::freeifaddrs(list) };
    found
}

/// The same address with a port of the kernel's choice if it has none, so that it can be told to others and
/// found again after a restart. Fails where one cannot listen there now.
pub fn with_port(listen: SocketAddr) -> std::io::Result<SocketAddr> {
    UdpSocket::bind(listen)?.local_addr()
}

/// A hash of what identifies this installation of Linux, so that two peers on it are not taken for two machines.
/// In a network namespace of its own a peer counts as a machine of its own: that is how many machines are tried
/// out on one. Empty if unknown.
pub fn host() -> String {
    let Ok(machine) = std::fs::read_to_string("/etc/machine-id")
        .or_else(|_| std::fs::read_to_string("/proc/sys/kernel/random/boot_id"))
    else {
        return String::new();
    };
    let namespace = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
    let mut identity = machine.trim().as_bytes().to_vec();
    identity.extend_from_slice(namespace.as_os_str().as_encoded_bytes());
    crate::id::hex(&crate::id::BlockName::of(&identity).0[..8])
}

/// What this machine calls itself.
pub fn name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| !c.is_control()).take(64).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

/// What the settings leave free on the file system of `path`, in bytes: never more than an eighth of it, so that a
/// small one can be used at all.
pub fn reserve(path: &Path, config: &Config) -> u64 {
    let capacity = capacity(path).unwrap_or(0);
    (capacity / 100 * config.reserve_percent).max(config.reserve_bytes).min(capacity / 8)
}

/// Bytes of the file system that `path` lies on.
fn capacity(path: &Path) -> Option<u64> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).ok()?;
    // SAFETY: all-zero is a valid statvfs, and the path ends in a NUL.
    unsafe {
        let mut figures: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &mut figures) == 0).then(|| figures.f_blocks * figures.f_frsize)
    }
}

/// Processor time this process has used, in microseconds.
pub fn cpu_us() -> u64 {
    // SAFETY: getrusage fills the struct that it is given; all-zero is a valid value of it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let us = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    us(usage.ru_utime) + us(usage.ru_stime)
}

/// Memory this process holds, in bytes; 0 if `/proc` does not say.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    // SAFETY: sysconf takes a constant and has no preconditions.
    pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(0) as u64
}

/// Has all memory come from one arena; to be called before there are threads. Only of the first one does
/// [`trim_memory`] give back what is free at its end: of the others (two or more a core) that stays, tens of MiB of blocks
/// each once they were used.
pub fn one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt sets a number, and no other thread allocates yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Hands memory that was freed back to the kernel.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_listens_everywhere_is_told_by_addresses_that_can_be_reached() {
        let told = advertised("0.0.0.0:7447".parse().unwrap());
        assert!(
            !told.is_empty() && told.iter().all(|address| !address.ip().is_unspecified() && address.port() == 7447),
            "{told:?}"
        );
        assert_eq!(advertised("127.0.0.1:9".parse().unwrap()), ["127.0.0.1:9".parse().unwrap()]);
    }

    #[test]
    fn a_port_is_chosen_once() {
        assert_ne!(with_port("127.0.0.1:0".parse().unwrap()).unwrap().port(), 0);
    }
}

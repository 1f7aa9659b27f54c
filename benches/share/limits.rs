//! What the machine itself can do, without a share: its disk, the hash, the codec, and QUIC.

use super::harness::tree;
use super::measure::{self, Pattern, Table, median, own_cpu_seconds};
use bytes::Bytes;
use quinn::{ClientConfig, Endpoint, ServerConfig, TransportConfig, VarInt};
use sha2::{Digest, Sha256};
use shoal::erasure::Codec;
use shoal::policy::Geometry;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

/// MiB/s and CPU-seconds per GiB of each limit.
pub fn table(mib: usize, rounds: usize) -> String {
    let mut table = Table::new(&["limit", "MiB/s", "CPU-seconds per GiB"]);
    let limits: [Limit; 6] = [
        ("disk: write and fsync", disk_write),
        ("disk: cold read", disk_read),
        ("SHA-256, one core", sha256),
        ("encode 4+2, one core", encode),
        ("decode 4+2, two data shards lost, one core", decode),
        ("QUIC: one connection over loopback, both ends", quic),
    ];
    for (name, measure) in limits {
        let costs: Vec<_> = (0..rounds).map(|_| measure(mib)).collect();
        let rate = median(&costs.iter().map(|c| c.mib_s).collect::<Vec<_>>());
        let cpu = median(&costs.iter().map(|c| c.cpu_per_gib).collect::<Vec<_>>());
        table.row(&[name, &format!("{rate:.0}"), &format!("{cpu:.2}")]);
    }
    table.to_string()
}

/// What it is, and how it is measured over so many mebibytes.
type Limit = (&'static str, fn(usize) -> Cost);

struct Cost {
    mib_s: f64,
    cpu_per_gib: f64,
}

fn cost(mib: usize, job: impl FnOnce()) -> Cost {
    let (started, cpu) = (Instant::now(), own_cpu_seconds());
    job();
    let seconds = started.elapsed().as_secs_f64();
    Cost { mib_s: mib as f64 / seconds, cpu_per_gib: (own_cpu_seconds() - cpu) / (mib as f64 / 1024.0) }
}

fn disk_write(mib: usize) -> Cost {
    let (pattern, dir) = (Pattern::new(1), tempfile::tempdir().expect("a temporary directory"));
    cost(mib, || written(&dir.path().join("file"), &pattern, mib))
}

fn disk_read(mib: usize) -> Cost {
    let (pattern, dir) = (Pattern::new(2), tempfile::tempdir().expect("a temporary directory"));
    let path = dir.path().join("file");
    written(&path, &pattern, mib);
    measure::drop_caches();
    cost(mib, || {
        let (mut file, mut buffer) = (File::open(&path).expect("the file is there"), vec![0; 1 << 20]);
        while file.read(&mut buffer).expect("the disk can be read") > 0 {}
        fs::remove_file(&path).expect("the file can be removed");
    })
}

fn written(path: &std::path::Path, pattern: &Pattern, mib: usize) {
    let mut file = File::create(path).expect("a file on the disk");
    (0..mib).for_each(|i| file.write_all(pattern.mebibyte(i)).expect("the disk takes the file"));
    file.sync_all().expect("the disk can be synced");
}

fn sha256(mib: usize) -> Cost {
    let pattern = Pattern::new(3);
    cost(mib, || {
        for i in 0..mib {
            black_box(Sha256::digest(pattern.mebibyte(i)));
        }
    })
}

const GEOMETRY: Geometry = Geometry { data: 4, parity: 2 };

fn encode(mib: usize) -> Cost {
    let (codec, block) = (Codec::new(), Bytes::from(tree::noise(4, 1 << 20)));
    cost(mib, || {
        for _ in 0..mib {
            black_box(codec.encode(GEOMETRY, &block).expect("a block can be encoded"));
        }
    })
}

fn decode(mib: usize) -> Cost {
    let (codec, block) = (Codec::new(), Bytes::from(tree::noise(5, 1 << 20)));
    let shards = codec.encode(GEOMETRY, &block).expect("a block can be encoded");
    let left: Vec<_> = (0u8..).zip(shards).filter(|(index, _)| !matches!(index, 0 | 2)).collect();
    cost(mib, || {
        for _ in 0..mib {
            let decoded = codec.decode(GEOMETRY, 1 << 20, left.clone()).expect("four shards are enough");
            assert_eq!(black_box(decoded).len(), 1 << 20);
        }
    })
}

/// One stream from one endpoint to another in this process, with windows wide enough for a local network.
fn quic(mib: usize) -> Cost {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a run-time");
    let chunk = Bytes::from(tree::noise(6, 1 << 20));
    cost(mib, || {
        runtime.block_on(async {
            let (server, client, address) = endpoints();
            let sink = tokio::spawn(async move {
                let connection = server.accept().await.expect("someone connects").await.expect("a handshake");
                let mut stream = connection.accept_uni().await.expect("a stream");
                let mut received = 0;
                while let Some(bytes) = stream.read_chunk(1 << 20, true).await.expect("the stream goes on") {
                    received += bytes.bytes.len();
                }
                received
            });
            let connection = client.connect(address, "localhost").expect("an address").await.expect("a handshake");
            let mut stream = connection.open_uni().await.expect("a stream");
            for _ in 0..mib {
                stream.write_chunk(chunk.clone()).await.expect("the stream takes it");
            }
            stream.finish().expect("the stream ends");
            assert_eq!(sink.await.expect("the receiver ends"), mib << 20);
        });
    })
}

fn endpoints() -> (Endpoint, Endpoint, SocketAddr) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let certificate = made.cert.der().clone();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(16 << 20))
        .receive_window(VarInt::from_u32(64 << 20))
        .send_window(64 << 20);
    let transport = Arc::new(transport);
    let mut server =
        ServerConfig::with_single_cert(vec![certificate.clone()], key.into()).expect("a certificate and its key");
    server.transport_config(transport.clone());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).expect("a certificate to trust");
    let mut trusting = ClientConfig::with_root_certificates(Arc::new(roots)).expect("a client configuration");
    trusting.transport_config(transport);
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Endpoint::server(server, here).expect("a socket");
    let mut client = Endpoint::client(here).expect("a socket");
    client.set_default_client_config(trusting);
    let address = server.local_addr().expect("an address");
    (server, client, address)
}

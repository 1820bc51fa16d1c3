//! A TCP proxy of a test's own, between processes and a server: it can hold what goes either way, and cut.
//!
//! What is held is read and kept, so that the sender believes it sent; nothing says that it did not arrive. That is a
//! black hole until [`Proxy::resume`], and then a request that was stuck somewhere.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::patience::within;

/// How much is read at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From whoever connected to the server.
    ToServer,
    /// From the server to whoever connected.
    ToClient,
}

/// Dropped, it ends every connection through it, and refuses new ones.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    to_server: Arc<Lane>,
    to_client: Arc<Lane>,
    cuts: watch::Sender<u64>,
    strands: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

/// One direction of every connection.
#[derive(Debug, Default)]
struct Lane {
    holds: watch::Sender<bool>,
    /// What was read since it holds.
    held: watch::Sender<Vec<u8>>,
}

impl Proxy {
    /// Listens on a free port of loopback, and forwards to the server of an address such as `amqp://user@host:port/x`.
    pub async fn before(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").expect("an address with a scheme");
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (user, host) = authority.rsplit_once('@').map_or(("", authority), |(user, host)| (user, host));
        let server = if host.contains(':') { host.to_owned() } else { format!("{host}:{}", port(scheme)) };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let user = if user.is_empty() { String::new() } else { format!("{user}@") };
        let (to_server, to_client) = (Arc::<Lane>::default(), Arc::<Lane>::default());
        let (cuts, strands) = (watch::Sender::new(0), watch::Sender::new(0));
        let lanes = (Arc::clone(&to_server), Arc::clone(&to_client));
        let accepting =
            tokio::spawn(accept(listener, server, lanes, (cuts.subscribe(), strands.subscribe())));
        let url = format!("{scheme}://{user}{address}{path}");
        Self { url, to_server, to_client, cuts, strands, accepting }
    }

    /// The same address, by way of this proxy.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Keeps what goes one way from now on, on connections that are there and on new ones.
    pub fn hold(&self, way: Way) {
        self.lane(way).holds.send_replace(true);
    }

    /// Waits until what is held one way contains a text.
    pub async fn wait_for_held(&self, way: Way, text: &str) {
        let mut held = self.lane(way).held.subscribe();
        let contains = |held: &Vec<u8>| held.windows(text.len()).any(|part| part == text.as_bytes());
        let found = within(format_args!("{text} is not held"), held.wait_for(contains)).await;
        drop(found.expect("the proxy is there"));
    }

    /// Passes on what was held, and holds no more. That a connection ended while it was held is not passed on: whoever
    /// is on its other side learns it by a timeout, as of a machine that vanished.
    pub fn resume(&self, way: Way) {
        let lane = self.lane(way);
        lane.holds.send_replace(false);
        lane.held.send_replace(Vec::new());
    }

    /// Ends every connection, and forgets what was held on them. New ones are taken.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Passes on nothing any more on the connections that are there, and never ends them: whoever waits for an answer on
    /// one waits for ever. New ones are not concerned.
    pub fn strand(&self) {
        self.strands.send_modify(|strands| *strands += 1);
    }

    const fn lane(&self, way: Way) -> &Arc<Lane> {
        match way {
            Way::ToServer => &self.to_server,
            Way::ToClient => &self.to_client,
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn port(scheme: &str) -> u16 {
    match scheme {
        "amqp" => 5672,
        "redis" => 6379,
        "postgres" | "postgresql" => 5432,
        other => panic!("which port has {other}://"),
    }
}

type Lanes = (Arc<Lane>, Arc<Lane>);

/// That connections are cut, and that they are stranded.
type Ends = (watch::Receiver<u64>, watch::Receiver<u64>);

/// Takes connections. They end with it.
async fn accept(listener: TcpListener, server: String, lanes: Lanes, ends: Ends) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                connections.spawn(connect(client, server.clone(), lanes.clone(), ends.clone()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(client: TcpStream, server: String, lanes: Lanes, (mut cuts, mut strands): Ends) {
    cuts.mark_unchanged();
    strands.mark_unchanged();
    let mut forward = std::pin::pin!(async {
        let Ok(server) = TcpStream::connect(&server).await else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::join!(pump(from_client, to_server, &lanes.0), pump(from_server, to_client, &lanes.1));
    });
    tokio::select! {
        () = &mut forward => {}
        _ = cuts.changed() => {}
        // Both of its connections stay open.
        Ok(()) = strands.changed() => {
            let _ = cuts.changed().await;
        }
    }
}

/// Passes on what comes from one side until that ends, unless it is held.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, lane: &Lane) {
    let mut holds = lane.holds.subscribe();
    let mut chunk = vec![0; CHUNK];
    let (mut kept, mut told, mut ended) = (Vec::new(), 0, false);
    loop {
        if *holds.borrow_and_update() {
            lane.held.send_modify(|held| held.extend_from_slice(&kept[told..]));
            told = kept.len();
        } else if !kept.is_empty() {
            if to.write_all(&kept).await.is_err() {
                return;
            }
            kept.clear();
            told = 0;
        }
        tokio::select! {
            changed = holds.changed() => if changed.is_err() { return },
            read = from.read(&mut chunk), if !ended => match read {
                Ok(bytes) if bytes > 0 => kept.extend_from_slice(&chunk[..bytes]),
                _ if *holds.borrow() => ended = true,
                _ => return,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it reads, and a connection to it by way of a proxy.
    async fn echoed() -> (Proxy, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = server.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = server.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = connection.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let proxy = Proxy::before(&format!("redis://user:word@{address}/0")).await;
        let through = proxy.url().strip_prefix("redis://user:word@").and_then(|url| url.strip_suffix("/0"));
        let client = TcpStream::connect(through.expect("the rest is the same")).await.expect("connected");
        (proxy, client)
    }

    async fn heard(client: &mut TcpStream, bytes: usize) -> String {
        let mut read = vec![0; bytes];
        within("an echo", client.read_exact(&mut read)).await.expect("it comes back");
        String::from_utf8(read).expect("a text")
    }

    #[tokio::test]
    async fn what_is_held_arrives_when_it_resumes_and_in_order() {
        for way in [Way::ToServer, Way::ToClient] {
            let (proxy, mut client) = echoed().await;
            client.write_all(b"one ").await.expect("written");
            assert_eq!(heard(&mut client, 4).await, "one ");
            proxy.hold(way);
            client.write_all(b"two ").await.expect("written");
            client.write_all(b"three").await.expect("written");
            proxy.wait_for_held(way, "two three").await;
            proxy.resume(way);
            assert_eq!(heard(&mut client, 9).await, "two three");
        }
    }

    #[tokio::test]
    async fn a_cut_ends_a_connection_and_a_new_one_is_taken() {
        let (proxy, mut client) = echoed().await;
        proxy.hold(Way::ToServer);
        client.write_all(b"lost").await.expect("written");
        proxy.wait_for_held(Way::ToServer, "lost").await;
        proxy.cut();
        let end = within("the end", client.read(&mut [0; 8])).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        proxy.resume(Way::ToServer);
        let through = proxy.url().trim_start_matches("redis://user:word@").trim_end_matches("/0").to_owned();
        let mut again = TcpStream::connect(through).await.expect("connected");
        again.write_all(b"new").await.expect("written");
        assert_eq!(heard(&mut again, 3).await, "new");
    }
}

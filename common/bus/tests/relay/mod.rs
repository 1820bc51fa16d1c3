//! A relay in front of the broker, to play what a broker does rarely: be away, fall silent, block publishing.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};

/// The frames `connection.blocked` (with an empty reason) and `connection.unblocked`.
const BLOCKED: &[u8] = &[1, 0, 0, 0, 0, 0, 5, 0, 10, 0, 60, 0, 0xCE];
const UNBLOCKED: &[u8] = &[1, 0, 0, 0, 0, 0, 4, 0, 10, 0, 61, 0xCE];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Connections stay open and nothing goes through.
    Hold,
    /// New connections are closed at once.
    Refuse,
}

pub(crate) struct Relay {
    pub(crate) amqp_url: String,
    mode: watch::Sender<Mode>,
    injected: broadcast::Sender<&'static [u8]>,
}

impl Relay {
    pub(crate) async fn to(amqp_url: &str) -> Self {
        let (login, rest) = amqp_url.rsplit_once('@').expect("AMQP_URL has a login");
        let (server, vhost) = rest.split_once('/').expect("AMQP_URL ends in a virtual host");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (mode, _) = watch::channel(Mode::Pass);
        let (injected, _) = broadcast::channel(4);
        tokio::spawn(accept(listener, server.to_owned(), mode.clone(), injected.clone()));
        Self { amqp_url: format!("{login}@{address}/{vhost}"), mode, injected }
    }

    pub(crate) fn pass(&self) {
        self.mode.send_replace(Mode::Pass);
    }

    pub(crate) fn hold(&self) {
        self.mode.send_replace(Mode::Hold);
    }

    pub(crate) fn refuse(&self) {
        self.mode.send_replace(Mode::Refuse);
    }

    pub(crate) fn say_blocked(&self) {
        self.injected.send(BLOCKED).expect("a connection");
    }

    pub(crate) fn say_unblocked(&self) {
        self.injected.send(UNBLOCKED).expect("a connection");
    }
}

async fn accept(
    listener: TcpListener,
    server: String,
    mode: watch::Sender<Mode>,
    injected: broadcast::Sender<&'static [u8]>,
) {
    while let Ok((client, _)) = listener.accept().await {
        if *mode.borrow() == Mode::Refuse {
            continue;
        }
        let Ok(broker) = TcpStream::connect(&server).await else { continue };
        let (from_client, to_client) = client.into_split();
        let (from_broker, to_broker) = broker.into_split();
        // Frames are injected between two reads: in a quiet moment that is between two frames.
        tokio::spawn(forward(from_broker, to_client, mode.subscribe(), Some(injected.subscribe())));
        tokio::spawn(forward(from_client, to_broker, mode.subscribe(), None));
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    mut injected: Option<broadcast::Receiver<&'static [u8]>>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let injection = async {
            match injected.as_mut() {
                Some(injected) => injected.recv().await.ok(),
                None => std::future::pending().await,
            }
        };
        let bytes = tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(read) if read > 0 => &buffer[..read],
                _ => return,
            },
            injection = injection => match injection {
                Some(bytes) => bytes,
                None => return,
            },
        };
        if mode.wait_for(|mode| *mode != Mode::Hold).await.is_err() || to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

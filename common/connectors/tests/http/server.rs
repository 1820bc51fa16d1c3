//! A server that does what it is told, byte by byte, and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What it does with a request that it has read.
#[derive(Debug, Clone)]
pub(crate) enum Does {
    /// Writes this and hangs up.
    Says(String),
    /// Writes this one byte at a time, and hangs up.
    SaysSlowly(String),
    /// Writes this and nothing more, without hanging up.
    SaysAndStops(String),
}

/// A server of a test's own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts one that does this with every request, given what it holds.
    pub(crate) async fn start(does: impl Fn(&str) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (book, does) = (Arc::clone(&heard), Arc::new(does));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (book, does) = (Arc::clone(&book), Arc::clone(&does));
                tokio::spawn(async move {
                    // Whoever is asked may hang up in the middle.
                    let _ = serve(stream, &book, &*does).await;
                });
            }
        });
        Self { address, heard }
    }

    /// One that says the same to everybody.
    pub(crate) async fn saying(answer: String) -> Self {
        Self::start(move |_| Does::Says(answer.clone())).await
    }

    /// What it was asked, in order; also what was no request.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An answer with a JSON body and further headers, each ending a line.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

async fn serve(
    mut stream: TcpStream,
    book: &Mutex<Vec<String>>,
    does: &(dyn Fn(&str) -> Does + Send + Sync),
) -> std::io::Result<()> {
    let request = read(&mut stream).await?;
    book.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    match does(&request) {
        Does::Says(text) => stream.write_all(text.as_bytes()).await?,
        Does::SaysSlowly(text) => {
            for byte in text.as_bytes() {
                stream.write_all(std::slice::from_ref(byte)).await?;
                stream.flush().await?;
                tokio::task::yield_now().await;
            }
        }
        Does::SaysAndStops(text) => {
            stream.write_all(text.as_bytes()).await?;
            // Until the other side gives up.
            while stream.read(&mut [0; 64]).await? > 0 {}
        }
    }
    stream.shutdown().await
}

/// A request with its body; what there is, where it is none.
async fn read(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Ok(text);
            }
        }
        let mut more = [0; 4096];
        let count = stream.read(&mut more).await?;
        // A greeting of TLS is no request and has no end.
        if count == 0 || (read.is_empty() && more[0] == 0x16) {
            return Ok(text);
        }
        read.extend_from_slice(&more[..count]);
    }
}

//! One request over one connection of its own, so that it is known exactly whether anything of it can have left: until
//! the connection stands and is greeted nothing has, afterwards it may. The address is judged where it is connected to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::action::Outgoing;
use super::address::is_public;
use super::template::authority;

/// How much of an answer that is no success is read, for its message alone.
const MESSAGE_BYTES: usize = 64 * 1024;

/// A host that may be called.
pub(super) struct Host {
    pub(super) name: String,
    pub(super) port: u16,
    /// None where it is called without.
    pub(super) tls: Option<TlsConnector>,
    /// It may be at an address that is not public.
    pub(super) private: bool,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// Nothing left; it may be tried again.
    NotSent(String),
    /// Nothing left, and nothing of this kind ever will.
    Refused(String),
    /// It may have left.
    Unanswered(String),
}

/// An answer.
pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// The body, or why it did not come whole.
    pub(super) body: Result<Bytes, String>,
}

/// The bounds of one request.
pub(super) struct Bounds {
    pub(super) connect: Duration,
    pub(super) deadline: Instant,
    pub(super) max_body: usize,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Host {
    /// Sends one request and reads its answer. `may_send` is asked right before anything of it is written.
    pub(super) async fn ask(
        &self,
        outgoing: Outgoing,
        bounds: &Bounds,
        may_send: &(dyn Fn() -> Result<(), String> + Sync),
    ) -> Result<Answered, Failed> {
        let request = self.request(outgoing).map_err(Failed::Refused)?;
        let until = bounds.deadline.min(Instant::now() + bounds.connect);
        let stream = timeout_at(until, self.connect())
            .await
            .map_err(|_| Failed::NotSent(format!("{} was not reached in time", self.authority())))??;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failed::NotSent(format!("{} was not greeted: {error}", self.authority())))?;
        // It ends when this is over, however that ends: nothing is written once nobody waits for the answer.
        let _connection = Ended(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
        }));
        match timeout_at(bounds.deadline, sender.ready()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Failed::NotSent(format!("{} hung up: {error}", self.authority()))),
            Err(_) => return Err(Failed::NotSent("the time was over before it was sent".to_owned())),
        }
        may_send().map_err(Failed::NotSent)?;
        let answer = match timeout_at(bounds.deadline, sender.send_request(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                return Err(Failed::Unanswered(format!("{} gave no answer: {error}", self.authority())));
            }
            Err(_) => {
                return Err(Failed::Unanswered(format!("{} gave no answer in time", self.authority())));
            }
        };
        let (head, body) = answer.into_parts();
        let max = if head.status.is_success() { bounds.max_body } else { MESSAGE_BYTES.min(bounds.max_body) };
        let body = match timeout_at(bounds.deadline, read(body, max)).await {
            Ok(body) => body,
            Err(_) => Err("the answer stopped half-way".to_owned()),
        };
        Ok(Answered { status: head.status, headers: head.headers, body })
    }

    /// `host:port`.
    pub(super) fn authority(&self) -> String {
        authority(&self.name, self.port)
    }

    fn request(&self, outgoing: Outgoing) -> Result<Request<Full<Bytes>>, String> {
        let standard = self.port == if self.tls.is_some() { 443 } else { 80 };
        let host = self.authority();
        let host =
            if standard { host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name) } else { &host };
        let mut request = Request::new(Full::new(Bytes::from(outgoing.body)));
        *request.method_mut() = outgoing.method;
        *request.uri_mut() = outgoing.path.parse().map_err(|_| "its path is none".to_owned())?;
        *request.headers_mut() = outgoing.headers;
        let host = HeaderValue::from_str(host).map_err(|_| "its host is none".to_owned())?;
        request.headers_mut().insert(HOST, host);
        Ok(request)
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, Failed> {
        let tcp = self.dial().await?;
        let Some(tls) = &self.tls else { return Ok(Box::new(tcp)) };
        let name = ServerName::try_from(self.name.clone())
            .map_err(|_| Failed::Refused(format!("no certificate can be for {}", self.name)))?;
        let stream = tls.connect(name, tcp).await;
        let stream =
            stream.map_err(|error| Failed::NotSent(format!("no TLS with {}: {error}", self.authority())))?;
        Ok(Box::new(stream))
    }

    async fn dial(&self) -> Result<TcpStream, Failed> {
        let found = lookup_host((self.name.as_str(), self.port))
            .await
            .map_err(|error| Failed::NotSent(format!("{} has no address: {error}", self.name)))?;
        let found: Vec<SocketAddr> = found.collect();
        let may: Vec<SocketAddr> =
            found.iter().copied().filter(|at| self.private || is_public(at.ip())).collect();
        if may.is_empty() && !found.is_empty() {
            return Err(Failed::Refused(format!(
                "{} is at a private address, and is not listed as such",
                self.authority()
            )));
        }
        let mut last = format!("{} has no address", self.name);
        for address in may {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    // Small requests on a connection of their own: nothing is gained by gathering.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(error) => last = format!("{} was not reached: {error}", self.authority()),
            }
        }
        Err(Failed::NotSent(last))
    }
}

/// A body of at most so many bytes.
async fn read(mut body: Incoming, max: usize) -> Result<Bytes, String> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("the answer stopped half-way: {error}"))?;
        if let Ok(data) = frame.into_data() {
            if read.len() + data.len() > max {
                return Err(format!("the answer has more than {max} bytes"));
            }
            read.extend_from_slice(&data);
        }
    }
    Ok(Bytes::from(read))
}

/// A task that ends with this.
struct Ended(tokio::task::JoinHandle<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// TLS with the authorities of the web, and further ones from a PEM file.
pub(super) fn tls(ca_file: Option<&std::path::Path>) -> Result<TlsConnector, String> {
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = ca_file {
        let unreadable =
            |error: &dyn std::fmt::Display| format!("{} cannot be read: {error}", path.display());
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))? {
            let certificate = certificate.map_err(|error| unreadable(&error))?;
            roots.add(certificate).map_err(|error| unreadable(&error))?;
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

//! Which names the console answers to. Without that, a page of somebody else's whose name is made to lead to this address
//! (DNS rebinding) could read everything in the name of whoever has it open.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::HOST;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

/// The names, with their ports where these are not the usual ones.
#[derive(Debug, Clone)]
pub(crate) struct Hosts(BTreeSet<String>);

impl Hosts {
    /// The address itself, `localhost` where it is a loopback one, and names that were given.
    pub(crate) fn of(address: SocketAddr, named: impl IntoIterator<Item = String>) -> Self {
        let mut hosts = BTreeSet::from([address.to_string()]);
        if address.ip().is_loopback() {
            hosts.insert(format!("localhost:{}", address.port()));
        }
        hosts.extend(named.into_iter().map(|name| name.to_ascii_lowercase()));
        Self(hosts)
    }

    fn has(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
        self.0.contains(&host) || self.0.contains(name)
    }
}

/// Lets a request through whose host is one of ours.
pub(super) async fn admit(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(|host| hosts.has(host)) {
        return next.run(request).await;
    }
    let why = "this console does not answer to that name: start it with --host NAME\n";
    (StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_to_its_address_and_to_names_that_were_given() {
        let address: SocketAddr = "127.0.0.1:9465".parse().expect("an address");
        let hosts = Hosts::of(address, ["Console.Example".to_owned()]);
        for host in
            ["127.0.0.1:9465", "localhost:9465", "LOCALHOST:9465", "console.example", "console.example:443"]
        {
            assert!(hosts.has(host), "{host}");
        }
        for host in ["localhost:80", "127.0.0.1", "evil.example", "console.example.evil", ""] {
            assert!(!hosts.has(host), "{host}");
        }
    }
}

//! TLS: only with a host that proves that it is the one that is listed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dat_connectors::Answer;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::server::answer;
use crate::{act, call, connector, detail};

/// A server with a certificate of its own for `localhost`; its address, the certificate as PEM, and how often it was asked.
async fn server() -> (SocketAddr, String, Arc<AtomicUsize>) {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .expect("a server");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (acceptor, asked) = (TlsAcceptor::from(Arc::new(config)), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            // Whoever does not believe it hangs up.
            let Ok(mut stream) = acceptor.accept(tcp).await else { continue };
            if stream.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0) {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(answer("200 OK", "", r#"{"id": 1}"#).as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    (address, own.cert.pem(), asked)
}

#[tokio::test]
async fn only_a_host_that_proves_who_it_is_is_asked() {
    let (address, certificate, asked) = server().await;
    let folder = std::env::temp_dir().join(format!("dat-http-{}", address.port()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("ca.pem");
    std::fs::write(&file, certificate).expect("a file");
    for (name, ca_file, proven) in
        [("localhost", Some(&file), true), ("localhost", None, false), ("127.0.0.1", Some(&file), false)]
    {
        let authority = format!("{name}:{}", address.port());
        let hosts = json!([{"authority": authority, "private": true, "ca_file": ca_file}]);
        let actions = json!([{"name": "act", "method": "PUT", "url": format!("https://{authority}/x")}]);
        let http = connector(&hosts, &actions).expect("settings");
        let said = act(&http, call(&json!({}))).await;
        if proven {
            assert_eq!(said, Answer::Done { result: json!({"id": 1}), cost: 0, refund: 0 });
        } else {
            assert!(matches!(said, Answer::NotSent { .. }), "{name}, {ca_file:?}: {said:?}");
            assert!(detail(&said).contains("no TLS"), "{said:?}");
        }
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    std::fs::remove_dir_all(&folder).expect("the folder goes");
    let hosts = json!([{"authority": "localhost:1", "ca_file": file}]);
    assert!(connector(&hosts, &json!([])).is_err_and(|why| why.contains("ca.pem")), "it is read at once");
}

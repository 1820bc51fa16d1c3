//! A shop with an API of its own: orders are made by `POST /orders`, found by key, and cancelled by `DELETE /orders/ID`.
//! It keeps what it was asked and does what it is told, and it is no part of DAT.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What it asks for: `Authorization: Bearer` and this.
pub(crate) const TOKEN: &str = "shop-tok-8d2f71";

/// How it answers orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As it should.
    Well,
    /// It says that it is not there: 503.
    Ill,
    /// It takes the order and hangs up.
    LosesAnswers,
    /// It reads the order, and does nothing until it is well.
    Holds,
}

/// The shop.
pub(crate) struct Shop {
    address: SocketAddr,
    mood: watch::Sender<Mood>,
    book: Arc<Mutex<Book>>,
}

#[derive(Debug, Default)]
struct Book {
    /// Requests as `METHOD path`, in order.
    asked: Vec<String>,
    /// Orders by their key; cancelled ones stay.
    orders: BTreeMap<String, (String, Value)>,
    cancelled: Vec<String>,
    unauthorised: usize,
}

impl Shop {
    pub(crate) async fn open(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (mood, moods) = watch::channel(mood);
        let book = Arc::new(Mutex::new(Book::default()));
        let shared = Arc::clone(&book);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (book, mood) = (Arc::clone(&shared), moods.clone());
                tokio::spawn(async move {
                    // Whoever asked may be gone.
                    let _ = serve(stream, &book, mood).await;
                });
            }
        });
        Self { address, mood, book }
    }

    /// Settings of workers with the connector `http` to it. Orders cost 30, and all of it comes back.
    pub(crate) fn settings(&self, more: &str) -> String {
        let at = self.address;
        let secret = "headers = { Authorization = { secret = \"env:SHOP_TOKEN\", prefix = \"Bearer \" } }";
        format!(
            "{more}\n[worker]\nlease_ms = 3000\nsweep_ms = 100\nconnections = 5\n\
             [http]\nclock_skew_ms = 200\n\
             [[http.host]]\nauthority = \"{at}\"\nplain = true\nprivate = true\n\
             [[http.action]]\nname = \"order.create\"\nmethod = \"POST\"\nurl = \"http://{at}/orders\"\n{secret}\n\
             cost = \"/cost\"\nprobe = {{ url = \"http://{at}/orders?key={{$key}}\", cost = \"/cost\" }}\n\
             [[http.action]]\nname = \"order.hope\"\nmethod = \"POST\"\nurl = \"http://{at}/orders\"\n{secret}\n\
             [[http.action]]\nname = \"order.put\"\nmethod = \"PUT\"\nurl = \"http://{at}/orders\"\n{secret}\n\
             [[http.action]]\nname = \"order.cancel\"\nmethod = \"DELETE\"\nurl = \"http://{at}/orders/{{id}}\"\n{secret}\n\
             refund = \"/refund\"\n"
        )
    }

    pub(crate) fn is(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// Requests as `METHOD path`, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.book().asked.clone()
    }

    /// The orders there are, as they were asked for.
    pub(crate) fn orders(&self) -> Vec<Value> {
        self.book().orders.values().map(|(_, order)| order.clone()).collect()
    }

    pub(crate) fn cancelled(&self) -> Vec<String> {
        self.book().cancelled.clone()
    }

    /// How many requests came without the token.
    pub(crate) fn unauthorised(&self) -> usize {
        self.book().unauthorised
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(
    mut stream: TcpStream,
    book: &Mutex<Book>,
    mut mood: watch::Receiver<Mood>,
) -> std::io::Result<()> {
    let (head, body) = read(&mut stream).await?;
    let line = head.lines().next().unwrap_or_default().to_owned();
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    book.lock().unwrap_or_else(PoisonError::into_inner).asked.push(format!("{method} {path}"));
    let now = *mood.borrow();
    if now == Mood::Ill {
        return say(&mut stream, "503 Service Unavailable", &json!({"message": "back soon"})).await;
    }
    if now == Mood::Holds {
        let _ = mood.wait_for(|mood| *mood == Mood::Well).await;
    }
    let (status, answer) =
        answer(method, path, &head, &body, &mut book.lock().unwrap_or_else(PoisonError::into_inner));
    if now == Mood::LosesAnswers && method != "GET" {
        return stream.shutdown().await;
    }
    say(&mut stream, status, &answer).await
}

fn answer(method: &str, path: &str, head: &str, body: &str, book: &mut Book) -> (&'static str, Value) {
    let header = |name: &str| {
        head.lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v)
    };
    let authorization = header("authorization").unwrap_or_default();
    if authorization != format!("Bearer {TOKEN}") {
        book.unauthorised += 1;
        // As careless as they come.
        return ("401 Unauthorized", json!({"message": format!("'{authorization}' will not do")}));
    }
    let key = header("idempotency-key").unwrap_or_default().to_owned();
    match (method, path.strip_prefix("/orders").unwrap_or("/")) {
        ("POST" | "PUT", "") => {
            let id = format!("O-{}", book.orders.len() + 1);
            let order = serde_json::from_str(body).unwrap_or_default();
            let (id, order) = book.orders.entry(key).or_insert((id, order)).clone();
            let cost = order.get("cost").cloned().unwrap_or(json!(0));
            ("201 Created", json!({"id": id, "cost": cost, "you": authorization}))
        }
        ("GET", query) => {
            let key = query.strip_prefix("?key=").unwrap_or_default().replace("%2F", "/");
            match book.orders.get(&key) {
                Some((id, order)) => ("200 OK", json!({"id": id, "cost": order.get("cost")})),
                None => ("404 Not Found", json!({})),
            }
        }
        ("DELETE", id) => {
            let id = id.trim_start_matches('/').to_owned();
            let order = book.orders.values().find(|(known, _)| *known == id).map(|(_, order)| order.clone());
            let refund = order.and_then(|order| order.get("cost").cloned()).unwrap_or(json!(0));
            book.cancelled.push(id);
            ("200 OK", json!({"refund": refund}))
        }
        _ => ("405 Method Not Allowed", json!({})),
    }
}

async fn say(stream: &mut TcpStream, status: &str, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let text =
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

async fn read(stream: &mut TcpStream) -> std::io::Result<(String, String)> {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_ascii_lowercase();
            let length = length.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Ok((head.to_owned(), body.to_owned()));
            }
        }
        let mut more = [0; 4096];
        match stream.read(&mut more).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => read.extend_from_slice(&more[..count]),
        }
    }
}

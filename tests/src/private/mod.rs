//! Servers of a test's own, for tests that flush, stop or kill one: on free ports of loopback, with data in a folder of
//! their own, which goes with them.
//!
//! **Owns** their processes: each is ended by its id when its value is dropped, also by a panic. **May be called** by
//! tests. **Must never** touch a server that it did not start.

mod postgres;
mod rabbitmq;
mod redis;
mod server;

pub use postgres::PrivatePostgres;
pub use rabbitmq::PrivateRabbitMq;
pub use redis::PrivateRedis;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::draft::random_id;

/// Below the range from which the kernel gives ports to connections: a server that is away keeps its port.
const PORTS: std::ops::Range<u128> = 10_000..20_000;

/// A port of loopback that nothing listens on.
fn free_port() -> u16 {
    loop {
        let port = PORTS.start + random_id().as_u128() % (PORTS.end - PORTS.start);
        let port = u16::try_from(port).expect("it is within the range");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A folder for a server's data, which its user alone may read. Not in the build folder: the user that runs PostgreSQL need
/// not reach that, and the scripts of RabbitMQ do not quote its path.
fn folder(server: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("dat-{server}-{}", random_id().simple()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).expect("it is ours");
    folder
}

/// The first of these folders that has a program.
fn installed(program: &str, folders: impl IntoIterator<Item = PathBuf>) -> PathBuf {
    let mut folders = folders.into_iter();
    folders
        .find(|folder| folder.join(program).is_file())
        .unwrap_or_else(|| panic!("{program} is not installed where the stack looks for it: run `make up`"))
}

/// The folders of a folder whose names begin so, the highest first, each followed by a path.
fn versions(folder: &str, prefix: &str, path: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path().join(path))
        .collect();
    found.sort();
    found.reverse();
    found
}

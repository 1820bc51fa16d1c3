//! A PostgreSQL of a test's own.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use sqlx::{Connection as _, PgConnection};

use super::server::Server;
use crate::draft::random_id;
use crate::eventually::eventually;

/// What it is told when it starts. A process that is killed loses nothing that it wrote without `fsync`; only a machine
/// does.
const SETTINGS: [&str; 6] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "fsync=off",
    "max_connections=60",
    "shared_buffers=64MB",
    "timezone=UTC",
];

/// A PostgreSQL server, ended with its data when this is dropped.
#[derive(Debug)]
pub struct PrivatePostgres {
    port: u16,
    password: String,
    programs: PathBuf,
    folder: PathBuf,
    user: Option<(u32, u32)>,
    server: Option<Server>,
}

impl PrivatePostgres {
    /// Makes new data and starts a server on it, on a free port.
    pub async fn start() -> Self {
        let mut folders: Vec<PathBuf> = super::versions("/usr/lib/postgresql", "", "bin");
        folders.extend(super::versions("/usr", "pgsql-", "bin"));
        folders.extend(["/usr/local/bin", "/usr/local/pgsql/bin"].map(PathBuf::from));
        let mut postgres = Self {
            port: super::free_port(),
            password: random_id().simple().to_string(),
            programs: super::installed("initdb", folders),
            folder: super::folder("postgres"),
            user: unprivileged(),
            server: None,
        };
        postgres.make_data();
        postgres.restart().await;
        postgres
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://dat:{}@127.0.0.1:{}/postgres", self.password, self.port)
    }

    /// Ends the server with SIGKILL, amid whatever it does. Its processes of connections end when they notice.
    pub async fn kill(&mut self) {
        self.server.take().expect("it runs").kill().await;
    }

    /// Starts it again at the same address, with the same data, and waits until it has recovered.
    pub async fn restart(&mut self) {
        eventually("PostgreSQL answers", async || {
            // The children of a killed server hold its shared memory for a moment: a new one ends at once till then.
            if !self.server.as_mut().is_some_and(Server::runs) {
                self.server = Some(self.launch());
            }
            let connected = PgConnection::connect(&self.url()).await.map_err(|error| error.to_string())?;
            connected.close().await.map_err(|error| error.to_string())
        })
        .await;
    }

    fn launch(&self) -> Server {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        command.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        // QUIT ends its children with it.
        Server::spawn("PostgreSQL", command, &self.folder.join("log"), "QUIT")
    }

    fn make_data(&self) {
        let word = self.folder.join("password");
        std::fs::write(&word, &self.password).expect("a file");
        self.give(&word);
        self.give(&self.folder);
        let mut command = self.command("initdb");
        command.args([
            "--username=dat",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]);
        command.arg("--pwfile").arg(&word).arg("--pgdata").arg(self.data());
        let output = command.output().expect("initdb starts");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Only its user may read a file.
    fn give(&self, path: &Path) {
        let mode = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(path, mode).expect("it is ours");
        if let Some((user, group)) = self.user {
            chown(path, Some(user), Some(group)).expect("the superuser may");
        }
    }

    /// One of its programs, which refuse to run as the superuser. A stray `PGPORT` changes what they do.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.env_clear().env("LC_ALL", "C").current_dir(&self.folder);
        if let Some((user, group)) = self.user {
            command.gid(group).uid(user);
        }
        command
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.server = None;
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Whom to run it as where we are the superuser: `postgres`, else `nobody`.
fn unprivileged() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| -> Option<u32> {
        let output = Command::new("id").args(arguments).output().ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    if id(&["-u"]) != Some(0) {
        return None;
    }
    let of = |name: &str| Some((id(&["-u", name])?, id(&["-g", name])?));
    Some(of("postgres").or_else(|| of("nobody")).expect("there is a user nobody"))
}

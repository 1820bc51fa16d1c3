//! A process of its own: a worker or the sandbox.

mod observe;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use ureq::Agent;

use crate::binary::dat_binary;
use crate::eventually::eventually;
use crate::patience::{PATIENCE, within};

/// What a process says on stdout, before its address, when it can be used.
const READY: &str = "ready ";

/// A `dat` command with exactly the environment given: nothing of the test's own gets through.
pub(crate) fn dat(arguments: &[String], environment: &[(String, String)]) -> Command {
    let mut command = Command::new(dat_binary());
    command.args(arguments).env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    command.env("RUST_BACKTRACE", "1").stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A `dat` process that serves HTTP, killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    url: String,
    child: Child,
}

impl Process {
    /// Starts it and waits until it says that it is ready.
    pub(crate) async fn start(
        name: &str,
        folder: &Path,
        arguments: &[String],
        environment: &[(String, String)],
    ) -> Self {
        let mut process = Self::launch(name, folder, arguments, environment);
        let ready = process.ready().await;
        assert!(ready, "{name} ended: {}", process.last_words());
        process
    }

    /// Where it serves, as `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// Starts it.
    pub(crate) fn launch(
        name: &str,
        folder: &Path,
        arguments: &[String],
        environment: &[(String, String)],
    ) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).expect("a log file");
        let mut command = dat(arguments, environment);
        let child = command.stdout(Stdio::piped()).stderr(file).spawn().expect("dat starts");
        Self { name: name.to_owned(), log, url: String::new(), child }
    }

    /// Waits until it says that it is ready, or has ended; gives which.
    pub(crate) async fn ready(&mut self) -> bool {
        let name = &self.name;
        let stdout = self.child.stdout.take().expect("it is piped, and asked once");
        let mut lines = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        let line = line.unwrap_or_else(|late| panic!("{name} is not ready, {late}: {}", self.last_words()));
        let Some(line) = line.expect("its output can be read") else { return false };
        let url = line.strip_prefix(READY).unwrap_or_else(|| panic!("{name} said {line}"));
        url.clone_into(&mut self.url);
        true
    }

    /// Its name in this test, and of its log.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it serves HTTP.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends it with SIGKILL, and waits until it is gone.
    pub async fn kill(&mut self) -> ExitStatus {
        self.signal("KILL").await;
        self.exit().await
    }

    /// Freezes it with SIGSTOP.
    pub async fn stop(&self) {
        self.signal("STOP").await;
    }

    /// Lets it go on with SIGCONT.
    pub async fn cont(&self) {
        self.signal("CONT").await;
    }

    /// Asks it to end with SIGTERM. [`Process::exit`] waits for that.
    pub async fn terminate(&self) {
        self.signal("TERM").await;
    }

    /// Waits until it ends.
    pub async fn exit(&mut self) -> ExitStatus {
        within(format_args!("{} does not end", self.name), self.child.wait())
            .await
            .expect("it can be waited for")
    }

    /// Asks it over HTTP: the status and the body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let agent: Agent =
            Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().into();
        let url = format!("{}{path}", self.url);
        let asked = tokio::task::spawn_blocking(move || {
            let mut answer = agent.get(&url).call()?;
            Ok::<_, ureq::Error>((answer.status().as_u16(), answer.body_mut().read_to_string()?))
        });
        let answer = asked.await.expect("the request runs to its end");
        answer.unwrap_or_else(|error| panic!("GET {path} of {}: {error}", self.name))
    }

    /// Asks until the answer is as wanted. For the little that nothing announces.
    pub async fn get_until(&self, path: &str, wanted: impl Fn(&(u16, String)) -> bool) {
        eventually(format_args!("{path} of {} is as wanted", self.name), async || {
            let answer = self.get(path).await;
            if wanted(&answer) { Ok(()) } else { Err(answer) }
        })
        .await;
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of what it logged.
    pub(crate) fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        format!("{}\n{}", self.log.display(), lines[lines.len().saturating_sub(20)..].join("\n"))
    }

    /// The shell's own `kill`: it is there on every machine, and takes one process by its id.
    async fn signal(&self, signal: &str) {
        let id = self.child.id().unwrap_or_else(|| panic!("{} has ended already", self.name));
        let mut shell = Command::new("sh");
        let status = shell.args(["-c", &format!("kill -s {signal} {id}")]).status().await.expect("a shell");
        assert!(status.success(), "{} ({id}) did not get SIG{signal}", self.name);
    }
}

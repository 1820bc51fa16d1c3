//! The process of a server.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::eventually::eventually;

/// A process that is killed, and waited for, when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    name: &'static str,
    child: Child,
    /// What ends it when it is dropped: `KILL`, unless it has children that must end in order.
    last: &'static str,
}

impl Server {
    /// Starts it. What it says goes to the end of a file.
    pub(super) fn spawn(name: &'static str, mut command: Command, log: &Path, last: &'static str) -> Self {
        let log = File::options().create(true).append(true).open(log).expect("a log file");
        let errors = log.try_clone().expect("a log file");
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name, child, last }
    }

    /// Whether it runs.
    pub(super) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal by the shell's own `kill`, which is there on every machine.
    pub(super) fn signal(&self, signal: &str) {
        let id = self.child.id();
        let status = Command::new("sh").args(["-c", &format!("kill -s {signal} {id}")]).status();
        assert!(status.is_ok_and(|status| status.success()), "{} ({id}) did not get SIG{signal}", self.name);
    }

    /// Ends it with SIGKILL, and waits until it is gone.
    pub(super) async fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        let name = self.name;
        eventually(format_args!("{name} ends"), async || if self.runs() { Err(name) } else { Ok(()) }).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.runs() {
            if self.last == "KILL" {
                let _ = self.child.kill();
            } else {
                self.signal(self.last);
            }
            let _ = self.child.wait();
        }
    }
}

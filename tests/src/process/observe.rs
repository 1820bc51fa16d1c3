//! What a process shows of itself, beside what it does.

use ureq::Agent;

use super::Process;
use crate::eventually::eventually;
use crate::patience::PATIENCE;

impl Process {
    /// Waits until it is frozen, by whoever: by a test's SIGSTOP, or by itself at a fault point.
    pub async fn wait_until_frozen(&self) {
        let id = self.child.id().unwrap_or_else(|| panic!("{} has ended already", self.name));
        eventually(format_args!("{} is frozen", self.name), async || {
            let stat =
                std::fs::read_to_string(format!("/proc/{id}/stat")).map_err(|error| error.to_string())?;
            // "id (command) state …", where the command may hold anything.
            match stat.rsplit_once(") ") {
                Some((_, state)) if state.starts_with('T') => Ok(()),
                _ => Err(format!("{stat}\n{}", self.last_words())),
            }
        })
        .await;
    }

    /// The value of a metric that it serves, all labels together; 0 where it has none yet.
    pub async fn metric(&self, name: &str) -> f64 {
        let url = format!("{}/metrics", self.url);
        let read = tokio::task::spawn_blocking(move || {
            let agent: Agent = Agent::config_builder().timeout_global(Some(PATIENCE)).build().into();
            agent.get(&url).call().and_then(|mut answer| answer.body_mut().read_to_string())
        });
        let text = read.await.expect("the request ends");
        let text = text.unwrap_or_else(|error| panic!("{} serves no metrics: {error}", self.name));
        text.lines()
            .filter_map(|line| line.strip_prefix(name))
            // A longer name begins with it, too.
            .filter(|rest| rest.starts_with([' ', '{']))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until a metric is so high.
    pub async fn wait_for_metric(&self, name: &str, at_least: f64) {
        eventually(format_args!("{name} of {} is at least {at_least}", self.name), async || {
            let value = self.metric(name).await;
            if value >= at_least { Ok(()) } else { Err(value) }
        })
        .await;
    }
}

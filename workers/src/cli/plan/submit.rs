//! `dat plan submit`: publishes documents as any producer does, and follows them to their end.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use dat_bus::Consumer;
use dat_plan::event::EventKind;
use dat_topology::{Exchange, key};
use tokio::time::timeout;

use super::file::{self, Files, PlanFile};
use super::journey::{Journeys, Step};
use crate::cli::broker::Broker;
use crate::cli::failure::{Answer, Failure};
use crate::cli::output::{self, OutputFlag};
use crate::cli::session::Session;

/// Submit plan documents, as any producer does
#[derive(Debug, Args)]
#[command(after_help = "\
The bytes of the file are published to plan.submitted, after a check that finds what would be refused. With --wait it \
listens first, says each state as it comes, and exits 0 only if every plan completed. Submitting the same content \
again is the same plan: it has no new events to wait for.

Examples:
  dat plan submit launch.json
  dat plan submit launch.json --wait --timeout-s 60
  generate-plan | dat plan submit - --wait --output json")]
pub(crate) struct Submit {
    #[command(flatten)]
    files: Files,
    /// Follow the plans to their end
    #[arg(long)]
    wait: bool,
    /// How long to follow them, in seconds
    #[arg(long, value_name = "N", default_value = "300", requires = "wait")]
    timeout_s: u64,
    /// Leave finding faults to Plan Builder
    #[arg(long)]
    no_validate: bool,
    #[command(flatten)]
    output: OutputFlag,
}

impl Submit {
    pub(super) async fn run(self, session: &Session) -> Answer {
        let files = self.files.read()?;
        if !self.no_validate {
            check(&files)?;
        }
        let broker = Broker::connect(session).await?;
        let answer = self.submit(session, &broker, files).await;
        broker.close().await;
        answer
    }

    async fn submit(&self, session: &Session, broker: &Broker, files: Vec<PlanFile>) -> Answer {
        // Bound before anything is published, so that no event goes by unheard.
        let events = if self.wait {
            let refused = EventKind::SubmissionRejected.routing_key();
            Some(broker.listen(&["plan.*", &refused]).await?)
        } else {
            None
        };
        let mut journeys = Journeys::default();
        for file in files {
            let message_id = session.id().to_string();
            let started = journeys.start(&file, &message_id);
            let message = broker.message(session, Exchange::Plans, key::PLAN_SUBMITTED, file.body);
            broker.publish(message.message_id(message_id)).await?;
            self.say(&started)?;
        }
        let Some(events) = events else { return Ok(ExitCode::SUCCESS) };
        let following = self.follow(&mut journeys, events);
        match timeout(Duration::from_secs(self.timeout_s), following).await {
            Ok(followed) => followed?,
            Err(_) => {
                return Err(Failure::Failed(format!(
                    "after {} s without an end: {}; 'dat plan explain PLAN' says what a plan waits for",
                    self.timeout_s,
                    journeys.open().join(", ")
                )));
            }
        }
        Ok(if journeys.all_completed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn follow(&self, journeys: &mut Journeys, mut events: Consumer) -> Result<(), Failure> {
        while !journeys.open().is_empty() {
            let Some(delivery) = events.next().await else {
                return Err(Failure::Failed("the connection to RabbitMQ is closed".to_owned()));
            };
            if let Some(step) = journeys.hear(&delivery.message.routing_key, &delivery.message.body) {
                self.say(&step)?;
            }
        }
        Ok(())
    }

    fn say(&self, step: &Step) -> Result<(), Failure> {
        if self.output.is_json() { output::json_line(step) } else { output::line(step) }
    }
}

/// Says every fault of every file, and lets nothing go out if there is one.
fn check(files: &[PlanFile]) -> Result<(), Failure> {
    let mut bad = 0;
    for file in files {
        if let Err(faults) = file::check(file) {
            file.say_faults(&faults)?;
            bad += 1;
        }
    }
    if bad == 0 {
        Ok(())
    } else {
        Err(Failure::Failed(format!("nothing was submitted: {bad} of {} files are not valid", files.len())))
    }
}

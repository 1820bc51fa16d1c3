//! `dat dead list | show | replay | drop`: messages that were parked.
//!
//! **Owns** what an operator does with them. A message is looked at without being taken out of its queue. What is
//! replayed is in its work queue, confirmed by the broker, before it leaves the dead one: a crash in between repeats it,
//! and never loses it. **Must never** judge a message: a replayed one passes every check anew, and may be parked again.

mod letter;
mod look;
mod settle;

use std::collections::BTreeMap;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::builder::NonEmptyStringValueParser;
use clap::{ArgGroup, Args, Subcommand};
use dat_topology::Stage;
use serde::Serialize;
use serde_json::json;

use crate::cli::act::Act;
use crate::cli::broker::Broker;
use crate::cli::failure::{Answer, Failure};
use crate::cli::output::{self, OutputFlag};
use crate::cli::session::Session;
use crate::cli::table::{number, table, text};
use letter::Letter;
use look::Look;

/// Look at messages that were parked, send them again, or throw them away
#[derive(Debug, Subcommand)]
pub(crate) enum Dead {
    /// Count them, by queue and reason
    #[command(after_help = "\
Examples:
  dat dead list
  dat dead list --queue plan.submitted --output json")]
    List {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        output: OutputFlag,
    },
    /// Show one with its faults
    #[command(after_help = "\
A message without an id of its own is named by its content: 'dat dead list' shows one of each reason.

Examples:
  dat dead show 0199d3a4-7c1e-7b1a-9c44-0a3f5d0c7421
  dat dead show ID --output json | jq .body")]
    Show {
        /// The message's id
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        output: OutputFlag,
    },
    /// Send them to their queue again; each passes every check anew
    #[command(after_help = "\
What fails again is parked again, with its new reason. A crash amid this may send a message twice, which changes \
nothing; it loses none.

Examples:
  dat dead replay --id ID --reason 'the plan it names is there now'
  dat dead replay --parked-for 'the database refuses it' --reason 'migrated'
  dat dead replay --all --queue plan.approved --reason 'GGP was early'")]
    Replay(Settle),
    /// Throw them away for good
    #[command(after_help = "\
Examples:
  dat dead drop --id ID --reason 'a typing error, submitted anew'
  dat dead drop --parked-for 'not a valid plan' --reason 'load test'")]
    Drop(Settle),
}

/// Where it is looked.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Place {
    /// Only what came from this queue: plan.submitted, …
    #[arg(long, value_name = "QUEUE")]
    queue: Option<Stage>,
    /// Look at so many messages of a queue at most, oldest first
    #[arg(long, value_name = "N", default_value = "10000", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
}

/// Which messages, by whom and why.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true))]
pub(crate) struct Settle {
    /// This one; repeat it for several
    #[arg(long = "id", value_name = "ID", group = "which")]
    ids: Vec<String>,
    /// Those that were parked for this reason, word for word
    #[arg(long, value_name = "REASON", group = "which", value_parser = NonEmptyStringValueParser::new())]
    parked_for: Option<String>,
    /// All of them
    #[arg(long, group = "which")]
    all: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    act: Act,
    #[command(flatten)]
    output: OutputFlag,
}

impl Place {
    fn stages(self) -> Vec<Stage> {
        self.queue.map_or_else(|| Stage::ALL.to_vec(), |stage| vec![stage])
    }
}

impl Dead {
    pub(crate) async fn run(self, session: &Session) -> Answer {
        let broker = Broker::connect(session).await?;
        let answer = match self {
            Self::List { place, output } => list(&broker, session, place, output).await,
            Self::Show { id, place, output } => show(&broker, &id, place, output).await,
            Self::Replay(which) => settle::replay(&broker, session, &which).await,
            Self::Drop(which) => settle::drop(&broker, session, &which).await,
        };
        broker.close().await;
        answer
    }
}

/// Messages of one queue that were parked for one reason.
#[derive(Debug, Default, Serialize)]
struct Group {
    count: u64,
    oldest: Option<DateTime<Utc>>,
    /// One of them.
    example: String,
}

async fn list(broker: &Broker, session: &Session, place: Place, output: OutputFlag) -> Answer {
    let mut groups: BTreeMap<(Stage, String), Group> = BTreeMap::new();
    let mut unseen = 0;
    for stage in place.stages() {
        let mut look = Look::open(broker, stage, place.limit).await?;
        while let Some(letter) = look.next().await? {
            let group = groups.entry((stage, letter.reason)).or_default();
            group.count += 1;
            group.oldest = group.oldest.into_iter().chain(letter.parked_at).min();
            if group.example.is_empty() {
                group.example = letter.id;
            }
        }
        unseen += look.close().await?;
    }
    if output.is_json() {
        let groups: Vec<_> = groups
            .iter()
            .map(|((stage, reason), group)| {
                json!({
                    "queue": stage.as_str(), "reason": reason, "count": group.count, "oldest": group.oldest,
                    "example": group.example,
                })
            })
            .collect();
        output::json(&json!({"groups": groups, "not_looked_at": unseen}))?;
        return Ok(ExitCode::SUCCESS);
    }
    if groups.is_empty() {
        output::line("nothing is parked")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table(&["queue", "messages", "oldest", "reason", "one of them"]);
    for ((stage, reason), group) in &groups {
        let age = group.oldest.map_or_else(String::new, |at| output::span(session.now() - at));
        table.add_row([
            text(stage.as_str()),
            number(group.count),
            text(age),
            text(reason),
            text(&group.example),
        ]);
    }
    output::line(table)?;
    if unseen > 0 {
        output::note(format_args!("note: {unseen} further messages were not looked at: raise --limit"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(broker: &Broker, id: &str, place: Place, output: OutputFlag) -> Answer {
    for stage in place.stages() {
        let mut look = Look::open(broker, stage, place.limit).await?;
        let mut found = None;
        while let Some(letter) = look.next().await? {
            if letter.id == id {
                found = Some(letter);
                break;
            }
        }
        look.close().await?;
        if let Some(letter) = found {
            say(stage, &letter, output)?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    Err(Failure::Failed(format!(
        "no parked message {id} was found: 'dat dead list' shows what there is, and --limit looks further"
    )))
}

fn say(stage: Stage, letter: &Letter, output: OutputFlag) -> Result<(), Failure> {
    if output.is_json() {
        return output::json(&json!({
            "queue": stage.as_str(), "id": letter.id, "reason": letter.reason, "parked_at": letter.parked_at,
            "faults": letter.faults, "user": letter.user, "correlation_id": letter.message.correlation_id,
            "replays": letter.replays, "body": letter.body(),
        }));
    }
    output::line(format_args!("{} from {stage}: {}", letter.id, letter.reason))?;
    if let Some(at) = letter.parked_at {
        output::line(format_args!(
            "parked at {}, replayed {} times before",
            output::moment(at),
            letter.replays
        ))?;
    }
    if let Some(user) = &letter.user {
        output::line(format_args!("published by {user}"))?;
    }
    for fault in letter.faults.as_array().into_iter().flatten() {
        let part = |name: &str| fault[name].as_str().unwrap_or_default().to_owned();
        output::line(format_args!("  {} {}: {}", part("pointer"), part("code"), part("message")))?;
    }
    match letter.body() {
        serde_json::Value::String(text) => output::line(text),
        body => output::json(&body),
    }
}

//! One pipeline of the limit: takes what is there, claims it, completes it, publishes, acknowledges.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::BasicAckOptions;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::queues::{self, Queues, Wire};
use super::{LimitArgs, Way, tables};
use crate::failure::Failure;

/// How long a pipeline waits for a dispatch before it looks whether all plans are done.
const LOOK: Duration = Duration::from_millis(50);

type Step = (i32, i32);

/// A pipeline with connections of its own.
pub(crate) struct Pipeline {
    wire: Wire,
    database: PgConnection,
    way: Way,
    steps: i32,
    batch: usize,
    /// Plans that are not done, of all pipelines.
    left: Arc<AtomicU32>,
}

impl Pipeline {
    pub(crate) async fn open(
        args: &LimitArgs,
        way: Way,
        _: &Queues,
        left: Arc<AtomicU32>,
    ) -> Result<Self, Failure> {
        let batch = args.batch.get();
        let prefetch = u16::try_from(batch).unwrap_or(u16::MAX);
        let database: PgConnection =
            PgConnection::connect(&args.database_url).await.map_err(tables::silent)?;
        Ok(Self {
            wire: Wire::open(&args.amqp_url, prefetch).await?,
            database,
            way,
            steps: i32::try_from(args.steps).unwrap_or(i32::MAX),
            batch: usize::try_from(batch).unwrap_or(usize::MAX),
            left,
        })
    }

    /// Works until every plan is done.
    pub(crate) async fn run(mut self) -> Result<(), Failure> {
        let mut going_on: Vec<Step> = Vec::new();
        while self.left.load(Ordering::Relaxed) > 0 {
            let (dispatched, last) = self.take(going_on.len()).await?;
            if !dispatched.is_empty() {
                tables::claim(&mut self.database, &dispatched).await?;
            }
            let batch: Vec<Step> = going_on.drain(..).chain(dispatched).collect();
            if batch.is_empty() {
                continue;
            }
            let next: Vec<Step> = batch
                .iter()
                .filter(|(_, step)| step + 1 < self.steps)
                .map(|(plan, step)| (*plan, step + 1))
                .collect();
            let claimed: &[Step] = if self.way.going_on { &next } else { &[] };
            tables::complete(&mut self.database, &batch, claimed).await?;
            let rung =
                if self.way.going_on { Vec::new() } else { next.iter().map(|step| body(*step)).collect() };
            self.wire.publish(rung, events(&batch, self.way)).await?;
            if let Some(tag) = last {
                let all = BasicAckOptions { multiple: true };
                self.wire.consuming.basic_ack(tag, all).await.map_err(queues::silent)?;
            }
            let ended = u32::try_from(batch.len() - next.len()).unwrap_or(u32::MAX);
            self.left.fetch_sub(ended, Ordering::Relaxed);
            if self.way.going_on {
                going_on = next;
            }
        }
        Ok(())
    }

    /// The dispatches that are there, as far as a batch has room beside the steps that go on, and the last one's delivery
    /// tag. Waits for one, unless there is other work.
    async fn take(&mut self, going_on: usize) -> Result<(Vec<Step>, Option<u64>), Failure> {
        let (mut steps, mut last) = (Vec::new(), None);
        while steps.len() + going_on < self.batch {
            let next = self.wire.dispatches.next();
            let delivery = if steps.is_empty() && going_on == 0 {
                tokio::time::timeout(LOOK, next).await.ok().flatten()
            } else {
                next.now_or_never().flatten()
            };
            let Some(delivery) = delivery else { break };
            let delivery = delivery.map_err(queues::silent)?;
            last = Some(delivery.delivery_tag);
            steps.extend(read(&delivery.data));
        }
        Ok((steps, last))
    }
}

fn body((plan, step): Step) -> Vec<u8> {
    format!("{plan} {step}").into_bytes()
}

fn read(body: &[u8]) -> Option<Step> {
    let (plan, step) = std::str::from_utf8(body).ok()?.split_once(' ')?;
    Some((plan.parse().ok()?, step.parse().ok()?))
}

/// Two events a step, as long as a lifecycle event is.
fn events(batch: &[Step], way: Way) -> Vec<Vec<u8>> {
    let event = |(plan, step): Step, kind: &str| {
        format!(
            "{{\"specversion\":\"1.0\",\"id\":\"{plan}/{step}/{kind}\",\"source\":\"dat\",\"type\":\"dat.step.{kind}\",\
             \"subject\":\"{plan}\",\"datacontenttype\":\"application/json\",\"sequence\":\"{step}\",\
             \"data\":{{\"plan_id\":\"{plan}\",\"plan_version\":1,\"tenant\":\"load-0\",\"step\":\"s{step}\",\
             \"attempt\":1,\"connector\":\"echo\",\"action\":\"echo\",\"outcome\":\"ok\",\"duration_ms\":1,\
             \"queued_ms\":1,\"attempts\":1,\"cost\":0}}}}"
        )
    };
    let each = batch.iter().flat_map(|step| ["running", "completed"].map(|kind| event(*step, kind)));
    if way.batched_events {
        let all: Vec<String> = each.collect();
        vec![format!("[{}]", all.join(",")).into_bytes()]
    } else {
        each.map(String::into_bytes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dispatch_reads_back_and_events_are_json() {
        assert_eq!(read(&body((7, 3))), Some((7, 3)));
        assert_eq!(read(b"x"), None);
        let ways = Way::ALL.map(|way| events(&[(1, 0), (2, 4)], way));
        assert_eq!(ways.each_ref().map(Vec::len), [4, 4, 1, 1]);
        for body in ways.iter().flatten() {
            serde_json::from_slice::<serde_json::Value>(body).expect("JSON");
        }
    }
}

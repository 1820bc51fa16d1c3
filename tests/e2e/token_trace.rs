//! A real stream of model calls against a tenant's budget worth half of it, while Redis loses everything three times:
//! never above the limit, never refused what would have fitted, and used up to the last call that fits.
//!
//! The stream is `azure-llm-code-2023.csv` (arrival, context tokens, generated tokens), where it lies beside the checkout
//! or where `DAT_TEST_TOKEN_TRACE` says; else one of the same shape is made up. `DAT_TEST_TOKEN_CALLS` says how many of
//! its calls are made (all: `make token-trace`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dat_plan::clock::{SeededEntropy, SystemClock};
use dat_plan::{Clock as _, Entropy as _, PlanKey};
use dat_tests::{Fleet, FleetOptions, PlanDraft, PrivateRedis, Producer, StepDraft, WorkerOptions};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

/// Calls of a run that is not asked for more.
const CALLS: usize = 2_000;
/// Calls of the whole stream.
const ALL: usize = 8_819;
/// Calls of a plan.
const PLAN: usize = 100;
/// How often the figures are looked at.
const LOOK: std::time::Duration = std::time::Duration::from_millis(100);

/// The tokens of each call, in the order of arrival.
#[expect(clippy::print_stdout, reason = "a test's seed and source are printed")]
fn stream(calls: usize) -> Vec<i64> {
    let named = std::env::var_os("DAT_TEST_TOKEN_TRACE").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/azure-llm-code-2023.csv");
    let file = named.unwrap_or(beside);
    if let Ok(text) = std::fs::read_to_string(&file) {
        let tokens = |line: &str| {
            let mut fields = line.split(',').skip(1).map(|field| field.trim().parse::<i64>());
            let (context, generated) = (fields.next()?.ok()?, fields.next()?.ok()?);
            Some(context + generated)
        };
        let found: Vec<i64> = text.lines().skip(1).filter_map(tokens).take(calls).collect();
        println!("{} calls of {}", found.len(), file.display());
        return found;
    }
    let seed = SeededEntropy::from_os().below(u64::MAX);
    println!("{calls} calls made up from seed {seed}: there is no {}", file.display());
    let dice = SeededEntropy::new(seed);
    let up_to = |most| i64::try_from(dice.below(most)).unwrap_or_default();
    // Most prompts are of some 1,500 tokens and some of up to 7,400; answers are short, a few long.
    (0..calls)
        .map(|_| {
            let context = if dice.below(4) == 0 { 1 + up_to(7_400) } else { 1 + up_to(1_500) + up_to(1_500) };
            let generated = if dice.below(20) == 0 { 1 + up_to(1_800) } else { 1 + up_to(60) };
            context + generated
        })
        .collect()
}

/// Four workers whose Redis is theirs alone, with rates and windows that are asked and not reached.
async fn fleet(redis: &PrivateRedis) -> Fleet {
    let environment = vec![("REDIS_URL".to_owned(), redis.url())];
    let worker = WorkerOptions { environment, ..WorkerOptions::default() };
    let settings = "
        [worker]
        lease_ms = 5000
        sweep_ms = 200
        connections = 5
        [[token_window]]
        tenant = \"acme\"
        period = \"hour\"
        limit = 1000000000"
        .to_owned();
    Fleet::start(FleetOptions { workers: 4, worker, settings, ..FleetOptions::default() }).await
}

/// What the tenant's account holds, and the smallest call that waits for it.
struct Seen {
    settled: i64,
    reserved: i64,
    limit: i64,
    /// Steps that wait for their tenant's budget; and all that are neither over nor waiting so.
    waiting: i64,
    moving: i64,
}

async fn look(sql: &mut PgConnection) -> Seen {
    let account = "SELECT coalesce(max(settled), 0)::bigint, coalesce(max(reserved), 0)::bigint,
                          coalesce(max(limit_amount), 0)::bigint FROM budget_account WHERE period = 'year'";
    let (settled, reserved, limit) = sqlx::query_as(account).fetch_one(&mut *sql).await.expect("the account");
    let steps = "SELECT count(*) FILTER (WHERE state = 'ready' AND wait_reason LIKE 'budget: %'),
                        count(*) FILTER (WHERE state NOT IN ('completed', 'ready')
                                         OR state = 'ready' AND coalesce(wait_reason, '') NOT LIKE 'budget: %')
                 FROM execution_step";
    let (waiting, moving) = sqlx::query_as(steps).fetch_one(sql).await.expect("the steps");
    Seen { settled, reserved, limit, waiting, moving }
}

/// The smallest call that is not made yet.
async fn smallest_waiting(sql: &mut PgConnection, calls: &BTreeMap<(PlanKey, String), i64>) -> Option<i64> {
    let waiting: Vec<(uuid::Uuid, i32, String)> =
        sqlx::query_as("SELECT plan_id, plan_version, step_key FROM execution_step WHERE state = 'ready'")
            .fetch_all(sql)
            .await
            .expect("the steps");
    waiting
        .into_iter()
        .filter_map(|(id, version, key)| calls.get(&(PlanKey::new(id, version), key)))
        .min()
        .copied()
}

async fn submit(producer: &Producer, calls: &[i64]) -> BTreeMap<(PlanKey, String), i64> {
    let mut steps = BTreeMap::new();
    for (number, part) in calls.chunks(PLAN).enumerate() {
        let budget = json!({"amount": part.iter().sum::<i64>(), "currency": "token"});
        let draft = PlanDraft::new(&format!("calls {number}")).set("budget", budget);
        let draft = part.iter().enumerate().fold(draft, |draft, (place, tokens)| {
            draft.step(StepDraft::new(&format!("c{place}"), &json!({"cost": tokens})).needs(&[]))
        });
        let plan = producer.submit(&draft.document()).await;
        steps.extend(part.iter().enumerate().map(|(place, tokens)| ((plan, format!("c{place}")), *tokens)));
    }
    steps
}

#[expect(clippy::print_stdout, reason = "the figures of `make token-trace`")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_a_token_stream_is_served_to_the_last_call_that_fits_while_redis_is_lost_three_times() {
    let asked = std::env::var("DAT_TEST_TOKEN_CALLS").ok();
    let calls = stream(asked.map_or(CALLS, |calls| calls.parse().unwrap_or(ALL)));
    let (total, largest) = (calls.iter().sum::<i64>(), calls.iter().copied().max().unwrap_or_default());
    let limit = total / 2;
    let redis = PrivateRedis::start().await;
    let fleet = fleet(&redis).await;
    let producer = fleet.producer().await;
    let amount = limit.to_string();
    let set =
        ["budget", "set", "--tenant", "acme", "--currency", "token", "--period", "year", "--amount", &amount];
    fleet.dat(&[&set[..], &["--actor", "ann", "--reason", "half of it"]].concat()).await;
    let mut sql = PgConnection::connect(&fleet.realm().database_url).await.expect("a connection");
    let steps = submit(&producer, &calls).await;

    // Redis loses everything when a quarter, a half, and nearly all of the budget are used.
    let mut flushes = [limit / 4, limit / 2, limit / 10 * 9].into_iter().peekable();
    let started = tokio::time::Instant::now();
    let (mut last, mut since) = ((0, 0, 0), started);
    let end = loop {
        let seen = look(&mut sql).await;
        assert!(seen.settled + seen.reserved <= limit, "{} + {} of {limit}", seen.settled, seen.reserved);
        if flushes.next_if(|at| seen.settled >= *at).is_some() {
            redis.flush().await;
        }
        let all_here = i64::try_from(calls.len()).is_ok_and(|calls| {
            seen.waiting + seen.moving <= calls && seen.moving == 0 && seen.waiting > 0 && seen.reserved == 0
        });
        if all_here
            && flushes.peek().is_none()
            && smallest_waiting(&mut sql, &steps).await.is_some_and(|call| seen.settled + call > seen.limit)
        {
            break seen;
        }
        let now = (seen.settled, seen.reserved, seen.waiting);
        if now != last {
            (last, since) = (now, tokio::time::Instant::now());
        }
        assert!(
            since.elapsed() < dat_tests::PATIENCE,
            "nothing moves: {now:?} of {limit}, {} in flight",
            seen.moving
        );
        tokio::time::sleep(LOOK).await;
    };
    let took = started.elapsed();

    assert_eq!(end.limit, limit);
    assert!(end.settled <= limit && end.settled >= limit - largest, "{} of {limit}, {largest}", end.settled);
    let figures = "SELECT (data->>'needed')::bigint, (data->>'settled')::bigint, (data->>'reserved')::bigint,
                          (data->>'limit')::bigint, (data->>'short')::bigint
                   FROM execution_event WHERE kind = 'budget.refused'";
    let refusals: Vec<(i64, i64, i64, i64, i64)> =
        sqlx::query_as(figures).fetch_all(&mut sql).await.expect("refusals with their figures");
    let fitted: Vec<_> = refusals
        .iter()
        .filter(|(needed, settled, reserved, limit, short)| {
            settled + reserved + needed <= *limit || *short != settled + reserved + needed - limit
        })
        .collect();
    assert!(fitted.is_empty(), "refused, and would have fitted: {fitted:?}");
    assert!(!refusals.is_empty(), "half of the stream is refused");
    let told = |kind: &str| producer.heard().iter().filter(|event| event.kind == kind).count();
    println!(
        "{} calls of {total} tokens, limit {limit}, largest {largest}: settled {}, {} short of the limit; {} refusals, \
         0 of which would have fitted; {} losses told of; {took:.1?}",
        calls.len(),
        end.settled,
        limit - end.settled,
        refusals.len(),
        told("runtime.lost"),
    );
    assert_eq!(told("runtime.lost"), 3);

    let plans: Vec<PlanKey> = fleet.store().recent_plans(true, i64::MAX).await.expect("the plans");
    for plan in plans {
        let aborted = fleet.store().abort(plan.plan_id, "ann", "no room is left", SystemClock.now()).await;
        aborted.expect("aborted");
    }
    for plan in steps.keys().map(|(plan, _)| *plan).collect::<std::collections::BTreeSet<_>>() {
        producer.wait_for_end(plan).await;
    }
    assert_eq!(look(&mut sql).await.settled, end.settled);
    sql.close().await.expect("closed");
    fleet.check_everything().await;
}

//! What no login of the database may do: workers, operators and auditors, each trying what is not theirs on the real one.

use dat_plan::PlanState;
use dat_tests::{Fleet, FleetOptions, PlanDraft};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// Whether the database lets a login do something, which is not done; its words where it is no right of that login's.
async fn tried(database_url: &str, statement: &str) -> Result<(), String> {
    let mut sql = PgConnection::connect(database_url).await.expect("the database answers");
    let mut tx = sql.begin().await.expect("a transaction");
    let done = sqlx::query(AssertSqlSafe(statement)).execute(&mut *tx).await;
    // What would have been done is not.
    drop(tx);
    done.map(drop).map_err(|error| match error.as_database_error() {
        Some(refused) if refused.code().as_deref() == Some("42501") => refused.message().to_owned(),
        _ => panic!("{statement}: {error}"),
    })
}

/// The logins of the whole suite's fleets, each trying what is not theirs. That they suffice, the whole suite shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_login_of_the_database_changes_what_was_written_or_acts_beyond_its_role() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let plan = producer.submit(&PlanDraft::in_order("kept", 2).document()).await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Completed);
    let realm = fleet.realm();
    let mut owner = PgConnection::connect(&realm.database_url).await.expect("the database answers");
    let partitions: Vec<String> = sqlx::query_scalar(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'execution_event'::regclass",
    )
    .fetch_all(&mut owner)
    .await
    .expect("they can be listed");
    assert!(partitions.len() > 1, "{partitions:?}");

    assert!(!realm.grants().is_empty(), "the login of DATABASE_URL needs CREATEROLE for this test");
    let logins = [&realm.worker_database_url, &realm.operator_database_url, &realm.auditor_database_url];
    let logs: Vec<&str> =
        ["execution_event"].into_iter().chain(partitions.iter().map(String::as_str)).collect();
    for login in logins {
        for log in &logs {
            for change in [
                format!("UPDATE {log} SET kind = 'plan.aborted'"),
                format!("DELETE FROM {log}"),
                format!("TRUNCATE {log}"),
            ] {
                let refused = tried(login, &change).await.expect_err(&change);
                assert_eq!(refused, format!("permission denied for table {log}"));
            }
        }
        // Nor what would let it.
        for (change, says) in [
            ("ALTER TABLE execution_event DISABLE TRIGGER USER", "must be owner of table execution_event"),
            ("ALTER TABLE execution_event DETACH PARTITION execution_event_other", "must be owner"),
            ("DROP TABLE execution_event_other", "must be owner"),
            ("CREATE TABLE mine (n integer)", "permission denied for schema"),
            ("SET session_replication_role = replica", "permission denied to set parameter"),
            ("DELETE FROM plan_verdict", "permission denied for table plan_verdict"),
            ("UPDATE plan_verdict SET approver = 'eve'", "permission denied for table plan_verdict"),
            ("UPDATE execution_plan SET document = ''", "permission denied for table execution_plan"),
            ("UPDATE execution_plan SET submitter = 'eve'", "permission denied for table execution_plan"),
            ("UPDATE plan_owner SET tenant = 'eve'", "permission denied for table plan_owner"),
            ("DELETE FROM execution_plan", "permission denied for table execution_plan"),
            ("DELETE FROM budget_entry", "permission denied for table budget_entry"),
            ("UPDATE budget_entry SET amount = 0", "permission denied for table budget_entry"),
            ("TRUNCATE budget_entry", "permission denied for table budget_entry"),
            ("DELETE FROM event_stream", "permission denied for table event_stream"),
        ] {
            let refused = tried(login, change).await.expect_err(change);
            assert!(refused.contains(says), "{change}: {refused}");
        }
    }
    let [worker, operator, auditor] = logins;
    // Operators act and workers work: neither does the other's.
    for change in [
        "INSERT INTO constraint_set SELECT * FROM constraint_set",
        "UPDATE tenant_weight SET weight = 9",
        "UPDATE budget_limit SET amount = 1",
        "INSERT INTO control_request (act, scope, subject, actor, reason, requested_at, expires_at)
         SELECT 'pause', 'fleet', '', 'eve', 'eve', now(), now() + interval '1 day'",
        "DELETE FROM two_person_act",
        "DELETE FROM breaker_force",
    ] {
        assert!(tried(worker, change).await.is_err(), "a worker may {change}");
        assert_eq!(tried(operator, change).await, Ok(()), "an operator may not {change}");
    }
    for change in [
        "INSERT INTO plan_verdict SELECT * FROM plan_verdict WHERE false",
        "INSERT INTO plan_owner SELECT gen_random_uuid(), 'eve'",
        "UPDATE execution_plan SET approval_expires_at = NULL",
        "UPDATE runtime_state SET era = era",
        "SELECT ensure_event_partition(current_date)",
    ] {
        assert!(tried(operator, change).await.is_err(), "an operator may {change}");
        assert_eq!(tried(worker, change).await, Ok(()), "a worker may not {change}");
    }
    // Of the owner's functions each is for one of them.
    for login in [worker, auditor] {
        let refused = tried(login, "SELECT detach_event_month('2026-01-01', now())").await;
        assert_eq!(refused, Err("permission denied for function detach_event_month".to_owned()));
    }
    // Whoever only reads, reads all of it and writes nothing.
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace
         AND c.relkind IN ('r', 'p') AND NOT c.relispartition",
    )
    .fetch_all(&mut owner)
    .await
    .expect("they can be listed");
    for table in tables {
        assert_eq!(tried(auditor, &format!("SELECT count(*) FROM {table}")).await, Ok(()));
        for change in [format!("INSERT INTO {table} DEFAULT VALUES"), format!("DELETE FROM {table}")] {
            let refused = tried(auditor, &change).await.expect_err(&change);
            assert_eq!(refused, format!("permission denied for table {table}"));
        }
    }

    // The command says the same in its words: an auditor verifies, and does not act.
    let auditing = || [("DATABASE_URL".to_owned(), auditor.clone())];
    let (done, said) = fleet.dat_with(auditing(), &["audit", "verify"]).await;
    assert!(done, "{said}");
    let id = plan.plan_id.to_string();
    assert!(fleet.dat_with(auditing(), &["plan", "show", &id]).await.0);
    let pause = ["control", "pause", "--tenant", "acme", "--actor", "eve", "--reason", "a test"];
    let (done, said) = fleet.dat_with(auditing(), &pause).await;
    assert!(!done && said.contains("the login of DATABASE_URL may not do this"), "{said}");
    fleet.check_everything().await;
}

fn migrate<'a>(roles: &[&'a str]) -> Vec<&'a str> {
    [&["migrate"][..], roles].concat()
}

/// What a role has beyond its purpose is taken away; what grants could not bound is refused, with what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_are_given_again_and_only_to_roles_that_they_bind() {
    let fleet = Fleet::start(FleetOptions { workers: 0, ..FleetOptions::default() }).await;
    let realm = fleet.realm();
    let mut owner = PgConnection::connect(&realm.database_url).await.expect("the database answers");
    let grants = realm.grants();
    assert!(!grants.is_empty(), "the login of DATABASE_URL needs CREATEROLE for this test");
    let worker = &grants[1];
    let loosened = format!("GRANT ALL ON execution_event, plan_verdict TO {worker}");
    sqlx::query(AssertSqlSafe(loosened)).execute(&mut owner).await.expect("granted");
    assert_eq!(tried(&realm.worker_database_url, "UPDATE plan_verdict SET approver = 'eve'").await, Ok(()));
    let as_owner = || [("DATABASE_URL".to_owned(), realm.database_url.clone())];
    let all: Vec<&str> = grants.iter().map(String::as_str).collect();
    for _ in 0..2 {
        let (done, said) = fleet.dat_with(as_owner(), &migrate(&all)).await;
        assert!(done && said.contains(&format!("granted to {worker}")), "{said}");
    }
    assert!(tried(&realm.worker_database_url, "UPDATE plan_verdict SET approver = 'eve'").await.is_err());
    let user: String =
        sqlx::query_scalar("SELECT current_user::text").fetch_one(&mut owner).await.expect("one");
    for (roles, says) in [
        (["--worker-role", "nobody-is-called-so"], "CREATE ROLE"),
        (["--worker-role", &user], "grants would bound nothing"),
    ] {
        let (done, said) = fleet.dat_with(as_owner(), &migrate(&roles)).await;
        assert!(!done && said.contains(says), "{said}");
    }
    let twice = ["--worker-role", worker, "--auditor-role", worker];
    let (done, said) = fleet.dat_with(as_owner(), &migrate(&twice)).await;
    assert!(!done && said.contains("named twice"), "{said}");
    // And nobody grants what is not theirs.
    let as_worker = [("DATABASE_URL".to_owned(), realm.worker_database_url.clone())];
    let (done, said) = fleet.dat_with(as_worker, &migrate(&all)).await;
    assert!(!done, "{said}");
}

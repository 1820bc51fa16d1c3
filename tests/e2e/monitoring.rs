//! What is watched from outside: rules and dashboards name what there is, rules fire when they should, and a real
//! Prometheus scrapes a real worker.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use dat_tests::{Fleet, FleetOptions, PlanDraft, StepDraft, eventually};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

/// The page that lists every figure; what it says is held against the program by a test of its own.
const PAGE: &str = include_str!("../../docs/metrics.md");
/// The most series of a worker, whatever tenants there are.
const MOST_SERIES: usize = 2_000;
const TENANTS: usize = 1_000;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files in a folder, with their text.
fn files(name: &str) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(folder(name)).expect("a folder");
    entries.map(|entry| entry.expect("a file").path()).map(|path| (path.clone(), read(&path))).collect()
}

/// Every word that begins so.
fn words<'t>(text: &'t str, start: &'t str) -> impl Iterator<Item = &'t str> {
    let part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    text.split(move |letter| !part(letter)).filter(move |word| word.starts_with(start))
}

#[test]
fn every_metric_that_a_rule_a_dashboard_or_a_runbook_names_exists() {
    let metrics: BTreeSet<&str> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    let recording = read(&folder("monitoring/prometheus/recording.yml"));
    let recorded: BTreeSet<&str> = words(&recording, "dat:").collect();
    assert!(
        metrics.len() > 40 && recorded.len() > 4,
        "{} metrics, {} records",
        metrics.len(),
        recorded.len()
    );
    let mut named = 0;
    for place in ["monitoring/prometheus", "monitoring/grafana", "docs/runbooks"] {
        for (path, text) in files(place) {
            for word in words(&text, "dat_") {
                let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
                let exists = metrics.contains(word) || base.is_some_and(|base| metrics.contains(base));
                assert!(exists, "{} names {word}, which no worker serves", path.display());
                named += 1;
            }
            for word in words(&text, "dat:") {
                assert!(recorded.contains(word), "{} names {word}, which nothing records", path.display());
            }
        }
    }
    assert!(named > 100, "only {named} names were found");
}

#[test]
fn every_alert_has_a_runbook_and_series_on_which_it_fires() {
    let rules = read(&folder("monitoring/prometheus/alerts.yml"));
    let tests = read(&folder("monitoring/prometheus/alerts_test.yml"));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let runbooks: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("runbook_url: ")).collect();
    assert!(alerts.len() > 10 && alerts.len() == runbooks.len());
    for (alert, runbook) in alerts.iter().zip(runbooks) {
        let text = read(&folder(runbook));
        assert!(text.starts_with(&format!("# {alert}\n")), "{runbook} is not of {alert}");
        let mut cases = tests.split("- alertname: ").filter(|case| case.starts_with(alert));
        assert!(cases.any(|case| case.contains("exp_alerts")), "no series on which {alert} fires");
    }
}

#[tokio::test]
async fn rules_fire_on_their_series_and_on_no_others() {
    let mut command = Command::new("promtool");
    command.args(["test", "rules", "alerts_test.yml"]).current_dir(folder("monitoring/prometheus"));
    let done =
        command.output().await.expect("promtool, of Debian's package prometheus: 'make monitoring-tools'");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_tenants_make_fewer_than_2000_series() {
    let mut fleet = Fleet::start(FleetOptions { workers: 1, ..FleetOptions::default() }).await;
    let producer = fleet.producer().await;
    let mut plans = Vec::with_capacity(TENANTS);
    for tenant in 0..TENANTS {
        let step =
            StepDraft::new("s", &json!({})).set("connector", "echo").set("action", "echo").set("max_cost", 1);
        let rule = json!([{"id": format!("rule-{tenant}"), "enforcement": "soft", "kind": "quantity",
                           "parameter": "units", "max": 1}]);
        let draft = PlanDraft::new("many")
            .set("tenant", format!("tenant-{tenant}"))
            .set("budget", json!({"amount": 10, "currency": format!("c{tenant:03}x")}))
            .set("constraints", rule)
            .step(step.set("parameters", json!({"units": 3})));
        plans.push(producer.submit(&draft.document()).await);
    }
    producer.wait_for_ends(&plans).await;
    let worker = fleet.worker(0);
    worker.wait_for_metric("dat_constraint_violations_total", 1_000.0).await;
    let (_, text) = worker.get("/metrics").await;
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(text.contains("currency=\"other\""), "currencies are told apart without end");
    assert!(!text.contains("tenant-7") && !text.contains("rule-7"), "a tenant's own word is a label");
    assert!(series < MOST_SERIES, "{series} series");
    fleet.check_everything().await;
}

/// A Prometheus of a test's own; it ends with the test.
struct Prometheus {
    url: String,
    _process: Child,
}

impl Prometheus {
    /// Scrapes these addresses every second, by the rules as they are.
    fn start(fleet: &Fleet, targets: &[&str]) -> Self {
        let rules = folder("monitoring/prometheus").canonicalize().expect("the rules");
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [rules.join("recording.yml"), rules.join("alerts.yml")],
            "scrape_configs": [{"job_name": "dat", "static_configs": [{"targets": targets}]}],
        });
        // JSON is YAML.
        let config = PathBuf::from(fleet.file("prometheus.yml", &config.to_string()));
        let data = config.with_file_name("prometheus");
        let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number");
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", data.display()));
        command.arg(format!("--web.listen-address={free}"));
        command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().expect("Debian's prometheus: 'make monitoring-tools'");
        Self { url: format!("http://{free}"), _process: process }
    }

    async fn get(&self, path: &str) -> Result<Value, String> {
        let url = format!("{}{path}", self.url);
        let read = move || -> Result<Value, ureq::Error> { ureq::get(&url).call()?.body_mut().read_json() };
        tokio::task::spawn_blocking(read).await.expect("the request ends").map_err(|error| error.to_string())
    }

    /// The alerts that fire.
    async fn firing(&self) -> Result<BTreeSet<String>, String> {
        let alerts = self.get("/api/v1/alerts").await?;
        let alerts = alerts["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        Ok(firing.filter_map(|alert| alert["labels"]["alertname"].as_str().map(str::to_owned)).collect())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_scrapes_a_worker_and_tells_of_a_budget_that_is_spent_and_of_nothing_else() {
    let mut fleet = Fleet::start(FleetOptions { workers: 1, ..FleetOptions::default() }).await;
    let address = fleet.worker(0).address().to_owned();
    let prometheus = Prometheus::start(&fleet, &[&address]);
    eventually("Prometheus scrapes the worker", async || {
        let up = prometheus.get("/api/v1/query?query=dat_server_up").await?;
        let servers = up["data"]["result"].as_array().map_or(0, Vec::len);
        if servers == 3 { Ok(()) } else { Err(up.to_string()) }
    })
    .await;
    assert_eq!(prometheus.firing().await, Ok(BTreeSet::new()), "nothing is wrong yet");

    let limit =
        ["budget", "set", "--tenant", "acme", "--currency", "usd", "--period", "day", "--amount", "15"];
    fleet.dat(&[&limit[..], &["--reason", "so little"]].concat()).await;
    let producer = fleet.producer().await;
    let plan = PlanDraft::in_order("too dear", 3).set("tenant", "acme");
    let plan = producer.submit(&plan.document()).await;
    producer.wait_for("it does not fit", |e| e.plan == plan && e.kind == "budget.refused").await;
    let meant = BTreeSet::from(["DatBudgetExhausted".to_owned()]);
    eventually("the alert fires, and only that", async || match prometheus.firing().await {
        Ok(firing) if firing == meant => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;

    let more =
        ["budget", "set", "--tenant", "acme", "--currency", "usd", "--period", "day", "--amount", "900"];
    fleet.dat(&[&more[..], &["--reason", "as its runbook says"]].concat()).await;
    producer.wait_for_end(plan).await;
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_says_what_is_wrong_and_what_to_do() {
    let fleet = Fleet::standard().await;
    let well = fleet.dat(&["doctor", "--output", "json"]).await;
    let findings: Vec<Value> = serde_json::from_str(&well).expect("JSON");
    let of =
        |what: &str| findings.iter().find(|finding| finding["what"] == what).cloned().unwrap_or_default();
    for what in [
        "database",
        "migrations",
        "database rights",
        "database clock",
        "broker",
        "broker version",
        "topology",
        "redis",
    ] {
        assert_eq!(of(what)["state"], "well", "{what}: {well}");
    }
    for (variable, away, what) in [
        ("DATABASE_URL", "postgres://nobody:x@127.0.0.1:1/dat", "database"),
        ("AMQP_URL", "amqp://nobody:x@127.0.0.1:1/%2f", "broker"),
        ("REDIS_URL", "redis://127.0.0.1:1", "redis"),
    ] {
        let wrong = [(variable.to_owned(), away.to_owned())];
        let (succeeded, said) = fleet.dat_with(wrong, &["doctor"]).await;
        assert!(!succeeded && said.contains("fails") && said.contains(variable), "{what}: {said}");
    }
    let other = [("DAT_NAMESPACE".to_owned(), "elsewhere".to_owned())];
    let (succeeded, said) = fleet.dat_with(other, &["doctor"]).await;
    assert!(!succeeded && said.contains("dat topology apply"), "{said}");
    fleet.check_everything().await;
}

//! Settings: flags over `DAT_…` environment over a TOML file over defaults. One small struct a concern, each checked
//! when it is built, so that a bad setting stops the start with its name.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use dat_connectors::Connectors;
use dat_connectors::http::HttpSettings;
use dat_guards::{BreakerRule, RateLimit, TokenWindow};
use dat_plan::event::Destination;
use dat_plan::signing::{KeyRing, SigningKey, Trust, TrustedKey};
use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

use crate::signing::SigningSetting;
use crate::submitters::{SubmitterSetting, Submitters};

/// Flags that every command takes. What is not given comes from the environment, the file, or the defaults.
#[derive(Debug, Clone, Default, Args, Serialize)]
pub(crate) struct Flags {
    /// A TOML file with settings; flags and environment go over it
    #[arg(long, global = true, env = "DAT_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// PostgreSQL [env: `DAT_DATABASE_URL`, `DATABASE_URL`]
    #[arg(long, global = true, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    database_url: Option<String>,
    /// RabbitMQ, AMQP 0-9-1 [env: `DAT_AMQP_URL`, `AMQP_URL`]
    #[arg(long, global = true, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    amqp_url: Option<String>,
    /// RabbitMQ's management API [env: `DAT_AMQP_MANAGEMENT_URL`, `AMQP_MANAGEMENT_URL`]
    #[arg(long, global = true, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    amqp_management_url: Option<String>,
    /// Redis [env: `DAT_REDIS_URL`, `REDIS_URL`]
    #[arg(long, global = true, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_url: Option<String>,
    /// Prefixes every name on the broker and in Redis, so that fleets can share servers [env: `DAT_NAMESPACE`]
    #[arg(long, global = true, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
}

/// Everything that can be set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// PostgreSQL.
    pub(crate) database_url: String,
    /// RabbitMQ.
    pub(crate) amqp_url: String,
    /// RabbitMQ's management API.
    pub(crate) amqp_management_url: String,
    /// Redis.
    pub(crate) redis_url: String,
    /// Prefixes names on the broker and in Redis.
    pub(crate) namespace: Option<String>,
    /// Of workers.
    pub(crate) worker: WorkerSettings,
    /// Rate limits: every one that matches a step must let it pass.
    pub(crate) rate: Vec<RateSetting>,
    /// Token windows: every one that matches a step must have room.
    pub(crate) token_window: Vec<TokenWindow>,
    /// Circuit breakers; a connector without one has none.
    pub(crate) breaker: Vec<BreakerSetting>,
    /// The connector `http`: there is none without an action.
    pub(crate) http: HttpSettings,
    /// Who may submit for whom; with none, whoever the broker lets publish.
    pub(crate) submitter: Vec<SubmitterSetting>,
    /// Governance's keys: with one, every verdict must be signed.
    pub(crate) verdict_key: Vec<TrustedKey>,
    /// Keys of people whose approvals governance gathers.
    pub(crate) approver_key: Vec<TrustedKey>,
    /// The key that verdicts and approvals made here are signed with.
    pub(crate) signing: Option<SigningSetting>,
    /// DAT's own keys, with which checkpoints of the log are checked.
    pub(crate) checkpoint_key: Vec<TrustedKey>,
    /// How the log is sealed.
    pub(crate) checkpoint: CheckpointSettings,
    /// How long the log is kept in the database.
    pub(crate) retention: RetentionSettings,
    /// How events are published.
    pub(crate) events: EventSettings,
}

/// How events are published.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EventSettings {
    /// Whose consumers read several events in one message.
    pub(crate) batched: BTreeSet<Stream>,
}

/// A stream of events, by the name of its exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Stream {
    #[serde(rename = "flo")]
    Flo,
    #[serde(rename = "pte")]
    Pte,
    #[serde(rename = "dat.events")]
    Events,
}

impl EventSettings {
    /// Whose consumers read batches.
    pub(crate) fn batched(&self) -> BTreeSet<Destination> {
        let destination = |stream: &Stream| match stream {
            Stream::Flo => Destination::Flo,
            Stream::Pte => Destination::Pte,
            Stream::Events => Destination::Events,
        };
        self.batched.iter().map(destination).collect()
    }
}

/// How long the log is kept in the database.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RetentionSettings {
    /// A month of the log may be archived when its plans ended so many days ago, 0 to 36,500.
    pub(crate) days: u32,
}

impl Default for RetentionSettings {
    fn default() -> Self {
        Self { days: 400 }
    }
}

/// How the log is sealed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CheckpointSettings {
    /// How often, milliseconds, 50 to 600,000.
    pub(crate) every_ms: u64,
    /// The key that signs; checkpoints are unsigned without one.
    pub(crate) signing: Option<SigningSetting>,
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self { every_ms: 5_000, signing: None }
    }
}

impl CheckpointSettings {
    /// The key that signs, where one is configured.
    pub(crate) fn key(&self) -> Result<Option<SigningKey>, BadSetting> {
        let key = self.signing.as_ref().map(SigningSetting::key).transpose();
        key.map_err(|error| BadSetting(format!("checkpoint.{error}")))
    }
}

/// How a worker works.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WorkerSettings {
    /// Where `/livez`, `/readyz` and `/metrics` are served; port 0 takes a free one.
    pub(crate) listen: SocketAddr,
    /// Attempts that run at once, 1 to 10,000.
    pub(crate) slots: usize,
    /// How long a lease holds without renewal, milliseconds, 1,000 to 600,000. A dead worker's steps are taken up
    /// after at most this and a sweep.
    pub(crate) lease_ms: u64,
    /// How often the sweeper looks, milliseconds, 50 to 60,000.
    pub(crate) sweep_ms: u64,
    /// Deliveries and outcomes in one transaction, at most, 1 to 1,000.
    pub(crate) batch: usize,
    /// Connections to PostgreSQL, 2 to 100.
    pub(crate) connections: u32,
    /// How long a statement may take, milliseconds, 500 to 600,000. PostgreSQL ends it then; where it has not answered a
    /// second later, its connection is given up.
    pub(crate) statement_ms: u64,
    /// How long a stopping worker lets running attempts finish, milliseconds.
    pub(crate) drain_ms: u64,
}

/// A rate limit as it is written in the settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RateSetting {
    /// The tenant; absent, each tenant has the limit for itself.
    #[serde(default)]
    pub(crate) tenant: Option<String>,
    /// The connector; absent, every one, together.
    #[serde(default)]
    pub(crate) connector: Option<String>,
    /// The action; absent, every one, together.
    #[serde(default)]
    pub(crate) action: Option<String>,
    /// So many calls.
    pub(crate) count: u32,
    /// In so many milliseconds.
    pub(crate) period_ms: u64,
    /// So many at once, 1 or more.
    pub(crate) burst: u32,
}

impl RateSetting {
    /// The limit, checked.
    pub(crate) fn limit(&self) -> Result<RateLimit, BadSetting> {
        RateLimit::new(self.count, std::time::Duration::from_millis(self.period_ms), self.burst)
            .map_err(|error| BadSetting(format!("rate: {error}")))
    }
}

/// A circuit breaker as it is written in the settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BreakerSetting {
    /// Its connector.
    pub(crate) connector: String,
    /// So many failures open it, 1 to 10,000.
    #[serde(default = "BreakerSetting::failures")]
    pub(crate) failures: u32,
    /// In so many milliseconds, 10 to 3,600,000.
    #[serde(default = "BreakerSetting::window_ms")]
    pub(crate) window_ms: u64,
    /// For so many milliseconds, 10 to 3,600,000; then one step tries.
    #[serde(default = "BreakerSetting::open_ms")]
    pub(crate) open_ms: u64,
}

impl BreakerSetting {
    const fn failures() -> u32 {
        5
    }

    const fn window_ms() -> u64 {
        30_000
    }

    const fn open_ms() -> u64 {
        10_000
    }

    /// The rule, checked.
    pub(crate) fn rule(&self) -> Result<BreakerRule, BadSetting> {
        let (window, pause) = (
            std::time::Duration::from_millis(self.window_ms),
            std::time::Duration::from_millis(self.open_ms),
        );
        BreakerRule::new(self.failures, window, pause)
            .map_err(|error| BadSetting(format!("breaker of {}: {error}", self.connector)))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            database_url: "postgres://localhost:5432/dat".to_owned(),
            amqp_url: "amqp://guest:guest@localhost:5672/%2f".to_owned(),
            amqp_management_url: "http://guest:guest@localhost:15672".to_owned(),
            redis_url: "redis://localhost:6379/0".to_owned(),
            namespace: None,
            worker: WorkerSettings::default(),
            rate: Vec::new(),
            token_window: Vec::new(),
            breaker: Vec::new(),
            http: HttpSettings::default(),
            submitter: Vec::new(),
            verdict_key: Vec::new(),
            approver_key: Vec::new(),
            signing: None,
            checkpoint_key: Vec::new(),
            checkpoint: CheckpointSettings::default(),
            retention: RetentionSettings::default(),
            events: EventSettings::default(),
        }
    }
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
            slots: 64,
            lease_ms: 10_000,
            sweep_ms: 500,
            batch: 256,
            connections: 8,
            statement_ms: 30_000,
            drain_ms: 20_000,
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadSetting(pub(crate) String);

impl Settings {
    /// Reads and checks the settings.
    pub(crate) fn load(flags: &Flags) -> Result<Self, BadSetting> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = &flags.config {
            figment = figment.merge(Toml::file_exact(file));
        }
        let settings: Self = figment
            // The four addresses by their usual names, as `make -s env` prints them; `DAT_…` goes over them.
            .merge(Env::raw().only(&["DATABASE_URL", "AMQP_URL", "AMQP_MANAGEMENT_URL", "REDIS_URL"]))
            .merge(
                Env::prefixed("DAT_")
                    .split("__")
                    .ignore(&["config", "fault", "fault_trace", "fault_deliver", "log", "bin", "ci_seconds"])
                    .filter(|key| {
                        // Variables of the tests are not settings.
                        !key.starts_with("test_")
                    }),
            )
            .merge(Serialized::defaults(flags))
            .extract()
            .map_err(|error| BadSetting(error.to_string()))?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), BadSetting> {
        let within = |name: &str, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(BadSetting(format!("{name} is {value}: set it to {low} to {high}")))
            }
        };
        let worker = &self.worker;
        within("worker.slots", worker.slots as u64, 1, 10_000)?;
        within("worker.lease_ms", worker.lease_ms, 1_000, 600_000)?;
        within("worker.sweep_ms", worker.sweep_ms, 50, 60_000)?;
        within("worker.batch", worker.batch as u64, 1, 1_000)?;
        within("worker.connections", u64::from(worker.connections), 2, 100)?;
        within("worker.statement_ms", worker.statement_ms, 500, 600_000)?;
        within("retention.days", u64::from(self.retention.days), 0, 36_500)?;
        within("checkpoint.every_ms", self.checkpoint.every_ms, 50, 600_000)?;
        self.trust()?;
        self.submitters()?;
        self.signing.as_ref().map_or(Ok(()), SigningSetting::check)?;
        let sealing = self.checkpoint.signing.as_ref().map_or(Ok(()), SigningSetting::check);
        sealing.map_err(|error| BadSetting(format!("checkpoint.{error}")))?;
        for rate in &self.rate {
            rate.limit()?;
        }
        for (place, breaker) in self.breaker.iter().enumerate() {
            breaker.rule()?;
            if !Connectors::NAMES.contains(&breaker.connector.as_str()) {
                let (name, known) = (&breaker.connector, Connectors::NAMES.join(", "));
                return Err(BadSetting(format!(
                    "breaker of {name}: there is no such connector, only {known}"
                )));
            }
            if self.breaker[..place].iter().any(|other| other.connector == breaker.connector) {
                return Err(BadSetting(format!("breaker of {}: it is there twice", breaker.connector)));
            }
        }
        Ok(())
    }

    /// Whose signatures are believed.
    pub(crate) fn trust(&self) -> Result<Trust, BadSetting> {
        let ring = |name: &str, keys: &[TrustedKey]| {
            KeyRing::new(keys.iter().cloned()).map_err(|fault| BadSetting(format!("{name}: {fault}")))
        };
        Ok(Trust {
            verdicts: ring("verdict_key", &self.verdict_key)?,
            approvals: ring("approver_key", &self.approver_key)?,
            checkpoints: ring("checkpoint_key", &self.checkpoint_key)?,
        })
    }

    /// Who may submit for whom.
    pub(crate) fn submitters(&self) -> Result<Submitters, BadSetting> {
        Submitters::new(&self.submitter)
    }

    /// The key to sign with, where one is set.
    pub(crate) fn signing_key(&self) -> Result<Option<SigningKey>, BadSetting> {
        self.signing.as_ref().map(SigningSetting::key).transpose()
    }

    /// The namespace of Redis keys: never empty, so that keys of other programs stay apart.
    pub(crate) fn redis_namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("dat")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_that_the_readme_shows_can_be_used() {
        let readme = include_str!("../../README.md");
        let blocks = readme.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
        let shown: Vec<&str> = blocks.collect();
        assert_eq!(shown.len(), 4, "limits, http, keys, and proof");
        let settings: Settings = Figment::from(Serialized::defaults(Settings::default()))
            .merge(Toml::string(&shown.join("\n")))
            .extract()
            .unwrap();
        settings.check().unwrap();
        let limits = (settings.rate.len(), settings.token_window.len(), settings.breaker.len());
        assert_eq!(limits, (1, 1, 1));
        let token = |name: &str| (name == "SHOP_TOKEN").then(|| "t".to_owned());
        let clock = std::sync::Arc::new(dat_plan::clock::SystemClock);
        let http = dat_connectors::Http::new(&settings.http, clock, &token).unwrap();
        assert!(dat_connectors::Connector::action(&http, "shop.order.create").is_some());
    }

    #[test]
    fn a_breaker_of_no_connector_stops_the_start_with_its_name() {
        let mut settings = Settings::default();
        let set = "connector = \"mxu\"\nfailures = 5\nwindow_ms = 1000\nopen_ms = 1000\n";
        settings.breaker = vec![Figment::from(Toml::string(set)).extract().unwrap()];
        assert!(settings.check().unwrap_err().to_string().contains("breaker of mxu"));
    }
}

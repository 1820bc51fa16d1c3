//! `http`: real APIs, one request an action, as the settings declare them.
//!
//! **Owns** what leaves by HTTP: only to hosts that are listed, only to public addresses unless a host is listed as
//! private, over TLS unless it is listed as plain, on a connection of its own. **Must never** follow a redirect to another
//! host, let a parameter change host or path, say a secret in any answer, or take for failed what may have happened: what
//! broke before the request was handed to its connection was not sent, everything after it is open.

mod action;
mod address;
mod answer;
mod client;
mod secret;
mod settings;
mod template;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::Clock;
use hyper::header::LOCATION;
use hyper::{Method, Uri};
use tokio::time::Instant;

use crate::connector::{ActionDeclaration, Answer, Call, Connector, Declaration, ProbeAnswer, Reached};
use action::{Action, Asked, Outgoing};
use client::{Answered, Bounds, Failed, Host};
use secret::Secrets;
pub use settings::{
    ActionSetting, AmountSetting, HeaderSetting, HostSetting, HttpSettings, ProbeSetting, Verb,
};
use template::UrlTemplate;

/// The most redirects that a `GET` is led along, all of them on one host.
const REDIRECTS: usize = 3;

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("http.{0}")]
pub struct BadHttp(String);

/// The connector `http`.
pub struct Http {
    actions: BTreeMap<String, Action>,
    hosts: BTreeMap<String, Host>,
    secrets: Secrets,
    connect: Duration,
    max_body: usize,
    skew: TimeDelta,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http")
            .field("actions", &self.actions.keys())
            .field("hosts", &self.hosts.keys())
            .field("secrets", &self.secrets)
            .finish_non_exhaustive()
    }
}

impl Http {
    /// Checks the settings and reads the secrets: `variable` gives those of the environment.
    pub fn new(
        settings: &HttpSettings,
        clock: Arc<dyn Clock>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, BadHttp> {
        let within = |name: &str, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(BadHttp(format!("{name} is {value}: set it to {low} to {high}")))
        };
        within("connect_ms", settings.connect_ms, 1, 60_000)?;
        within("max_body_bytes", settings.max_body_bytes as u64, 1, 64 * 1024 * 1024)?;
        within("clock_skew_ms", settings.clock_skew_ms, 0, 3_600_000)?;
        let mut hosts = BTreeMap::new();
        for setting in &settings.host {
            let host = host(setting).map_err(|why| BadHttp(format!("host {}: {why}", setting.authority)))?;
            if hosts.insert(host.authority(), host).is_some() {
                return Err(BadHttp(format!("host {} is listed twice", setting.authority)));
            }
        }
        let mut secrets = Secrets::default();
        let mut actions = BTreeMap::new();
        for setting in &settings.action {
            let bad = |why: String| BadHttp(format!("action {}: {why}", setting.name));
            let action = Action::new(setting.clone(), &mut secrets, variable).map_err(bad)?;
            let probe = action.probe.as_ref().map(|(_, url)| url);
            for url in std::iter::once(&action.url).chain(probe) {
                listed(&hosts, url).map_err(bad)?;
            }
            if actions.insert(setting.name.clone(), action).is_some() {
                return Err(bad("it is there twice".to_owned()));
            }
        }
        Ok(Self {
            actions,
            hosts,
            secrets,
            connect: Duration::from_millis(settings.connect_ms),
            max_body: settings.max_body_bytes,
            skew: TimeDelta::milliseconds(i64::try_from(settings.clock_skew_ms).unwrap_or(i64::MAX)),
            clock,
        })
    }

    async fn ask(&self, action: &Action, call: &Call) -> Result<Answered, Failed> {
        let request = &call.request;
        let asked = Asked {
            parameters: &request.parameters,
            key: &request.idempotency_key,
            undo_of: request.undo_of.as_deref(),
            traceparent: &call.traceparent,
        };
        let outgoing = action.request(&asked).map_err(Failed::Refused)?;
        let may_send = || {
            if self.clock.now() < request.not_after {
                return Ok(());
            }
            Err("its time was over before it was sent".to_owned())
        };
        self.follow(&action.url, outgoing, call.timeout, &may_send).await
    }

    /// Sends a request; a `GET` is led along redirects on its own host.
    async fn follow(
        &self,
        url: &UrlTemplate,
        mut outgoing: Outgoing,
        timeout: Duration,
        may_send: &(dyn Fn() -> Result<(), String> + Sync),
    ) -> Result<Answered, Failed> {
        let host = self
            .hosts
            .get(&url.authority())
            .ok_or_else(|| Failed::Refused(format!("{} is not listed", url.authority())))?;
        let bounds =
            Bounds { connect: self.connect, deadline: Instant::now() + timeout, max_body: self.max_body };
        let is_get = outgoing.method == Method::GET;
        let headers = outgoing.headers.clone();
        for _ in 0..REDIRECTS {
            let answered = host.ask(outgoing, &bounds, may_send).await?;
            let to = answered.headers.get(LOCATION).filter(|_| is_get && answered.status.is_redirection());
            let Some(to) = to else { return Ok(answered) };
            let path = to.to_str().ok().and_then(|to| same_host(to, url));
            let Some(path) = path else {
                return Err(Failed::Refused("it was redirected to another host: not followed".to_owned()));
            };
            outgoing = Outgoing { method: Method::GET, path, headers: headers.clone(), body: Vec::new() };
        }
        Err(Failed::Refused(format!("it was redirected more than {} times", REDIRECTS - 1)))
    }
}

#[async_trait]
impl Connector for Http {
    /// What holds for each of its actions: it can do no more in general.
    fn declaration(&self) -> Declaration {
        Declaration {
            name: "http",
            idempotent: false,
            can_probe: false,
            can_compensate: false,
            reports_progress: false,
        }
    }

    fn action(&self, name: &str) -> Option<ActionDeclaration> {
        let action = self.actions.get(name)?;
        Some(ActionDeclaration {
            idempotent: action.idempotent,
            can_probe: action.probe.is_some(),
            can_compensate: action.compensates,
            parameters: action.parameters().into_iter().map(str::to_owned).collect(),
        })
    }

    async fn act(&self, call: Call) -> Answer {
        let Some(action) = self.actions.get(&call.request.action) else {
            let detail = format!("http has no action {}", call.request.action);
            return Answer::Refused { cost: 0, detail };
        };
        let answer = match self.ask(action, &call).await {
            Ok(answered) => answer::read(action, &answered, self.clock.now()),
            Err(Failed::NotSent(detail)) => Answer::NotSent { detail },
            Err(Failed::Refused(detail)) => Answer::Refused { cost: 0, detail },
            Err(Failed::Unanswered(detail)) => Answer::Unanswered { detail },
        };
        self.redacted(answer)
    }

    async fn probe(
        &self,
        action: &str,
        idempotency_key: &str,
        not_after: DateTime<Utc>,
        timeout: Duration,
    ) -> ProbeAnswer {
        let over = self.clock.now() > not_after + self.skew;
        let unknown = |detail, reached| ProbeAnswer::Unknown { detail, answered: false, reached };
        let Some(declared) = self.actions.get(action) else {
            return unknown(format!("http has no action {action}"), Reached::Unasked);
        };
        let Some(request) = declared.probe_request(idempotency_key) else {
            return without_probe(declared, over);
        };
        let answer = match request {
            Err(why) => unknown(format!("the probe of {action}: {why}"), Reached::Unasked),
            Ok((probe, url, outgoing)) => match self.follow(url, outgoing, timeout, &|| Ok(())).await {
                Ok(answered) => answer::read_probe(probe, action, &answered, over),
                Err(Failed::NotSent(why) | Failed::Unanswered(why)) => {
                    unknown(format!("the probe of {action}: {why}"), Reached::No)
                }
                Err(Failed::Refused(why)) => {
                    unknown(format!("the probe of {action}: {why}"), Reached::Unasked)
                }
            },
        };
        match answer {
            ProbeAnswer::Done { result, cost, refund } => {
                ProbeAnswer::Done { result: self.secrets.redact_value(result), cost, refund }
            }
            ProbeAnswer::Unknown { detail, answered, reached } => {
                ProbeAnswer::Unknown { detail: self.secrets.redact(&detail), answered, reached }
            }
            other => other,
        }
    }
}

impl Http {
    /// An answer without secrets: an outside system may say what it was sent.
    fn redacted(&self, answer: Answer) -> Answer {
        let plain = |detail: String| self.secrets.redact(&detail);
        match answer {
            Answer::Done { result, cost, refund } => {
                Answer::Done { result: self.secrets.redact_value(result), cost, refund }
            }
            Answer::Error { cost, detail, retry_after_ms, ill } => {
                Answer::Error { cost, detail: plain(detail), retry_after_ms, ill }
            }
            Answer::Refused { cost, detail } => Answer::Refused { cost, detail: plain(detail) },
            Answer::NotSent { detail } => Answer::NotSent { detail: plain(detail) },
            Answer::Unanswered { detail } => Answer::Unanswered { detail: plain(detail) },
        }
    }
}

/// What is known of an action that cannot be asked after.
fn without_probe(action: &Action, over: bool) -> ProbeAnswer {
    let name = &action.setting.name;
    if !over {
        let detail = format!("{name} has no probe, and could still be accepted");
        return ProbeAnswer::Unknown { detail, answered: false, reached: Reached::Unasked };
    }
    if action.idempotent {
        return ProbeAnswer::Repeatable {
            detail: format!("{name} gave no answer; its key can be sent again"),
        };
    }
    ProbeAnswer::NoProbe { detail: format!("{name} has no probe, and cannot be sent again") }
}

fn host(setting: &HostSetting) -> Result<Host, String> {
    let (name, port) = template::read_authority(&setting.authority, 0)?;
    if port == 0 {
        return Err("write it with its port, as in api.shop.example:443".to_owned());
    }
    let tls = if setting.plain { None } else { Some(client::tls(setting.ca_file.as_deref())?) };
    Ok(Host { name, port, tls, private: setting.private })
}

/// Whether a URL leads to a host that is listed, in the way that it is listed for.
fn listed(hosts: &BTreeMap<String, Host>, url: &UrlTemplate) -> Result<(), String> {
    let authority = url.authority();
    let host = hosts.get(&authority).ok_or_else(|| format!("{authority} is not listed as a host"))?;
    if url.plain == host.tls.is_none() {
        return Ok(());
    }
    Err(if url.plain {
        format!("{authority} is not listed as plain: use https")
    } else {
        format!("{authority} is listed as plain: use http")
    })
}

/// Path and query of a redirect that stays on the host.
fn same_host(to: &str, url: &UrlTemplate) -> Option<String> {
    let uri: Uri = to.parse().ok()?;
    let path = uri.path_and_query()?.to_string();
    match (uri.scheme_str(), uri.authority()) {
        // `//host/path` reads as a path here, and as a host elsewhere.
        (None, None) => Some(path).filter(|path| path.starts_with('/') && !path.starts_with("//")),
        (Some(scheme), Some(authority)) => {
            let standard = if url.plain { 80 } else { 443 };
            let (host, port) = template::read_authority(authority.as_str(), standard).ok()?;
            let same = (scheme == "http") == url.plain && (host, port) == (url.host.clone(), url.port);
            same.then_some(path)
        }
        _ => None,
    }
}

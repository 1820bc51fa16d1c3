//! One action as it is set: checked when the connector is built, and made into a request when it is asked for.

use std::collections::BTreeSet;

use hyper::Method;
use hyper::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use serde_json::{Map, Value};

use super::secret::Secrets;
use super::settings::{ActionSetting, HeaderSetting, ProbeSetting, Verb};
use super::template::UrlTemplate;

/// The place in a URL for the idempotency key.
const KEY: &str = "$key";
/// The place for the last key of the step that is undone.
const UNDO_OF: &str = "$undo_of";
/// What the connector sets itself.
const OURS: [HeaderName; 6] = [HOST, CONTENT_LENGTH, CONNECTION, TE, TRANSFER_ENCODING, UPGRADE];

/// An action, ready to be asked for.
pub(super) struct Action {
    pub(super) setting: ActionSetting,
    pub(super) url: UrlTemplate,
    pub(super) probe: Option<(ProbeSetting, UrlTemplate)>,
    pub(super) idempotent: bool,
    pub(super) compensates: bool,
    headers: HeaderMap,
    key_header: HeaderName,
}

/// What a request is made of, besides its host.
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// What an action is asked with.
pub(super) struct Asked<'a> {
    pub(super) parameters: &'a Map<String, Value>,
    pub(super) key: &'a str,
    pub(super) undo_of: Option<&'a str>,
    pub(super) traceparent: &'a str,
}

impl Action {
    /// Checks the setting and reads its secrets. Fails with a sentence about it.
    pub(super) fn new(
        setting: ActionSetting,
        secrets: &mut Secrets,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let url = UrlTemplate::read(&setting.url).map_err(|why| format!("url: {why}"))?;
        let probe = match &setting.probe {
            None => None,
            Some(probe) => {
                let url = UrlTemplate::read(&probe.url).map_err(|why| format!("probe.url: {why}"))?;
                if let Some(name) = url.names().into_iter().find(|name| *name != KEY) {
                    return Err(format!("probe.url: it can hold {{{KEY}}} and not {{{name}}}"));
                }
                Some((probe.clone(), url))
            }
        };
        if let Some(name) = url.names().into_iter().find(|n| n.starts_with('$') && *n != KEY && *n != UNDO_OF)
        {
            return Err(format!("url: {{{name}}} is neither {{{KEY}}} nor {{{UNDO_OF}}}"));
        }
        if setting.method == Verb::Get && setting.body.is_some() {
            return Err("body: a GET has none".to_owned());
        }
        let key_header = header_name(&setting.idempotency_header)?;
        let mut headers = HeaderMap::new();
        for (name, value) in &setting.headers {
            let header = header_name(name)?;
            let (text, is_secret) = match value {
                HeaderSetting::Text(text) => (text.clone(), false),
                HeaderSetting::Secret { secret, prefix } => {
                    let found =
                        secrets.read(secret, variable).map_err(|why| format!("headers.{name}: {why}"))?;
                    (format!("{prefix}{found}"), true)
                }
            };
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| format!("headers.{name}: it holds characters that no header can"))?;
            value.set_sensitive(is_secret);
            headers.insert(header, value);
        }
        let safe = matches!(setting.method, Verb::Get | Verb::Put | Verb::Delete);
        let idempotent = setting.idempotent.unwrap_or(safe);
        let compensates = setting.compensates.unwrap_or(idempotent || probe.is_some());
        Ok(Self { setting, url, probe, idempotent, compensates, headers, key_header })
    }

    /// The parameters without which it cannot be asked for.
    pub(super) fn parameters(&self) -> BTreeSet<&str> {
        let mut names = self.url.names();
        if let Some(body) = &self.setting.body {
            names_in(body, &mut names);
        }
        names.retain(|name| !name.starts_with('$'));
        names
    }

    /// The request. Fails with a sentence where a parameter does not fit.
    pub(super) fn request(&self, asked: &Asked<'_>) -> Result<Outgoing, String> {
        let path = self.url.fill(&|name| match (name, asked.undo_of) {
            (KEY, _) => Ok(asked.key.to_owned()),
            (UNDO_OF, Some(key)) => Ok(key.to_owned()),
            (UNDO_OF, None) => Err("there is no step that it undoes".to_owned()),
            _ => text_of(name, asked.parameters.get(name)),
        })?;
        let mut headers = self.common_headers(asked.traceparent);
        let key = HeaderValue::from_str(asked.key).map_err(|_| "its key fits in no header".to_owned())?;
        headers.insert(self.key_header.clone(), key);
        let body = match (&self.setting.body, self.setting.method) {
            (Some(template), _) => Some(fill(template, asked.parameters)?),
            (None, Verb::Get | Verb::Delete) => None,
            (None, Verb::Post | Verb::Put | Verb::Patch) => Some(Value::Object(asked.parameters.clone())),
        };
        let body = match body {
            None => Vec::new(),
            Some(body) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                serde_json::to_vec(&body).map_err(|_| "its body has no JSON form".to_owned())?
            }
        };
        let method = match self.setting.method {
            Verb::Get => Method::GET,
            Verb::Post => Method::POST,
            Verb::Put => Method::PUT,
            Verb::Patch => Method::PATCH,
            Verb::Delete => Method::DELETE,
        };
        Ok(Outgoing { method, path, headers, body })
    }

    /// The request of its probe, if it has one.
    pub(super) fn probe_request(
        &self,
        key: &str,
    ) -> Option<Result<(&ProbeSetting, &UrlTemplate, Outgoing), String>> {
        let (probe, url) = self.probe.as_ref()?;
        Some(url.fill(&|_| Ok(key.to_owned())).map(|path| {
            let headers = self.common_headers("");
            (probe, url, Outgoing { method: Method::GET, path, headers, body: Vec::new() })
        }))
    }

    fn common_headers(&self, traceparent: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("dat/", env!("CARGO_PKG_VERSION"))));
        if let Some(trace) = HeaderValue::from_str(traceparent).ok().filter(|value| !value.is_empty()) {
            headers.insert(HeaderName::from_static("traceparent"), trace);
        }
        headers.extend(self.headers.clone());
        // One connection a request: whether it can have left is then known exactly.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers
    }
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    let header: HeaderName = name.parse().map_err(|_| format!("'{name}' is no name of a header"))?;
    if OURS.contains(&header) {
        return Err(format!("the header {name} is the connector's own to set"));
    }
    Ok(header)
}

/// A parameter as a text in a URL.
fn text_of(name: &str, value: Option<&Value>) -> Result<String, String> {
    match value {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(Value::Bool(is)) => Ok(is.to_string()),
        Some(_) => Err(format!("parameter {name} is no text, number or truth value")),
        None => Err(format!("parameter {name} is missing")),
    }
}

/// The name of the parameter that a text stands for.
fn place(text: &str) -> Option<&str> {
    text.strip_prefix('{')?.strip_suffix('}').filter(|name| !name.is_empty() && !name.contains(['{', '}']))
}

fn names_in<'a>(template: &'a Value, names: &mut BTreeSet<&'a str>) {
    match template {
        Value::String(text) => names.extend(place(text)),
        Value::Array(items) => items.iter().for_each(|item| names_in(item, names)),
        Value::Object(fields) => fields.values().for_each(|value| names_in(value, names)),
        _ => {}
    }
}

fn fill(template: &Value, parameters: &Map<String, Value>) -> Result<Value, String> {
    Ok(match template {
        Value::String(text) => match place(text) {
            None => template.clone(),
            Some(name) => {
                parameters.get(name).cloned().ok_or_else(|| format!("parameter {name} is missing"))?
            }
        },
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| fill(item, parameters)).collect::<Result<_, _>>()?)
        }
        Value::Object(fields) => {
            let filled = fields.iter().map(|(key, value)| Ok((key.clone(), fill(value, parameters)?)));
            Value::Object(filled.collect::<Result<_, String>>()?)
        }
        other => other.clone(),
    })
}

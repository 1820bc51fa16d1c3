//! Secrets: read once from where they are referred to, and taken out of every text that leaves the connector.

use serde_json::Value;

/// What stands in a secret's place.
const REDACTED: &str = "[redacted]";

/// Every secret of the connector.
#[derive(Default)]
pub(super) struct Secrets(Vec<String>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

impl Secrets {
    /// Reads what `env:NAME` or `file:PATH` refers to, and remembers it. Fails with a sentence that names the reference.
    pub(super) fn read(
        &mut self,
        reference: &str,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<String, String> {
        let found = match (reference.strip_prefix("env:"), reference.strip_prefix("file:")) {
            (Some(name), _) => variable(name).ok_or_else(|| format!("the variable {name} is not set"))?,
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| format!("the file {path} cannot be read: {error}"))?;
                text.trim_end_matches(['\r', '\n']).to_owned()
            }
            // What stands there may be the secret itself.
            (None, None) => return Err("a secret is written as env:NAME or file:PATH".to_owned()),
        };
        if found.is_empty() {
            return Err(format!("{reference} is empty"));
        }
        if !self.0.contains(&found) {
            self.0.push(found.clone());
            // The longest first: one may be a part of another.
            self.0.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        }
        Ok(found)
    }

    /// A text without them.
    pub(super) fn redact(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| {
            if text.contains(secret) { text.replace(secret, REDACTED) } else { text }
        })
    }

    /// A value without them, in texts and in names of fields.
    pub(super) fn redact_value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.redact(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.redact_value(item)).collect(),
            Value::Object(fields) => {
                fields.into_iter().map(|(key, value)| (self.redact(&key), self.redact_value(value))).collect()
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_secret_is_found_in_every_text_and_shown_in_none() {
        let mut secrets = Secrets::default();
        let variable = |name: &str| match name {
            "SHORT" => Some("tok".to_owned()),
            "LONG" => Some("token-1234".to_owned()),
            _ => None,
        };
        assert_eq!(secrets.read("env:SHORT", &variable).as_deref(), Ok("tok"));
        assert_eq!(secrets.read("env:LONG", &variable).as_deref(), Ok("token-1234"));
        assert_eq!(secrets.redact("with token-1234 and tok"), "with [redacted] and [redacted]");
        let value = json!({"a": ["token-1234"], "tok": 1, "n": null});
        assert_eq!(secrets.redact_value(value), json!({"a": ["[redacted]"], "[redacted]": 1, "n": null}));
        assert_eq!(format!("{secrets:?}"), "2 secrets");
        assert!(secrets.read("env:NONE", &variable).is_err_and(|said| said.contains("NONE")));
        assert!(secrets.read("hunter2", &variable).is_err_and(|said| !said.contains("hunter2")));
    }
}

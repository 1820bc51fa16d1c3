//! The key that this process signs with: of a person, or of a sandbox's governance. Its secret is referred to, never
//! written into settings.

use dat_plan::signing::SigningKey;
use serde::{Deserialize, Serialize};

use crate::settings::BadSetting;

/// A key as it is written in the settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SigningSetting {
    /// What `key_id` says. A person's is the person's name, or begins with it and a `/`.
    pub(crate) key_id: String,
    /// Where its seed is: `env:NAME` or `file:PATH`.
    pub(crate) seed: String,
}

impl SigningSetting {
    /// Whether the seed is referred to. What stands there otherwise may be the secret itself, and is not repeated.
    pub(crate) fn check(&self) -> Result<(), BadSetting> {
        if self.key_id.is_empty() {
            return Err(BadSetting("signing.key_id is empty".to_owned()));
        }
        if self.seed.starts_with("env:") || self.seed.starts_with("file:") {
            return Ok(());
        }
        Err(BadSetting("signing.seed is written as env:NAME or file:PATH".to_owned()))
    }

    /// Reads the seed.
    pub(crate) fn key(&self) -> Result<SigningKey, BadSetting> {
        self.check()?;
        let bad = |why: String| BadSetting(format!("signing.seed: {why}"));
        let seed = if let Some(name) = self.seed.strip_prefix("env:") {
            std::env::var(name).map_err(|_| bad(format!("the variable {name} is not set")))?
        } else {
            let path = self.seed.strip_prefix("file:").unwrap_or_default();
            std::fs::read_to_string(path)
                .map_err(|error| bad(format!("the file {path} cannot be read: {error}")))?
        };
        SigningKey::from_seed(&self.key_id, &seed).map_err(|fault| bad(fault.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_referred_to_and_never_shown() {
        let setting = |seed: &str| SigningSetting { key_id: "ann".to_owned(), seed: seed.to_owned() };
        let secret = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let said = setting(secret).key().map(drop).unwrap_err().to_string();
        assert!(!said.contains(secret) && said.contains("env:NAME"), "{said}");
        let absent = setting("file:/nowhere/at/all").key().map(drop).unwrap_err().to_string();
        assert!(absent.contains("/nowhere/at/all"), "{absent}");
        let file = std::env::temp_dir().join(format!("dat-seed-{}", std::process::id()));
        std::fs::write(&file, format!("{secret}\n")).unwrap();
        let key = setting(&format!("file:{}", file.display())).key();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(key.unwrap().key_id(), "ann");
    }
}

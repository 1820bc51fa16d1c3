//! The plan hash: what an approval names, computable by anyone in any language.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// `sha256:` and 64 hex digits: SHA-256 over the RFC 8785 canonical JSON of a document as submitted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct PlanHash(#[schemars(regex(pattern = r"^sha256:[0-9a-f]{64}$"))] pub String);

impl PlanHash {
    /// The hash of a JSON document, by way of its canonical form.
    ///
    /// Fails where the document has no canonical form (a number that is not finite, which JSON text cannot hold).
    pub fn of(document: &serde_json::Value) -> Result<Self, NoCanonicalForm> {
        Ok(Self::of_canonical(&canonical(document)?))
    }

    /// The hash of bytes that already are in canonical form.
    #[must_use]
    pub fn of_canonical(canonical: &[u8]) -> Self {
        Self(format!("sha256:{}", hex::encode(Sha256::digest(canonical))))
    }

    /// Whether a text has the form of a plan hash.
    #[must_use]
    pub fn is_valid(text: &str) -> bool {
        text.strip_prefix("sha256:")
            .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    }

    /// The hash as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PlanHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A document that RFC 8785 gives no form.
#[derive(Debug, thiserror::Error)]
#[error("the document has no canonical JSON form (RFC 8785): {0}")]
pub struct NoCanonicalForm(#[from] serde_json::Error);

/// RFC 8785 canonical JSON.
pub fn canonical<T: Serialize>(value: &T) -> Result<Vec<u8>, NoCanonicalForm> {
    Ok(serde_json_canonicalizer::to_vec(value)?)
}

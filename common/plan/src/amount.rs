//! Amounts: integers in the smallest unit of a currency, never floats.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The greatest amount: 2^53 − 1, the greatest integer that every JSON implementation reads exactly.
pub const MAX: i64 = 9_007_199_254_740_991;

/// A currency: `usd`, `eur`, …, or `token` for model tokens; 1 to 16 lowercase letters, digits, `_` or `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Currency(#[schemars(regex(pattern = r"^[a-z][a-z0-9_-]{0,15}$"))] pub String);

impl Currency {
    /// Whether a text can name a currency.
    #[must_use]
    pub fn is_valid(text: &str) -> bool {
        text.len() <= 16
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'))
    }

    /// The currency as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Currency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An amount of a currency, in its smallest unit (cents of `usd`; for `token`, tokens).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Amount {
    /// How much, 0 to 2^53 − 1.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub amount: i64,
    /// Of what.
    pub currency: Currency,
}

//! What tenants may spend in calendar periods, as an operator sets it in one document.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::amount::Currency;

/// What an operator sets in one act: all of the limits, or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsDocument {
    /// The format of this document: 1.
    #[schemars(range(min = 1, max = 1))]
    pub format: u32,
    /// The limits; those that are not named stay as they are.
    #[schemars(length(min = 1, max = 1000))]
    pub limits: Vec<Limit>,
}

/// What a tenant may spend in each period of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Who pays.
    #[schemars(length(min = 1, max = 200))]
    pub tenant: String,
    /// Of what.
    pub currency: Currency,
    /// The calendar period, UTC.
    pub period: LimitPeriod,
    /// The most, in the smallest unit of the currency.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub amount: i64,
}

/// A calendar period, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LimitPeriod {
    /// From midnight.
    Day,
    /// From the first.
    Month,
    /// From January 1.
    Year,
}

impl LimitPeriod {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Day, Self::Month, Self::Year];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

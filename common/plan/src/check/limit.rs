//! Limits of tenants, as an operator sets them.

use std::collections::HashSet;

use super::node::Node;
use super::plan::is_tenant;
use crate::amount::{self, Currency};
use crate::fault::FaultCode;
use crate::json::Faults;
use crate::limits_document::LimitPeriod;

const DOCUMENT: &[&str] = &["format", "limits"];
const LIMIT: &[&str] = &["tenant", "currency", "period", "amount"];
/// Limits in one document.
const MOST: usize = 1_000;

/// Reads a document of limits.
pub(super) fn read_document(node: Node<'_, '_>, faults: &mut Faults) {
    let Some(document) = node.object(DOCUMENT, faults) else { return };
    if let Some(node) = document.require("format", faults) {
        node.integer(1..=1, faults);
    }
    let Some(node) = document.require("limits", faults) else { return };
    let list = node.list_of_at_most(MOST, faults).unwrap_or_default();
    let mut seen = HashSet::new();
    for (index, item) in list.iter().enumerate().take(MOST) {
        let Some(limit) = node.item(index, item).object(LIMIT, faults) else { continue };
        let tenant = limit.require("tenant", faults).and_then(|node| {
            node.form(
                is_tenant,
                "1 to 200 characters of A-Z a-z 0-9 . _ - that start with a letter or digit",
                faults,
            )
        });
        let currency = limit.require("currency", faults).and_then(|node| {
            node.form(Currency::is_valid, "a currency: 1 to 16 of a-z 0-9 _ -, such as usd or token", faults)
        });
        let period = limit.require("period", faults).and_then(|node| node.word::<LimitPeriod>(faults));
        if let Some(node) = limit.require("amount", faults) {
            node.integer(0..=amount::MAX, faults);
        }
        if let (Some(tenant), Some(currency), Some(period)) = (tenant, currency, period)
            && !seen.insert((tenant, currency, period.as_str()))
        {
            let message =
                format!("a limit of {tenant} in {currency} for each {} stands here already", period.as_str());
            limit.fault_at("period", FaultCode::Duplicate, message, faults);
        }
    }
}

//! Documents of tenants' limits: every fault with its pointer.

use dat_plan::check::limits_document;
use dat_plan::{Fault, FaultCode as F};
use serde_json::{Value, json};

fn read(document: &Value) -> Result<usize, Vec<(String, F)>> {
    let at = |fault: Fault| (fault.pointer.clone(), fault.code);
    limits_document(document.to_string().as_bytes())
        .map(|document| document.limits.len())
        .map_err(|faults| faults.into_iter().map(at).collect())
}

#[test]
fn limits_are_read_all_of_them() {
    let limit = |tenant: &str, period: &str| json!({"tenant": tenant, "currency": "usd", "period": period, "amount": 5});
    let document =
        json!({"format": 1, "limits": [limit("acme", "day"), limit("acme", "month"), limit("bolt", "day")]});
    assert_eq!(read(&document), Ok(3));
}

#[test]
fn every_fault_of_limits_is_found_at_its_place() {
    let document = json!({"format": 2, "limit": [], "limits": [
        {"tenant": "", "currency": "USD", "period": "week", "amount": -1},
        {"tenant": "acme", "currency": "usd", "period": "day", "amount": 1.5, "note": "x"},
        {"tenant": "acme", "currency": "usd", "period": "day", "amount": 9},
        7,
        {}
    ]});
    let mut faults = read(&document).unwrap_err();
    faults.sort_by(|a, b| a.0.cmp(&b.0));
    let places: Vec<&str> = faults.iter().map(|(place, _)| place.as_str()).collect();
    assert_eq!(
        places,
        [
            "/format",
            "/limit",
            "/limits/0/amount",
            "/limits/0/currency",
            "/limits/0/period",
            "/limits/0/tenant",
            "/limits/1/amount",
            "/limits/1/note",
            "/limits/2/period",
            "/limits/3",
            "/limits/4/amount",
            "/limits/4/currency",
            "/limits/4/period",
            "/limits/4/tenant",
        ]
    );
    assert_eq!(faults[8].1, F::Duplicate);
}

//! W3C trace context: taken from the producer, or made, and passed on to everything that the plan causes.

use dat_plan::Entropy;

/// The producer's `traceparent` if it is well formed, else a new one.
pub(crate) fn context(from_producer: Option<&str>, entropy: &dyn Entropy) -> String {
    match from_producer {
        Some(context) if is_well_formed(context) => context.to_owned(),
        _ => {
            let (trace, span) = (entropy.id().simple(), entropy.id().simple().to_string());
            format!("00-{trace}-{}-01", &span[..16])
        }
    }
}

/// The trace id of a context, for logs; empty where there is none.
pub(crate) fn trace_id(context: &str) -> &str {
    context.get(3..35).unwrap_or_default()
}

fn is_well_formed(context: &str) -> bool {
    let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |text: &str| text.bytes().all(|b| b == b'0');
    let parts: Vec<&str> = context.split('-').collect();
    match parts.as_slice() {
        [version, trace, span, flags] => {
            *version == "00"
                && trace.len() == 32
                && span.len() == 16
                && flags.len() == 2
                && [trace, span, flags].iter().all(|part| hex(part))
                && !zero(trace)
                && !zero(span)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dat_plan::clock::SeededEntropy;

    #[test]
    fn a_producers_context_is_kept_and_a_broken_one_replaced() {
        let entropy = SeededEntropy::new(3);
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(context(Some(good), &entropy), good);
        assert_eq!(trace_id(good), "4bf92f3577b34da6a3ce929d0e0e4736");
        for bad in ["", "00-xyz-1-01", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"] {
            let made = context(Some(bad), &entropy);
            assert!(is_well_formed(&made), "{made}");
        }
    }
}

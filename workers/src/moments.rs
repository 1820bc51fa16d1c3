//! Moments and time spans, as people read them.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

/// A moment, to the second.
pub(crate) fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A time span, roughly.
pub(crate) fn span(time: TimeDelta) -> String {
    match time.num_seconds() {
        ..1 => format!("{} ms", time.num_milliseconds().max(0)),
        1..120 => format!("{} s", time.num_seconds()),
        120..7_200 => format!("{} min", time.num_minutes()),
        7_200..172_800 => format!("{} h", time.num_hours()),
        _ => format!("{} days", time.num_days()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_said_in_the_unit_that_suits_it() {
        let said = |ms| span(TimeDelta::milliseconds(ms));
        assert_eq!(said(-5), "0 ms");
        assert_eq!(said(250), "250 ms");
        assert_eq!(said(90_000), "90 s");
        assert_eq!(said(600_000), "10 min");
        assert_eq!(said(7_200_000), "2 h");
        assert_eq!(said(864_000_000), "10 days");
    }
}

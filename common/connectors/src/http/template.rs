//! URL templates. A value becomes one path segment (or part of one) or one query value: it can change neither the host
//! nor how many segments and query values there are.

use std::collections::BTreeSet;

use hyper::Uri;
use hyper::http::uri::Authority;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What stays as it is: the unreserved characters of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The longest path and query, in bytes.
const LONGEST: usize = 8 * 1024;

/// A URL with places for values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UrlTemplate {
    /// `http:`, not `https:`.
    pub(super) plain: bool,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    parts: Vec<Part>,
    /// Path and query with `x` in every place.
    shape: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Value(String),
}

impl UrlTemplate {
    /// Reads a template. Fails with a sentence about it.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let (plain, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err("it begins with neither https:// nor http://".to_owned()),
        };
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(split);
        let (host, port) = read_authority(authority, if plain { 80 } else { 443 })?;
        let path = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
        let mut template = Self { plain, host, port, parts: read_parts(&path)?, shape: String::new() };
        template.shape = template.fill(&|_| Ok("x".to_owned()))?;
        if segments(&template.shape).any(|segment| matches!(segment, "." | "..")) {
            return Err("its path has a segment of dots".to_owned());
        }
        template.shape.parse::<Uri>().map_err(|error| format!("it is not a URL: {error}"))?;
        Ok(template)
    }

    /// `host:port`, as it stands in the list of hosts.
    pub(super) fn authority(&self) -> String {
        authority(&self.host, self.port)
    }

    /// The names of its places.
    pub(super) fn names(&self) -> BTreeSet<&str> {
        let values = self.parts.iter().filter_map(|part| match part {
            Part::Value(name) => Some(name.as_str()),
            Part::Literal(_) => None,
        });
        values.collect()
    }

    /// Path and query with every place filled. Fails with a sentence where a value would change their shape.
    pub(super) fn fill(&self, value: &dyn Fn(&str) -> Result<String, String>) -> Result<String, String> {
        let mut filled = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => filled.push_str(text),
                Part::Value(name) => filled.extend(utf8_percent_encode(&value(name)?, ENCODED)),
            }
        }
        if filled.len() > LONGEST {
            return Err(format!("its path and query have more than {LONGEST} bytes"));
        }
        // What is empty or dots is no segment to whoever normalises the path.
        for (segment, shape) in segments(&filled).zip(segments(&self.shape)) {
            if matches!(segment, "." | "..") || segment.is_empty() && !shape.is_empty() {
                return Err(format!("a segment of its path would be '{segment}'"));
            }
        }
        Ok(filled)
    }
}

fn segments(path_and_query: &str) -> impl Iterator<Item = &str> {
    path_and_query.split('?').next().unwrap_or_default().split('/').skip(1)
}

/// `host:port`, in lower case, with brackets where the host is an address of IPv6.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Reads `host` or `host:port`: the host in lower case, without brackets.
pub(super) fn read_authority(text: &str, otherwise: u16) -> Result<(String, u16), String> {
    let read: Authority = text.parse().map_err(|_| format!("'{text}' is no host"))?;
    if text.contains(['@', '{', '}']) || read.host().is_empty() {
        return Err(format!("'{text}' is no host: it can hold neither a user nor a parameter"));
    }
    let port = match text.rsplit_once(':') {
        Some((_, port)) if !port.contains(']') => {
            port.parse().map_err(|_| format!("'{text}' has no port number"))?
        }
        _ => otherwise,
    };
    let host = read.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    Ok((host, port))
}

fn read_parts(text: &str) -> Result<Vec<Part>, String> {
    if text.contains('#') {
        return Err("it has a fragment, which is never sent".to_owned());
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((literal, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or("a '{' has no '}'")?;
        if name.is_empty() || name.contains('{') {
            return Err("a parameter has no name".to_owned());
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.to_owned()));
        }
        parts.push(Part::Value(name.to_owned()));
        rest = after;
    }
    if rest.contains('}') || parts.iter().any(|p| matches!(p, Part::Literal(text) if text.contains('}'))) {
        return Err("a '}' has no '{'".to_owned());
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest.to_owned()));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(template: &str, value: &str) -> Result<String, String> {
        UrlTemplate::read(template).expect("a template").fill(&|_| Ok(value.to_owned()))
    }

    #[test]
    fn a_value_stays_one_segment_or_one_query_value() {
        let url = "https://api.shop.example/v1/orders/{sku}/lines?q={q}";
        assert_eq!(
            fill(url, "../admin?x=1&y#z").as_deref(),
            Ok("/v1/orders/..%2Fadmin%3Fx%3D1%26y%23z/lines?q=..%2Fadmin%3Fx%3D1%26y%23z")
        );
        assert_eq!(fill(url, "ä b").as_deref(), Ok("/v1/orders/%C3%A4%20b/lines?q=%C3%A4%20b"));
        for dots in [".", "..", ""] {
            assert!(fill(url, dots).is_err(), "'{dots}' changes the path");
        }
        assert!(fill("https://h/a/{x}{x}", ".").is_err(), "together they are two dots");
        assert_eq!(fill("https://h/a/{x}.json", "..").as_deref(), Ok("/a/...json"));
        assert_eq!(fill("https://h/a/?q={x}", "").as_deref(), Ok("/a/?q="), "a query value may be empty");
        assert!(fill("https://h/a/{x}", "").is_err());
    }

    #[test]
    fn a_host_is_fixed_when_the_template_is_read() {
        let read = |text| UrlTemplate::read(text).map(|t| (t.plain, t.authority()));
        assert_eq!(read("https://API.shop.example/x"), Ok((false, "api.shop.example:443".to_owned())));
        assert_eq!(read("http://[::1]:8080?x={y}"), Ok((true, "[::1]:8080".to_owned())));
        for bad in [
            "ftp://h/",
            "https://{host}/",
            "https://u:p@h/",
            "https:///x",
            "https://h/{x",
            "https://h/x}",
            "https://h/{}",
            "https://h/a#b",
            "https://h/../x",
            "https://h/a b",
            "https://h:port/",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}

//! The servers that the environment names.

/// Addresses of PostgreSQL, RabbitMQ and Redis.
#[derive(Debug, Clone, Default)]
pub struct Stack {
    /// `DATABASE_URL`.
    pub database_url: String,
    /// `AMQP_URL`.
    pub amqp_url: String,
    /// `AMQP_MANAGEMENT_URL`.
    pub amqp_management_url: String,
    /// `REDIS_URL`.
    pub redis_url: String,
}

impl Stack {
    /// Reads the four addresses.
    #[must_use]
    pub fn from_env() -> Self {
        Self {
            database_url: required("DATABASE_URL"),
            amqp_url: required("AMQP_URL"),
            amqp_management_url: required("AMQP_MANAGEMENT_URL"),
            redis_url: required("REDIS_URL"),
        }
    }

    /// The address of another database on the same server.
    pub(crate) fn database(&self, name: &str) -> String {
        with_last_segment(&self.database_url, name)
    }

    /// The address of another virtual host on the same broker. Its name must need no encoding.
    pub(crate) fn vhost(&self, name: &str) -> String {
        with_last_segment(&self.amqp_url, name)
    }

    /// The address of another logical database of the same Redis.
    pub(crate) fn redis_database(&self, number: u8) -> String {
        with_last_segment(&self.redis_url, &number.to_string())
    }

    /// The user that the broker is used as.
    pub(crate) fn amqp_user(&self) -> &str {
        let authority = self.amqp_url.split('/').nth(2).unwrap_or_default();
        authority.split([':', '@']).next().unwrap_or_default()
    }
}

fn required(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: run through `make test`, or first: set -a; eval \"$(make -s env)\"; set +a"
        )
    })
}

/// The same address with another user and password, which must need no encoding.
pub(crate) fn with_login(url: &str, user: &str, password: &str) -> String {
    let (scheme, rest) = url.split_once("://").expect("an address");
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{user}:{password}@{host}/{path}")
}

/// `scheme://authority/<segment>?options`, whatever the path was.
fn with_last_segment(url: &str, segment: &str) -> String {
    let (address, options) =
        url.split_once('?').map_or((url, None), |(address, options)| (address, Some(options)));
    let authority: Vec<&str> = address.splitn(4, '/').take(3).collect();
    let options = options.map_or_else(String::new, |options| format!("?{options}"));
    format!("{}/{segment}{options}", authority.join("/"))
}

#[cfg(test)]
mod tests {
    use super::{with_last_segment, with_login};

    #[test]
    fn an_address_gets_another_path_and_keeps_the_rest() {
        assert_eq!(with_last_segment("amqp://u:p@h:1/%2f", "v"), "amqp://u:p@h:1/v");
        assert_eq!(
            with_last_segment("postgres://u@h/dat?sslmode=disable", "x"),
            "postgres://u@h/x?sslmode=disable"
        );
        assert_eq!(with_last_segment("redis://h:1", "3"), "redis://h:1/3");
        assert_eq!(with_login("postgres://u:p@h:1/d?x=y", "v", "q"), "postgres://v:q@h:1/d?x=y");
    }
}

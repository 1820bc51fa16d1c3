//! What a test has for itself on the servers: a database, a virtual host and a prefix in Redis.

use dat_topology::{Stage, Topology};
use redis::{AsyncCommands as _, AsyncIter};
use serde_json::{Value, json};
use sqlx::error::DatabaseError;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::runtime::Builder;
use ureq::Agent;

use crate::draft::random_id;
use crate::stack::{Stack, with_login};

/// Whoever has a login of the database, beside its owner.
const ROLES: [&str; 3] = ["worker", "operator", "auditor"];

/// The logical database of Redis of the one fleet that has no namespace. No other fleet uses it.
const PLAIN_REDIS: u8 = 15;

/// A database, a virtual host and a Redis prefix, deleted when this is dropped.
pub struct Realm {
    stack: Stack,
    database: String,
    has_roles: bool,
    /// The database, as its owner.
    pub database_url: String,
    /// The database, with what a worker needs and no more, once `dat migrate` has granted it.
    pub worker_database_url: String,
    /// The same for an operator.
    pub operator_database_url: String,
    /// The same for an auditor.
    pub auditor_database_url: String,
    /// The virtual host.
    pub amqp_url: String,
    /// Redis.
    pub redis_url: String,
    /// What begins every name on the broker and in Redis; `None` for the names of the contract as they are.
    pub namespace: Option<String>,
    agent: Agent,
}

impl Realm {
    /// Makes a new one on the servers of the environment. Without a namespace, the names on the broker are the
    /// contract's, for outsiders that know no other; only one such realm can be used at a time.
    pub async fn create(namespaced: bool) -> Self {
        Self::create_on(Stack::from_env(), namespaced).await
    }

    /// The same on other servers.
    pub async fn create_on(stack: Stack, namespaced: bool) -> Self {
        let id = &random_id().simple().to_string()[..12];
        let database = format!("dat_test_{id}");
        let redis_url = if namespaced { stack.redis_url.clone() } else { stack.redis_database(PLAIN_REDIS) };
        let database_url = stack.database(&database);
        let password = random_id().simple().to_string();
        let url = |role: &str| with_login(&database_url, &format!("{database}_{role}"), &password);
        let [worker_database_url, operator_database_url, auditor_database_url] = ROLES.map(url);
        let mut realm = Self {
            database_url,
            worker_database_url,
            operator_database_url,
            auditor_database_url,
            amqp_url: stack.vhost(&database),
            redis_url,
            namespace: namespaced.then(|| format!("t{id}")),
            agent: Agent::config_builder().http_status_as_error(false).build().into(),
            has_roles: true,
            database,
            stack,
        };
        realm.command(&format!("CREATE DATABASE {}", realm.database)).await.expect("a database");
        let roles: Vec<String> = realm
            .roles()
            .map(|(_, role)| format!("CREATE ROLE {role} LOGIN PASSWORD '{password}'"))
            .collect();
        match realm.command(&roles.join(";")).await {
            Ok(()) => {}
            // Where the login may make no roles, a fleet runs as the owner of its tables: the demo goes on whatever servers
            // there are, and the tests of the roles say that they cannot.
            Err(error)
                if error.as_database_error().and_then(DatabaseError::code).as_deref() == Some("42501") =>
            {
                realm.has_roles = false;
                for url in [
                    &mut realm.worker_database_url,
                    &mut realm.operator_database_url,
                    &mut realm.auditor_database_url,
                ] {
                    url.clone_from(&realm.database_url);
                }
            }
            Err(error) => panic!("roles cannot be made: {error}"),
        }
        realm.put(&format!("vhosts/{}", realm.database), &json!({}));
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        realm.put(&format!("permissions/{}/{}", realm.database, realm.stack.amqp_user()), &all);
        realm
    }

    /// The addresses and the namespace as the variables that `dat` reads, as the owner of the database.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        self.environment_with(&self.database_url)
    }

    /// The same with another login of the database.
    #[must_use]
    pub fn environment_with(&self, database_url: &str) -> Vec<(String, String)> {
        let mut environment = self.broker_environment();
        environment.push(("DATABASE_URL".to_owned(), database_url.to_owned()));
        environment.push(("REDIS_URL".to_owned(), self.redis_url.clone()));
        environment
    }

    /// The roles of the database, each with what it is for.
    fn roles(&self) -> impl Iterator<Item = (&'static str, String)> {
        ROLES.into_iter().filter(|_| self.has_roles).map(|role| (role, format!("{}_{role}", self.database)))
    }

    /// The arguments with which `dat migrate` grants each role what it is for.
    #[must_use]
    pub fn grants(&self) -> Vec<String> {
        self.roles().flat_map(|(role, name)| [format!("--{role}-role"), name]).collect()
    }

    /// The same, for a process that must not know the database.
    #[must_use]
    pub fn broker_environment(&self) -> Vec<(String, String)> {
        let mut environment = vec![
            ("AMQP_URL".to_owned(), self.amqp_url.clone()),
            ("AMQP_MANAGEMENT_URL".to_owned(), self.stack.amqp_management_url.clone()),
        ];
        environment.extend(self.namespace.clone().map(|namespace| ("DAT_NAMESPACE".to_owned(), namespace)));
        environment
    }

    /// How many messages of a stage's queue nobody has acknowledged, whether they wait or were handed out; as the broker
    /// counted them last.
    pub fn unsettled(&self, stage: Stage) -> Result<u64, String> {
        let topology = Topology::new(self.namespace.as_deref());
        let path = format!("queues/{}/{}", self.database, topology.queue(stage).name());
        let mut answer = self.agent.get(self.management(&path)).call().map_err(|error| error.to_string())?;
        let queue: Value = answer.body_mut().read_json().map_err(|error| error.to_string())?;
        queue["messages"].as_u64().ok_or_else(|| queue.to_string())
    }

    async fn command(&self, sql: &str) -> sqlx::Result<()> {
        let mut connection = PgConnection::connect(&self.stack.database_url).await?;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
        connection.close().await
    }

    /// Deletes the keys of this realm's prefix; gives how many there were.
    pub async fn delete_keys(&self) -> redis::RedisResult<usize> {
        let client = redis::Client::open(self.redis_url.as_str())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let pattern = format!("{}:*", self.namespace.as_deref().unwrap_or("dat"));
        let mut found: AsyncIter<'_, String> = connection.scan_match(pattern).await?;
        let mut keys = Vec::new();
        while let Some(key) = found.next_item().await {
            keys.push(key?);
        }
        drop(found);
        if !keys.is_empty() {
            let _: () = connection.del(&keys).await?;
        }
        Ok(keys.len())
    }

    pub(crate) fn put(&self, path: &str, body: &Value) {
        let answer =
            self.agent.put(self.management(path)).send_json(body).expect("the management API answers");
        assert!(answer.status().is_success(), "PUT {path}: {}", answer.status());
    }

    /// A client of the management API.
    pub(crate) fn agent(&self) -> Agent {
        self.agent.clone()
    }

    /// The virtual host.
    #[must_use]
    pub fn vhost(&self) -> &str {
        &self.database
    }

    pub(crate) fn management(&self, path: &str) -> String {
        format!("{}/api/{path}", self.stack.amqp_management_url.trim_end_matches('/'))
    }

    async fn delete(&self, failing: bool) {
        let dropped = self.command(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database)).await;
        // Without the database they have nothing any more.
        let roles: Vec<String> = self.roles().map(|(_, role)| role).collect();
        let dropped = match dropped {
            Ok(()) if self.has_roles => {
                self.command(&format!("DROP ROLE IF EXISTS {}", roles.join(", "))).await
            }
            otherwise => otherwise,
        };
        // A test that failed must fail with its own words.
        if let Err(error) = dropped
            && !failing
        {
            panic!("the database {} is not dropped: {error}", self.database);
        }
        let _ = self.delete_keys().await;
    }
}

impl Drop for Realm {
    fn drop(&mut self) {
        let _ = self.agent.delete(self.management(&format!("vhosts/{}", self.database))).call();
        let failing = std::thread::panicking();
        // The runtime of the test cannot be waited on in here.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(self.delete(failing));
            });
        });
    }
}

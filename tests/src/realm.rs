//! What a test has for itself on the servers: a database, a virtual host and a prefix in Redis.

use dat_topology::{Stage, Topology};
use redis::{AsyncCommands as _, AsyncIter};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::runtime::Builder;
use ureq::Agent;

use crate::draft::random_id;
use crate::stack::Stack;

/// The logical database of Redis of the one fleet that has no namespace. No other fleet uses it.
const PLAIN_REDIS: u8 = 15;

/// A database, a virtual host and a Redis prefix, deleted when this is dropped.
pub struct Realm {
    stack: Stack,
    database: String,
    /// The database.
    pub database_url: String,
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
        let realm = Self {
            database_url: stack.database(&database),
            amqp_url: stack.vhost(&database),
            redis_url,
            namespace: namespaced.then(|| format!("t{id}")),
            agent: Agent::config_builder().http_status_as_error(false).build().into(),
            database,
            stack,
        };
        realm.command(&format!("CREATE DATABASE {}", realm.database)).await.expect("a database");
        realm.put(&format!("vhosts/{}", realm.database), &json!({}));
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        realm.put(&format!("permissions/{}/{}", realm.database, realm.stack.amqp_user()), &all);
        realm
    }

    /// The addresses and the namespace as the variables that `dat` reads.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut environment = self.broker_environment();
        environment.push(("DATABASE_URL".to_owned(), self.database_url.clone()));
        environment.push(("REDIS_URL".to_owned(), self.redis_url.clone()));
        environment
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

    fn put(&self, path: &str, body: &Value) {
        let answer =
            self.agent.put(self.management(path)).send_json(body).expect("the management API answers");
        assert!(answer.status().is_success(), "PUT {path}: {}", answer.status());
    }

    fn management(&self, path: &str) -> String {
        format!("{}/api/{path}", self.stack.amqp_management_url.trim_end_matches('/'))
    }

    async fn delete(&self, failing: bool) {
        let dropped = self.command(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database)).await;
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

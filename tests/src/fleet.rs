//! A fleet of its own for one test: realm, topology, sandbox and workers, each worker a process.

use std::path::PathBuf;

use dat_plan::PlanKey;
use dat_store::{PlanView, Store};

use crate::binary::log_folder;
use crate::eventually::eventually;
use crate::patience::within;
use crate::process::{self, Process};
use crate::producer::Producer;
use crate::realm::Realm;
use crate::stack::Stack;
use crate::world::SandboxClient;

/// Settings that make what waits for time wait little, and leave connections for other tests.
const SETTINGS: &str = "[worker]\nlease_ms = 3000\nsweep_ms = 100\nconnections = 5\n";

/// How a fleet is started.
#[derive(Debug, Clone)]
pub struct FleetOptions {
    /// How many workers, alike.
    pub workers: usize,
    /// How they are started.
    pub worker: WorkerOptions,
    /// Further flags of the sandbox.
    pub sandbox: Vec<String>,
    /// Settings of every worker, as TOML, instead of the tests' own.
    pub settings: String,
    /// Whether names on the broker have a prefix. Without one, only one such fleet can run at a time.
    pub namespaced: bool,
    /// The servers, instead of those that the environment names.
    pub stack: Option<Stack>,
}

impl Default for FleetOptions {
    fn default() -> Self {
        Self {
            workers: 2,
            worker: WorkerOptions::default(),
            sandbox: Vec::new(),
            settings: SETTINGS.to_owned(),
            namespaced: true,
            stack: None,
        }
    }
}

/// How one worker is started.
#[derive(Debug, Clone, Default)]
pub struct WorkerOptions {
    /// Its roles; all if there are none.
    pub roles: Vec<String>,
    /// Variables that go over the settings, e.g. `DAT_WORKER__LEASE_MS`.
    pub environment: Vec<(String, String)>,
}

impl WorkerOptions {
    /// A worker with one role.
    #[must_use]
    pub fn role(role: &str) -> Self {
        Self { roles: vec![role.to_owned()], ..Self::default() }
    }
}

/// Dropped, it ends its processes and then deletes what it had on the servers.
pub struct Fleet {
    // In this order they are dropped: processes first.
    workers: Vec<Process>,
    sandbox: Process,
    store: Store,
    realm: Realm,
    settings: PathBuf,
    logs: PathBuf,
}

impl Fleet {
    /// Two workers of every role, and a sandbox that approves.
    pub async fn standard() -> Self {
        Self::start(FleetOptions::default()).await
    }

    /// Prepares the servers and starts the processes; all are ready when this returns.
    pub async fn start(options: FleetOptions) -> Self {
        let logs = log_folder();
        let settings = logs.join("settings.toml");
        std::fs::write(&settings, &options.settings).expect("a file for the settings");
        let stack = options.stack.unwrap_or_else(Stack::from_env);
        let realm = Realm::create_on(stack, options.namespaced).await;
        // What they need is granted to the roles; from here on the database's owner is the tests alone.
        let mut migrate = words(&["migrate"]);
        migrate.extend(realm.grants());
        for arguments in [migrate, words(&["topology", "apply"])] {
            let (succeeded, written) = run(&realm.environment(), &arguments).await;
            assert!(succeeded, "dat {arguments:?} failed: {written}");
        }
        let mut arguments = words(&["sandbox", "--listen", "127.0.0.1:0"]);
        arguments.extend(options.sandbox);
        // No variable names the database to it.
        let sandbox = Process::start("sandbox", &logs, &arguments, &realm.broker_environment()).await;
        let store = Store::new(&realm.database_url, 2, "dat-tests").expect("the address can be read");
        let mut fleet = Self { workers: Vec::new(), sandbox, store, realm, settings, logs };
        for _ in 0..options.workers {
            fleet.spawn_worker(&options.worker).await;
        }
        fleet
    }

    /// Starts one more worker; gives its number.
    pub async fn spawn_worker(&mut self, options: &WorkerOptions) -> usize {
        let number = self.launch_worker(options);
        let worker = &mut self.workers[number];
        let ready = worker.ready().await;
        assert!(ready, "a worker ended: {}", worker.last_words());
        number
    }

    /// Starts one more worker, which may end before it is ready; gives its number.
    pub async fn spawn_doomed(&mut self, options: &WorkerOptions) -> usize {
        let number = self.launch_worker(options);
        self.workers[number].ready().await;
        number
    }

    fn launch_worker(&mut self, options: &WorkerOptions) -> usize {
        let number = self.workers.len();
        let name = format!("w{number}");
        let mut arguments = words(&["worker", "--listen", "127.0.0.1:0", "--name", &name]);
        for role in &options.roles {
            arguments.extend(words(&["--role", role]));
        }
        let mut environment = self.realm.environment_with(&self.realm.worker_database_url);
        environment.push(("DAT_CONFIG".to_owned(), self.settings.display().to_string()));
        environment.extend(options.environment.iter().cloned());
        self.workers.push(Process::launch(&name, &self.logs, &arguments, &environment));
        number
    }

    /// Starts a console, with an auditor's rights.
    pub async fn spawn_console(&self) -> Process {
        let environment = self.realm.environment_with(&self.realm.auditor_database_url);
        Process::start("console", &self.logs, &words(&["console", "--listen", "127.0.0.1:0"]), &environment)
            .await
    }

    /// A worker, by its number.
    pub fn worker(&mut self, number: usize) -> &mut Process {
        &mut self.workers[number]
    }

    /// The sandbox's process.
    pub fn sandbox_process(&mut self) -> &mut Process {
        &mut self.sandbox
    }

    /// A producer that hears every event from now on.
    pub async fn producer(&self) -> Producer {
        within("no producer", Producer::connect(&self.realm)).await
    }

    /// The outside world.
    #[must_use]
    pub fn sandbox(&self) -> SandboxClient {
        SandboxClient::new(self.sandbox.url())
    }

    /// The rows.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Forgets its own connections to the database, which may have ended with the server. The workers' are theirs.
    pub fn reconnect(&mut self) {
        self.store = Store::new(&self.realm.database_url, 2, "dat-tests").expect("the address can be read");
    }

    /// What it has on the servers.
    #[must_use]
    pub fn realm(&self) -> &Realm {
        &self.realm
    }

    /// Redis, as this fleet's workers use it. Keys begin with the realm's namespace.
    pub async fn redis(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.realm.redis_url.as_str()).expect("the address can be read");
        client.get_multiplexed_async_connection().await.expect("Redis answers")
    }

    /// The rows of a plan version that was submitted, once it is registered.
    pub async fn plan(&self, plan: PlanKey) -> PlanView {
        eventually(format_args!("plan {plan} is registered"), async || {
            self.store.plan(plan).await.expect("the database answers").ok_or(())
        })
        .await
    }

    /// Runs a `dat` command as an operator of this fleet would; gives what it wrote.
    pub async fn dat(&self, arguments: &[&str]) -> String {
        let (succeeded, written) = self.dat_with([], arguments).await;
        assert!(succeeded, "dat {arguments:?} failed: {written}");
        written
    }

    /// Runs a `dat` command that must not succeed; gives what it wrote.
    pub async fn dat_refused(&self, arguments: &[&str]) -> String {
        let (succeeded, written) = self.dat_with([], arguments).await;
        assert!(!succeeded, "dat {arguments:?} succeeded: {written}");
        written
    }

    fn operator(&self) -> Vec<(String, String)> {
        self.realm.environment_with(&self.realm.operator_database_url)
    }

    /// Runs a `dat` command with variables over the realm's, such as the login of somebody else; gives whether it
    /// succeeded, and what it wrote.
    pub async fn dat_with(
        &self,
        variables: impl IntoIterator<Item = (String, String)>,
        arguments: &[&str],
    ) -> (bool, String) {
        let mut environment = self.operator();
        environment.extend(variables);
        run(&environment, &words(arguments)).await
    }

    /// Runs a `dat` command that ends itself at a fault point (see `DAT_FAULT`).
    pub async fn dat_killed(&self, fault: &str, arguments: &[&str]) {
        let mut environment = self.operator();
        environment.push(("DAT_FAULT".to_owned(), format!("{fault}:kill:1")));
        let run = process::dat(&words(arguments), &environment).output();
        let output = within(format_args!("dat {arguments:?}"), run).await.expect("dat starts");
        assert_eq!(output.status.code(), None, "dat {arguments:?} was not killed: {output:?}");
    }

    /// A file beside the processes' logs; gives its path.
    #[must_use]
    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.logs.join(name);
        std::fs::write(&path, content).expect("a file");
        path.display().to_string()
    }
}

/// Whether a command succeeded, and what it wrote; with what it noted where it did not.
async fn run(environment: &[(String, String)], arguments: &[String]) -> (bool, String) {
    let run = process::dat(arguments, environment).output();
    let output = within(format_args!("dat {arguments:?}"), run).await.expect("dat starts");
    let mut written = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        written.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    (output.status.success(), written)
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

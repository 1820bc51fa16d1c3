//! A RabbitMQ of a test's own, started as `topology/stack` starts one: a node of its own name, a port mapper of its own.

use std::path::PathBuf;
use std::process::Command;

use ureq::Agent;

use super::server::Server;
use crate::draft::random_id;
use crate::eventually::eventually;
use crate::stack::Stack;

/// A broker, killed with its data when this is dropped. It takes ten seconds to start: a test shares one.
#[derive(Debug)]
pub struct PrivateRabbitMq {
    name: String,
    password: String,
    programs: PathBuf,
    folder: PathBuf,
    ports: Ports,
    node: Option<Server>,
    /// Erlang's own mapper of names to ports. It stays while the node is away.
    _mapper: Server,
}

#[derive(Debug)]
struct Ports {
    amqp: u16,
    management: u16,
    distribution: u16,
    mapper: u16,
}

impl PrivateRabbitMq {
    /// Starts one with new data on free ports.
    pub async fn start() -> Self {
        let erlang: Vec<PathBuf> = ["/usr/bin", "/usr/local/bin", "/usr/lib/erlang/bin"]
            .map(PathBuf::from)
            .into_iter()
            .chain(super::versions("/usr/lib/erlang", "erts-", "bin"))
            .chain(super::versions("/usr/local/lib/erlang", "erts-", "bin"))
            .collect();
        let mut folders =
            ["/usr/lib/rabbitmq/bin", "/usr/local/lib/rabbitmq/bin"].map(PathBuf::from).to_vec();
        folders.extend(super::versions("/usr/lib/rabbitmq/lib", "rabbitmq_server-", "sbin"));
        folders.push(PathBuf::from("/opt/rabbitmq/sbin"));
        let [amqp, management, distribution, mapper] = std::array::from_fn(|_| super::free_port());
        let folder = super::folder("rabbitmq");
        let mut epmd = Command::new(super::installed("epmd", erlang).join("epmd"));
        epmd.env("ERL_EPMD_PORT", mapper.to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
        epmd.current_dir(&folder);
        let mut broker = Self {
            name: format!("dat-{}", random_id().simple()),
            password: random_id().simple().to_string(),
            programs: super::installed("rabbitmq-server", folders),
            ports: Ports { amqp, management, distribution, mapper },
            node: None,
            _mapper: Server::spawn("epmd", epmd, &folder.join("epmd.log"), "KILL"),
            folder,
        };
        broker.write_files();
        broker.restart().await;
        broker
    }

    /// These servers, with this broker in the place of theirs.
    #[must_use]
    pub fn in_place_of(&self, stack: &Stack) -> Stack {
        let user = format!("dat:{}@127.0.0.1", self.password);
        let mut stack = stack.clone();
        stack.amqp_url = format!("amqp://{user}:{}/%2f", self.ports.amqp);
        stack.amqp_management_url = format!("http://{user}:{}", self.ports.management);
        stack
    }

    /// Ends the node with SIGKILL, amid whatever it does.
    pub async fn kill(&mut self) {
        self.node.take().expect("it runs").kill().await;
    }

    /// Starts it again with the same data, and waits until it takes connections.
    pub async fn restart(&mut self) {
        let mut command = self.command("rabbitmq-server");
        // The script becomes the node, instead of watching over it: the process id stays. While idle, its schedulers do
        // not spin: they would take the cores from what is tested.
        command.env("RABBITMQ_ALLOW_INPUT", "1").env("RABBITMQ_SERVER_START_ARGS", "-noinput").env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none",
        );
        self.node = Some(Server::spawn("RabbitMQ", command, &self.folder.join("start.log"), "KILL"));
        let agent: Agent = Agent::config_builder().build().into();
        let stack = self.in_place_of(&Stack::default());
        let url =
            format!("{}/api/health/checks/port-listener/{}", stack.amqp_management_url, self.ports.amqp);
        eventually("RabbitMQ takes connections", async || {
            assert!(self.node.as_mut().is_some_and(Server::runs), "RabbitMQ ended: {}", self.last_words());
            let (agent, url) = (agent.clone(), url.clone());
            let asked = tokio::task::spawn_blocking(move || agent.get(&url).call().map(drop)).await;
            asked.expect("the request ends").map_err(|error| error.to_string())
        })
        .await;
    }

    /// Raises its memory alarm, by setting what it may use to one byte; or clears it again.
    pub async fn set_memory_alarm(&self, raised: bool) {
        let mark = if raised { ["absolute", "1"] } else { ["absolute", "4GB"] };
        let mut command = self.command("rabbitmqctl");
        command.arg("set_vm_memory_high_watermark").args(mark);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it ends");
        let output = output.expect("rabbitmqctl starts");
        assert!(output.status.success(), "rabbitmqctl: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn write_files(&self) {
        let Ports { amqp, management, .. } = self.ports;
        let password = &self.password;
        let write = |name: &str, content: &str| {
            std::fs::write(self.folder.join(name), content).expect("a file");
        };
        write("empty.conf", "");
        write("enabled_plugins", "[rabbitmq_management].");
        write(
            "rabbitmq.conf",
            &format!(
                "listeners.tcp.local = 127.0.0.1:{amqp}\nmanagement.tcp.ip = 127.0.0.1\n\
                 management.tcp.port = {management}\ndefault_user = dat\ndefault_pass = {password}\n\
                 default_user_tags.administrator = true\ncollect_statistics_interval = 1000\ndisk_free_limit.absolute = 50MB\n\
                 vm_memory_high_watermark.absolute = 4GB\nlog.file = rabbit.log\nlog.console = false\n"
            ),
        );
    }

    /// One of its programs, which read all of this from the environment.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("LC_ALL", "C.UTF-8").current_dir(&self.folder);
        command.env("HOME", &self.folder).env("RABBITMQ_NODENAME", format!("{}@localhost", self.name));
        command.env("ERL_EPMD_ADDRESS", "127.0.0.1").env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1");
        for (name, port) in [
            ("RABBITMQ_NODE_PORT", self.ports.amqp),
            ("RABBITMQ_DIST_PORT", self.ports.distribution),
            ("ERL_EPMD_PORT", self.ports.mapper),
        ] {
            command.env(name, port.to_string());
        }
        for (name, file) in [
            ("RABBITMQ_MNESIA_BASE", "mnesia"),
            ("RABBITMQ_LOG_BASE", "log"),
            ("RABBITMQ_PID_FILE", "rabbitmq.pid"),
            ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", "enabled_plugins"),
            ("RABBITMQ_CONF_ENV_FILE", "empty.conf"),
        ] {
            command.env(name, self.folder.join(file));
        }
        command
    }

    fn last_words(&self) -> String {
        ["start.log", "log/rabbit.log"]
            .map(|log| std::fs::read_to_string(self.folder.join(log)).unwrap_or_default())
            .join("\n")
    }
}

impl Drop for PrivateRabbitMq {
    fn drop(&mut self) {
        self.node = None;
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

//! Processor time and memory of processes, as the kernel counts them.

use std::collections::BTreeMap;
use std::time::Duration;

use procfs::process::{Process, all_processes};
use serde::Serialize;

use crate::failure::Failure;

/// How often to look. A process that lives shorter is not seen; the fleet's live as long as the run.
pub(crate) const EVERY: Duration = Duration::from_millis(500);

/// What a kind of process cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ProcessCost {
    /// What it is: `worker`, `worker w1`, `sandbox`, `postgres`, …
    pub(crate) name: String,
    /// How many there were at once, at most.
    pub(crate) count: usize,
    /// Processor time, user and system, seconds.
    pub(crate) cpu_s: f64,
    /// What they held of memory at once, at most, bytes. What processes share counts in each: of `PostgreSQL`'s, whose
    /// processes share their buffers, it is far more than the machine gave.
    pub(crate) peak_bytes: u64,
}

#[derive(Debug, Default)]
struct Group {
    count: usize,
    peak_bytes: u64,
}

/// The processes of this machine that a run is about.
#[derive(Debug)]
pub(crate) struct Processes {
    /// Ticks of each process, when it was first and when it was last seen. One that began later counts from nought.
    ticks: BTreeMap<(i32, u64), (String, u64, u64)>,
    groups: BTreeMap<String, Group>,
    ticks_a_second: f64,
    page: u64,
}

impl Processes {
    /// Notes what each has used so far.
    pub(crate) fn start() -> Result<Self, Failure> {
        #[expect(clippy::cast_precision_loss, reason = "a hundred, or a thousand")]
        let ticks_a_second = procfs::ticks_per_second() as f64;
        let mut processes = Self {
            ticks: BTreeMap::new(),
            groups: BTreeMap::new(),
            ticks_a_second,
            page: procfs::page_size(),
        };
        processes
            .see(true)
            .map_err(|error| Failure::Counters(format!("the kernel's of processes: {error}")))?;
        Ok(processes)
    }

    /// Looks once more.
    pub(crate) fn look(&mut self) {
        // A look that fails is made again; what is counted stays.
        let _ = self.see(false);
    }

    fn see(&mut self, first: bool) -> procfs::ProcResult<()> {
        let mut now: BTreeMap<String, Group> = BTreeMap::new();
        for process in all_processes()?.flatten() {
            // It may end while it is looked at.
            let (Some(name), Ok(stat)) = (name_of(&process), process.stat()) else { continue };
            let used = stat.utime + stat.stime;
            let key = (process.pid, stat.starttime);
            let began = if first { used } else { 0 };
            self.ticks.entry(key).or_insert_with(|| (name.clone(), began, used)).2 = used;
            let group = now.entry(name).or_default();
            group.count += 1;
            group.peak_bytes += stat.rss * self.page;
        }
        for (name, seen) in now {
            let group = self.groups.entry(name).or_default();
            group.count = group.count.max(seen.count);
            group.peak_bytes = group.peak_bytes.max(seen.peak_bytes);
        }
        Ok(())
    }

    /// What each kind used since the start; the dearest first.
    pub(crate) fn finish(&mut self) -> Vec<ProcessCost> {
        self.look();
        let mut used: BTreeMap<&str, u64> = BTreeMap::new();
        for (name, from, to) in self.ticks.values() {
            *used.entry(name).or_default() += to.saturating_sub(*from);
        }
        let mut costs: Vec<ProcessCost> = used
            .into_iter()
            .map(|(name, ticks)| {
                let group = self.groups.get(name);
                #[expect(clippy::cast_precision_loss, reason = "ticks of a run are far below 2^52")]
                let cpu_s = ticks as f64 / self.ticks_a_second;
                ProcessCost {
                    name: name.to_owned(),
                    count: group.map_or(0, |group| group.count),
                    cpu_s,
                    peak_bytes: group.map_or(0, |group| group.peak_bytes),
                }
            })
            .collect();
        costs.sort_by(|a, b| b.cpu_s.total_cmp(&a.cpu_s));
        costs
    }
}

/// What a process is, if a run is about it.
fn name_of(process: &Process) -> Option<String> {
    let command = process.cmdline().ok()?;
    kind(&command)
}

/// Told by the command line: the servers' processes rename themselves in it, and their executables may be out of sight.
fn kind(command: &[String]) -> Option<String> {
    let first = command.first()?;
    let program = first.split(' ').next()?.trim_end_matches(':');
    let program = program.rsplit('/').next()?;
    match program {
        "dat" => {
            let roles = ["worker", "sandbox"];
            let role = command.iter().skip(1).map(String::as_str).find(|word| roles.contains(word))?;
            let name = command.iter().position(|word| word == "--name").and_then(|at| command.get(at + 1));
            match (role, name) {
                ("worker", Some(name)) => Some(format!("worker {name}")),
                _ => Some(role.to_owned()),
            }
        }
        "dat-loadtest" => Some("loadtest".to_owned()),
        "beam.smp" => Some("rabbitmq".to_owned()),
        "redis-server" => Some("redis".to_owned()),
        "postgres" => Some("postgres".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(line: &str) -> Option<String> {
        kind(&line.split('|').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn processes_are_told_by_their_command_lines() {
        assert_eq!(named("target/release/dat|worker|--name|w1").as_deref(), Some("worker w1"));
        assert_eq!(named("/usr/bin/dat|worker|--role|relay").as_deref(), Some("worker"));
        assert_eq!(named("dat|--config|x.toml|worker").as_deref(), Some("worker"));
        assert_eq!(named("dat|sandbox").as_deref(), Some("sandbox"));
        assert_eq!(named("dat|doctor"), None);
        assert_eq!(named("postgres: dat dat 127.0.0.1(4) idle").as_deref(), Some("postgres"));
        assert_eq!(named("/usr/lib/postgresql/15/bin/postgres|-D|data").as_deref(), Some("postgres"));
        assert_eq!(named("/usr/bin/redis-server 127.0.0.1:6379").as_deref(), Some("redis"));
        assert_eq!(named("/usr/lib/erlang/erts-13/bin/beam.smp|-W|w").as_deref(), Some("rabbitmq"));
        assert_eq!(named("bash"), None);
    }

    #[test]
    fn what_this_process_does_is_counted() {
        let mut processes = Processes::start().expect("a kernel that counts");
        let own = std::process::id().cast_signed();
        let key = |processes: &Processes| processes.ticks.keys().find(|(pid, _)| *pid == own).copied();
        // The test's own name is none that is counted; entered by hand, it is from then on.
        assert_eq!(key(&processes), None);
        let start = Process::myself().and_then(|me| me.stat()).expect("its own figures").starttime;
        processes.ticks.insert((own, start), ("loadtest".to_owned(), 0, 50));
        processes.groups.insert("loadtest".to_owned(), Group { count: 1, peak_bytes: 7 });
        let cost = processes.finish();
        let own = cost.iter().find(|one| one.name == "loadtest").expect("it was entered");
        assert!(own.cpu_s >= 0.05 && own.peak_bytes >= 7, "{own:?}");
    }
}

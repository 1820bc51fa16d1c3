//! `dat key new`: a pair of keys, for verdicts, people's approvals or checkpoints.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use dat_plan::signing::{SignatureFault, SigningKey};
use ring::rand::SystemRandom;

use crate::cli::failure::{Answer, Failure};
use crate::cli::output;

/// Make keys
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    New(New),
}

/// Make a pair of keys: the seed into a file of its own, the public half as settings on stdout
#[derive(Debug, Args)]
#[command(after_help = "\
Asks no server. The file is made for its owner alone and never overwritten; who has it signs as KEY_ID. What is printed \
goes, under [[verdict_key]], [[approver_key]] or [[checkpoint_key]], into the settings of whoever is to believe it. A \
person's key is named as the person, or begins with the name and a '/'.

Examples:
  dat key new ggp-2027 --seed ggp.seed
  dat key new ann/2027 --seed ann.seed --for approver")]
pub(crate) struct New {
    /// What signatures will name it by
    #[arg(value_name = "KEY_ID", value_parser = NonEmptyStringValueParser::new())]
    key_id: String,
    /// Where the seed is written
    #[arg(long, value_name = "FILE")]
    seed: PathBuf,
    /// What it will stand under: verdict, approver or checkpoint
    #[arg(long = "for", value_name = "USE", default_value = "verdict",
          value_parser = ["verdict", "approver", "checkpoint"])]
    usage: String,
}

impl Key {
    pub(crate) fn run(self) -> Answer {
        let Self::New(new) = self;
        new.run()
    }
}

impl New {
    fn run(self) -> Answer {
        let no_key = |fault: SignatureFault| Failure::Failed(format!("no key was made: {fault}"));
        let seed = SigningKey::new_seed(&SystemRandom::new()).map_err(no_key)?;
        let key = SigningKey::from_seed(&self.key_id, &seed).map_err(no_key)?;
        let path = self.seed.display();
        let not_written = |error| Failure::Failed(format!("the seed cannot be written to {path}: {error}"));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.seed)
            .map_err(not_written)?;
        writeln!(file, "{seed}").and_then(|()| file.sync_all()).map_err(not_written)?;
        output::line(format_args!(
            "[[{}_key]]\nkey_id = {:?}\npublic_key = \"{}\"",
            self.usage,
            self.key_id,
            key.public_key()
        ))?;
        output::note(format_args!(
            "to sign with it: [signing] key_id = {:?}, seed = \"file:{path}\"",
            self.key_id
        ));
        Ok(ExitCode::SUCCESS)
    }
}

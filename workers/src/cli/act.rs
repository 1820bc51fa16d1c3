//! What every act of an operator carries: who, and why. Both are in the event that the act leaves.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

/// Who acts, and why.
#[derive(Debug, Args)]
pub(crate) struct Act {
    /// Why; it is recorded
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) reason: String,
    /// Who acts; it is recorded
    #[arg(long, env = "USER", hide_env_values = true, default_value = "operator", value_name = "NAME")]
    pub(crate) actor: String,
}

//! `dat budget set | show`.

use std::process::ExitCode;

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};
use clap::{Args, Subcommand};
use dat_plan::amount::MAX;
use dat_plan::limits_document::{Limit, LimitPeriod};
use dat_plan::{Currency, check};
use dat_store::TenantLimit;
use serde_json::json;

use crate::cli::act::Act;
use crate::cli::failure::Answer;
use crate::cli::input::InputFile;
use crate::cli::output::{self, OutputFlag};
use crate::cli::plan_name::PlanName;
use crate::cli::session::Session;
use crate::cli::table::{number, table, text};

/// What tenants may spend, and what was spent
#[derive(Debug, Subcommand)]
pub(crate) enum Budget {
    Set(Set),
    Show(Show),
}

/// Set what a tenant may spend in a calendar period (UTC)
#[derive(Debug, Args)]
#[command(after_help = "\
The present period takes the new limit at once. A tenant without a limit is held by its plans' budgets alone. Amounts \
are in the smallest unit of the currency: 200 dollars are --amount 20000 --currency usd.

Examples:
  dat budget set --tenant acme --currency usd --period month --amount 5000000 --reason 'Q4 campaign'
  dat budget set --tenant acme --currency token --period day --amount 2000000 --reason 'model quota'
  dat budget set --file limits.json --reason 'plan 2027'

A file holds {\"format\": 1, \"limits\": [{\"tenant\", \"currency\", \"period\", \"amount\"}, …]}: all of them are set, or \
none.")]
pub(crate) struct Set {
    /// A document of several limits; - reads it from standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tenant", "currency", "period", "amount"])]
    file: Option<String>,
    /// Who pays
    #[arg(long, value_parser = NonEmptyStringValueParser::new(), required_unless_present = "file")]
    tenant: Option<String>,
    /// Of what: usd, eur, …, or token
    #[arg(long, value_parser = currency, required_unless_present = "file")]
    currency: Option<String>,
    /// The calendar period
    #[arg(long, required_unless_present = "file",
          value_parser = PossibleValuesParser::new(LimitPeriod::ALL.map(LimitPeriod::as_str)))]
    period: Option<String>,
    /// The most, in the smallest unit
    #[arg(long, value_parser = clap::value_parser!(i64).range(0..=MAX), required_unless_present = "file")]
    amount: Option<i64>,
    #[command(flatten)]
    act: Act,
}

/// Show limits and accounts
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dat budget show                    every tenant's limits and periods
  dat budget show --tenant acme
  dat budget show --plan PLAN")]
pub(crate) struct Show {
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<String>,
    /// The accounts of this plan instead
    #[arg(long, value_name = "PLAN")]
    plan: Option<PlanName>,
    #[command(flatten)]
    output: OutputFlag,
}

fn row(limit: Limit) -> TenantLimit {
    TenantLimit {
        tenant: limit.tenant,
        currency: limit.currency.as_str().to_owned(),
        period: limit.period.as_str().to_owned(),
        amount: limit.amount,
    }
}

fn currency(text: &str) -> Result<String, String> {
    if Currency::is_valid(text) {
        Ok(text.to_owned())
    } else {
        Err("a currency has 1 to 16 lowercase letters, digits, _ or -: usd, token".to_owned())
    }
}

impl Budget {
    pub(crate) async fn run(self, session: &Session) -> Answer {
        match self {
            Self::Set(set) => set.run(session).await,
            Self::Show(show) => show.run(session).await,
        }
    }
}

impl Set {
    async fn run(self, session: &Session) -> Answer {
        let limits = match (&self.file, self.tenant, self.currency, self.period, self.amount) {
            (None, Some(tenant), Some(currency), Some(period), Some(amount)) => {
                vec![TenantLimit { tenant, currency, period, amount }]
            }
            (file, ..) => {
                let file = InputFile::read(file.as_deref().unwrap_or("-"))?;
                match check::limits_document(&file.body) {
                    Ok(document) => document.limits.into_iter().map(row).collect(),
                    Err(faults) => {
                        file.say_faults(&faults)?;
                        return Ok(ExitCode::FAILURE);
                    }
                }
            }
        };
        let store = session.store().await?;
        store.set_limits(&limits, &self.act.actor, &self.act.reason, session.now()).await?;
        for TenantLimit { tenant, currency, period, amount } in limits {
            output::line(format_args!("tenant {tenant} may spend {amount} {currency} a {period}"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Show {
    async fn run(self, session: &Session) -> Answer {
        let store = session.store().await?;
        let mut accounts = store.accounts(self.tenant.as_deref(), self.plan.map(|plan| plan.id)).await?;
        if let Some(version) = self.plan.and_then(|plan| plan.version) {
            accounts.retain(|account| account.plan.is_some_and(|plan| plan.plan_version == version));
        }
        let mut limits = if self.plan.is_some() { Vec::new() } else { store.limits().await? };
        limits.retain(|limit| self.tenant.as_ref().is_none_or(|tenant| *tenant == limit.tenant));
        if self.output.is_json() {
            output::json(&json!({"limits": limits, "accounts": accounts}))?;
            return Ok(ExitCode::SUCCESS);
        }
        if self.plan.is_none() {
            let mut table = table(&["tenant", "currency", "limit", "every"]);
            for limit in &limits {
                let TenantLimit { tenant, currency, period, amount } = limit;
                table.add_row([text(tenant), text(currency), number(amount), text(period)]);
            }
            output::line(if limits.is_empty() {
                "no tenant has a limit".to_owned()
            } else {
                table.to_string()
            })?;
        }
        let mut table =
            table(&["account", "tenant", "currency", "limit", "spent", "reserved", "left", "overrun"]);
        for view in &accounts {
            let account = &view.account;
            let name = match (&view.plan, &view.cap, &view.period) {
                (Some(plan), ..) => plan.to_string(),
                (None, Some(key), Some((period, first_day))) => format!("{key}, {period} from {first_day}"),
                (None, _, Some((period, first_day))) => format!("{period} from {first_day}"),
                (None, _, None) => view.account_id.to_string(),
            };
            table.add_row([
                text(name),
                text(&view.tenant),
                text(&view.currency),
                number(account.limit),
                number(account.settled),
                number(account.reserved),
                number(account.limit - account.settled - account.reserved),
                number(account.overrun),
            ]);
        }
        output::line(if accounts.is_empty() {
            "nothing is on any account".to_owned()
        } else {
            table.to_string()
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

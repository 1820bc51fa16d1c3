//! What came of the plans: rows, effects, and what the outside systems received, side by side.

use std::collections::BTreeMap;
use std::fmt;

use comfy_table::{Table, presets};
use dat_plan::signing::Trust;
use dat_plan::{PlanKey, StepState};
use dat_store::{AuditReport, PlanView};
use dat_tests::{EndState, Fleet};

use crate::scenario::Scenario;

/// One plan, looked at from every side.
struct Line {
    scenario: Scenario,
    end: EndState,
    plan: PlanView,
    effects: usize,
    undos: usize,
    flo: i64,
    pte: usize,
}

/// The demo's last page.
pub(crate) struct Report {
    lines: Vec<Line>,
    audit: AuditReport,
    effects_once: bool,
}

impl Report {
    pub(crate) async fn gather(
        fleet: &Fleet,
        scenarios: &[Scenario],
        plans: &[PlanKey],
        ends: &[EndState],
    ) -> Self {
        // Waits until FLO and PTE have all that the log sends them, and until nothing is in flight.
        fleet.check_everything().await;
        let sandbox = fleet.sandbox();
        let booked: BTreeMap<PlanKey, i64> = sandbox
            .ledger()
            .await
            .into_iter()
            .map(|line| (PlanKey::new(line.plan_id, line.plan_version), line.net))
            .collect();
        let mut lines = Vec::new();
        let mut effects_once = true;
        for ((scenario, plan), end) in scenarios.iter().zip(plans).zip(ends) {
            let effects = sandbox.effects(*plan).await;
            effects_once &= effects.iter().all(|effect| effect.applied == 1);
            let undos = effects.iter().filter(|e| e.effect.undo_of.is_some()).count();
            lines.push(Line {
                scenario: scenario.clone(),
                end: end.clone(),
                plan: fleet.plan(*plan).await,
                effects: effects.len() - undos,
                undos,
                flo: booked.get(plan).copied().unwrap_or(0),
                pte: sandbox.pte_events(*plan).await.len(),
            });
        }
        let audit = fleet.store().audit(None, &Trust::default()).await.unwrap_or_default();
        Self { lines, audit, effects_once }
    }

    /// Whether everything was as it must be.
    pub(crate) fn holds(&self) -> bool {
        self.lines.iter().all(Line::holds) && self.audit_holds() && self.effects_once
    }

    fn audit_holds(&self) -> bool {
        self.audit.events > 0 && self.audit.faults.is_empty()
    }
}

impl Line {
    fn agrees(&self) -> bool {
        self.plan.summary.spent == self.flo && self.plan.summary.reserved == 0
    }

    fn ended_as_it_must(&self) -> bool {
        self.end.state == self.scenario.end
            && self.scenario.spent.is_none_or(|spent| spent == self.plan.summary.spent)
    }

    fn holds(&self) -> bool {
        self.agrees() && self.ended_as_it_must()
    }

    fn steps(&self) -> String {
        let count = |state| {
            self.plan.steps.iter().filter(|step| step.kind == "action" && step.state == state).count()
        };
        let states = [
            (StepState::Completed, "done"),
            (StepState::RolledBack, "undone"),
            (StepState::Failed, "failed"),
            (StepState::Skipped, "skipped"),
        ];
        let parts: Vec<String> = states
            .into_iter()
            .filter(|(state, _)| count(*state) > 0)
            .map(|(state, word)| format!("{} {word}", count(state)))
            .collect();
        if parts.is_empty() { "none ran".to_owned() } else { parts.join(", ") }
    }

    fn way(&self) -> String {
        let way: Vec<&str> = self.end.way().into_iter().map(dat_plan::PlanState::as_str).collect();
        way.join(" → ")
    }
}

fn mark(holds: bool) -> &'static str {
    if holds { "✓" } else { "✗" }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "  {} {:<26} {}", mark(line.ended_as_it_must()), line.scenario.file, line.way())?;
            if let Some(reason) = &line.plan.summary.reason {
                writeln!(f, "      because {reason}")?;
            }
        }
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
            "plan",
            "ended",
            "steps",
            "spent",
            "FLO nets",
            "agree",
            "effects in MUX",
            "undos",
            "PTE events",
        ]);
        for line in &self.lines {
            let summary = &line.plan.summary;
            table.add_row([
                summary.name.clone(),
                summary.state.to_string(),
                line.steps(),
                format!("{} {}", summary.spent, summary.currency),
                line.flo.to_string(),
                mark(line.agrees()).to_owned(),
                line.effects.to_string(),
                line.undos.to_string(),
                line.pte.to_string(),
            ]);
        }
        writeln!(f, "\n{table}\n")?;
        writeln!(f, "  {} every plan ended as it must", mark(self.lines.iter().all(Line::ended_as_it_must)))?;
        writeln!(
            f,
            "  {} DAT's ledger and FLO agree to the last unit",
            mark(self.lines.iter().all(Line::agrees))
        )?;
        writeln!(f, "  {} every effect happened exactly once", mark(self.effects_once))?;
        writeln!(
            f,
            "  {} the log of {} events in {} streams holds together (dat audit verify)",
            mark(self.audit_holds()),
            self.audit.events,
            self.audit.streams
        )?;
        for fault in &self.audit.faults {
            writeln!(f, "      {}: {}", fault.plan, fault.message)?;
        }
        Ok(())
    }
}

//! The pages. Whatever is shown is escaped by the templates: it was written by strangers.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Response};
use dat_plan::PlanState;
use dat_store::{AccountView, PlanSummary};
use maud::{DOCTYPE, Markup, html};

use super::Console;
use super::query::{Asked, PlansQuery, Wrong};
use super::reading::{self, Whole};
use super::timeline::{ROW, Timeline, WIDTH};
use crate::blocker::Blocker;
use crate::moments::{moment, span};

type Shared = State<Arc<Console>>;
type Page = Result<Html<String>, Response>;

/// How many rows a list on a plan's page has.
const ROWS: usize = 500;

pub(super) async fn plans(State(console): Shared, query: Asked<PlansQuery>) -> Page {
    let Query(query) = query.map_err(|rejection| refused(&rejection.into()))?;
    let found = reading::plans(&console, &query).await.map_err(|wrong| refused(&wrong))?;
    let now = console.clock.now();
    Ok(page(
        "Plans",
        &html! {
            form.filter action="/" method="get" {
                label { "Search " input type="search" name="search" value=(query.search) placeholder="name or id" autofocus; }
                label { "State "
                    select name="state" {
                        option value="" { "any" }
                        @for state in PlanState::ALL {
                            option value=(state.as_str()) selected[query.state == state.as_str()] { (state) }
                        }
                    }
                }
                label { "Tenant " input name="tenant" value=(query.tenant); }
                button { "Show" }
            }
            @if found.plans.is_empty() { p { "No plan is like that." } } @else {
                table {
                    thead { tr { th { "Plan" } th { "Tenant" } th { "State" } th { "Since" } th { "Steps" } th { "Spent" } th { "Why" } } }
                    tbody { @for plan in &found.plans { (line(plan, now)) } }
                }
            }
            @if let Some(next) = &found.next {
                p { a rel="next" href=(next_page(&query, next)) { "Older plans" } }
            }
        },
    ))
}

fn line(plan: &PlanSummary, now: chrono::DateTime<chrono::Utc>) -> Markup {
    html! {
        tr {
            td { a href=(address(plan)) { (plan.name) } br; small.id { (plan.plan) } }
            td { (plan.tenant) }
            td { span class={ "state " (plan.state) } { (plan.state) } }
            td title=(moment(plan.state_since)) { (span(now - plan.state_since)) }
            td.number { (plan.steps_done) "/" (plan.steps_total) }
            td { (meter(plan.spent, plan.reserved, plan.limit, &plan.currency)) }
            td.why { (plan.reason.as_deref().or(plan.progress.as_deref()).unwrap_or_default()) }
        }
    }
}

fn address(plan: &PlanSummary) -> String {
    format!("/plans/{}.{}", plan.plan.plan_id, plan.plan.plan_version)
}

fn next_page(query: &PlansQuery, next: &str) -> String {
    let mut pairs = form_urlencoded::Serializer::new(String::from("/?"));
    for (name, value) in [
        ("search", &query.search),
        ("state", &query.state),
        ("tenant", &query.tenant),
        ("after", &next.to_owned()),
    ] {
        if !value.is_empty() {
            pairs.append_pair(name, value);
        }
    }
    pairs.finish()
}

/// What is spent and reserved of a limit.
fn meter(spent: i64, reserved: i64, limit: i64, currency: &str) -> Markup {
    let share = |part: i64| {
        let whole = i128::from(limit.max(1));
        (i128::from(part.max(0)) * 100 / whole).clamp(0, 100)
    };
    let (spent_share, used_share) = (share(spent), share(spent.saturating_add(reserved)));
    html! {
        svg.meter viewBox="0 0 100 6" preserveAspectRatio="none" role="img"
            aria-label={ (used_share) " % used" } {
            rect.room width="100" height="6" {}
            rect.reserved width=(used_share) height="6" {}
            rect.spent width=(spent_share) height="6" {}
        }
        small { (spent) @if reserved > 0 { " + " (reserved) " reserved" } " of " (limit) " " (currency) }
    }
}

pub(super) async fn plan(State(console): Shared, Path(name): Path<String>) -> Page {
    let key = reading::named(&console, &name).await.map_err(|wrong| refused(&wrong))?;
    let whole = reading::whole(&console, key).await.map_err(|wrong| refused(&wrong))?;
    let blockers = reading::blockers(&console, &whole).await.map_err(|wrong| refused(&wrong))?;
    let now = console.clock.now();
    let Whole { view, needs, .. } = &whole;
    let plan = &view.summary;
    let timeline = Timeline::of(view, needs, now);
    let api = format!("/api/v1/plans/{}.{}", key.plan_id, key.plan_version);
    Ok(page(
        &plan.name,
        &html! {
            h1 { (plan.name) " " span.state.(plan.state) { (plan.state) } }
            p { code { (plan.plan) } " of " strong { (plan.tenant) } ", since " (moment(plan.state_since))
                " (" (span(now - plan.state_since)) "), " (plan.steps_done) " of " (plan.steps_total) " steps" }
            p { (meter(plan.spent, plan.reserved, plan.limit, &plan.currency)) }
            section {
                h2 { "Why" }
                ul.why { @for blocker in blockers.iter().take(ROWS) { (reason(blocker)) } }
            }
            section {
                h2 { "Its way" }
                div.replay data-events={ (api) "/events" } data-live={ (api) "/live" } data-sequence=(plan.sequence) {
                    label { "Replay " input type="range" min="0" max=(plan.sequence) value=(plan.sequence) disabled; }
                    output { "event " (plan.sequence) " of " (plan.sequence) }
                }
                (picture(&timeline))
            }
            section {
                h2 { "Steps and undos" }
                table {
                    thead { tr { th { "Step" } th { "Action" } th { "State" } th { "Attempts" } th { "Cost" } th { "Refund" } th { "What it says" } } }
                    tbody { @for unit in view.steps.iter().take(ROWS) {
                        tr {
                            td { (unit.key) @if unit.kind != "action" { " " em { "undo" } } }
                            td { (unit.connector) " " (unit.action) }
                            td { span class={ "state " (unit.state) } { (unit.state) } }
                            td.number { (unit.attempts) }
                            td.number { (unit.cost) }
                            td.number { (unit.refund) }
                            td.why { (unit.wait_reason.as_deref().or(unit.detail.as_deref()).unwrap_or_default()) }
                        }
                    } }
                }
                @if view.steps.len() > ROWS { p { "and " (view.steps.len() - ROWS) " more: " a href=(api) { "all of it as JSON" } } }
            }
            section {
                h2 { "Approval" }
                p { "Hash " code { (view.plan_hash) } @if let Some(decision) = &view.approval_decision { ", approved by decision " code { (decision) } }
                    @if let Some(end) = view.approval_expires_at { ", until " (moment(end)) }
                    @if let Some(submitter) = &view.submitter { ", submitted by " code { (submitter) } } }
                p { a href=(api) { "JSON" } " · " a href={ (api) "/events" } { "events" } }
            }
        },
    ))
}

fn reason(blocker: &Blocker) -> Markup {
    html! {
        li { strong { (blocker.about) } ": " (blocker.because)
            @if let Some(remedy) = &blocker.unblocked_by { br; small { "unblocked by: " (remedy) } } }
    }
}

/// How wide the names beside the bars are, in the units of the picture.
const NAMES: f64 = 260.0;

fn picture(timeline: &Timeline) -> Markup {
    let height = timeline.height();
    html! {
        div.scroll tabindex="0" role="region" aria-label="timeline" {
            svg.timeline viewBox={ "0 0 " (NAMES + WIDTH + 10.0) " " (height + ROW) } role="img" aria-label="what ran when" {
                @for [x1, y1, x2, y2] in &timeline.arrows {
                    path.arrow d={ "M" (NAMES + x1) " " (y1) " C" (NAMES + x1 + 12.0) " " (y1) " " (NAMES + x2 - 12.0) " " (y2) " " (NAMES + x2) " " (y2) } {}
                }
                @for row in &timeline.rows {
                    g.unit.(row.state) data-key=(row.key) data-undo=(row.is_undo) {
                        title { (row.about) }
                        text x=(NAMES - 8.0) y=(row.y + ROW - 5.0) text-anchor="end" {
                            @if row.is_undo { "undo " } (shortened(&row.key))
                        }
                        @if row.bars.is_empty() { text.none x=(NAMES) y=(row.y + ROW - 5.0) { (row.state) } }
                        @for bar in &row.bars {
                            rect class={ "bar " (bar.outcome) } x=(NAMES + bar.x) y=(row.y + 3.0) width=(bar.width) height=(ROW - 6.0) {
                                title { (bar.about) }
                            }
                        }
                    }
                }
                text.axis x=(NAMES) y=(height + ROW - 4.0) { (moment(timeline.from)) }
                text.axis x=(NAMES + WIDTH) y=(height + ROW - 4.0) text-anchor="end" { (moment(timeline.to)) }
            }
        }
    }
}

/// As much of a key as there is room for: its beginning and its end, which tells it from its neighbours.
fn shortened(key: &str) -> String {
    const BEGINNING: usize = 10;
    const END: usize = 24;
    let letters: Vec<char> = key.chars().collect();
    if letters.len() <= BEGINNING + END + 1 {
        return key.to_owned();
    }
    let (beginning, end) = (&letters[..BEGINNING], &letters[letters.len() - END..]);
    beginning.iter().chain(&['…']).chain(end).collect()
}

pub(super) async fn budgets(State(console): Shared) -> Page {
    let accounts = reading::budgets(&console).await.map_err(|wrong| refused(&wrong))?;
    Ok(page(
        "Budgets",
        &html! {
            h1 { "Budgets" }
            @if accounts.is_empty() { p { "No tenant has a limit, or nothing was spent yet: 'dat budget set' sets one." } } @else {
                table {
                    thead { tr { th { "Tenant" } th { "Period" } th { "Used" } th { "Overrun" } } }
                    tbody { @for account in &accounts { (account_line(account)) } }
                }
            }
        },
    ))
}

fn account_line(account: &AccountView) -> Markup {
    let held = &account.account;
    html! {
        tr {
            td { (account.tenant) @if let Some(cap) = &account.cap { br; small { (cap) } } }
            td { @if let Some((period, start)) = &account.period { (period) " from " (start) } }
            td { (meter(held.settled, held.reserved, held.limit, &account.currency)) }
            td.number { @if held.overrun > 0 { (held.overrun) } }
        }
    }
}

pub(super) async fn nothing() -> Response {
    let body = page("Nothing here", &html! { p { "There is nothing here. " a href="/" { "All plans" } } });
    (StatusCode::NOT_FOUND, body).into_response()
}

fn refused(wrong: &Wrong) -> Response {
    let body = page("Not now", &html! { p { (wrong.said()) } p { a href="/" { "All plans" } } });
    (wrong.status(), body).into_response()
}

fn page(title: &str, content: &Markup) -> Html<String> {
    let whole = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · DAT" }
                link rel="stylesheet" href="/style.css";
                script src="/script.js" defer {}
            }
            body {
                a.skip href="#content" { "To the content" }
                header { nav { strong { "DAT" } a href="/" { "Plans" } a href="/budgets" { "Budgets" } } }
                main #content { (content) }
            }
        }
    };
    Html(whole.into_string())
}

// One plan's page: follows what happens, and replays what happened. Without this script the page shows the same, as of
// when it was loaded.
"use strict";
const replay = document.querySelector(".replay");
if (replay) {
  const slider = replay.querySelector("input"), said = replay.querySelector("output");
  const last = Number(replay.dataset.sequence);
  const units = new Map();
  for (const unit of document.querySelectorAll("g.unit")) units.set(unit.dataset.undo + "/" + unit.dataset.key, unit);
  let events = null;

  const read = async () => {
    const all = [];
    for (let after = 0; after !== null; ) {
      const answer = await fetch(replay.dataset.events + "?limit=500&after=" + after);
      if (!answer.ok) throw new Error(answer.statusText);
      const page = await answer.json();
      all.push(...page.events);
      after = page.next;
    }
    return all;
  };
  const show = async () => {
    const until = Number(slider.value);
    if (events === null) events = await read();
    const states = new Map();
    let current = null;
    for (const event of events) {
      if (event.sequence > until) break;
      current = event;
      const [family, state] = event.kind.split(".");
      if ((family === "step" || family === "undo") && event.data.step) states.set((family === "undo") + "/" + event.data.step, state);
    }
    for (const [name, unit] of units) {
      const state = states.get(name);
      unit.classList.toggle("then-pending", until < last && state === undefined);
      unit.classList.toggle("then-running", until < last && state === "running");
    }
    const step = current && current.data.step ? " " + current.data.step : "";
    said.textContent = "event " + until + " of " + last + (current ? ": " + current.kind + step + ", " + current.at : "");
  };
  slider.disabled = false;
  slider.addEventListener("input", () => { show().catch((error) => { said.textContent = String(error); }); });

  const over = ["completed", "aborted", "rejected", "archived"];
  const state = document.querySelector("h1 .state");
  if (state && !over.includes(state.textContent)) {
    const source = new EventSource(replay.dataset.live + "?after=" + last);
    let waiting = null;
    source.addEventListener("dat", () => {
      // Something happened: the page is made anew, once for all that happens within a second.
      if (waiting === null) waiting = setTimeout(() => { source.close(); location.reload(); }, 1000);
    });
  }
}

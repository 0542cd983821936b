"use strict";
// Names, paths and texts come from other people: they are set as textContent, never as HTML.

const KEYS = "1234567890abcdefghijklmnopqrstuvwxyz";
const AHEAD = 3; // samples that are loaded before they are shown
const SMALL = 96; // pixels of an image whose pixels are shown as squares

const $ = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

let state = null;
let view = "suggested"; // or "doubtful": where labels go on
let past = null; // place in the history while the person looks back; null: not looking back
let current = null; // the sample on the page
let sent = 0; // changes: an answer to a question from before the last one is old
let isShown = false; // whether it can be seen: keys before that are not meant for it
let isBusy = false; // while a label is saved
const loaded = new Map(); // row -> promise of what the server shows for it

function request(path, body) {
  const options = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, cache: state.cache_id }),
  };
  return fetch(path, options || {});
}

async function load(row) {
  const response = await request(`sample/${row}`);
  if (!response.ok) return { error: await response.text() };
  const kind = response.headers.get("Content-Type") || "";
  if (kind.startsWith("text/")) return { text: await response.text() };
  return { url: URL.createObjectURL(await response.blob()) };
}

function loadOnce(row) {
  if (!loaded.has(row)) loaded.set(row, load(row).catch(() => ({ error: "The server does not answer." })));
  return loaded.get(row);
}

function forgetOthers(rows) {
  for (const [row, promise] of loaded) {
    if (rows.has(row)) continue;
    loaded.delete(row);
    promise.then((sample) => sample.url && URL.revokeObjectURL(sample.url));
  }
}

function choose() {
  if (past !== null) return state.history[past] || null;
  return (view === "doubtful" ? state.doubts : state.queue)[0] || null;
}

// Show the sample that comes next.
async function advance() {
  current = choose();
  isShown = false;
  render();
  const row = current && current.row;
  const next = (view === "doubtful" ? state.doubts : state.queue).slice(0, 1 + AHEAD).map((one) => one.row);
  forgetOthers(new Set([row, ...next]));
  for (const part of ["picture", "text", "message"]) $(part).hidden = true;
  if (!current) return say(nothingLeft());
  const sample = await loadOnce(row);
  if (!current || current.row !== row) return;
  if (sample.error) {
    loaded.delete(row);
    say(sample.error);
  } else if (sample.url) {
    $("picture").src = sample.url;
    $("picture").alt = current.path;
    await $("picture").decode().catch(() => {});
    if (!current || current.row !== row) return;
    $("picture").className = Math.max($("picture").naturalWidth, $("picture").naturalHeight) < SMALL ? "small" : "";
    $("picture").hidden = false;
  } else {
    $("text").textContent = sample.text;
    $("text").scrollTop = 0;
    $("text").hidden = false;
  }
  isShown = !sample.error;
  document.body.dataset.shown = row;
  next.forEach(loadOnce);
}

function say(message) {
  $("message").textContent = message;
  $("message").hidden = false;
}

function nothingLeft() {
  if (view === "doubtful") {
    if (state.assessing) return "Looking for doubtful labels…";
    return state.doubts_note || "No label to check yet.";
  }
  if (state.choosing) return `Choosing the next ${state.nouns}…`;
  if (state.error) return `No ${state.nouns} could be chosen: ${state.error}`;
  if (state.skipped) return `All other ${state.nouns} have a label. ${state.skipped} were skipped: see “Show skipped”.`;
  return `All ${state.nouns} have a label. The command below takes the labels into the cache.`;
}

function notify(message) {
  $("notice").textContent = message;
  $("notice").hidden = !message;
}

function render() {
  document.title = $("title").textContent = `Label the ${state.nouns} of ${state.cache}`;
  $("count").textContent = `${state.labeled} of ${state.total} labeled` + (state.skipped ? `, ${state.skipped} skipped` : "");
  $("bar").max = state.total;
  $("bar").value = state.labeled;
  $("table").textContent = state.table;
  $("command").textContent = state.command;
  renderAccuracy();
  $("suggested").setAttribute("aria-pressed", view === "suggested");
  $("doubtful").setAttribute("aria-pressed", view === "doubtful");
  $("doubtful").textContent = `Doubtful (${state.doubts.length})`;
  $("where").textContent = past === null ? "" : `looking back: ${past + 1} of the last ${state.history.length}`;
  renderClasses();
  const label = current ? current.label : "";
  $("reason").textContent = current ? current.reason : "";
  $("path").textContent = current ? current.path : "";
  $("skip").firstElementChild.textContent = past !== null ? "Forward" : label ? "Confirm" : "Skip";
  $("skip").disabled = !current;
  $("back").disabled = past === null ? !state.history.length : past === 0;
  $("remove").disabled = !label;
  $("again").disabled = !state.skipped;
}

function renderAccuracy() {
  const last = state.accuracy;
  const busy = state.assessing ? " Updating…" : "";
  $("figure").textContent = last ? `Accuracy ${percent(last.accuracy)} (95 % interval ${percent(last.low)} to ${percent(last.high)})` : "Accuracy";
  $("basis").textContent = (last
    ? `Cross-validated on ${last.held_out} labeled ${state.nouns}, head ${last.head}. They were chosen, not drawn, so others may be easier or harder.`
    : state.accuracy_note || state.error) + busy;
  drawCurve(state.curve);
}

function drawCurve(points) {
  $("curve").toggleAttribute("hidden", points.length < 2);
  $("curve").replaceChildren();
  if (points.length < 2) return;
  const first = points[0].labels;
  const range = Math.max(1, points[points.length - 1].labels - first);
  const x = (one) => 4 + (190 * (one.labels - first)) / range;
  const y = (share) => 56 - 52 * share;
  const upper = points.map((one) => `${x(one)},${y(one.high)}`);
  const lower = points.map((one) => `${x(one)},${y(one.low)}`).reverse();
  const end = points[points.length - 1];
  draw("line", { class: "axis", x1: 4, y1: 56, x2: 196, y2: 56 });
  draw("polygon", { class: "band", points: [...upper, ...lower].join(" ") });
  draw("polyline", { class: "line", points: points.map((one) => `${x(one)},${y(one.accuracy)}`).join(" ") });
  draw("circle", { class: "end", cx: x(end), cy: y(end.accuracy), r: 3.5 });
}

function draw(kind, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  $("curve").append(element);
}

function renderClasses() {
  const buttons = state.classes.map((one, number) => {
    const button = document.createElement("button");
    const [name, count] = [document.createElement("span"), document.createElement("span")];
    button.type = "button";
    name.textContent = one.name;
    count.textContent = one.count;
    count.className = "quiet";
    if (number < KEYS.length) {
      const key = document.createElement("kbd");
      key.textContent = KEYS[number];
      button.append(key);
    }
    button.append(name, count);
    button.disabled = !current;
    button.setAttribute("aria-pressed", Boolean(current) && current.label === one.name);
    button.addEventListener("click", () => label(one.name));
    return button;
  });
  $("classes").replaceChildren(...buttons);
  $("names").replaceChildren(...state.classes.map((one) => new Option("", one.name)));
  $("name").placeholder = state.classes.length ? "Other class" : "Name of the first class";
}

// Send a change, and show what comes next. Nothing is shown as done before the server has saved it.
async function send(path, body) {
  if (isBusy) return;
  isBusy = true;
  sent += 1;
  try {
    const response = await request(path, body);
    const answer = await response.json();
    notify(response.ok ? "" : answer.error);
    if (answer.reload) location.reload();
    if (answer.state) state = answer.state;
    if (response.ok || response.status === 409) {
      past = null;
      await advance();
    }
  } catch (error) {
    notify("The server does not answer, so this was not saved. Is it still running?");
  } finally {
    isBusy = false;
  }
}

function label(name) {
  if (current && isShown) send("label", { row: current.row, label: name, before: current.label });
}

function skip() {
  if (!current || isBusy) return;
  if (past !== null) look(past + 1);
  else if (isShown || !current.label) send("skip", { row: current.row, before: current.label });
}

function look(place) {
  if (isBusy) return;
  past = place < state.history.length ? Math.max(0, place) : null;
  notify("");
  advance();
}

function back() {
  if (!$("back").disabled) look(past === null ? state.history.length - 1 : past - 1);
}

function show(other) {
  view = other;
  look(state.history.length);
}

function remove() {
  if (current && current.label && isShown) send("label", { row: current.row, label: "", before: current.label });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !state) return;
  const inName = document.activeElement === $("name");
  if (inName) {
    if (event.key === "Escape") $("name").blur();
    return;
  }
  const onButton = document.activeElement.tagName === "BUTTON" && document.activeElement.matches(":focus-visible");
  if (onButton && (event.key === "Enter" || event.key === " ")) return; // it presses the button
  const number = KEYS.indexOf(event.key.toLowerCase());
  const actions = {
    " ": skip, ArrowRight: skip, Backspace: back, ArrowLeft: back, Delete: remove, Enter: () => $("name").focus(),
    ArrowDown: () => $("text").scrollBy(0, 80), ArrowUp: () => $("text").scrollBy(0, -80),
  };
  const isClass = event.key.length === 1 && number >= 0 && number < state.classes.length;
  const act = isClass ? () => label(state.classes[number].name) : actions[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

$("new").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("name").value.trim();
  $("name").value = "";
  $("name").blur();
  if (name) label(name);
});
const clicks = {
  suggested: () => show("suggested"), doubtful: () => show("doubtful"), skip, back, remove,
  again: () => send("skipped", {}), copy: () => navigator.clipboard.writeText(state.command),
};
for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
document.addEventListener("click", (event) => {
  if (event.detail && event.target.closest("button")) document.activeElement.blur(); // of a mouse: keys go to the page again
});

// Other tabs, and what is computed in the background.
async function poll() {
  try {
    if (!isBusy) {
      const before = sent;
      const response = await request("state");
      const fresh = await response.json();
      if (state && fresh.cache_id !== state.cache_id) location.reload();
      if (!isBusy && sent === before) {
        const isFirst = !state;
        state = fresh;
        const same = [...state.queue, ...state.doubts, ...state.history].find((one) => current && one.row === current.row);
        const isOver = !current || (past === null && view === "suggested" && !state.queue.some((one) => one.row === current.row));
        if (isFirst || (isOver && choose())) await advance();
        else {
          if (same && same.label !== current.label) current = { ...current, label: same.label };
          render();
          if (!current) say(nothingLeft());
        }
      }
    }
  } catch (error) {
    if (state) notify("The server does not answer. Is it still running? Labels up to here are saved.");
  }
  setTimeout(poll, state && (state.choosing || state.assessing) ? 400 : 2000);
}
poll();

// The inspector: draws the chosen token from the run's data (props.value), follows mouse and keys, and tells the
// server which token, layer or chunk was chosen. Runs as js_on_load of a gr.HTML, which gives
// `element, props, trigger, watch`. All text enters the page as text nodes, never as HTML.

const state = { step: null, layer: null, head: null, chunk: null, locked: false, measured: null };
const reduceMotion = matchMedia("(prefers-reduced-motion: reduce)").matches;
const chosenStyle = document.head.appendChild(document.createElement("style"));
const FOLLOWING = ["layers", "grid", "heads", "ranking", "scores", "gates"]; // charts that follow the chosen token
const STEP_CHARTS = ["lm-timeline", "lm-effects", "lm-running"];
const CHUNK_CHARTS = ["lm-layers", "lm-timeline", "lm-heads", "lm-ranking"];
let timer = null;
let told = 0;
let known = { step: null, layer: null, head: null }; // what the server was told: pointing only looks, and then returns
let pointing = false;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") Object.entries(value).forEach(([key, v]) => node.style.setProperty(key, v));
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const run = () => (props.value && props.value.steps ? props.value : null);
const stepData = (step) => run()?.steps.find((item) => item.step === step) ?? null;
const visible = (text) => (text.trim() ? text.replaceAll("\n", "↵") : text.replaceAll("\n", "↵").replaceAll(" ", "␣") || "∅");
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 2 : 1)} %`;

function emptyState() {
  return make("div", { class: "lm-inspector-empty" },
    make("h2", {}, "Inspector"),
    make("p", {}, "Generate a text, then point at a token: here you see what every memory layer looked up to write it."),
    make("p", { class: "lm-quiet" }, "Click locks a token · ← → step · Escape frees"));
}

function pendingState(token) {
  return make("div", { class: "lm-inspector-empty" },
    make("h2", {}, `token ${token.dataset.step} «${visible(token.textContent)}»`),
    make("p", {}, token.title),
    make("p", { class: "lm-quiet" }, document.querySelector(".lm-panel .lm-caret")
      ? "What it looked up is shown as soon as the text has ended or is stopped."
      : Number(token.closest(".lm-panel").dataset.run) === run()?.run
      ? "The text with memory has ended before this place: there is no such token to inspect."
      : "This text is of an earlier run: the inspector shows the last one. Make it again to inspect it."));
}

function header(item) {
  const steps = run().steps;
  const lock = make("button", {
    type: "button", class: "lm-lock", id: "lm-lock", "aria-pressed": String(state.locked), onclick: () => toggleLock(),
    title: state.locked ? "Free (Escape)" : "Lock this token (click)",
  }, state.locked ? "locked" : "lock");
  return make("header", { class: "lm-token-head" },
    make("h2", { "aria-live": "polite" }, make("span", { class: "lm-quiet" }, `token ${item.step} `), make("q", {}, visible(item.token))),
    make("span", { class: "lm-steppers" },
      make("button", { type: "button", "aria-label": "Previous token", disabled: item.step === steps[0].step ? "" : null, onclick: () => move(-1) }, "‹"),
      make("button", { type: "button", "aria-label": "Next token", disabled: item.step === steps.at(-1).step ? "" : null, onclick: () => move(1) }, "›"),
      lock));
}

function off(label, kind, values, title) {
  return make("button", {
    type: "button", class: "lm-off", title, "aria-label": title, "aria-pressed": String(isOff(kind, values)),
    "data-kind": kind, "data-values": JSON.stringify(values),
    onclick: () => { tellServer(true); trigger("apply", { kind, values, chosen: known }); },
  }, label);
}

// What is off, as the server says it in the bar.
function isOff(kind, values) {
  const all = JSON.parse(document.querySelector("#lm-switches [data-off]")?.dataset.off ?? "{}")[kind] ?? [];
  const keys = new Set(all.map((value) => JSON.stringify(value)));
  return values.length > 0 && values.every((value) => keys.has(JSON.stringify(value)));
}

function markOff() {
  for (const button of element.querySelectorAll(".lm-off[data-kind]")) {
    const pressed = String(isOff(button.dataset.kind, JSON.parse(button.dataset.values)));
    if (button.getAttribute("aria-pressed") !== pressed) button.setAttribute("aria-pressed", pressed);
  }
}

function numbers(item) {
  const predicted = item.effect !== null;
  return make("div", { class: "lm-numbers" },
    make("p", { class: `lm-sentence ${item.tone}` }, item.sentence),
    !predicted ? null : make("p", { class: "lm-quiet" }, `p ${item.p} with memory · ${item.p_empty} without · effect ${item.effect >= 0 ? "+" : "−"}${Math.abs(item.effect).toFixed(2)} nats`));
}

function layerTabs(item) {
  const tabs = item.layers.map((entry) => make("button", {
    type: "button", role: "tab", id: `lm-layer-${entry.layer}`, "aria-selected": String(entry.layer === state.layer),
    tabindex: entry.layer === state.layer ? "0" : "-1", onclick: () => choose(state.step, entry.layer, true),
  }, `layer ${entry.layer}`, make("span", { class: "lm-gate", "aria-hidden": "true" }, make("i", { style: { width: `${100 * entry.gate}%` } })),
  make("small", {}, `${run().share} ${percent(entry.gate)}`)));
  return make("div", {},
    make("div", { class: "lm-layers", role: "tablist", "aria-label": "Memory layers" }, ...tabs), switches());
}

function switches() {
  if (state.layer === null || run().kind === "looked up") return null;
  const head = state.head === null ? null
    : off(`head ${state.layer}·${state.head} off`, "heads", [[state.layer, state.head]], `Switch head ${state.head} of layer ${state.layer} off or on`);
  return make("p", { class: "lm-offs" }, make("span", { class: "lm-quiet" }, "what if: "),
    off(`layer ${state.layer} off`, "layers", [state.layer], `Switch layer ${state.layer} off or on`), head,
    state.head === null ? null : make("button", { type: "button", class: "lm-off", onclick: () => choose(state.step, state.layer, true, null) }, "all heads again"));
}

// What the token would have lost without this passage, once the server has measured it.
function worth(index) {
  const found = state.measured;
  if (!found || found.run !== run().run || found.step !== state.step) return null;
  const nats = found.effects[state.layer]?.[index];
  if (nats === undefined || nats === null) return null;
  const sign = nats >= 0 ? "−" : "+";
  return make("span", { class: `lm-worth${nats >= 1 ? " raised" : nats <= -1 ? " lowered" : ""}`, title: "change of this token's log-probability when the model runs again without this passage" },
    `without it ${sign}${Math.abs(nats).toFixed(2)} nats`);
}

function passage(entry, index) {
  const source = run().documents[entry.document];
  const parts = entry.parts.map(([text, chunk, strength]) => chunk === undefined ? text : make("mark", {
    tabindex: "0", role: "button", "data-chunk": chunk, "aria-label": `Chunk ${chunk}: ${text}`,
    style: { "--strength": `${Math.round(18 + 57 * Math.sqrt(strength))}%` }, title: `chunk #${chunk} · click to see its page`,
  }, text));
  return make("li", { class: "lm-passage", style: { "--hue": source.colour } },
    make("div", { class: "lm-passage-head" },
      make("span", { class: "lm-dot", style: { background: source.colour } }), make("b", {}, source.name),
      make("span", { class: "lm-weight" }, `weight ${percent(entry.weight)}`),
      worth(index),
      make("span", { class: "lm-quiet" }, `best score ${entry.score.toFixed(2)} · ${entry.heads} head${entry.heads === 1 ? "" : "s"}`),
      run().kind === "looked up" || entry.document < 0 ? null : make("span", { class: "lm-offs" },
        off("off", "chunks", entry.parts.filter((part) => part.length > 1).map((part) => part[1]), `Switch passage ${index + 1}, of ${source.name}, off or on`),
        off("document off", "documents", [entry.document], `Switch ${source.name} off or on (passage ${index + 1})`))),
    make("p", {}, ...parts));
}

function draw() {
  const item = stepData(state.step);
  if (!run()) element.replaceChildren(emptyState());
  if (!item) return;
  const layer = item.layers.find((entry) => entry.layer === state.layer) ?? item.layers.at(-1);
  const body = !layer ? [make("p", { class: "lm-quiet" }, "No memory layer was asked.")]
    : layer.passages.length ? [make("ol", { class: "lm-passages" }, ...layer.passages.map(passage))]
    : [make("p", { class: "lm-quiet" }, "Nothing was retrieved: memory was empty, or nothing stands before this place.")];
  const focused = element.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") ?? document.activeElement.id : null;
  const method = run().method ? [make("p", {}, make("span", { class: "lm-method-badge" }, run().method))] : [];
  element.replaceChildren(header(item), ...method, numbers(item), layerTabs(item), ...body,
    make("p", { class: "lm-quiet lm-fine" }, `Weight is attention times ${run().share}, averaged over the layer's heads: where it looked. What that changed is another question: effect, and “without it”, are measured by running the model again.`));
  if (focused) [...element.querySelectorAll("[aria-label], [id]")].find((node) => node.getAttribute("aria-label") === focused || node.id === focused)?.focus();
}

function markChosen() {
  const outline = "outline: 2px solid var(--lm-focus); outline-offset: 1px; border-radius: 3px;";
  const token = run() && state.step !== null ? `.lm-panel[data-run="${run().run}"] [data-step="${state.step}"] { ${outline} }` : "";
  const chunk = state.chunk === null ? "" : `mark[data-chunk="${state.chunk}"] { ${outline.replace("--lm-focus", "--lm-danger")} }`;
  chosenStyle.textContent = `${token} ${chunk}`;
}

function choose(step, layer, tell, head = state.head) {
  if (step === null || !stepData(step)) return;
  state.head = layer !== null && layer !== state.layer && head === state.head ? null : head;
  state.step = step;
  if (layer !== null) state.layer = layer;
  markChosen();
  draw();
  markCharts();
  if (tell) tellServer();
}

// At once for a single choice; while keys repeat, at most every 150 ms and once more at the end.
function tellServer(onlyIfOther = false) {
  const { step, layer, head } = state;
  if (onlyIfOther && step === known.step && layer === known.layer && head === known.head) return;
  known = { step, layer, head };
  clearTimeout(timer);
  const wait = Math.max(0, told + 150 - performance.now());
  timer = setTimeout(() => {
    told = performance.now();
    const chart = FOLLOWING.find((name) => document.getElementById(`lm-${name}`)?.offsetParent) ?? null;
    trigger("select", { ...known, chart });
  }, wait);
}

function move(by) {
  const steps = run()?.steps.map((item) => item.step) ?? [];
  const next = steps[steps.indexOf(state.step) + by];
  if (next === undefined) return;
  choose(next, state.layer, true);
  document.querySelector(`.lm-panel[data-run="${run().run}"] [data-step="${next}"]`)
    ?.scrollIntoView({ block: "nearest", behavior: reduceMotion ? "auto" : "smooth" });
}

function toggleLock(on = !state.locked) {
  state.locked = on;
  draw();
  if (on) tellServer(true);
}

// Pointing at a token only looks at it: what the server knows comes back, so that all views are of one token.
function lookBack() {
  pointing = false;
  if (state.locked || !run()) return;
  if (stepData(known.step)) choose(known.step, known.layer, false, known.head);
  else draw();
}

function otherLayer(by) {
  const layers = stepData(state.step)?.layers.map((entry) => entry.layer) ?? [];
  const next = layers[layers.indexOf(state.layer) + by];
  if (next === undefined) return;
  choose(state.step, next, true);
  document.getElementById(`lm-layer-${next}`)?.focus();
}

function onToken(event, lock) {
  const token = event.target.closest?.(".lm-panel .lm-token");
  if (!token) return;
  if (state.locked && !lock) return;
  const step = Number(token.dataset.step);
  pointing = !lock;
  if (!stepData(step) || Number(token.closest(".lm-panel").dataset.run) !== run().run) {
    element.replaceChildren(pendingState(token));
    return;
  }
  if (lock) state.locked = true;
  choose(step, state.layer, lock);
}

document.addEventListener("mouseover", (event) => {
  if (pointing && !event.target.closest?.(".lm-panel")) lookBack();
  else onToken(event, false);
});
document.addEventListener("click", (event) => {
  onToken(event, true);
  const chunk = event.target.closest?.("[data-chunk]");
  if (chunk) {
    chooseChunk(Number(chunk.dataset.chunk));
    trigger("click", { chunk: Number(chunk.dataset.chunk) });
  }
  const goto = event.target.closest?.("[data-goto]");
  if (goto) choose(Number(goto.dataset.goto), Number(goto.dataset.layer), true);
});
document.addEventListener("keydown", (event) => {
  const here = event.target.closest?.(".lm-panel, #lm-inspector");
  if (event.key === "Escape" && state.chunk !== null) chooseChunk(null);
  if (event.key === "Escape" && state.locked) toggleLock(false);
  if (!here) return;
  const mark = event.target.closest("[data-chunk]");
  const tab = event.target.closest(".lm-layers [role=tab]");
  if (tab && (event.key === "ArrowLeft" || event.key === "ArrowRight")) otherLayer(event.key === "ArrowLeft" ? -1 : 1);
  else if (mark && (event.key === "Enter" || event.key === " ")) mark.click();
  else if (event.key === "ArrowLeft") move(-1);
  else if (event.key === "ArrowRight") move(1);
  else if (event.key === "Enter" && event.target.matches(".lm-panel")) toggleLock(true);
  else return;
  event.preventDefault();
});

// gr.Plot has no click event: bind Plotly's own, and mark the chosen token in the charts of the whole run.
const first = (value) => value?.[0] ?? value; // customdata: a number, a list or a typed array

// Where a chunk stands in a chart, as [x, y]: a heatmap's customdata has rows of cells, a scatter's a row for each point.
function placesOf(plot, chunk) {
  const places = [];
  for (const trace of plot._fullData ?? []) {
    const rows = Array.from(trace.customdata ?? []);
    rows.forEach((row, i) => {
      if (trace.type !== "heatmap") { if (first(row) === chunk) places.push([trace.x[i], trace.y[i]]); }
      else Array.from(row).forEach((cell, j) => { if (first(cell) === chunk) places.push([trace.x[j], trace.y[i]]); });
    });
  }
  return places;
}

// Lines at the chosen token and at the chosen chunk.
function linesOf(plot, kind) {
  const shapes = [];
  const add = (places, line, label) => shapes.push({ type: "line", line, ...places, ...(label && { label }) });
  const across = (x, line, label) => add({ x0: x, x1: x, y0: 0, y1: 1, yref: "paper" }, line, label);
  const along = (y, line, label) => add({ y0: y, y1: y, x0: 0, x1: 1, xref: "paper" }, line, label);
  if (STEP_CHARTS.includes(kind) && state.step !== null) across(state.step, { color: "#808691", width: 1.5, dash: "dot" });
  if (state.chunk === null || !CHUNK_CHARTS.includes(kind)) return shapes;
  const line = { color: "#D24B3E", width: 1.5 };
  const label = { text: `chosen: #${state.chunk}`, textposition: "end", textangle: 0, font: { color: line.color, size: 10 } };
  const places = placesOf(plot, state.chunk);
  if (kind !== "lm-timeline") new Set(places.map(([x]) => x)).forEach((x) => across(x, line, label));
  if (kind === "lm-timeline") new Set(places.map(([, y]) => y)).forEach((y) => along(y, line, label));
  if (kind === "lm-ranking") new Set(places.map(([, y]) => y)).forEach((y) => along(y, line));
  return shapes;
}

function markChart(plot) {
  const kind = plot.closest(".lm-chart")?.id;
  if (![...STEP_CHARTS, ...CHUNK_CHARTS].includes(kind) || !run()) return;
  if (!window.Plotly || !plot._fullLayout?.xaxis || !plot.data?.length) return;
  const shapes = linesOf(plot, kind);
  const wanted = JSON.stringify(shapes);
  if (plot.lmLines === wanted && (plot.layout.shapes?.length ?? 0) === shapes.length) return;
  plot.lmLines = wanted;
  window.Plotly.relayout(plot, { shapes });
}

function markCharts() {
  document.querySelectorAll(".lm-chart .js-plotly-plot").forEach(markChart);
}

// A chunk that is chosen anywhere is marked everywhere: in the passages, the source and the charts.
function chooseChunk(chunk) {
  state.chunk = chunk;
  markChosen();
  markCharts();
}

function onChartClick(plot, point) {
  const kind = plot.closest(".lm-chart").id;
  if (kind === "lm-effects" || kind === "lm-running") choose(point.x, state.layer, true);
  if (kind === "lm-grid") choose(state.step, point.customdata[0], true, point.customdata[1]);
  if (!["lm-layers", "lm-timeline", "lm-heads", "lm-ranking"].includes(kind)) return;
  const chunk = first(point.customdata);
  if (Number.isInteger(chunk) && chunk !== -1) {
    chooseChunk(chunk);
    trigger("click", { chunk });
  }
  if (kind === "lm-timeline") choose(point.x, point.customdata[1], true);
}

function bindCharts() {
  for (const plot of document.querySelectorAll(".lm-chart .js-plotly-plot")) {
    if (plot.lmBound || !plot.on) continue;
    plot.lmBound = true;
    plot.on("plotly_click", (event) => onChartClick(plot, event.points[0]));
    plot.on("plotly_afterplot", () => markChart(plot));
    markChart(plot);
  }
}
new MutationObserver(() => { bindCharts(); markOff(); }).observe(document.body, { childList: true, subtree: true });

document.addEventListener("lm-measured", (event) => {
  state.measured = event.detail;
  if (run()) draw();
});

watch("value", () => {
  state.locked = false;
  state.head = null;
  state.chunk = null;
  if (!run()) return draw();
  known = { step: run().focus, layer: run().layer, head: null };
  choose(run().focus, run().layer, false);
});
draw();

// A phone begins with the work, not with the sidebar over it.
if (innerWidth < 768) document.querySelector("#lm-memory .toggle-button, .sidebar.open .toggle-button")?.click();

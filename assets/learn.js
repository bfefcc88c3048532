// The lesson and the drawing. Runs as js_on_load of a gr.HTML (see app/learn_tab.py), which gives
// `element, props, trigger, watch`. Buttons say what they want: `data-do` an action, `data-pick` a token of the sentence,
// `data-part` a part of the drawing. The server answers with props.value: selectors of
// what gets the {focus} and of what is to be brought into sight, {look}.

const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
const chosenPart = document.head.appendChild(document.createElement("style"));

function lookAt(selector) {
  const node = document.querySelector(selector);
  if (!node) return;
  const box = node.getBoundingClientRect();
  if (box.top < 0 || box.top > innerHeight - 300) node.scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
}

function flash(selector) {
  const node = document.querySelector(selector);
  if (!node) return;
  node.classList.add("lm-flash");
  setTimeout(() => node.classList.remove("lm-flash"), 2000);
}

function showMemory() {
  if (!document.querySelector("#lm-memory.open")) document.querySelector("#lm-memory .toggle-button")?.click();
  setTimeout(() => { lookAt("#lm-documents"); flash("#lm-documents"); flash("#lm-gauge"); }, 50);
}

function act(action) {
  const [kind, name] = action.split("-");
  if (action === "view-memory") return showMemory();
  if (kind === "generate") return trigger("submit", { action });
  if (kind === "lesson") return trigger("select", { step: Number(name) });
  trigger("input", { action });
  if (kind === "chart") lookAt("#lm-look .lm-charts");
}

function choosePart(part) {
  chosenPart.textContent = `#lm-part-${part} { display: block !important; } #lm-learn .lm-part-hint { display: none; }`
    + `#lm-learn [data-part="${part}"] rect, #lm-learn [data-part="${part}"] circle { stroke: var(--lm-focus); stroke-width: 2; }`
    + `#lm-learn [data-part="${part}"] path, #lm-learn [data-part="${part}"] line { stroke: var(--lm-focus); }`;
}

document.addEventListener("click", (event) => {
  const target = event.target.closest?.("[data-do], [data-pick], [data-part]");
  if (!target?.closest("#lm-learn")) return;
  if (target.dataset.part) {
    event.preventDefault();
    choosePart(target.dataset.part);
  } else if (target.dataset.do) {
    act(target.dataset.do);
  } else {
    const live = document.querySelector("#lm-lesson-live [data-lesson]");
    live.setAttribute("aria-busy", "true");
    const pick = Number(target.dataset.pick);
    trigger("click", { step: Number(live.dataset.lesson), pick: Number.isNaN(pick) ? target.dataset.pick : pick });
  }
});

// The page may need a moment until what is to be focused stands there.
function soon(find, then, tries = 20) {
  const node = find();
  if (node) then(node);
  else if (tries) setTimeout(() => soon(find, then, tries - 1), 50);
}

watch("value", () => {
  const { focus, look } = props.value ?? {};
  if (look) lookAt(look);
  if (focus) setTimeout(() => soon(() => document.querySelector(focus), (node) => node.focus({ preventScroll: true })), 0);
});

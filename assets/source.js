// The source view's controls: asks the server for another page, grouping or scope, says the weight of the place that is
// pointed at, and keeps focus and scrolling where they were when the view is drawn anew. Runs as js_on_load of a
// gr.HTML, which gives `element, trigger, watch`. Its HTML comes escaped from app/source_markup.py.

const WHOLE = new Set(["hit", "document", "leave"]); // actions whose value is one number
let shown = null; // which page, and which place on it, has been scrolled to
let tableOpen = false;

const find = (selector) => element.querySelector(selector);
const marks = () => [...element.querySelectorAll("#lm-source-page mark")];
const ask = (action, value) => trigger("select", { action, value });

// The page shall begin at a character; the window moves at once, so that repeated keys need not wait for the server.
function turnTo(start) {
  const map = find("#lm-source-map");
  if (!map) return;
  const length = Number(map.ariaValueMax);
  const at = Math.round(Math.min(Math.max(0, start), Math.max(0, length - map.dataset.page)));
  map.ariaValueNow = String(at);
  find(".lm-source-window").style.left = `${(100 * at) / length}%`;
  ask("page", [Number(map.dataset.document), at]);
}

function onMapKey(map, key) {
  const [page, now, length] = [Number(map.dataset.page), Number(map.ariaValueNow), Number(map.ariaValueMax)];
  const to = {
    ArrowLeft: now - page, ArrowUp: now - page, ArrowRight: now + page, ArrowDown: now + page,
    PageUp: now - 10 * page, PageDown: now + 10 * page, Home: 0, End: length,
  }[key];
  if (to !== undefined) turnTo(to);
  return to !== undefined;
}

function onMarkKey(mark, key) {
  const all = marks();
  const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[key];
  if (by) all[all.indexOf(mark) + by]?.focus();
  else if (key === "Enter" || key === " ") mark.click(); // the inspector hears of every click on a chunk
  else return false;
  return true;
}

function say(target) {
  const mark = target.closest?.("#lm-source-page mark");
  if (!mark) return;
  const words = mark.textContent.replaceAll("\n", "↵");
  find("#lm-source-said").textContent = `${mark.dataset.weight} of a head's attention · chunk #${mark.dataset.chunk} · «${words}»`;
}

// One mark can be reached with Tab, the others from it with the arrow keys.
function rove(mark) {
  for (const other of marks()) other.tabIndex = -1;
  mark.tabIndex = 0;
}

function scrollToPlace() {
  const page = find("#lm-source-page");
  if (!page?.clientHeight) return; // out of sight: done when it comes into sight
  const here = page.querySelector(".lm-here");
  const place = `${page.dataset.at} ${here ? marks().indexOf(here) : ""}`;
  const top = (node) => node.getBoundingClientRect().top;
  if (place === shown?.place) page.scrollTop = shown.top;
  else page.scrollTop = here ? page.scrollTop + top(here) - top(page) - page.clientHeight / 3 : 0;
  shown = { place, top: page.scrollTop };
}

function afterDrawing() {
  const reachable = find("#lm-source-page .lm-here") ?? marks()[0];
  if (reachable) reachable.tabIndex = 0;
  const table = find("#lm-source-table");
  if (table) table.open = tableOpen;
  find("#lm-source-page")?.addEventListener("scroll", (event) => { if (shown) shown.top = event.target.scrollTop; });
  scrollToPlace();
}

element.addEventListener("click", (event) => {
  const map = event.target.closest("#lm-source-map");
  const control = event.target.closest("button[data-source]");
  if (map) {
    const box = map.getBoundingClientRect();
    turnTo(((event.clientX - box.left) / box.width) * Number(map.ariaValueMax) - map.dataset.page / 2);
  } else if (control?.dataset.source === "page") turnTo(Number(control.dataset.value));
  else if (control && WHOLE.has(control.dataset.source)) ask(control.dataset.source, Number(control.dataset.value));
});
element.addEventListener("change", (event) => {
  const { source } = event.target.dataset;
  if (source === "stay") ask(source, event.target.checked);
  else if (source) ask(source, event.target.value);
});
element.addEventListener("keydown", (event) => {
  const map = event.target.closest("#lm-source-map");
  const mark = event.target.closest("#lm-source-page mark");
  if ((map && onMapKey(map, event.key)) || (mark && onMarkKey(mark, event.key))) event.preventDefault();
});
element.addEventListener("mouseover", (event) => say(event.target));
element.addEventListener("focusin", (event) => {
  say(event.target);
  if (event.target.matches("#lm-source-page mark")) rove(event.target);
});
element.addEventListener("toggle", (event) => {
  if (event.target.id === "lm-source-table" && event.target.isConnected) tableOpen = event.target.open;
}, true);

// What has the focus is replaced when the view is drawn anew: remembered by its id, or as the mark at the place.
let focused = null;
element.addEventListener("focusin", (event) => {
  focused = event.target.closest("#lm-source-page mark") ? "lm-source-page" : event.target.id || null;
});
document.addEventListener("focusin", (event) => { if (!element.contains(event.target)) focused = null; });

watch("value", () => {
  afterDrawing();
  if (!focused || element.contains(document.activeElement)) return;
  const next = document.getElementById(focused);
  const to = focused === "lm-source-page" ? find("#lm-source-page mark[tabindex='0']") ?? next : next;
  to?.focus({ preventScroll: true });
});
new ResizeObserver(scrollToPlace).observe(element); // a tab that comes into sight
afterDrawing();

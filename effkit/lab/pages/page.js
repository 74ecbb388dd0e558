// The page's own script: unpacks what the page holds, mounts the cards on it, and follows light, dark and paper.
// A card cannot tell the page from a notebook without a kernel: its model answers get, set, on, off and save_changes.
const TEXTS = {
  dark: { en: "Dark" }, light: { en: "Light" }, hideCode: { en: "Hide code" }, showCode: { en: "Show code" },
  old: { en: "This browser cannot unpack the figures of this page; the tables hold the same numbers. A browser of 2023 or later shows both." },
  broken: { en: "Some figures could not be drawn; their tables hold the same numbers." },
};
const text = (key) => TEXTS[key][document.documentElement.lang] ?? TEXTS[key].en;
const root = document.documentElement;

// --- what the page holds: base64 of gzip of JSON ---
const binary = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
async function unpacked(id) {
  const stream = new Blob([binary(document.getElementById(id).textContent.trim())]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}
const revive = (key, value) => (value && typeof value === "object" && "$bytes" in value ? new DataView(binary(value.$bytes).buffer) : value);

// one answer out of columns of [path, its value in each answer]
function answerAt(columns, at) {
  const answer = {};
  for (const [path, values] of columns) {
    if (values[at] === "$absent") continue;
    let node = answer;
    path.forEach((key, i) => { if (i === path.length - 1) node[key] = values[at]; else node = node[key] ??= typeof path[i + 1] === "number" ? [] : {}; });
  }
  return answer;
}
// --- a model without a kernel; where figures were computed beforehand it looks them up ---
function offlineModel({ state, grid }) {
  const held = { ...state }, heard = {}, names = Object.keys(grid?.axes ?? {});
  let changed = new Set();
  const tell = (name, ...given) => { for (const f of [...(heard[name] ?? [])]) f(...given); };
  const figuresFor = (settings) => {
    let at = 0;
    for (const name of names) { const i = grid.axes[name].indexOf(settings[name]); if (i < 0) return null; at = at * grid.axes[name].length + i; }
    return answerAt(grid.columns, at);
  };
  const model = {
    recorded: grid?.axes,
    get: (name) => held[name],
    set(name, value) {
      if (typeof name === "object") { for (const [key, each] of Object.entries(name)) model.set(key, each); return; }
      if (held[name] === value) return;
      held[name] = value; changed.add(name);
      tell(`change:${name}`, model, value);
    },
    save_changes() {
      const some = changed;
      changed = new Set();
      if (some.size) tell("change", model);
      const found = grid && some.has("settings") ? figuresFor(held.settings) : null;
      if (found) { model.set("figures", found); changed = new Set(); }
    },
    on(name, f) { for (const each of name.split(" ")) (heard[each] ??= []).push(f); },
    off(name, f) { for (const each of name ? name.split(" ") : Object.keys(heard)) heard[each] = (heard[each] ?? []).filter((g) => f && g !== f); },
    once(name, f) { const g = (...given) => { model.off(name, g); f(...given); }; model.on(name, g); },
    send() {},
    widget_manager: undefined,
  };
  return model;
}

async function mountAll() {
  const cards = JSON.parse(await unpacked("ek-cards"), revive), models = new Map();
  let failed = 0;
  for (const place of document.querySelectorAll(".ek-mount")) {
    const number = Number(place.dataset.card), card = cards[number];
    if (!models.has(number)) models.set(number, offlineModel(card)); // two views of one card share its model, as in a notebook
    const module = EFFKIT_CARDS[card.widget], context = { model: models.get(number), el: place, signal: new AbortController().signal, experimental: {} };
    try {
      await module.initialize?.(context);
      await module.render(context);
      place.dataset.mounted = card.widget;
      if (place.querySelector(".ek-card[data-state='failed'] .ek-problem")) failed += 1; // the card says so itself
    } catch (error) { failed += 1; console.error(error); }
  }
  if (failed) trouble("broken");
  root.dataset.ready = String(Math.round(performance.now()));
}
function trouble(key) {
  const box = document.getElementById("trouble");
  box.textContent = text(key); box.hidden = false;
}

// --- light and dark: the system's choice, until the reader makes one; paper is light ---
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
let choice = null;
function showTheme(theme = choice ?? (prefersDark.matches ? "dark" : "light")) {
  root.dataset.theme = theme;
  const button = document.querySelector("[data-page='theme']");
  if (button) button.textContent = text(theme === "dark" ? "light" : "dark");
}
prefersDark.addEventListener("change", () => showTheme());
addEventListener("beforeprint", () => { root.dataset.theme = "light"; });
addEventListener("afterprint", () => showTheme());

const ACTIONS = {
  theme: () => { choice = root.dataset.theme === "dark" ? "light" : "dark"; showTheme(); },
  code: (button) => { const hidden = root.toggleAttribute("data-code-hidden"); button.setAttribute("aria-pressed", String(hidden)); button.textContent = text(hidden ? "showCode" : "hideCode"); },
  records: async () => {
    const url = URL.createObjectURL(new Blob([await unpacked("ek-records")], { type: "application/json" }));
    Object.assign(document.createElement("a"), { href: url, download: "records.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  },
};
for (const button of document.querySelectorAll("[data-page]")) button.addEventListener("click", () => ACTIONS[button.dataset.page](button));
for (const tools of document.querySelectorAll(".tools")) tools.hidden = false;
showTheme();
if (typeof DecompressionStream === "undefined") trouble("old"); else mountAll().catch((error) => { trouble("broken"); console.error(error); });

// The kit every effkit card stands on: strings, numbers, ticks, the card frame, buttons, progress, the table twin.
// Text from models and files enters the page by text nodes only, never as markup. Nothing here asks the network for anything.

// --- text from models and files: what would turn the line around or is meant for a terminal is shown, not obeyed ---
const UNSEEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufff9-\ufffb]/g;
const plain = (text) => String(text).replace(UNSEEN, (c) => {
  const code = c.charCodeAt(0);
  return code < 0x20 ? String.fromCharCode(0x2400 + code) : `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
});

// --- strings: one table; another language is one more column ---
const STRINGS = {
  unavailable: { en: "unavailable" },
  showTable: { en: "Show as table" }, hideTable: { en: "Hide table" },
  copy: { en: "Copy table" }, copied: { en: "Copied" }, copyFailed: { en: "Copying was refused; use Save as CSV" }, csv: { en: "Save as CSV" },
  recorded: { en: "recorded run{where}" }, recordedWhere: { en: ", on {device}, {date}" },
  broken: { en: "This card could not be drawn" }, brokenTodo: { en: "Run the cell again; if it stays, report this text with the widget's name." },
  details: { en: "Traceback" }, model: { en: "model" }, bytes: { en: "bytes" }, empty: { en: "nothing to show yet" },
};
function say(key, values = {}) {
  const row = STRINGS[key];
  const language = (typeof document === "undefined" ? "en" : document.documentElement.lang || "en").slice(0, 2);
  const text = row ? row[language] ?? row.en : key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? plain(values[name]) : whole));
}

// --- numbers: three significant digits; the same text as effkit.spec.intervals.three ---
function three(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return say("unavailable");
  if (value === 0) return "0";
  if (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e9) return value.toExponential(2).replace(/e([+-])(\d)$/, "e$10$2");
  const digits = 2 - Math.floor(Math.log10(Math.abs(value)));
  if (digits > 0) return value.toFixed(digits).replace(/0+$/, "").replace(/\.$/, "");
  const unit = 10 ** -digits;
  return String(Math.round(value / unit) * unit);
}
const SI = [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]];
function bytesText(count) {
  if (count === null || count === undefined || !Number.isFinite(count)) return say("unavailable");
  for (const [unit, size] of SI) if (Math.abs(count) >= size) return `${three(count / size)} ${unit}`;
  return `${Math.round(count)} B`;
}
const withUnit = (value, unit) => (unit === "bytes" ? bytesText(value) : three(value) + (unit && value !== null ? ` ${unit}` : ""));
function intervalText([value, low, high], unit = "") {
  if (value === null || value === undefined) return say("unavailable");
  if (low === null || low === undefined || high === null || high === undefined) return withUnit(value, unit);
  return unit === "bytes" ? `${bytesText(value)} [${bytesText(low)}, ${bytesText(high)}]` : `${three(value)} [${three(low)}, ${three(high)}]${unit ? ` ${unit}` : ""}`;
}
function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return say("unavailable");
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60) % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60) % 60} min`;
}

// --- ticks at 1, 2 or 5 times a power of ten ---
function roundStep(span, count) {
  const raw = span / Math.max(count, 1), power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((m) => m * power).find((step) => step >= raw * 0.999999);
}
function ticks(low, high, count = 5) {
  if (!(high > low)) return [low];
  const step = roundStep(high - low, count), out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(Number((i * step).toPrecision(12)));
  return out;
}
function logTicks(low, high, count = 5) {
  for (const multiples of [[1], [1, 3], [1, 2, 5]]) {
    const out = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++)
      for (const m of multiples) { const v = Number((m * 10 ** p).toPrecision(12)); if (v >= low * 0.999999 && v <= high * 1.000001) out.push(v); }
    if (out.length >= Math.min(3, count)) return out.length > count * 2 ? out.filter((_, i) => i % 2 === 0) : out;
  }
  return ticks(low, high, count);
}
function tickText(value, values) {
  const steps = values.slice(1).map((v, i) => Math.abs(v - values[i])).filter((s) => s > 0);
  const step = steps.length ? Math.min(...steps) : Math.abs(value) || 1;
  if (Math.abs(value) >= 1e6 || (value !== 0 && Math.abs(value) < 1e-4)) return three(value);
  return value.toFixed(Math.max(0, Math.min(8, -Math.floor(Math.log10(step) + 1e-9))));
}
// the unit that suits an axis: bytes are shown in the SI unit of their largest value
function axisUnit(unit, largest) {
  if (unit !== "bytes") return { divide: 1, text: unit };
  const [text, divide] = SI.find(([, size]) => largest >= size) ?? ["B", 1];
  return { divide, text };
}

// --- elements ---
const READ = /^(aria-|title$|placeholder$|alt$|label$)/; // attributes that people see or hear
const SVG = "http://www.w3.org/2000/svg";
function fill(node, props) {
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.setAttribute("class", value);
    else node.setAttribute(key, value === true ? "" : READ.test(key) ? plain(value) : value);
  }
  return node;
}
function h(tag, props, ...children) {
  const node = fill(document.createElement(tag), props);
  node.append(...children.flat().filter((c) => c !== null && c !== undefined).map((c) => (c instanceof Node ? c : document.createTextNode(plain(c)))));
  return node;
}
function s(tag, props, parent, text) {
  const node = fill(document.createElementNS(SVG, tag), props);
  if (text !== undefined) node.textContent = plain(text);
  parent?.appendChild(node);
  return node;
}
let counter = 0;
const uid = () => `ek-${Date.now().toString(36)}-${counter++}`;

// --- light or dark follows the host: JupyterLab's attribute, else the lightness of what lies behind the card ---
function hostIsDark(node) {
  const told = document.body?.dataset.jpThemeLight;
  if (told) return told === "false";
  for (let up = node.parentElement; up; up = up.parentElement) {
    const [r, g, b, a = 1] = (getComputedStyle(up).backgroundColor.match(/[\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
    if (a > 0.5) return 0.2126 * r + 0.7152 * g + 0.0722 * b < 110;
  }
  return /dark/.test(getComputedStyle(document.documentElement).colorScheme) && matchMedia("(prefers-color-scheme: dark)").matches;
}
function followTheme(root, signal) {
  const apply = () => { const theme = hostIsDark(root) ? "dark" : "light"; if (root.dataset.theme !== theme) root.dataset.theme = theme; };
  const observer = new MutationObserver(apply);
  for (const node of [document.documentElement, document.body]) observer.observe(node, { attributes: true });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply, { signal });
  signal?.addEventListener("abort", () => observer.disconnect());
  apply(); requestAnimationFrame(apply);
}

// --- the card ---
// A kernel is behind the card unless the host marks it disconnected (ipywidgets does; a shared page sets data-ek-recorded).
// What such a page can still answer: the values of a setting whose figures were computed beforehand, or null for none.
const recordedValues = (model, name) => model.recorded?.[name] ?? null;
function isLive(el) { return !el.closest(".jupyter-widgets-disconnected, [data-ek-recorded]"); }

function card(el, model, signal, { widget, title, hint }) {
  const id = uid();
  const ui = { el, model, signal };
  ui.title = h("h3", { class: "ek-title", id }, title);
  ui.hint = h("p", { class: "ek-hint" }, hint);
  ui.problem = h("div", { class: "ek-problem", role: "alert", hidden: true });
  ui.picture = h("div", { class: "ek-picture" });
  ui.progress = h("div", {});
  ui.state = h("p", { class: "ek-state" });
  ui.controls = h("div", { class: "ek-controls" });
  ui.below = h("div", {});
  // JupyterLab would take arrows, Enter and letters for the notebook's own shortcuts
  ui.root = h("section", { class: "ek-card", "data-widget": widget, "data-state": "idle", "aria-labelledby": id, "data-lm-suppress-shortcuts": "true" },
    ui.title, ui.hint, ui.problem, ui.picture, ui.progress, ui.state, ui.controls, ui.below);
  el.replaceChildren(ui.root);
  followTheme(ui.root, signal);
  ui.live = () => !ui.gone && isLive(el);
  followKernel(ui);
  ui.on = (name, f) => { model.on(name, f); signal?.addEventListener("abort", () => model.off(name, f)); };
  ui.setState = (name) => { if (ui.root.dataset.state !== name) ui.root.dataset.state = name; };
  const showProblem = () => problemBox(ui.problem, model.get("problem"));
  ui.on("change:problem", showProblem);
  ui.on("comm_live_update", () => requestAnimationFrame(() => ui.onlive?.()));
  requestAnimationFrame(() => ui.onlive?.()); // the host marks a restored view after it was drawn
  showProblem();
  return ui;
}
// A kernel that died or restarts takes its widgets with it, whatever the host says later.
function followKernel(ui) {
  const kernel = ui.model.widget_manager?.kernel;
  const ended = (_, status) => {
    if (status !== undefined && !["dead", "restarting", "autorestarting", "terminating"].includes(status)) return;
    ui.gone = true;
    requestAnimationFrame(() => ui.onlive?.());
  };
  const gone = () => ended(kernel, undefined);
  kernel?.statusChanged?.connect(ended);
  kernel?.disposed?.connect(gone);
  ui.signal?.addEventListener("abort", () => { kernel?.statusChanged?.disconnect(ended); kernel?.disposed?.disconnect(gone); });
}
function problemBox(box, problem) {
  const some = problem && problem.what;
  box.hidden = !some;
  box.replaceChildren();
  if (!some) return;
  box.append(h("p", {}, h("strong", {}, problem.what)));
  for (const line of [problem.why, problem.next]) if (line) box.append(h("p", {}, /[.?:]$/.test(line) ? line : `${line}.`));
  if (problem.traceback) box.append(h("details", {}, h("summary", {}, say("details")), h("pre", {}, problem.traceback)));
}
// a fault of the card itself is shown in the card, with what to do
function guarded(draw) {
  return async (context) => {
    try { return await draw(context); } catch (error) {
      const box = h("div", { class: "ek-problem", role: "alert" });
      problemBox(box, { what: say("broken"), why: String(error?.message ?? error), next: say("brokenTodo"), traceback: String(error?.stack ?? "") });
      context.el.replaceChildren(h("section", { class: "ek-card", "data-state": "failed" }, box));
      console.error(error);
    }
  };
}
const button = (action, text, onclick, primary = false) => h("button", { type: "button", "data-action": action, class: primary ? "ek-primary" : "", onclick }, text);
function field(text, input, gloss) {
  return h("label", { class: "ek-field", title: gloss }, h("span", {}, text), input);
}
function select(name, options, value, onchange) {
  const node = h("select", { name, onchange: () => onchange(node.value) }, options.map(([key, text, why]) => h("option", { value: key, disabled: Boolean(why), title: why ?? null }, why ? `${text} (${why})` : text)));
  node.value = value;
  return node;
}
// one state line that does not rebuild itself when nothing changed (screen readers and selections stay calm)
function setText(node, text) { const shown = plain(text); if (node.textContent !== shown) node.textContent = shown; }
function recordedText(where) {
  return say("recorded", { where: where?.device && where?.date ? say("recordedWhere", { device: where.device, date: where.date.slice(0, 10) }) : "" });
}

// --- the table twin: every chart can be read, copied and saved as a table ---
function csvCell(value) {
  const text = String(value ?? "");
  const safe = typeof value === "string" && /^[=+@\t\r-]/.test(text) ? `'${text}` : text; // a spreadsheet must not run a model's name
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
const csvText = (columns, rows) => [columns.map((c) => c.label), ...rows].map((row) => row.map(csvCell).join(",")).join("\r\n") + "\r\n";

// source() -> { caption, columns: [{ label, text, show }], rows: [[raw values]] }
function tableTwin(ui, source, file, { show = say("showTable"), hide = say("hideTable"), host = ui.below } = {}) {
  const id = uid(), scroll = h("div", { class: "ek-scroll", tabindex: "0", role: "region", "aria-label": show });
  const told = h("span", { class: "ek-quiet", role: "status" });
  const csv = () => { const { columns, rows } = source(); return csvText(columns, rows); };
  const copy = async () => {
    const { columns, rows } = source();
    const text = [columns.map((c) => c.label), ...rows].map((row) => row.map((v) => String(v ?? "")).join("\t")).join("\n");
    try { await navigator.clipboard.writeText(text); told.textContent = say("copied"); } catch { told.textContent = say("copyFailed"); }
    setTimeout(() => { told.textContent = ""; }, 4000);
  };
  const save = () => {
    const url = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    h("a", { href: url, download: file }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  };
  const box = h("div", { class: "ek-twin", id, hidden: true }, scroll, h("div", { class: "ek-row ek-controls" }, button("copy", say("copy"), copy), button("csv", say("csv"), save), told));
  const toggle = button("table", show, () => {
    box.hidden = !box.hidden;
    toggle.textContent = box.hidden ? show : hide;
    toggle.setAttribute("aria-expanded", String(!box.hidden));
    update();
  });
  fill(toggle, { "aria-expanded": "false", "aria-controls": id });
  function update() {
    if (box.hidden) return;
    const { caption, columns, rows } = source();
    const cls = (c) => ({ class: c.text ? "ek-text" : "" });
    scroll.replaceChildren(h("table", { class: "ek-table" }, h("caption", {}, h("span", {}, caption)),
      h("thead", {}, h("tr", {}, columns.map((c) => h("th", { ...cls(c), scope: "col" }, c.label)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((v, i) => h(i ? "td" : "th", { ...cls(columns[i]), scope: i ? null : "row" }, columns[i].show ? columns[i].show(v) : v ?? say("unavailable"))))))));
  }
  host.append(box);
  return { toggle, update };
}

// Fields that ask the kernel for other figures: sliders over chosen steps, a picker of the catalogue's devices, prices an hour.
Object.assign(STRINGS, {
  stack_cuda: { en: "NVIDIA" }, stack_ascend: { en: "Ascend" }, stack_cpu: { en: "CPU" }, announcedDevice: { en: "{name} (announced)" },
  deviceField: { en: "Device" }, hourPrice: { en: "Price per hour of one, $" }, unknownPrice: { en: "not known" }, priceRefused: { en: "Not used: a price must be above 0 and at most 100,000." },
  batchField: { en: "Batch" }, promptField: { en: "Prompt, tokens" }, outputField: { en: "Output, tokens" }, formatField: { en: "Format" }, busyPart: { en: "Busy, % of paid time" },
  batchGloss: { en: "Sequences in flight at once on each replica" }, formatGloss: { en: "8-bit is fp8 where the device has it, else int8; 4-bit is int4 weights in groups of 128" }, busyPartGloss: { en: "Share of the paid time in which the devices answer queries" },
});
const AFTER = 90; // ms without another change before the kernel is asked
const same = (a, b) => JSON.stringify(Object.entries(a ?? {}).sort()) === JSON.stringify(Object.entries(b ?? {}).sort());
// 1, 2, 4, ... with the halves between them, from low to high; `own` is in the list, wherever it lies
function stepsBetween(low, high, own, halves = false) {
  const out = new Set([own, high]);
  for (let v = 1; v <= high; v *= 2) for (const w of halves && v >= 2 ? [v, v * 1.5] : [v]) if (w >= low && w <= high) out.add(w);
  return [...out].sort((a, b) => a - b);
}
const countOf = (v) => v.toLocaleString("en");
// A range input over a list of values. Shift takes four steps at once.
function stepSlider(name, label, values, value, onchange, gloss) {
  const told = h("output", {}), input = h("input", { type: "range", name, min: 0, max: values.length - 1, step: 1 });
  const write = () => { const text = countOf(values[input.value]); setText(told, text); input.setAttribute("aria-valuetext", text); };
  input.value = values.indexOf(value);
  input.addEventListener("input", () => { write(); onchange(values[input.value]); });
  input.addEventListener("keydown", (e) => {
    const way = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[e.key];
    if (!way || !e.shiftKey) return;
    e.preventDefault();
    input.value = Number(input.value) + 4 * way;
    input.dispatchEvent(new Event("input"));
  });
  write();
  const node = h("label", { class: "ek-field ek-slider", title: gloss }, h("span", {}, label, " ", told), input);
  return { node, input, update: (v) => { const at = values.indexOf(v); if (at >= 0 && document.activeElement !== input) { input.value = at; write(); } } };
}
// Fields answer while there is a kernel, or where a page without one holds the answers.
function enableFields(model, live, inputs) { for (const input of inputs) input.disabled = !live && (recordedValues(model, input.name)?.length ?? 0) < 2; }
const answersBeforehand = (model) => Object.values(model.recorded ?? {}).some((values) => values.length > 1);
const offered = (model, name, values) => recordedValues(model, name) ?? values;
function devicePicker(name, devices, value, onchange, extra = []) {
  const node = h("select", { name, onchange: () => onchange(node.value) }, extra.map(([key, text]) => h("option", { value: key }, text)),
    [...new Set(devices.map((d) => d.stack))].map((stack) => h("optgroup", { label: say(`stack_${stack}`) },
      devices.filter((d) => d.stack === stack).map((d) => h("option", { value: d.name, title: d.title }, d.announced ? say("announcedDevice", d) : d.name)))));
  node.value = value;
  return node;
}
// The settings of a card: shown at once, sent when nothing changed for a moment.
function settingsOf(ui, onset) {
  let timer = 0, now = { ...ui.model.get("settings") };
  ui.signal?.addEventListener("abort", () => clearTimeout(timer));
  const set = (patch) => {
    now = { ...now, ...patch };
    onset?.();
    clearTimeout(timer);
    timer = setTimeout(() => { timer = 0; ui.model.set("settings", now); ui.model.save_changes(); }, AFTER);
  };
  ui.on("change:settings", () => { if (!timer) now = { ...ui.model.get("settings") }; });
  return { set, get: () => now };
}

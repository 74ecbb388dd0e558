// How a point of the frontier looks: colour, shape and size by what its recipe says; and thousands of them on a canvas.
Object.assign(STRINGS, {
  notSaid: { en: "none" }, otherValues: { en: "others" }, yes: { en: "yes" }, no: { en: "no" }, autoValue: { en: "automatic" },
  field_kind: { en: "Kind of model" }, field_method: { en: "Method" }, field_bits: { en: "Bits" }, field_group_size: { en: "Group size" }, field_embedding_bits: { en: "Embedding bits" }, field_symmetric: { en: "Symmetric" },
  field_rotate: { en: "Rotated" }, field_tune: { en: "Tuned afterwards" }, field_calibration: { en: "Calibration text" }, field_layers: { en: "Layers kept" }, field_by: { en: "Layers chosen by" }, field_heads: { en: "Heads" },
  field_ffn: { en: "Feed-forward channels" }, field_hidden_size: { en: "Hidden size" }, field_vocabulary: { en: "Vocabulary" }, field_steps: { en: "Distillation steps" }, field_objective: { en: "Objective" },
  field_temperature: { en: "Temperature" }, field_source: { en: "Trained on" }, field_device: { en: "Device" }, sizeIs: { en: "size: {label}" },
});
const CATEGORY_COLOURS = ["quantized", "distilled", "pruned", "combined", "other", "base", "head"].map((name) => `var(--ek-${name})`);
const CATEGORY_SHAPES = ["circle", "triangle", "square", "diamond", "wedge", "plus"];
const STEPPED = 7; // distinct numbers that have a colour of their own; more of them share a scale
const FIRST_LOOK = { colour: "kind", shape: "", size: "" }; // shape "": it says what the colour says
const valueOf = (p, name) => (name === "kind" ? p.kind : name === "device" ? p.device : p.fields?.[name]) ?? null;
const valueText = (name, v) => (v === null ? say("notSaid") : name === "kind" ? say(v) : v === true ? say("yes") : v === false ? say("no") : v === "auto" ? say("autoValue") : String(v));
// What a recipe's field takes as values among these points: { name, values (sorted), numeric, missing }.
function fieldOf(points, name) {
  const counts = new Map();
  for (const p of points) { const v = valueOf(p, name); counts.set(v, (counts.get(v) ?? 0) + 1); }
  const missing = counts.delete(null), values = [...counts.keys()], numeric = values.length > 0 && values.every((v) => typeof v === "number");
  values.sort(numeric ? (a, b) => a - b : name === "kind" ? (a, b) => KINDS_IN_ORDER.indexOf(a) - KINDS_IN_ORDER.indexOf(b) : (a, b) => counts.get(b) - counts.get(a) || (String(a) < String(b) ? -1 : 1));
  return { name, values, numeric, missing };
}
const KINDS_IN_ORDER = Object.keys(SHAPES);
// Fields in which these points differ: what is worth a colour.
function fieldsOf(points) {
  const names = new Set(["kind", ...points.flatMap((p) => Object.keys(p.fields ?? {})), "device"]);
  return [...names].map((name) => fieldOf(points, name)).filter((f) => f.name === "kind" || f.values.length + f.missing > 1);
}
// { look(p): { colour, shape, r, hollow, dashed, outline }, items: what the legend shows }. r: the size of a point that says nothing
function encoding(points, chosen, theme, r, figures) {
  const { colour, shape, size } = { ...FIRST_LOOK, ...chosen };
  const by = fieldOf(points, colour), form = shape && shape !== colour ? fieldOf(points, shape) : by, kinds = by.name === "kind";
  const shaped = form.values.length <= CATEGORY_SHAPES.length && (form !== by || !(by.numeric && by.values.length > STEPPED));
  const at = new Map(by.values.map((v, i) => [v, i])), place = new Map(form.values.map((v, i) => [v, i])), [low, high] = [by.values[0], by.values.at(-1)];
  const viridisOf = (v) => rgb(heat(0.06 + 0.88 * (by.values.length > STEPPED ? (v - low) / (high - low || 1) : at.get(v) / Math.max(1, by.values.length - 1)), theme));
  const many = !by.numeric && by.values.length > STEPPED, bare = { colour: "var(--ek-rule)", hollow: true };
  const paint = (v) => (v === null || (many && at.get(v) >= STEPPED - 1) ? bare : kinds ? { colour: `var(--ek-${v})` } : by.numeric ? { colour: viridisOf(v), outline: true } : { colour: CATEGORY_COLOURS[at.get(v)] });
  const cut = (v, kind) => (form.name === "kind" ? SHAPES[kind] : shaped && v !== null ? CATEGORY_SHAPES[place.get(v)] : shaped ? "circle" : SHAPES[kind] ?? "circle");
  const sizeOf = (p) => (figures[size] ? p.figures[size]?.[0] : valueOf(p, size)), sizes = size ? points.map(sizeOf).filter(Number.isFinite) : [], small = Math.min(...sizes), large = Math.max(...sizes);
  const radius = (p) => { const v = size ? sizeOf(p) : null; return !size || !sizes.length ? r : Number.isFinite(v) ? 3 + 6 * Math.sqrt((v - small) / (large - small || 1)) : 3; };
  const look = (p) => { const c = paint(valueOf(p, colour)); return { ...c, shape: cut(valueOf(p, form.name), p.kind), r: radius(p), hollow: c.hollow || p.hollow || p.state === "stopped", dashed: p.simulated }; };
  const item = (v, extra) => ({ kind: "rule", text: valueText(colour, v), ...extra });
  const items = [];
  if (by.numeric && by.values.length > STEPPED) for (const v of [low, by.values[by.values.length >> 1], high]) items.push(item(v, { ...paint(v), shape: "circle", text: three(v) }));
  else for (const v of by.values.slice(0, many ? STEPPED - 1 : STEPPED)) items.push(item(v, { ...paint(v), shape: form === by ? cut(v, v) : "circle" }));
  if (many) items.push(item(null, { ...bare, shape: "circle", text: say("otherValues") }));
  if (by.missing && !kinds) items.push(item(null, { ...bare, shape: "circle" }));
  if (form !== by) for (const v of form.values.slice(0, CATEGORY_SHAPES.length)) items.push({ kind: "rule", shape: cut(v, v), hollow: true, colour: "var(--ek-rule)", text: valueText(form.name, v) });
  if (sizes.length && large > small) for (const v of [small, large]) items.push({ kind: "rule", shape: "circle", hollow: true, colour: "var(--ek-rule)", size: v === small ? 3 : 8, text: figures[size] ? withUnit(v, figures[size].unit) : three(v) });
  return { look, items };
}

// Marks on a canvas under the picture: every look is drawn once and then copied, so that 5,000 points take a few milliseconds.
function markCanvas(box) {
  const canvas = h("canvas", { "aria-hidden": "true" }), pen = canvas.getContext("2d"), kept = new Map();
  let ratio = 1, styles = null;
  box.prepend(canvas);
  const resolve = (colour) => colour.replace(/var\((--[\w-]+)(?:, *var\((--[\w-]+)\))?\)/, (_, name, other) => styles.getPropertyValue(name).trim() || styles.getPropertyValue(other ?? "").trim() || "currentcolor");
  function stamp(key, r, draw) {
    if (kept.has(key)) return kept.get(key);
    const half = Math.ceil((r * 1.4 + 3) * ratio), made = document.createElement("canvas"), to = made.getContext("2d");
    made.width = made.height = 2 * half;
    to.translate(half, half); to.scale(ratio, ratio);
    draw(to);
    const it = { made, half };
    kept.set(key, it);
    return it;
  }
  return {
    canvas,
    clear(width, height) {
      ratio = window.devicePixelRatio || 1; styles = getComputedStyle(box);
      if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
        canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio); kept.clear();
        canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
      } else pen.clearRect(0, 0, canvas.width, canvas.height);
    },
    forget: () => kept.clear(), // another theme: the colours are others
    mark(x, y, { colour, shape, r, hollow, dashed, outline }, alpha) {
      const { made, half } = stamp(`${colour} ${shape} ${r} ${hollow} ${dashed} ${outline}`, r, (to) => {
        const path = new Path2D(shapePath(shape, r)), solid = resolve(colour);
        to.fillStyle = hollow || dashed ? resolve("var(--jp-layout-color1, var(--ek-ground))") : solid;
        to.fill(path);
        to.strokeStyle = outline ? resolve("var(--ek-rule)") : solid; to.lineWidth = outline ? 1 : 1.2;
        if (dashed) to.setLineDash([2.5, 2]);
        to.stroke(path);
      });
      pen.globalAlpha = alpha;
      pen.drawImage(made, Math.round(x * ratio) - half, Math.round(y * ratio) - half);
    },
    ring(x, y, r) {
      const { made, half } = stamp(`ring ${r}`, r, (to) => { to.strokeStyle = styles.color; to.lineWidth = 1.2; to.beginPath(); to.arc(0, 0, r, 0, 7); to.stroke(); });
      pen.globalAlpha = 1;
      pen.drawImage(made, Math.round(x * ratio) - half, Math.round(y * ratio) - half);
    },
    whisker(path, colour) { pen.globalAlpha = 1; pen.setTransform(ratio, 0, 0, ratio, 0, 0); pen.strokeStyle = resolve(colour); pen.lineWidth = 1.3; pen.stroke(new Path2D(path)); pen.setTransform(1, 0, 0, 1, 0, 0); },
  };
}

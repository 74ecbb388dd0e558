// The frontier: records on two axes, the Pareto front, two budget lines, a rectangle to select with.
// Better is always up and to the left: an axis whose smaller values are better grows the other way where it must.
Object.assign(STRINGS, {
  quality: { en: "Quality axis" }, cost: { en: "Cost axis" }, linear: { en: "linear" }, log: { en: "logarithmic" }, scaleOf: { en: "scale" },
  front: { en: "Pareto front: nothing else is better on both axes" }, better: { en: "better" },
  region: { en: "90% at 10%" }, least: { en: "at least {v}" }, most: { en: "at most {v}" },
  budgetQuality: { en: "Quality budget" }, budgetCost: { en: "Cost budget" },
  fits: { en: "{n} of {m} fit the budget" }, brushed: { en: "{n} selected" }, inside: { en: "fits the budget" }, outside: { en: "outside the budget" }, clear: { en: "Clear selection" },
  noLog: { en: "{n} at zero cannot stand on a logarithmic axis" }, unknown: { en: "{n} not measured on these axes (see the table)" },
  keys: { en: "Arrows move between points, Space selects." }, noPoints: { en: "no measured model yet" },
  simulated: { en: "simulated" }, ties: { en: "not distinguishable from" }, more: { en: "{n} more" }, chosen: { en: "selected" }, onFront: { en: "on the Pareto front" },
  base: { en: "base model" }, quantized: { en: "quantized" }, pruned: { en: "pruned" }, distilled: { en: "distilled" }, combined: { en: "combined" },
  kind: { en: "kind" }, model: { en: "model" }, recipe: { en: "recipe" }, device: { en: "device" }, speed: { en: "speed" }, day: { en: "measured on" }, low: { en: "low" }, high: { en: "high" },
  frontierTable: { en: "Measured models; an interval holds the true value with 95% confidence" },
});

// Twin of effkit.spec.frontier.Frontier.front, so that axes can be changed in a page without a kernel; a test compares the two.
function paretoFront(points, xUp, yUp) {
  const sx = xUp ? -1 : 1, sy = yUp ? -1 : 1;
  const dominates = (a, b) => a.x * sx <= b.x * sx && a.y * sy <= b.y * sy && (a.x !== b.x || a.y !== b.y);
  return points.filter((p) => !points.some((q) => dominates(q, p))).sort((a, b) => a.x - b.x || a.y - b.y);
}
// A share of the base in the axis' own unit: 0.9 of a quality that should be high, base / 0.9 of one that should be low.
const budgetAt = (base, share, up) => (base ? (up ? base * share : base / share) : null);

function frontierView(host, model, signal, { live, onstate }) {
  const legendBox = h("div", {}), plot = h("div", {}), controls = h("div", { class: "ek-controls" });
  host.append(legendBox, plot);
  const it = frame(plot, signal, { label: "", role: "listbox", ratio: 0.6, least: 280, most: 520 }, draw);
  it.svg.setAttribute("aria-multiselectable", "true");
  let X, Y, points = [], placed = [], focusId = null, dragging = null, mode = null, start = null;
  const figures = () => model.get("config").figures;
  const fig = (axis) => figures()[model.get("axes")[axis]] ?? { label: "", unit: "", up: false };

  function gather() {
    const { x, y } = model.get("axes");
    const none = [null, null, null];
    points = model.get("points").map((p) => { const a = p.figures[x] ?? none, b = p.figures[y] ?? none; return { ...p, xs: a, ys: b, x: a[0], y: b[0] }; });
    const { xlog, ylog } = model.get("axes");
    placed = points.filter((p) => p.x !== null && p.y !== null && !(xlog && p.x <= 0) && !(ylog && p.y <= 0));
  }
  // budgets in the unit of the axes; null means the default share of the base, or no limit where there is no base
  function budgets() {
    const told = dragging ?? model.get("budgets"), base = points.find((p) => p.kind === "base"), shares = model.get("config").shares;
    const up = { x: fig("x").up, y: fig("y").up };
    return {
      x: told.x ?? (base ? budgetAt(base.x, shares.cost, !up.x) : null),
      y: told.y ?? (base ? budgetAt(base.y, shares.quality, up.y) : null),
    };
  }
  const within = (p, b) => (b.x === null || (fig("x").up ? p.x >= b.x : p.x <= b.x)) && (b.y === null || (fig("y").up ? p.y >= b.y : p.y <= b.y));

  function draw() {
    gather();
    const { svg, width, height } = it, { xlog, ylog } = model.get("axes"), fx = fig("x"), fy = fig("y"), b = budgets();
    const right = 16, top = 30, bottom = 40;
    const base = placed.find((p) => p.kind === "base");
    const region = base && { x: budgetAt(base.x, 0.1, !fx.up), y: budgetAt(base.y, 0.9, fy.up) };
    const regionUsable = region && region.x !== null && region.y !== null && base.x && base.y;
    const xs = placed.flatMap((p) => p.xs).filter((v) => v !== null), ys = placed.flatMap((p) => p.ys).filter((v) => v !== null);
    if (regionUsable) { xs.push(region.x); if (fy.up || region.y < Math.max(...ys) * 3) ys.push(region.y); }
    const flip = ([a, z], yes) => (yes ? [z, a] : [a, z]);
    const heights = extent(ys, { log: ylog, floor: Math.min(0, ...ys) }), left = leftFor(heights, fy, height, ylog);
    X = scale(extent(xs, { log: xlog, floor: Math.min(0, ...xs) }), flip([left, width - right], fx.up), xlog);
    Y = scale(heights, flip([height - bottom, top], !fy.up), ylog);
    svg.replaceChildren();
    const back = s("g", { "aria-hidden": "true" }, svg);
    s("rect", { x: left, y: top, width: width - left - right, height: height - top - bottom, class: "ek-frame" }, back);
    if (!placed.length) s("text", { x: width / 2, y: height / 2, "text-anchor": "middle", class: "ek-note" }, back, say("noPoints"));
    else axes(back, X, Y, { x: { ...fx }, y: { ...fy }, width, height, left, bottom });
    const clamp = (v, S) => Math.max(Math.min(...S.range), Math.min(Math.max(...S.range), S(v)));
    if (regionUsable) {
      const rx = clamp(region.x, X), ry = clamp(region.y, Y), wide = rx - left, tall = ry - top;
      const id = uid(), pattern = s("pattern", { id, width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, s("defs", {}, back));
      s("line", { x1: 0, y1: 0, x2: 0, y2: 7, style: "stroke:var(--ek-pruned)", "stroke-width": 1.6, opacity: 0.45 }, pattern);
      s("rect", { x: left, y: top, width: Math.max(0, wide), height: Math.max(0, tall), fill: `url(#${id})`, class: "ek-region" }, back);
      s("text", { x: left + 4, y: ry + 13, class: "ek-halo ek-note" }, back, say("region"));
    }
    s("text", { x: width - right, y: 12, "text-anchor": "end", class: "ek-axis" }, back, width > 420 ? `${say("better")} ↖` : "↖");
    const front = paretoFront(placed, fx.up, fy.up), onFront = new Set(front.map((p) => p.id));
    s("path", { d: front.map((p, i) => (i ? `L${X(p.x)},${Y(p.y)}` : `M${X(p.x)},${Y(p.y)}`)).join(""), class: "ek-front" }, back);

    const selected = new Set(model.get("selected"));
    if (!placed.some((p) => p.id === focusId)) focusId = null;
    const order = [...placed].sort((p, q) => X(p.x) - X(q.x));
    let fits = 0;
    for (const p of order) {
      const inside = within(p, b); fits += inside;
      const g = s("g", {
        class: `ek-point ek-mark-${p.kind}${p.hollow ? " ek-hollow" : ""}${p.simulated ? " ek-dashed" : ""}`, role: "option", "data-id": p.id, "data-kind": p.kind, "data-fits": String(inside),
        "aria-selected": String(selected.has(p.id)), "aria-label": spokenPoint(p, onFront.has(p.id), inside), tabindex: (focusId ?? order[0].id) === p.id ? 0 : -1, opacity: inside ? 1 : 0.35,
      }, svg);
      const [cx, cy] = [X(p.x), Y(p.y)];
      whiskers(g, cx, cy, p.xs[1] === null ? null : p.xs.slice(1).map((v) => clamp(v, X)), p.ys[1] === null ? null : p.ys.slice(1).map((v) => clamp(v, Y)));
      s("circle", { cx, cy, r: 13, fill: "transparent" }, g); // a target of 26 px
      s("path", { d: shapePath(SHAPES[p.kind], 6), transform: `translate(${cx} ${cy})`, class: "ek-mark" }, g);
      if (selected.has(p.id)) s("circle", { cx, cy, r: 10.5, class: "ek-ring" }, g);
      g.addEventListener("pointerenter", () => { if (!mode) show(p); });
      g.addEventListener("pointerleave", () => it.tip.hide());
      g.addEventListener("focus", () => { focusId = p.id; show(p); s("circle", { cx, cy, r: 14, class: "ek-focus" }, g); });
      g.addEventListener("blur", () => { it.tip.hide(); g.querySelector(".ek-focus")?.remove(); });
    }
    const names = s("g", { "aria-hidden": "true", "pointer-events": "none" }, svg);
    for (const { of: p, x, y, anchor } of placed.length <= 12 ? placeLabels(placed.map((p) => ({ of: p, text: p.name, x: X(p.x), y: Y(p.y) })), { left: 52, right: width - right + 8, top: 18, bottom: height - 44 }) : [])
      s("text", { x, y, "text-anchor": anchor, class: `ek-halo${within(p, b) ? "" : " ek-note"}` }, names, p.name);
    if (placed.length) { line("x", b.x); line("y", b.y); }
    fill(svg, { "aria-label": `${fy.label}, ${fx.label}. ${say("keys")}` });
    for (const node of [svg, it.box]) { node.dataset.points = placed.length; node.dataset.fits = fits; node.dataset.selected = selected.size; }
    drawLegend(front.length);
    const zero = points.filter((p) => p.x !== null && p.y !== null).length - placed.length, missing = points.length - placed.length - zero;
    const notes = [say("fits", { n: fits, m: placed.length })];
    if (selected.size) notes.push(say("brushed", { n: selected.size }));
    if (zero) notes.push(say("noLog", { n: zero }));
    if (missing) notes.push(say("unknown", { n: missing }));
    onstate(`${notes.join("; ")}.`, dragging !== null);
    clear.hidden = !selected.size;
  }
  function spokenPoint(p, front, inside) {
    const fx = fig("x"), fy = fig("y");
    return [p.name, say(p.kind), `${fy.label} ${intervalText(p.ys, fy.unit)}`, `${fx.label} ${intervalText(p.xs, fx.unit)}`, p.slower || "", p.simulated ? say("simulated") : "", p.ties?.length ? `${say("ties")} ${p.ties.join(", ")}` : "", front ? say("onFront") : "", say(inside ? "inside" : "outside")].filter(Boolean).join("; ");
  }
  function show(p) {
    const fx = fig("x"), fy = fig("y"), short = (f) => f.label.replace(/ \([^)]*\)/, "");
    const pairs = [[short(fy), intervalText(p.ys, fy.unit)], [short(fx), intervalText(p.xs, fx.unit)], [say("kind"), say(p.kind)]];
    if (p.recipe !== p.name && p.kind !== "base") pairs.push([say("recipe"), p.recipe]);
    if (p.ties?.length) pairs.push([say("ties"), p.ties.slice(0, 3).join(", ") + (p.ties.length > 3 ? `, ${say("more", { n: p.ties.length - 3 })}` : "")]);
    if (p.slower) pairs.push([say("speed"), p.slower]);
    pairs.push([say("device"), p.device + (p.simulated ? ` (${say("simulated")})` : "")]);
    it.tip.show(X(p.x), Y(p.y), p.name, pairs, placed.filter((q) => q !== p).map((q) => [X(q.x), Y(q.y)]));
    it.box.dataset.hover = p.name;
  }
  // a budget line is a slider: drag it, or arrows (Shift: ten times as far)
  function line(axis, value) {
    const S = axis === "x" ? X : Y, f = fig(axis), [r0, r1] = [Math.min(...S.range), Math.max(...S.range)], vertical = axis === "x";
    const at = value === null ? (S(S.domain[f.up ? 0 : 1])) : Math.max(r0, Math.min(r1, S(value)));
    const shown = value ?? S.domain[f.up ? 0 : 1];
    const text = say(f.up ? "least" : "most", { v: withUnit(shown, f.unit) });
    const g = s("g", { class: `ek-budget ek-budget-${axis}`, role: "slider", tabindex: 0, "data-budget": axis === "x" ? "cost" : "quality", "aria-orientation": vertical ? "horizontal" : "vertical", "aria-label": `${say(vertical ? "budgetCost" : "budgetQuality")}: ${f.label}`, "aria-valuemin": Math.min(...S.domain), "aria-valuemax": Math.max(...S.domain), "aria-valuenow": shown, "aria-valuetext": text }, it.svg);
    const ends = vertical ? { x1: at, x2: at, y1: Math.min(...Y.range), y2: Math.max(...Y.range) } : { x1: Math.min(...X.range), x2: Math.max(...X.range), y1: at, y2: at };
    s("line", { ...ends, class: "ek-grab" }, g);
    s("line", ends, g);
    const knob = vertical ? [at, ends.y1] : [ends.x2, at];
    s("circle", { cx: knob[0], cy: knob[1], r: 12, fill: "transparent" }, g);
    s("circle", { cx: knob[0], cy: knob[1], r: 5.5, class: "ek-knob" }, g);
    const flipText = vertical && at > it.width / 2;
    s("text", vertical ? { x: flipText ? at - 9 : at + 9, y: ends.y1 + 4, "text-anchor": flipText ? "end" : "start", class: "ek-halo" } : { x: ends.x2 - 9, y: at + (at > it.height - 70 ? -6 : 15), "text-anchor": "end", class: "ek-halo" }, g, text);
    g.addEventListener("pointerdown", (e) => { mode = axis; dragging = { ...model.get("budgets") }; e.preventDefault(); e.stopPropagation(); it.svg.setPointerCapture(e.pointerId); });
    g.addEventListener("keydown", (e) => {
      const way = { ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1 }[e.key];
      if (e.key === "Home" || e.key === "End") { set(axis, S.invert((e.key === "Home") === vertical ? r0 : r1)); }
      else if (way) set(axis, S.invert(Math.max(r0, Math.min(r1, at + way * ((r1 - r0) / 100) * (e.shiftKey ? 10 : 1)))));
      else return;
      e.preventDefault(); e.stopPropagation();
      requestAnimationFrame(() => requestAnimationFrame(() => it.svg.querySelector(`.ek-budget-${axis}`)?.focus()));
    });
  }
  function set(axis, value) { model.set("budgets", { ...model.get("budgets"), [axis]: Number(value.toPrecision(4)) }); model.save_changes(); it.soon(); }

  const where = (e) => { const box = it.svg.getBoundingClientRect(); return [e.clientX - box.left, e.clientY - box.top]; };
  let brush = null;
  it.svg.addEventListener("pointerdown", (e) => {
    if (mode || e.button || !placed.length) return;
    start = where(e); mode = "brush"; it.tip.hide();
    if (e.pointerType !== "touch") it.svg.setPointerCapture(e.pointerId);
  });
  it.svg.addEventListener("pointermove", (e) => {
    if (!mode) return;
    const [px, py] = where(e);
    if (mode === "brush") {
      brush ??= s("rect", { class: "ek-brush" }, it.svg);
      fill(brush, { x: Math.min(px, start[0]), y: Math.min(py, start[1]), width: Math.abs(px - start[0]), height: Math.abs(py - start[1]) });
      return;
    }
    const S = mode === "x" ? X : Y, at = mode === "x" ? px : py;
    dragging = { ...dragging, [mode]: Number(S.invert(Math.max(Math.min(...S.range), Math.min(Math.max(...S.range), at))).toPrecision(4)) };
    it.soon();
  });
  const done = (e) => {
    if (mode === "brush") {
      const [px, py] = where(e), [x0, x1] = [Math.min(px, start[0]), Math.max(px, start[0])], [y0, y1] = [Math.min(py, start[1]), Math.max(py, start[1])];
      const small = x1 - x0 < 5 && y1 - y0 < 5;
      const hit = placed.filter((p) => { const [cx, cy] = [X(p.x), Y(p.y)]; return small ? Math.hypot(cx - px, cy - py) < 13 : cx >= x0 && cx <= x1 && cy >= y0 && cy <= y1; }).map((p) => p.id);
      const old = model.get("selected");
      choose(small && hit.length === 1 ? (old.includes(hit[0]) ? old.filter((id) => id !== hit[0]) : [...old, hit[0]]) : hit);
      brush?.remove(); brush = null;
    } else if (mode) { model.set("budgets", dragging); model.save_changes(); dragging = null; it.soon(); }
    mode = null;
  };
  it.svg.addEventListener("pointerup", done);
  it.svg.addEventListener("pointercancel", () => { brush?.remove(); brush = null; dragging = null; mode = null; it.soon(); });
  function choose(ids) { model.set("selected", ids); model.save_changes(); it.soon(); }
  it.svg.addEventListener("keydown", (e) => {
    if (e.key === "Escape") { choose([]); return; }
    const at = placed.find((p) => p.id === (e.target.dataset?.id ?? ""));
    if (!at) return;
    if (e.key === " " || e.key === "Enter") { const old = model.get("selected"); choose(old.includes(at.id) ? old.filter((id) => id !== at.id) : [...old, at.id]); e.preventDefault(); refocus(at.id); return; }
    const across = e.key === "ArrowLeft" || e.key === "ArrowRight";
    if (!across && e.key !== "ArrowUp" && e.key !== "ArrowDown") return;
    e.preventDefault();
    const key = across ? (p) => X(p.x) : (p) => Y(p.y), order = [...placed].sort((p, q) => key(p) - key(q)), way = e.key === "ArrowRight" || e.key === "ArrowDown" ? 1 : -1;
    refocus(order[Math.max(0, Math.min(order.length - 1, order.indexOf(at) + way * (e.shiftKey ? 5 : 1)))].id, true);
  });
  function refocus(id, now) {
    const go = () => { for (const node of it.svg.querySelectorAll(".ek-point")) { node.setAttribute("tabindex", node.dataset.id === id ? 0 : -1); if (node.dataset.id === id) node.focus(); } };
    focusId = id;
    if (now) go(); else requestAnimationFrame(() => requestAnimationFrame(go));
  }
  function drawLegend(front) {
    const kinds = Object.keys(SHAPES).filter((kind) => placed.some((p) => p.kind === kind));
    const items = kinds.map((kind) => ({ kind, text: say(kind) }));
    if (front > 1) items.push({ kind: "front", shape: "line", text: say("front"), dashed: true });
    if (placed.some((p) => p.simulated)) items.push({ kind: "base", text: say("simulated"), dashed: true });
    const text = JSON.stringify(items);
    if (legendBox.dataset.items !== text) { legendBox.dataset.items = text; legendBox.replaceChildren(legend(items)); }
  }

  // controls under the picture
  const axesBox = h("div", { class: "ek-row" });
  const clear = button("clear", say("clear"), () => choose([]));
  function drawControls() {
    const options = Object.entries(figures()).map(([key, f]) => [key, f.label.replace(/ \([^)]*\)/, "")]), now = model.get("axes");
    const change = (patch, axis) => { model.set("axes", { ...model.get("axes"), ...patch }); if (axis) model.set("budgets", { ...model.get("budgets"), [axis]: null }); model.save_changes(); it.soon(); };
    const scaleSelect = (key, axis) => fill(select(key, [["", say("linear")], ["log", say("log")]], now[key] ? "log" : "", (v) => change({ [key]: v === "log" })), { "aria-label": `${say(axis)} ${say("scaleOf")}` });
    axesBox.replaceChildren(
      h("div", { class: "ek-pair" }, field(say("quality"), select("y", options, now.y, (v) => change({ y: v, ylog: false }, "y"))), field(say("scaleOf"), scaleSelect("ylog", "quality"))),
      h("div", { class: "ek-pair" }, field(say("cost"), select("x", options, now.x, (v) => change({ x: v, xlog: false }, "x"))), field(say("scaleOf"), scaleSelect("xlog", "cost"))));
  }
  drawControls();
  controls.append(axesBox, clear);
  for (const name of ["points", "budgets", "selected"]) { model.on(`change:${name}`, it.soon); signal?.addEventListener("abort", () => model.off(`change:${name}`, it.soon)); }
  const onAxes = () => { drawControls(); it.soon(); };
  model.on("change:axes", onAxes);
  signal?.addEventListener("abort", () => model.off("change:axes", onAxes));
  return { controls, soon: it.soon, table: () => frontierTable(model) };
}
function frontierTable(model) {
  const figures = Object.entries(model.get("config").figures);
  const columns = [{ label: say("model"), text: true }, { label: say("kind"), text: true }, { label: say("recipe"), text: true }];
  for (const [, f] of figures) {
    const unit = f.unit ? `, ${f.unit}` : "", show = (v) => (v === null || v === "" ? (v === null ? say("unavailable") : "") : withUnit(v, f.unit));
    columns.push({ label: f.label.replace(/ \([^)]*\)/, "") + unit, show }, { label: say("low"), show }, { label: say("high"), show });
  }
  columns.push({ label: say("speed"), text: true }, { label: say("device"), text: true }, { label: say("day"), text: true });
  const rows = model.get("points").map((p) => [p.name, say(p.kind), p.recipe, ...figures.flatMap(([key]) => { const [v, low, high] = p.figures[key] ?? [null, null, null]; return [v, low ?? "", high ?? ""]; }), p.slower || "", p.device, p.date.slice(0, 10)]);
  return { caption: say("frontierTable"), columns, rows };
}

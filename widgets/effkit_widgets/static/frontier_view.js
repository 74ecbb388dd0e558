// The picture of a frontier: points on two axes, the Pareto front with its uncertainty, two budget lines, a rectangle to select with.
// Better is always up and to the left: an axis whose smaller values are better grows the other way where it must. Up to MANY points
// are elements of the page; more are drawn on a canvas, and one element stands for the point that has the focus.
Object.assign(STRINGS, {
  quality: { en: "Quality axis" }, cost: { en: "Cost axis" }, linear: { en: "linear" }, log: { en: "logarithmic" }, scaleOf: { en: "scale" },
  front: { en: "Pareto front: nothing else is better on both axes" }, better: { en: "better" }, notOnFigure: { en: "not measured" },
  band: { en: "95% interval of the front" }, tieLink: { en: "not distinguishable: a tie" },
  region: { en: "90% at 10%" }, least: { en: "at least {v}" }, most: { en: "at most {v}" },
  budgetQuality: { en: "Quality budget" }, budgetCost: { en: "Cost budget" },
  fits: { en: "{n} of {m} fit the budget" }, brushed: { en: "{n} selected" }, inside: { en: "fits the budget" }, outside: { en: "outside the budget" }, clear: { en: "Clear selection" },
  noLog: { en: "{n} at zero cannot stand on a logarithmic axis" }, keys: { en: "Arrows move between points, Space selects." }, noPoints: { en: "no measured model yet" },
  chosen: { en: "selected" }, onFront: { en: "on the Pareto front" }, tiedFront: { en: "tied with the Pareto front" }, behind: { en: "{name} is at least as good on both axes" }, behindBy: { en: "Behind {name}: {what}" }, against: { en: "{label} {a} against {b}" }, stopped: { en: "stopped early" }, frontier: { en: "Measured models" },
});
const MANY = 150, REACH = 13; // points; pixels around one in which the pointer means it

// onstate(text, dragging): the counts in words; onpick(id): a click or Enter means this point (without it they select);
// onbrush(points): those inside the rectangle while it is drawn, null at its end; rings(): { id: letter } of chosen points
function frontierView(host, model, signal, { ui, onstate, onpick, onbrush, rings } = {}) {
  const legendBox = h("div", {}), plot = h("div", {}), controls = h("div", { class: "ek-controls" });
  host.append(legendBox, plot);
  const it = frame(plot, signal, { label: "", role: "group", ratio: 0.6, least: 280, most: 520 }, draw);
  const hot = markCanvas(it.box), canvas = markCanvas(it.box), back = s("svg", { class: "ek-back", "aria-hidden": "true" });
  it.box.prepend(back);
  it.box.classList.add("ek-frontier");
  let X, Y, all = [], placed = [], front, looks, px, py, across = [], down = [], key = [], styled = [], focusId = null, hover = null, dragging = null, mode = null, start = null, at = null, brush = null, ringed = null, ringedAt = null;
  const figures = () => model.get("config").figures;
  const fig = (axis) => figures()[model.get("axes")[axis]] ?? { label: "", unit: "", up: false };
  const clamp = (v, S) => Math.max(Math.min(...S.range), Math.min(Math.max(...S.range), S(v)));
  const spread = (v, S) => ((v[1] ?? null) === null ? null : [clamp(v[1], S), clamp(v[2], S)]);

  // budgets in the unit of the axes; null means the default share of the base, or no limit where there is no base
  function budgets() {
    const told = dragging ?? model.get("budgets"), base = all.find((d) => d.p.kind === "base"), shares = model.get("config").shares;
    return { x: told.x ?? (base ? budgetAt(base.x, shares.cost, !fig("x").up) : null), y: told.y ?? (base ? budgetAt(base.y, shares.quality, fig("y").up) : null) };
  }
  const within = (d, b) => (b.x === null || (fig("x").up ? d.x >= b.x : d.x <= b.x)) && (b.y === null || (fig("y").up ? d.y >= b.y : d.y <= b.y));

  function draw() {
    const now = [model.get("points"), JSON.stringify(model.get("axes")), it.width, it.height];
    if (now.some((v, i) => v !== key[i])) { key = now; layout(); styled = []; }
    const look = [now[0], JSON.stringify(model.get("encoding") ?? null), ui?.root.dataset.theme];
    if (look.some((v, i) => v !== styled[i])) { styled = look; ringed = null; restyle(); }
    paint();
  }
  // where everything stands: points, axes, front
  function layout() {
    const { width, height } = it, axesNow = model.get("axes"), { xlog, ylog } = axesNow, fx = fig("x"), fy = fig("y"), right = 16, top = 30, bottom = 40;
    all = onAxes(model.get("points"), axesNow);
    placed = all.filter((d) => d.x !== null && d.y !== null && !(xlog && d.x <= 0) && !(ylog && d.y <= 0));
    const base = placed.find((d) => d.p.kind === "base"), region = base && { x: budgetAt(base.x, 0.1, !fx.up), y: budgetAt(base.y, 0.9, fy.up) };
    const usable = region && region.x !== null && region.y !== null && base.x && base.y, known = (v) => (v ?? null) !== null;
    const xs = placed.flatMap((d) => d.xs).filter(known), ys = placed.flatMap((d) => d.ys).filter(known);
    if (usable) { xs.push(region.x); if (fy.up || region.y < ys.reduce((a, b) => Math.max(a, b)) * 3) ys.push(region.y); }
    const flip = ([a, z], yes) => (yes ? [z, a] : [a, z]), least = (values) => values.reduce((a, b) => Math.min(a, b), 0);
    const heights = extent(ys, { log: ylog, floor: least(ys) }), left = leftFor(heights, fy, height, ylog);
    X = scale(extent(xs, { log: xlog, floor: least(xs) }), flip([left, width - right], fx.up), xlog);
    Y = scale(heights, flip([height - bottom, top], !fy.up), ylog);
    px = Float32Array.from(placed, (d) => X(d.x)); py = Float32Array.from(placed, (d) => Y(d.y));
    placed.forEach((d, i) => { d.i = i; });
    across = [...placed].sort((a, b) => px[a.i] - px[b.i] || py[a.i] - py[b.i]); down = [...placed].sort((a, b) => py[a.i] - py[b.i] || px[a.i] - px[b.i]);
    front = frontOf(placed, axesNow, figures());
    fill(back, { viewBox: `0 0 ${width} ${height}`, height });
    back.replaceChildren();
    if (!placed.length) s("text", { x: width / 2, y: height / 2, "text-anchor": "middle", class: "ek-note" }, back, say("noPoints"));
    else axes(back, X, Y, { x: { ...fx }, y: { ...fy }, width, height, left, bottom });
    if (usable) {
      const rx = clamp(region.x, X), ry = clamp(region.y, Y), id = uid(), pattern = s("pattern", { id, width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, s("defs", {}, back));
      s("line", { x1: 0, y1: 0, x2: 0, y2: 7, style: "stroke:var(--ek-pruned)", "stroke-width": 1.6, opacity: 0.45 }, pattern);
      s("rect", { x: left, y: top, width: Math.max(0, rx - left), height: Math.max(0, ry - top), fill: `url(#${id})`, class: "ek-region" }, back);
      // in a narrow picture the words would lie on the points beside the corner
      if (width > 420 || rx - left > textWidth(say("region"))) s("text", { x: left + 4, y: ry - top > 18 ? top + 13 : ry + 13, class: "ek-halo ek-note" }, back, say("region"));
    }
    s("text", { x: width - right, y: 12, "text-anchor": "end", class: "ek-axis" }, back, width > 420 ? `${say("better")} ↖` : "↖");
    drawFront(back, left, width - right);
  }
  // the front as steps (what one can have at a cost), the 95% band of its quality, and a double line between what cannot be told apart
  function drawFront(g, left, right) {
    const list = [...front.front].sort((a, b) => px[a.i] - px[b.i]), stairs = (height) => list.map((d, n) => `${n ? `H${px[d.i]}` : `M${px[d.i]},${height(d)}`}V${height(d)}`).join("") + `H${right}`;
    if (list.length > 1) {
      const edge = (n) => (d) => clamp(d.ys[n] ?? d.y, Y), upper = stairs(edge(1)), lower = [...list].reverse().map((d, n, all) => `${n ? "" : `L${right},${edge(2)(d)}`}H${px[d.i]}${n < all.length - 1 ? `V${edge(2)(all[n + 1])}` : ""}`).join("");
      if (list.some((d) => (d.ys[1] ?? null) !== null)) s("path", { d: `${upper}${lower}Z`, class: "ek-band" }, g);
      s("path", { d: stairs((d) => py[d.i]), class: "ek-front" }, g);
    }
    for (const [a, b] of front.links) for (const cls of ["ek-tie", "ek-tie-gap"]) s("line", { x1: px[a.i], y1: py[a.i], x2: px[b.i], y2: py[b.i], class: cls, "data-tie": cls === "ek-tie" ? "same" : null }, g);
  }
  function restyle() {
    canvas.forget(); hot.forget();
    const made = encoding(model.get("points"), model.get("encoding"), ui?.root.dataset.theme, placed.length > MANY ? 4 : 6, figures());
    looks = placed.map((d) => made.look(d.p));
    const items = [...made.items], some = (list) => list.length > 0;
    if (front.front.length > 1) items.push({ kind: "front", shape: "line", text: say("front"), dashed: true });
    if (some(front.links)) items.push({ kind: "front", shape: "ties", text: say("tieLink") });
    if (placed.some((d) => d.p.simulated)) items.push({ kind: "base", text: say("simulated"), dashed: true });
    legendBox.replaceChildren(legend(items));
  }
  // what changes with the budget, the selection and the focus
  function paint() {
    const { svg, width, height } = it, b = budgets(), selected = new Set(model.get("selected")), many = placed.length > MANY, fx = fig("x"), fy = fig("y");
    const inside = placed.map((d) => within(d, b)), fits = inside.reduce((n, yes, i) => n + (yes && !placed[i].p.state), 0), focused = it.svg.contains(document.activeElement) ? document.activeElement.dataset : {};
    svg.replaceChildren();
    s("rect", { x: Math.min(...X.range), y: Math.min(...Y.range), width: Math.abs(X.range[1] - X.range[0]), height: Math.abs(Y.range[1] - Y.range[0]), class: "ek-frame" }, svg);
    if (!placed.some((d) => d.id === focusId)) focusId = null;
    canvas.clear(width, height);
    if (ringed !== model.get("selected") || ringedAt !== key) { hot.clear(width, height); ringed = model.get("selected"); ringedAt = key; if (many) for (const d of placed) if (selected.has(d.id)) hot.ring(px[d.i], py[d.i], looks[d.i].r + 1.5); }
    const list = placed.length ? s("g", { role: "listbox", "aria-multiselectable": "true", "aria-label": `${fy.label}, ${fx.label}. ${say("keys")}` }, svg) : svg;
    const current = placed.find((d) => d.id === focusId) ?? across[0];
    if (many) {
      for (const yes of [false, true]) for (const d of placed) if (inside[d.i] === yes) canvas.mark(px[d.i], py[d.i], looks[d.i], yes ? 1 : 0.35);
      for (const d of front.front.length < 40 ? front.front : []) canvas.whisker(whiskerPath(px[d.i], py[d.i], spread(d.xs, X), spread(d.ys, Y)), looks[d.i].colour);
      if (current) option(current, inside, selected, list, true);
    } else for (const d of across) option(d, inside, selected, list, false);
    const names = s("g", { "aria-hidden": "true", "pointer-events": "none" }, svg);
    // A to the left of its point and B to the right, so that neither hides the other
    const ringedNow = Object.entries(rings?.() ?? {}).map(([id, letter]) => [placed.find((q) => q.id === id), letter]).filter(([d]) => d), letterAt = (d, letter) => px[d.i] + (looks[d.i].r + 7) * (letter === "A" ? -1 : 1);
    for (const { of: d, x, y, anchor } of placed.length <= 12 ? placeLabels(placed.map((d) => ({ of: d, text: d.p.name, x: px[d.i], y: py[d.i] })), { left: 52, right: width - 8, top: 18, bottom: height - 44 }, ringedNow.filter(([, letter]) => letter).map(([d, letter]) => [letterAt(d, letter) - (letter === "A" ? 10 : 0), py[d.i] - looks[d.i].r - 14, 10, 14])) : [])
      s("text", { x, y, "text-anchor": anchor, class: `ek-halo${inside[d.i] ? "" : " ek-note"}` }, names, d.p.name);
    for (const [d, letter] of ringedNow) {
      s("circle", { cx: px[d.i], cy: py[d.i], r: looks[d.i].r + 5, class: "ek-ring ek-chosen", "data-ring": letter }, names);
      if (letter) s("text", { x: letterAt(d, letter), y: py[d.i] - looks[d.i].r - 3, "text-anchor": letter === "A" ? "end" : "start", class: "ek-halo ek-letter" }, names, letter);
    }
    if (placed.length) { line("x", b.x); line("y", b.y); }
    if (brush) svg.append(brush);
    fill(svg, { "aria-label": `${fy.label}, ${fx.label}` });
    for (const node of [svg, it.box]) { node.dataset.points = placed.length; node.dataset.fits = fits; node.dataset.selected = selected.size; }
    if (focused.budget) svg.querySelector(`[data-budget="${focused.budget}"]`)?.focus();
    else if (focused.id) [...svg.querySelectorAll(".ek-point")].find((node) => node.dataset.id === focusId)?.focus();
    const zero = all.filter((d) => d.x !== null && d.y !== null).length - placed.length, missing = all.length - placed.length - zero, notes = [say("fits", { n: fits, m: placed.filter((d) => !d.p.state).length })];
    if (selected.size) notes.push(say("brushed", { n: selected.size }));
    if (zero) notes.push(say("noLog", { n: zero }));
    if (missing) notes.push(say("unknown", { n: missing }));
    onstate?.(`${notes.join("; ")}.`, dragging);
    clear.hidden = !selected.size;
  }
  // an element of the page for one point. alone: the canvas shows it and this stands for the focus only
  function option(d, inside, selected, list, alone) {
    const p = d.p, look = looks[d.i], [cx, cy] = [px[d.i], py[d.i]], yes = inside[d.i];
    const g = s("g", {
      class: `ek-point ek-mark-${p.kind}${look.hollow ? " ek-hollow" : ""}${look.dashed ? " ek-dashed" : ""}${look.outline ? " ek-outline" : ""}`, role: "option", "data-id": p.id, "data-kind": p.kind, "data-fits": String(yes), style: `--ek-mark:${look.colour}`,
      "aria-selected": String(selected.has(p.id)), "aria-label": spokenPoint(d, yes), tabindex: alone || (focusId ?? across[0].id) === p.id ? 0 : -1, opacity: yes || alone ? 1 : 0.35, "aria-posinset": alone ? across.indexOf(d) + 1 : null, "aria-setsize": alone ? placed.length : null,
    }, list);
    if (!alone) {
      whiskers(g, cx, cy, spread(d.xs, X), spread(d.ys, Y));
      s("path", { d: shapePath(look.shape, look.r), transform: `translate(${cx} ${cy})`, class: "ek-mark" }, g);
      if (selected.has(p.id)) s("circle", { cx, cy, r: 10.5, class: "ek-ring" }, g);
    }
    s("circle", { cx, cy, r: REACH, fill: "transparent" }, g); // a target of 26 px
    g.addEventListener("focus", () => { focusId = p.id; show(d); s("circle", { cx, cy, r: 14, class: "ek-focus" }, g); });
    g.addEventListener("blur", () => { it.tip.hide(); g.querySelector(".ek-focus")?.remove(); });
  }
  // in words; long: against what, and by how much
  function standing(d, long) {
    if (d.p.state) return say("stopped");
    if (front.first.has(d.id)) return say("onFront");
    const over = front.by(d);
    if (front.tied.has(d.id) || !over) return say("tiedFront");
    const shown = (axis, v, w) => { const text = withUnit(v, fig(axis).unit); return text === withUnit(w, fig(axis).unit) ? v.toPrecision(6) : text; };
    const against = (axis, a, b) => (a === b ? "" : say("against", { label: shortLabel(fig(axis)), a: shown(axis, a, b), b: shown(axis, b, a) }));
    return long ? say("behindBy", { name: over.p.name, what: [against("y", over.y, d.y), against("x", over.x, d.x)].filter(Boolean).join(", ") }) : say("behind", { name: over.p.name });
  }
  const tiesOf = (p) => { const kind = figures()[model.get("axes").y]?.ties, list = new Set(p.ties?.[kind] ?? []); return list.size ? model.get("points").filter((q) => list.has(q.n)).map((q) => q.name) : []; };
  const tieText = (ties) => ties.slice(0, 3).join(", ") + (ties.length > 3 ? `, ${say("more", { n: ties.length - 3 })}` : "");
  function spokenPoint(d, inside) {
    const fx = fig("x"), fy = fig("y"), { p } = d, ties = tiesOf(p);
    return [p.name, say(p.kind), `${fy.label} ${intervalText(d.ys, fy.unit)}`, `${fx.label} ${intervalText(d.xs, fx.unit)}`, p.slower || "", p.simulated ? say("simulated") : "", ties.length ? `${say("ties")} ${tieText(ties)}` : "", standing(d), say(inside ? "inside" : "outside")].filter(Boolean).join("; ");
  }
  function show(d) {
    const fx = fig("x"), fy = fig("y"), { p } = d, ties = tiesOf(p);
    const pairs = [[shortLabel(fy), intervalText(d.ys, fy.unit)], [shortLabel(fx), intervalText(d.xs, fx.unit)], [say("kind"), say(p.kind)]];
    if (p.recipe !== p.name && p.kind !== "base") pairs.push([say("recipe"), p.recipe]);
    if (ties.length) pairs.push([say("ties"), tieText(ties)]);
    if (p.slower) pairs.push([say("speed"), p.slower]);
    pairs.push([say("device"), p.device + (p.simulated ? ` (${say("simulated")})` : "")]);
    const text = standing(d);
    it.tip.show(px[d.i], py[d.i], text ? `${p.name}: ${text}` : p.name, pairs, placed.length > MANY ? [] : placed.filter((q) => q !== d).map((q) => [px[q.i], py[q.i]]));
    it.box.dataset.hover = p.name;
  }
  // a budget line is a slider: drag it, or arrows (Shift: ten times as far)
  function line(axis, value) {
    const S = axis === "x" ? X : Y, f = fig(axis), [r0, r1] = [Math.min(...S.range), Math.max(...S.range)], vertical = axis === "x", shown = value ?? S.domain[f.up ? 0 : 1];
    const to = value === null ? S(S.domain[f.up ? 0 : 1]) : Math.max(r0, Math.min(r1, S(value))), text = say(f.up ? "least" : "most", { v: withUnit(shown, f.unit) });
    const g = s("g", { class: `ek-budget ek-budget-${axis}`, role: "slider", tabindex: 0, "data-budget": vertical ? "cost" : "quality", "aria-orientation": vertical ? "horizontal" : "vertical", "aria-label": `${say(vertical ? "budgetCost" : "budgetQuality")}: ${f.label}`, "aria-valuemin": Math.min(...S.domain), "aria-valuemax": Math.max(...S.domain), "aria-valuenow": shown, "aria-valuetext": text }, it.svg);
    const ends = vertical ? { x1: to, x2: to, y1: Math.min(...Y.range), y2: Math.max(...Y.range) } : { x1: Math.min(...X.range), x2: Math.max(...X.range), y1: to, y2: to }, knob = vertical ? [to, ends.y1] : [ends.x2, to];
    s("line", { ...ends, class: "ek-grab" }, g);
    s("line", ends, g);
    s("circle", { cx: knob[0], cy: knob[1], r: 12, fill: "transparent" }, g);
    s("circle", { cx: knob[0], cy: knob[1], r: 5.5, class: "ek-knob" }, g);
    const flipText = vertical && to > it.width / 2;
    s("text", vertical ? { x: flipText ? to - 9 : to + 9, y: ends.y1 + 4, "text-anchor": flipText ? "end" : "start", class: "ek-halo" } : { x: ends.x2 - 9, y: to + (to > it.height - 70 ? -6 : 15), "text-anchor": "end", class: "ek-halo" }, g, text);
    g.addEventListener("pointerdown", (e) => { mode = axis; dragging = { ...model.get("budgets") }; e.preventDefault(); e.stopPropagation(); it.svg.setPointerCapture(e.pointerId); });
    g.addEventListener("keydown", (e) => {
      const way = { ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1 }[e.key];
      if (e.key === "Home" || e.key === "End") set(axis, S.invert((e.key === "Home") === vertical ? r0 : r1));
      else if (way) set(axis, S.invert(Math.max(r0, Math.min(r1, to + way * ((r1 - r0) / 100) * (e.shiftKey ? 10 : 1)))));
      else return;
      e.preventDefault(); e.stopPropagation();
    });
  }
  function put(values) { for (const [name, value] of Object.entries(values)) model.set(name, value); model.save_changes(); it.soon(); }
  const set = (axis, value) => put({ budgets: { ...model.get("budgets"), [axis]: Number(value.toPrecision(4)) } });
  const choose = (ids) => put({ selected: ids });
  const toggle = (id) => { const old = model.get("selected"); choose(old.includes(id) ? old.filter((other) => other !== id) : [...old, id]); };

  const where = (e) => { const box = it.svg.getBoundingClientRect(); return [e.clientX - box.left, e.clientY - box.top]; };
  function nearest(x, y) {
    let best = null, far = REACH * REACH;
    for (let i = 0; i < placed.length; i++) { const dx = px[i] - x, dy = py[i] - y, d2 = dx * dx + dy * dy; if (d2 < far) { far = d2; best = placed[i]; } }
    return best;
  }
  function boxed() {
    const [x0, x1] = [Math.min(at[0], start[0]), Math.max(at[0], start[0])], [y0, y1] = [Math.min(at[1], start[1]), Math.max(at[1], start[1])];
    return { x0, x1, y0, y1, hit: placed.filter((_, i) => px[i] >= x0 && px[i] <= x1 && py[i] >= y0 && py[i] <= y1) };
  }
  let brushing = 0; // the frame in which what is inside is drawn
  function drawBrush() {
    brushing = 0;
    if (mode !== "brush") return;
    const { x0, x1, y0, y1, hit } = boxed();
    brush ??= s("rect", { class: "ek-brush" }, it.svg);
    fill(brush, { x: x0, y: y0, width: x1 - x0, height: y1 - y0 });
    hot.clear(it.width, it.height); ringed = null;
    for (const d of hit) hot.ring(px[d.i], py[d.i], looks[d.i].r + 2);
    it.box.dataset.brushed = hit.length;
    onbrush?.(hit.map((d) => d.p));
  }
  it.svg.addEventListener("pointerdown", (e) => {
    if (mode || e.button || !placed.length) return;
    start = at = where(e); mode = "brush"; it.tip.hide();
    if (e.pointerType !== "touch") it.svg.setPointerCapture(e.pointerId);
  });
  it.svg.addEventListener("pointermove", (e) => {
    at = where(e);
    if (!mode) {
      const near = nearest(...at);
      if (near !== hover) { hover = near; if (near) show(near); else it.tip.hide(); it.svg.style.cursor = near ? "pointer" : ""; }
    } else if (mode === "brush") brushing ||= requestAnimationFrame(drawBrush);
    else {
      const S = mode === "x" ? X : Y, value = mode === "x" ? at[0] : at[1];
      dragging = { ...dragging, [mode]: Number(S.invert(Math.max(Math.min(...S.range), Math.min(Math.max(...S.range), value))).toPrecision(4)) };
      it.soon();
    }
  });
  it.svg.addEventListener("pointerleave", () => { if (!mode) { hover = null; it.tip.hide(); } });
  function endBrush() { brush?.remove(); brush = null; delete it.box.dataset.brushed; onbrush?.(null); }
  it.svg.addEventListener("pointerup", (e) => {
    const was = mode;
    mode = null;
    if (was === "brush") {
      at = where(e);
      const { x0, x1, y0, y1, hit } = boxed(), small = x1 - x0 < 5 && y1 - y0 < 5, one = small ? nearest(...at) : null;
      endBrush();
      if (!small) choose(hit.map((d) => d.id));
      else if (!one) choose([]);
      else { focusId = one.id; if (onpick && !e.shiftKey && !e.ctrlKey && !e.metaKey) onpick(one.id); else toggle(one.id); it.soon(); }
    } else if (was) { const told = dragging; dragging = null; put({ budgets: told }); }
  });
  it.svg.addEventListener("pointercancel", () => { endBrush(); dragging = null; mode = null; it.soon(); });
  it.svg.addEventListener("keydown", (e) => {
    if (e.key === "Escape") { if (mode) { mode = null; dragging = null; endBrush(); it.soon(); } else choose([]); return; }
    const here = placed.find((d) => d.id === e.target.dataset?.id);
    if (!here) return;
    if (e.key === "Enter" && onpick) { e.preventDefault(); onpick(here.id); return it.soon(); }
    if (e.key === " " || e.key === "Enter") { e.preventDefault(); return toggle(here.id); }
    const sideways = e.key === "ArrowLeft" || e.key === "ArrowRight", order = sideways ? across : down;
    if (!sideways && e.key !== "ArrowUp" && e.key !== "ArrowDown") return;
    e.preventDefault();
    const way = e.key === "ArrowRight" || e.key === "ArrowDown" ? 1 : -1;
    focusOn(order[Math.max(0, Math.min(order.length - 1, order.indexOf(here) + way * (e.shiftKey ? (placed.length > MANY ? 50 : 5) : 1)))].id);
  });
  function focusOn(id) {
    focusId = id;
    const node = [...it.svg.querySelectorAll(".ek-point")].find((one) => one.dataset.id === id);
    if (node) { for (const one of it.svg.querySelectorAll(".ek-point")) one.setAttribute("tabindex", one === node ? 0 : -1); node.focus(); } else it.soon(); // the one element of the canvas moves there
  }

  // controls under the picture
  const axesBox = h("div", { class: "ek-row" }), clear = button("clear", say("clear"), () => choose([]));
  function drawControls() {
    const points = model.get("points"), now = model.get("axes"), measured = (name) => !points.length || points.some((p) => p.figures[name]);
    const options = figureEntries(figures()).map(([name, f]) => [name, shortLabel(f), measured(name) ? null : say("notOnFigure")]), text = JSON.stringify([options, now]);
    if (axesBox.dataset.key === text) return;
    axesBox.dataset.key = text;
    const focused = axesBox.contains(document.activeElement) ? document.activeElement.name : null;
    const change = (patch, axis) => put({ axes: { ...model.get("axes"), ...patch }, ...(axis ? { budgets: { ...model.get("budgets"), [axis]: null } } : {}) });
    const pair = (axis, name) => h("div", { class: "ek-pair" }, field(say(name), select(axis, options, now[axis], (v) => change({ [axis]: v, [`${axis}log`]: false }, axis))),
      field(say("scaleOf"), fill(select(`${axis}log`, [["", say("linear")], ["log", say("log")]], now[`${axis}log`] ? "log" : "", (v) => change({ [`${axis}log`]: v === "log" })), { "aria-label": `${say(name)} ${say("scaleOf")}` })));
    axesBox.replaceChildren(pair("y", "quality"), pair("x", "cost"));
    if (focused) axesBox.querySelector(`[name="${focused}"]`)?.focus();
  }
  drawControls();
  controls.append(axesBox, clear);
  const follow = (name, f) => { model.on(`change:${name}`, f); signal?.addEventListener("abort", () => model.off(`change:${name}`, f)); };
  for (const name of ["budgets", "selected", "encoding"]) follow(name, it.soon);
  for (const name of ["axes", "points"]) follow(name, () => { drawControls(); it.soon(); });
  if (ui) onTheme(ui, it.soon);
  return { controls, soon: it.soon, box: it.box, focusOn, standing: (id, long) => { const d = placed.find((one) => one.id === id); return d ? standing(d, long) : ""; }, placed: () => placed, table: () => frontierTable(model) };
}

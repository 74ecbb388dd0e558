// What a frontier says, without a picture: the Pareto front, ties, the choice under a budget, the verdict, the table.
// Twins of effkit.spec.frontier and effkit_widgets._frontier, so that a page without a kernel can do all of it; tests compare them.
Object.assign(STRINGS, {
  unknown: { en: "{n} not measured on these axes (see the table)" }, ties: { en: "not distinguishable from" }, more: { en: "{n} more" },
  base: { en: "base model" }, quantized: { en: "quantized" }, pruned: { en: "pruned" }, distilled: { en: "distilled" }, combined: { en: "combined" },
  kind: { en: "kind" }, model: { en: "model" }, recipe: { en: "recipe" }, device: { en: "device" }, speed: { en: "speed" }, day: { en: "measured on" }, low: { en: "low" }, high: { en: "high" }, simulated: { en: "simulated" },
  frontierTable: { en: "Measured models; an interval holds the true value with 95% confidence" },
  saysNothing: { en: "Nothing has been measured on these axes yet." }, saysNoBase: { en: "{n} measured; the base is not among them, so a budget cannot be a share of it: ek.measure(model) adds it." },
  saysOnlyBase: { en: "Only the base, {name}, has been measured so far." }, saysZero: { en: "On these axes the base is zero, so nothing can be a share of it; {n} of {m} are on the front." },
  saysYes: { en: "Yes: {name} keeps {kept} at {paid} ({share} was asked)." }, saysNo: { en: "No: nothing measured here keeps {share}; the cheapest that keeps {quality} is {name}, at {paid}." },
  saysNone: { en: "No: nothing measured here keeps {share}, and no compressed model keeps {quality} at any cost." },
  recordedBoard: { en: "Recorded on {device}, {date}." }, tiesAmong: { en: "Ties are looked for among the {n} of {m} models that can be on a front." },
  asked: { en: "{quality} of the base's quality at {cost} of its {label}" }, ofThe: { en: "{v} of the {label}" }, slowerToo: { en: ", and {n} more are slower too" },
});
// Points that no other dominates, by rising x: sorted by cost, only a better y than all before can stay.
function paretoFront(points, xUp, yUp) {
  const sx = xUp ? -1 : 1, sy = yUp ? -1 : 1, out = [];
  let bestX = Infinity, bestY = Infinity;
  for (const p of [...points].sort((a, b) => (a.x - b.x) * sx || (a.y - b.y) * sy)) {
    if (p.y * sy < bestY || (p.x === bestX && p.y * sy === bestY)) { bestX = p.x; bestY = p.y * sy; out.push(p); }
  }
  return xUp ? out.reverse() : out;
}
const figureEntries = (figures) => Object.entries(figures).sort(([, a], [, b]) => (a.at ?? 0) - (b.at ?? 0));
const shortLabel = (figure) => figure.label.replace(/ \([^)]*\)/, "");
// A share of the base in the axis' own unit: 0.9 of a quality that should be high, base / 0.9 of one that should be low.
const budgetAt = (base, share, up) => (base ? (up ? base * share : base / share) : null);
// value over base, or base over value where less is better: 1 is the base and more is better
const shareOf = (value, base, up) => (up ? (base ? value / base : Infinity) : value ? base / value : Infinity);

// The points on two axes, in their order: { p, id, x, y, xs, ys }, an axis' values null where unknown.
function onAxes(points, axes) {
  const none = [null, null, null];
  return points.map((p) => { const xs = p.figures[axes.x] ?? none, ys = p.figures[axes.y] ?? none; return { p, id: p.id, xs, ys, x: xs[0], y: ys[0] }; });
}
// Whether the data cannot tell two points apart in a figure: compared on text where the figure is of text, else by their intervals
// (the difference of values measured apart: Zou and Donner 2008); null where nothing was compared.
function same(a, b, name, figures) {
  const kind = figures[name]?.ties;
  if (kind) return a.ties && b.ties ? (a.ties[kind]?.includes(b.n) ?? false) : null;
  const [x, xl, xh] = a.figures[name] ?? [null], [y, yl, yh] = b.figures[name] ?? [null];
  if ((x ?? null) === null || (y ?? null) === null) return null;
  if ([xl, xh, yl, yh].some((v) => (v ?? null) === null)) return x === y;
  return x - y - Math.hypot(x - xl, yh - y) <= 0 && x - y + Math.hypot(xh - x, y - yl) >= 0;
}
// The front with its uncertainty: { front, tied: ids of points that only noise puts behind it, links: pairs that quality cannot
// tell apart, first: ids on the front, by(id): a point of the front that dominates this one, or undefined }.
function frontOf(all, axes, figures) {
  const placed = all.filter((d) => !d.p.state); // what was stopped early was measured on less text
  const up = [figures[axes.x].up, figures[axes.y].up], front = paretoFront(placed, ...up), first = new Set(front.map((q) => q.id));
  const sx = up[0] ? -1 : 1, sy = up[1] ? -1 : 1, tied = new Set(), links = [];
  const over = (q, d) => q.x * sx <= d.x * sx && q.y * sy <= d.y * sy && (q.x !== d.x || q.y !== d.y);
  const by = (d) => front.filter((q) => over(q, d));
  for (let i = 1; i < front.length; i++) if (same(front[i].p, front[i - 1].p, axes.y, figures)) links.push([front[i - 1], front[i]]);
  const ties = figures[axes.y]?.ties;
  for (const d of placed) {
    if (first.has(d.id) || (ties && !d.p.ties?.[ties]?.length)) continue;
    const better = by(d);
    if (better.every((q) => same(q.p, d.p, axes.y, figures) && same(q.p, d.p, axes.x, figures))) { tied.add(d.id); links.push([better[0], d]); }
  }
  return { front, first, tied, links, by: (d) => by(d).sort((a, b) => Math.abs(a.x - d.x) - Math.abs(b.x - d.x))[0] };
}
// A budget as a share of the base; null where the base has no such figure (or it is zero). axis: "x" or "y"
function budgetShare(axis, base, { axes, budgets, shares, figures }) {
  if ((budgets[axis] ?? null) === null) return axis === "x" ? shares.cost : shares.quality;
  const value = base?.figures[axes[axis]]?.[0];
  if (!value || !budgets[axis]) return null;
  return figures[axes[axis]].up === (axis === "y") ? budgets[axis] / value : value / budgets[axis];
}
// The best that keeps at least `quality` and costs at most `cost`, as shares of the base: most quality, and of those that the data
// cannot tell from it the cheapest; null if none does.
function pickBest(placed, base, quality, cost, axes, figures) {
  const [xUp, yUp] = [figures[axes.x].up, figures[axes.y].up];
  const fit = placed.filter((d) => !d.p.state && shareOf(d.y, base.y, yUp) >= quality && shareOf(d.x, base.x, !xUp) <= cost);
  if (!fit.length) return null;
  const best = fit.reduce((a, b) => ((yUp ? b.y > a.y : b.y < a.y) ? b : a));
  return fit.filter((d) => d === best || same(d.p, best.p, axes.y, figures)).reduce((a, b) => ((xUp ? b.x > a.x : b.x < a.x) ? b : a));
}
// The verdict for the budget of this moment, in words, and which models are slower than their base.
function verdictOf(points, state) {
  const slower = points.filter((p) => p.slower).map((p) => `${p.name} ${p.slower}`);
  const tail = slower.length ? ` ${slower.slice(0, 2).join(", ")}${slower.length > 2 ? say("slowerToo", { n: slower.length - 2 }) : ""}.` : "";
  return budgetSays(points, state) + tail;
}
function budgetSays(points, state) {
  const { axes, figures } = state, measured = onAxes(points, axes).filter((d) => d.x !== null && d.y !== null && !d.p.state);
  if (!measured.length) return say("saysNothing");
  const base = measured.find((d) => d.p.kind === "base");
  if (!base) return say("saysNoBase", { n: measured.length });
  if (measured.length === 1) return say("saysOnlyBase", { name: base.p.name });
  const quality = budgetShare("y", base.p, state), cost = budgetShare("x", base.p, state), up = [figures[axes.x].up, figures[axes.y].up];
  if (quality === null || cost === null || !base.x || !base.y) return say("saysZero", { n: paretoFront(measured, ...up).length, m: measured.length });
  const percent = (share, digits) => (Number.isFinite(share) ? `${(100 * share).toFixed(digits)}%` : "inf%"), label = figures[axes.x].label.toLowerCase();
  const share = say("asked", { quality: percent(quality, 0), cost: percent(cost, 0), label }), paid = (d) => say("ofThe", { v: percent(shareOf(d.x, base.x, true), 1), label });
  const chosen = pickBest(measured, base, quality, cost, axes, figures);
  if (chosen) return say("saysYes", { name: chosen.p.name, kept: percent(shareOf(chosen.y, base.y, up[1]), 1), paid: paid(chosen), share });
  const keeping = measured.filter((d) => shareOf(d.y, base.y, up[1]) >= quality && shareOf(d.x, base.x, !up[0]) <= Infinity);
  const cheapest = keeping.length ? keeping.reduce((a, b) => ((up[0] ? b.x > a.x : b.x < a.x) ? b : a)) : null;
  if (!cheapest || cheapest.p.kind === "base") return say("saysNone", { share, quality: percent(quality, 0) });
  return say("saysNo", { share, quality: percent(quality, 0), name: cheapest.p.name, paid: paid(cheapest) });
}
const stateOf = (model, budgets) => ({ axes: model.get("axes"), budgets: budgets ?? model.get("budgets"), shares: model.get("config").shares, figures: model.get("config").figures });

// Where and when the points were measured, told where no kernel is behind the card; and which were compared for ties, where not all were.
function provenance(live, points) {
  const whole = points.filter((p) => !p.state), compared = whole.filter((p) => p.ties).length;
  return [recordedOn(live, points), compared < whole.length ? say("tiesAmong", { n: compared, m: whole.length }) : ""].filter(Boolean).join(" ");
}
function recordedOn(live, points) {
  if (live || !points.length) return "";
  const each = (of) => [...new Set(points.map(of))].filter(Boolean).sort(), days = each((p) => p.date?.slice(0, 10));
  return say("recordedBoard", { device: each((p) => p.device).join(", "), date: days.length > 1 ? `${days[0]} – ${days.at(-1)}` : days[0] });
}

// extra: more columns [{ label, text, of(point) }] before the device
function frontierTable(model, extra = []) {
  const points = model.get("points"), figures = figureEntries(model.get("config").figures).filter(([key]) => points.some((p) => p.figures[key]));
  const columns = [{ label: say("model"), text: true }, { label: say("kind"), text: true }, { label: say("recipe"), text: true }];
  for (const [, f] of figures) {
    const unit = f.unit ? `, ${f.unit}` : "", show = (v) => (v === "" ? "" : v === null ? say("unavailable") : withUnit(v, f.unit));
    columns.push({ label: shortLabel(f) + unit, show }, { label: say("low"), show }, { label: say("high"), show });
  }
  columns.push(...extra, { label: say("speed"), text: true }, { label: say("device"), text: true }, { label: say("day"), text: true });
  const rows = points.map((p) => [p.name, say(p.kind), p.recipe, ...figures.flatMap(([key]) => { const [v, low, high] = p.figures[key] ?? [null, null, null]; return [v, low ?? "", high ?? ""]; }), ...extra.map((c) => c.of(p)), p.slower || "", p.device, p.date.slice(0, 10)]);
  return { caption: say("frontierTable"), columns, rows };
}

// CostCard: quality against cost, the region that was asked for, every figure, and a verdict; all computed here (capability.js).
Object.assign(STRINGS, {
  cardTitle: { en: "What {student} keeps of {teacher}, and at what cost" },
  cardHint: { en: "The shaded corner is what was asked for. Change the price, the limits or the kind of cost; every figure and the verdict follow." },
  price: { en: "Price per 1000 queries" }, latency: { en: "Latency at batch 1, median" }, bytes: { en: "Stored bytes" }, memory: { en: "Peak memory" }, energy: { en: "Energy per query" },
  throughput: { en: "Throughput" }, retained: { en: "Quality retained" }, above: { en: "Quality retained above chance" }, training: { en: "Training time" }, trainingCost: { en: "Training cost" }, breakEven: { en: "Break-even, queries" },
  gloss_retained: { en: "The score as a share of the teacher's score" }, gloss_above: { en: "(score - chance) as a share of (teacher's score - chance), where guessing scores {chance}" },
  gloss_latency: { en: "Half of the queries, one at a time, take no longer" }, gloss_throughput: { en: "Queries a second at full load; it decides the price" },
  gloss_price: { en: "Price per hour / queries an hour / share of time busy x 1000" }, gloss_energy: { en: "From a counter; where there is none it is unavailable, not zero" },
  gloss_trainingCost: { en: "Training time at the price per hour" }, gloss_breakEven: { en: "Queries after which the training has paid for itself against the teacher" },
  gloss_bytes: { en: "As stored, scales included; 1 MB is 1,000,000 bytes" }, gloss_memory: { en: "Highest while it answered" },
  never: { en: "never" }, queries: { en: "{v} queries" }, openEnd: { en: "{low} or more" }, perSecond: { en: "queries/s" },
  figure: { en: "figure" }, ofTeacherColumn: { en: "student / teacher" }, teacherRole: { en: "teacher" }, studentRole: { en: "student" }, otherRole: { en: "baseline" },
  simulatedSide: { en: "simulated" }, recordedSide: { en: "recorded" }, theAnswer: { en: "cheapest that the data cannot tell from the best" },
  figuresTitle: { en: "Figures" }, planeTitle: { en: "Quality against cost" },
  region: { en: "{limits} of the teacher" }, keepsLine: { en: "{v} of the teacher's {score}" }, costLine: { en: "{v} of its {what}" }, better: { en: "better" },
  pointKeys: { en: "Arrow keys move between models." }, nothingHere: { en: "no model has both figures" }, belowPlane: { en: "{names}: the score lies below the picture" }, zeroCost: { en: "{names}: no cost, so no place on a logarithmic axis" }, notOnAxes: { en: "{names}: not measured on these axes" },
  hourField: { en: "Price per hour, $" }, teacherHour: { en: "Teacher's machine, $ per hour" }, busyField: { en: "Busy, % of paid time" }, qualityField: { en: "Quality asked, %" }, costField: { en: "Cost asked, %" },
  byField: { en: "Cost is" }, chanceField: { en: "Quality counts" }, fromZero: { en: "from zero" }, fromChance: { en: "above chance" }, reset: { en: "Reset" },
  busyGloss: { en: "Share of the paid time in which the machine answers queries. At 100% the price is the lowest it can be." }, teacherGloss: { en: "The teacher was measured on another machine. Empty: the same price." },
  wrongNumber: { en: "Not used: {field} must be above 0{most}." }, atMost: { en: " and at most {v}" },
  measuredOn: { en: "Measured on {device}, {date}." }, recordedOn: { en: "Recorded on {device}, {date}." }, aQuery: { en: "A query is {query}." }, priceFrom: { en: "Price: {source}." }, ownPrice: { en: "Price: yours." },
  cancels: { en: "All were measured on one machine, so its price cancels out of the shares and the break-even." }, unpaired: { en: "Quality retained combines the intervals of both sides; in pairs on the same texts it would be narrower." },
  twoDevices: { en: "Measured on different devices: latencies do not compare, prices do." },
  side: { en: "model" }, role: { en: "role" }, low: { en: "low" }, high: { en: "high" }, device: { en: "device" }, day: { en: "measured on" }, costTable: { en: "All figures; an interval holds the true value with 95% confidence" },
});
// $0.00000278 rather than 2.78e-06: prices are compared by their zeros
function moneyText(v) {
  if (v === null || v === undefined) return say("unavailable");
  if (v !== 0 && v < 1e-4 && v >= 1e-10) return `$${v.toFixed(2 - Math.floor(Math.log10(v))).replace(/0+$/, "")}`;
  return `$${three(v)}`;
}
const countText = (v) => Number(v.toPrecision(3)).toLocaleString("en");
const bare = { throughput: three, latency: three, energy: three, price: (v) => moneyText(v).slice(1), trainingCost: (v) => moneyText(v).slice(1) }; // an interval does not repeat the unit
const COST_SHOW = { price: moneyText, latency: (v) => withUnit(v, "ms"), bytes: bytesText, memory: bytesText, energy: (v) => withUnit(v, "J") };
// the value and its interval
function shown(e, show, key) {
  const short = bare[key] ?? show;
  if (e[0] === null) return [say("unavailable"), ""];
  if (e[1] !== null && e[2] === null) return [show(e[0]), `[${say("openEnd", { low: short(e[1]) })}]`];
  return [show(e[0]), e[1] === null || e[1] === e[2] ? "" : `[${short(e[1])}, ${short(e[2])}]`];
}
// rows of the table: [key, gloss, of(side) -> estimate or word, show, share(side) -> estimate or null]
function figureRows(c, by) {
  const costs = (key) => [key, (x) => c.cost(key, x), COST_SHOW[key], (x) => c.share(key, x)];
  const score = c.student.score_name;
  return [
    ["score", (x) => x.quality, three, null, score],
    ["retained", (x) => c.kept(x, false), percent, null],
    ...(c.chance === null ? [] : [["above", (x) => c.kept(x, true), percent, null]]),
    costs("price"), costs("latency"),
    ["throughput", (x) => x.throughput, (v) => withUnit(v, say("perSecond")), (x) => ratioOf(x.throughput, c.teacher.throughput)],
    costs("bytes"), costs("memory"), costs("energy"),
    ["training", (x) => exactly(x.training), duration, null], ["trainingCost", c.trainingCost, moneyText, null],
    ["breakEven", (x) => (x === c.teacher ? null : c.breakEven(x)), countText, null],
  ];
}
export default {
  render: guarded(({ model, el, signal }) => {
    const config = model.get("config"), first = { ...model.get("settings") };
    const [teacher, student] = config.sides, now = () => capability(config, model.get("settings"));
    const ui = card(el, model, signal, { widget: "CostCard", title: say("cardTitle", { student: student.name, teacher: teacher.name }), hint: say("cardHint") });
    const verdict = h("p", { class: "ek-verdict", role: "status" });
    const plane = h("div", { class: "ek-panel" }, h("h4", {}, say("planeTitle"))), figures = h("div", { class: "ek-panel ek-landing" }, h("h4", {}, say("figuresTitle")));
    const notes = h("ul", { class: "ek-notes ek-quiet" });
    ui.picture.append(verdict, plane, figures);
    const view = costPlane(plane, model, signal, now, (list) => drawNotes(list));
    const scroll = h("div", { class: "ek-scroll", tabindex: "0", role: "region", "aria-label": say("figuresTitle") });
    figures.append(scroll, notes);

    function drawVerdict(c) {
      const text = c.verdict(), at = text.indexOf(":") + 1;
      if (verdict.textContent === text) return;
      verdict.dataset.answer = c.within();
      verdict.replaceChildren(h("strong", {}, text.slice(0, at)), plain(text.slice(at)));
    }
    function drawFigures(c) {
      const name = (x) => h("th", { scope: "col", "data-side": x.name }, h("span", { class: "ek-role" }, mark(x, c), roleOf(c, x)), h("span", { class: "ek-name" }, x.name),
        [x.simulated && say("simulatedSide"), x.recorded && say("recordedSide")].filter(Boolean).map((word) => h("span", { class: "ek-range" }, word)));
      const cell = (e, show, side, key) => {
        if (e === null) return h("td", { class: "ek-quiet", "data-side": side, "data-figure": key }, "–");
        const [value, range] = e === "never" ? [say("never"), ""] : shown(e, show, side === "share" ? "share" : key);
        return h("td", { "data-side": side, "data-figure": key, class: e[0] === null ? "ek-quiet" : null }, value, range ? [" ", h("span", { class: "ek-range" }, range)] : null);
      };
      const head = h("tr", {}, h("th", { scope: "col", class: "ek-text" }, say("figure")), name(c.teacher), name(c.student), h("th", { scope: "col" }, say("ofTeacherColumn")), c.others.map(name));
      const body = figureRows(c).map(([key, of, show, share, label]) => {
        const line = (x) => cell(of(x), show, x.name, key), gloss = STRINGS[`gloss_${key}`] ? say(`gloss_${key}`, { chance: three(c.chance) }) : null;
        return h("tr", { "data-row": key }, h("th", { scope: "row", class: "ek-text", title: gloss }, label ?? say(key)), line(c.teacher), line(c.student), cell(share ? share(c.student) : null, percent, "share", key), c.others.map(line));
      });
      const left = scroll.scrollLeft;
      scroll.replaceChildren(h("table", { class: "ek-table ek-figures", "data-many": String(c.sides.length > 3) }, h("thead", {}, head), h("tbody", {}, body)));
      scroll.scrollLeft = left;
    }
    const one = (key) => [...new Set(config.sides.map(key).filter(Boolean))];
    function drawNotes(missing) {
      const devices = one((x) => x.device), list = [...missing];
      if (devices.length > 1) list.push(say("twoDevices")); else if (config.sides.every((x) => !x.price_per_hour) && model.get("settings").teacher_price_per_hour === null) list.push(say("cancels"));
      if (!config.retained && student.quality[0] !== null) list.push(say("unpaired"));
      notes.replaceChildren(...list.map((text) => h("li", {}, text)));
    }
    function drawState() {
      const days = one((x) => x.date.slice(0, 10)).sort(), settings = model.get("settings"), live = ui.live();
      const where = { device: one((x) => x.device).join(", "), date: days.length > 1 ? `${days[0]} – ${days.at(-1)}` : days[0] ?? say("unavailable") };
      const source = settings.price_per_hour === config.price_per_hour && config.price_source !== "given" ? say("priceFrom", { source: config.price_source }) : say("ownPrice");
      setText(ui.state, [say(live ? "measuredOn" : "recordedOn", where), config.query && say("aQuery", { query: config.query }), source].filter(Boolean).join(" "));
      ui.setState(live ? "idle" : "recorded");
    }
    const fields = costFields(ui, first, now);
    const twin = tableTwin(ui, () => costTable(now()), "cost.csv");
    ui.controls.append(fields.node, twin.toggle);
    function update() {
      const c = now();
      drawVerdict(c); drawFigures(c); drawState(); fields.update(); twin.update(); view.soon();
    }
    ui.on("change:settings", update);
    ui.onlive = drawState;
    update();
  }),
};
const roleOf = (c, side) => say(side === c.teacher ? "teacherRole" : side === c.student ? "studentRole" : "otherRole");
const looks = (c, x) => `ek-mark-${x.kind}${c.others.includes(x) ? " ek-hollow" : ""}${x.recorded || x.simulated ? " ek-dashed" : ""}`;
function mark(x, c) {
  const icon = s("svg", { viewBox: "-8 -8 16 16", class: `ek-icon ${looks(c, x)}`, "aria-hidden": "true" });
  s("path", { d: shapePath(SHAPES[x.kind], 5.5), class: "ek-mark" }, icon);
  return icon;
}

// the plane: log cost rightward, quality upward, the region asked for in the upper left corner
function costPlane(host, model, signal, now, tellMissing) {
  const legendBox = h("div", {}), plot = h("div", {});
  host.append(legendBox, plot);
  const it = frame(plot, signal, { label: "", role: "group", ratio: 0.36, least: 280, most: 440 }, draw);
  let X, Y, placed = [], focusName = null, c;
  function draw() {
    c = now();
    const { svg, width, height } = it, { by, quality, cost, above_chance: above } = model.get("settings"), top = 30, bottom = 42, right = 16;
    const points = c.sides.map((x) => ({ side: x, x: c.cost(by, x), y: x.quality }));
    const [t0] = c.cost(by, c.teacher), [q0] = c.teacher.quality, base = above ? c.chance ?? 0 : 0;
    const asked = t0 && q0 !== null ? { x: t0 * cost, y: base + quality * (q0 - base) } : null;
    // a baseline far below (the majority class) would press all others together: it is named under the table instead
    const near = points.slice(0, 2).map((p) => p.y[0]).concat(asked ? [asked.y] : []).filter((v) => v !== null), least = 2 * Math.min(...near) - Math.max(...near) - 0.05 * Math.abs(q0);
    const below = points.slice(2).filter((p) => p.y[0] !== null && p.y[0] < least);
    placed = points.filter((p) => p.x[0] !== null && p.x[0] > 0 && p.y[0] !== null && !below.includes(p));
    const names = (list) => list.map((p) => p.side.name).join(", "), zero = points.filter((p) => p.x[0] === 0 && p.y[0] !== null && !below.includes(p)), missing = points.filter((p) => p.x[0] === null || p.y[0] === null);
    tellMissing([below.length ? say("belowPlane", { names: names(below) }) : null, zero.length ? say("zeroCost", { names: names(zero) }) : null, missing.length ? say("notOnAxes", { names: names(missing) }) : null].filter(Boolean));
    const xs = placed.flatMap((p) => p.x).concat(asked ? [asked.x] : []).filter((v) => v !== null), ys = placed.flatMap((p) => p.y).concat(asked ? [asked.y] : []).filter((v) => v !== null);
    const axisX = { label: say(by), unit: by === "price" ? "" : by === "latency" ? "ms" : by === "energy" ? "J" : "bytes", show: by === "price" ? moneyText : null }, axisY = { label: c.student.score_name, unit: "" };
    const heights = extent(ys, { floor: Math.min(0, ...ys), air: 0.09 }), left = leftFor(heights, axisY, height);
    X = scale(extent(xs, { log: true, air: 0.09 }), [left, width - right], true);
    Y = scale(heights, [height - bottom, top]);
    svg.replaceChildren();
    const back = s("g", { "aria-hidden": "true" }, svg);
    s("rect", { x: left, y: top, width: width - left - right, height: height - top - bottom, class: "ek-frame" }, back);
    if (!placed.length) s("text", { x: width / 2, y: height / 2, "text-anchor": "middle", class: "ek-note" }, back, say("nothingHere"));
    else axes(back, X, Y, { x: axisX, y: axisY, width, height, left, bottom });
    s("text", { x: width - right, y: 12, "text-anchor": "end", class: "ek-axis" }, back, width > 420 ? `${say("better")} ↖` : "↖");
    const taken = [];
    if (asked && placed.length) {
      const rx = X(asked.x), ry = Y(asked.y), foot = height - bottom, id = uid();
      const pattern = s("pattern", { id, width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, s("defs", {}, back));
      s("line", { x1: 0, y1: 0, x2: 0, y2: 7, style: "stroke:var(--ek-pruned)", "stroke-width": 1.6, opacity: 0.5 }, pattern);
      s("rect", { x: left, y: top, width: rx - left, height: ry - top, fill: `url(#${id})`, class: "ek-region" }, back);
      s("path", { d: `M${left},${ry}H${width - right}M${rx},${top}V${foot}`, class: "ek-limit" }, back);
      const write = (x, y, anchor, text) => { s("text", { x, y, "text-anchor": anchor, class: "ek-halo ek-note" }, back, text); const w = textWidth(text); taken.push([anchor === "end" ? x - w : x, y - 12, w, 15]); };
      const fits = (room, ...texts) => texts.find((text) => textWidth(text) < room) ?? texts.at(-1), limits = say("limits", { q: percent(quality), c: percent(cost) }), room = width - right - rx;
      if (textWidth(limits) < rx - left - 8) write(left + 5, top + 14, "start", fits(rx - left - 8, say("region", { limits }), limits));
      const keep = say("keepsLine", { v: percent(quality), score: above ? say("aboveScore", { score: c.student.score_name }) : c.student.score_name }), pay = say("costLine", { v: percent(cost), what: say(`what_${by}`) });
      write(width - right - 4, ry - 6, "end", fits(room - 8, keep, percent(quality)));
      if (room > 40) write(rx + 6, top + 14, "start", fits(room - 80, pay, percent(cost)));
    }
    const clamp = (v, S) => Math.max(Math.min(...S.range), Math.min(Math.max(...S.range), S(v))), found = c.answer(by);
    if (!placed.some((p) => p.side.name === focusName)) focusName = null;
    const order = [...placed].sort((p, q) => p.x[0] - q.x[0]);
    for (const p of order) {
      const [cx, cy] = [X(p.x[0]), Y(p.y[0])];
      p.px = cx; p.py = cy;
      const g = s("g", { class: `ek-point ${looks(c, p.side)}`, role: "img", "data-id": p.side.name, "data-kind": p.side.kind, "data-answer": String(p.side === found), "aria-label": spoken(p, found), tabindex: (focusName ?? order[0].side.name) === p.side.name ? 0 : -1 }, svg);
      whiskers(g, cx, cy, p.x[1] === null || p.x[1] === p.x[2] ? null : [clamp(p.x[1], X), p.x[2] === null ? X.range[1] : clamp(p.x[2], X)], bounded(p.y) && p.y[1] !== p.y[2] ? [clamp(p.y[1], Y), clamp(p.y[2], Y)] : null);
      s("circle", { cx, cy, r: 13, fill: "transparent" }, g); // a target of 26 px
      s("path", { d: shapePath(SHAPES[p.side.kind], 6), transform: `translate(${cx} ${cy})`, class: "ek-mark" }, g);
      if (p.side === found) s("circle", { cx, cy, r: 11, class: "ek-ring" }, g);
      g.addEventListener("pointerenter", () => show(p));
      g.addEventListener("pointerleave", () => it.tip.hide());
      g.addEventListener("focus", () => { focusName = p.side.name; show(p); s("circle", { cx, cy, r: 14.5, class: "ek-focus" }, g); });
      g.addEventListener("blur", () => { it.tip.hide(); g.querySelector(".ek-focus")?.remove(); });
    }
    const labels = s("g", { "aria-hidden": "true", "pointer-events": "none" }, svg);
    for (const { of, x, y, anchor } of placed.length <= 12 ? placeLabels(placed.map((p) => ({ of: p, text: p.side.name, x: p.px, y: p.py, gap: p.side === found ? 18 : 14 })), { left: left + 2, right: width - 2, top: 18, bottom: height - bottom }, taken) : [])
      s("text", { x, y, "text-anchor": anchor, class: "ek-halo" }, labels, of.side.name);
    fill(svg, { "aria-label": `${axisY.label}, ${axisX.label}. ${say("pointKeys")}` });
    svg.dataset.points = it.box.dataset.points = placed.length;
    const items = c.sides.filter((x, i) => i < 2 || i === c.sides.findIndex((y) => c.others.includes(y))).map((x) => ({ kind: x.kind, shape: SHAPES[x.kind], text: roleOf(c, x), hollow: c.others.includes(x) }));
    if (found) items.push({ kind: "base", shape: "ring", text: say("theAnswer") });
    for (const word of ["simulated", "recorded"]) if (c.sides.some((x) => x[word])) items.push({ kind: "base", text: say(`${word}Side`), dashed: true });
    const text = JSON.stringify(items);
    if (legendBox.dataset.items !== text) { legendBox.dataset.items = text; legendBox.replaceChildren(legend(items)); }
  }
  function pairsOf(p) {
    const { by, above_chance: above } = model.get("settings"), line = (e, show, key) => shown(e, show, key).join(" ").trim();
    return [[c.student.score_name, line(p.y, three)], [say(above ? "above" : "retained"), line(c.kept(p.side, above), percent)], [say(by), line(p.x, COST_SHOW[by], by)], [say("ofTeacherShort", { what: say(`what_${by}`) }), line(c.share(by, p.side), percent)]];
  }
  const spoken = (p, found) => [p.side.name, roleOf(c, p.side), p.side.simulated && say("simulatedSide"), p.side.recorded && say("recordedSide"), ...pairsOf(p).map((pair) => pair.join(" ")), p.side === found && say("theAnswer")].filter(Boolean).join("; ");
  function show(p) {
    it.tip.show(p.px, p.py, p.side.name, [...pairsOf(p), [say("device"), p.side.device]], placed.filter((q) => q !== p).map((q) => [q.px, q.py]));
    it.box.dataset.hover = p.side.name;
  }
  it.svg.addEventListener("keydown", (e) => {
    if (e.key === "Escape") return it.tip.hide();
    const at = placed.find((p) => p.side.name === e.target.dataset?.id), way = { ArrowLeft: ["px", -1], ArrowRight: ["px", 1], ArrowUp: ["py", -1], ArrowDown: ["py", 1] }[e.key];
    if (!at || !way) return;
    e.preventDefault();
    const order = [...placed].sort((p, q) => p[way[0]] - q[way[0]]), next = order[Math.max(0, Math.min(order.length - 1, order.indexOf(at) + way[1]))];
    for (const node of it.svg.querySelectorAll(".ek-point")) { node.setAttribute("tabindex", node.dataset.id === next.side.name ? 0 : -1); if (node.dataset.id === next.side.name) node.focus(); }
  });
  return { soon: it.soon };
}
Object.assign(STRINGS, { ofTeacherShort: { en: "share of the teacher's {what}" } });

// the fields: every valid number is used as it is typed; one that cannot be used is said to be so, and changes nothing
function costFields(ui, first, now) {
  const { model } = ui, config = model.get("config"), told = h("span", { class: "ek-quiet", role: "status" });
  const set = (patch) => { model.set("settings", { ...model.get("settings"), ...patch }); model.save_changes(); };
  const number = (name, text, gloss, { divide = 1, most = null, optional = false, step = "any" } = {}) => {
    const input = h("input", { type: "number", name, min: 0, max: most, step, oninput: () => {
      const value = Number(input.value) / divide, empty = input.value === "", fine = (empty && optional) || (!empty && Number.isFinite(value) && value > 0 && (most === null || value * divide <= most));
      input.setAttribute("aria-invalid", String(!fine));
      setText(told, fine ? "" : say("wrongNumber", { field: text.replace(/, [%$].*/, ""), most: most === null ? "" : say("atMost", { v: `${most}%` }) }));
      if (fine) set({ [name]: empty ? null : value });
    }, onblur: () => { if (input.getAttribute("aria-invalid") === "true") { input.setAttribute("aria-invalid", "false"); setText(told, ""); update(); } } });
    return { node: field(text, input, gloss), update: () => { if (document.activeElement !== input) { const v = model.get("settings")[name]; input.value = v === null ? "" : Number((v * divide).toPrecision(6)); } } };
  };
  const apart = config.sides.some((x) => x.device !== config.sides[0].device) || first.teacher_price_per_hour !== null;
  const parts = [
    number("price_per_hour", say("hourField"), config.price_source === "given" ? null : config.price_source, { step: 0.01 }),
    ...(apart ? [number("teacher_price_per_hour", say("teacherHour"), say("teacherGloss"), { optional: true, step: 0.01 })] : []),
    number("utilisation", say("busyField"), say("busyGloss"), { divide: 100, most: 100, step: 1 }), number("quality", say("qualityField"), null, { divide: 100, most: 1000, step: 1 }), number("cost", say("costField"), null, { divide: 100, most: 1000, step: 1 }),
  ];
  const c = now(), offered = COSTS.filter((by) => c.cost(by, c.teacher)[0] !== null && c.cost(by, c.student)[0] !== null);
  const by = select("by", (offered.length ? offered : COSTS).concat(offered.length && !offered.includes(first.by) ? [first.by] : []).map((key) => [key, say(key)]), first.by, (v) => set({ by: v }));
  const chance = select("above_chance", [["", say("fromZero")], ["1", say("fromChance")]], first.above_chance ? "1" : "", (v) => set({ above_chance: v === "1" }));
  const reset = button("reset", say("reset"), () => { set(first); update(); });
  const node = h("div", { class: "ek-fieldset" }, parts.map((part) => part.node), field(say("byField"), by), now().chance === null ? null : field(say("chanceField"), chance), reset, told);
  function update() {
    const settings = model.get("settings");
    for (const part of parts) part.update();
    by.value = settings.by; chance.value = settings.above_chance ? "1" : "";
    reset.disabled = JSON.stringify(Object.entries(settings).sort()) === JSON.stringify(Object.entries(first).sort());
  }
  return { node, update };
}

// the table twin: one row a model, every estimate with its limits
function costTable(c) {
  const rows = figureRows(c), text = (label) => ({ label, text: true }), columns = [text(say("side")), text(say("role"))];
  for (const [key, , show, share, label] of rows) {
    const cell = (v) => (v === "" || v === "never" ? v : v === null ? say("unavailable") : show(v)), name = label ?? say(key);
    columns.push({ label: name, show: cell }, { label: say("low"), show: cell }, { label: say("high"), show: cell });
    if (share) columns.push({ label: `${name}, ${say("ofTeacherColumn").replace(say("studentRole"), say("side"))}`, show: (v) => (v === null ? say("unavailable") : percent(v)) });
  }
  columns.push(text(say("device")), text(say("day")));
  const body = c.sides.map((x) => [x.name, roleOf(c, x), ...rows.flatMap(([, of, , share]) => {
    const e = of(x), cells = e === null ? ["", "", ""] : e === "never" ? ["never", "", ""] : [e[0], e[1] ?? "", e[2] ?? ""];
    return share ? [...cells, share(x)[0]] : cells;
  }), x.device, x.date.slice(0, 10)]);
  return { caption: say("costTable"), columns, rows: body };
}

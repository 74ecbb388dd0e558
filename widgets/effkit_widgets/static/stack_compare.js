// StackCompare: two devices for the same queries. Python projects and prices; the page draws, and says which figures are projected.
Object.assign(STRINGS, {
  stacksTitle: { en: "{name} on two devices" },
  stacksHint: { en: "Choose devices, prices and what a query is; every figure follows. All are projected, not measured: an interval should hold the true value 19 times in 20." },
  first: { en: "Time to first token" }, each: { en: "Time per output token" }, rate: { en: "Throughput" }, cost: { en: "Price per 1000 queries" },
  input: { en: "Price per million input tokens" }, output: { en: "Price per million output tokens" }, devicesOf: { en: "Devices of a replica" }, needed: { en: "Memory needed on each" }, formatOf: { en: "Format" },
  even: { en: "Break-even price per hour" }, bound: { en: "Most of a token's time" }, perHour: { en: "Price per hour of one" },
  gloss_first: { en: "From the query's arrival to its first token, waiting for other prompts included" }, gloss_each: { en: "Between one token and the next, without the first" }, gloss_rate: { en: "Output tokens a second of one replica" },
  gloss_cost: { en: "Price per hour x devices / queries an hour / share of time busy x 1000" }, gloss_even: { en: "Below it this device is the cheaper one, at the other's price" }, gloss_devicesOf: { en: "The smallest power of two whose memory holds weights and cache" }, gloss_needed: { en: "Weights and cached keys and values; activations and the runtime come on top" },
  gloss_bound: { en: "The part of a step of decoding that takes longest" },
  rightOverLeft: { en: "right / left" }, leftRole: { en: "left" }, rightRole: { en: "right" }, figure: { en: "figure" }, projected: { en: "projected" }, tokensPerSecond: { en: "tokens/s" }, anHour: { en: "{v} an hour" }, never: { en: "never" },
  lowerBetter: { en: "lower is better" }, higherBetter: { en: "higher is better" }, intervalsTitle: { en: "Projected, with intervals" }, figuresTitle: { en: "Figures" }, memoryTitle: { en: "Memory of one device" },
  stacksKeys: { en: "Arrow keys move between the marks." }, nothingKnown: { en: "unavailable on both" }, markUnavailable: { en: "{device}: unavailable" },
  memoryLine: { en: "{device}: {needed} of {memory}, {fits}" }, fitsYes: { en: "fits" }, fitsNo: { en: "does not fit" }, fitsUnknown: { en: "whether it fits is unavailable" }, weights: { en: "weights" }, cache: { en: "keys and values" }, capacity: { en: "the device's memory" },
  side_left: { en: "Left" }, side_right: { en: "Right" }, queryFields: { en: "Queries" }, computing: { en: "Projecting …" },
  stackState: { en: "Projected from data sheets and constants fitted to published serving figures; nothing here was measured on these devices." }, stackRecorded: { en: "Recorded; a kernel is needed to project other settings. {state}" }, stackPriced: { en: "Recorded; prices can be changed, and a kernel is needed to project other settings. {state}" }, stackBeforehand: { en: "Recorded: the choices above were computed beforehand, for any price. {state}" },
  priceNote: { en: "{device}: {price} an hour ({source})." }, basisNote: { en: "{device}: {basis}." }, whyNote: { en: "{device}: {why}." }, announcedNote: { en: "{device}: some of its figures are only announced." }, stacksTable: { en: "All figures, projected; low and high are the interval" },
  low: { en: "low" }, high: { en: "high" },
  bound_weights: { en: "reading weights" }, bound_experts: { en: "experts" }, bound_cache: { en: "reading keys and values" }, bound_communication: { en: "communication" }, bound_launches: { en: "starting kernels" }, bound_sequences: { en: "work per sequence" },
});
const SIDES = ["left", "right"], SIDE_SHAPE = { left: "circle", right: "square" };
function dollars(v) {
  if (v === null || v === undefined) return say("unavailable");
  return v !== 0 && v < 1e-4 && v >= 1e-10 ? `$${v.toFixed(2 - Math.floor(Math.log10(v))).replace(/0+$/, "")}` : `$${three(v)}`;
}
const bareDollars = (v) => dollars(v).slice(1);
// key, show, show inside an interval, whether lower is better (null: no picture)
const STACK_ROWS = [
  ["first", (v) => withUnit(v, "ms"), three, true, "ms"], ["each", (v) => withUnit(v, "ms"), three, true, "ms"], ["rate", (v) => withUnit(v, say("tokensPerSecond")), three, false, "tokens/s"], ["cost", dollars, bareDollars, true, "$"],
  ["input", dollars, bareDollars, null, "$"], ["output", dollars, bareDollars, null, "$"],
];
const stackText = (e, show, bare) => (e === "never" ? [say("never"), ""] : e[0] === null ? [say("unavailable"), ""] : [show(e[0]), e[1] === null || e[2] === null ? "" : `[${bare(e[1])}, ${bare(e[2])}]`]);
const boundText = (name) => (name === null ? say("unavailable") : STRINGS[`bound_${name}`] ? say(`bound_${name}`) : name);
const countName = (side) => (side.devices > 1 ? `${side.devices} × ${side.device}` : side.device);
export default {
  render: guarded(({ model, el, signal }) => {
    const config = model.get("config");
    const ui = card(el, model, signal, { widget: "StackCompare", title: say("stacksTitle", config), hint: say("stacksHint") });
    // a kernel sends figures with their prices; without one the card finds them
    const now = () => { const found = model.get("figures"); return ui.live() ? found : priced(found, fields?.settings() ?? model.get("settings")); };
    let fields = null;
    const verdict = h("p", { class: "ek-verdict", role: "status" });
    const intervals = h("div", { class: "ek-panel" }, h("h4", {}, say("intervalsTitle"))), figures = h("div", { class: "ek-panel ek-stack-figures" }, h("h4", {}, say("figuresTitle"))), memory = h("div", { class: "ek-panel" }, h("h4", {}, say("memoryTitle")));
    const legendBox = h("div", {}), scroll = h("div", { class: "ek-scroll", tabindex: "0", role: "region", "aria-label": say("figuresTitle") }), notes = h("ul", { class: "ek-notes ek-quiet" });
    intervals.append(legendBox); figures.append(scroll, notes);
    ui.picture.append(verdict, h("div", { class: "ek-columns" }, h("div", { class: "ek-panel ek-stacks-left" }, intervals, memory), figures));
    const ranges = rangePlot(intervals, signal, now), bars = memoryBars(memory, signal, now);
    const twin = tableTwin(ui, () => stackTable(now()), "stacks.csv");
    fields = stackFields(ui, config, now, () => drawState());
    ui.controls.append(fields.node, twin.toggle);

    function drawFigures(found) {
      const name = (key) => h("th", { scope: "col", "data-side": key }, h("span", { class: "ek-role" }, sideIcon(key), say(`${key}Role`)), h("span", { class: "ek-name" }, countName(found[key])), h("span", { class: "ek-range" }, say("projected")));
      const cell = ([value, range], key) => h("td", { "data-side": key, class: value === say("unavailable") ? "ek-quiet" : null }, value, range ? [" ", h("span", { class: "ek-range" }, range)] : null);
      const row = (key, left, right, ratio, label) => h("tr", { "data-row": key }, h("th", { scope: "row", class: "ek-text", title: STRINGS[`gloss_${key}`] ? say(`gloss_${key}`) : null }, label ?? say(key)), cell(left, "left"), cell(right, "right"), ratio ? cell(ratio, "ratio") : h("td", { class: "ek-quiet" }, "–"));
      const both = (of) => [of(found.left), of(found.right)];
      const line = ([key, show, bare]) => row(key, ...both((side) => stackText(side[key], show, bare)), found.ratios[key] ? stackText(found.ratios[key], three, three) : null);
      const plain = (key, text) => row(key, ...both((side) => [text(side), ""]));
      const body = [...STACK_ROWS.slice(0, 4).map(line), row("even", ...both((side) => stackText(side.even, dollars, bareDollars))), plain("perHour", (side) => dollars(side.per_hour)), plain("devicesOf", (side) => countOf(side.devices)),
        plain("needed", (side) => bytesText(side.needed)), plain("formatOf", (side) => side.format), plain("bound", (side) => boundText(side.bound)), ...STACK_ROWS.slice(4).map(line)];
      scroll.replaceChildren(h("table", { class: "ek-table ek-figures", "data-many": "true" }, h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "ek-text" }, say("figure")), name("left"), name("right"), h("th", { scope: "col" }, say("rightOverLeft")))), h("tbody", {}, body)));
      const list = [];
      for (const side of [found.left, found.right]) {
        const unpriced = side.per_hour === null && side.unpriced && side.at_one ? [side.unpriced] : [];
        for (const why of [...side.why, ...unpriced]) list.push(say("whyNote", { device: side.device, why }));
        if (side.announced) list.push(say("announcedNote", side));
        if (side.per_hour !== null) list.push(say("priceNote", { device: side.device, price: dollars(side.per_hour), source: side.price_source }));
        if (side.basis) list.push(say("basisNote", side));
      }
      notes.replaceChildren(...list.map((text) => h("li", {}, text)));
    }
    function drawState() {
      const live = ui.live(), pending = live && !same(fields.settings(), now().settings);
      ui.root.dataset.pending = String(pending);
      setText(ui.state, pending ? say("computing") : live ? say("stackState") : say(answersBeforehand(ui.model) ? "stackBeforehand" : pricedAlone(model) ? "stackPriced" : "stackRecorded", { state: say("stackState") }));
      ui.setState(live ? "idle" : "recorded");
      fields.enable(live);
    }
    function update() {
      const found = now();
      setText(verdict, found.verdict);
      legendBox.replaceChildren(legend(SIDES.map((key) => ({ kind: key, shape: SIDE_SHAPE[key], text: `${countName(found[key])}, ${say("projected")}`, dashed: true }))));
      drawFigures(found); drawState(); fields.update(); twin.update(); ranges.soon(); bars.soon();
    }
    ui.on("change:figures", update);
    ui.on("change:settings", () => (ui.live() ? (drawState(), fields.update()) : update()));
    ui.onlive = drawState;
    update();
  }),
};
const pricedAlone = (model) => model.get("figures").speed !== undefined;
function sideIcon(key) {
  const icon = s("svg", { viewBox: "-8 -8 16 16", class: `ek-icon ek-mark-${key} ek-dashed`, "aria-hidden": "true" });
  s("path", { d: shapePath(SIDE_SHAPE[key], 5.5), class: "ek-mark" }, icon);
  return icon;
}
// Both intervals of each figure on a scale of their own; the scales are logarithmic, so that equal ratios have equal lengths.
function rangePlot(host, signal, now) {
  const rows = STACK_ROWS.filter(([, , , lower]) => lower !== null), PITCH = 98;
  const it = frame(host, signal, { label: `${say("intervalsTitle")}. ${say("stacksKeys")}`, role: "group", ratio: 0, least: rows.length * PITCH, most: rows.length * PITCH }, draw);
  let marks = [], focused = null;
  function draw() {
    const { svg, width } = it, found = now(), left = 8, right = width - 8;
    const had = svg.contains(document.activeElement);
    svg.replaceChildren();
    marks = [];
    rows.forEach(([key, show, bare, lower, unit], n) => {
      const top = n * PITCH, axis = top + 74, g = s("g", { "aria-hidden": "true" }, svg);
      s("text", { x: 0, y: top + 13 }, g, fitText(`${say(key)}, ${unit}`, width - 110));
      s("text", { x: width, y: top + 13, "text-anchor": "end", class: "ek-note" }, g, say(lower ? "lowerBetter" : "higherBetter"));
      const known = SIDES.filter((side) => found[side][key][0] !== null);
      if (!known.length) return s("text", { x: width / 2, y: top + 40, "text-anchor": "middle", class: "ek-note" }, g, say("nothingKnown"));
      const X = scale(extent(known.flatMap((side) => found[side][key]), { log: true, air: 0.1 }), [left, right], true);
      for (const v of logTicks(...X.domain, 4)) {
        s("line", { x1: X(v), x2: X(v), y1: top + 20, y2: axis, class: "ek-gridline" }, g);
        s("text", { x: Math.min(Math.max(X(v), 10), width - 10), y: axis + 13, "text-anchor": "middle", class: "ek-tick" }, g, unit === "$" ? dollars(v) : three(v));
      }
      SIDES.forEach((side, m) => {
        const e = found[side][key], y = top + 34 + m * 25;
        if (e[0] === null) return s("text", { x: left, y: y + 4, class: "ek-note" }, g, fitText(say("markUnavailable", found[side]), width));
        const id = `${key}-${side}`, x = X(e[0]), value = stackText(e, show, bare).join(" ").trim();
        const group = s("g", { class: `ek-point ek-mark-${side} ek-dashed`, role: "img", tabindex: (focused ?? "first-left") === id ? 0 : -1, "data-id": id, "aria-label": `${countName(found[side])}, ${say(key)}: ${value}, ${say("projected")}` }, svg);
        whiskers(group, x, y, e[1] === null ? null : [X(e[1]), X(e[2])], null);
        s("rect", { x: x - 13, y: y - 12, width: 26, height: 24, fill: "transparent" }, group);
        s("path", { d: shapePath(SIDE_SHAPE[side], 5.5), transform: `translate(${x} ${y})`, class: "ek-mark" }, group);
        const mark = { id, x, y, group, title: `${countName(found[side])} (${say("projected")})`, pairs: [[say(key), value]] };
        marks.push(mark);
        group.addEventListener("pointerenter", () => show_(mark));
        group.addEventListener("pointerleave", () => it.tip.hide());
        group.addEventListener("focus", () => { focused = id; show_(mark); s("circle", { cx: x, cy: y, r: 10, class: "ek-focus" }, group); });
        group.addEventListener("blur", () => { it.tip.hide(); group.querySelector(".ek-focus")?.remove(); });
      });
    });
    if (!marks.some((mark) => mark.group.getAttribute("tabindex") === "0")) marks[0]?.group.setAttribute("tabindex", 0);
    if (had) marks.find((mark) => mark.id === focused)?.group.focus();
    svg.dataset.points = it.box.dataset.points = marks.length;
  }
  const show_ = (mark) => it.tip.show(mark.x, mark.y, mark.title, mark.pairs, marks.filter((other) => other !== mark).map((other) => [other.x, other.y]));
  it.svg.addEventListener("keydown", (e) => {
    if (e.key === "Escape") return it.tip.hide();
    const way = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[e.key], at = marks.findIndex((mark) => mark.group === document.activeElement);
    if (!way || at < 0) return;
    e.preventDefault();
    const next = marks[Math.max(0, Math.min(marks.length - 1, at + way))];
    for (const mark of marks) mark.group.setAttribute("tabindex", mark === next ? 0 : -1);
    next.group.focus();
  });
  return { soon: it.soon };
}
// What lies in the memory of one device of each replica, against what it has: on one scale.
function memoryBars(host, signal, now) {
  const it = frame(host, signal, { label: say("memoryTitle"), ratio: 0, least: 104, most: 104 }, () => {
    const { svg, width } = it, found = now(), most = Math.max(...SIDES.flatMap((side) => [found[side].needed, found[side].memory ?? 0])), X = scale([0, most], [1, width - 2]);
    svg.replaceChildren();
    const spoken = SIDES.map((key, n) => {
      const side = found[key], y = n * 52 + 20, weights = side.weights / side.devices, fits = say(side.fits === null ? "fitsUnknown" : side.fits ? "fitsYes" : "fitsNo");
      const line = say("memoryLine", { device: countName(side), needed: bytesText(side.needed), memory: bytesText(side.memory), fits }), g = s("g", { "data-fits": String(side.fits) }, svg);
      s("text", { x: 0, y: y - 6 }, g, fitText(line, width));
      for (const [kind, label, from, to] of [["base", "weights", 0, weights], ["scales", "cache", weights, side.needed]]) {
        const part = s("g", { class: `ek-mark-${kind}` }, g), w = Math.max(1, X(to) - X(from) - 1);
        s("rect", { x: X(from), y, width: w, height: 22, style: "fill:var(--ek-mark)" }, part);
        if (w > textWidth(say(label)) + 10) s("text", { x: X(from) + 6, y: y + 15, style: "fill:var(--ek-ground)" }, part, say(label));
      }
      if (side.memory !== null) s("rect", { x: 1, y: y - 1.5, width: X(side.memory) - 1, height: 25, fill: "none", stroke: "currentColor", "stroke-width": 1.5 }, g);
      return `${line}; ${say("weights")} ${bytesText(weights)}, ${say("cache")} ${bytesText(side.needed - weights)}`;
    });
    fill(svg, { "aria-label": `${say("memoryTitle")}. ${spoken.join(". ")}` });
  });
  host.insertBefore(legend([{ kind: "base", shape: "square", text: say("weights") }, { kind: "scales", shape: "square", text: say("cache") }, { kind: "ground", shape: "square", text: say("capacity"), hollow: true }]), it.box);
  return { soon: it.soon };
}
function stackFields(ui, config, now, changed) {
  const held = settingsOf(ui, changed), told = h("span", { class: "ek-quiet", role: "status" }), first = held.get(), parts = [];
  const slider = (name, label, halves, gloss) => { const made = stepSlider(name, say(label), offered(ui.model, name, stepsBetween(...config.limits[name], first[name], halves)), first[name], (v) => held.set({ [name]: v }), gloss); parts.push(() => made.update(held.get()[name])); return made.node; };
  const format = select("format", offered(ui.model, "format", config.formats).map((f) => [f, f]), first.format, (v) => held.set({ format: v }));
  const number = (name, read, write, empty) => {
    const input = h("input", { type: "number", name, min: 0, step: "any", oninput: () => {
      const v = Number(input.value), fine = input.value === "" ? empty : Number.isFinite(v) && v > 0 && v <= (name === "utilisation" ? 100 : 1e5);
      input.setAttribute("aria-invalid", String(!fine));
      setText(told, fine ? "" : say("priceRefused"));
      if (fine) held.set({ [name]: input.value === "" ? null : write(v) });
    } });
    parts.push(() => { const v = held.get()[name]; if (document.activeElement !== input) input.value = v === null ? "" : read(v); });
    return input;
  };
  const side = (key) => {
    const known = ui.model.recorded && (recordedValues(ui.model, key) ?? [first[key]]), picker = devicePicker(key, config.devices.filter((d) => !known || known.includes(d.name)), first[key], (v) => held.set({ [key]: v, [`${key}_price`]: null })), price = number(`${key}_price`, (v) => v, (v) => v, true);
    parts.push(() => { picker.value = held.get()[key]; const list = now()[key].per_hour; price.placeholder = list === null ? say("unknownPrice") : three(list); fill(price, { title: now()[key].price_source ?? "" }); });
    return h("fieldset", { class: "ek-stack-fields" }, h("legend", {}, sideIcon(key), say(`side_${key}`)), h("div", { class: "ek-fieldset" }, field(say("deviceField"), picker), field(say("hourPrice"), price)));
  };
  const node = h("div", { class: "ek-stack-controls" }, side("left"), side("right"), h("fieldset", { class: "ek-stack-fields" }, h("legend", {}, say("queryFields")), h("div", { class: "ek-fieldset" },
    slider("batch", "batchField", true, say("batchGloss")), slider("prompt", "promptField", true), slider("new_tokens", "outputField", true), field(say("formatField"), format, say("formatGloss")),
    field(say("busyPart"), number("utilisation", (v) => Number((100 * v).toPrecision(6)), (v) => v / 100, false), say("busyPartGloss"))), told));
  parts.push(() => { format.value = held.get().format; });
  return { node, settings: held.get, update: () => { for (const part of parts) part(); }, enable: (live) => {
    enableFields(ui.model, live, node.querySelectorAll("input, select"));
    if (pricedAlone(ui.model)) for (const name of ["left_price", "right_price", "utilisation"]) node.querySelector(`[name='${name}']`).disabled = false;
  } };
}
function stackTable(found) {
  const text = (label) => ({ label, text: true }), cell = (show) => (v) => (v === null ? say("unavailable") : v === "never" || v === "" ? v : show(v));
  const columns = [text(say("side_left") + " / " + say("side_right")), text(say("deviceField")), { label: say("devicesOf") }, text(say("formatOf"))];
  const triple = ([key, show]) => { columns.push({ label: say(key), show: cell(show) }, { label: say("low"), show: cell(show) }, { label: say("high"), show: cell(show) }); };
  STACK_ROWS.forEach(triple); triple(["even", dollars]);
  columns.push({ label: say("perHour"), show: cell(dollars) }, { label: say("needed"), show: cell(bytesText) }, text(say("bound")));
  const rows = SIDES.map((key) => { const side = found[key]; return [say(`side_${key}`), side.device, side.devices, side.format, ...STACK_ROWS.flatMap(([row]) => side[row]), ...(side.even === "never" ? ["never", "", ""] : side.even), side.per_hour, side.needed, boundText(side.bound)]; });
  return { caption: say("stacksTable"), columns, rows };
}

// Roofline: operations a second against operations a byte. Filled points are measured, hollow ones predicted, dashed ones projected.
Object.assign(STRINGS, {
  roofTitle: { en: "What limits {name}, and how far below the limit it runs" },
  roofHint: { en: "Under the slope bandwidth is the limit, under the flat part arithmetic. Move the batch: decode reads the same weights for more tokens and climbs. Arrow keys move between points." },
  intensity: { en: "operations a byte" }, rateOf: { en: "operations a second" }, ofRoof: { en: "of the roof" }, takes: { en: "time" }, operations: { en: "operations" }, reads: { en: "bytes read" },
  decode: { en: "decode" }, prefill: { en: "prefill" }, measured: { en: "measured" }, predicted: { en: "predicted" }, projected: { en: "projected" }, phase: { en: "phase" }, part: { en: "part" }, how: { en: "how known" },
  part_attention: { en: "attention" }, part_cache: { en: "cached keys and values" }, part_mlp: { en: "MLP" }, part_experts: { en: "experts" }, part_head: { en: "head" }, part_router: { en: "router" }, part_whole: { en: "whole pass" },
  ridge: { en: "both limits meet" }, attachedDevice: { en: "attached: {name}" }, roofState: { en: "{device}, {format}: {bandwidth} and {rate} ({source}). Decode is one step of the batch, prefill one prompt of {prompt} tokens." }, roofRecorded: { en: "Recorded; a kernel is needed to move the points. {state}" }, roofBeforehand: { en: "Recorded: the choices above were computed beforehand. {state}" },
  roofSimulated: { en: "Simulated: these rates are the host's." }, projectedGloss: { en: "{how}: not measured" }, roofTable: { en: "Every point: what it does, how fast, and its share of the roof" }, roofComputing: { en: "Projecting …" },
});
const PARTS = { whole: ["base", "circle", 9], attention: ["attention", "circle", 8], mlp: ["mlp", "square", 5], experts: ["other", "square", 6.5], head: ["head", "triangle", 6], cache: ["scales", "diamond", 6], router: ["norms", "triangle", 5] };
const HOWS = { measured: "", predicted: " ek-hollow", projected: " ek-dashed" };
function siText(v, unit) {
  const [text, size] = [["P", 1e15], ["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]].find(([, many]) => v >= many * 0.9999) ?? ["", 1];
  return `${three(v / size)} ${text}${unit}`;
}
const timeText = (seconds) => (seconds >= 1 ? withUnit(seconds, "s") : seconds >= 1e-3 ? withUnit(seconds * 1e3, "ms") : withUnit(seconds * 1e6, "µs"));
const partText = (point) => `${say(point.phase)}, ${say(`part_${point.part}`)}`;
// where the roof bends and ends, from one intensity to another
function roofLine(found, low, high) {
  const top = (v) => Math.min(v * found.bandwidth, found.matrix_rate);
  return [low, ...(found.ridge > low && found.ridge < high ? [found.ridge] : []), high].map((v) => [v, top(v)]);
}
export default {
  render: guarded(({ model, el, signal }) => {
    const config = model.get("config"), now = () => model.get("figures");
    const ui = card(el, model, signal, { widget: "Roofline", title: say("roofTitle", config), hint: say("roofHint") });
    const verdict = h("p", { class: "ek-verdict", role: "status" }), legendBox = h("div", {});
    ui.picture.append(verdict, legendBox);
    const held = settingsOf(ui, () => drawState()), first = held.get();
    const view = roofChart(ui.picture, signal, now);
    const twin = tableTwin(ui, () => ({
      caption: say("roofTable"),
      columns: [{ label: say("phase"), text: true }, { label: say("part"), text: true }, { label: say("how"), text: true }, { label: say("intensity"), show: three }, { label: say("rateOf"), show: (v) => siText(v, "FLOP/s") }, { label: say("ofRoof"), show: (v) => `${three(100 * v)}%` }, { label: say("operations"), show: (v) => siText(v, "FLOP") }, { label: say("reads"), show: bytesText }, { label: say("takes"), show: timeText }],
      rows: now().points.map((p) => [say(p.phase), say(`part_${p.part}`), say(p.how), p.intensity, p.rate, p.share, p.flops, p.bytes, p.seconds]),
    }), "roofline.csv");
    const known = recordedValues(model, "on"), picker = devicePicker("on", config.devices.filter((d) => !known || known.includes(d.name)), first.on, (v) => held.set({ on: v }), config.attached && (!known || known.includes("attached")) ? [["attached", say("attachedDevice", { name: config.attached })]] : []);
    const slider = (name, label, gloss) => stepSlider(name, say(label), offered(model, name, stepsBetween(...config.limits[name], first[name], true)), first[name], (v) => held.set({ [name]: v }), gloss);
    const batch = slider("batch", "batchField", say("batchGloss")), prompt = slider("prompt", "promptField");
    const format = select("format", offered(model, "format", config.formats).map((f) => [f, f]), first.format, (v) => held.set({ format: v })), inputs = [picker, batch.input, prompt.input, format];
    const formatField = field(say("formatField"), format, say("formatGloss"));
    ui.controls.append(h("div", { class: "ek-fieldset ek-roof-fields" }, field(say("deviceField"), picker), formatField, batch.node, prompt.node), twin.toggle);
    function drawState() {
      const found = now(), live = ui.live(), pending = live && !same(held.get(), found.settings);
      ui.root.dataset.pending = String(pending);
      const state = say("roofState", { device: found.device, format: found.format, bandwidth: siText(found.bandwidth, "B/s"), rate: siText(found.matrix_rate, "FLOP/s"), source: found.source, prompt: countOf(found.prompt) });
      setText(ui.state, pending ? say("roofComputing") : live ? state : say(answersBeforehand(model) ? "roofBeforehand" : "roofRecorded", { state }));
      ui.setState(live ? "idle" : "recorded");
      enableFields(model, live, inputs);
      formatField.hidden = held.get().on === "attached"; // calibrated in one format
    }
    function update() {
      const found = now(), own = (key) => [...new Set(found.points.map((p) => p[key]))];
      setText(verdict, found.simulated ? `${found.verdict} ${say("roofSimulated")}` : found.verdict);
      legendBox.replaceChildren(legend([...Object.keys(PARTS).filter((part) => own("part").includes(part)).map((part) => ({ kind: PARTS[part][0], shape: PARTS[part][1], text: say(`part_${part}`) })),
        ...Object.keys(HOWS).filter((how) => own("how").includes(how)).map((how) => ({ kind: "base", shape: "square", text: say(how), hollow: how === "predicted", dashed: how === "projected" }))]));
      picker.value = held.get().on; format.value = held.get().format; batch.update(held.get().batch); prompt.update(held.get().prompt);
      drawState(); twin.update(); view.soon();
    }
    ui.on("change:figures", update);
    ui.on("change:settings", drawState);
    ui.onlive = drawState;
    update();
  }),
};
function roofChart(host, signal, now) {
  const it = frame(host, signal, { label: "", role: "group", ratio: 0.5, least: 300, most: 480 }, draw);
  let placed = [], focused = null;
  const idOf = (p) => `${p.phase}-${p.part}-${p.how}`;
  function draw() {
    const { svg, width, height } = it, found = now(), top = 30, bottom = 42, right = 14, had = svg.contains(document.activeElement);
    svg.replaceChildren();
    const axisX = { label: say("intensity"), unit: "" }, axisY = { label: say("rateOf"), unit: "", show: (v) => siText(v, "") };
    const xs = extent([...found.points.map((p) => p.intensity), found.ridge * 2.5], { log: true, air: 0.08 }), ys = extent([...found.points.map((p) => p.rate), found.matrix_rate], { log: true, air: 0.08 });
    const left = leftFor(ys, axisY, height, true), X = scale(xs, [left, width - right], true), Y = scale(ys, [height - bottom, top], true), g = s("g", { "aria-hidden": "true" }, svg);
    s("rect", { x: left, y: top, width: width - left - right, height: height - top - bottom, class: "ek-frame" }, g);
    axes(g, X, Y, { x: axisX, y: axisY, width, height, left, bottom });
    const low = Math.max(xs[0], ys[0] / found.bandwidth), line = roofLine(found, low, xs[1]).map(([a, b]) => [X(a), Y(b)]);
    s("path", { d: `${line.map(([a, b], i) => `${i ? "L" : "M"}${a.toFixed(1)},${b.toFixed(1)}`).join("")}`, class: "ek-roof" }, g);
    if (found.ridge > xs[0] && found.ridge < xs[1]) s("path", { d: `M${X(found.ridge)},${Y(found.matrix_rate)}V${height - bottom}`, class: "ek-reference" }, g);
    // the limits are written along the roof
    const [a, b] = line, angle = (Math.atan2(b[1] - a[1], b[0] - a[0]) * 180) / Math.PI, taken = [];
    if (line.length === 3) s("text", { x: (a[0] + b[0]) / 2, y: (a[1] + b[1]) / 2 - 8, transform: `rotate(${angle.toFixed(1)} ${(a[0] + b[0]) / 2} ${(a[1] + b[1]) / 2})`, "text-anchor": "middle", class: "ek-halo ek-note" }, g, siText(found.bandwidth, "B/s"));
    const flat = `${siText(found.matrix_rate, "FLOP/s")}, ${found.format}`;
    s("text", { x: width - right, y: Y(found.matrix_rate) - 7, "text-anchor": "end", class: "ek-halo ek-note" }, g, flat);
    taken.push([width - right - textWidth(flat), Y(found.matrix_rate) - 20, textWidth(flat), 16]);
    placed = found.points.map((p) => ({ p, id: idOf(p), x: X(p.intensity), y: Y(p.rate) })).sort((m, n) => PARTS[n.p.part][2] - PARTS[m.p.part][2] || m.x - n.x); // small ones lie on top
    if (!placed.some((one) => one.id === focused)) focused = placed[0]?.id;
    for (const one of placed) {
      const { p, x, y } = one, [kind, shape, r] = PARTS[p.part];
      one.g = s("g", { class: `ek-point ek-mark-${kind}${HOWS[p.how]}`, role: "img", "data-id": one.id, "data-how": p.how, tabindex: one.id === focused ? 0 : -1, "aria-label": `${partText(p)}, ${say(p.how)}: ${pairsOf(p).map((pair) => pair.join(" ")).join(", ")}` }, svg);
      s("circle", { cx: x, cy: y, r: r + 4, fill: "transparent" }, one.g);
      s("path", { d: shapePath(shape, r), transform: `translate(${x} ${y})`, class: "ek-mark" }, one.g);
      if (p.part === "whole") s("circle", { cx: x, cy: y, r: r + 3, class: "ek-ring-thin" }, one.g);
      one.g.addEventListener("pointerenter", () => show(one));
      one.g.addEventListener("pointerleave", () => it.tip.hide());
      one.g.addEventListener("focus", () => { focused = one.id; show(one); s("circle", { cx: x, cy: y, r: r + 6, class: "ek-focus" }, one.g); });
      one.g.addEventListener("blur", () => { it.tip.hide(); one.g.querySelector(".ek-focus")?.remove(); });
    }
    const named = placed.filter(({ p }) => p.part === "whole"), labels = s("g", { "aria-hidden": "true", "pointer-events": "none" }, svg);
    for (const { of, x, y, anchor } of placeLabels(named.map((one) => ({ of: one, text: `${say(one.p.phase)}, ${say(one.p.how)}`, x: one.x, y: one.y, gap: 18 })), { left: left + 2, right: width - 2, top: 18, bottom: height - bottom }, [...taken, ...placed.map((one) => [one.x - 8, one.y - 8, 16, 16])]))
      s("text", { x, y, "text-anchor": anchor, class: "ek-halo" }, labels, `${say(of.p.phase)}, ${say(of.p.how)}`);
    if (had) placed.find((one) => one.id === focused)?.g.focus();
    fill(svg, { "aria-label": found.verdict });
    svg.dataset.points = it.box.dataset.points = placed.length;
  }
  const pairsOf = (p) => [[say("intensity"), three(p.intensity)], [say("rateOf"), siText(p.rate, "FLOP/s")], [say("ofRoof"), `${three(100 * p.share)}%`], [say("takes"), timeText(p.seconds)]];
  const show = (one) => it.tip.show(one.x, one.y, `${partText(one.p)} (${say(one.p.how)})`, pairsOf(one.p), placed.filter((other) => other !== one).map((other) => [other.x, other.y]));
  it.svg.addEventListener("keydown", (e) => {
    if (e.key === "Escape") return it.tip.hide();
    const way = { ArrowLeft: ["x", -1], ArrowRight: ["x", 1], ArrowUp: ["y", -1], ArrowDown: ["y", 1] }[e.key], at = placed.find((one) => one.g === document.activeElement);
    if (!way || !at) return;
    e.preventDefault();
    const order = [...placed].sort((m, n) => m[way[0]] - n[way[0]] || (m.id < n.id ? -1 : 1)), next = order[Math.max(0, Math.min(order.length - 1, order.indexOf(at) + way[1]))];
    for (const one of placed) one.g.setAttribute("tabindex", one === next ? 0 : -1);
    next.g.focus();
  });
  return { soon: it.soon };
}

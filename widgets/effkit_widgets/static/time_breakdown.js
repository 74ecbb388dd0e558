// TimeBreakdown: an icicle of modules. A module is as wide as its time; what it calls lies under it; the gap under it is its own time.
Object.assign(STRINGS, {
  timesTitle: { en: "Where the time goes{of}" }, ofModel: { en: " in {name}" },
  timesHint: { en: "Each bar is a module, as wide as its time; the modules it calls lie under it, and the gap beside them is its own time. Click or Enter zooms in, Escape out; arrow keys move." },
  timesVerdict: { en: "{first} takes {share} of a {phase} pass" }, timesThen: { en: ", {name} {share}" }, timesEnd: { en: ": {ms} in all." },
  phase_decode: { en: "decode" }, phase_prefill: { en: "prefill" }, passField: { en: "Pass" }, layersField: { en: "Repeated layers" }, oneByOne: { en: "one by one" }, summed: { en: "summed" }, phaseGloss: { en: "Prefill reads the prompt; decode makes one more token" },
  total: { en: "time" }, own: { en: "own time" }, shareOfPass: { en: "share of the pass" }, calls: { en: "calls" }, operations: { en: "operations" }, reads: { en: "bytes read" }, reached: { en: "reached" }, classOf: { en: "class" },
  wholeModel: { en: "whole model" }, zoomOut: { en: "Zoom out" }, zoomed: { en: "Shown: {name}, {ms} of {whole}" }, timesKeys: { en: "Down: into a module; up: to its caller; left and right: its neighbours." },
  spokenPart: { en: "{name}, {kind}: {total}, {share} of the pass; own {own}" }, simulatedTimes: { en: "Simulated device: these times are the host's, not an accelerator's." },
  timesState: { en: "One {phase} pass on {device}, {dtype}, batch {batch}, prompt of {prompt} tokens: {plain} without the hooks that time modules; they added {overhead}. Timed by {timing}, {repeats} passes, eager." }, timesRecorded: { en: "Recorded. {state}" },
  embeddings: { en: "embeddings" }, head: { en: "head" }, attention: { en: "attention" }, mlp: { en: "MLP" }, norms: { en: "norms" }, scales: { en: "scales" }, other: { en: "other" },
  timesTable: { en: "Every module with its time, arithmetic and bytes, per pass" }, module: { en: "module" }, category: { en: "kind" },
});
const ROW = 30, CATEGORIES_OF = ["embeddings", "head", "attention", "mlp", "norms", "scales", "other"];
const msText = (v) => withUnit(v, "ms"), shareText = (v) => `${three(100 * v)}%`;
const catText = (name) => (STRINGS[name] ? say(name) : name);
const kindClass = (name) => `ek-mark-${CATEGORIES_OF.includes(name) ? name : "other"}`;
const lastName = (part) => (part.name === "" ? say("wholeModel") : /\.?([^.]+(?:\.(?:\d+|\*))?)$/.exec(part.name)[1]);
function perSecond(count, ms, unit) {
  if (count === null || !(ms > 0) || count === 0) return null;
  const rate = (count / ms) * 1e3, [text, size] = [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]].find(([, many]) => rate >= many) ?? ["", 1];
  return `${three(rate / size)} ${text}${unit}`;
}
const countText = (v, unit) => { const [text, size] = [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]].find(([, many]) => v >= many) ?? ["", 1]; return `${three(v / size)} ${text}${unit}`; };
// siblings that differ only in a number become one: model.layers.0, .1, ... -> model.layers.*
function summedParts(parts) {
  const groups = new Map();
  for (const part of parts) { const key = part.name.replace(/\.\d+(?=\.|$)/g, ".*"); groups.set(key, [...(groups.get(key) ?? []), part]); }
  const add = (list, key) => (list.some((part) => part[key] === null) ? null : list.reduce((n, part) => n + part[key], 0));
  return [...groups].map(([name, list]) => ({ ...list[0], name, own: add(list, "own"), total: add(list, "total"), calls: add(list, "calls"), flops: add(list, "flops"), bytes: add(list, "bytes"), parts: summedParts(list.flatMap((part) => part.parts)) }));
}
export default {
  render: guarded(({ model, el, signal }) => {
    const config = model.get("config"), passes = config.passes;
    const ui = card(el, model, signal, { widget: "TimeBreakdown", title: say("timesTitle", { of: config.name ? say("ofModel", config) : "" }), hint: say("timesHint") });
    let at = 0, sum = false, tree = [], zoom = null;
    const verdict = h("p", { class: "ek-verdict", role: "status" }), legendBox = h("div", {}), spoken = h("span", { class: "ek-hush", role: "status" }), where = h("div", { class: "ek-row ek-zoom" });
    ui.picture.append(verdict, legendBox, where);
    const view = icicle(ui.picture, signal, { shown: () => zoom, whole: () => tree[0].part.total, onzoom: (node) => { zoom = node; say_(); } });
    ui.picture.append(spoken);
    const out = button("zoom-out", say("zoomOut"), () => { if (zoom.above) { zoom = zoom.above; say_(); view.focus(zoom); } });
    const line = h("span", { class: "ek-quiet" });
    where.append(line, out);

    function say_() {
      setText(line, say("zoomed", { name: lastName(zoom.part), ms: msText(zoom.part.total), whole: msText(tree[0].part.total) }));
      out.disabled = !zoom.above;
      view.soon();
    }
    // a node: part, its caller, what it calls; the list is depth first
    function grow(part, above, depth) {
      const node = { part, above, depth, below: [] };
      tree.push(node);
      node.below = part.parts.map((child) => grow(child, node, depth + 1));
      return node;
    }
    function take() {
      const found = passes[at];
      tree = [];
      zoom = grow(sum ? { ...found.root, parts: summedParts(found.root.parts) } : found.root, null, 0);
      const whole = found.root.total || 1, kinds = Object.entries(found.by_category).filter(([, ms]) => ms > 0).sort((a, b) => b[1] - a[1]); // a saved notebook has its own order
      const [first, ...rest] = kinds, name = (kind) => catText(kind);
      const said = say("timesVerdict", { first: name(first[0]), share: shareText(first[1] / whole), phase: say(`phase_${found.phase}`) }) + rest.slice(0, 2).map(([kind, ms]) => say("timesThen", { name: name(kind), share: shareText(ms / whole) })).join("") + say("timesEnd", { ms: msText(found.root.total) });
      verdict.replaceChildren(h("strong", {}, said.charAt(0).toUpperCase() + said.slice(1)), found.simulated ? ` ${say("simulatedTimes")}` : "");
      legendBox.replaceChildren(legend(kinds.map(([kind, ms]) => ({ kind: CATEGORIES_OF.includes(kind) ? kind : "other", shape: "square", text: name(kind), quiet: `${msText(ms)}, ${shareText(ms / whole)}` }))));
      ui.root.dataset.simulated = String(found.simulated);
      say_(); drawState(); twin.update();
    }
    function drawState() {
      const found = passes[at], live = ui.live(), percent = (v) => (v === null ? null : 100 * v);
      const state = say("timesState", { ...found, phase: say(`phase_${found.phase}`), plain: intervalText(found.plain, "ms"), overhead: found.overhead[0] === null ? say("unavailable") : `${intervalText(found.overhead.map(percent))}%` });
      setText(ui.state, live ? state : say("timesRecorded", { state }));
      ui.setState(live ? "idle" : "recorded");
    }
    const twin = tableTwin(ui, () => ({
      caption: say("timesTable"),
      columns: [{ label: say("module"), text: true }, { label: say("classOf"), text: true }, { label: say("category"), text: true }, { label: `${say("own")}, ms`, show: three }, { label: `${say("total")}, ms`, show: three }, { label: say("shareOfPass"), show: shareText }, { label: say("calls") }, { label: say("operations"), show: (v) => (v === null ? say("unavailable") : countText(v, "")) }, { label: say("reads"), show: bytesText }],
      rows: tree.map(({ part }) => [part.name || say("wholeModel"), part.kind, catText(part.category), part.own, part.total, part.total / (tree[0].part.total || 1), part.calls, part.flops, part.bytes]),
    }), "times.csv");
    const pass = passes.length > 1 ? field(say("passField"), select("pass", passes.map((p, i) => [String(i), say(`phase_${p.phase}`)]), "0", (v) => { at = Number(v); take(); }), say("phaseGloss")) : null;
    const layers = field(say("layersField"), select("layers", [["", say("oneByOne")], ["1", say("summed")]], "", (v) => { sum = v === "1"; take(); }));
    ui.controls.append(...[pass, layers, twin.toggle].filter(Boolean));
    ui.onlive = drawState;
    take();
  }),
};
function icicle(host, signal, { shown, whole, onzoom }) {
  const it = frame(host, signal, { label: say("timesKeys"), role: "tree", ratio: 0, least: ROW, most: 2000 }, draw);
  let drawn = [], focused = null, refocus = false;
  const depthOf = (node) => 1 + Math.max(0, ...node.below.map(depthOf));
  function draw() {
    const { svg, width } = it, top = shown(), rows = depthOf(top) + (top.above ? 1 : 0), height = rows * ROW + 2;
    const had = refocus || svg.contains(document.activeElement);
    refocus = false;
    fill(svg, { viewBox: `0 0 ${width} ${height}`, height });
    svg.replaceChildren();
    drawn = [];
    const X = (ms) => (ms / (top.part.total || 1)) * (width - 2) + 1;
    if (top.above) bar(top.above, 1, width - 2, 0); // the caller stays, as the way out
    place(top, 0, top.above ? 1 : 0);
    function place(node, from, row) {
      bar(node, X(from), X(from + node.part.total) - X(from), row);
      let at = from;
      for (const child of node.below) { if (X(at + child.part.total) - X(at) >= 0.4) place(child, at, row + 1); at += child.part.total; }
    }
    if (!drawn.some((one) => one.node === focused)) focused = top;
    for (const one of drawn) one.g.setAttribute("tabindex", one.node === focused ? 0 : -1);
    if (had) drawn.find((one) => one.node === focused)?.g.focus();
    svg.dataset.points = it.box.dataset.points = drawn.length;
  }
  function bar(node, x, w, row) {
    const { part } = node, y = row * ROW + 1, g = s("g", { class: `ek-module-bar ${kindClass(part.category)}${node.below.length ? " ek-open" : ""}`, role: "treeitem", "data-module": part.name, "aria-level": node.depth + 1, "aria-expanded": node.below.length ? "true" : null, "aria-label": say("spokenPart", { name: part.name || say("wholeModel"), kind: part.kind, total: msText(part.total), share: shareText(part.total / (whole() || 1)), own: msText(part.own) }) }, it.svg);
    const inner = Math.max(0.6, w - 1);
    s("rect", { x, y, width: inner, height: ROW - 3, rx: inner > 6 ? 2 : 0, class: "ek-mark" }, g);
    const room = Math.floor((w - 12) / CHARACTER), name = lastName(part), text = [`${name} ${shareText(part.total / (whole() || 1))}`, name, name.replace(/^.*\./, "")].find((t) => t.length <= room);
    if (text) s("text", { x: x + 6, y: y + 18, "aria-hidden": "true" }, g, text);
    const one = { node, g, x, y, w };
    drawn.push(one);
    g.addEventListener("pointerenter", () => show(one));
    g.addEventListener("pointerleave", () => it.tip.hide());
    g.addEventListener("focus", () => { focused = node; show(one); });
    g.addEventListener("blur", () => it.tip.hide());
    g.addEventListener("click", () => enter(node));
  }
  function show({ node: { part }, x, y, w }) {
    const pairs = [[say("classOf"), part.kind], [say("total"), msText(part.total)], [say("shareOfPass"), shareText(part.total / (whole() || 1))]];
    if (part.parts.length) pairs.push([say("own"), msText(part.own)]);
    if (part.calls !== 1) pairs.push([say("calls"), String(part.calls)]);
    if (part.flops) pairs.push([say("operations"), `${countText(part.flops, "FLOP")}, ${perSecond(part.flops, part.total, "FLOP/s")}`]);
    if (part.bytes) pairs.push([say("reads"), `${bytesText(part.bytes)}, ${perSecond(part.bytes, part.total, "B/s")}`]);
    it.tip.show(Math.min(Math.max(x + w / 2, 0), it.width), y + ROW / 2, part.name || say("wholeModel"), pairs, drawn.map((d) => [d.x + d.w / 2, d.y + ROW / 2]));
  }
  function enter(node) {
    focused = node; refocus = true;
    it.tip.hide();
    onzoom(node.below.length ? node : node.above ?? node);
  }
  it.svg.addEventListener("keydown", (e) => {
    const one = drawn.find((d) => d.g === document.activeElement);
    if (!one) return;
    const { node } = one, kin = node.above ? node.above.below : [node], i = kin.indexOf(node);
    if (e.key === "Enter" || e.key === " ") { e.preventDefault(); return enter(node); }
    if (e.key === "Escape") { e.preventDefault(); const up = shown().above; if (up) { focused = shown(); refocus = true; onzoom(up); } return; }
    const next = { ArrowDown: node.below[0], ArrowUp: node.above, ArrowLeft: kin[i - 1], ArrowRight: kin[i + 1] }[e.key];
    if (!e.key.startsWith("Arrow")) return;
    e.preventDefault();
    const found = drawn.find((d) => d.node === next);
    if (!found) return;
    for (const d of drawn) d.g.setAttribute("tabindex", d === found ? 0 : -1);
    found.g.focus();
  });
  return { soon: it.soon, focus: (node) => { focused = node; refocus = true; it.soon(); } };
}

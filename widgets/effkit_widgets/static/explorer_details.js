// What one point of the explorer is: figures, recipe, the code that makes it, bits by module, bytes, samples; or two points side by side.
Object.assign(STRINGS, {
  detailsTitle: { en: "The chosen model" }, detailsNone: { en: "Choose a point: click it, or move to it with the arrow keys and press Enter." }, detailsGone: { en: "The chosen point is not among these records." },
  ofBase: { en: "of the base" }, figures: { en: "Figures" }, compression: { en: "Compression" }, times: { en: "{v} times smaller" }, measuredText: { en: "Measured on" }, measuredOn: { en: "{tokens} tokens of {text}" }, measuredTokens: { en: "{tokens} tokens" },
  recipeTitle: { en: "Recipe" }, recipeBase: { en: "The base as it is: no step." }, step_quantize: { en: "Quantize" }, step_prune: { en: "Prune" }, step_student: { en: "New student" }, step_distill: { en: "Distill" },
  codeTitle: { en: "The code that makes it" }, copyCode: { en: "Copy code" }, codeRefused: { en: "Copying was refused; the code is selected" },
  bitsTitle: { en: "Bits by module" }, bitsLabel: { en: "Bits of every module by layer. Arrow keys move." }, bitsCell: { en: "{name}: {bits}" }, bitsOf: { en: "{n} bits" }, keptAsIs: { en: "as it was" }, bitsMany: { en: "{n} modules" },
  bytesOf: { en: "Where the bytes go" }, samplesTitle: { en: "Sample outputs" }, prompted: { en: "prompt" }, answered: { en: "output" },
  whyFailed: { en: "Failed: {why}" }, whyStopped: { en: "Stopped early: {why}" }, slowerLine: { en: "It {words}." }, tiesLine: { en: "Not distinguishable in this from {names}." }, simulatedLine: { en: "Measured on a simulated device." },
  compareTitle: { en: "{a} and {b} side by side" }, figure: { en: "figure" }, difference: { en: "difference" }, notApart: { en: "not distinguishable" }, equal: { en: "equal" }, overlap: { en: "intervals overlap" }, betterBy: { en: "{name} better, {v}" }, factor: { en: "{v} times" }, otherBits: { en: "modules with other bits" }, take: { en: "Take {letter}: {name}" }, ofMany: { en: "{n} of {m}" },
  embeddings: { en: "embeddings" }, head: { en: "head" }, attention: { en: "attention" }, mlp: { en: "MLP" }, norms: { en: "norms" }, scales: { en: "scales and zero points" }, other: { en: "other" },
});
const LEDGER_KINDS = ["embeddings", "head", "attention", "mlp", "norms", "scales", "other"];
const written = (v) => (v === null ? say("notSaid") : Array.isArray(v) ? v.join(", ") : typeof v === "object" ? `${Object.keys(v).length}` : typeof v === "boolean" ? say(v ? "yes" : "no") : String(v));
const fieldName = (name) => (STRINGS[`field_${name}`] ? say(`field_${name}`) : name.replaceAll("_", " "));
// the figures that a point has, with its share of the base's
function figureRows(model, p) {
  const base = model.get("points").find((q) => q.kind === "base");
  return figureEntries(model.get("config").figures).filter(([name]) => p.figures[name]).map(([name, f]) => {
    const value = p.figures[name], of = base && base !== p && (!f.ties || name === "perplexity") ? base.figures[name]?.[0] : null; // the others are shares of the base already
    return { name, f, value, share: of && value[0] !== null ? `${three((100 * value[0]) / of)}%` : "" };
  });
}
// Two points in one figure, in words: a tie is a tie.
function differenceText(a, b, name, figures) {
  const [x, y] = [a.figures[name]?.[0] ?? null, b.figures[name]?.[0] ?? null];
  if (x === null || y === null) return say("unavailable");
  if (x === y) return say("equal");
  if (same(a, b, name, figures)) return say("notApart");
  const up = figures[name].up, winner = (up ? x > y : x < y) ? "A" : "B", ratio = x > 0 && y > 0 ? Math.max(x, y) / Math.min(x, y) : null;
  const known = (p) => (p.figures[name][1] ?? null) !== null, crossed = figures[name].ties && known(a) && known(b) && a.figures[name][1] <= b.figures[name][2] && b.figures[name][1] <= a.figures[name][2] && !(a.ties && b.ties);
  if (crossed) return say("overlap");
  const far = ratio === null ? withUnit(Math.abs(x - y), figures[name].unit) : ratio < 2 ? `${three(100 * (ratio - 1))}%` : say("factor", { v: three(ratio) });
  return say("betterBy", { name: winner, v: far });
}
// where the base or a text is a file of this machine, the code says which
function codeHere(model, code) {
  for (const [short, full] of Object.entries(model.get("local") ?? {})) {
    const [before, said] = short.startsWith("./") ? ["", `"${short}"`] : ["ek.load(", `ek.load("${short}"`];
    code = code.replaceAll(said, () => before + JSON.stringify(full));
  }
  return code;
}
function bitsFor(model, detail) {
  const { layouts, maps } = model.get("maps") ?? {}, map = maps?.[detail?.map];
  return map ? { modules: layouts[map[0]], bits: map[1] } : null;
}
// standing(id): where it lies, in words; ontake(id): of two side by side this one is wanted
function detailsPanel(ui, { standing, ontake }) {
  const { model, signal } = ui, node = h("div", { class: "ek-panel ek-details", "aria-live": "polite" }), told = h("span", { class: "ek-quiet", role: "status" });
  const detailOf = (p) => model.get("details")[p.id] ?? {}, open = { bits: true, bytes: false, samples: false };
  const fold = (name, title, body) => { const it = h("details", { class: "ek-fold", ontoggle: () => { open[name] = it.open; } }, h("summary", {}, title), body); it.open = open[name]; return it; };
  const head = (p) => h("h4", {}, legendMark(p), p.name);
  function legendMark(p) { return h("span", { class: "ek-badge", "aria-hidden": "true" }, ...legend([{ kind: p.kind, text: "", hollow: p.hollow, dashed: p.simulated }]).querySelectorAll("svg")); }
  function lines(p) {
    const kind = model.get("config").figures[model.get("axes").y]?.ties, ties = new Set(p.ties?.[kind] ?? []), names = ties.size ? model.get("points").filter((q) => ties.has(q.n)).map((q) => q.name) : [];
    const found = p.state === "failed" ? say("whyFailed", { why: p.reason }) : p.state === "stopped" ? say("whyStopped", { why: p.reason }) : capital(standing(p.id, true));
    const list = [found ? (/[.?]$/.test(found) ? found : `${found}.`) : "", names.length ? say("tiesLine", { names: names.slice(0, 4).join(", ") + (names.length > 4 ? `, ${say("more", { n: names.length - 4 })}` : "") }) : "", p.slower ? say("slowerLine", { words: p.slower }) : "", p.simulated ? say("simulatedLine") : ""];
    return h("p", { class: "ek-standing" }, list.filter(Boolean).join(" "));
  }
  function figureList(p) {
    const detail = detailOf(p), rows = figureRows(model, p).map(({ f, value, share }) => [shortLabel(f), intervalText(value, f.unit), share]);
    if (detail.base_bytes && p.figures.bytes?.[0] && p.kind !== "base") rows.push([say("compression"), say("times", { v: three(detail.base_bytes / p.figures.bytes[0]) }), ""]);
    if (detail.tokens) rows.push([say("measuredText"), say(detail.text ? "measuredOn" : "measuredTokens", { tokens: detail.tokens.toLocaleString("en"), text: detail.text }), ""]);
    rows.push([capital(say("device")), [p.device, p.date?.slice(0, 10)].filter(Boolean).join(", "), ""]);
    if (rows.some((row) => row[2])) rows.unshift(["", "", say("ofBase")]);
    return h("dl", { class: "ek-facts ek-three" }, rows.flatMap(([k, v, more]) => [h("dt", {}, k), h("dd", {}, v), h("dd", { class: "ek-quiet" }, more ?? "")]));
  }
  const recipeList = (steps) => (steps?.length ? h("ol", { class: "ek-steps-list" }, steps.map(([step, values]) => h("li", {}, h("b", {}, say(`step_${step}`)), Object.keys(values).length ? ": " : "", Object.entries(values).map(([k, v]) => `${fieldName(k)} ${written(v)}`).join(", ")))) : h("p", {}, say("recipeBase")));
  function codeBox(code) {
    const pre = h("pre", { class: "ek-recipe-code", tabindex: "0", "aria-label": say("codeTitle") }, code);
    const copy = async () => {
      try { await navigator.clipboard.writeText(code); setText(told, say("copied")); } catch { getSelection().selectAllChildren(pre); setText(told, say("codeRefused")); }
      setTimeout(() => setText(told, ""), 4000);
    };
    return [h("h5", {}, say("codeTitle")), pre, h("div", { class: "ek-row" }, button("copy-code", say("copyCode"), copy), told)];
  }
  function bitsGrid(found) {
    const host = h("div", {}), said = h("p", { class: "ek-quiet" }), { modules, bits } = found, text = (i) => (bits[i] === null ? say("keptAsIs") : say("bitsOf", { n: bits[i] }));
    const grid = layerGrid(host, { modules, label: say("bitsLabel"), onkey: () => false, onchoose: (list) => setText(said, list.length === 1 ? say("bitsCell", { name: modules[list[0]].name, bits: text(list[0]) }) : say("bitsMany", { n: list.length })) });
    grid.paint((i) => ({ text: bits[i] === null ? "·" : String(bits[i]), colour: bits[i] === null ? null : heat((Math.min(8, bits[i]) - 2) / 6, ui.root.dataset.theme), pinned: false, spoken: say("bitsCell", { name: modules[i].name, bits: text(i) }) }));
    grid.start();
    return h("div", { class: modules.length > 100 ? "ek-scroll" : "" }, host, said);
  }
  function ledgerBars(p, detail) {
    const base = model.get("points").find((q) => q.kind === "base"), rows = [[base && base !== p ? base.name : null, base ? detailOf(base).ledger : null], [p.name, detail.ledger]].filter(([name, ledger]) => name && ledger);
    const host = h("div", {}), kinds = LEDGER_KINDS.filter((c) => rows.some(([, ledger]) => ledger[c])), sum = (ledger) => Object.values(ledger).reduce((a, b) => a + b, 0);
    stackedBars(host, signal, { label: say("bytesOf"), rows: () => rows.map(([name, ledger]) => ({ name, total: sum(ledger), parts: kinds.map((c) => ({ kind: c, label: say(c), value: ledger[c] ?? 0 })) })) });
    host.append(legend(kinds.map((c) => ({ kind: c, shape: "square", text: say(c), quiet: rows.map(([, ledger]) => bytesText(ledger[c] ?? 0)).join(" → ") }))));
    return host;
  }
  const sampleList = (samples) => h("ul", { class: "ek-samples" }, samples.map(([prompt, text]) => h("li", {}, h("dl", {}, h("dt", {}, say("prompted")), h("dd", {}, prompt), h("dt", {}, say("answered")), h("dd", {}, text)))));
  function one(p) {
    const detail = detailOf(p), found = bitsFor(model, detail), parts = [head(p), lines(p)];
    if (Object.keys(p.figures).length) parts.push(figureList(p));
    parts.push(h("h5", {}, say("recipeTitle")), recipeList(detail.steps));
    if (detail.code) parts.push(...codeBox(codeHere(model, detail.code)));
    if (found) parts.push(fold("bits", say("bitsTitle"), bitsGrid(found)));
    if (detail.ledger && Object.keys(detail.ledger).length) parts.push(fold("bytes", say("bytesOf"), ledgerBars(p, detail)));
    if (detail.samples?.length) parts.push(fold("samples", say("samplesTitle"), sampleList(detail.samples)));
    return parts;
  }
  function two(a, b) {
    const { figures } = model.get("config"), rows = figureEntries(figures).filter(([name]) => a.figures[name] || b.figures[name]).map(([name, f]) => [shortLabel(f), intervalText(a.figures[name] ?? [null], f.unit), intervalText(b.figures[name] ?? [null], f.unit), differenceText(a, b, name, figures)]);
    const keys = [...new Set([...Object.keys(a.fields ?? {}), ...Object.keys(b.fields ?? {})])].filter((k) => (a.fields?.[k] ?? null) !== (b.fields?.[k] ?? null));
    for (const k of keys) rows.push([fieldName(k), valueText(k, a.fields?.[k] ?? null), valueText(k, b.fields?.[k] ?? null), ""]);
    const [m, n] = [bitsFor(model, detailOf(a)), bitsFor(model, detailOf(b))];
    if (m && n && m.modules === n.modules) rows.push([say("otherBits"), "", "", say("ofMany", { n: m.bits.filter((v, i) => v !== n.bits[i]).length, m: m.bits.length })]);
    return [h("h4", {}, say("compareTitle", { a: a.name, b: b.name })), h("div", { class: "ek-scroll ek-compare", tabindex: "0", role: "region", "aria-label": say("compareTitle", { a: a.name, b: b.name }) }, h("table", { class: "ek-table", role: "table" }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, [say("figure"), `A: ${a.name}`, `B: ${b.name}`, say("difference")].map((text) => h("th", { scope: "col", role: "columnheader", class: "ek-text" }, text)))),
      h("tbody", { role: "rowgroup" }, rows.map((row) => h("tr", { role: "row" }, row.map((v, i) => h(i ? "td" : "th", { class: "ek-text", role: i ? "cell" : "rowheader", scope: i ? null : "row" }, v))))))), // told apart by role: on a narrow screen the rows are grids
      h("div", { class: "ek-row ek-take" }, [["A", a], ["B", b]].map(([letter, p]) => button(`take-${letter.toLowerCase()}`, say("take", { letter, name: p.name }), () => { ontake(p.id); focus(); })))];
  }
  let key = "";
  function draw() {
    const points = model.get("points"), a = points.find((p) => p.id === model.get("chosen")), b = points.find((p) => p.id === model.get("against"));
    const now = JSON.stringify([a, b, model.get("axes"), ui.root.dataset.theme, a && standing(a.id), a && detailOf(a).samples?.length]);
    if (now === key) return;
    key = now;
    node.replaceChildren(...(a && b && a !== b ? two(a, b) : a ? one(a) : [h("h4", {}, say("detailsTitle")), h("p", { class: "ek-quiet" }, say(model.get("chosen") ? "detailsGone" : "detailsNone"))]));
  }
  // the heading takes the focus, for what stood there before is gone
  function focus() { const title = node.querySelector("h4"); title.tabIndex = -1; title.focus({ preventScroll: true }); title.scrollIntoView({ block: "nearest" }); }
  return { node, draw, focus, show: () => node.querySelector("h4").scrollIntoView({ block: "nearest" }) };
}

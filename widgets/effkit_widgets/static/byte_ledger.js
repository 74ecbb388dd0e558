// ByteLedger: where the bytes lie, by what they are for and by layer.
Object.assign(STRINGS, {
  ledgerTitle: { en: "Where {total} go" }, ledgerTwo: { en: "Where the bytes go: {a} before, {b} now" },
  ledgerHint: { en: "Bytes really stored, scales included, tied weights once; 1 MB is 1,000,000 bytes. Hover, or read the table." },
  byUse: { en: "By what they are for" }, byLayer: { en: "By layer" }, perWeight: { en: "{v} bits per weight" },
  smaller: { en: "The whole model is {v} times smaller: {a} instead of {b}." }, most: { en: "Most of it, {v}%, is {what}." },
  embeddings: { en: "embeddings" }, head: { en: "head" }, attention: { en: "attention" }, mlp: { en: "MLP" }, norms: { en: "norms" }, scales: { en: "scales and zero points" }, other: { en: "other" },
  layer: { en: "layer" }, outside: { en: "outside the layers" }, bytes: { en: "bytes" }, share: { en: "share" }, ledgerTable: { en: "Stored bytes by model, layer and use" }, useOf: { en: "used for" },
});
export default {
  render: guarded(({ model, el, signal }) => {
    const { models, categories } = model.get("config"), last = models.at(-1), two = models.length > 1;
    const title = two ? say("ledgerTwo", { a: bytesText(models[0].total), b: bytesText(last.total) }) : say("ledgerTitle", { total: bytesText(last.total) });
    const ui = card(el, model, signal, { widget: "ByteLedger", title, hint: say("ledgerHint") });
    const present = categories.filter((c) => models.some((m) => m.categories[c]));
    const uses = h("div", { class: "ek-panel" }, h("h4", {}, say("byUse"))), layers = h("div", { class: "ek-panel" }, h("h4", {}, say("byLayer")));
    ui.picture.append(h("div", { class: "ek-columns" }, uses, layers));
    const rows = () => models.map((m) => ({ name: m.name, total: m.total, note: say("perWeight", { v: three(m.bits) }), parts: present.map((c) => ({ kind: c, label: say(c), value: m.categories[c] ?? 0 })) }));
    stackedBars(uses, signal, { label: title, rows });
    uses.append(legend(present.map((c) => ({ kind: c, shape: "square", text: say(c), quiet: models.map((m) => bytesText(m.categories[c] ?? 0)).join(" → ") }))));
    const most = present.reduce((a, c) => ((last.categories[c] ?? 0) > (last.categories[a] ?? 0) ? c : a), present[0]);
    const largest = say("most", { v: three((100 * (last.categories[most] ?? 0)) / last.total), what: say(most) });
    setText(ui.state, two ? `${say("smaller", { v: three(models[0].total / last.total), a: bytesText(last.total), b: bytesText(models[0].total) })} ${largest}` : largest);
    if (models.some((m) => m.layers.length)) layerColumns(layers, signal, models, present); else layers.hidden = true;
    const twin = tableTwin(ui, () => ({
      caption: say("ledgerTable"),
      columns: [{ label: say("model"), text: true }, { label: say("layer"), show: (v) => String(v) }, { label: say("useOf"), text: true }, { label: say("bytes"), show: (v) => v.toLocaleString("en") }, { label: say("share"), show: (v) => `${three(100 * v)}%` }],
      rows: models.flatMap((m) => {
        const inside = Object.fromEntries(present.map((c) => [c, m.layers.reduce((n, [, parts]) => n + (parts[c] ?? 0), 0)]));
        const outside = present.map((c) => [m.name, say("outside"), say(c), (m.categories[c] ?? 0) - inside[c]]).filter((row) => row[3] > 0);
        return [...outside, ...m.layers.flatMap(([layer, parts]) => present.filter((c) => parts[c]).map((c) => [m.name, layer, say(c), parts[c]]))].map((row) => [...row, row[3] / m.total]);
      }),
    }), "bytes.csv");
    ui.controls.append(twin.toggle);
    ui.onlive = () => ui.setState(ui.live() ? "idle" : "recorded");
  }),
};
// one column a layer; the base stands behind as an outline
function layerColumns(host, signal, models, present) {
  const last = models.at(-1), sum = (parts) => Object.values(parts).reduce((a, b) => a + b, 0), base = models.length > 1 ? models[0] : null;
  let cursor = -1;
  const spoken = h("span", { class: "ek-hush", "aria-live": "polite" });
  const it = frame(host, signal, { label: `${say("byLayer")}. ${say("chartKeys")}`, ratio: 0.42, least: 180, most: 280 }, draw);
  it.box.append(spoken);
  const list = () => { const indices = [...new Set(models.flatMap((m) => m.layers.map(([layer]) => layer)))].sort((a, b) => a - b); return indices.map((layer) => ({ layer, now: last.layers.find(([l]) => l === layer)?.[1] ?? {}, was: base?.layers.find(([l]) => l === layer)?.[1] })); };
  let rows = list(), X, Y, wide = 0;
  function draw() {
    const { svg, width, height } = it, right = 8, top = 24, bottom = 40;
    const tall = [0, Math.max(...rows.map((r) => Math.max(sum(r.now), r.was ? sum(r.was) : 0))) * 1.04], left = leftFor(tall, { label: "", unit: "bytes" }, height);
    svg.replaceChildren();
    X = scale([rows[0].layer - 0.5, rows.at(-1).layer + 0.5], [left, width - right]);
    Y = scale(tall, [height - bottom, top]);
    wide = Math.max(2, (X(1) - X(0)) * 0.78);
    const g = s("g", { "aria-hidden": "true" }, svg);
    axes(g, X, Y, { x: { label: say("layer"), unit: "", whole: true }, y: { label: say("bytes"), unit: "bytes" }, width, height, left, bottom });
    rows.forEach((row, i) => {
      const x = X(row.layer) - wide / 2, column = s("g", {}, g);
      let at = 0;
      for (const c of present) {
        const value = row.now[c] ?? 0;
        if (!value) continue;
        s("rect", { x, y: Y(at + value), width: wide, height: Math.max(0.5, Y(at) - Y(at + value) - 0.6), class: `ek-mark-${c}`, style: "fill:var(--ek-mark)" }, column);
        at += value;
      }
      if (row.was && wide >= 14) s("rect", { x, y: Y(sum(row.was)), width: wide, height: Y(0) - Y(sum(row.was)), fill: "none", stroke: "currentColor", "stroke-width": 1, opacity: 0.55, "stroke-dasharray": "3 2" }, column);
      s("rect", { x: X(row.layer - 0.5), y: top, width: X(1) - X(0), height: height - top - bottom, fill: "transparent" }, column)
        .addEventListener("pointerenter", () => show(i, false));
    });
    // frames of narrow columns would run into each other: then one line over all
    if (wide < 14 && rows.every((row) => row.was)) s("path", { d: rows.map((row, i) => `${i ? "V" : `M${X(row.layer - 0.5)},`}${Y(sum(row.was))}H${X(row.layer + 0.5)}`).join(""), class: "ek-was", fill: "none", stroke: "currentColor", "stroke-width": 1.2, opacity: 0.7, "stroke-dasharray": "4 3" }, g);
    it.box.dataset.points = rows.length; svg.dataset.points = rows.length;
  }
  function show(i, speak) {
    cursor = i;
    const row = rows[i], total = sum(row.now), pairs = present.filter((c) => row.now[c]).map((c) => [say(c), bytesText(row.now[c])]);
    if (row.was) pairs.push([base.name, bytesText(sum(row.was))]);
    it.tip.show(X(row.layer), Y(Math.max(total, row.was ? sum(row.was) : 0) * 0.5), `${say("layer")} ${row.layer}: ${bytesText(total)}`, pairs, []);
    if (speak) setText(spoken, `${say("layer")} ${row.layer}: ${pairs.map(([k, v]) => `${k} ${v}`).join(", ")}`);
  }
  it.svg.addEventListener("pointerleave", () => it.tip.hide());
  it.svg.addEventListener("blur", () => it.tip.hide());
  it.svg.addEventListener("focus", () => show(Math.max(0, cursor), true));
  it.svg.addEventListener("keydown", (e) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (e.key === "Escape") it.tip.hide();
    if (!way) return;
    e.preventDefault();
    show(Math.max(0, Math.min(rows.length - 1, cursor + way * (e.shiftKey ? 10 : 1))), true);
  });
}

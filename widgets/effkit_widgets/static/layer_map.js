// LayerMap: bits, error and sensitivity of every module; a budget that is solved while it is dragged; a measurement beside the prediction.
Object.assign(STRINGS, {
  mapTitle: { en: "Where the bits of {name} should go" },
  mapHint: { en: "Drag the budget: the widths that lose least are found at once. Or choose a module, a row or a column and give it bits: digits 2 to 8, 1 for as it is, plus and minus." },
  mapUnknown: { en: "Find out first how much each module matters: one backward pass over a text." }, find: { en: "Find sensitivities" }, verify: { en: "Verify" },
  budget: { en: "Budget" }, budgetField: { en: "Budget of the whole model, MB" }, budgetValue: { en: "{bytes}, {share} of the base" }, least: { en: "Modules set by hand need at least {bytes}." },
  whole: { en: "Whole model" }, wholeValue: { en: "{share} of the base, {bits} bits a weight on average" }, predicted: { en: "Predicted KL" }, measured: { en: "Measured KL" }, nats: { en: "nats" }, aToken: { en: "a token" },
  notMeasured: { en: "not measured with these bits; Verify does" }, notMeasuredHere: { en: "not measured with these bits" }, predictionIs: { en: "the prediction is {v}% too {way}" }, tooLow: { en: "low" }, tooHigh: { en: "high" }, predictionFits: { en: "the prediction lies inside the interval" },
  predictGloss: { en: "The sum of what each module's rounding adds by itself, as if their errors were small and independent" },
  curveTitle: { en: "Predicted KL for every budget" }, curveLabel: { en: "Predicted KL against bytes; the ring is the present choice" }, bestMix: { en: "best mix of widths" }, uniform: { en: "one width for all" }, present: { en: "present choice" }, measuredPoint: { en: "measured" }, uniformBits: { en: "{n} bits for all" },
  wholeBytes: { en: "bytes of the whole model" }, klNats: { en: "KL, nats" }, viewOf: { en: "The map shows" }, view_bits: { en: "Bits" }, view_error: { en: "Error" }, view_sensitivity: { en: "Sensitivity" },
  key_bits: { en: "bits a weight" }, key_error: { en: "rounding error in % of the weights" }, key_sensitivity: { en: "KL that {bits} bits would add, thousandths of a nat" }, asIs: { en: "as it is" }, pinnedKey: { en: "dot: set by hand" }, noErrors: { en: "Errors appear here while Verify quantizes." },
  moduleOf: { en: "{name}" }, manyModules: { en: "{n} modules, {weights} weights" }, choiceBits: { en: "bits" }, choiceBytes: { en: "bytes" }, choiceKl: { en: "adds KL, nats" }, errorNow: { en: "rounding error {v}%" }, free: { en: "Let the budget choose" }, freeAll: { en: "Let the budget choose all" }, tiedHead: { en: "with the head" },
  spokenCell: { en: "{name}: {bits} bits{pinned}, adds KL {kl}, error {error}" }, byHand: { en: ", set by hand" }, noWidth: { en: "{name} cannot have {bits} bits" },
  mapTable: { en: "Every module with its bits, bytes, predicted KL and rounding error" }, module: { en: "module" }, kind: { en: "kind" }, layer: { en: "layer" }, weights: { en: "weights" }, bits: { en: "bits" }, setByHand: { en: "set by hand" }, error: { en: "error" }, klAt: { en: "KL at {n} bits" }, yes: { en: "yes" }, no: { en: "no" },
  ledgerNow: { en: "{name} now" }, ledgerChosen: { en: "with these bits" }, bytesTitle: { en: "Where the bytes go" },
  embeddings: { en: "embeddings" }, head: { en: "head" }, attention: { en: "attention" }, mlp: { en: "MLP" }, other: { en: "other" }, never: { en: "never quantized" }, task_sensitivity: { en: "finding sensitivities" },
});
const KEPT = 16, STEPS = 1000; // 16 bits: the module as it is; the slider's steps, even on a logarithmic scale
const KEYS = { 1: KEPT, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 8: 8 };
const TALL = 14; // layers
const VIEWS = ["bits", "error", "sensitivity"];
const bitsText = (bits) => (bits === KEPT ? say("asIs") : String(bits));
const sharePercent = (share) => `${three(100 * share)}%`;
const two = (v) => (v >= 100 ? String(Math.round(v)) : v === 0 ? "0" : v < 0.01 ? "<.01" : String(Number(v.toPrecision(2))));
export default {
  render: guarded(({ model, el, signal }) => {
    const config = model.get("config");
    const ui = card(el, model, signal, { widget: "LayerMap", title: say("mapTitle", config), hint: say("mapHint") });
    const budgetPanel = h("div", { class: "ek-panel ek-map-budget" }), mapPanel = h("div", { class: "ek-panel ek-map-cells" }), curvePanel = h("div", { class: "ek-panel ek-map-curve" });
    const detail = h("div", { class: "ek-module" }), spoken = h("span", { class: "ek-hush", role: "status", "aria-live": "polite" });
    ui.picture.append(h("div", { class: "ek-map" }, budgetPanel, mapPanel, curvePanel), spoken);
    let modules = [], solver = null, now = null, pins = {}, budget = null, view = "bits", grid = null, curve = null, sendTimer = 0, names = new Map(), reference = 4, widths = [];

    const store = curveStore(ui, () => { paint(); drawDetail(); twin.update(); ui.root.dataset.points = store.count(); });
    const errors = () => { const { x, y } = store.get("error"), found = new Map(); x.forEach((i, n) => found.set(i, y[n])); return found; };

    // --- the budget ---
    const slider = h("input", { type: "range", name: "budget", min: 0, max: STEPS, step: 1, "aria-label": say("budgetField") });
    const megabytes = h("input", { type: "number", name: "budget_mb", min: 0, step: "any" });
    const facts = h("dl", { class: "ek-facts" }), curveHost = h("div", {}), ledgerHost = h("div", {});
    const factOf = Object.fromEntries(["whole", "predicted", "measured"].map((key) => { const dd = h("dd", { "data-fact": key }); facts.append(h("dt", { title: key === "predicted" ? say("predictGloss") : null }, say(key)), dd); return [key, dd]; }));
    budgetPanel.append(h("h4", {}, say("budget")), h("div", { class: "ek-range-row" }, slider, field(say("budgetField"), megabytes)), facts);
    const curveTitle = h("h4", {}, say("curveTitle"));
    curvePanel.append(curveTitle, curveHost, ledgerHost);
    const bytesAt = (step) => solver.smallest * (solver.largest / solver.smallest) ** (step / STEPS);
    const stepAt = (bytes) => (STEPS * Math.log(bytes / solver.smallest)) / Math.log(solver.largest / solver.smallest);
    slider.addEventListener("input", () => solve(Number(slider.value) >= STEPS ? solver.largest : bytesAt(Number(slider.value)), true));
    slider.addEventListener("keydown", (e) => {
      const way = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[e.key];
      if (!way || !e.shiftKey) return;
      e.preventDefault();
      slider.value = Number(slider.value) + 20 * way;
      slider.dispatchEvent(new Event("input"));
    });
    megabytes.addEventListener("change", () => { const bytes = Number(megabytes.value) * 1e6; if (bytes > 0) solve(Math.max(solver.smallest, Math.min(solver.largest, bytes))); });
    function solve(bytes) {
      const begun = performance.now();
      let found = solver.allocate(bytes, pins), note = "";
      if (!found) { bytes = solver.least(pins); found = solver.allocate(bytes, pins); note = say("least", { bytes: bytesText(bytes) }); }
      budget = Math.round(bytes);
      show(found, note);
      ui.root.dataset.solveMs = (performance.now() - begun).toFixed(2); // with the map, the bytes and the KL redrawn
      send();
    }
    function setBits(list, bitsFor) {
      const bits = [...now.bits], refused = [];
      for (const i of list) {
        const wanted = bitsFor(i);
        if (wanted === null) continue;
        if (!modules[i].choices.some((c) => c[BITS] === wanted)) { refused.push([modules[i].name, wanted]); continue; }
        bits[i] = wanted; pins[i] = wanted;
      }
      if (refused.length) setText(spoken, say("noWidth", { name: refused[0][0], bits: refused[0][1] }));
      budget = null;
      show(solver.at(bits), "");
      send();
    }
    function free(list) {
      for (const i of list) delete pins[i];
      solve(budget ?? now.bytes);
    }
    function onkey(list, key) {
      if (!solver) return false;
      if (key in KEYS) setBits(list, () => KEYS[key]);
      else if (["+", "=", "-", "_"].includes(key)) {
        const way = key === "+" || key === "=" ? 1 : -1;
        setBits(list, (i) => { const all = modules[i].choices.map((c) => c[BITS]); return all[Math.max(0, Math.min(all.length - 1, all.indexOf(now.bits[i]) + way))]; });
      } else if (key === "Delete" || key === "Backspace") free(list);
      else return false;
      return true;
    }
    // what is chosen here goes to Python at most ten times a second, and always in the end
    const told = () => ({ bits: Object.fromEntries(modules.map((m, i) => [m.name, now.bits[i]])), pinned: Object.keys(pins).map((i) => modules[i].name), budget });
    function send() {
      if (sendTimer) return;
      if (!ui.live()) run.update(); // a page without a kernel says that it is recorded
      sendTimer = setTimeout(() => { sendTimer = 0; model.set("choice", told()); model.save_changes(); }, 100);
    }
    function adopt() {
      if (sendTimer || !solver) return; // a newer choice is on its way
      const choice = model.get("choice");
      pins = Object.fromEntries((choice.pinned ?? []).filter((name) => names.has(name)).map((name) => [names.get(name), choice.bits[name]]));
      budget = choice.budget;
      show(solver.at(modules.map((m) => choice.bits?.[m.name])), "");
    }

    // --- what is shown ---
    function show(found, note) {
      now = found;
      const share = now.bytes / config.base_bytes, thumb = Math.max(0, Math.min(STEPS, stepAt(budget ?? now.bytes)));
      if (document.activeElement !== slider || Math.abs(Number(slider.value) - thumb) > 1) slider.value = thumb;
      slider.setAttribute("aria-valuetext", say("budgetValue", { bytes: bytesText(now.bytes), share: sharePercent(share) }));
      if (document.activeElement !== megabytes) megabytes.value = three(now.bytes / 1e6);
      const quantized = modules.reduce((n, m) => n + m.weights, 0), stored = now.chosen.reduce((n, c) => n + c[BYTES], 0);
      factOf.whole.replaceChildren(h("strong", {}, bytesText(now.bytes)), " ", h("span", { class: "ek-quiet" }, say("wholeValue", { share: sharePercent(share), bits: three((8 * stored) / quantized) })), note ? ` ${note}` : "");
      factOf.predicted.replaceChildren(h("strong", {}, `${three(now.kl)} ${say("nats")}`), " ", h("span", { class: "ek-quiet" }, say("aToken")));
      drawMeasured(); paint(); drawDetail(); curve?.soon(); bars.soon(); twin.update();
    }
    const verifiedNow = () => model.get("verified").find((row) => modules.every((m, i) => row.bits[m.name] === now.bits[i]));
    function drawMeasured() {
      const found = now && verifiedNow();
      if (!found) return factOf.measured.replaceChildren(h("span", { class: "ek-quiet" }, say(ui.live() ? "notMeasured" : "notMeasuredHere")));
      const [value, low, high] = found.kl, off = 100 * (found.predicted / value - 1);
      const words = low !== null && low <= found.predicted && found.predicted <= high ? say("predictionFits") : say("predictionIs", { v: three(Math.abs(off)), way: say(off < 0 ? "tooLow" : "tooHigh") });
      factOf.measured.replaceChildren(h("strong", {}, intervalText(found.kl, say("nats"))), " ", h("span", { class: "ek-quiet" }, words));
    }
    const views = h("fieldset", { class: "ek-views" }, h("legend", { class: "ek-hush" }, say("viewOf")), VIEWS.map((name) => { const input = h("input", { type: "radio", name: `view-${ui.title.id}`, value: name, onchange: () => { view = name; paint(); } }); return h("label", {}, input, say(`view_${name}`)); }));
    const setView = (name) => { view = name; views.querySelector(`[value="${name}"]`).checked = true; paint(); };
    const gridHost = h("div", {}), key = h("div", { class: "ek-key" });
    mapPanel.append(views, gridHost, key);
    const klAt = (m, bits) => m.choices.find((c) => c[BITS] === bits)?.[KL] ?? null;
    function paint() {
      if (!grid) return;
      const theme = ui.root.dataset.theme, found = errors(), scale = model.get("map").scale ?? 1;
      const bitValues = widths, values = view === "error" ? [...found.values()] : view === "sensitivity" ? modules.map((m) => scale * (klAt(m, reference) ?? NaN)) : [];
      const kept = values.filter((v) => v > 0), low = Math.min(...kept), high = Math.max(...kept);
      const bitColour = (bits) => heat(bitValues.length > 1 ? bitValues.indexOf(bits) / (bitValues.length - 1) : 0.5, theme);
      grid.paint((i) => {
        const m = modules[i], error = found.get(i), choice = now?.chosen[i];
        let text = "", colour = null;
        if (view === "bits" && now) { text = bitsText(now.bits[i]); colour = bitColour(now.bits[i]); if (m.layer !== null && now.bits[i] === KEPT) text = String(KEPT); }
        if (view === "error" && error !== undefined) { text = two(100 * error); colour = heat(logShare(error, low, high), theme); }
        if (view === "sensitivity" && klAt(m, reference) !== null) { const kl = scale * klAt(m, reference); text = two(1000 * kl); colour = heat(logShare(kl, low, high), theme); }
        if (m.layer === null && text) text += ` · ${m.name}${m.tied ? ` (${say("tiedHead")})` : ""}`;
        const words = say("spokenCell", { name: m.name, bits: now ? bitsText(now.bits[i]) : say("unavailable"), pinned: i in pins ? say("byHand") : "", kl: choice ? three(scale * choice[KL]) : say("unavailable"), error: error === undefined ? say("unavailable") : `${three(100 * error)}%` });
        return { text, colour, pinned: i in pins, spoken: words };
      });
      const swatch = (colour, words) => h("span", {}, h("i", { style: `background:${rgb(colour)}` }), words);
      const ramp = () => [h("span", {}, three(view === "error" ? 100 * low : 1000 * low)), h("i", { class: "ek-ramp", style: `background:linear-gradient(to right,${[0, 0.2, 0.4, 0.6, 0.8, 1].map((f) => rgb(heat(f, theme))).join(",")})` }), h("span", {}, three(view === "error" ? 100 * high : 1000 * high))];
      const parts = view === "bits" ? (now ? bitValues.map((b) => swatch(bitColour(b), bitsText(b))) : []) : kept.length ? ramp() : [say(view === "error" ? "noErrors" : "mapUnknown")];
      key.replaceChildren(h("span", { class: "ek-quiet" }, say(`key_${view}`, { bits: reference })), ...parts, ...(Object.keys(pins).length ? [say("pinnedKey")] : []));
    }
    function drawDetail() {
      if (!grid) return;
      const list = grid.chosen(), m = list.length === 1 ? modules[list[0]] : null, found = errors();
      const weights = list.reduce((n, i) => n + modules[i].weights, 0), focused = detail.contains(document.activeElement) ? document.activeElement.value ?? document.activeElement.dataset.action : null;
      const head = h("h4", {}, m ? m.name : say("manyModules", { n: list.length, weights: weights.toLocaleString("en") }));
      if (!solver) return detail.replaceChildren(head, h("p", { class: "ek-quiet" }, say("mapUnknown")));
      const scale = model.get("map").scale, options = [...new Set(list.flatMap((i) => modules[i].choices.map((c) => c[BITS])))].sort((a, b) => a - b);
      const sum = (bits, column) => list.reduce((n, i) => n + (modules[i].choices.find((c) => c[BITS] === bits) ?? modules[i].choices.at(-1))[column], 0);
      const rows = options.map((bits) => {
        const input = h("input", { type: "radio", name: `bits-${ui.title.id}`, value: String(bits), onchange: () => setBits(list, () => bits) });
        input.checked = list.length > 0 && list.every((i) => now.bits[i] === bits);
        return h("tr", {}, h("td", {}, h("label", {}, input, bitsText(bits))), h("td", {}, bytesText(sum(bits, BYTES))), h("td", {}, three(scale * sum(bits, KL))));
      });
      const pinned = list.filter((i) => i in pins), error = m && found.get(list[0]);
      const buttons = [pinned.length ? button("free", say("free"), () => free(pinned)) : null, Object.keys(pins).length > pinned.length ? button("free-all", say("freeAll"), () => free(Object.keys(pins))) : null];
      detail.replaceChildren(head, h("fieldset", {}, h("table", {}, h("thead", {}, h("tr", {}, ["choiceBits", "choiceBytes", "choiceKl"].map((k) => h("th", { scope: "col" }, say(k))))), h("tbody", {}, rows))),
        error !== undefined && error !== null ? h("p", { class: "ek-quiet" }, say("errorNow", { v: three(100 * error) })) : "", h("div", { class: "ek-row" }, buttons));
      if (focused) (detail.querySelector(`[value="${focused}"]`) ?? detail.querySelector(`[data-action="${focused}"]`))?.focus();
    }

    // --- the curve of every budget, one width for all, what was measured ---
    function makeCurve() {
      let line = [], lineKey = null;
      const it = frame(curveHost, signal, { label: say("curveLabel"), ratio: 0.62, least: 200, most: 300 }, draw);
      function draw() {
        const { svg, width, height } = it, top = 24, bottom = 40, right = 14, key = JSON.stringify(pins);
        if (!now) return svg.replaceChildren();
        if (key !== lineKey) { lineKey = key; const least = Math.max(solver.least(pins), solver.smallest); line = Array.from({ length: 61 }, (_, n) => solver.allocate(least * (solver.largest / least) ** (n / 60) + 1, pins)).filter((a) => a && a.kl > 0); }
        const flat = widths.filter((b) => b !== KEPT).map((b) => ({ b, a: solver.at(modules.map((m) => (m.choices.some((c) => c[BITS] === b) ? b : null))) })).filter(({ a }) => a.kl > 0);
        const measured = model.get("verified").filter((row) => row.kl[0] > 0), tall = Math.max(...line.map((a) => a.kl), ...flat.map(({ a }) => a.kl)), shown = line.filter((a) => a.kl > tall / 3e4);
        const xs = [...shown.map((a) => a.bytes), ...flat.map(({ a }) => a.bytes)], ys = [...shown.map((a) => a.kl), ...flat.map(({ a }) => a.kl), ...measured.flatMap((row) => row.kl.filter((v) => v > 0))];
        const heights = extent(ys, { log: true }), left = leftFor(heights, { label: "", unit: "" }, height, true), X = scale(extent(xs, { log: true }), [left, width - right], true), Y = scale(heights, [height - bottom, top], true);
        svg.replaceChildren();
        const g = s("g", { "aria-hidden": "true" }, svg), clip = (v) => Math.min(height - bottom, Math.max(top, v));
        axes(g, X, Y, { x: { label: say("wholeBytes"), unit: "bytes" }, y: { label: say("klNats"), unit: "" }, width, height, left, bottom });
        s("path", { d: shown.map((a, i) => `${i ? "L" : "M"}${X(a.bytes).toFixed(1)},${Y(a.kl).toFixed(1)}`).join(""), class: "ek-front" }, g);
        const mark = (kind, cls, x, y, r, title, pairs) => {
          const node = s("g", { class: `ek-mark-${kind} ${cls}` }, g);
          s("path", { d: shapePath("circle", r), transform: `translate(${x} ${y})`, class: "ek-mark" }, node);
          s("circle", { cx: x, cy: y, r: 12, fill: "transparent" }, node);
          node.addEventListener("pointerenter", () => it.tip.show(x, y, title, pairs, []));
          node.addEventListener("pointerleave", () => it.tip.hide());
        };
        for (const { b, a } of flat) { mark("quantized", "ek-hollow", X(a.bytes), Y(a.kl), 4, say("uniformBits", { n: b }), [[say("bytes"), bytesText(a.bytes)], [say("predicted"), three(a.kl)]]); s("text", { x: X(a.bytes) + 7, y: Y(a.kl) - 6, class: "ek-halo" }, g, String(b)); }
        for (const row of measured) { const x = X(row.bytes), y = Y(row.kl[0]), node = s("g", { class: "ek-mark-quantized" }, g); whiskers(node, x, y, null, row.kl[1] > 0 ? [Y(row.kl[1]), Y(row.kl[2])] : null); mark("quantized", "", x, y, 4.5, say("measuredPoint"), [[say("bytes"), bytesText(row.bytes)], [say("measured"), intervalText(row.kl)], [say("predicted"), three(row.predicted)]]); }
        const x = Math.min(width - right, Math.max(left, X(now.bytes))), y = now.kl > 0 ? clip(Y(now.kl)) : height - bottom;
        s("circle", { cx: x, cy: y, r: 8, class: "ek-ring" }, g);
        it.box.dataset.points = flat.length + measured.length + 1; svg.dataset.points = it.box.dataset.points;
        svg.setAttribute("aria-label", `${say("curveLabel")}: ${bytesText(now.bytes)}, ${three(now.kl)} ${say("nats")}`);
      }
      const items = [{ kind: "quantized", shape: "line", text: say("bestMix") }, { kind: "quantized", shape: "circle", hollow: true, text: say("uniform") }, { kind: "quantized", shape: "circle", text: say("measuredPoint") }, { kind: "base", shape: "ring", text: say("present") }];
      curveHost.append(legend(items));
      return it;
    }
    const USES = ["embeddings", "head", "attention", "mlp", "other"], useOf = (m) => (USES.includes(m.kind) ? m.kind : "other");
    const byUse = (bytesOf) => { const parts = USES.map((kind) => ({ kind, label: say(kind), value: modules.reduce((n, m, i) => n + (useOf(m) === kind ? bytesOf(i) : 0), 0) })); return [...parts, { kind: "norms", label: say("never"), value: model.get("map").fixed ?? 0 }]; };
    ledgerHost.append(h("h4", {}, say("bytesTitle")));
    const bars = stackedBars(ledgerHost, signal, { label: say("bytesTitle"), rows: () => (now ? [{ name: say("ledgerNow", config), total: solver.largest, parts: byUse((i) => modules[i].choices.at(-1)[BYTES]) }, { name: say("ledgerChosen"), total: now.bytes, parts: byUse((i) => now.chosen[i][BYTES]) }] : []) });

    const twin = tableTwin(ui, () => {
      const found = errors(), scale = model.get("map").scale ?? 1, kls = solver ? widths.filter((b) => b !== KEPT) : [];
      return {
        caption: say("mapTable"),
        columns: [{ label: say("module"), text: true }, { label: say("kind"), text: true }, { label: say("layer"), show: (v) => String(v ?? "–") }, { label: say("weights"), show: (v) => v?.toLocaleString("en") ?? say("unavailable") }, { label: say("bits"), show: (v) => (v === null ? say("unavailable") : bitsText(v)) }, { label: say("setByHand"), text: true }, { label: say("choiceBytes"), show: bytesText }, { label: say("predicted"), show: three }, { label: say("error"), show: three }, ...kls.map((n) => ({ label: say("klAt", { n }), show: three }))],
        rows: modules.map((m, i) => [m.name, say(m.kind), m.layer, m.weights ?? null, now ? now.bits[i] : null, say(i in pins ? "yes" : "no"), now ? now.chosen[i][BYTES] : null, now ? scale * now.chosen[i][KL] : null, found.get(i) ?? null, ...kls.map((n) => (klAt(m, n) === null ? null : scale * klAt(m, n)))]),
      };
    }, "layers.csv");
    const run = runPanel(ui, { startText: () => say(solver ? "verify" : "find"), onstart: () => { if (solver) setView("error"); return solver ? { choice: told() } : {}; }, onchange: () => ui.root.toggleAttribute("data-known", Boolean(solver)) });
    ui.controls.append(run.row, twin.toggle);

    function drawMap() {
      const map = model.get("map"), known = map.fixed !== undefined;
      modules = map.modules; names = new Map(modules.map((m, i) => [m.name, i]));
      solver = known ? allocator({ modules, fixed: map.fixed, scale: map.scale }) : null;
      widths = [...new Set(modules.flatMap((m) => m.choices.map((c) => c[BITS])))].sort((a, b) => a - b);
      reference = widths.includes(4) ? 4 : widths[0];
      gridHost.replaceChildren(); curveHost.replaceChildren();
      grid = layerGrid(gridHost, { modules, onchoose: drawDetail, onkey });
      for (const node of [slider, megabytes]) node.disabled = !known;
      for (const node of [facts, curveHost, ledgerHost, curveTitle]) node.hidden = !known;
      // beside a tall map there is room for the chosen module; under a low one it stands below the map
      if (new Set(modules.map((m) => m.layer)).size > TALL) curvePanel.prepend(detail); else mapPanel.append(detail);
      curve = known ? makeCurve() : null;
      now = null;
      if (known) adopt();
      grid.start(); paint(); drawDetail(); run.update(); twin.update();
    }
    ui.on("change:map", drawMap);
    ui.on("change:choice", adopt);
    ui.on("change:verified", () => { drawMeasured(); curve?.soon(); });
    onTheme(ui, paint);
    setView("bits"); drawMap();
  }),
};

// QuantizeLab: the choice, its plan, the error of every module as it is rounded, and where the result lands.
Object.assign(STRINGS, {
  labTitle: { en: "Quantize {name}" },
  labHint: { en: "Choose how to store the weights; the plan says at once what that costs in bytes. Start rounds them, then measures what was kept." },
  planTitle: { en: "Plan" }, planned: { en: "{label} (planned)" }, now: { en: "{name} now" }, errorTitle: { en: "Error of each module, in the order of the layers" },
  frontierTitle: { en: "Where it lands" }, method: { en: "Method" }, bits: { en: "Bits" }, group: { en: "Group size" }, embedding: { en: "Embedding bits" }, symmetric: { en: "Symmetric" },
  groupGloss: { en: "Weights that share one scale. Smaller groups follow the weights better and store more scales." },
  embeddingGloss: { en: "The embedding and the head are half of a small model." }, symmetricGloss: { en: "No zero point: fewer bytes, a coarser fit." },
  rowsGroup: { en: "whole rows" }, autoGroup: { en: "automatic" }, keepExact: { en: "as they are" },
  planSays: { en: "{n} modules are quantized; {a} become {b}, {v} times smaller." }, planTakes: { en: " Rounding takes about {t} and {m} of memory at its peak, within a factor of two." }, leftAlone: { en: "Left alone: {names} ({why})." }, andMore: { en: "{name} and {n} more" },
  noPlan: { en: "This choice has no plan; the message above says why." },
  module: { en: "module" }, errorLabel: { en: "relative error" }, errorGloss: { en: "size of the rounding error over size of the weights" }, moduleNo: { en: "module" },
  waitingErrors: { en: "Points appear as modules are rounded" },
  attention: { en: "attention" }, mlp: { en: "MLP" }, embeddings: { en: "embeddings" }, head: { en: "head" }, norms: { en: "norms" }, other: { en: "other" },
  planTable: { en: "Show plan as table" }, planHide: { en: "Hide plan" }, modelsTable: { en: "Show models as table" }, modelsHide: { en: "Hide models" },
  planCaption: { en: "What the plan does to each module" }, shape: { en: "shape" }, action: { en: "action" }, before: { en: "bytes before" }, after: { en: "bytes after" }, reason: { en: "reason" }, weightError: { en: "error" },
});
const KIND_SHAPES = { attention: "circle", mlp: "square", embeddings: "diamond", head: "triangle" };
export default {
  render: guarded(({ model, el, signal }) => {
    const config = model.get("config");
    const ui = card(el, model, signal, { widget: "QuantizeLab", title: say("labTitle", { name: config.name }), hint: say("labHint") });
    const planPanel = h("div", { class: "ek-panel" }, h("h4", {}, say("planTitle"))), errorPanel = h("div", { class: "ek-panel" }, h("h4", { title: say("errorGloss") }, say("errorTitle")));
    const landing = h("div", { class: "ek-panel ek-landing" }, h("h4", {}, say("frontierTitle")));
    ui.picture.append(h("div", { class: "ek-columns" }, planPanel, errorPanel));
    const rows = () => model.get("plan").rows ?? [];
    const acting = () => rows().filter((row) => row[3] === "quantize");

    // the plan: two bars, and what is left alone
    const KINDS = ["embeddings", "head", "attention", "mlp", "norms", "other"];
    const sums = (column) => KINDS.map((kind) => ({ kind, label: say(kind), value: rows().filter((row) => row[1] === kind).reduce((n, row) => n + row[column], 0) }));
    const bars = stackedBars(planPanel, signal, { label: say("planTitle"), rows: () => {
      const plan = model.get("plan");
      return plan.rows ? [{ name: say("now", { name: config.name }), total: plan.before, parts: sums(7) }, { name: say("planned", { label: plan.label }), total: plan.after, parts: sums(8) }] : [];
    } });
    const legendBox = h("div", {}), planText = h("div", { class: "ek-plan", role: "status" });
    planPanel.append(legendBox, planText);
    function drawPlan() {
      const plan = model.get("plan");
      bars.soon();
      if (!plan.rows) { legendBox.replaceChildren(); planText.replaceChildren(say("noPlan")); return; }
      legendBox.replaceChildren(legend(KINDS.filter((kind) => rows().some((row) => row[1] === kind)).map((kind) => ({ kind, shape: "square", text: say(kind) }))));
      const reasons = new Map();
      for (const row of rows()) if (row[3] === "keep" && row[9]) reasons.set(row[9], [...(reasons.get(row[9]) ?? []), row[0]]);
      const lines = [...reasons].map(([why, names]) => say("leftAlone", { names: names.length > 1 ? say("andMore", { name: names[0], n: names.length - 1 }) : names[0], why }));
      planText.replaceChildren(h("span", {}, say("planSays", { n: acting().length, a: bytesText(plan.before), b: bytesText(plan.after), v: three(plan.before / plan.after) }), plan.seconds ? say("planTakes", { t: duration(plan.seconds), m: bytesText(plan.peak) }) : ""),
        h("ul", { class: "ek-quiet" }, [...lines, ...plan.notes].map((line) => h("li", {}, line))));
    }

    // the error of each module, growing while it runs
    const store = curveStore(ui, () => { errors.soon(); planTwin.update(); ui.root.dataset.points = store.count(); });
    const legendErrors = h("div", {});
    errorPanel.append(legendErrors);
    const kinds = ["attention", "mlp", "embeddings", "head", "other"];
    legendErrors.append(legend(["attention", "mlp", "embeddings", "head"].filter((kind) => rows().some((row) => row[1] === kind)).map((kind) => ({ kind, shape: KIND_SHAPES[kind], text: say(kind) }))));
    const errors = seriesChart(errorPanel, signal, {
      label: say("errorTitle"), x: { label: say("moduleNo"), unit: "", whole: true }, y: { label: say("errorLabel"), unit: "" }, floor: 0, most: 260, waiting: say("waitingErrors"),
      series: kinds.map((kind) => ({ name: kind, label: say(kind), kind, shape: KIND_SHAPES[kind] ?? "circle", dots: true })), data: store.get,
      span: () => [0, Math.max(acting().length, 1) + 0.5],
      naming: (i, name, x) => { const row = acting()[x - 1]; return row ? { title: row[0], pairs: [[say("bits"), three(row[5])], [say("bytes"), `${bytesText(row[7])} → ${bytesText(row[8])}`]] } : { title: say(name), pairs: [] }; },
    });
    const planTwin = tableTwin(ui, () => {
      const told = new Map();
      for (const kind of store.names()) { const { x, y } = store.get(kind); x.forEach((v, i) => told.set(acting()[v - 1]?.[0], y[i])); }
      return {
        caption: say("planCaption"),
        columns: [{ label: say("module"), text: true }, { label: say("kind"), text: true }, { label: say("shape"), text: true }, { label: say("action"), text: true }, { label: say("method"), text: true }, { label: say("bits"), show: (v) => v === "" ? "" : three(v) }, { label: say("group"), show: (v) => String(v) },
          { label: say("before"), show: bytesText }, { label: say("after"), show: bytesText }, { label: say("weightError"), show: (v) => (v === "" ? "" : three(v)) }, { label: say("reason"), text: true }],
        rows: rows().map((r) => [r[0], r[1], r[2].join(" × "), r[3], r[4], r[5] ?? "", r[6] ?? "", r[7], r[8], told.get(r[0]) ?? "", r[9]]),
      };
    }, "plan.csv", { show: say("planTable"), hide: say("planHide") });

    // the frontier
    const verdict = h("strong", {}), count = h("span", { class: "ek-quiet" }), line = h("p", { class: "ek-state" }, verdict, " ", count);
    const words = (text, dragging) => { setText(verdict, verdictOf(model.get("points"), stateOf(model, dragging))); setText(count, model.get("points").length > 1 ? text : ""); };
    const view = frontierView(landing, model, signal, { ui, onstate: words });
    landing.append(line, view.controls);
    const modelsTwin = tableTwin(ui, view.table, "frontier.csv", { show: say("modelsTable"), hide: say("modelsHide") });
    const show = () => { landing.hidden = modelsTwin.toggle.hidden = !model.get("points").length; modelsTwin.update(); view.soon(); };
    ui.on("change:points", show);

    // the choice
    const fields = h("div", { class: "ek-fieldset", role: "group", "aria-label": say("method") }), gloss = h("p", { class: "ek-hint" });
    const set = (patch) => { model.set("choice", { ...model.get("choice"), ...patch }); model.save_changes(); };
    const groupText = (g) => (g === null ? say("rowsGroup") : g === "auto" ? say("autoGroup") : String(g));
    function drawChoice(locked) {
      const choice = model.get("choice"), method = config.methods.find((m) => m.name === choice.method) ?? config.methods[0];
      const key = JSON.stringify([choice, locked]);
      if (fields.dataset.key === key) return;
      const focused = fields.contains(document.activeElement) ? document.activeElement.name : null;
      fields.dataset.key = key;
      const methodSelect = select("method", config.methods.map((m) => [m.name, `${m.name}: ${m.title}`, m.why_not]), choice.method, (name) => {
        const next = config.methods.find((m) => m.name === name);
        set({ method: name, bits: next.bits.includes(choice.bits) ? choice.bits : next.bits.includes(4) ? 4 : next.bits[0], group_size: next.groups.includes(choice.group_size) ? choice.group_size : next.groups[0] ?? "auto", symmetric: name === "rtn" && choice.symmetric });
      });
      const bits = select("bits", method.bits.map((b) => [String(b), String(b)]), String(choice.bits), (v) => set({ bits: Number(v) }));
      const groups = select("group_size", method.groups.map((g) => [JSON.stringify(g), groupText(g)]), JSON.stringify(choice.group_size), (v) => set({ group_size: JSON.parse(v) }));
      const embedding = select("embedding_bits", [8, 6, 5, 4, 3, 2, null].map((b) => [JSON.stringify(b), b === null ? say("keepExact") : String(b)]), JSON.stringify(choice.embedding_bits), (v) => set({ embedding_bits: JSON.parse(v) }));
      const list = [field(say("method"), methodSelect, method.summary), field(say("bits"), bits), field(say("group"), groups, say("groupGloss")), field(say("embedding"), embedding, say("embeddingGloss"))];
      if (choice.method === "rtn") {
        const box = h("input", { type: "checkbox", name: "symmetric", onchange: () => set({ symmetric: box.checked }) });
        box.checked = choice.symmetric;
        list.push(h("label", { class: "ek-row", title: say("symmetricGloss") }, box, say("symmetric")));
      }
      fields.replaceChildren(...list);
      for (const node of fields.querySelectorAll("select, input")) node.disabled = locked || (node.name !== "symmetric" && node.options?.length === 1);
      setText(gloss, method.summary);
      if (focused) fields.querySelector(`[name="${focused}"]`)?.focus();
    }
    const panel = runPanel(ui, {
      startable: () => (model.get("plan").rows ? null : say("noPlan")), onstart: () => ({ choice: model.get("choice") }),
      onchange: ({ going, live, pending }) => drawChoice(going || pending || !live),
    });
    ui.controls.append(fields, panel.row);
    ui.controls.before(gloss);
    ui.controls.after(h("div", { class: "ek-controls" }, planTwin.toggle, modelsTwin.toggle), landing);
    ui.on("change:choice", () => panel.update());
    ui.on("change:plan", () => { drawPlan(); planTwin.update(); errors.soon(); panel.update(); });
    drawPlan(); panel.update(); show();
  }),
};

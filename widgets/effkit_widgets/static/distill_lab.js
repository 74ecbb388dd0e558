// DistillLab: a student with fewer layers learns its teacher's probabilities; both losses grow while you watch.
Object.assign(STRINGS, {
  labTitle: { en: "Distill a student from {name}" },
  labHint: { en: "Keep some layers, then train the student to give its teacher's probabilities. Temperature, learning rate and the last weight can be turned while it runs." },
  lossTitle: { en: "Divergence from the teacher" }, lossLabel: { en: "KL, nats" }, lossGloss: { en: "Held out: KL divergence of teacher to student per token; 0 would be the teacher itself. Training: what is made small on the batch, which is the same only for forward KL with weight 0 of the true tokens." },
  training: { en: "training" }, heldOut: { en: "held out" }, heldOutOf: { en: "held out, run {n}" }, steps: { en: "steps" }, value: { en: "value" }, curve: { en: "curve" }, lossTable: { en: "All points of both curves" },
  layers: { en: "Layers to keep (of {n})" }, stepsField: { en: "Steps" }, temperature: { en: "Temperature" }, rate: { en: "Learning rate" },
  temperatureGloss: { en: "Above 1 softens both distributions, so that unlikely tokens count more." }, rateGloss: { en: "Size of a training step." },
  objective: { en: "Objective" }, hard: { en: "Weight of the true tokens" }, hardDefault: { en: "Weight of the true tokens (default)" }, hardGloss: { en: "How much the text itself counts beside the teacher: cross-entropy with what really comes next (a classifier's labels). 0 leaves it out; an empty field is the objective's default." },
  objectiveGloss: { en: "What is made small. Forward KL covers all the teacher might say; reverse KL keeps to what it says most; the others lie between." },
  "forward-kl": { en: "forward KL" }, "reverse-kl": { en: "reverse KL" }, "jensen-shannon": { en: "Jensen-Shannon" }, "skew-kl": { en: "skew KL" }, "hard-labels": { en: "true tokens, no teacher" },
  studentPlan: { en: "The student will have {n} of {m} layers and {b} instead of {a}, {v} times smaller." },
  samplesAfter: { en: "Samples after step {n}" }, samplesBefore: { en: "Samples before the first step" }, samplesGloss: { en: "Both continue the same beginning with their likeliest words; what is underlined is the same in both." },
  teacherSays: { en: "teacher" }, studentSays: { en: "student" }, alike: { en: "{n} of {m} words alike from the start" }, nothingSaid: { en: "(nothing)" }, reference: { en: "{name} {v}" }, teacher: { en: "teacher" },
  waitingLoss: { en: "Curves appear with the first step" }, noPlan: { en: "This choice is not possible; the message above says why." },
});
// Teacher and student side by side, one prompt after another; text nodes only, whatever a model wrote.
function samplesOf({ step, rows }) {
  if (!rows?.length) return [];
  const words = (text) => text.split(/(?<=\s)(?=\S)/);
  const icon = (kind) => { const svg = s("svg", { viewBox: "-8 -8 16 16", class: `ek-mark-${kind}`, "aria-hidden": "true" }); s("path", { d: shapePath(SHAPES[kind], 6), class: "ek-mark" }, svg); return svg; };
  return [h("h4", { title: say("samplesGloss") }, step ? say("samplesAfter", { n: step }) : say("samplesBefore")), h("ul", { class: "ek-samples" }, rows.map(({ prompt, teacher, student }) => {
    const [theirs, ours] = [words(teacher), words(student)], spelt = (list) => list.filter((word) => /[\p{L}\p{N}]/u.test(word)).length, most = Math.max(spelt(theirs), spelt(ours));
    let same = 0;
    while (same < Math.min(theirs.length, ours.length) && theirs[same].trim() === ours[same].trim()) same++;
    const spoken = (given) => { const list = [...given]; if (list.length) list.push(list.pop().trimEnd()); return said(list); }, said = (list) => (list.join("").trim() ? [same ? h("span", { class: "ek-same" }, list.slice(0, same).join("")) : null, list.slice(same).join("")] : [h("span", { class: "ek-quiet" }, say("nothingSaid"))]);
    return h("li", {}, h("p", { dir: "auto" }, h("strong", {}, `${prompt} …`), " ", h("span", { class: "ek-quiet" }, say("alike", { n: spelt(ours.slice(0, same)), m: most }))),
      h("dl", {}, h("dt", {}, icon("base"), say("teacherSays")), h("dd", { dir: "auto" }, spoken(theirs)), h("dt", {}, icon("distilled"), say("studentSays")), h("dd", { dir: "auto" }, spoken(ours))));
  }))];
}
export default {
  render: guarded(({ model, el, signal }) => {
    const config = model.get("config");
    const ui = card(el, model, signal, { widget: "DistillLab", title: say("labTitle", { name: config.name }), hint: say("labHint") });
    const panelBox = h("div", { class: "ek-panel" }, h("h4", { title: say("lossGloss") }, say("lossTitle")));
    const samplesBox = h("div", { class: "ek-panel", hidden: true });
    const columns = h("div", {}, panelBox, samplesBox), legendBox = h("div", {});
    ui.picture.append(columns);
    const series = [{ name: "loss", label: say("training"), kind: "quantized" }, { name: "held_out", label: say("heldOut"), kind: "distilled", shape: "triangle", dashed: true }];
    panelBox.append(legendBox);
    // the held-out curves of the other runs of the tree stand behind, in grey
    const own = [...series];
    const others = () => {
      const names = store.names().filter((name) => name.startsWith("held_out:")), found = names.map((name) => ({ name, label: say("heldOutOf", { n: name.split(":")[1] }), kind: "base", shape: "circle", dashed: true }));
      if (series.length === found.length + 2 && found.every((x) => series.some((y) => y.name === x.name))) return;
      series.splice(0, series.length, ...own, ...found);
      drawLegend();
    };
    const lines = () => Object.entries(model.get("lines")).map(([name, value]) => ({ name: name === "teacher" ? say("teacher") : name, value }));
    const drawLegend = () => legendBox.replaceChildren(legend([
      ...series.map((x) => ({ kind: x.kind, shape: "line", text: x.label, dashed: x.dashed })),
      ...lines().map(({ name, value }) => ({ kind: "base", shape: "line", text: say("reference", { name, v: three(value) }), dashed: true })),
    ]));
    const store = curveStore(ui, () => { others(); chart.soon(); twin.update(); ui.root.dataset.points = store.count(); });
    const chart = seriesChart(panelBox, signal, {
      label: say("lossTitle"), x: { label: say("steps"), unit: "", whole: true }, y: { label: say("lossLabel"), unit: "" }, series, data: store.get, floor: 0, most: 340, lines, waiting: say("waitingLoss"),
      span: () => { const state = model.get("state"); const steps = state.task === "distill" && state.total ? state.total : Math.max(...series.map((x) => store.get(x.name).x.at(-1) ?? 0), 1); return [0, steps]; },
      naming: (i, name, x) => ({ title: series.find((x) => x.name === name)?.label ?? name, pairs: [[say("steps"), String(x)]] }),
    });
    const twin = tableTwin(ui, () => ({
      caption: say("lossTable"), columns: [{ label: say("curve"), text: true }, { label: say("steps"), show: (v) => String(v) }, { label: say("lossLabel"), show: three }],
      rows: [...series.flatMap(({ name, label }) => { const { x, y } = store.get(name); return x.map((v, i) => [label, v, y[i]]); }), ...lines().map(({ name, value }) => [name, "", value])],
    }), "distillation.csv");

    const planText = h("p", { class: "ek-plan", role: "status" }), verdict = h("p", { class: "ek-plan" });
    ui.picture.after(planText, verdict);
    const drawPlan = () => {
      const { layers, before, after } = model.get("plan");
      setText(planText, before ? say("studentPlan", { n: layers, m: config.layers, a: bytesText(before), b: bytesText(after), v: three(before / after) }) : say("noPlan"));
      verdict.replaceChildren(h("strong", {}, model.get("verdict")));
      verdict.hidden = !model.get("verdict");
    };
    const fields = h("div", { class: "ek-fieldset" });
    // what is not chosen follows the objective, as the library has it
    const byDefault = () => model.get("choice").hard === null || model.get("choice").objective === "hard-labels";
    const shown = (name) => (name === "hard" && byDefault() ? config.hard?.[model.get("choice").objective] : model.get("choice")[name]) ?? ""; // an older card lacks some
    const make = (name, text, gloss, props) => {
      const input = h("input", { type: "number", name, ...props, onchange: () => {
        const value = name === "hard" && input.value === "" ? null : Number(input.value);
        if (value !== null && (input.value === "" || !Number.isFinite(value))) { input.value = shown(name); return; }
        model.set("choice", { ...model.get("choice"), [name]: value }); model.save_changes();
      } });
      return { name, input, node: field(text, input, gloss) };
    };
    const objectives = ["forward-kl", "reverse-kl", "jensen-shannon", "skew-kl", "hard-labels"].map((key) => [key, say(key)]);
    const objective = select("objective", objectives, model.get("choice").objective, (value) => { model.set("choice", { ...model.get("choice"), objective: value }); model.save_changes(); });
    const inputs = [
      make("layers", say("layers", { n: config.layers }), null, { min: 1, max: config.layers, step: 1 }), make("steps", say("stepsField"), null, { min: 1, step: 1 }),
      { name: "objective", input: objective, node: field(say("objective"), objective, say("objectiveGloss")) },
      make("temperature", say("temperature"), say("temperatureGloss"), { min: 0.1, step: "any" }), make("learning_rate", say("rate"), say("rateGloss"), { min: 0, step: "any" }), make("hard", say("hard"), say("hardGloss"), { min: 0, step: "any" }),
    ];
    fields.append(...inputs.map((i) => i.node));
    const drawChoice = (lock) => {
      for (const { name, input, node } of inputs) {
        const value = shown(name);
        node.hidden = value === undefined; // a notebook that an older version saved
        if (!node.hidden && document.activeElement !== input) input.value = value;
        if (name === "hard") setText(node.firstChild, say(byDefault() ? "hardDefault" : "hard"));
        input.disabled = lock === "all" || (lock === "going" && ["layers", "steps", "objective"].includes(name)) || (name === "hard" && model.get("choice").objective === "hard-labels");
      }
    };
    let tree = null, ways = null;
    const panel = runPanel(ui, {
      startable: () => (model.get("plan").before ? null : say("noPlan")), onstart: () => ({ choice: model.get("choice") }),
      onchange: ({ name, going, live, pending }) => { ways?.update({ name, live, pending }); tree?.update({ name, live, pending }); drawChoice(!live || pending || (going && model.get("state").task !== "distill") ? "all" : going ? "going" : null); },
    });
    tree = runTree(ui, (id) => panel.send("show", { run: id }));
    ui.picture.after(tree.node);
    ways = branchButtons(ui, panel);
    ui.controls.append(fields, panel.row, ways.node, twin.toggle, tree.toggle);
    ui.on("change:choice", () => panel.update());
    ui.on("change:plan", () => { drawPlan(); panel.update(); });
    ui.on("change:verdict", drawPlan);
    ui.on("change:state", chart.soon);
    const drawSamples = () => {
      samplesBox.hidden = !model.get("samples").rows?.length;
      columns.className = samplesBox.hidden ? "" : "ek-columns";
      samplesBox.replaceChildren(...samplesOf(model.get("samples")));
    };
    ui.on("change:lines", () => { drawLegend(); chart.soon(); twin.update(); });
    ui.on("change:samples", drawSamples);
    others(); drawPlan(); drawLegend(); drawSamples(); panel.update();
  }),
};

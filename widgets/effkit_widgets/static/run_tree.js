// The ways that a run went: a lane for each run, from where it left its parent to where it is. And the buttons that make more.
Object.assign(STRINGS, {
  treeTitle: { en: "Branches" }, treeHint: { en: "Press a run to show it; Tab and Enter do the same." }, runName: { en: "run {n}" }, fromStep: { en: "from step {n}" }, start_: { en: "from the beginning" },
  knobIs: { en: "{name} {v}" }, heldOutIs: { en: "held out {v}" }, undoneTimes: { en: "undone {n} times" }, undoneOnce: { en: "undone once" }, shownRun: { en: "shown" },
  knob_temperature: { en: "temperature" }, knob_learning_rate: { en: "learning rate" }, knob_steps: { en: "steps" }, knob_hard: { en: "weight of the true tokens" },
  branch: { en: "Branch" }, undo: { en: "Undo" }, fromField: { en: "From step" }, here: { en: "last checkpoint" },
  branchGloss: { en: "A new run goes on from there with the temperature and learning rate of the fields; this one stays as it is." }, undoGloss: { en: "Go back there and go on, in this run." },
  treeTable: { en: "Show branches as table" }, treeHide: { en: "Hide branches" }, treeCaption: { en: "The run, its ancestors and their branches" },
  run: { en: "run" }, parent: { en: "branched from" }, change: { en: "changed" }, at_step: { en: "at step" }, reached: { en: "reached step" }, heldOutLoss: { en: "held-out KL, nats" }, stateOf: { en: "state" }, undoneList: { en: "undone" },
  state_running: { en: "running" }, state_paused: { en: "paused" }, state_done: { en: "done" }, state_cancelled: { en: "cancelled" }, state_failed: { en: "failed" }, state_interrupted: { en: "interrupted" },
});
const changeText = (change) => Object.entries(change).map(([name, v]) => say("knobIs", { name: STRINGS[`knob_${name}`] ? say(`knob_${name}`) : name, v: three(v) })).join(", ");
function runTree(ui, onshow) {
  const { model } = ui, host = h("div", { class: "ek-panel ek-landing", hidden: true }, h("h4", { title: say("treeHint") }, say("treeTitle")));
  const it = frame(host, ui.signal, { label: "", role: "group", ratio: 0, least: 10 }, draw);
  const nodes = () => model.get("tree"), of = (id) => nodes().find((node) => node.id === id);
  let can = false, now = { name: "idle" };
  // the run that is shown may be further than when the tree was last told
  const alive = (node) => { const state = model.get("state"); return node.shown && state.training ? { ...node, state: state.name, step: state.done } : node; };
  const words = (node) => [say("runName", { n: node.number }), changeText(node.change), node.held_out === null ? "" : say("heldOutIs", { v: three(node.held_out) }), node.undone.length ? (node.undone.length > 1 ? say("undoneTimes", { n: node.undone.length }) : say("undoneOnce")) : "", say(`state_${node.state}`)].filter(Boolean).join(", ");
  function draw() {
    const list = nodes().map(alive), { svg, width } = it, pitch = 44, top = 8, height = top + list.length * pitch + 22, most = Math.max(1, ...list.map((node) => node.step), ...(model.get("state").training ? [model.get("state").total ?? 0] : []));
    fill(svg, { viewBox: `0 0 ${width} ${height}`, height });
    const focused = document.activeElement?.closest?.(".ek-lane")?.dataset.id;
    svg.replaceChildren();
    const X = scale([0, most], [12, width - 16]), Y = (node) => top + list.findIndex((x) => x.id === node.id) * pitch + 28;
    const back = s("g", { "aria-hidden": "true" }, svg), marks = ticks(0, most, Math.max(2, Math.floor(width / 110)));
    for (const v of marks.filter(Number.isInteger)) {
      s("line", { x1: X(v), x2: X(v), y1: top, y2: height - 20, class: "ek-gridline" }, back);
      s("text", { x: X(v), y: height - 7, "text-anchor": "middle", class: "ek-tick" }, back, String(v));
    }
    list.forEach((node) => {
      const y = Y(node), from = X(node.from), parent = node.parent && of(node.parent), text = words(node);
      const g = s("g", { class: `ek-lane ek-mark-${node.shown ? "distilled" : "base"}`, "data-id": node.id, "data-shown": String(node.shown), role: "button", tabindex: 0, "aria-pressed": String(node.shown), "aria-disabled": String(!can || node.shown), "aria-label": `${text}; ${parent ? `${say("fromStep", { n: node.from })}, ${say("runName", { n: parent.number })}` : say("start_")}${node.shown ? `; ${say("shownRun")}` : ""}` }, svg);
      s("rect", { x: 0, y: y - 24, width, height: pitch - 4, fill: "transparent" }, g);
      s("path", { d: `${parent ? `M${from},${Y(parent)}V${y}` : `M${from},${y}`}H${X(node.step)}`, class: "ek-line", style: "stroke:var(--ek-mark)" }, g);
      s("path", { d: shapePath(node.shown ? "triangle" : "circle", 5), transform: `translate(${X(node.step)} ${y})`, class: "ek-mark" }, g);
      const start = Math.min(from + 8, Math.max(12, width - textWidth(text)));
      s("text", { x: start, y: y - 8, class: "ek-halo" }, g, fitText(text, width - start));
      g.addEventListener("click", () => ask(node));
      g.addEventListener("keydown", (e) => {
        const way = { ArrowUp: -1, ArrowDown: 1 }[e.key], lanes = [...svg.querySelectorAll(".ek-lane")];
        if (e.key === "Enter" || e.key === " ") ask(node); else if (way) lanes[Math.max(0, Math.min(lanes.length - 1, lanes.indexOf(g) + way))].focus(); else return;
        e.preventDefault();
      });
    });
    if (focused) svg.querySelector(`.ek-lane[data-id="${CSS.escape(focused)}"]`)?.focus();
    fill(svg, { "aria-label": `${say("treeTitle")}. ${say("treeHint")}` });
    svg.dataset.points = it.box.dataset.points = list.length;
  }
  const ask = (node) => { if (can && !node.shown) onshow(node.id); };
  const twin = tableTwin(ui, () => ({
    caption: say("treeCaption"),
    columns: [{ label: say("run"), text: true }, { label: say("parent"), text: true }, { label: say("at_step"), show: (v) => String(v) }, { label: say("change"), text: true }, { label: say("reached"), show: (v) => String(v) }, { label: say("heldOutLoss"), show: three }, { label: say("stateOf"), text: true }, { label: say("undoneList"), text: true }],
    rows: nodes().map(alive).map((node) => [say("runName", { n: node.number }), node.parent ? say("runName", { n: of(node.parent)?.number ?? "" }) : "", node.from, changeText(node.change), node.step, node.held_out, say(`state_${node.state}`), node.undone.join("; ")]),
  }), "branches.csv", { show: say("treeTable"), hide: say("treeHide") });
  function update(given) {
    now = given ?? now;
    can = Boolean(now.live) && !now.pending && now.name !== "running";
    const some = nodes().length > 1 || nodes().some((node) => node.undone.length);
    host.hidden = twin.toggle.hidden = !some;
    if (some) { it.soon(); twin.update(); }
  }
  ui.on("change:tree", () => update());
  update();
  return { node: host, toggle: twin.toggle, update };
}
// Branch and Undo, and the checkpoint that they start from.
function branchButtons(ui, panel) {
  const { model } = ui, from = h("select", { name: "checkpoint" });
  const step = () => (from.value === "" ? null : Number(from.value));
  const branch = fill(button("branch", say("branch"), () => panel.send("branch", { step: step() })), { title: say("branchGloss") });
  const undo = fill(button("undo", say("undo"), () => panel.send("undo", { step: step() })), { title: say("undoGloss") });
  const node = h("div", { class: "ek-row ek-end", hidden: true }, field(say("fromField"), from), branch, undo);
  let told = "";
  function update({ name, live, pending }) {
    const { checkpoints = [], training, done = 0 } = model.get("state");
    node.hidden = !live || !checkpoints.length;
    const options = JSON.stringify(checkpoints);
    if (options !== told) {
      told = options;
      const kept = from.value;
      from.replaceChildren(h("option", { value: "" }, say("here")), ...[...checkpoints].reverse().map((n) => h("option", { value: n }, String(n))));
      from.value = checkpoints.map(String).includes(kept) ? kept : "";
    }
    const resting = name !== "running", busy = !live || pending;
    branch.disabled = busy || !resting;
    undo.disabled = busy || !training || name === "done" || !(step() !== null || checkpoints.some((n) => n < done));
  }
  from.addEventListener("change", () => panel.update());
  return { node, update };
}

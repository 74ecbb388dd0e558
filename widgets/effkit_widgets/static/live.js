// What cards with a run share: the points of the curves, the progress bar that speaks now and then, and the buttons.
Object.assign(STRINGS, {
  start: { en: "Start" }, again: { en: "Start again" }, pause: { en: "Pause" }, resume: { en: "Resume" }, cancel: { en: "Cancel" },
  cancelAsk: { en: "Discard {t} of work?" }, discard: { en: "Discard it" }, keepGoing: { en: "Keep going" },
  idle: { en: "Ready." }, running: { en: "Running" }, paused: { en: "Paused" }, cancelled: { en: "Cancelled; the model is as it was." },
  done: { en: "Done in {t}." }, failed: { en: "Failed; the model is as it was." },
  interrupted: { en: "Interrupted: its process ended. Resume goes on from the last snapshot." },
  gone: { en: "The kernel has gone. In a new one, ek.attach({folder}) shows the run and resumes it." },
  waiting: { en: "Waiting for the kernel, which is busy with another cell." },
  at: { en: "{task}: {done} of {total} {unit}" }, left: { en: "{t} left" }, stage: { en: "step {i} of {n}" }, progress: { en: "Progress" },
  task_quantize: { en: "quantizing" }, task_distill: { en: "distilling" }, task_evaluate: { en: "measuring quality" }, task_profile: { en: "measuring speed" },
  task_measure: { en: "measuring" }, task_reference: { en: "reading the base" }, task_prune: { en: "removing layers" }, task_load: { en: "loading" },
});
const taskText = (task) => (STRINGS[`task_${task}`] ? say(`task_${task}`) : task);
function floats(view) {
  if (!view) return new Float64Array(0);
  const bytes = view instanceof DataView ? view : new DataView(view.buffer ?? view, view.byteOffset ?? 0, view.byteLength);
  return new Float64Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}
// Points by curve. They come as messages; a gap (this view came late) asks for all of them; a saved notebook has the trait.
function curveStore(ui, changed) {
  const { model } = ui;
  let epoch = -1, curves = new Map();
  const empty = { x: [], y: [] };
  function load(first) {
    const history = model.get("history"), entries = Object.entries(history?.curves ?? {}).map(([name, { x, y }]) => [name, { x: [...floats(x)], y: [...floats(y)] }]);
    const held = [...curves.values()].reduce((n, c) => n + c.x.length, 0), offered = entries.reduce((n, [, c]) => n + c.x.length, 0);
    if (history.epoch < epoch || (history.epoch === epoch && offered < held)) return;
    epoch = history.epoch; curves = new Map(entries);
    if (first !== true) changed(); // the first time the charts are still to be made
  }
  ui.on("msg:custom", (message, buffers) => {
    if (message?.type !== "points" || message.epoch < epoch) return;
    if (message.epoch > epoch) { epoch = message.epoch; curves = new Map(); }
    message.curves.forEach(([name, from], i) => {
      const held = curves.get(name) ?? { x: [], y: [] }, x = floats(buffers[2 * i]), y = floats(buffers[2 * i + 1]);
      if (from > held.x.length) { model.send({ do: "resync" }); return; }
      held.x.length = from; held.y.length = from;
      held.x.push(...x); held.y.push(...y);
      curves.set(name, held);
    });
    changed();
  });
  ui.on("change:history", load);
  load(true);
  if (ui.live() && ["running", "paused"].includes(model.get("state").name)) model.send({ do: "resync" }); // what was sent before this view was made
  return { get: (name) => curves.get(name) ?? empty, names: () => [...curves.keys()], count: () => [...curves.values()].reduce((n, c) => n + c.x.length, 0) };
}
// Progress and buttons. startable(): null, or why Start is not possible now. onstart() -> what to send with "start"; startText(): its word.
function runPanel(ui, { startable, onstart, onchange, startText } = {}) {
  const { model } = ui;
  const fillBar = h("div", {}), bar = h("div", { class: "ek-bar", role: "progressbar", "aria-label": say("progress"), "aria-valuemin": 0, "aria-valuemax": 100 }, fillBar);
  const spoken = h("span", { class: "ek-hush", role: "status", "aria-live": "polite" });
  ui.progress.append(bar, spoken);
  const words = h("span", {}), notes = h("span", { class: "ek-quiet" });
  ui.state.append(words, " ", notes);
  let waitingFor = null, slow = 0, asked = false;
  const send = (what, values) => {
    waitingFor = model.get("state"); asked = false;
    model.send({ do: what, ...values });
    clearTimeout(slow);
    slow = setTimeout(() => { if (waitingFor === model.get("state")) setText(notes, say("waiting")); }, 2000);
    update();
  };
  const start = onstart ? button("start", say("start"), () => send("start", onstart()), true) : null;
  const pause = button("pause", say("pause"), () => send("pause")), resume = button("resume", say("resume"), () => send("resume"));
  const cancel = button("cancel", say("cancel"), () => {
    if ((model.get("state").elapsed ?? 0) < 60) return send("cancel");
    asked = true; update(); keep.focus(); // a minute of work is not thrown away by a slip
  });
  const question = h("span", {}), confirm = button("cancel-confirm", say("discard"), () => send("cancel")), keep = button("cancel-keep", say("keepGoing"), () => { asked = false; update(); cancel.focus(); });
  const ask = h("span", { class: "ek-row" }, question, confirm, keep);
  const row = h("div", { class: "ek-row" }, start, pause, resume, cancel, ask);
  let lastSpoken = 0, lastName = "";
  function update() {
    const state = model.get("state"), name = state.name ?? "idle", live = ui.live(), going = name === "running" || name === "paused";
    if (waitingFor && waitingFor !== state) { waitingFor = null; clearTimeout(slow); setText(notes, ""); }
    const pending = waitingFor !== null;
    ui.setState(live ? name : "recorded");
    row.hidden = !live || (!start && name === "idle"); // a dead button says less than the word "recorded"
    bar.hidden = !live && name === "idle";
    const why = startable?.() ?? null, primary = (node, yes) => node.classList.toggle("ek-primary", yes);
    if (start) { start.hidden = going && live; start.disabled = !live || pending || Boolean(why); setText(start, startText?.() ?? say(name === "idle" || !live ? "start" : "again")); fill(start, { title: why ?? "" }); primary(start, live && !going && name !== "interrupted"); }
    pause.hidden = name !== "running" || !live; pause.disabled = pending;
    resume.hidden = !live || (name !== "paused" && name !== "interrupted"); resume.disabled = pending; primary(resume, !resume.hidden);
    cancel.disabled = !live || pending || !(going || name === "interrupted"); ask.hidden = !asked || !going; cancel.hidden = !ask.hidden;
    setText(question, say("cancelAsk", { t: duration(state.elapsed) }));
    const share = name === "done" ? 1 : state.total ? state.done / state.total : 0;
    fillBar.style.width = `${(100 * share).toFixed(1)}%`;
    bar.dataset.still = String(name === "paused" || name === "interrupted");
    const task = state.total ? say("at", { task: taskText(state.task), done: state.done, total: state.total, unit: state.unit }) : taskText(state.task ?? "");
    const step = state.stage && state.stage[1] > 1 ? `${say("stage", { i: state.stage[0], n: state.stage[1] })}, ` : "";
    const left = state.left !== null && state.left !== undefined && name === "running" ? `, ${say("left", { t: duration(state.left) })}` : "";
    const gap = task ? `: ${step}${task}${left}.` : ".";
    let text = going ? `${say(name)}${gap}` : name === "interrupted" ? `${say(name)} ${task}.` : say(name, { t: duration(state.elapsed) });
    if (!live) text = name === "idle" ? `${capital(recordedText(state))}.` : `${capital(recordedText(state))}: ${going ? `${task}. ${say("gone", { folder: JSON.stringify(state.folder ?? "") })}` : text.toLowerCase()}`;
    setText(words, text);
    if (!pending && state.notes?.length) setText(notes, state.notes.join(" "));
    fill(bar, { "aria-valuenow": Math.round(100 * share), "aria-valuetext": text });
    const now = performance.now();
    if (name !== lastName || now - lastSpoken >= 5000) { setText(spoken, text); lastSpoken = now; lastName = name; } // at most every five seconds, and when the state changes
    onchange?.({ name, live, going, pending });
  }
  ui.on("change:state", update);
  const before = ui.onlive;
  ui.onlive = () => { before?.(); update(); };
  return { row, update, send };
}
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// FrontierExplorer: every trial of a search on two axes of your choice, and behind each point what it is and how to make it.
Object.assign(STRINGS, {
  explorerTitle: { en: "What each recipe costs and keeps" },
  explorerHint: { en: "Choose the axes, drag the two lines to set a budget, draw a rectangle to select, click a point to see what it is and how to make it. Tab, arrow keys, Space and Enter do the same." },
  colourBy: { en: "Colour by" }, shapeBy: { en: "Shape by" }, sizeBy: { en: "Size by" }, asColour: { en: "as colour" }, noSize: { en: "none" },
  best: { en: "Best in budget" }, bestGloss: { en: "Most quality within both budget lines; of those that the data cannot tell apart, the cheapest" }, bestNone: { en: "Nothing measured lies within both budget lines." },
  compareWith: { en: "Compare with another" }, comparePick: { en: "Choose the second point: click it, or move to it with the arrow keys and press Enter." }, compareEnd: { en: "End comparison" }, compareStop: { en: "Do not compare" }, toDetails: { en: "Details of {name}" }, toPair: { en: "{a} and {b} side by side" },
  insideBrush: { en: "{n} inside" }, insideNothing: { en: "Nothing inside." }, rangeOf: { en: "{label} {low} to {high}" }, countOf: { en: "{value} {n}" }, selectedAre: { en: "{n} selected: {what}." },
  failedOnes: { en: "{n} failed or were stopped early" }, dashboard: { en: "The dashboard of the cluster" }, status: { en: "where it lies" }, reason: { en: "reason" }, state_failed: { en: "failed" }, state_stopped: { en: "stopped early" }, task_explore: { en: "searching" },
});
export default {
  render: guarded(({ model, el, signal }) => {
    const ui = card(el, model, signal, { widget: "FrontierExplorer", title: say("explorerTitle"), hint: say("explorerHint") });
    const plot = h("div", { class: "ek-panel" }), beside = h("div", { class: "ek-panel" }), line = h("p", { class: "ek-state", role: "status" }), verdict = h("strong", {}), count = h("span", {}), where = h("span", { class: "ek-quiet" });
    const inside = h("p", { class: "ek-state ek-quiet ek-inside" }), failedBox = h("details", { class: "ek-fold", hidden: true }), note = h("p", { class: "ek-quiet", role: "status", hidden: true });
    line.append(verdict, " ", count, " ", where);
    ui.picture.append(h("div", { class: "ek-explorer" }, plot, beside));
    let pairing = false;
    const figures = model.get("config").figures, put = (values) => { for (const [name, value] of Object.entries(values)) model.set(name, value); model.save_changes(); };
    const words = (text, dragging) => {
      setText(count, text);
      setText(verdict, verdictOf(model.get("points"), stateOf(model, dragging)));
      setText(where, provenance(ui.live(), model.get("points")));
      if (!ui.live()) run.update();
      ui.root.dataset.points = model.get("points").length;
      if (!dragging) { panel.draw(); summary(selectedPoints(), false); }
    };
    const panel = detailsPanel(ui, { standing: (id, long) => view.standing(id, long), ontake: (id) => { put({ chosen: id, against: "" }); refresh(); } });
    const down = h("button", { type: "button", class: "ek-link ek-down", "data-action": "details", hidden: true, onclick: () => panel.focus() });
    const rings = () => { const [a, b] = [model.get("chosen"), model.get("against")]; return { ...(a ? { [a]: b ? "A" : "" } : {}), ...(b && b !== a ? { [b]: "B" } : {}) }; };
    const view = frontierView(plot, model, signal, { ui, onstate: words, onpick: pick, onbrush: (points) => (points ? summary(points, true) : summary(selectedPoints(), false)), rings });
    plot.append(inside, line, note, down, ui.controls, failedBox);
    beside.append(panel.node);
    const selectedPoints = () => { const ids = new Set(model.get("selected")); return ids.size ? model.get("points").filter((p) => ids.has(p.id)) : []; };

    function pick(id) {
      const second = pairing && model.get("chosen") && id !== model.get("chosen");
      if (second) { pairing = false; put({ against: id }); }
      else put({ chosen: id, against: pairing ? model.get("against") : "" });
      refresh();
      if (second) panel.show();
    }
    // what lies inside the rectangle: ranges on both axes, and how often each value of the colour occurs
    function summary(points, brushing) {
      if (!points.length) return setText(inside, brushing ? say("insideNothing") : "");
      const { x, y } = model.get("axes"), colour = model.get("encoding").colour ?? "kind", parts = [];
      for (const name of [y, x]) {
        let low = Infinity, high = -Infinity;
        for (const p of points) { const v = p.figures[name]?.[0]; if (v === undefined || v === null) continue; if (v < low) low = v; if (v > high) high = v; }
        if (high >= low) parts.push(say("rangeOf", { label: shortLabel(figures[name]), low: withUnit(low, figures[name].unit), high: withUnit(high, figures[name].unit) }));
      }
      const counts = new Map();
      for (const p of points) { const v = valueOf(p, colour); counts.set(v, (counts.get(v) ?? 0) + 1); }
      if (counts.size < 9) parts.push([...counts].sort((a, b) => b[1] - a[1]).map(([v, n]) => say("countOf", { value: valueText(colour, v), n })).join(", "));
      setText(inside, brushing ? `${say("insideBrush", { n: points.length })}${parts.length ? `: ${parts.join("; ")}` : ""}.` : say("selectedAre", { n: points.length, what: parts.join("; ") }));
    }
    function drawFailed() {
      const list = model.get("points").filter((p) => p.state);
      failedBox.hidden = !list.length;
      const text = JSON.stringify(list.map((p) => [p.id, p.reason]));
      if (failedBox.dataset.key === text) return;
      failedBox.dataset.key = text;
      failedBox.replaceChildren(h("summary", {}, say("failedOnes", { n: list.length })), h("ul", {}, list.slice(0, 200).map((p) => h("li", { "data-failed": p.id }, h("button", { type: "button", class: "ek-link", onclick: () => pick(p.id) }, p.name), ` ${say(`state_${p.state}`)}: ${p.reason}`))));
    }

    // the controls: how points look, what is chosen
    const looks = h("div", { class: "ek-row ek-end" });
    function drawLooks() {
      const now = { ...FIRST_LOOK, ...model.get("encoding") }, fields = fieldsOf(model.get("points")), named = fields.map((f) => [f.name, fieldName(f.name)]);
      const numbers = [...fields.filter((f) => f.numeric).map((f) => [f.name, fieldName(f.name)]), ...figureEntries(figures).filter(([name]) => model.get("points").some((p) => p.figures[name])).map(([name, f]) => [name, shortLabel(f)])];
      const text = JSON.stringify([named, numbers, now]);
      if (looks.dataset.key === text) return;
      looks.dataset.key = text;
      const focused = looks.contains(document.activeElement) ? document.activeElement.name : null, change = (patch) => { put({ encoding: { ...now, ...patch } }); view.soon(); };
      looks.replaceChildren(field(say("colourBy"), select("colour", named, now.colour, (v) => change({ colour: v }))), field(say("shapeBy"), select("shape", [["", say("asColour")], ...named], now.shape, (v) => change({ shape: v }))), field(say("sizeBy"), select("size", [["", say("noSize")], ...numbers], now.size, (v) => change({ size: v }))));
      if (focused) looks.querySelector(`[name="${focused}"]`)?.focus();
    }
    const best = fill(button("best", say("best"), () => {
      const state = stateOf(model), placed = view.placed(), base = model.get("points").find((p) => p.kind === "base"), from = placed.find((d) => d.p === base);
      const quality = budgetShare("y", base, state), cost = budgetShare("x", base, state), found = from && quality !== null && cost !== null ? pickBest(placed, from, quality, cost, state.axes, figures) : null;
      tell(found ? "" : say("bestNone"));
      if (found) pick(found.id);
    }), { title: say("bestGloss") });
    const compare = button("compare", say("compareWith"), (e) => {
      if (model.get("against")) { put({ against: "" }); pairing = false; } else pairing = !pairing;
      refresh();
      if (!pairing) return;
      view.box.scrollIntoView({ block: "nearest" });
      if (!e.detail) view.focusOn(model.get("chosen")); // pressed with a key: the keys go on among the points
    });
    view.box.addEventListener("keydown", (e) => { if (e.key === "Escape" && pairing) { e.stopPropagation(); pairing = false; refresh(); } }, true);
    function tell(text) { note.hidden = !text; setText(note, text); }
    function refresh() {
      const both = Boolean(model.get("against"));
      compare.disabled = !model.get("chosen");
      setText(compare, say(both ? "compareEnd" : pairing ? "compareStop" : "compareWith"));
      const [a, b] = ["chosen", "against"].map((name) => model.get("points").find((p) => p.id === model.get(name)));
      down.hidden = !a;
      if (a) setText(down, `${b ? say("toPair", { a: a.name, b: b.name }) : say("toDetails", { name: a.name })} \u2193`);
      tell(pairing ? say("comparePick") : "");
      view.soon();
      panel.draw();
    }
    const status = (p) => (p.state ? say(`state_${p.state}`) : view.standing(p.id));
    const twin = tableTwin(ui, () => frontierTable(model, [{ label: say("status"), text: true, of: status }, { label: say("reason"), text: true, of: (p) => p.reason ?? "" }]), "frontier.csv");
    const run = runPanel(ui, {}), board = h("a", { class: "ek-quiet", "data-action": "dashboard", target: "_blank", rel: "noopener noreferrer", hidden: true }, say("dashboard"));
    run.row.append(board);
    function showRun() {
      const link = model.get("state").dashboard ?? "";
      board.hidden = !ui.live() || !/^https?:/.test(link);
      if (!board.hidden) board.href = link;
      ui.progress.hidden = ui.state.hidden = run.row.hidden = !model.get("config").run && (model.get("state").name ?? "idle") === "idle";
    }
    ui.controls.append(view.controls, looks, h("div", { class: "ek-row ek-end" }, best, compare), run.row, twin.toggle);
    const all = () => { drawLooks(); drawFailed(); twin.update(); refresh(); };
    ui.on("change:points", all);
    ui.on("change:details", () => panel.draw());
    ui.on("change:encoding", () => { drawLooks(); });
    for (const name of ["chosen", "against"]) ui.on(`change:${name}`, refresh);
    ui.on("change:state", showRun);
    ui.on("change:axes", () => twin.update());
    const before = ui.onlive;
    ui.onlive = () => { before?.(); view.soon(); };
    onTheme(ui, () => panel.draw());
    all(); showRun(); run.update();
  }),
};

// FrontierBoard: every measured model on two axes of your choice.
Object.assign(STRINGS, {
  boardTitle: { en: "What each choice costs and keeps" },
  boardHint: { en: "Drag the two lines to set a budget, draw a rectangle to select models; Tab and the arrow keys do the same." },
  recordedBoard: { en: "Recorded on {device}, {date}." },
});
export default {
  render: guarded(({ model, el, signal }) => {
    const ui = card(el, model, signal, { widget: "FrontierBoard", title: say("boardTitle"), hint: say("boardHint") });
    const verdict = h("strong", {}), count = h("span", {}), where = h("span", { class: "ek-quiet" });
    ui.state.append(verdict, " ", count, " ", where);
    ui.state.setAttribute("role", "status");
    let moved = false, note = "";
    const words = (text, dragging) => {
      note = text ?? note;
      const live = ui.live();
      // without a kernel nobody can speak a new verdict: keep it only while the budgets are those it was spoken for
      moved ||= dragging || (!live && JSON.stringify([model.get("budgets"), model.get("axes")]) !== opened);
      setText(verdict, !live && moved ? "" : model.get("sentence"));
      setText(count, note);
      const points = model.get("points"), each = (key) => [...new Set(points.map(key))].sort();
      const days = each((p) => p.date.slice(0, 10));
      setText(where, !live && points.length ? say("recordedBoard", { device: each((p) => p.device).join(", "), date: days.length > 1 ? `${days[0]} – ${days.at(-1)}` : days[0] }) : "");
      ui.setState(live ? "idle" : "recorded");
      if (live) moved = false;
    };
    const opened = JSON.stringify([model.get("budgets"), model.get("axes")]);
    const view = frontierView(ui.picture, model, signal, { live: ui.live, onstate: words });
    const twin = tableTwin(ui, view.table, "frontier.csv");
    ui.controls.append(view.controls, twin.toggle);
    ui.on("change:points", twin.update);
    ui.on("change:sentence", () => words());
    ui.onlive = () => words();
  }),
};

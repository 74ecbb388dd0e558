// FrontierBoard: every measured model on two axes of your choice.
Object.assign(STRINGS, {
  boardTitle: { en: "What each choice costs and keeps" },
  boardHint: { en: "Drag the two lines to set a budget, draw a rectangle to select models; Tab and the arrow keys do the same." },
});
export default {
  render: guarded(({ model, el, signal }) => {
    const ui = card(el, model, signal, { widget: "FrontierBoard", title: say("boardTitle"), hint: say("boardHint") });
    const verdict = h("strong", {}), count = h("span", {}), where = h("span", { class: "ek-quiet" });
    ui.state.append(verdict, " ", count, " ", where);
    ui.state.setAttribute("role", "status");
    const words = (text, dragging) => {
      if (text !== undefined) setText(count, text);
      setText(verdict, verdictOf(model.get("points"), stateOf(model, dragging)));
      setText(where, provenance(ui.live(), model.get("points")));
      ui.setState(ui.live() ? "idle" : "recorded");
    };
    const view = frontierView(ui.picture, model, signal, { ui, onstate: words });
    const twin = tableTwin(ui, view.table, "frontier.csv");
    ui.controls.append(view.controls, twin.toggle);
    ui.on("change:points", twin.update);
    ui.onlive = () => words();
  }),
};

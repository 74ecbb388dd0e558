// RunMonitor: whatever a run reports, drawn as it comes; curves that share a unit share a chart.
Object.assign(STRINGS, {
  monitorTitle: { en: "Run of {verb}" }, monitorHint: { en: "Pause or cancel at any time: both act within one step, and the model stays valid." },
  steps: { en: "steps" }, value: { en: "value" }, curve: { en: "curve" }, curvesTable: { en: "All points of all curves" },
  metric_loss: { en: "loss, nats" }, metric_held_out: { en: "held-out loss, nats" }, metric_error: { en: "relative weight error" }, metric_learning_rate: { en: "learning rate" },
  short_loss: { en: "training" }, short_held_out: { en: "held out" },
  waitingCurves: { en: "Curves appear with the first numbers" },
});
const metricText = (name) => (STRINGS[`metric_${name}`] ? say(`metric_${name}`) : name.replaceAll("_", " "));
function pointsTable(store, caption) {
  return () => ({
    caption, columns: [{ label: say("curve"), text: true }, { label: say("steps"), show: (v) => String(v) }, { label: say("value"), show: three }],
    rows: store.names().flatMap((name) => { const { x, y } = store.get(name); return x.map((v, i) => [name, v, y[i]]); }),
  });
}
export default {
  render: guarded(({ model, el, signal }) => {
    const ui = card(el, model, signal, { widget: "RunMonitor", title: say("monitorTitle", { verb: model.get("config").verb }), hint: say("monitorHint") });
    const charts = new Map(), grid = h("div", { class: "ek-smalls" }), none = h("p", { class: "ek-quiet" }, say("waitingCurves"));
    ui.picture.append(none, grid);
    const groupOf = (name) => name.replace(/\/held_out$/, "/loss");
    const store = curveStore(ui, () => requestAnimationFrame(changed));
    const twin = tableTwin(ui, pointsTable(store, say("curvesTable")), "run.csv");
    function changed() {
      const groups = [...new Set(store.names().map(groupOf))];
      none.hidden = groups.length > 0;
      for (const group of groups) {
        const [task, metric] = group.split("/"), names = store.names().filter((name) => groupOf(name) === group);
        const held = charts.get(group);
        if (held?.names === names.join()) { held.chart.soon(); continue; }
        const panel = held?.panel ?? h("div", { class: "ek-panel" });
        panel.replaceChildren(h("h4", {}, `${taskText(task)}: ${metricText(metric)}`));
        if (!held) grid.append(panel);
        const series = names.map((name) => { const m = name.split("/")[1]; return { name, label: STRINGS[`short_${m}`] ? say(`short_${m}`) : metricText(m), kind: m === "held_out" ? "distilled" : "quantized", shape: m === "held_out" ? "triangle" : "circle", dashed: m === "held_out" }; });
        if (series.length > 1) panel.append(legend(series.map((x) => ({ kind: x.kind, shape: "line", text: x.label, dashed: x.dashed }))));
        const chart = seriesChart(panel, signal, { label: `${taskText(task)}: ${metricText(metric)}`, x: { label: say("steps"), unit: "", whole: true }, y: { label: metricText(metric), unit: "" }, series, data: store.get, most: 240 });
        charts.set(group, { chart, panel, names: names.join() });
      }
      twin.update();
      ui.root.dataset.points = store.count();
    }
    const panel = runPanel(ui);
    ui.controls.append(panel.row, twin.toggle);
    panel.update(); changed();
  }),
};

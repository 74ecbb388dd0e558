// Receipt: what a record was made with, to be copied; run again and compare, with a verdict on every figure.
Object.assign(STRINGS, {
  receiptTitle: { en: "What is needed to run {name} again" }, receiptHint: { en: "Recorded on {device}, {date}. Copy the receipt into a report; running it again says of each figure whether it came out the same." },
  recorded: { en: "recorded{where}: with effkit installed, the command above runs it again and compares" },
  whichRecord: { en: "Record" }, copyReceipt: { en: "Copy receipt" }, inShell: { en: "In a shell" }, inPython: { en: "In Python" }, copyCommand: { en: "Copy" },
  neededBesides: { en: "Needed besides: {what}" }, runAgain: { en: "Run again and compare" }, idle: { en: "Not run again here yet." }, task_replay: { en: "running it again" }, failed: { en: "Failed; the record is as it was." }, cancelled: { en: "Cancelled; the record is as it was." },
  verdictOk: { en: "It came out again: {counts}." }, verdictNot: { en: "It did not come out the same: {counts}." }, because: { en: "{label} is different: {why}." }, noCause: { en: "{label} is different." },
  sameWeights: { en: "The model's weights came out bit for bit as they were." }, otherWeights: { en: "The model's weights came out otherwise." }, whatChanged: { en: "What is otherwise now" }, nothingChanged: { en: "Nothing that the record names has changed." },
  figure: { en: "figure" }, then: { en: "then" }, nowIs: { en: "now" }, verdict: { en: "verdict" }, why: { en: "why" }, comparedTable: { en: "Every figure then and now" }, receiptTable: { en: "The receipt" }, group: { en: "part" }, entry: { en: "what" }, valueOf: { en: "value" }, onRun: { en: "run again on {device}, {date}" }, copyNo: { en: "Copying was refused; select the text instead" },
});
// the sign beside each verdict, so that it is not said by colour alone
const SIGNS = { same: "=", "within tolerance": "≈", "not distinguishable": "~", different: "≠" };
const plainText = (receipt) => receipt.plain;
export default {
  render: guarded(({ model, el, signal }) => {
    const receipts = () => model.get("receipts"), now = () => receipts().find((one) => one.id === model.get("chosen")) ?? receipts()[0];
    const ui = card(el, model, signal, { widget: "Receipt", title: "", hint: "" });
    const verdict = h("div", { class: "ek-receipt-verdict" }), groups = h("div", { class: "ek-receipt" }), told = h("span", { class: "ek-quiet", role: "status" });
    ui.picture.append(groups, verdict);
    const copy = async (text) => { try { await navigator.clipboard.writeText(text); told.textContent = say("copied"); } catch { told.textContent = say("copyNo"); } setTimeout(() => { told.textContent = ""; }, 4000); };
    const picker = receipts().length > 1 ? select("record", receipts().map((one) => [one.id, one.name]), now().id, (v) => { model.set("chosen", v); model.save_changes(); }) : null;
    const twin = tableTwin(ui, () => {
      const found = model.get("outcomes")[now().id];
      if (found) return { caption: say("comparedTable"), columns: [{ label: say("figure"), text: true }, { label: say("then"), show: three }, { label: say("nowIs"), show: three }, { label: say("verdict"), text: true }, { label: say("why"), text: true }], rows: found.figures.map((f) => [f.label, f.then[0], f.now[0], f.verdict, f.why]) };
      return { caption: say("receiptTable"), columns: [{ label: say("group"), text: true }, { label: say("entry"), text: true }, { label: say("valueOf"), text: true }], rows: now().groups.flatMap(([heading, rows]) => rows.map(([label, value]) => [heading, label, value])) };
    }, "receipt.csv");
    const run = runPanel(ui, { onstart: () => ({ record: now().id }), startText: () => say("runAgain"), onchange: () => drawVerdict() });
    ui.controls.append(...[picker ? field(say("whichRecord"), picker) : null, run.row, button("copy-receipt", say("copyReceipt"), () => copy(plainText(now()))), twin.toggle, told].filter(Boolean));

    function drawReceipt() {
      const one = now();
      setText(ui.title, say("receiptTitle", one));
      setText(ui.hint, say("receiptHint", { device: one.device, date: one.date.slice(0, 10) }));
      const code = (label, action, text) => h("div", { class: "ek-code" }, h("div", { class: "ek-row" }, h("h4", {}, label), button(action, say("copyCommand"), () => copy(text))), h("pre", { tabindex: 0 }, text.trim()));
      groups.replaceChildren(
        h("div", { class: "ek-receipt-groups" }, one.groups.map(([heading, rows]) => h("section", {}, h("h4", {}, heading), h("dl", {}, rows.flatMap(([label, value]) => [h("dt", {}, label), h("dd", { class: value.startsWith("{") ? "ek-mono ek-long" : value.length > 24 && !value.includes(" ") ? "ek-mono" : null }, value)]))))),
        h("div", { class: "ek-receipt-code" }, code(say("inShell"), "copy-command", one.command), code(say("inPython"), "copy-code", one.code), one.missing.map((what) => h("p", { class: "ek-quiet" }, say("neededBesides", { what })))));
      if (picker) picker.value = one.id;
    }
    function drawVerdict() {
      const found = model.get("outcomes")[now().id];
      verdict.hidden = !found;
      if (!found) return verdict.replaceChildren();
      const count = (name) => found.figures.filter((f) => f.verdict === name).length, counts = Object.keys(SIGNS).filter(count).map((name) => `${count(name)} ${name}`).join(", ");
      const off = found.figures.filter((f) => f.verdict === "different").map((f) => say(f.why ? "because" : "noCause", f));
      const weights = found.same_weights === null ? "" : say(found.same_weights ? "sameWeights" : "otherWeights");
      const when = found.device ? say("onRun", { device: found.device, date: found.date.slice(0, 10) }) : "";
      verdict.replaceChildren(
        h("p", { class: "ek-verdict", role: "status", "data-ok": String(found.ok) }, h("strong", {}, say(found.ok ? "verdictOk" : "verdictNot", { counts })), ` ${[...off.slice(0, 2), weights].filter(Boolean).join(" ")}`),
        h("div", { class: "ek-scroll", tabindex: "0", role: "region", "aria-label": say("comparedTable") }, h("table", { class: "ek-table" }, h("caption", {}, [say("comparedTable"), when].filter(Boolean).join(", ")), h("thead", {}, h("tr", {}, ["figure", "then", "nowIs", "verdict", "why"].map((key) => h("th", { scope: "col", class: key === "then" || key === "nowIs" ? "" : "ek-text" }, say(key))))),
          h("tbody", {}, found.figures.map((f) => h("tr", { "data-figure": f.figure, "data-verdict": f.verdict }, h("th", { scope: "row", class: "ek-text" }, f.label), h("td", {}, intervalText(f.then, f.unit)), h("td", {}, intervalText(f.now, f.unit)), h("td", { class: "ek-text" }, h("span", { class: "ek-sign", "aria-hidden": "true" }, SIGNS[f.verdict]), f.verdict), h("td", { class: "ek-text ek-quiet" }, f.why)))))),
        h("details", {}, h("summary", {}, say("whatChanged")), found.changes.length ? h("ul", {}, found.changes.map((text) => h("li", {}, text))) : h("p", {}, say("nothingChanged"))));
    }
    const update = () => { drawReceipt(); drawVerdict(); twin.update(); };
    ui.on("change:chosen", update);
    ui.on("change:outcomes", () => { drawVerdict(); twin.update(); });
    update(); run.update();
  }),
};

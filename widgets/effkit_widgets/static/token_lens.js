// TokenLens: a text whose tokens are coloured by KL; the one with the focus shows what both models thought likely there.
Object.assign(STRINGS, {
  lensTitle: { en: "Where {model} differs from {base}" },
  lensHint: { en: "The more colour a token has, the more its probabilities have moved. Point at one, or Tab into the text and use the arrow keys, to see what each model expected there." },
  lensVerdict: { en: "{same}% of the first choices are the same; KL {kl} nats a token on average." }, lensLargest: { en: "The largest difference, {kl} nats, is at {token}." }, lensSame: { en: "The two models say exactly the same." },
  lensWaiting: { en: "Both models read the text …" }, lensList: { en: "The text, token by token. Left and right arrows move, with Shift ten tokens; up and down change the line." },
  klOf: { en: "KL, nats" }, below: { en: "below {v}" }, fromTo: { en: "{a} to {b}" }, above: { en: "above {v}" }, changedChoice: { en: "another first choice" }, klGloss: { en: "KL divergence: how far the compressed model's probabilities have moved from the base's; 0 is not at all" },
  expected: { en: "What was expected in place of {token}" }, choiceColumn: { en: "token" }, baseColumn: { en: "base" }, modelColumn: { en: "compressed" }, said: { en: "in the text" },
  firstToken: { en: "The first token: nothing comes before it, so nothing predicts it." }, detail: { en: "KL {kl} nats; {agree}." }, agreeYes: { en: "both would say {a}" }, agreeNo: { en: "the base would say {a}, the compressed model {b}" },
  lensText: { en: "Text" }, compare: { en: "Compare" }, lensTable: { en: "Every token with its KL and both models' first choices" }, place: { en: "place" }, token: { en: "token" }, baseNll: { en: "base NLL, nats" }, modelNll: { en: "compressed NLL, nats" },
  sameChoice: { en: "same first choice" }, baseLikely: { en: "base expects" }, modelLikely: { en: "compressed expects" }, yes: { en: "yes" }, no: { en: "no" }, task_compare: { en: "reading" },
});
const KL_STEPS = [0.01, 0.03, 0.1, 0.3, 1, 3]; // nats; below the first a token keeps the card's own colour
const klStep = (kl) => KL_STEPS.filter((edge) => kl >= edge).length;
const stepColour = (step, theme) => (step === 0 ? null : heat((step - 0.5) / KL_STEPS.length, theme));
// a token as it can be seen: its space before it and its line breaks have a sign
const visible = (text) => text.replace(/^ /, "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";
// in the running text: no space before a word, a sign before a line break, and a sign for what would be invisible
const shownText = (text) => (/\S/.test(text) ? text.replace(/^ +/, "").replaceAll("\n", "⏎\n") : text.replaceAll(" ", "␣").replaceAll("\n", "⏎\n").replaceAll("\t", "⇥") || "∅");
const quoted = (text) => `“${visible(text)}”`;
const percentText = (p) => (p >= 0.9995 ? "100%" : p < 0.001 ? "< 0.1%" : `${three(100 * p)}%`);
const likeliest = (row, column) => row[5].reduce((best, c) => (c[column] > best[column] ? c : best), row[5][0]);
const likelyText = (row, column) => [...row[5]].sort((a, b) => b[column] - a[column]).slice(0, 5).map((c) => `${visible(c[0])} ${percentText(c[column])}`).join(", ");
export default {
  render: guarded(({ model, el, signal }) => {
    const config = model.get("config");
    const ui = card(el, model, signal, { widget: "TokenLens", title: say("lensTitle", config), hint: say("lensHint") });
    const rows = () => model.get("tokens");
    const verdict = h("p", { class: "ek-verdict", role: "status" }), steps = h("ul", { class: "ek-steps" });
    const text = h("div", { class: "ek-lens ek-chart", role: "listbox", "aria-label": say("lensList"), "aria-orientation": "horizontal" });
    const panel = h("div", { class: "ek-panel ek-token-panel", "aria-live": "polite" });
    ui.picture.append(verdict, h("div", { class: "ek-columns" }, h("div", { class: "ek-panel" }, steps, text), panel));
    let nodes = [], at = 0;

    function drawSteps() {
      const theme = ui.root.dataset.theme, swatch = (step, words) => { const c = stepColour(step, theme); return h("li", {}, h("i", { style: c ? `background:${rgb(c)}` : null }), words); };
      steps.replaceChildren(h("li", { class: "ek-quiet", title: say("klGloss") }, say("klOf")), ...[...KL_STEPS, null].map((edge, step) => swatch(step, edge === null ? say("above", { v: KL_STEPS.at(-1) }) : step ? say("fromTo", { a: KL_STEPS[step - 1], b: edge }) : say("below", { v: edge }))),
        h("li", {}, h("i", { class: "ek-changed" }), say("changedChoice")));
    }
    function spoken(row) {
      if (row[1] === null) return `${visible(row[0])}: ${say("firstToken")}`;
      const a = quoted(likeliest(row, 1)[0]), b = quoted(likeliest(row, 2)[0]);
      return `${visible(row[0])}: ${say("detail", { kl: three(row[1]), agree: say(row[4] ? "agreeYes" : "agreeNo", { a, b }) })}`;
    }
    function drawText() {
      const list = rows();
      text.dataset.points = list.length;
      if (!list.length) { nodes = []; text.replaceChildren(say("lensWaiting")); panel.replaceChildren(); setText(verdict, ""); return; }
      nodes = list.map((row, i) => h("span", { class: "ek-token", role: "option", id: `${ui.title.id}-${i}`, tabindex: -1, "data-token": i, "data-kl": row[1] ?? "", "data-agree": row[4] === null ? null : String(row[4]), "data-first": i ? null : "true", "aria-label": spoken(row), "aria-selected": "false" }, shownText(row[0])));
      // the space before a token stands outside of it: a line then ends where a word does
      text.replaceChildren(...nodes.flatMap((node, i) => { const free = /^ +(?=\S)/.exec(list[i][0])?.[0]; return free ? [free, node] : [node]; }));
      colour();
      const scored = list.filter((row) => row[1] !== null), mean = scored.reduce((n, row) => n + row[1], 0) / scored.length;
      const same = scored.filter((row) => row[4]).length / scored.length, worst = scored.reduce((a, b) => (b[1] > a[1] ? b : a));
      verdict.replaceChildren(...(worst[1] === 0 ? [h("strong", {}, say("lensSame"))] : [h("strong", {}, say("lensVerdict", { same: three(100 * same), kl: three(mean) })), " ", say("lensLargest", { kl: three(worst[1]), token: quoted(worst[0]) })]));
      choose(list.indexOf(worst), false);
    }
    function colour() {
      const theme = ui.root.dataset.theme;
      rows().forEach((row, i) => {
        const c = row[1] === null ? null : stepColour(klStep(row[1]), theme);
        nodes[i].style.background = c ? rgb(c) : "";
        nodes[i].style.color = c ? inkOn(c) : "";
      });
    }
    // make token i the chosen one: its panel, its ring, and the one that Tab comes to
    function choose(i, focus) {
      if (!nodes.length) return;
      nodes[at]?.setAttribute("aria-selected", "false"); nodes[at]?.setAttribute("tabindex", "-1");
      at = Math.max(0, Math.min(nodes.length - 1, i));
      nodes[at].setAttribute("aria-selected", "true"); nodes[at].setAttribute("tabindex", "0");
      text.setAttribute("aria-activedescendant", nodes[at].id);
      if (focus) nodes[at].focus();
      drawPanel(rows()[at]);
    }
    function drawPanel(row) {
      const head = h("h4", {}, say("expected", { token: quoted(row[0]) }));
      if (row[1] === null) return panel.replaceChildren(head, h("p", { class: "ek-quiet" }, say("firstToken")));
      const most = [1, 2].map((column) => likeliest(row, column)), a = quoted(most[0][0]), b = quoted(most[1][0]);
      const meter = (p, kind, first) => h("td", {}, h("div", { class: `ek-meter ek-mark-${kind}` }, h("div", {}, h("div", { style: `width:${(100 * p).toFixed(1)}%` })), h(first ? "b" : "span", {}, percentText(p))));
      panel.replaceChildren(head, h("p", {}, say("detail", { kl: three(row[1]), agree: say(row[4] ? "agreeYes" : "agreeNo", { a, b }) })),
        h("table", { class: "ek-choices" }, h("thead", {}, h("tr", {}, ["choiceColumn", "baseColumn", "modelColumn"].map((key) => h("th", { scope: "col" }, say(key))))),
          h("tbody", {}, row[5].map((c) => h("tr", { "data-said": String(c[0] === row[0]) }, h("th", { scope: "row", title: c[0] === row[0] ? say("said") : null }, visible(c[0])), meter(c[1], "base", c === most[0]), meter(c[2], "quantized", c === most[1]))))));
    }
    // the token of the line above or below that stands nearest
    function inLine(way) {
      const here = nodes[at].getClientRects()[0], middle = (r) => (r.left + r.right) / 2;
      let best = null;
      nodes.forEach((node, i) => {
        for (const r of node.getClientRects()) {
          const down = (r.top - here.top) * way;
          if (down < 8 || r.width === 0) continue;
          const far = down * 50 + Math.abs(middle(r) - middle(here));
          if (!best || far < best.far) best = { i, far };
        }
      });
      return best?.i ?? at;
    }
    const tokenOf = (e) => { const node = e.target.closest?.("[data-token]"); return node ? Number(node.dataset.token) : null; };
    text.addEventListener("pointermove", (e) => { const i = tokenOf(e); if (i !== null && i !== at) choose(i, false); });
    text.addEventListener("click", (e) => { const i = tokenOf(e); if (i !== null) choose(i, true); });
    text.addEventListener("focusin", (e) => { const i = tokenOf(e); if (i !== null && i !== at) choose(i, false); });
    text.addEventListener("keydown", (e) => {
      const step = e.shiftKey ? 10 : 1, to = { ArrowLeft: () => at - step, ArrowRight: () => at + step, ArrowUp: () => inLine(-1), ArrowDown: () => inLine(1), Home: () => 0, End: () => nodes.length - 1 }[e.key];
      if (e.key === "Escape") document.activeElement.blur();
      if (!to || !nodes.length) return;
      e.preventDefault();
      choose(to(), true);
    });

    const twin = tableTwin(ui, () => ({
      caption: say("lensTable"),
      columns: [{ label: say("place") }, { label: say("token"), text: true, show: visible }, { label: say("klOf"), show: three }, { label: say("baseNll"), show: three }, { label: say("modelNll"), show: three }, { label: say("sameChoice"), text: true }, { label: say("baseLikely"), text: true }, { label: say("modelLikely"), text: true }],
      rows: rows().map((row, i) => [i + 1, row[0], row[1], row[2], row[3], row[4] === null ? null : say(row[4] ? "yes" : "no"), row[5].length ? likelyText(row, 1) : null, row[5].length ? likelyText(row, 2) : null]),
    }), "tokens.csv");
    const area = h("textarea", { name: "text", rows: 2, spellcheck: "false" });
    area.value = model.get("text");
    const run = runPanel(ui, { onstart: () => ({ text: area.value }), startText: () => say("compare"), onchange: ({ live, going, pending }) => { area.disabled = !live || going || pending; } });
    ui.controls.append(h("label", { class: "ek-field ek-wide" }, h("span", {}, say("lensText")), area), run.row, twin.toggle);
    ui.on("change:tokens", () => { drawText(); twin.update(); });
    ui.on("change:text", () => { area.value = model.get("text"); });
    onTheme(ui, () => { drawSteps(); colour(); });
    drawSteps(); drawText(); run.update();
  }),
};

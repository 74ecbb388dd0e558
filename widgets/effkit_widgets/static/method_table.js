// MethodTable: the KL of each method with its interval, least first; what the text cannot tell apart is tied together and said so.
Object.assign(STRINGS, {
  methodsTitle: { en: "{n} compressed models side by side" }, methodsHint: { en: "KL divergence to the base, least at the top; the line is its 95% interval. A bracket ties neighbours that this text cannot tell apart." },
  methodsChart: { en: "KL of each method. Up and down arrows move between them." }, klAxis: { en: "KL to the base, nats a token" }, noFloor: { en: "noise floor" }, same: { en: "not distinguishable" }, unknownPair: { en: "measured on other texts" },
  rowNote: { en: "{bytes} ({share} of the base), {bits} bits a weight, {t}" }, madeIn: { en: "made in {t}" }, noTime: { en: "time unavailable" }, noKl: { en: "KL unavailable" },
  methodsTable: { en: "Methods in the order of their KL; an interval holds the true value with 95% confidence" }, method: { en: "method" }, shareOf: { en: "share of the base" }, bitsWeight: { en: "bits a weight" }, kl: { en: "KL, nats" }, low: { en: "low" }, high: { en: "high" },
  ratioOf: { en: "perplexity x" }, agreementOf: { en: "top choice kept" }, secondsTaken: { en: "seconds taken" }, nextRow: { en: "against the next" }, different: { en: "different" }, simulated: { en: "simulated" }, methodsWhere: { en: "Measured on {device}, {date}." }, methodsRecorded: { en: "Recorded on {device}, {date}." },
});
export default {
  render: guarded(({ model, el, signal }) => {
    const rows = () => model.get("rows"), config = model.get("config");
    const ui = card(el, model, signal, { widget: "MethodTable", title: say("methodsTitle", { n: rows().length }), hint: say("methodsHint") });
    const verdict = h("p", { class: "ek-verdict" }, h("strong", {}, model.get("sentence")));
    const chart = h("div", { class: "ek-panel" });
    ui.picture.append(verdict, chart);
    let cursor = -1, places = [];
    const it = frame(chart, signal, { label: say("methodsChart"), ratio: 0, least: 100 }, draw), spoken = h("span", { class: "ek-hush", "aria-live": "polite" });
    it.box.append(spoken);
    const percent = (v) => `${three(100 * v)}%`, name = (row) => row.name + (row.simulated ? ` (${say("simulated")})` : "");
    const time = (row) => (row.seconds === null || row.seconds === undefined ? say("noTime") : say("madeIn", { t: duration(row.seconds) }));
    const note = (row) => say("rowNote", { bytes: bytesText(row.bytes), share: percent(row.bytes / config.base_bytes), bits: three(row.bits), t: time(row) });
    function draw() {
      const { svg, width } = it, list = rows(), figure = (row) => (row.kl[0] === null ? say("noKl") : intervalText(row.kl));
      const names = Math.min(420, Math.max(...list.flatMap((row) => [textWidth(name(row)) * 1.1, textWidth(note(row))])) + 16), figures = Math.max(...list.map((row) => textWidth(figure(row)))) + 22;
      const narrow = width - names - figures < 200; // words and figures above the marks, where beside them the marks would have no room
      const left = narrow ? 10 : names, right = narrow ? 16 : figures, pitch = narrow ? 66 : 54, top = 8, bottom = 40, height = top + list.length * pitch + bottom;
      fill(svg, { viewBox: `0 0 ${width} ${height}`, height });
      svg.replaceChildren();
      const values = list.flatMap((row) => row.kl).filter((v) => v > 0), floor = config.floor, log = Math.max(...values) > 5 * Math.min(...values);
      const near = floor && values.length && floor > Math.min(...values) / 30 ? [floor] : [], X = scale(extent([...values, ...near], { log, floor: 0 }), [left, width - right], log);
      const foot = height - bottom, mid = (i) => top + i * pitch + (narrow ? 48 : pitch / 2 - 5);
      const g = s("g", { "aria-hidden": "true" }, svg), xs = ticksOf(X.domain, { label: say("klAxis"), unit: "" }, log, Math.max(3, Math.floor((width - left - right) / 80)));
      xs.values.forEach((v, n) => { s("line", { x1: X(v), x2: X(v), y1: top, y2: foot, class: "ek-gridline" }, g); s("text", { x: X(v), y: foot + 15, "text-anchor": "middle", class: "ek-tick" }, g, xs.texts[n]); });
      s("text", { x: width - right, y: height - 6, "text-anchor": "end", class: "ek-axis" }, g, fitText(xs.title, width - 20));
      if (near.length) { s("path", { d: `M${X(floor)},${top}V${foot}`, class: "ek-reference" }, g); s("text", { x: X(floor) + 4, y: foot - 4, class: "ek-halo ek-note" }, g, say("noFloor")); }
      const ties = s("g", {}, g); // behind the figures
      places = list.map((row, i) => {
        const y = mid(i), head = narrow ? y - 32 : y - 3, group = s("g", { class: `ek-mark-${row.kind}${row.simulated ? " ek-dashed" : ""}`, "data-method": row.name, "data-next": row.next }, g);
        if (i) s("line", { x1: 0, x2: width, y1: top + i * pitch - 2, y2: top + i * pitch - 2, class: "ek-gridline" }, group);
        s("text", { x: 0, y: head, class: "ek-halo", style: "font-weight:600" }, group, fitText(name(row), narrow ? width : left));
        s("text", { x: 0, y: head + 15, class: "ek-halo ek-note" }, group, fitText(note(row), narrow ? width : left + 10));
        const [value, low, high] = row.kl, x = value > 0 ? X(value) : null;
        if (x !== null) {
          whiskers(group, x, y, low > 0 || (!log && low !== null) ? [X(low), X(high)] : null, null);
          s("path", { d: shapePath(SHAPES[row.kind], 5.5), transform: `translate(${x} ${y})`, class: "ek-mark" }, group);
        }
        s("text", { x: narrow ? width : width - right + 14, y: narrow ? y - 32 : y + 4, "text-anchor": narrow ? "end" : "start", class: "ek-halo" }, group, figure(row));
        const hit = s("rect", { x: 0, y: top + i * pitch, width, height: pitch - 2, fill: "transparent" }, group);
        hit.addEventListener("pointerenter", () => show(i, false));
        hit.addEventListener("pointerleave", hide);
        return { x: x ?? left, y };
      });
      list.forEach((row, i) => { // the bracket between neighbours
        if (row.next !== "same" && row.next !== "unknown") return;
        const y0 = places[i].y, y1 = places[i + 1].y, x = Math.max(left, Math.min(width - right - 2, Math.max(...[row, list[i + 1]].flatMap((r) => r.kl.filter((v) => v > 0).map(X))) + 12)), words = say(row.next === "same" ? "same" : "unknownPair");
        const group = s("g", { "data-tie": row.next }, ties), room = width - x - 8 > textWidth(words);
        s("path", { d: `M${x - 5},${y0 + 4}h5V${y1 - 4}h-5`, fill: "none", stroke: "currentColor", "stroke-width": 1.3 }, group);
        s("text", { x: room ? x + 6 : narrow ? Math.min(...row.kl.filter((v) => v > 0).map(X)) - 12 : x - 8, y: narrow && !room ? y0 + 4 : (y0 + y1) / 2 + 4, "text-anchor": room ? "start" : "end", class: "ek-halo", style: "font-style:italic" }, group, words);
      });
      it.box.dataset.points = list.length; svg.dataset.points = list.length;
      if (cursor >= 0) show(cursor, false);
    }
    function show(i, speak) {
      const row = rows()[cursor = i], { x, y } = places[i];
      it.svg.querySelector(".ek-cursors")?.remove();
      s("circle", { cx: x, cy: y, r: 9, fill: "none", stroke: "currentColor", "stroke-width": 1.6, class: "ek-cursors" }, it.svg);
      const pairs = [[say("kl"), intervalText(row.kl)], [say("agreementOf"), row.agreement[0] === null ? say("unavailable") : percent(row.agreement[0])], [say("ratioOf"), intervalText(row.ratio)], [say("bytes"), bytesText(row.bytes)], [say("secondsTaken"), duration(row.seconds)]];
      it.tip.show(x, y, row.name, pairs, places.map((p) => [p.x, p.y]));
      if (speak) setText(spoken, `${row.name}: ${pairs.map(([k, v]) => `${k} ${v}`).join(", ")}`);
    }
    function hide() { cursor = -1; it.svg.querySelector(".ek-cursors")?.remove(); it.tip.hide(); }
    it.svg.addEventListener("focus", () => { if (places.length && cursor < 0) show(0, true); });
    it.svg.addEventListener("blur", hide);
    it.svg.addEventListener("keydown", (e) => {
      const way = { ArrowUp: -1, ArrowDown: 1, ArrowLeft: -1, ArrowRight: 1 }[e.key];
      if (e.key === "Escape") hide();
      if (!way || !places.length) return;
      e.preventDefault();
      show(Math.max(0, Math.min(places.length - 1, cursor + way)), true);
    });
    const twin = tableTwin(ui, () => ({
      caption: say("methodsTable"),
      columns: [{ label: say("method"), text: true }, { label: say("bytes"), show: bytesText }, { label: say("shareOf"), show: percent }, { label: say("bitsWeight"), show: three }, { label: say("kl"), show: three }, { label: say("low"), show: three }, { label: say("high"), show: three }, { label: say("agreementOf"), show: (v) => (v === null ? say("unavailable") : percent(v)) }, { label: say("ratioOf"), show: three }, { label: say("secondsTaken"), show: three }, { label: say("nextRow"), text: true }],
      rows: rows().map((row) => [name(row), row.bytes, row.bytes / config.base_bytes, row.bits, ...row.kl, row.agreement[0], row.ratio[0], row.seconds ?? null, row.next === null ? "–" : say({ same: "same", different: "different", unknown: "unknownPair" }[row.next])]),
    }), "methods.csv");
    ui.controls.append(twin.toggle);
    const each = (key) => [...new Set(rows().map(key))].sort();
    ui.onlive = () => {
      const days = each((row) => row.date.slice(0, 10));
      ui.setState(ui.live() ? "idle" : "recorded");
      setText(ui.state, say(ui.live() ? "methodsWhere" : "methodsRecorded", { device: each((row) => row.device).join(", "), date: days.length > 1 ? `${days[0]} – ${days.at(-1)}` : days[0] }));
    };
    ui.onlive();
  }),
};

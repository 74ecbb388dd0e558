// Charts in SVG: scales, axes with round ticks, marks whose shape says what their colour says, a tooltip that never covers its
// point, and the series chart (lines or dots) that grows while a run goes on. Drawing happens in requestAnimationFrame only.

// how wide a text of 12 px is, about: marks are placed before the browser has measured anything
const CHARACTER = 6.9;
const textWidth = (text) => text.length * CHARACTER;

function scale([d0, d1], [r0, r1], log = false) {
  const f = log ? Math.log10 : (v) => v;
  const a = f(d0), b = f(d1) === a ? a + 1 : f(d1);
  const to = (v) => r0 + ((f(v) - a) / (b - a)) * (r1 - r0);
  to.invert = (p) => { const v = a + ((p - r0) / (r1 - r0)) * (b - a); return log ? 10 ** v : v; };
  to.domain = [d0, d1]; to.range = [r0, r1]; to.log = log;
  return to;
}
// The data's extent with some air, so that no mark sits on the frame. Bounded quantities stay inside their bounds.
function extent(values, { log = false, air = 0.06, floor = -Infinity } = {}) {
  const kept = values.filter((v) => Number.isFinite(v) && (!log || v > 0));
  if (!kept.length) return log ? [1, 10] : [0, 1];
  let low = Infinity, high = -Infinity;
  for (const v of kept) { if (v < low) low = v; if (v > high) high = v; }
  if (log) { const span = Math.max(Math.log10(high / low), 0.3) * air; return [low / 10 ** span, high * 10 ** span]; }
  const span = high - low || Math.abs(high) * 0.2 || 1;
  return [Math.max(low - span * air, floor), high + span * air];
}

// --- marks (LOOK): a shape for each kind, never colour alone ---
const SHAPES = { base: "circle", quantized: "circle", pruned: "square", distilled: "triangle", combined: "diamond" };
function shapePath(shape, r) {
  if (shape === "square") return `M${-r * 0.9},${-r * 0.9}h${r * 1.8}v${r * 1.8}h${-r * 1.8}Z`;
  if (shape === "triangle") return `M0,${-r * 1.2}L${r * 1.1},${r * 0.8}H${-r * 1.1}Z`;
  if (shape === "diamond") return `M0,${-r * 1.3}L${r * 1.3},0L0,${r * 1.3}L${-r * 1.3},0Z`;
  if (shape === "wedge") return `M0,${r * 1.2}L${r * 1.1},${-r * 0.8}H${-r * 1.1}Z`;
  if (shape === "plus") { const t = r * 0.42, w = r * 1.15; return `M${-t},${-w}H${t}V${-t}H${w}V${t}H${t}V${w}H${-t}V${t}H${-w}V${-t}H${-t}Z`; }
  return `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`;
}
function legend(items) {
  return h("ul", { class: "ek-legend" }, items.map(({ kind, shape, text, quiet, dashed, hollow, colour, outline, size }) => {
    const icon = s("svg", { viewBox: "-8 -8 16 16", class: `ek-mark-${kind}${dashed ? " ek-dashed" : ""}${hollow ? " ek-hollow" : ""}${outline ? " ek-outline" : ""}`, "aria-hidden": "true", style: colour ? `--ek-mark:${colour}` : null });
    if (shape === "ring") s("circle", { r: 6.5, class: "ek-ring" }, icon);
    else if (shape === "ties") for (const cls of ["ek-tie", "ek-tie-gap"]) s("line", { x1: -6, x2: 6, y1: 0, y2: 0, class: cls }, icon);
    else if (shape === "line") s("path", { d: "M-8,0H8", class: "ek-mark", "stroke-dasharray": dashed ? "5 3" : null, "stroke-width": 2 }, icon);
    else s("path", { d: shapePath(shape ?? SHAPES[kind] ?? "square", size ?? 5.5), class: "ek-mark" }, icon);
    return h("li", {}, icon, h("span", {}, text), quiet ? h("span", { class: "ek-quiet" }, quiet) : null);
  }));
}

// Whiskers of a point at (x, y): where its interval begins and ends on each axis, in pixels; null where it has none.
const whiskerPath = (x, y, across, up) => (up ? `M${x},${up[0]}V${up[1]}M${x - 4},${up[0]}h8M${x - 4},${up[1]}h8` : "") + (across ? `M${across[0]},${y}H${across[1]}M${across[0]},${y - 4}v8M${across[1]},${y - 4}v8` : "");
function whiskers(g, x, y, across, up) { if (across || up) s("path", { d: whiskerPath(x, y, across, up), class: "ek-error", style: "stroke:var(--ek-mark)" }, g); }
// Direct labels of points [{ text, x, y, of, gap }]: right, left, above or below, wherever nothing is hidden; one without room waits for
// the tooltip. taken: boxes [left, top, width, height] that hold something else.
function placeLabels(points, { left, right, top, bottom }, others = []) {
  const taken = [...others, ...points.map(({ x, y }) => [x - 9, y - 9, 18, 18])], out = [];
  for (const { text, x: px, y: py, of, gap = 14 } of points) {
    const w = textWidth(text);
    for (const [x, y, anchor] of [[px + gap, py + 4, "start"], [px - gap, py + 4, "end"], [px, py - 15, "middle"], [px, py + 23, "middle"], [px + 10, py - 10, "start"], [px + 10, py + 18, "start"]]) {
      const box = [anchor === "start" ? x : anchor === "end" ? x - w : x - w / 2, y - 11, w, 14];
      if (box[0] < left || box[0] + w > right || box[1] < top || box[1] + 14 > bottom) continue;
      if (taken.some(([tx, ty, tw, th]) => tx < box[0] + box[2] && box[0] < tx + tw && ty < box[1] + box[3] && box[1] < ty + th)) continue;
      taken.push(box); out.push({ of, x, y, anchor });
      break;
    }
  }
  return out;
}

// --- the tooltip: of twelve places around the point, the one inside the box that hides the fewest other marks; never the point ---
function placeTip(width, height, x, y, boxWidth, boxHeight, others = [], gap = 14) {
  let best = null;
  for (const [px, py] of [[0, -1], [1, -1], [-1, -1], [1, 0], [-1, 0], [0, 1], [1, 1], [-1, 1]]) {
    let left = px === 0 ? x - width / 2 : px > 0 ? x + gap : x - gap - width;
    let top = py === 0 ? y - height / 2 : py > 0 ? y + gap : y - gap - height;
    if (px === 0) left = Math.max(0, Math.min(boxWidth - width, left));
    if (py === 0) top = Math.max(0, Math.min(boxHeight - height, top));
    const out = Math.max(0, -left) + Math.max(0, left + width - boxWidth) + Math.max(0, -top) + Math.max(0, top + height - boxHeight);
    const hidden = others.filter(([ox, oy]) => ox > left - 4 && ox < left + width + 4 && oy > top - 4 && oy < top + height + 4).length;
    const cost = out * 10 + hidden;
    if (!best || cost < best.cost) best = { left, top, cost };
  }
  return best;
}
function tooltip(host) {
  const tip = h("div", { class: "ek-tip", role: "tooltip", hidden: true });
  host.append(tip);
  return {
    node: tip,
    show(x, y, title, pairs, others) {
      tip.replaceChildren(h("b", {}, title), h("dl", {}, pairs.flatMap(([k, v]) => [h("dt", {}, k), h("dd", {}, v)])));
      tip.hidden = false;
      const box = host.getBoundingClientRect(), size = tip.getBoundingClientRect();
      const { left, top } = placeTip(size.width, size.height, x, y, box.width, box.height, others);
      tip.style.left = `${left}px`; tip.style.top = `${top}px`;
    },
    hide() { tip.hidden = true; },
  };
}

// --- the frame of a chart: fills its column, redraws when the column changes ---
function frame(host, signal, { label, role = "img", ratio = 0.56, least = 200, most = 420 }, draw) {
  const box = h("div", { class: "ek-chart" });
  const svg = s("svg", { role, "aria-label": label, tabindex: role === "img" ? 0 : null });
  box.append(svg);
  host.append(box);
  const it = { box, svg, tip: tooltip(box), width: 0, height: 0, soon };
  let raf = 0;
  function soon() {
    if (!raf) raf = requestAnimationFrame(() => {
      raf = 0;
      const width = Math.floor(box.clientWidth);
      if (width < 40) return; // hidden; the observer calls again
      it.width = width;
      it.height = Math.round(Math.max(least, Math.min(most, width * ratio)));
      fill(svg, { viewBox: `0 0 ${it.width} ${it.height}`, height: it.height });
      draw(it);
    });
  }
  const observer = new ResizeObserver(() => { if (Math.floor(box.clientWidth) !== it.width) soon(); });
  observer.observe(box);
  signal?.addEventListener("abort", () => { observer.disconnect(); cancelAnimationFrame(raf); });
  soon();
  return it;
}
// Ticks of an axis in its unit, and its title.
function ticksOf(domain, axis, log, count) {
  const { divide, text } = axisUnit(axis.unit, Math.max(...domain.map(Math.abs)));
  const [low, high] = [Math.min(...domain) / divide, Math.max(...domain) / divide];
  let values = log ? logTicks(low, high, count) : ticks(low, high, count);
  for (let more = count + 1; !log && values.length < 3 && more < count + 5; more++) values = ticks(low, high, more);
  if (axis.whole) values = values.filter(Number.isInteger);
  return { values, divide, texts: values.map((v) => (axis.show ? axis.show(v) : log ? three(v) : tickText(v, values))), title: `${axis.label}${text ? `, ${text}` : ""}${log ? say("logScale") : ""}` };
}
// room for the widest tick of a y axis
const leftFor = (domain, axis, height, log = false) => Math.max(34, 14 + Math.max(0, ...ticksOf(domain, axis, log, rowsFor(height)).texts.map(textWidth)));
const rowsFor = (height) => Math.max(3, Math.round((height - 64) / 44));
// Axes: grid, ticks, titles. Returns nothing; X and Y are scales whose ranges are the plot's edges.
function axes(g, X, Y, { x, y, width, height, left, bottom }) {
  const count = Math.max(3, Math.floor(Math.abs(X.range[1] - X.range[0]) / 80));
  const xs = ticksOf(X.domain, x, X.log, count), ys = ticksOf(Y.domain, y, Y.log, rowsFor(height));
  const [top, foot] = [Math.min(...Y.range), Math.max(...Y.range)], [start, end] = [Math.min(...X.range), Math.max(...X.range)];
  let used = -Infinity;
  for (const [i, v] of xs.values.entries()) {
    const p = X(v * xs.divide);
    s("line", { x1: p, x2: p, y1: top, y2: foot, class: "ek-gridline" }, g);
    const half = textWidth(xs.texts[i]) / 2; // a label without room is left out; its line stays
    if (p - half < used || p + half > width + 6) continue;
    s("text", { x: p, y: foot + 15, "text-anchor": "middle", class: "ek-tick" }, g, xs.texts[i]);
    used = p + half + 8;
  }
  for (const [i, v] of ys.values.entries()) {
    const p = Y(v * ys.divide);
    s("line", { x1: start, x2: end, y1: p, y2: p, class: "ek-gridline" }, g);
    s("text", { x: start - 7, y: p + 3.5, "text-anchor": "end", class: "ek-tick" }, g, ys.texts[i]);
  }
  s("text", { x: end, y: height - 6, "text-anchor": "end", class: "ek-axis" }, g, fitText(xs.title, width - left));
  s("text", { x: 2, y: 12, class: "ek-axis" }, g, fitText(ys.title, width)); // above the axis: reads without turning the head
}
function fitText(text, width) {
  const room = Math.floor(width / CHARACTER);
  if (text.length <= room) return text;
  const short = text.replace(/ \([^)]*\)/, "");
  return short.length <= room ? short : `${short.slice(0, Math.max(4, room - 1))}…`;
}
Object.assign(STRINGS, {
  logScale: { en: " (logarithmic)" },
  barKeys: { en: "Left and right arrows move between the parts." }, share: { en: "share" },
  chartKeys: { en: "Left and right arrows move along the curve, with Shift ten points at a time." },
});

// At most two points a pixel column (its lowest and highest): a curve of a million steps draws as fast as one of a thousand.
function thin(xs, ys, X, room) {
  const all = xs.map((_, i) => i);
  if (xs.length <= room * 2) return all;
  const out = [], columns = new Map();
  for (const i of all) {
    const column = Math.round(X(xs[i])), held = columns.get(column);
    if (!held) columns.set(column, { low: i, high: i });
    else { if (ys[i] < ys[held.low]) held.low = i; if (ys[i] > ys[held.high]) held.high = i; }
  }
  for (const { low, high } of columns.values()) out.push(...(low === high ? [low] : [Math.min(low, high), Math.max(low, high)]));
  return out;
}

// Horizontal lines at values that mean something. A label that would cover another moves along the line; one above the picture points up.
function referenceLines(g, lines, { left, right, top, foot }) {
  const taken = [];
  for (const { name, value, y } of [...lines].sort((a, b) => a.y - b.y)) {
    const out = y < top, at = Math.min(foot, Math.max(top, y)), text = out ? `↑ ${name} ${three(value)}` : name, w = textWidth(text);
    if (!out) s("path", { d: `M${left},${at}H${right}`, class: "ek-reference", "data-reference": name }, g);
    const high = out ? at + 11 : at - 5 < top + 8 ? at + 12 : at - 5;
    for (let end = right - 4; end - w > left; end -= w + 12) {
      if (taken.some(([e, v, width]) => Math.abs(v - high) < 13 && e > end - w && e - width < end)) continue;
      taken.push([end, high, w]);
      s("text", { x: end, y: high, "text-anchor": "end", class: "ek-halo ek-note" }, g, text);
      break;
    }
  }
}

// A chart of series over x. series: [{ name, label, kind, shape, dots, dashed }]; data(name) -> { x: [], y: [] }.
// naming(i, name) -> the words for point i; span() -> [x0, x1] or null; lines() -> [{ name, value }], references across the chart.
// data-points counts what is drawn.
function seriesChart(host, signal, { label, x, y, series, data, naming, span, lines, waiting, most = 300, floor = -Infinity }) {
  let cursor = null;
  const it = frame(host, signal, { label: `${label}. ${say("chartKeys")}`, most, least: 190 }, draw);
  const spoken = h("span", { class: "ek-hush", "aria-live": "polite" });
  it.box.append(spoken);
  let X, Y, shown = [], ends = [];
  function draw() {
    const { svg, width, height } = it, top = 24, bottom = 40;
    svg.replaceChildren();
    shown = series.filter((line) => data(line.name).x.length);
    const names = !shown.some((line) => line.dots) && shown.length > 1 && width > 420;
    const right = names ? Math.min(130, 16 + Math.max(...shown.map((line) => textWidth(line.label)))) : 14;
    const xs = shown.flatMap((line) => [data(line.name).x[0], data(line.name).x.at(-1)]), ys = shown.flatMap((line) => data(line.name).y);
    const domain = span?.() ?? extent(xs, { air: 0 }), references = lines?.() ?? [], tall = Math.max(...ys), heights = extent(ys.concat(references.map((r) => r.value).filter((v) => ys.length && v <= tall * 1.3)), { floor }), left = leftFor(heights, y, height);
    X = scale([domain[0], Math.max(domain[1], ...xs)], [left, width - right]);
    Y = scale(heights, [height - bottom, top]);
    const g = s("g", { "aria-hidden": "true" }, svg);
    s("rect", { x: left, y: top, width: width - left - right, height: height - top - bottom, class: "ek-frame" }, g);
    if (!shown.length) s("text", { x: (left + width - right) / 2, y: (top + height - bottom) / 2, "text-anchor": "middle", class: "ek-note" }, g, fitText(waiting ?? say("empty"), width - left - right));
    else axes(g, X, Y, { x, y, width, height, left, bottom });
    let total = 0;
    const labels = [];
    if (shown.length) referenceLines(g, references.map((r) => ({ ...r, y: Y(r.value) })), { left, right: width - right, top, foot: height - bottom });
    for (const line of shown) {
      const d = data(line.name), keep = line.dots ? d.x.map((_, i) => i) : thin(d.x, d.y, X, width);
      const group = s("g", { class: `ek-mark-${line.kind}`, "data-series": line.name, "data-points": d.x.length }, g);
      total += d.x.length;
      if (line.dots) for (const i of keep) s("path", { d: shapePath(line.shape ?? "circle", 3.2), transform: `translate(${X(d.x[i]).toFixed(1)} ${Y(d.y[i]).toFixed(1)})`, class: "ek-mark" }, group);
      else {
        s("path", { d: keep.map((i, n) => `${n ? "L" : "M"}${X(d.x[i]).toFixed(1)},${Y(d.y[i]).toFixed(1)}`).join(""), class: "ek-line", style: "stroke:var(--ek-mark)", "stroke-dasharray": line.dashed ? "6 4" : null }, group);
        if (line.dashed || d.x.length === 1) for (const i of keep.length > 60 ? [keep.at(-1)] : keep) s("path", { d: shapePath(line.shape ?? "circle", 3.2), transform: `translate(${X(d.x[i]).toFixed(1)} ${Y(d.y[i]).toFixed(1)})`, class: "ek-mark" }, group);
        labels.push({ line, x: X(d.x.at(-1)) + 7, y: Y(d.y.at(-1)) });
      }
    }
    if (names) { // direct labels, pushed apart so that none covers another
      labels.sort((a, b) => a.y - b.y).forEach((end, i) => { if (i && end.y - labels[i - 1].y < 14) end.y = labels[i - 1].y + 14; });
      for (const end of labels) s("text", { x: end.x, y: end.y + 4, class: "ek-halo" }, g, end.line.label);
    }
    ends = labels.map(({ x, y }) => [x + 15, y]);
    it.box.dataset.points = total;
    svg.dataset.points = total;
    if (cursor) point(cursor.line, cursor.i, false);
  }
  function nearest(px, py) {
    let best = null;
    for (const line of shown) {
      const d = data(line.name);
      for (let i = 0; i < d.x.length; i++) {
        const dx = X(d.x[i]) - px, dy = Y(d.y[i]) - py, far = dx * dx + (line.dots || shown.length > 1 ? dy * dy * 0.4 : 0);
        if (!best || far < best.far) best = { line, i, far };
      }
    }
    return best;
  }
  function point(line, i, speak) {
    const d = data(line.name);
    if (i < 0 || i >= d.x.length) return hide();
    cursor = { line, i };
    it.svg.querySelector(".ek-cursors")?.remove();
    const g = s("g", { class: "ek-cursors", "aria-hidden": "true" }, it.svg), px = X(d.x[i]), py = Y(d.y[i]);
    s("line", { x1: px, x2: px, y1: Math.min(...Y.range), y2: Math.max(...Y.range), class: "ek-cursor" }, g);
    s("circle", { cx: px, cy: py, r: 6, fill: "none", stroke: "currentColor", "stroke-width": 1.6 }, g);
    const named = naming?.(i, line.name, d.x[i]) ?? { title: line.label, pairs: [[x.label, withUnit(d.x[i], x.unit)]] };
    const pairs = [...named.pairs, [y.label, withUnit(d.y[i], y.unit)]];
    it.tip.show(px, py, named.title, pairs, ends);
    if (speak) setText(spoken, `${named.title}: ${pairs.map(([k, v]) => `${k} ${v}`).join(", ")}`);
  }
  function hide() { cursor = null; it.svg.querySelector(".ek-cursors")?.remove(); it.tip.hide(); }
  it.svg.addEventListener("pointermove", (e) => {
    const box = it.svg.getBoundingClientRect(), found = shown.length && nearest(e.clientX - box.left, e.clientY - box.top);
    if (found) point(found.line, found.i, false);
  });
  it.svg.addEventListener("pointerleave", () => { if (document.activeElement !== it.svg) hide(); });
  it.svg.addEventListener("blur", hide);
  it.svg.addEventListener("focus", () => { if (shown.length && !cursor) point(shown[0], data(shown[0].name).x.length - 1, true); });
  it.svg.addEventListener("keydown", (e) => {
    if (e.key === "Escape") return hide();
    if (!shown.length || !["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(e.key)) return;
    e.preventDefault();
    let { line, i } = cursor ?? { line: shown[0], i: 0 };
    const size = data(line.name).x.length, step = e.shiftKey ? 10 : 1;
    if (e.key.startsWith("ArrowU") || e.key.startsWith("ArrowD")) {
      const at = data(line.name).x[i];
      line = shown[(shown.indexOf(line) + (e.key === "ArrowUp" ? shown.length - 1 : 1)) % shown.length];
      i = data(line.name).x.findIndex((v) => v >= at);
      if (i < 0) i = data(line.name).x.length - 1;
    } else i = e.key === "Home" ? 0 : e.key === "End" ? size - 1 : Math.max(0, Math.min(size - 1, i + (e.key === "ArrowLeft" ? -step : step)));
    point(line, i, true);
  });
  return { soon: it.soon, box: it.box };
}

// Stacked bars lying down, one a row: rows [{ name, total, parts: [{ kind, label, value, note }] }], all on one scale.
function stackedBars(host, signal, { label, rows, unit = "bytes" }) {
  const it = frame(host, signal, { label: `${label}. ${say("barKeys")}`, ratio: 0, least: 10 }, draw);
  const spoken = h("span", { class: "ek-hush", "aria-live": "polite" });
  it.box.append(spoken);
  let segments = [], cursor = -1;
  function draw() {
    const { svg, width } = it, tall = 26, pitch = 52, list = rows(), height = Math.max(60, list.length * pitch + 4);
    fill(svg, { viewBox: `0 0 ${width} ${height}`, height });
    svg.replaceChildren();
    segments = [];
    const most = Math.max(...list.map((row) => row.total), 1), X = scale([0, most], [0, width - 2]);
    list.forEach((row, n) => {
      const y = n * pitch + 20;
      s("text", { x: 0, y: y - 6 }, svg, fitText(`${row.name}: ${withUnit(row.total, unit)}${row.note ? `, ${row.note}` : ""}`, width));
      let at = 0;
      for (const part of row.parts.filter((p) => p.value > 0)) {
        const x = X(at), w = Math.max(1, X(at + part.value) - x - 1), g = s("g", { class: `ek-mark-${part.kind}` }, svg), i = segments.length;
        at += part.value;
        s("rect", { x, y, width: w, height: tall, style: "fill:var(--ek-mark)" }, g);
        if (w > textWidth(part.label) + 10) s("text", { x: x + 6, y: y + 17, style: "fill:var(--ek-ground)" }, g, part.label);
        segments.push({ row, part, x, y, w, tall });
        g.addEventListener("pointerenter", () => show(i, false));
        g.addEventListener("pointerleave", hide);
      }
    });
    it.box.dataset.points = segments.length;
    svg.dataset.points = segments.length;
  }
  function show(i, speak) {
    const { row, part, x, y, w, tall } = segments[cursor = i], pairs = [[row.name, withUnit(part.value, unit)], [say("share"), `${three((100 * part.value) / row.total)}%`]];
    it.svg.querySelector(".ek-cursors")?.remove();
    s("rect", { x: x - 1, y: y - 2, width: w + 2, height: tall + 4, fill: "none", stroke: "currentColor", "stroke-width": 2, class: "ek-cursors" }, it.svg);
    it.tip.show(Math.min(x + w / 2, it.width - 10), y + tall / 2, part.label, pairs, []);
    if (speak) setText(spoken, `${part.label}: ${pairs.map(([k, v]) => `${k} ${v}`).join(", ")}`);
  }
  function hide() { it.svg.querySelector(".ek-cursors")?.remove(); it.tip.hide(); }
  it.svg.addEventListener("focus", () => { if (segments.length) show(Math.max(0, Math.min(cursor, segments.length - 1)), true); });
  it.svg.addEventListener("blur", hide);
  it.svg.addEventListener("keydown", (e) => {
    const way = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[e.key];
    if (e.key === "Escape") hide();
    if (!way || !segments.length) return;
    e.preventDefault();
    show(Math.max(0, Math.min(segments.length - 1, cursor + way)), true);
  });
  return { soon: it.soon, box: it.box };
}

// The map of modules: a row a layer, a column a kind of module; what lies outside the layers has a row of its own.
// Arrows move; a row's or a column's head stands for all its modules. onkey(modules, key) hears every other key.
Object.assign(STRINGS, {
  gridLabel: { en: "Modules by layer. Arrow keys move, Shift five at a time; digits 2 to 8 set bits, 1 leaves the weights as they are, plus and minus go one step, Delete lets the budget choose." },
  layerHead: { en: "layer {n}" }, columnHead: { en: "all {name} modules" }, allHead: { en: "all modules" }, embShort: { en: "emb" }, headShort: { en: "head" },
});
function layerGrid(host, { modules, onchoose, onkey, label = say("gridLabel") }) {
  const layers = [...new Set(modules.filter((m) => m.layer !== null).map((m) => m.layer))].sort((a, b) => a - b);
  const columns = [...new Map(modules.filter((m) => m.layer !== null).map((m) => [m.path, m.column])).entries()];
  const at = new Map(modules.map((m, i) => [`${m.layer}/${m.path}`, i])), outside = modules.map((m, i) => [m, i]).filter(([m]) => m.layer === null);
  const width = Math.max(1, columns.length), same = (i) => Array(width).fill(i);
  const first = outside.filter(([m]) => m.kind !== "head"), last = outside.filter(([m]) => m.kind === "head");
  // rows of the grid: { name, cells: [module index or null], wide: one module over all columns }
  const rows = [...first.map(([m, i]) => ({ name: m.kind === "embeddings" ? say("embShort") : m.name, cells: same(i), wide: true })),
    ...layers.map((layer) => ({ name: String(layer), title: say("layerHead", { n: layer }), cells: columns.map(([path]) => at.get(`${layer}/${path}`) ?? null) })),
    ...last.map(([, i]) => ({ name: say("headShort"), cells: same(i), wide: true }))];
  const cells = new Map(), heads = new Map();
  const corner = h("th", { scope: "col", tabindex: -1, title: say("allHead"), "aria-label": say("allHead") }, "");
  const top = columns.map(([path, name], c) => h("th", { scope: "col", tabindex: -1, title: path, "aria-label": say("columnHead", { name }) }, name));
  const body = rows.map((row, r) => {
    const head = h("th", { scope: "row", tabindex: -1, title: row.title ?? row.name, "aria-label": row.title ?? row.name }, row.name);
    heads.set(`${r},-1`, head);
    const made = row.wide ? [h("td", { role: "gridcell", colspan: width, tabindex: -1 })] : row.cells.map((i) => h("td", { role: "gridcell", tabindex: -1, "aria-hidden": i === null ? "true" : null }));
    made.forEach((node, c) => { const i = row.cells[c]; if (i !== null) { cells.set(i, node); node.dataset.module = modules[i].name; } });
    return h("tr", { class: row.wide ? "ek-outside" : "" }, head, made);
  });
  top.forEach((node, c) => heads.set(`-1,${c}`, node));
  heads.set("-1,-1", corner);
  const table = h("table", { class: "ek-grid", role: "grid", "aria-label": label, "aria-multiselectable": "true" }, h("thead", {}, h("tr", {}, corner, top)), h("tbody", {}, body));
  const box = h("div", { class: "ek-chart", "data-points": modules.length }, table);
  host.append(box);
  let here = [Math.min(first.length, rows.length - 1), 0], chosen = [];
  const nodeAt = ([r, c]) => (r < 0 || c < 0 ? heads.get(`${r},${c}`) : rows[r].cells[c] === null ? null : cells.get(rows[r].cells[c]));
  function modulesAt([r, c]) {
    if (r < 0 && c < 0) return modules.map((_, i) => i);
    if (r < 0) return rows.filter((row) => !row.wide).map((row) => row.cells[c]).filter((i) => i !== null);
    if (c < 0) return [...new Set(rows[r].cells.filter((i) => i !== null))];
    return [rows[r].cells[c]];
  }
  function choose(place, focus) {
    const node = nodeAt(place);
    if (!node) return false;
    nodeAt(here)?.setAttribute("tabindex", "-1");
    for (const i of chosen) cells.get(i).setAttribute("aria-selected", "false");
    here = place; chosen = modulesAt(place);
    node.setAttribute("tabindex", "0");
    for (const i of chosen) cells.get(i).setAttribute("aria-selected", "true");
    if (focus) node.focus();
    onchoose(chosen);
    return true;
  }
  function placeOf(target) {
    const node = target.closest?.("th, td");
    if (!node || !table.contains(node)) return null;
    for (const [key, head] of heads) if (head === node) return key.split(",").map(Number);
    for (const [i, cell] of cells) if (cell === node) { const r = rows.findIndex((row) => row.cells.includes(i)); return [r, rows[r].wide ? Math.max(0, here[1]) : rows[r].cells.indexOf(i)]; }
    return null;
  }
  table.addEventListener("click", (e) => { const place = placeOf(e.target); if (place) choose(place, true); });
  table.addEventListener("keydown", (e) => {
    const step = e.shiftKey ? 5 : 1, way = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[e.key];
    if (way) {
      e.preventDefault();
      let [r, c] = here;
      for (let n = 0; n < step; n++) {
        const next = [Math.max(-1, Math.min(rows.length - 1, r + way[0])), Math.max(-1, Math.min(width - 1, c + way[1]))];
        if (next[1] >= 0 && rows[next[0]]?.wide && way[1]) break; // one cell fills the row
        [r, c] = next;
      }
      return choose([r, c], true);
    }
    if (e.key === "Home" || e.key === "End") { e.preventDefault(); return choose([here[0], e.key === "Home" ? 0 : width - 1], true); }
    if (!e.ctrlKey && !e.metaKey && !e.altKey && onkey(chosen, e.key)) e.preventDefault();
  });
  return {
    box, cells, chosen: () => chosen, start: () => choose(here, false),
    // look(i) -> { text, colour (or null), pinned, spoken }
    paint(look) {
      for (const [i, node] of cells) {
        const { text, colour, pinned, spoken } = look(i);
        setText(node, text);
        node.style.background = colour ? rgb(colour) : "";
        node.style.color = colour ? inkOn(colour) : "";
        node.dataset.pinned = String(pinned);
        node.dataset.unknown = String(!colour);
        fill(node, { "aria-label": spoken });
      }
    },
  };
}

// Twin of effkit.spec.allocation.Sensitivity.at and .allocate, so that the budget can be dragged in a page without a kernel; a
// test compares the two. modules: [{ name, choices: [[bits, bytes, kl], ...] }]. Every step up a module's hull saves KL at a price
// in bytes; the steps are sorted once, by KL saved a byte, and a budget walks down the list: well under a millisecond.
const [BITS, BYTES, KL] = [0, 1, 2];
function hullOf(choices) {
  const hull = [], slope = (a, b) => (a[KL] - b[KL]) / (b[BYTES] - a[BYTES]);
  for (const choice of [...choices].sort((a, b) => a[BYTES] - b[BYTES] || a[KL] - b[KL])) {
    if (hull.length && choice[KL] >= hull.at(-1)[KL]) continue;
    while (hull.length > 1 && slope(hull.at(-1), choice) >= slope(hull.at(-2), hull.at(-1))) hull.pop();
    hull.push(choice);
  }
  return hull;
}
function allocator({ modules, fixed, scale }) {
  const total = (chosen) => ({ chosen, bits: chosen.map((c) => c[BITS]), bytes: fixed + chosen.reduce((n, c) => n + c[BYTES], 0), kl: scale * chosen.reduce((n, c) => n + c[KL], 0) });
  const sum = (pick) => fixed + modules.reduce((n, m) => n + pick(m.choices.map((c) => c[BYTES])), 0);
  let key = null, hulls = [], steps = [];
  function prepare(pins) { // pins: { index of module: bits }
    const now = JSON.stringify(pins);
    if (now === key) return;
    key = now;
    hulls = modules.map((m, i) => (i in pins ? m.choices.filter((c) => c[BITS] === pins[i]) : hullOf(m.choices)));
    steps = hulls.flatMap((hull, i) => hull.slice(1).map((c, k) => ({ i, k: k + 1, more: c[BYTES] - hull[k][BYTES], gain: (hull[k][KL] - c[KL]) / (c[BYTES] - hull[k][BYTES]) })));
    steps.sort((a, b) => b.gain - a.gain || (modules[a.i].name < modules[b.i].name ? -1 : 1));
  }
  return {
    smallest: sum((all) => Math.min(...all)), largest: sum((all) => Math.max(...all)),
    at: (bits) => total(modules.map((m, i) => m.choices.find((c) => c[BITS] === bits[i]) ?? m.choices.at(-1))),
    // null where not even the fewest bits fit
    allocate(bytes, pins = {}) {
      prepare(pins);
      const at = hulls.map(() => 0), stuck = new Set();
      let spent = fixed + hulls.reduce((n, hull) => n + hull[0][BYTES], 0);
      if (spent > bytes) return null;
      for (const { i, k, more } of steps) {
        if (stuck.has(i)) continue;
        if (spent + more > bytes) { stuck.add(i); continue; } // does not fit: cheaper steps of other modules still may
        at[i] = k; spent += more;
      }
      return total(hulls.map((hull, i) => hull[at[i]]));
    },
    least(pins = {}) { prepare(pins); return fixed + hulls.reduce((n, hull) => n + hull[0][BYTES], 0); },
  };
}

// Twin of effkit.spec.capability, so that a price can be changed in a page without a kernel; a test compares the two figure by
// figure and word by word. An estimate is [value, low, high]; null is unknown, never zero.
Object.assign(STRINGS, {
  what_price: { en: "price per query" }, what_latency: { en: "latency" }, what_bytes: { en: "stored bytes" }, what_memory: { en: "peak memory" }, what_energy: { en: "energy per query" },
  aboveScore: { en: "{score} above chance" }, unknownShare: { en: "an unknown share" }, noInterval: { en: "{v} (no interval)" },
  limits: { en: "{q} at {c}" }, asked: { en: "({limits} was asked)" },
  keeps: { en: "{student} keeps {kept} of {teacher}'s {score} at {paid} of its {what}" }, onSimulated: { en: "{said} on a simulated device" },
  sayYes: { en: "Yes: {said} {asked}" }, sayNo: { en: "No: {said}; {miss} what was asked ({limits})" },
  sayTie: { en: "Not distinguishable: {said}; {edge} {asked}" }, sayUnknown: { en: "Not known: {what} of {student} was not measured {asked}" },
  missBoth: { en: "both miss" }, missQuality: { en: "the quality misses" }, missCost: { en: "the cost misses" },
  edgeBoth: { en: "both intervals hold their limits" }, edgeQuality: { en: "the interval of the quality holds its limit" }, edgeCost: { en: "the interval of the cost holds its limit" },
  shareOf: { en: "the share of {name}" }, andThe: { en: "{a} and {b}" },
  ofTeacher: { en: "at {share} of the teacher's {what}" }, butBest: { en: "; but {name} scores highest, {of}" }, butTied: { en: "; but the data cannot tell {name}, {of}, from the best, {best}" },
});
const COSTS = ["price", "latency", "bytes", "memory", "energy"], UNKNOWN = [null, null, null];
const exactly = (v) => (v === null || v === undefined ? UNKNOWN : [v, v, v]);
const mapped = (e, f) => e.map((v) => (v === null ? null : f(v)));
const bounded = ([, low, high]) => low !== null && high !== null;
function ratioOf(a, b) {
  if (a[0] === null || b[0] === null || b[0] <= 0) return UNKNOWN;
  const value = a[0] / b[0];
  if (!bounded(a) || !bounded(b) || b[1] <= 0) return [value, null, null];
  if (a[1] <= 0) return [value, a[1] / b[1], a[2] / (a[2] > 0 ? b[1] : b[2])];
  const down = Math.hypot(Math.log(a[0] / a[1]), Math.log(b[2] / b[0])), up = Math.hypot(Math.log(a[2] / a[0]), Math.log(b[0] / b[1]));
  return [value, value * Math.exp(-down), value * Math.exp(up)];
}
function differenceOf(a, b) {
  if (a[0] === null || b[0] === null) return UNKNOWN;
  const value = a[0] - b[0];
  if (!bounded(a) || !bounded(b)) return [value, null, null];
  return [value, value - Math.hypot(a[0] - a[1], b[2] - b[0]), value + Math.hypot(a[2] - a[0], b[0] - b[1])];
}
const times = ([v, low, high], by) => mapped(by > 0 ? [v, low, high] : [v, high, low], (x) => x * by);
const percent = (v) => `${three(100 * v)}%`;
function shareText([value, low, high]) {
  if (value === null) return say("unknownShare");
  if (low === null || high === null) return say("noInterval", { v: percent(value) });
  return low === high ? percent(value) : `${percent(value)} [${percent(low)}, ${percent(high)}]`;
}
// on which side of the limit the whole interval lies; way 1: above is good, -1: below is
function sideOf(e, limit, way) {
  if (e[0] === null) return "unavailable";
  const [low, high] = bounded(e) ? [e[1], e[2]] : [e[0], e[0]], [worst, most] = way > 0 ? [low, high] : [high, low];
  return way * worst >= way * limit ? "yes" : way * most < way * limit ? "no" : "not distinguishable";
}
const allOf = (...answers) => ["no", "unavailable", "not distinguishable", "yes"].find((a) => answers.includes(a));

// config: { sides: [teacher, student, ...others], retained, retained_above_chance, differences: [[a, b, estimate]] }
// settings: { price_per_hour, teacher_price_per_hour, utilisation, quality, cost, by, above_chance }
function capability(config, settings) {
  const sides = config.sides, [teacher, student, ...others] = sides, chance = sides.map((x) => x.chance).find((x) => x !== null) ?? null;
  const hour = (side) => (side === teacher ? settings.teacher_price_per_hour : null) ?? side.price_per_hour ?? settings.price_per_hour;
  const price = (side) => {
    const [v, low, high] = side.throughput;
    return [v, high, low].map((x) => (x === null || x <= 0 ? null : (hour(side) / 3600 / x / settings.utilisation) * 1000));
  };
  const cost = (by, side) => (by === "price" ? price(side) : by === "latency" ? side.latency : by === "energy" ? side.energy : exactly(by === "bytes" ? side.bytes : side.memory));
  const share = (by, side) => ratioOf(cost(by, side), cost(by, teacher));
  const kept = (side, above) => {
    if (above && chance === null) return UNKNOWN;
    if (side === teacher) return side.quality[0] === null ? UNKNOWN : exactly(1);
    const given = above ? config.retained_above_chance : config.retained;
    if (given && side === student) return given;
    return ratioOf(...[side, teacher].map((x) => mapped(x.quality, (v) => v - (above ? chance : 0))));
  };
  const trainingCost = (side) => exactly(side.training === null ? null : (side.training / 3600) * hour(side));
  const breakEven = (side) => {
    const saving = differenceOf(price(teacher), price(side)), [spent] = trainingCost(side);
    if (saving[0] === null || spent === null) return UNKNOWN;
    if (saving[0] <= 0) return "never";
    return [saving[0], saving[2], saving[1]].map((x) => (x === null || x <= 0 ? null : spent / (x / 1000)));
  };
  const difference = (a, b) => {
    for (const [x, y, score] of config.differences) {
      if (x === a.name && y === b.name) return score;
      if (y === a.name && x === b.name) return times(score, -1);
    }
    if (a !== b && [teacher, student].includes(a) && [teacher, student].includes(b) && config.retained && teacher.quality[0]) {
      const over = times(mapped(config.retained, (v) => v - 1), teacher.quality[0]);
      return a === student ? over : times(over, -1);
    }
    return differenceOf(a.quality, b.quality);
  };
  const tied = (a, b) => { if (a === b) return true; const d = difference(a, b); return bounded(d) && d[1] <= 0 && d[2] >= 0; };
  const first = (list, better) => list.reduce((a, b) => (a === null || better(b, a) ? b : a), null);
  const best = first(sides.filter((x) => x.quality[0] !== null), (a, b) => a.quality[0] > b.quality[0]);
  const answer = (by) => (best && first(sides.filter((x) => tied(x, best) && cost(by, x)[0] !== null), (a, b) => cost(by, a)[0] < cost(by, b)[0])) ?? best;
  const { quality, cost: limit, by, above_chance: above } = settings;
  const within = () => allOf(sideOf(kept(student, above), quality, 1), sideOf(share(by, student), limit, -1));
  const verdict = () => {
    const k = kept(student, above), paid = share(by, student), what = say(`what_${by}`), good = sideOf(k, quality, 1), cheap = sideOf(paid, limit, -1);
    const limits = say("limits", { q: percent(quality), c: percent(limit) }), asked = say("asked", { limits });
    const score = above ? say("aboveScore", { score: student.score_name }) : student.score_name;
    let said = say("keeps", { student: student.name, kept: shareText(k), teacher: teacher.name, score, paid: shareText(paid), what });
    if (teacher.simulated || student.simulated) said = say("onSimulated", { said });
    const unknown = [[k, score], [paid, what]].filter(([e]) => e[0] === null).map(([, name]) => say("shareOf", { name }));
    const text = {
      yes: () => say("sayYes", { said, asked }),
      no: () => say("sayNo", { said, limits, miss: say(good === cheap ? "missBoth" : good === "no" ? "missQuality" : "missCost") }),
      unavailable: () => say("sayUnknown", { what: unknown.length > 1 ? say("andThe", { a: unknown[0], b: unknown[1] }) : unknown[0], student: student.name, asked }),
      "not distinguishable": () => say("sayTie", { said, asked, edge: say(good === cheap ? "edgeBoth" : cheap === "yes" ? "edgeQuality" : "edgeCost") }),
    }[within()]();
    const found = answer(by);
    if (!found || !others.includes(found)) return `${text}.`;
    const of = say("ofTeacher", { share: shareText(share(by, found)), what });
    return `${text}${say(found === best ? "butBest" : "butTied", { name: found.name, of, best: best.name })}.`;
  };
  return { sides, teacher, student, others, chance, hour, price, cost, share, kept, trainingCost, breakEven, difference, tied, best, answer, within, verdict };
}

// What prices alone decide, where no kernel is asked: every figure in $ is proportional to a price an hour, and to 1 / the share of
// time busy. The twin of effkit/hardware/projected/price.py and of the words of stacks.py; a test compares them.
Object.assign(STRINGS, {
  noPriceOf: { en: "No price of {device} is known: {even}." }, costUnknown: { en: "Prices cannot be compared." }, costUnclear: { en: "At these prices the data cannot tell which query is cheaper ({even})." },
  costShare: { en: "A query costs {share}% on {cheap} of what it costs on {dear} ({even})." }, evenUnknown: { en: "no break-even price is known" }, evenBelow: { en: "{device} is the cheaper one below {price}{range} an hour" },
});
const UNPRICED = [null, null, null];
// figures with the prices of `settings`; as they are where they were made by a version that did not say what $1 an hour buys
function priced(found, settings) {
  if (found.speed === undefined) return found;
  const busy = settings.utilisation, hour = {}, out = { ...found };
  const times = (e, factor) => (!e || factor === null ? UNPRICED : e.map((v) => (v === null ? null : v * factor)));
  for (const key of ["left", "right"]) hour[key] = found[key].at_one ? settings[`${key}_price`] ?? found[key].at_one.list : null;
  for (const [key, other] of [["left", "right"], ["right", "left"]]) {
    const side = found[key], one = side.at_one, own = (settings[`${key}_price`] ?? null) !== null, rent = hour[key] === null ? null : hour[key] / busy;
    out[key] = { ...side, per_hour: hour[key], price_source: !one ? "unknown" : own ? "given" : one.source, cost: times(one?.cost, rent), input: times(one?.input, rent), output: times(one?.output, rent), even: times(one?.even, hour[other]) };
  }
  out.ratios = { ...found.ratios, cost: times(found.cost_ratio, hour.left === null || hour.right === null ? null : hour.right / hour.left) };
  out.verdict = `${found.speed} ${costWords(out)}`;
  return out;
}
function costWords({ left, right, ratios: { cost } }) {
  const name = (side) => (side.devices > 1 ? `${side.devices} x ${side.device}` : side.device), bare = (v) => three(v);
  const even = (side) => (side.even[0] === null ? say("evenUnknown") : say("evenBelow", { device: side.device, price: `$${bare(side.even[0])}`, range: side.even[1] === null || side.even[2] === null ? "" : ` [${bare(side.even[1])}, ${bare(side.even[2])}]` }));
  if (!cost.includes(null)) {
    if (cost[1] <= 1 && 1 <= cost[2]) return say("costUnclear", { even: even(right) });
    const [cheap, dear, share] = cost[0] < 1 ? [right, left, cost[0]] : [left, right, 1 / cost[0]];
    return say("costShare", { share: (100 * share).toFixed(0), cheap: name(cheap), dear: name(dear), even: even(right) });
  }
  const told = [right, left].find((side) => side.even[0] !== null);
  return told ? say("noPriceOf", { device: told.device, even: even(told) }) : say("costUnknown");
}

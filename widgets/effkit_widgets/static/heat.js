// Colour for a quantity: viridis (LOOK), as seven stops of its published table; and the ink that can be read on it.
const VIRIDIS = [[68, 1, 84], [68, 57, 131], [49, 104, 142], [33, 145, 140], [53, 183, 121], [144, 215, 67], [253, 231, 37]];
// 0 is dark violet, 1 is yellow: [r, g, b]
function viridis(share) {
  const at = Math.min(1, Math.max(0, share)) * (VIRIDIS.length - 1), i = Math.min(VIRIDIS.length - 2, Math.floor(at)), f = at - i;
  return VIRIDIS[i].map((v, c) => Math.round(v + (VIRIDIS[i + 1][c] - v) * f));
}
const rgb = (colour) => `rgb(${colour.join(",")})`;
function luminance(colour) {
  const [r, g, b] = colour.map((v) => { const c = v / 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
// black or white, whichever has more contrast: at least 4.58:1 on any colour
const inkOn = (colour) => (luminance(colour) > 0.179 ? "#000000" : "#ffffff");
// more is further from the ground: dark on a light card, bright on a dark one
const heat = (share, theme) => viridis(theme === "dark" ? share : 1 - share);
// where a value stands between two others, on a logarithmic scale: 0 to 1
function logShare(value, low, high) {
  if (!(value > 0) || !(high > low)) return value > 0 ? 1 : 0;
  return Math.min(1, Math.max(0, Math.log(value / low) / Math.log(high / low)));
}
// calls `draw` whenever the card's theme changes
function onTheme(ui, draw) {
  const observer = new MutationObserver(draw);
  observer.observe(ui.root, { attributes: true, attributeFilter: ["data-theme"] });
  ui.signal?.addEventListener("abort", () => observer.disconnect());
}

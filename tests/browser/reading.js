// What a reader of the page would stumble over: text too small, words broken, things cut off, ticks that overlap, targets too small to hit.
// Returns a list of complaints; text for screen readers alone, scrolling boxes and code are left out.
() => {
  const said = [], hushed = ".ek-hush, .skip, script, style, select";
  const name = (e) => `${e.closest(".ek-card")?.dataset.widget ?? "page"} ${e.tagName.toLowerCase()}.${e.getAttribute("class") ?? ""}`;
  const seen = (e) => e.checkVisibility({ visibilityProperty: true }) && e.getBoundingClientRect().width > 2 && !e.closest(hushed) && getComputedStyle(e).clipPath === "none" && !(e.closest("h2") && getComputedStyle(e.closest("h2")).clipPath !== "none");
  const over = document.documentElement.scrollWidth - innerWidth;
  if (over > 0) said.push(`the page is ${over} px wider than its window`);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = texts.nextNode()); ) {
    const e = node.parentElement, text = node.data;
    if (!text.trim() || !seen(e)) continue;
    const size = parseFloat(getComputedStyle(e).fontSize);
    if (size < 12) said.push(`${name(e)}: "${text.trim()}" is ${size} px`);
    if (e.namespaceURI.includes("svg")) {
      const box = e.closest(".ek-card").getBoundingClientRect(), own = e.getBoundingClientRect();
      if (own.left < box.left || own.right > box.right) said.push(`${name(e)}: "${text}" leaves its card`);
    }
    if (e.namespaceURI.includes("svg") || e.closest("pre, .ek-lens")) continue;
    for (const word of text.matchAll(/\S+/g)) {
      let last = null;
      for (let i = 0; i < word[0].length; i++) {
        const range = document.createRange();
        range.setStart(node, word.index + i); range.setEnd(node, word.index + i + 1);
        const top = range.getBoundingClientRect().top;
        if (last !== null && top - last > 6 && !/[-\u2013\u2014/?&,=:)|]/.test(word[0][i - 1])) said.push(`${name(e)}: ${word[0].slice(0, i)} | ${word[0].slice(i)}`);
        last = top;
      }
    }
  }
  for (const chart of document.body.querySelectorAll(".ek-chart svg")) {
    const ticks = [...chart.querySelectorAll(".ek-tick")].map((e) => [e.textContent, e.getBoundingClientRect()]);
    ticks.forEach(([text, a], i) => ticks.slice(i + 1).forEach(([other, b]) => { if (a.left < b.right && b.left < a.right && a.top + 3 < b.bottom && b.top + 3 < a.bottom) said.push(`${name(chart)}: the ticks ${text} and ${other} lie on each other`); }));
  }
  for (const e of document.body.querySelectorAll("*")) {
    if (e.namespaceURI.includes("svg") || e.closest(hushed) || !e.checkVisibility()) continue;
    const style = getComputedStyle(e);
    if (/hidden|clip/.test(style.overflowX) && e.scrollWidth > e.clientWidth + 1 && style.clipPath === "none") said.push(`${name(e)} is cut off: ${e.textContent.trim().slice(0, 40)}`);
  }
  for (const e of document.body.querySelectorAll("button, summary, select, input, a[href], textarea, [role='option'], [role='slider'], [role='gridcell']")) {
    if (!e.checkVisibility({ visibilityProperty: true }) || e.closest(".skip") || getComputedStyle(e).opacity === "0" || getComputedStyle(e).display === "inline") continue;
    const box = (/checkbox|radio/.test(e.type) && e.closest("label") ? e.closest("label") : e).getBoundingClientRect();
    if (Math.min(box.width, box.height) < 23.9) said.push(`${name(e)}: a target of ${Math.round(box.width)} x ${Math.round(box.height)} px`);
  }
  return said;
}

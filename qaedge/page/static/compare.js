// What is pinned: one network as a list of its blocks, or two of them beside each other.
function mark(at) {
  return element("span", { class: `mark ${"ab"[at]}` }, "AB"[at]);
}

// How much less or more B has than A; less is better in all that is compared.
function difference(a, b, say) {
  if (a === null || a === undefined || b === null || b === undefined) return element("td", { class: "number" }, "–");
  const share = a ? ` (${signed(b / a - 1)})` : "";
  const how = b < a ? "better" : b > a ? "worse" : "";
  const sign = b > a ? "+" : b < a ? "−" : "";
  return element("td", { class: `number ${how}` }, b === a ? "the same" : `${sign}${say(Math.abs(b - a))}${share}`);
}

function costRows(points) {
  const rows = [
    ["latency, predicted", (p) => p.role === "teacher" ? null : p.network.latency_s, seconds],
    ["latency, measured", (p) => p.measured ? p.measured.measured_s : p.role === "teacher" ? p.network.latency_s : null, seconds],
    ["size", (p) => p.network.size_bytes, bytes],
    [content.summed, (p) => p.network.loss, loss],
  ].filter(([, of]) => points.some((p) => of(p) !== null && of(p) !== undefined));
  return rows.flatMap(([name, of, say]) => comparedRow(name, [points.map((p) => element("td", { class: "number" }, say(of(p)))),
    points.length > 1 ? difference(of(points[0]), of(points[1]), say) : null]));
}

// A row with its name before it, or above it where the page is narrow.
function comparedRow(name, cells) {
  const told = cells.flat().filter((cell) => cell);
  if (!isNarrow()) return [element("tr", {}, element("th", { scope: "row" }, name), told)];
  return [element("tr", { class: "named" }, element("th", { scope: "rowgroup", colspan: told.length }, name)), element("tr", {}, told)];
}

function blockRows(points) {
  return content.blocks.flatMap((block, at) => {
    const picked = points.map((p) => block.candidates[p.network.indices[at]]);
    const costs = points.map((p, i) => costOf(picked[i], formatOf(p.network)));
    const differs = points.length > 1 && picked[0] !== picked[1];
    const cells = picked.map((candidate, i) => element("td", { class: differs ? "differs" : "" },
      element("div", { class: "mono" }, candidateName(candidate)),
      element("div", { class: "small" }, `${candidate.scheme}, ${costs[i] ? seconds(costs[i].latency_s) : "not measured"}, loss ${loss(candidate.loss)}`)));
    let last = null;
    if (points.length > 1) {
      const both = costs.every((c) => c);
      last = differs && both && picked.every((c) => c.loss !== null)
        ? element("td", { class: "number" }, element("div", {}, `${costs[1].latency_s >= costs[0].latency_s ? "+" : "−"}${seconds(Math.abs(costs[1].latency_s - costs[0].latency_s))}`),
          element("div", { class: "small" }, `loss ${picked[1].loss >= picked[0].loss ? "+" : "−"}${loss(Math.abs(picked[1].loss - picked[0].loss))}`))
        : element("td", { class: "number" }, differs ? "–" : "the same");
    }
    return comparedRow(block.name, [cells, last]);
  });
}

function drawPinned() {
  const place = document.getElementById("pinned");
  const points = front.pins;
  if (!points.length) {
    place.replaceChildren(element("p", { class: "hint" }, "Nothing is pinned. The table of the front below has a button for each network, for those who use no mouse."));
    return;
  }
  const heads = points.map((p, at) => element("th", {}, mark(at), ` ${p.label} `, element("div", { class: "small" }, kindName(p.network))));
  const head = element("tr", {}, isNarrow() ? null : element("th", {}, ""), heads, points.length > 1 ? element("th", { class: "number" }, "B against A") : null);
  const count = points.length > 1 ? content.blocks.filter((_, at) => points[0].network.indices[at] !== points[1].network.indices[at]).length : 0;
  const told = points.length > 1 ? `They differ in ${count} of ${content.blocks.length} blocks.` : "Click a second network to compare; click this one again to let it go.";
  place.replaceChildren(
    element("p", { class: "hint" }, told, " ", element("button", { type: "button", id: "clear-pins", onclick: clearPins }, "Clear (Esc)")),
    element("div", { class: "wide" }, element("table", { id: "pinned-table" }, element("thead", {}, head), element("tbody", {}, costRows(points), blockRows(points)))));
}

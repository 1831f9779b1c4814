// A network block by block: layers with kernel, expansion, channels and the bits of each one's weights.
const drawnSelect = document.getElementById("drawn");

function drawnOptions() {
  const chosen = POINTS.filter((p) => p.role === "chosen");
  const pins = front.pins.map((point, at) => ({ ...point, label: `pinned ${"AB"[at]}: ${point.label}` }));
  const measured = POINTS.filter((p) => p.role === "measured");
  return [...chosen, ...pins, ...POINTS.filter((p) => p.role === "teacher"), ...measured];
}

function listDrawn() {
  if (!drawnSelect) return;
  const before = drawnSelect.selectedOptions.length ? drawnSelect.selectedOptions[0].textContent : "";
  const options = drawnOptions();
  drawnSelect.replaceChildren(...options.map((p, at) => element("option", { value: at }, p.label)));
  const again = options.findIndex((p) => p.label === before);
  drawnSelect.value = String(again >= 0 ? again : 0);
  drawNetwork();
}

function bitsBadge(bits) {
  return element("span", { class: "bits", style: `background:${BITS[bits] || "#555"}`, title: bits ? `${bits} bits` : "which layers have fewer bits is not known" }, bits ? String(bits) : "?");
}

function layerBox(layer, times) {
  const told = [layer.kind, `k${layer.kernel}`];
  if (layer.stride > 1) told.push(`s${layer.stride}`);
  if (layer.expansion > 1) told.push(`e${layer.expansion}`);
  if (layer.dilation > 1) told.push(`d${layer.dilation}`);
  const title = `${layer.text}: kernel ${layer.kernel}, stride ${layer.stride}, expansion ${layer.expansion}, dilation ${layer.dilation}, ${layer.channels} channels out`;
  return element("div", { class: "layer", title }, element("b", {}, `${times > 1 ? `${times} × ` : ""}${told.join(" ")} → ${layer.channels}`),
    layer.convolutions.map((c) => element("div", { class: "conv" }, element("span", {}, `${c.name} ${c.given}→${c.out}`), bitsBadge(c.bits))));
}

function layerBoxes(candidate) {
  if (candidate.is_own || !candidate.layers.length) {
    const bits = candidate.bits.length ? candidate.bits.map(bitsBadge) : [bitsBadge(candidate.weight_bits)];
    const told = candidate.bits.length ? `${candidate.bits.length} layers: ` : "all layers: ";
    return [element("div", { class: "layer own" }, element("b", {}, candidate.is_own ? "the teacher's own block" : candidate.spec), element("span", { class: "small" }, told), ...bits.flatMap((b) => [b, " "]))];
  }
  // Equal neighbors are one box, as in the candidate's own text.
  const boxes = [];
  const keys = candidate.layers.map((layer) => JSON.stringify([layer.text, layer.convolutions]));
  for (let at = 0; at < keys.length;) {
    let times = 1;
    while (keys[at + times] === keys[at]) times += 1;
    boxes.push(layerBox(candidate.layers[at], times));
    at += times;
  }
  return boxes;
}

function bar(name, value, own, most, say, color) {
  const width = (v) => `${v === null ? 0 : Math.max(0.5, 100 * v / most)}%`;
  return element("div", { class: "bars" },
    element("div", { class: "told" }, element("span", {}, name), element("span", {}, `${say(value)}${own === null ? "" : ` (own ${say(own)})`}`)),
    element("div", { class: "bar", style: `width:${width(value)};background:${color}` }),
    own === null ? null : element("div", { class: "bar own", style: `width:${width(own)}` }));
}

function drawNetwork() {
  const point = drawnOptions()[Number(drawnSelect.value)];
  const place = document.getElementById("drawing");
  if (!point) { place.replaceChildren(element("p", { class: "small" }, "There is no network to draw.")); return; }
  const network = point.network;
  const format = formatOf(network);
  const picked = candidatesOf(network);
  const owns = network.kind === null ? picked.map(() => null) : content.kinds[network.kind].own.map((at, block) => content.blocks[block].candidates[at]);
  const latency = (c) => c && costOf(c, format) ? costOf(c, format).latency_s : null;
  const lossOf = (c) => c ? c.loss : null;
  const most = (of) => Math.max(1e-12, ...picked.map(of), ...owns.map(of));
  const [longest, worst] = [most(latency), most(lossOf)];
  document.getElementById("bits-legend").replaceChildren("bits of weights: ", ...[...new Set(picked.flatMap((c) => [...c.bits, ...c.layers.flatMap((l) => l.convolutions.map((v) => v.bits)), c.layers.length || c.bits.length ? null : c.weight_bits]).filter((b) => b))].sort((a, b) => a - b).flatMap((b) => [bitsBadge(b), " "]));
  place.replaceChildren(...content.blocks.map((block, at) => element("div", { class: "block" },
    element("div", {}, element("h3", {}, block.name), element("div", { class: "shape" }, `${block.input_shape.join("×")} → ${block.output_shape.join("×")}`), element("div", { class: "small" }, picked[at].scheme)),
    element("div", { class: "layers" }, layerBoxes(picked[at])),
    element("div", {}, bar("latency", latency(picked[at]), latency(owns[at]), longest, seconds, COLORS.front[0]),
      bar("loss", lossOf(picked[at]), lossOf(owns[at]), worst, loss, COLORS.chosen)))));
}

function startDrawing() {
  if (!drawnSelect) return;
  drawnSelect.addEventListener("change", drawNetwork);
  listDrawn();
}

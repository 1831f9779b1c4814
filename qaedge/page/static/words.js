// What all parts of the page share: the data, how numbers are said, and how elements are made.
// Text from the data goes into the page as text alone (textContent), never as markup.
const content = JSON.parse(document.getElementById("content").textContent);
// Okabe and Ito's colors, told apart by color-blind people, too; every mark has a shape of its own besides.
const COLORS = { front: ["#0072b2", "#56b4e9", "#3b4a9c", "#6f8fa8"], chosen: "#d55e00", measured: "#009e73",
  teacher: "#222222", pins: ["#a8437f", "#8a6000"], line: "#b9c8d6" };
const BITS = { 2: "#a8437f", 3: "#8f4a1f", 4: "#a87400", 5: "#6b7a00", 6: "#00796b", 7: "#3b6fb5", 8: "#0072b2", 32: "#555555" };
// The buttons by name: the library's own choice has one that sends a chart to its makers.
const PLOT = { responsive: true, displaylogo: false, plotlyServerURL: "",
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]] };
const FONT = { family: "system-ui, DejaVu Sans, sans-serif", color: "#1c2733" };
const isNarrow = () => window.innerWidth < 640;

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) made.append(child);
  return made;
}

function seconds(value) {
  if (value === null || value === undefined) return "–";
  const rounded = Number(value.toPrecision(3));
  for (const [unit, scale] of [["s", 1], ["ms", 1e-3], ["us", 1e-6]])
    if (Math.abs(rounded) >= scale) return `${Number((rounded / scale).toPrecision(3))} ${unit}`;
  return `${Number((rounded / 1e-9).toPrecision(3))} ns`;
}

function bytes(value) {
  if (value === null || value === undefined) return "–";
  for (const [unit, scale] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]])
    if (Math.abs(value) >= scale) return `${(value / scale).toFixed(2)} ${unit}`;
  return `${Math.round(value)} B`;
}

const loss = (value) => value === null || value === undefined ? "–" : value >= 0.0001 || value === 0 ? value.toFixed(4) : value.toExponential(2);
const signed = (share) => `${share >= 0 ? "+" : "−"}${Math.abs(100 * share).toFixed(1)}\u00a0%`;

// Plotly reads a few tags and entities in its labels; what comes from files must stay text there, too.
const safe = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

const kindName = (network) => network.kind === null ? "not measured" : content.kinds[network.kind].name;
const candidatesOf = (network) => network.indices.map((at, block) => content.blocks[block].candidates[at]);
const candidateName = (candidate) => candidate.is_own ? "the teacher's own" : candidate.spec;
// A table of the costs of one kind of file; where a network has none, the first that was measured.
const formatOf = (network) => network.kind === null ? 0 : content.kinds[network.kind].format;
const costOf = (candidate, format) => candidate.costs[format] || null;
const same = (a, b) => a.kind === b.kind && a.indices.join() === b.indices.join();
const sum = (values) => values.reduce((total, value) => total + value, 0);

// Long names are broken where layers meet, so that a label fits on a telephone.
function broken(text, most) {
  const lines = [];
  for (const part of text.split(/(?<=\+)/)) {
    if (lines.length && lines[lines.length - 1].length + part.length <= most) lines[lines.length - 1] += part;
    else lines.push(part);
  }
  return lines;
}

// Everything that the front shows as a point: what it is, and where it lies.
function teacherNetwork(kind, at) {
  return { kind: at, indices: kind.own, latency_s: kind.teacher_latency_s, size_bytes: kind.teacher_size_bytes, loss: kind.teacher_loss };
}

const POINTS = [
  ...content.networks.map((network, at) => {
    const chosen = content.chosen.filter((c) => same(c.network, network)).map((c) => `, chosen: ${c.name}`);
    return { role: "front", label: `network ${at + 1}${chosen.join("")}`, network, at };
  }),
  ...content.kinds.map((kind, at) => ({ role: "teacher", label: `teacher (${kind.name}), measured`, network: teacherNetwork(kind, at) })),
  ...content.measured.map((m) => ({ role: "measured", label: `${m.name}, measured whole`, network: m.network, measured: m })),
  ...content.chosen.map((c) => ({ role: "chosen", label: `chosen: ${c.name}`, network: c.network, chosen: c })),
];

const AXES = {
  latency: { title: "latency [ms]", of: (p) => p.measured ? 1e3 * p.measured.measured_s : p.network.latency_s === null ? null : 1e3 * p.network.latency_s },
  size: { title: "size of the file [KiB]", of: (p) => p.measured ? p.measured.size_bytes / 1024 : p.network.size_bytes === null ? null : p.network.size_bytes / 1024 },
};

function hoverText(point) {
  const network = point.network;
  const most = isNarrow() ? 30 : 64;
  const latency = seconds(network.latency_s) + (network.error_s ? ` ± ${seconds(network.error_s)}` : "");
  const lines = [`<b>${safe(point.label)}</b>`, safe(kindName(network))];
  if (point.measured) lines.push(`measured ${seconds(point.measured.measured_s)} ± ${seconds(point.measured.error_s)}, predicted ${latency}`);
  else lines.push(latency);
  lines[lines.length - 1] += `, ${bytes(network.size_bytes)}, ${content.summed} ${loss(network.loss)}`;
  candidatesOf(network).forEach((candidate, at) => {
    broken(candidateName(candidate), most).forEach((part, line) => {
      const name = line ? "&nbsp;&nbsp;" : `${safe(content.blocks[at].name)}: `;
      lines.push(name + safe(part));
    });
    lines[lines.length - 1] += ` <i>${safe(candidate.scheme)}</i>`;
  });
  return lines.join("<br>");
}

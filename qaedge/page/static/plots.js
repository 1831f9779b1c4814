// The heat maps of candidates, and predicted against measured.
const heat = { order: "latency", format: 0 };
const heatPlot = document.getElementById("heat-plot");
const agreementPlot = document.getElementById("agreement-plot");

function ordered(block) {
  const last = (value) => value === null || value === undefined ? Infinity : value;
  const latency = (c) => last((costOf(c, heat.format) || {}).latency_s);
  const by = { latency: (a, b) => latency(a) - latency(b), loss: (a, b) => last(a.loss) - last(b.loss), space: () => 0 }[heat.order];
  return [...block.candidates].sort(by);
}

function heatCell(block, candidate, place) {
  const cost = costOf(candidate, heat.format);
  const lines = [`<b>${safe(block.name)}</b>, candidate ${block.candidates.indexOf(candidate)}, ${place + 1} in this order`,
    ...broken(candidateName(candidate), isNarrow() ? 30 : 64).map(safe), safe(candidate.scheme),
    `loss ${loss(candidate.loss)} (float ${loss(candidate.float_loss)})`,
    cost ? `${seconds(cost.latency_s)} ± ${seconds(cost.error_s)}, ${bytes(cost.size_bytes)}` : "not measured"];
  if (cost && cost.doubts.length) lines.push(`doubts: ${safe(cost.doubts.join(", "))}`);
  return lines.join("<br>");
}

function ownCost(block) {
  const kind = content.kinds.find((k) => k.format === heat.format);
  const own = block.candidates[kind ? kind.own[content.blocks.indexOf(block)] : 0];
  return costOf(own, heat.format);
}

function drawHeat() {
  const rows = content.blocks.map(ordered);
  const names = content.blocks.map((block) => safe(block.name));
  const columns = Math.max(...rows.map((row) => row.length));
  const x = Array.from({ length: columns }, (_, at) => at + 1);
  const texts = rows.map((row, b) => row.map((c, at) => heatCell(content.blocks[b], c, at)));
  const log = (value) => value === null || value === undefined || value <= 0 ? null : Math.log10(value);
  const maps = [];
  const losses = rows.map((row) => row.map((c) => log(c.loss)));
  if (losses.flat().some((v) => v !== null)) maps.push({ title: "block loss", z: losses, scale: "Cividis",
    ticks: [-4, -3, -2, -1, 0, 1], labels: ["0.0001", "0.001", "0.01", "0.1", "1", "10"] });
  if (content.formats.length) {
    const shares = rows.map((row, b) => row.map((c) => {
      const [cost, own] = [costOf(c, heat.format), ownCost(content.blocks[b])];
      return cost && own ? 100 * cost.latency_s / own.latency_s : null;
    }));
    if (shares.flat().some((v) => v !== null)) maps.push({ title: "latency, % of the teacher's own block", z: shares.map((row) => row.map(log)), scale: "Cividis",
      ticks: [3, 10, 30, 100, 300, 1000].map(Math.log10), labels: ["3", "10", "30", "100", "300", "1000"] });
  }
  const bits = rows.map((row) => row.map((c) => c.weight_bits));
  if (new Set(bits.flat()).size > 1) {
    const there = [...new Set(bits.flat())].sort((a, b) => a - b);
    maps.push({ title: "fewest bits of any layer's weights", z: bits.map((row) => row.map((b) => there.indexOf(b))), steps: there });
  }
  const narrow = isNarrow();
  const each = 1 / Math.max(1, maps.length);
  const gap = 0.075;
  const layout = { margin: { l: narrow ? 62 : 90, r: narrow ? 8 : 20, t: 26, b: 40 }, height: Math.max(220, maps.length * (content.blocks.length * 22 + 80)),
    paper_bgcolor: "#fff", plot_bgcolor: "#fff", annotations: [], font: { ...FONT, size: narrow ? 11 : 13 },
    hoverlabel: { align: "left", bgcolor: "#fff", bordercolor: "#5b6b7b", font: { size: narrow ? 10 : 12, color: "#1c2733" } }, showlegend: false, dragmode: narrow ? false : "zoom" };
  const traces = [];
  maps.forEach((map, at) => {
    const suffix = at ? String(at + 1) : "";
    const [top, bottom] = [1 - at * each, 1 - (at + 1) * each + gap];
    const colorbar = { len: top - bottom, lenmode: "fraction", y: (top + bottom) / 2, thickness: narrow ? 8 : 14, tickfont: { size: 10 }, outlinewidth: 0 };
    if (map.ticks) { colorbar.tickvals = map.ticks; colorbar.ticktext = map.labels; }
    const trace = { type: "heatmap", x, y: names, z: map.z, text: texts, hovertemplate: "%{text}<extra></extra>", colorscale: map.scale, reversescale: false,
      xaxis: `x${suffix}`, yaxis: `y${suffix}`, colorbar, xgap: narrow ? 0 : 1, ygap: 2, name: map.title };
    if (map.steps) {
      const count = map.steps.length;
      trace.colorscale = map.steps.flatMap((b, i) => [[i / count, BITS[b] || "#555"], [(i + 1) / count, BITS[b] || "#555"]]);
      Object.assign(trace, { zmin: -0.5, zmax: count - 0.5 });
      Object.assign(colorbar, { tickvals: map.steps.map((_, i) => i), ticktext: map.steps.map((b) => b === 32 ? "float" : `${b} bits`) });
    }
    traces.push(trace);
    const marked = content.chosen.filter((c) => c.network.kind === null || content.kinds[c.network.kind].format === heat.format || content.formats.length < 2);
    const cells = marked.flatMap((c) => c.network.indices.map((index, b) => [rows[b].indexOf(content.blocks[b].candidates[index]) + 1, names[b]]));
    if (cells.length) traces.push({ type: "scatter", mode: "markers", x: cells.map((c) => c[0]), y: cells.map((c) => c[1]), xaxis: `x${suffix}`, yaxis: `y${suffix}`,
      hoverinfo: "skip", marker: { symbol: "star", size: narrow ? 8 : 12, color: "#fff", line: { color: COLORS.chosen, width: narrow ? 1 : 1.5 } } });
    layout[`xaxis${suffix}`] = { domain: [0, 1], anchor: `y${suffix}`, range: [0.5, columns + 0.5], showgrid: false, zeroline: false, matches: at ? "x" : undefined,
      title: at === maps.length - 1 ? { text: { latency: "candidates, the fastest first", loss: "candidates, the least loss first", space: "candidates as in the space" }[heat.order] } : undefined };
    layout[`yaxis${suffix}`] = { domain: [bottom, top], autorange: "reversed", anchor: `x${suffix}`, showgrid: false, zeroline: false };
    layout.annotations.push({ text: `<b>${map.title}</b>${at ? "" : content.chosen.length ? " (stars: chosen)" : ""}`, xref: "paper", yref: "paper", x: 0, y: top, yanchor: "bottom", xanchor: "left", showarrow: false, font: { size: 12 } });
  });
  if (!maps.length) { heatPlot.replaceChildren(element("p", { class: "small" }, "No candidate has a row in any table yet.")); return null; }
  return Plotly.react(heatPlot, traces, layout, { ...PLOT, toImageButtonOptions: { format: "png", scale: 3, filename: "candidates" } });
}

function drawAgreement() {
  const narrow = isNarrow();
  const shown = content.measured.filter((m) => m.network.latency_s !== null);
  const values = shown.flatMap((m) => [m.measured_s, m.network.latency_s]).map((v) => 1e3 * v);
  const [low, high] = [0.92 * Math.min(...values), 1.05 * Math.max(...values)];
  const line = (k, name, dash, legend) => ({ type: "scatter", mode: "lines", x: [low, high], y: [k * low, k * high], line: { color: "#9aa7b3", width: k === 1 ? 1.5 : 1, dash }, hoverinfo: "skip", name, showlegend: legend });
  const traces = [line(1, "as measured", "solid", true), line(1.1, "10 % off", "dot", true), line(0.9, "10 % off", "dot", false)];
  content.kinds.forEach((kind, at) => {
    const mine = shown.filter((m) => m.network.kind === at);
    if (!mine.length) return;
    traces.push({ type: "scatter", mode: "markers", name: safe(kind.name), x: mine.map((m) => 1e3 * m.measured_s), y: mine.map((m) => 1e3 * m.network.latency_s),
      error_x: { type: "data", array: mine.map((m) => 1e3 * m.error_s), thickness: 1, width: 3 }, error_y: { type: "data", array: mine.map((m) => 1e3 * (m.network.error_s || 0)), thickness: 1, width: 3 },
      marker: { size: 10, color: [COLORS.front[0], COLORS.chosen, COLORS.measured, COLORS.pins[0]][at % 4], symbol: ["circle", "diamond", "square", "cross"][at % 4] },
      text: mine.map((m) => `<b>${safe(m.name)}</b><br>measured ${seconds(m.measured_s)} ± ${seconds(m.error_s)}<br>predicted ${seconds(m.network.latency_s)} ± ${seconds(m.network.error_s)}<br>off by ${signed(m.network.latency_s / m.measured_s - 1)}${m.is_fitted ? "<br>took part in the fit" : ""}${m.doubts.length ? `<br>doubts: ${safe(m.doubts.join(", "))}` : ""}`),
      hovertemplate: "%{text}<extra></extra>" });
  });
  const layout = { margin: { l: narrow ? 48 : 70, r: 12, t: 34, b: 50 }, hovermode: "closest", dragmode: narrow ? false : "zoom", font: { ...FONT, size: 13 },
    xaxis: { title: { text: "measured latency [ms]" }, gridcolor: "#e8edf1", zeroline: false, range: [low, high] },
    yaxis: { title: { text: "predicted latency [ms]" }, gridcolor: "#e8edf1", zeroline: false, range: [low, high] },
    hoverlabel: { align: "left", bgcolor: "#fff", bordercolor: "#5b6b7b", font: { color: "#1c2733" } }, legend: { x: 0.02, y: 0.98, bgcolor: "rgba(255,255,255,0.85)" } };
  return Plotly.react(agreementPlot, traces, layout, { ...PLOT, toImageButtonOptions: { format: "png", scale: 3, filename: "predicted-measured" } });
}

function startPlots() {
  if (agreementPlot) drawAgreement();
  const formats = document.getElementById("heat-format");
  formats.replaceChildren(...content.formats.map((name, at) => element("option", { value: at }, name)));
  formats.parentElement.hidden = content.formats.length < 2;
  formats.addEventListener("change", (event) => { heat.format = Number(event.target.value); drawHeat(); });
  document.getElementById("heat-order").addEventListener("change", (event) => { heat.order = event.target.value; drawHeat(); });
  drawHeat();
}

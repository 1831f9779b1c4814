// The front: every network that no other beats, the teacher, what was chosen and what was measured whole.
const front = { axis: "latency", scale: "log", pins: [] };
const frontPlot = document.getElementById("front-plot");

function frontPoints() {
  return (content.fronts[front.axis] || []).map((at) => POINTS[at]);
}

function trace(points, name, marker, more) {
  const axis = AXES[front.axis];
  const shown = points.filter((p) => axis.of(p) !== null && p.network.loss !== null);
  return { type: "scatter", mode: "markers", name, x: shown.map(axis.of), y: shown.map((p) => p.network.loss),
    text: shown.map(hoverText), customdata: shown.map((p) => POINTS.indexOf(p)), hovertemplate: "%{text}<extra></extra>", marker, ...more };
}

function frontTraces() {
  const points = frontPoints();
  const axis = AXES[front.axis];
  const traces = [{ type: "scatter", mode: "lines", x: points.map(axis.of), y: points.map((p) => p.network.loss),
    line: { shape: "hv", color: COLORS.line, width: 1.5 }, hoverinfo: "skip", showlegend: false, name: "front" }];
  const there = content.kinds.map((_, at) => at).filter((at) => points.some((p) => p.network.kind === at));
  there.forEach((at, place) => {
    const mine = points.filter((p) => p.network.kind === at);
    traces.push(trace(mine, `front: ${mine.length} as ${safe(content.kinds[at].name)}`, { size: mine.length > 300 ? 6 : 8, color: COLORS.front[place % COLORS.front.length] }));
  });
  const of = (role) => POINTS.filter((p) => p.role === role);
  traces.push(trace(of("teacher"), "teacher, measured", { symbol: "square", size: 12, color: COLORS.teacher, line: { color: "#fff", width: 1 } }));
  traces.push(trace(of("measured"), front.axis === "latency" ? "measured whole, at its time" : "measured whole", { symbol: "diamond", size: 12, color: COLORS.measured, line: { color: "#fff", width: 1 } }));
  traces.push(trace(of("chosen"), "chosen, predicted", { symbol: "star", size: 17, color: COLORS.chosen, line: { color: "#fff", width: 1 } }));
  // Where marks overlap, the library takes the smallest: small ones that nobody sees stand for the large ones.
  traces.push(trace(["teacher", "measured", "chosen"].flatMap(of), "marks", { size: 4, opacity: 0 }, { showlegend: false }));
  front.pins.forEach((point, at) => {
    traces.push({ ...trace([point], `pinned ${"AB"[at]}`, { symbol: "circle-open", size: 22, color: COLORS.pins[at], line: { width: 3 } }), hoverinfo: "skip", hovertemplate: undefined });
  });
  return traces.filter((t) => t.x.length);
}

// Limits of what was chosen: where each lies on the axis, and how it is said.
function limits() {
  const [scale, say] = front.axis === "latency" ? [1e3, seconds] : [1 / 1024, bytes];
  const values = [...new Set(content.chosen.map((c) => c.limits[front.axis]).filter((value) => value))];
  return values.map((value) => ({ x: value * scale, text: `limit ${say(value)}` }));
}

const limitLines = () => limits().map(({ x }) => ({ type: "line", yref: "paper", y0: 0, y1: 1, x0: x, x1: x, line: { color: "#777", width: 1.5, dash: "dash" } }));
const limitNames = () => limits().map(({ x, text }) => ({ x, yref: "paper", y: 0.01, yanchor: "bottom", xanchor: "right", text, textangle: -90, showarrow: false, font: { size: 11, color: "#555" } }));

// 1, 2 and 5 of each power of ten, written out.
function lossTicks() {
  if (front.scale !== "log") return {};
  const values = [-6, -5, -4, -3, -2, -1, 0, 1, 2, 3].flatMap((e) => [1, 2, 5].map((k) => Number(`${k}e${e}`)));
  return { tickmode: "array", tickvals: values, ticktext: values.map(String) };
}

function drawFront() {
  const narrow = isNarrow();
  const layout = { margin: { l: narrow ? 52 : 70, r: 12, t: 34, b: 50 }, hovermode: "closest", dragmode: narrow ? false : "zoom", paper_bgcolor: "#fff", plot_bgcolor: "#fff",
    hoverlabel: { align: "left", bgcolor: "#fff", bordercolor: "#5b6b7b", font: { size: narrow ? 10 : 12, color: "#1c2733" }, namelength: -1 },
    xaxis: { title: { text: `${front.axis === "latency" ? "predicted " : ""}${AXES[front.axis].title}` }, gridcolor: "#e8edf1", zeroline: false },
    yaxis: { title: { text: narrow ? content.summed : `summed ${content.summed} (0: a copy of the teacher)` }, type: front.scale, gridcolor: "#e8edf1", zeroline: false, ...lossTicks() },
    legend: narrow ? { orientation: "h", y: -0.24, font: { size: 11 } } : { x: 1, xanchor: "right", y: 1, bgcolor: "rgba(255,255,255,0.85)" },
    shapes: limitLines(), annotations: limitNames(), font: { ...FONT, size: 13 } };
  if (narrow) layout.margin.b = 170;
  const config = { ...PLOT, toImageButtonOptions: { format: "png", scale: 3, filename: `front-${front.axis}` } };
  return Plotly.react(frontPlot, frontTraces(), layout, config);
}

function pin(point) {
  const at = front.pins.findIndex((each) => each === point);
  if (at >= 0) front.pins.splice(at, 1);
  else if (front.pins.length < 2) front.pins.push(point);
  else front.pins[1] = point;
  pinsChanged();
}

function clearPins() {
  if (!front.pins.length) return;
  front.pins = [];
  pinsChanged();
}

function pinsChanged() {
  drawFront();
  drawPinned();
  listDrawn();
}

function startFront() {
  if (!frontPlot) return;
  drawFront().then(() => {
    frontPlot.on("plotly_click", (event) => {
      const hit = event.points.find((p) => p.customdata !== undefined);
      if (hit) pin(POINTS[hit.customdata]);
    });
  });
  document.getElementById("front-axis").addEventListener("change", (event) => { front.axis = event.target.value; drawFront(); });
  document.getElementById("front-scale").addEventListener("change", (event) => { front.scale = event.target.value; drawFront(); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") clearPins(); });
  drawPinned();
}

// Tables that sort by any column, and that are saved as CSV or JSON without a server.
const FIRST_ROWS = 60;

function save(name, type, text) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// A spreadsheet takes text that begins like a formula for one: an apostrophe keeps it text.
function csvCell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "string") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}

function csv(columns, rows) {
  const lines = [columns.map((c) => csvCell(c.key)), ...rows.map((row) => columns.map((c) => csvCell(row[c.key])))];
  return lines.map((cells) => cells.join(",")).join("\r\n") + "\r\n";
}

// columns: { key, title, say } - `say` prints a number, and its lack means text; rows: plain objects by key.
function sortable(name, title, columns, rows, button) {
  const state = { by: null, down: false, all: false };
  const body = element("tbody", {});
  const more = element("button", { type: "button", onclick: () => { state.all = true; fill(); } }, `Show all ${rows.length}`);
  const sorted = () => {
    if (!state.by) return rows;
    const value = (row) => row[state.by];
    return [...rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return state.down ? -order : order;
    });
  };
  const cell = (column, row) => element("td", { class: column.say ? "number" : "mono" }, column.say ? column.say(row[column.key]) : row[column.key] === null ? "–" : String(row[column.key]));
  const fill = () => {
    const shown = state.all ? sorted() : sorted().slice(0, FIRST_ROWS);
    body.replaceChildren(...shown.map((row) => element("tr", {}, button ? element("td", {}, button(row)) : null, columns.map((c) => cell(c, row)))));
    more.hidden = state.all || rows.length <= FIRST_ROWS;
  };
  const heads = columns.map((column) => {
    const head = element("th", { class: column.say ? "number" : "", scope: "col", "aria-sort": "none" });
    head.append(element("button", { type: "button", onclick: () => {
      state.down = state.by === column.key ? !state.down : false;
      state.by = column.key;
      heads.forEach((h) => h.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      fill();
    } }, column.title));
    return head;
  });
  const plain = () => sorted().map((row) => Object.fromEntries(columns.map((c) => [c.key, row[c.key] === undefined ? null : row[c.key]])));
  fill();
  return element("div", { id: `table-${name}` },
    element("div", { class: "table-head" }, element("h3", {}, `${title} (${rows.length})`),
      element("button", { type: "button", "data-export": "csv", onclick: () => save(`${name}.csv`, "text/csv;charset=utf-8", csv(columns, sorted())) }, "Export CSV"),
      element("button", { type: "button", "data-export": "json", onclick: () => save(`${name}.json`, "application/json", JSON.stringify(plain(), null, 2)) }, "Export JSON"), more),
    element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, element("table", {}, element("thead", {}, element("tr", {}, button ? element("th", {}, "") : null, heads)), body)));
}

const COSTS = [{ key: "latency_s", title: "latency", say: seconds }, { key: "size_bytes", title: "size", say: bytes }, { key: "loss", title: content.summed, say: loss }];
const blockKeys = () => content.blocks.map((block) => ({ key: `block ${block.name}`, title: block.name }));
const blockCells = (network) => Object.fromEntries(candidatesOf(network).map((c, at) => [`block ${content.blocks[at].name}`, `${c.is_own ? "own" : c.spec}@${c.scheme}`]));

function frontRows() {
  const onLatency = new Set(content.fronts.latency);
  const onSize = new Set(content.fronts.size);
  return content.networks.map((network, at) => ({ network: at + 1, front: [onLatency.has(at) ? "latency" : "", onSize.has(at) ? "size" : ""].filter((t) => t).join(" and "),
    file: kindName(network), latency_s: network.latency_s, size_bytes: network.size_bytes, loss: network.loss, ...blockCells(network) }));
}

function candidateRows() {
  return content.blocks.flatMap((block) => block.candidates.map((c, at) => {
    const row = { block: block.name, place: at, candidate: c.is_own ? "own" : c.spec, scheme: c.scheme, loss: c.loss, float_loss: c.float_loss };
    content.formats.forEach((format, i) => {
      const cost = c.costs[i];
      Object.assign(row, { [`${format}_latency_s`]: cost ? cost.latency_s : null, [`${format}_error_s`]: cost ? cost.error_s : null, [`${format}_size_bytes`]: cost ? cost.size_bytes : null, [`${format}_doubts`]: cost ? cost.doubts.join(" ") : null });
    });
    return row;
  }));
}

function startTables() {
  const place = document.getElementById("all-tables");
  if (content.networks.length) {
    const columns = [{ key: "network", title: "network", say: String }, { key: "front", title: "front over" }, { key: "file", title: "file" }, ...COSTS, ...blockKeys()];
    place.append(sortable("front", "Networks on a front", columns, frontRows(), (row) => element("button", { type: "button", "aria-label": `Pin network ${row.network}`, onclick: () => pin(POINTS[row.network - 1]) }, "pin")));
  }
  const formats = content.formats.flatMap((name) => [{ key: `${name}_latency_s`, title: `${name} latency`, say: seconds }, { key: `${name}_error_s`, title: "± error", say: seconds },
    { key: `${name}_size_bytes`, title: `${name} size`, say: bytes }, { key: `${name}_doubts`, title: `${name} doubts` }]);
  place.append(sortable("candidates", "Candidates", [{ key: "block", title: "block" }, { key: "place", title: "place", say: String }, { key: "candidate", title: "candidate" }, { key: "scheme", title: "scheme" },
    { key: "loss", title: "loss", say: loss }, { key: "float_loss", title: "float loss", say: loss }, ...formats], candidateRows()));
  if (content.measured.length) {
    const share = (value) => value === null ? "–" : signed(value);
    const rows = content.measured.map((m) => ({ network: m.name, file: kindName(m.network), measured_s: m.measured_s, measured_error_s: m.error_s, predicted_s: m.network.latency_s, predicted_error_s: m.network.error_s === undefined ? null : m.network.error_s,
      off: m.network.latency_s === null ? null : m.network.latency_s / m.measured_s - 1, size_bytes: m.size_bytes, loss: m.network.loss, fitted: m.is_fitted ? "yes" : "no", doubts: m.doubts.join(" "), ...blockCells(m.network) }));
    place.append(sortable("measured", "Networks measured whole", [{ key: "network", title: "network" }, { key: "file", title: "file" }, { key: "measured_s", title: "measured", say: seconds }, { key: "measured_error_s", title: "± error", say: seconds },
      { key: "predicted_s", title: "predicted", say: seconds }, { key: "predicted_error_s", title: "± error", say: seconds }, { key: "off", title: "off by", say: share }, { key: "size_bytes", title: "size", say: bytes }, { key: "loss", title: "loss", say: loss },
      { key: "fitted", title: "in the fit" }, { key: "doubts", title: "doubts" }, ...blockKeys()], rows));
  }
}

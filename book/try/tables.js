/** Tables 1 and 3 of the paper beside what was measured in this browser; quoted and measured values never look alike. */

import { medianInterval } from "./stats.js";

/** @typedef {import("./stats.js").Timing} Timing */

/** @param {string} kind @param {string} text @param {string} title */
function value(kind, text, title) {
  const span = Object.assign(document.createElement("span"), { className: `value kind-${kind}`, title });
  if (kind === "measured") {
    const mark = Object.assign(document.createElement("span"), { textContent: "■ " });
    mark.setAttribute("aria-hidden", "true");
    span.append(mark, Object.assign(document.createElement("span"), { className: "try-unseen", textContent: "measured: " }));
  }
  span.append(text);
  return span;
}

/** @param {string} heading @param {(Node | string)[]} cells */
function row(heading, cells) {
  const line = document.createElement("tr");
  line.append(Object.assign(document.createElement("th"), { scope: "row", textContent: heading }));
  for (const cell of cells) {
    const td = document.createElement("td");
    td.append(cell);
    line.append(td);
  }
  return line;
}

/** @param {HTMLTableElement} table @param {string[]} headings @param {HTMLTableRowElement[]} rows */
function fill(table, headings, rows) {
  const head = document.createElement("tr");
  for (const heading of headings) {
    head.append(Object.assign(document.createElement("th"), { scope: "col", textContent: heading }));
  }
  /** @type {HTMLTableSectionElement} */ (table.tHead).replaceChildren(head);
  table.tBodies[0].replaceChildren(...rows);
}

/** @param {HTMLTableElement} table3 @param {HTMLTableElement} table1 @param {any} manifest */
export function showPaper(table3, table1, manifest) {
  showMeasured(table3, table1, [], manifest);
}

/**
 * @param {HTMLTableElement} table3
 * @param {HTMLTableElement} table1
 * @param {Timing[]} timings
 * @param {any} manifest
 */
export function showMeasured(table3, table1, timings, manifest) {
  const ways = [{ backend: "wasm", threads: 1 }];
  for (const { backend, threads } of timings) {
    if (!ways.some((way) => way.backend === backend && way.threads === threads)) ways.push({ backend, threads });
  }
  const names = ways.map(({ backend, threads }) =>
    backend === "webgpu" ? "here, WebGPU" : `here, ${threads} thread${threads > 1 ? "s" : ""}`,
  );
  const cells = (/** @type {string} */ subject, /** @type {typeof ways} */ shown) =>
    shown.map((way) => {
      const found = timings.find(
        (timing) => timing.subject === subject && timing.backend === way.backend && timing.threads === way.threads,
      );
      if (!found) return "–";
      const { median, low, high } = medianInterval(found.samples);
      return value("measured", milliseconds(median), `median of ${found.samples.length}, ${low.toFixed(2)} to ${high.toFixed(2)} ms`);
    });
  const quoted = (/** @type {string} */ text) => value("quoted", `“${text} ms”`, "quoted from the paper");
  fill(
    table3,
    ["INT8, 640×360 to 1080p", "paper, CPU", "paper, GPU", "paper, NNAPI", ...names],
    manifest.timed.networks.map((/** @type {any} */ one) =>
      row(one.label, [...one.paper.map(quoted), ...cells(one.subject, ways)]),
    ),
  );
  const onCpu = ways.filter(({ backend }) => backend === "wasm");
  fill(
    table1,
    ["INT8 node", "paper, NPU", ...names.filter((_, n) => ways[n].backend === "wasm")],
    manifest.timed.nodes.map((/** @type {any} */ one) => row(one.label, [quoted(one.paper), ...cells(one.subject, onCpu)])),
  );
}

/** @param {number} value */
function milliseconds(value) {
  return `${value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : value.toFixed(0)} ms`;
}

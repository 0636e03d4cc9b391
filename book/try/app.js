/**
 * The page Try it on your device: what its buttons do. Everything heavy happens in a worker that is started when the
 * reader first asks for something; until then neither LiteRT nor a model is loaded.
 */

import { Jobs } from "./jobs.js";
import { records } from "./stats.js";
import { showMeasured, showPaper } from "./tables.js";
import { View } from "./view.js";

/**
 * @typedef {import("./work.js").Method} Method
 * @typedef {import("./stats.js").Timing} Timing
 */

/** @param {string} name of a `data-try` element @returns {any} */
const part = (name) => document.querySelector(`[data-try="${name}"]`);

/** @param {string} prefix of the names of the elements that show how a job is doing */
const jobsShownBy = (prefix) =>
  new Jobs({
    progress: part(`${prefix}progress`),
    cancel: part(`${prefix}cancel`),
    status: part(`${prefix}status`),
    error: part(`${prefix}error`),
  });
const jobs = jobsShownBy("");
const measuring = jobsShownBy("measure-");
const view = new View(part("view"));

/** Image pixels of the result that a device can hold: its memory in GB where the browser tells it, else a phone's. */
const MAX_RESULT = 8.4e6 * /** @type {any} */ ((navigator).deviceMemory ?? 4);
const SCALE = 3;

/** @type {any} */
let manifest = null;
/** @type {Map<Method, import("./view.js").Version & {scores: {psnr: number, ssim: number} | null, seconds: number}>} */
let versions = new Map();
/** @type {{name: string, file?: File, example?: string} | null} */
let source = null;
let shrunk = false; // what is shown was shrunk first

/** The list of what lies beside the page, loaded at the reader's first wish. */
async function loadManifest() {
  if (manifest) return;
  try {
    const response = await fetch(new URL("manifest.json", import.meta.url), { cache: "no-cache" });
    if (!response.ok) throw new Error(String(response.status));
    manifest = await response.json();
  } catch {
    throw new Error("The list of models could not be loaded: check the connection and try again.");
  }
}

// Try it ------------------------------------------------------------------------------------------------------------

/** @param {{name: string, file?: File, example?: string}} chosen */
async function open(chosen) {
  const shrink = part("shrink").checked;
  await jobs.guard(async () => {
    await loadManifest();
    const maxPixels = Math.floor(shrink ? MAX_RESULT : MAX_RESULT / SCALE ** 2);
    const url = manifest.examples.find((/** @type {any} */ example) => example.name === chosen.example);
    const image = await jobs.run({ type: "open", file: chosen.file, url, shrink, maxPixels });
    forgetVersions();
    [source, shrunk] = [chosen, shrink];
    part("shrink-again").hidden = true;
    part("facts").textContent =
      `${chosen.name}: ${image.width}×${image.height} pixels${shrink ? " after shrinking" : ""}, ` +
      `enlarged to ${image.width * SCALE}×${image.height * SCALE}.`;
    await enlarge(new Set([selected("left"), selected("right")]));
    part("result").hidden = false;
    view.fit();
    part("result").scrollIntoView({ block: "nearest" });
  });
}

/** @param {"left" | "right"} side @returns {Method} */
const selected = (side) => part(side).value;

/** @param {Iterable<Method>} methods */
async function enlarge(methods) {
  for (const method of methods) {
    if (versions.has(method)) continue;
    const result = await jobs.run({ type: "enlarge", method, manifest });
    const label = method === "bicubic" ? "Bicubic" : manifest.models[method].label;
    versions.set(method, { ...result, label });
    part("result").hidden = false;
    refresh();
  }
}

function forgetVersions() {
  for (const version of versions.values()) version.strips.forEach((strip) => strip.close());
  versions = new Map();
  view.show(null, null);
  part("result").hidden = true;
}

function refresh() {
  view.show(versions.get(selected("left")) ?? null, versions.get(selected("right")) ?? null);
  const rows = [...versions].map(([method, version]) => {
    const row = document.createElement("tr");
    const heading = document.createElement("th");
    heading.scope = "row";
    heading.textContent = version.label;
    const scores = version.scores;
    const cells = [
      scores ? `${Number.isFinite(scores.psnr) ? scores.psnr.toFixed(2) : "∞"} dB` : "–",
      scores ? (Number.isNaN(scores.ssim) ? "–" : scores.ssim.toFixed(4)) : "–",
      method === "bicubic" ? "–" : `${version.seconds.toFixed(1)} s`,
    ].map((text) => Object.assign(document.createElement("td"), { textContent: text }));
    const save = document.createElement("td");
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Save PNG" });
    button.setAttribute("aria-label", `Save the ${version.label} version as PNG`);
    button.addEventListener("click", () => savePng(method));
    save.append(button);
    row.append(heading, save, ...cells);
    return row;
  });
  part("scores").replaceChildren(...rows);
  part("scored").textContent = shrunk
    ? "PSNR and SSIM against your original, in RGB, one border pixel cropped. More is better."
    : "To see scores, tick “Shrink it first” and open the image again.";
}

/** @param {Method} method */
async function savePng(method) {
  await jobs.guard(async () => {
    const blob = await jobs.run({ type: "png", method });
    const stem = source?.name.replace(/\.[^.]*$/, "") ?? "image";
    save(blob, `${stem}-${method}-x${SCALE}.png`);
  });
}

/** @param {Blob} blob @param {string} name */
function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

part("file").addEventListener("change", () => {
  const [file] = part("file").files;
  part("file").value = ""; // so that the same file can be chosen again
  if (file) open({ name: file.name, file });
});
for (const button of document.querySelectorAll("[data-example]")) {
  const example = /** @type {HTMLElement} */ (button).dataset.example;
  button.addEventListener("click", () => open({ name: `${example}.png`, example }));
}
part("shrink").addEventListener("change", () => {
  part("shrink-again").hidden = !source || part("shrink").checked === shrunk;
});
part("shrink-again").addEventListener("click", () => source && open(source));
for (const side of /** @type {const} */ (["left", "right"])) {
  part(side).addEventListener("change", async () => {
    await jobs.guard(() => enlarge([selected(side)]));
    // After a cancel the version may not be there: the select goes back to one that is.
    if (!versions.has(selected(side)) && versions.size) part(side).value = [...versions.keys()].pop();
    refresh();
  });
}
const drop = part("drop");
for (const type of ["dragenter", "dragover"]) {
  drop.addEventListener(type, (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
for (const type of ["dragleave", "drop"]) drop.addEventListener(type, () => drop.classList.remove("over"));
drop.addEventListener("drop", (/** @type {DragEvent} */ event) => {
  event.preventDefault();
  const file = event.dataTransfer?.files[0];
  if (file) open({ name: file.name, file });
  else jobs.fail("What you dropped is not a file: drop an image file, or choose one.");
});
part("zoom-in").addEventListener("click", () => view.zoomIn());
part("zoom-out").addEventListener("click", () => view.zoomOut());
part("zoom-fit").addEventListener("click", () => view.fit());
part("zoom-one").addEventListener("click", () => view.setZoom(1));

// Measure it --------------------------------------------------------------------------------------------------------

/** @type {Timing[]} */
let timings = [];
/** @type {string[]} */
let notes = [];

async function measure() {
  timings = [];
  notes = [];
  await measuring.guard(async () => {
    await loadManifest();
    part("measured").hidden = false;
    showPaper(part("table3"), part("table1"), manifest);
    const threads = globalThis.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;
    await measureWith(1, false);
    if (threads > 1) {
      // A worker holds one build of LiteRT: the threaded one gets a worker of its own.
      measuring.restart();
      await measureWith(threads, false);
      measuring.restart();
    }
    await measureWith(1, true);
  });
  measuring.restart(); // gives its memory back
  part("save-record").hidden = !timings.length;
}

/** @param {number} threads @param {boolean} webgpu */
async function measureWith(threads, webgpu) {
  if (webgpu && !("gpu" in navigator)) {
    notes.push("This browser has no WebGPU, so that column stays empty.");
    part("notes").textContent = notes.join(" ");
    return;
  }
  await measuring.run({ type: "measure", manifest, threads, webgpu }, (given) => {
    timings.push(...(given.timings ?? []));
    if (given.note) notes.push(given.note);
    part("notes").textContent = notes.join(" ");
    showMeasured(part("table3"), part("table1"), timings, manifest);
    part("save-record").hidden = !timings.length;
  });
}

/** The GPU's name, as far as the browser tells it. */
async function gpuName() {
  try {
    const info = (await /** @type {any} */ (navigator).gpu?.requestAdapter())?.info;
    return [info?.vendor, info?.architecture].filter(Boolean).join(" ");
  } catch {
    return "";
  }
}

part("measure").addEventListener("click", measure);
part("save-record").addEventListener("click", async () => {
  const where = {
    userAgent: navigator.userAgent,
    cores: navigator.hardwareConcurrency || 1,
    gpu: await gpuName(),
    date: new Date().toISOString().slice(0, 10),
  };
  const text = JSON.stringify(records(timings, manifest, where), null, 1);
  save(new Blob([`${text}\n`], { type: "application/json" }), "abpn-browser.json");
});

part("threads").hidden = globalThis.crossOriginIsolated || !("serviceWorker" in navigator);
part("threads").addEventListener("click", () =>
  measuring.guard(async () => {
    try {
      // It stands above this folder, since it must reach the page as well.
      await navigator.serviceWorker.register(new URL("../try-threads.js", import.meta.url), {
        scope: new URL("../try", import.meta.url).pathname,
      });
      await navigator.serviceWorker.ready;
    } catch {
      throw new Error("This browser does not allow several threads here; one thread works all the same.");
    }
    location.reload();
  }),
);

document.documentElement.dataset.tryReady = "yes";

/**
 * The page Try it on your device: what its buttons do. Everything heavy happens in a worker that is started when the
 * reader first asks for something; until then neither LiteRT nor a model is loaded.
 */

import { COLOURS } from "./difference.js";
import { Jobs } from "./jobs.js";
import { records } from "./stats.js";
import { showMeasured, showPaper } from "./tables.js";
import { View } from "./view.js";
import { Yours } from "./yours.js";

/**
 * @typedef {import("./stats.js").Timing} Timing
 * @typedef {import("./view.js").Version & {jobs: Jobs, method: string, scale: number,
 *   scores: {psnr: number, ssim: number} | null, seconds: number, maps: Map<string, import("./view.js").Version>}} Made
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
jobs.lost = () => forgetVersions();
const measuring = jobsShownBy("measure-");
const view = new View(part("view"));

/** Image pixels of the result that a device can hold: its memory in GB where the browser tells it, else a phone's. */
const MAX_RESULT = 8.4e6 * /** @type {any} */ ((navigator).deviceMemory ?? 4);
const SCALE = 3; // of the page's own models
/** What a version is compared with, and the levels at which the map's last colour stands. @type {Record<string, {text: string, top: number}>} */
const COMPARED = {
  float: { text: "the same network in float32", top: 8 },
  original: { text: "your original", top: 32 },
};

/** @type {any} */
let manifest = null;
/** @type {Map<string, Made>} */
let versions = new Map();
/** @type {{name: string, file?: File, example?: string} | null} */
let source = null;
let shrunk = false; // what is shown was shrunk first
const yours = new Yours(part, () => jobsShownBy(""), () => forgetVersions(isYours));

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

/** A file is an image or a model: its first bytes tell. @param {File} file */
async function take(file) {
  const mark = await file.slice(4, 8).text().catch(() => "");
  if (mark === "TFL3" || /\.tflite$/i.test(file.name)) await openModel(file);
  else await open({ name: file.name, file });
}

/** @param {{name: string, file?: File, example?: string}} chosen */
async function open(chosen) {
  let bad = true;
  await jobs.guard(async () => {
    const shrink = part("shrink").checked;
    await loadManifest();
    const image = await openIn(jobs, chosen, shrink, SCALE);
    bad = false;
    forgetVersions();
    yours.opened = false;
    [source, shrunk] = [chosen, shrink];
    part("shrink-again").hidden = true;
    part("facts").textContent = `${chosen.name}: ${image.width}×${image.height} pixels${shrink ? " after shrinking" : ""}.`;
    part("show").querySelector("[value=original]").disabled = !shrink;
    if (!shrink && part("show").value === "original") part("show").value = "picture";
    await showSelected();
    view.fit();
    part("result").scrollIntoView({ block: "nearest" });
  });
  if (bad && !Jobs.busy && versions.size && source) part("status").textContent = `Below is still ${source.name}.`;
}

/**
 * @param {Jobs} worker
 * @param {{name: string, file?: File, example?: string}} chosen
 * @param {boolean} shrink
 * @param {number} scale
 */
async function openIn(worker, chosen, shrink, scale) {
  const url = manifest.examples.find((/** @type {any} */ example) => example.name === chosen.example);
  const maxPixels = Math.floor(shrink ? MAX_RESULT : MAX_RESULT / scale ** 2);
  try {
    return await worker.run({ type: "open", file: chosen.file, url, shrink, maxPixels, scale });
  } catch (error) {
    if (chosen.file && error instanceof Error) error.message = `${chosen.name}: ${error.message}`;
    throw error;
  }
}

/** Take a reader's model, and show it beside ABPN, or beside bicubic of its own scale. @param {File} file */
async function openModel(file) {
  await jobs.guard(async () => {
    await loadManifest();
    await yours.take(file, manifest);
    part("left").value = "abpn";
    await showYours();
  });
}

/** A picture and a score of a model that was taken or is to be read in another way. */
async function showYours() {
  forgetVersions(isYours);
  offer("yours", yours.label);
  offer("yours-bicubic", yours.scale === SCALE ? "" : `Bicubic, ×${yours.scale}`);
  if (!source) {
    // Without an image of the reader's, one of the page's own.
    const chosen = { name: "cat.png", example: "cat" };
    await openIn(jobs, chosen, true, SCALE);
    [source, shrunk] = [chosen, true];
    part("shrink").checked = true;
    part("show").querySelector("[value=original]").disabled = false;
    part("facts").textContent = "cat.png, shrunk first.";
  }
  part("right").value = "yours";
  if (yours.scale !== SCALE) part("left").value = "yours-bicubic";
  await showSelected();
  await yours.score();
}

/** @param {string} value @param {string} label of an option for both sides; "" takes it away */
function offer(value, label) {
  for (const side of ["left", "right"]) {
    const found = part(side).querySelector(`option[value=${value}]`) ?? Object.assign(document.createElement("option"), { value });
    found.textContent = label;
    if (label) part(side).append(found);
    else found.remove();
  }
}

/** @param {string} name of a version */
const isYours = (name) => name.startsWith("yours");

/** @param {"left" | "right"} side @returns {string} */
const selected = (side) => part(side).value;

/** Make what the selects name, as far as it is not there, and show it. */
async function showSelected() {
  for (const name of new Set([selected("left"), selected("right")])) if (!versions.has(name)) await enlarge(name);
  const from = part("show").value;
  if (from !== "picture") for (const side of /** @type {const} */ (["left", "right"])) await compare(selected(side), from);
  refresh();
}

/** @param {string} name of a version */
async function enlarge(name) {
  const guest = isYours(name);
  const worker = guest ? await yours.ready() : jobs;
  const scale = guest ? yours.scale : SCALE;
  if (guest && !yours.opened) {
    await openIn(worker, /** @type {NonNullable<typeof source>} */ (source), shrunk, scale);
    yours.opened = true;
  }
  const method = name === "yours-bicubic" ? "bicubic" : name;
  const result = await worker.run({ type: "enlarge", method, manifest });
  const label = guest ? (name === "yours" ? yours.label : `Bicubic, ×${scale}`) : (manifest.models[name]?.label ?? "Bicubic");
  versions.set(name, { ...result, label, jobs: worker, method, scale, maps: new Map() });
  part("result").hidden = false;
  refresh();
}

/** Where a version differs from another. @param {string} name @param {string} from a key of `COMPARED` */
async function compare(name, from) {
  const version = versions.get(name);
  if (!version || version.maps.has(from)) return;
  const { top } = COMPARED[from];
  if (from === "float" && !manifest.models[name]?.twin) {
    version.maps.set(from, { ...version, strips: [], label: `${version.label}: no float32 form here` });
    return;
  }
  const map = await version.jobs.run({ type: "difference", method: version.method, from, top, manifest });
  version.maps.set(from, { ...map, label: `${version.label}: off by ${map.mean.toFixed(2)} levels` });
}

/** @param {(name: string) => boolean} [which] all if not given */
function forgetVersions(which = () => true) {
  for (const [name, version] of versions) {
    if (!which(name)) continue;
    for (const { strips } of [version, ...version.maps.values()]) strips.forEach((strip) => strip.close());
    versions.delete(name);
  }
  refresh();
  part("result").hidden = !versions.size;
}

function refresh() {
  const from = part("show").value;
  const shown = (/** @type {"left" | "right"} */ side) => {
    const version = versions.get(selected(side));
    return (from === "picture" ? version : version?.maps.get(from)) ?? null;
  };
  view.show(shown("left"), shown("right"));
  showLegend(from);
  part("scores").replaceChildren(...[...versions].map(([name, version]) => scoresOf(name, version)));
  part("scored").textContent = shrunk
    ? "PSNR and SSIM against your original, in RGB, one border pixel cropped. More is better."
    : "To see scores, tick “Shrink it first” and open the image again.";
}

/** @param {string} from */
function showLegend(from) {
  part("legend").hidden = from === "picture";
  if (from === "picture") return;
  const { text, top } = COMPARED[from];
  part("legend-bar").style.background = `linear-gradient(to right, ${COLOURS.map((rgb) => `rgb(${rgb.join(" ")})`).join(", ")})`;
  part("legend-ticks").replaceChildren(
    ...[0, top / 4, top / 2, (3 * top) / 4, `${top} or more`].map((tick) =>
      Object.assign(document.createElement("span"), { textContent: String(tick) }),
    ),
  );
  part("legend-text").textContent = `How far each pixel is from ${text}, in levels of 255 (the mean of the three colours). The number is its mean over the picture.`;
}

/** @param {string} name @param {Made} version */
function scoresOf(name, version) {
  const row = document.createElement("tr");
  const heading = Object.assign(document.createElement("th"), { scope: "row", textContent: version.label });
  const { scores } = version;
  const cells = [
    scores ? `${Number.isFinite(scores.psnr) ? scores.psnr.toFixed(2) : "∞"} dB` : "–",
    scores ? (Number.isNaN(scores.ssim) ? "–" : scores.ssim.toFixed(4)) : "–",
    version.method === "bicubic" ? "–" : `${version.seconds.toFixed(1)} s`,
  ].map((textContent) => Object.assign(document.createElement("td"), { textContent }));
  const save = document.createElement("td");
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Save PNG" });
  button.setAttribute("aria-label", `Save PNG of the ${version.label} version`);
  button.addEventListener("click", () => savePng(name, version));
  save.append(button);
  row.append(heading, save, ...cells);
  return row;
}

/** @param {string} name @param {Made} version */
async function savePng(name, version) {
  await jobs.guard(async () => {
    const blob = await version.jobs.run({ type: "png", method: version.method });
    const stem = source?.name.replace(/\.[^.]*$/, "") ?? "image";
    save(blob, `${stem}-${name}-x${version.scale}.png`);
  });
}

/** @param {Blob} blob @param {string} name */
function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

for (const input of [part("file"), part("model")]) {
  input.addEventListener("change", () => {
    const [file] = input.files;
    input.value = ""; // so that the same file can be chosen again
    if (file) take(file);
  });
}
for (const button of document.querySelectorAll("[data-example]")) {
  const example = /** @type {HTMLElement} */ (button).dataset.example;
  button.addEventListener("click", () => open({ name: `${example}.png`, example }));
}
part("shrink").addEventListener("change", () => {
  part("shrink-again").hidden = !source || part("shrink").checked === shrunk;
});
part("shrink-again").addEventListener("click", () => source && open(source));
/** @param {"left" | "right"} side @param {"left" | "right"} other */
async function choose(side, other) {
  // Two scales give two sizes, which one divider cannot show.
  if (yours.scale !== SCALE && isYours(selected(side)) !== isYours(selected(other))) {
    part(other).value = isYours(selected(side)) ? (selected(side) === "yours" ? "yours-bicubic" : "yours") : "bicubic";
  }
  await jobs.guard(showSelected);
  // After a cancel a version may not be there: the select goes back to one that is.
  for (const one of /** @type {const} */ (["left", "right"])) {
    const last = [...versions.keys()].filter((name) => yours.scale === SCALE || isYours(name) === isYours(selected(one))).pop();
    if (!versions.has(selected(one)) && last) part(one).value = last;
  }
  refresh();
}
part("left").addEventListener("change", () => choose("left", "right"));
part("right").addEventListener("change", () => choose("right", "left"));
part("show").addEventListener("change", async () => {
  await jobs.guard(showSelected);
  refresh();
});
part("yours-time").addEventListener("click", () => jobs.guard(() => yours.time()));
for (const name of ["yours-range", "yours-colour"]) {
  part(name).addEventListener("change", () =>
    jobs.guard(async () => {
      await yours.reread();
      await showYours();
    }),
  );
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
  if (file) take(file);
  else jobs.fail("What you dropped is not a file: drop an image or a .tflite, or choose one.");
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

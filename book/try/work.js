/**
 * What the worker does: open an image, enlarge it, write a PNG, measure. Each job answers with progress and with one
 * result or one sentence; between two tiles a job looks whether it was cancelled.
 */

import { cropToMultiple, resize } from "./bicubic.js";
import { decode, hasAlpha, ImageError } from "./image.js";
import { Engine, fetchFile, line, LoadError } from "./litert.js";
import { measure } from "./measure.js";
import { psnr, ssim } from "./metrics.js";
import { encode } from "./png.js";
import { putTile, readTile, spans } from "./tiles.js";

/**
 * @typedef {import("./image.js").Pixels} Pixels
 * @typedef {"bicubic" | "abpn" | "fsrcnn"} Method
 * @typedef {(text: string, done: number, total: number) => void} Tell
 */

/** What one job can do: tell how far it is, and give way. */
class Job {
  /** @param {number} id */
  constructor(id) {
    this.id = id;
    this.cancelled = false;
  }

  /** @type {Tell} */
  tell = (text, done, total) => self.postMessage({ id: this.id, progress: { text, done, total } });

  /** Let messages in; a cancelled job ends here. */
  breathe = async () => {
    await new Promise((resolve) => setTimeout(resolve, 0));
    if (this.cancelled) throw new Cancelled();
  };
}

class Cancelled extends Error {}

const TILE = 128; // LR pixels a side: small enough that progress moves and a cancel is heard on a phone
const SCALE = 3;
const STRIP_ROWS = 1024; // of the bitmaps that are shown: no browser's limit lies lower

/** @type {{lr: Pixels, truth: Pixels | null, alpha: boolean, results: Map<Method, Pixels>} | null} */
let opened = null;
/** @type {Promise<Engine> | null} */
let loading = null;
/** @type {Job | null} */
let current = null;

/** @param {MessageEvent} event */
export function receive({ data }) {
  if (data.type === "cancel") {
    if (current) current.cancelled = true;
    return;
  }
  current = new Job(data.id);
  run(current, data);
}

/** @param {Job} job @param {any} order */
async function run(job, order) {
  try {
    const { result, transfer } = await JOBS[/** @type {keyof typeof JOBS} */ (order.type)](job, order);
    self.postMessage({ id: job.id, result }, transfer ?? []);
  } catch (error) {
    self.postMessage({ id: job.id, ...sentence(error) });
  }
}

/** What the reader is told. @param {unknown} error */
function sentence(error) {
  if (error instanceof Cancelled) return { cancelled: true };
  if (error instanceof ImageError) return { error: error.message };
  if (error instanceof LoadError) return { error: error.message, broken: error.broken };
  const memory = error instanceof RangeError || /memory|alloc|abort|unreachable/i.test(line(error));
  const said = memory
    ? "There is not enough memory for this on your device: try a smaller image, or close other pages."
    : `Something went wrong (${line(error)}): try again, or another browser.`;
  // LiteRT may be left in a state that nothing can be run in: the page then starts a new worker.
  return { error: said, broken: true };
}

/** @type {Record<string, (job: Job, order: any) => Promise<{result: any, transfer?: Transferable[]}>>} */
const JOBS = {
  async open(job, { file, url, shrink, maxPixels }) {
    job.tell("Reading the image", 0, 1);
    opened = null;
    const blob = file ?? new Blob([/** @type {BlobPart} */ (await fetchFile(url))]);
    const image = await decode(blob, maxPixels);
    await job.breathe();
    let [lr, truth] = [image, /** @type {Pixels | null} */ (null)];
    if (shrink) {
      if (Math.min(image.width, image.height) < 13 + SCALE) {
        throw new ImageError("This image is too small to be shrunk and scored: choose one of at least 16 pixels a side.");
      }
      truth = cropToMultiple(image, SCALE);
      lr = await inBands(job, "Shrinking the image", truth, 1 / SCALE);
    }
    opened = { lr, truth, alpha: hasAlpha(lr.data), results: new Map() };
    return { result: { width: lr.width, height: lr.height, scored: Boolean(truth), scale: SCALE } };
  },

  async enlarge(job, { method, manifest }) {
    const image = demandOpened();
    if (!image.results.has("bicubic")) {
      image.results.set("bicubic", await inBands(job, "Enlarging, bicubic", image.lr, SCALE));
    }
    let seconds = 0;
    if (method !== "bicubic" && !image.results.has(method)) {
      const made = await withModel(job, image, manifest, method);
      image.results.set(method, made.pixels);
      seconds = made.seconds;
    }
    const result = /** @type {Pixels} */ (image.results.get(method));
    const scores = image.truth ? await scored(job, image.truth, result) : null;
    job.tell("Preparing the view", 1, 1);
    const strips = await bitmaps(result);
    return { result: { method, width: result.width, height: result.height, strips, scores, seconds }, transfer: strips };
  },

  async png(job, { method }) {
    const image = demandOpened();
    const result = image.results.get(method);
    if (!result) throw new ImageError("This version of the image is not there yet.");
    job.tell("Writing the PNG", 0, 1);
    return { result: await encode(result.data, result.width, result.height, image.alpha) };
  },

  async measure(job, { manifest, threads, webgpu }) {
    const engine = await engineOf(job, manifest, threads > 1);
    const give = (/** @type {any} */ part) => self.postMessage({ id: job.id, part });
    return { result: await measure(engine, manifest, { threads, webgpu, tell: job.tell, breathe: job.breathe, give }) };
  },
};

function demandOpened() {
  if (!opened) throw new ImageError("The image is no longer held: open it again.");
  return opened;
}

/** @param {Job} job @param {any} manifest @param {boolean} threads */
function engineOf(job, manifest, threads) {
  loading ??= Engine.load(manifest.engine, threads, (done, total) => {
    const megabytes = (/** @type {number} */ bytes) => (bytes / 1e6).toFixed(1);
    job.tell(`Loading LiteRT, ${megabytes(done)} of ${megabytes(total)} MB`, done, total);
  }).catch((error) => {
    loading = null; // so that the next attempt loads again
    throw error;
  });
  return loading;
}

/**
 * Resize in bands of rows, with progress.
 *
 * @param {Job} job
 * @param {string} text
 * @param {Pixels} image
 * @param {number} scale
 * @returns {Promise<Pixels>}
 */
async function inBands(job, text, image, scale) {
  const height = Math.ceil(image.height * scale - 1e-9);
  const width = Math.ceil(image.width * scale - 1e-9);
  const data = new Uint8ClampedArray(4 * width * height);
  const rows = Math.max(16, Math.ceil(2e6 / width));
  for (let from = 0; from < height; from += rows) {
    job.tell(text, from, height);
    await job.breathe();
    const band = resize(image.data, image.width, image.height, scale, { from, to: Math.min(from + rows, height) });
    data.set(band.data, 4 * from * width);
  }
  return { data, width, height };
}

/**
 * Enlarge with a model, tile by tile.
 *
 * @param {Job} job
 * @param {NonNullable<typeof opened>} image
 * @param {any} manifest
 * @param {Method} method
 * @returns {Promise<{pixels: Pixels, seconds: number}>} the seconds without what had to be loaded first
 */
async function withModel(job, image, manifest, method) {
  const model = manifest.models[method];
  const engine = await engineOf(job, manifest, false);
  await job.breathe();
  const { data, width, height } = image.lr;
  const rows = spans(height, TILE, model.halo);
  const columns = spans(width, TILE, model.halo);
  const [tileHeight, tileWidth] = [rows[0].stop - rows[0].start, columns[0].stop - columns[0].start];
  job.tell(`Enlarging with ${model.label}`, 0, rows.length * columns.length);
  const compiled = await engine.compileFor(model, tileHeight, tileWidth);
  try {
    // A copy of the bicubic result brings its alpha, as in the library, and 255 where there is none.
    const out = /** @type {Pixels} */ (image.results.get("bicubic")).data.slice();
    const started = performance.now();
    let done = 0;
    for (const row of rows) {
      for (const column of columns) {
        await job.breathe();
        const tile = await engine.run(compiled, readTile(data, width, row, column), tileHeight, tileWidth);
        putTile(out, width, tile, row, column, model.scale);
        job.tell(`Enlarging with ${model.label}`, ++done, rows.length * columns.length);
      }
    }
    const pixels = { data: out, width: width * model.scale, height: height * model.scale };
    return { pixels, seconds: (performance.now() - started) / 1000 };
  } finally {
    compiled.delete();
  }
}

/** @param {Job} job @param {Pixels} truth @param {Pixels} result */
async function scored(job, truth, result) {
  job.tell("Scoring", 0, 1);
  await job.breathe();
  const { width, height } = truth;
  return {
    psnr: psnr(truth.data, result.data, width, height),
    ssim: ssim(truth.data, result.data, width, height),
  };
}

/** @param {Pixels} image */
async function bitmaps({ data, width, height }) {
  const strips = [];
  for (let y = 0; y < height; y += STRIP_ROWS) {
    const rows = Math.min(STRIP_ROWS, height - y);
    strips.push(await createImageBitmap(new ImageData(data.slice(4 * y * width, 4 * (y + rows) * width), width, rows)));
  }
  return strips;
}

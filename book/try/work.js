/**
 * What the worker does: open an image, enlarge it, compare, write a PNG, measure, and the same with a reader's model.
 * Each job answers with progress and with one result or one sentence; between two tiles a job looks whether it was
 * cancelled.
 */

import { cropToMultiple, resize } from "./bicubic.js";
import { difference } from "./difference.js";
import { imagesOf, ModelError } from "./flatbuffer.js";
import { decode, hasAlpha, ImageError, millions } from "./image.js";
import { Engine, fetchFile, line, LoadError } from "./litert.js";
import { measure, timeInRounds } from "./measure.js";
import { psnr, psnrOfLuma, ssim } from "./metrics.js";
import { network, through } from "./network.js";
import { encode } from "./png.js";
import { readModel } from "./stranger.js";

/**
 * @typedef {import("./image.js").Pixels} Pixels
 * @typedef {import("./network.js").Network} Network
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

const SCALE = 3; // of the page's own models
const STRIP_ROWS = 1024; // of the bitmaps that are shown: no browser's limit lies lower
const UNTILED = 1024 * 1024; // LR pixels that a graph which cannot be tiled takes, as in the library

/** @type {{lr: Pixels, truth: Pixels | null, alpha: boolean, scale: number, results: Map<string, Pixels>} | null} */
let opened = null;
/** @type {(Network & {found: string}) | null} */
let yours = null; // the reader's model: such a worker holds no other
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
  if (error instanceof ImageError || error instanceof ModelError) return { error: error.message };
  if (error instanceof LoadError) return { error: error.message, broken: error.broken };
  const memory = error instanceof RangeError || /memory|alloc|abort|unreachable/i.test(line(error));
  const said = memory
    ? "There is not enough memory for this on your device: try a smaller image, or close other pages."
    : `Something went wrong (${line(error)}): try again, or another browser.`;
  // LiteRT may be left in a state that nothing can be run in: the page then starts a new worker.
  return { error: said, broken: true, crashed: true };
}

/** @type {Record<string, (job: Job, order: any) => Promise<{result: any, transfer?: Transferable[]}>>} */
const JOBS = {
  async open(job, { file, url, shrink, maxPixels, scale }) {
    job.tell("Reading the image", 0, 1);
    const blob = file ?? new Blob([/** @type {BlobPart} */ (await fetchFile(url))]);
    const image = await decode(blob, maxPixels);
    await job.breathe();
    if (shrink && Math.min(image.width, image.height) < 13 + scale) {
      throw new ImageError(`This image is too small to be shrunk and scored: choose one of at least ${13 + scale} pixels a side.`);
    }
    const { lr, truth } = shrink ? await shrunk(job, image, scale) : { lr: image, truth: null };
    // Only now: the image before it stays whole if this one is bad.
    opened = { lr, truth, alpha: hasAlpha(lr.data), scale, results: new Map() };
    return { result: { width: lr.width, height: lr.height } };
  },

  async enlarge(job, { method, manifest }) {
    const image = demandOpened();
    const seconds = await make(job, image, method, manifest);
    const result = /** @type {Pixels} */ (image.results.get(method));
    const scores = image.truth ? await scored(job, image.truth, result) : null;
    job.tell("Preparing the view", 1, 1);
    const strips = await bitmaps(result);
    return { result: { width: result.width, height: result.height, strips, scores, seconds }, transfer: strips };
  },

  async difference(job, { method, from, top, manifest }) {
    const image = demandOpened();
    if (from === "float") await make(job, image, `${method}-float`, manifest);
    const other = from === "float" ? image.results.get(`${method}-float`) : image.truth;
    const result = image.results.get(method);
    if (!result || !other) throw new ImageError("There is nothing to compare with: shrink the image first.");
    job.tell("Comparing", 1, 1);
    await job.breathe();
    const { pixels, mean } = difference(result, other, top);
    const strips = await bitmaps(pixels);
    return { result: { width: pixels.width, height: pixels.height, strips, mean }, transfer: strips };
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

  /** Take a reader's model: find out how it is to be run and read. */
  async read(job, { file, told, ownSize, manifest }) {
    const bytes = await bytesOfModel(file);
    const images = imagesOf(bytes);
    const engine = await engineOf(job, manifest, false);
    const { truth } = await example(manifest.examples[0]);
    job.tell("Trying how your model is to be run and read", 0, 1);
    const tried = async (/** @type {Network} */ net) => {
      await job.breathe();
      const made = await shrunk(job, truth, net.scale);
      return psnr(made.truth.data, (await enlarged(job, engine, made.lr, net)).data, made.truth.width, made.truth.height);
    };
    yours = await readModel(engine, { bytes, images, told, ownSize, tried });
    const { scale, size, range, colour, found } = yours;
    return { result: { scale, size, range, colour, found, input: images.input.dtype, output: images.output.dtype } };
  },

  /** Score the reader's model on the page's own images, and ABPN beside it; run it twice. */
  async score(job, { manifest }) {
    const net = demandYours();
    const engine = await engineOf(job, manifest, false);
    const rows = [];
    let same = true;
    for (const described of manifest.examples) {
      job.tell(`Scoring on ${described.name}`, 0, 1);
      const { lr, truth } = await shrunk(job, (await example(described)).truth, net.scale);
      const [once, again] = [await enlarged(job, engine, lr, net), await enlarged(job, engine, lr, net)];
      same &&= once.data.every((value, n) => value === again.data[n]);
      const ours = net.scale === SCALE ? await enlarged(job, engine, lr, await known(engine, manifest, "abpn")) : null;
      const [own, abpn] = [once, ours].map((made) => made && ofBoth(truth, made, net.scale));
      rows.push({ image: described.name, yours: own, abpn });
    }
    return { result: { rows, same } };
  },

  /** Time the reader's model and ABPN, each to as many pixels, in the same rounds. */
  async time(job, { manifest }) {
    const net = demandYours();
    const engine = await engineOf(job, manifest, false);
    const { width, height } = net.size ?? sizeOfFrame(manifest.frame, net.scale);
    const abpn = await known(engine, manifest, "abpn");
    const [w, h] = [width, height].map((side) => Math.floor((side * net.scale) / SCALE));
    const models = [abpn.sized(h, w), net.sized(height, width)];
    const samples = await timeInRounds(engine, models, manifest.rounds, { ...job, label: "Timing both in turn" });
    return { result: { size: `${width}x${height}`, abpn: samples[0], yours: samples[1] } };
  },
};

const MOST_BYTES = 64 * 2 ** 20; // of a reader's model

/** @param {Blob} file @returns {Promise<Uint8Array>} */
async function bytesOfModel(file) {
  if (file.size > MOST_BYTES) throw new ModelError(`This model has more than ${MOST_BYTES >> 20} MiB, which is more than this page takes.`);
  return new Uint8Array(await file.arrayBuffer());
}

/** @param {{width: number, height: number}} frame HR pixels @param {number} scale */
function sizeOfFrame({ width, height }, scale) {
  return { width: Math.floor(width / scale), height: Math.floor(height / scale) };
}

/** One of the page's own images. @param {import("./litert.js").File} described */
async function example(described) {
  return { truth: await decode(new Blob([/** @type {BlobPart} */ (await fetchFile(described))]), 1e6) };
}

/** @param {Pixels} truth @param {Pixels} made @param {number} scale */
function ofBoth(truth, made, scale) {
  const { width, height } = truth;
  return {
    rgb: psnr(truth.data, made.data, width, height),
    y: psnrOfLuma(truth.data, made.data, width, height, scale),
  };
}

function demandYours() {
  if (!yours) throw new ModelError("Your model is no longer held: choose it again.");
  return yours;
}

function demandOpened() {
  if (!opened) throw new ImageError("No image is held: open one first.");
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
 * An image as the original, cropped to a multiple, and the LR image made of it.
 *
 * @param {Job} job
 * @param {Pixels} image
 * @param {number} scale
 */
async function shrunk(job, image, scale) {
  const truth = cropToMultiple(image, scale);
  return { truth, lr: await inBands(job, "Shrinking the image", truth, 1 / scale) };
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
 * Make a version of the opened image, if it is not there yet.
 *
 * @param {Job} job
 * @param {NonNullable<typeof opened>} image
 * @param {string} method "bicubic", "yours", a model of the manifest, or that with "-float" behind it
 * @param {any} manifest
 * @returns {Promise<number>} seconds that the network took, without what had to be loaded first
 */
async function make(job, image, method, manifest) {
  if (!image.results.has("bicubic")) {
    image.results.set("bicubic", await inBands(job, "Enlarging, bicubic", image.lr, image.scale));
  }
  if (image.results.has(method)) return 0;
  const engine = await engineOf(job, manifest, false);
  await job.breathe();
  const net = method === "yours" ? demandYours() : await known(engine, manifest, method);
  const { width, height } = image.lr;
  if (net.halo === null && width * height > UNTILED) {
    throw new ImageError(`${net.label} needs the whole image at once, and takes ${millions(UNTILED)} million pixels: make it smaller.`);
  }
  // A copy of the bicubic result brings its alpha, as in the library, and 255 where there is none.
  const out = /** @type {Pixels} */ (image.results.get("bicubic")).data.slice();
  const { seconds, ...pixels } = await enlarged(job, engine, image.lr, net, out);
  image.results.set(method, pixels);
  return seconds;
}

/**
 * @param {Job} job
 * @param {Engine} engine
 * @param {Pixels} lr
 * @param {Network} net
 * @param {Uint8ClampedArray} [out] what the colours are written into; opaque if not given
 */
function enlarged(job, engine, lr, net, out) {
  const data = out ?? new Uint8ClampedArray(4 * lr.width * lr.height * net.scale ** 2).fill(255);
  return through(engine, lr, net, data, async (done, total) => {
    job.tell(`Enlarging with ${net.label}`, done, total);
    await job.breathe();
  });
}

/**
 * One of the page's own models.
 *
 * @param {Engine} engine
 * @param {any} manifest
 * @param {string} method
 * @returns {Promise<Network>}
 */
async function known(engine, manifest, method) {
  const whole = method.endsWith("-float");
  const { twin, label, scale, halo, ...file } = manifest.models[method.replace("-float", "")];
  const bytes = await engine.bytesOf(whole ? twin : file);
  return network(bytes, imagesOf(bytes), { scale, halo, label: whole ? `${label}, in float32` : label });
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

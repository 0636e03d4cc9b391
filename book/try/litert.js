/**
 * LiteRT in a classic worker: fetched once, checked against the manifest, then models of any size on it.
 *
 * The build that is loaded uses plain SIMD: the relaxed kind is allowed other results on other processors, and this page
 * promises the library's bits. A second build, for several threads, is loaded only where the page is cross-origin isolated.
 */

import { ModelError } from "./flatbuffer.js";

/** A sentence for the reader. A `broken` one leaves a worker that cannot load LiteRT any more. */
export class LoadError extends Error {
  /** @param {string} sentence @param {boolean} [broken] */
  constructor(sentence, broken = false) {
    super(sentence);
    this.broken = broken;
  }
}

/**
 * @typedef {{file: string, bytes: number, sha256: string}} File a file beside the page, as the manifest describes it
 * @typedef {(done: number, total: number) => void} Progress
 */

/**
 * Fetch one of the page's own files and check that it is the one that the manifest means.
 *
 * @param {File} file
 * @param {Progress} [progress] bytes
 * @returns {Promise<Uint8Array>}
 * @throws {LoadError}
 */
export async function fetchFile(file, progress) {
  const failed = `The file ${file.file} could not be loaded`;
  try {
    // The hash in the address keeps a browser's cache from serving an older version.
    const response = await fetch(new URL(`${file.file}?${file.sha256.slice(0, 12)}`, import.meta.url));
    if (!response.ok || !response.body) throw new LoadError(`${failed} (status ${response.status}): try again later.`);
    const parts = [];
    let done = 0;
    const reader = response.body.getReader();
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      parts.push(next.value);
      done += next.value.length;
      progress?.(Math.min(done, file.bytes), file.bytes);
    }
    const bytes = new Uint8Array(await new Blob(/** @type {BlobPart[]} */ (parts)).arrayBuffer());
    if (file.file.endsWith(".gz")) return await unpacked(bytes, file, failed);
    await demandHash(bytes, file, failed);
    return bytes;
  } catch (error) {
    if (error instanceof LoadError) throw error;
    throw new LoadError(`${failed}: check the connection and try again.`);
  }
}

/** @param {Uint8Array} bytes @param {File} file @param {string} failed */
async function demandHash(bytes, file, failed) {
  // Browsers hash only on secure pages; a plain http server on another machine goes without.
  if (!globalThis.crypto?.subtle) return;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", /** @type {BufferSource} */ (bytes)));
  const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (hex !== file.sha256) throw new LoadError(`${failed} whole: it is not the file that this page was built with.`);
}

/** @param {Uint8Array} bytes @param {File} file @param {string} failed */
async function unpacked(bytes, file, failed) {
  // Some servers declare .gz files as compressed content, and then the browser has unpacked them already.
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  await demandHash(bytes, file, failed);
  const stream = new Blob([/** @type {BlobPart} */ (bytes)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** LiteRT, ready to compile models. */
export class Engine {
  /** @param {typeof import("@litertjs/core")} core */
  constructor(core) {
    this.core = core;
    /** @type {Map<string, Uint8Array>} */
    this.files = new Map();
    /** @type {string[]} what LiteRT wrote of errors: it does not throw all of them, and then leaves any output */
    this.complaints = [];
  }

  /**
   * Load LiteRT. Only once in a worker.
   *
   * @param {{core: string, simd: {script: string} & File, threads: {script: string} & File}} files of the manifest
   * @param {boolean} threads
   * @param {Progress} progress bytes
   * @returns {Promise<Engine>}
   * @throws {LoadError}
   */
  static async load(files, threads, progress) {
    if (typeof WebAssembly !== "object") {
      throw new LoadError("This browser has no WebAssembly, which the models need: try another browser.");
    }
    const build = threads ? files.threads : files.simd;
    const wasmBinary = await fetchFile(build, progress);
    const script = new URL(build.script, import.meta.url).href;
    // A module that failed to load is not asked for again by the same worker.
    const core = await import(new URL(files.core, import.meta.url).href).catch(() => {
      throw new LoadError("LiteRT could not be loaded: check the connection and try again.", true);
    });
    try {
      // LiteRT's script looks here; with the binary given it fetches nothing itself.
      const engine = new Engine(core);
      const printErr = (/** @type {string} */ text) => /^ERROR/.test(text) && engine.complaints.push(text);
      Object.assign(globalThis, { Module: { wasmBinary, mainScriptUrlOrBlob: script, printErr } });
      await core.loadLiteRt(script, { threads });
      return engine;
    } catch (error) {
      throw new LoadError(`LiteRT could not be started here (${line(error)}): try again, or a newer browser.`, true);
    }
  }

  /**
   * @param {File} file
   * @returns {Promise<Uint8Array>} its bytes, fetched once
   */
  async bytesOf(file) {
    const known = this.files.get(file.sha256) ?? (await fetchFile(file));
    this.files.set(file.sha256, known);
    return known;
  }

  /**
   * @param {Uint8Array} bytes a .tflite
   * @param {{accelerator?: "wasm" | "webgpu", threads?: number}} [options]
   */
  async compile(bytes, { accelerator = "wasm", threads = 1 } = {}) {
    // Named always: LiteRT itself would take WebGPU, whose bits differ.
    return this.core.loadAndCompile(bytes, { accelerator, cpuOptions: { numThreads: threads } });
  }

  /** Whether the browser gave a WebGPU device. */
  get hasWebGpu() {
    return Boolean(this.core.getWebGpuDevice());
  }

  /**
   * Run a compiled model once.
   *
   * @param {import("@litertjs/core").CompiledModel} compiled
   * @param {Uint8Array | Int8Array | Float32Array} values
   * @param {number} height
   * @param {number} width
   * @returns {Promise<Uint8Array | Int8Array | Float32Array>} the values of its output
   */
  async run(compiled, values, height, width) {
    const input = new this.core.Tensor(/** @type {any} */ (values), [1, height, width, 3]);
    try {
      const [output] = await this.checked(compiled, [input]);
      const made = /** @type {any} */ (await output.data());
      output.delete();
      return made;
    } finally {
      input.delete();
    }
  }

  /**
   * Run a compiled model twice: after the first time LiteRT knows how large its output is.
   *
   * @param {import("@litertjs/core").CompiledModel} compiled
   * @param {Uint8Array | Int8Array | Float32Array} values
   * @param {number} height
   * @param {number} width
   * @returns {Promise<number>} bytes of the output
   */
  async sizeOfOutput(compiled, values, height, width) {
    const input = new this.core.Tensor(/** @type {any} */ (values), [1, height, width, 3]);
    try {
      (await this.checked(compiled, [input]))[0].delete();
      const [output] = await this.checked(compiled, [input]);
      const bytes = /** @type {any} */ (output).liteRtTensorBuffer.packedSize();
      output.delete();
      return bytes;
    } finally {
      input.delete();
    }
  }

  /**
   * Run a compiled model on the CPU.
   *
   * @param {import("@litertjs/core").CompiledModel} compiled
   * @param {import("@litertjs/core").Tensor[]} inputs
   * @throws {ModelError} where LiteRT only writes that it could not
   */
  async checked(compiled, inputs) {
    this.complaints.length = 0;
    const outputs = await compiled.run(inputs);
    if (!this.complaints.length) return outputs;
    outputs.forEach((output) => output.delete());
    throw cannotRun(String(this.complaints.pop()).replace(/^ERROR: (\[[^\]]*\] )?/, ""));
  }
}

/** @param {unknown} error */
export function cannotRun(error) {
  return new ModelError(`LiteRT cannot run this model in a browser (${line(error)}).`);
}

/** @param {unknown} error */
export function line(error) {
  return String(error instanceof Error ? error.message : error).split("\n")[0].slice(0, 200);
}

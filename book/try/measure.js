/**
 * Timing the networks of Table 3 and the nodes of Table 1 in this browser: warm-up, then all candidates in turn, round
 * by round, so that a device that slows down slows all of them. No sample is thrown away.
 */

import { ARRAYS } from "./reading.js";

/**
 * @typedef {import("./litert.js").Engine} Engine
 * @typedef {import("./stats.js").Timing} Timing
 * @typedef {{subject: string, columns: Object<string, string>, size: string, channels?: number} & import("./litert.js").File} Timed
 * @typedef {{threads: number, webgpu: boolean, tell: (text: string, done: number, total: number) => void,
 *   breathe: () => Promise<void>, give: (part: {timings?: Timing[], note?: string}) => void}} Options
 */

// A browser's clock steps by 0.1 ms, or 1 ms where it guards privacy: a sample is long beside that.
const LEAST_SAMPLE = 10; // ms
const MOST_REPEATS = 100;

/**
 * Time everything that the manifest lists; each group is given as soon as it is done.
 *
 * @param {Engine} engine
 * @param {{timed: {networks: Timed[], nodes: Timed[]}, rounds: {seconds: number, least: number, most: number}}} manifest
 * @param {Options} options
 */
export async function measure(engine, manifest, options) {
  const { networks, nodes } = manifest.timed;
  if (options.webgpu) {
    if (engine.hasWebGpu) await onWebGpu(engine, networks, manifest.rounds, options);
    else options.give({ note: "This browser gives no WebGPU device, so that column stays empty." });
    return {};
  }
  const { threads } = options;
  const label = threads > 1 ? `${threads} threads` : "1 thread";
  await group(engine, networks, manifest.rounds, { ...options, accelerator: "wasm", label: `Networks, WASM, ${label}` });
  await group(engine, nodes, manifest.rounds, { ...options, accelerator: "wasm", label: `Nodes, WASM, ${label}` });
  return {};
}

/**
 * @param {Engine} engine
 * @param {Timed[]} timed
 * @param {{seconds: number, least: number, most: number}} rounds
 * @param {Options & {accelerator: "wasm" | "webgpu", label: string}} options
 */
async function group(engine, timed, rounds, options) {
  const contents = [];
  for (const one of timed) {
    options.tell(`${options.label}: loading`, contents.length, timed.length);
    contents.push(await engine.bytesOf(one));
  }
  const samples = await timeInRounds(engine, contents, rounds, options);
  const { accelerator: backend, threads } = options;
  options.give({
    timings: timed.map(({ subject, columns, size, channels, sha256 }, n) => ({
      subject, columns, size, channels, sha256, backend, threads, samples: samples[n],
    })),
  });
}

/**
 * Time models of one size each, in turn.
 *
 * @param {Engine} engine
 * @param {Uint8Array[]} models
 * @param {{seconds: number, least: number, most: number}} rounds
 * @param {Pick<Options, "tell" | "breathe"> & {accelerator?: "wasm" | "webgpu", threads?: number, label: string}} options
 * @returns {Promise<number[][]>} milliseconds of each model in each round
 */
export async function timeInRounds(engine, models, rounds, { accelerator = "wasm", threads = 1, label, tell, breathe }) {
  /** @type {((repeats?: number) => Promise<number>)[]} */
  const calls = [];
  /** @type {(() => void)[]} */
  const cleanups = [];
  try {
    for (const model of models) {
      tell(`${label}: loading`, calls.length, models.length);
      await breathe();
      const { call, cleanup } = await candidate(engine, model, accelerator, threads);
      calls.push(call);
      cleanups.push(cleanup);
    }
    // Two rounds of warm-up; the second tells how many rounds fit into the time.
    let round = 0;
    /** @type {number[]} */
    const repeats = [];
    for (let warm = 0; warm < 2; warm++) {
      round = 0;
      for (const [n, call] of calls.entries()) {
        tell(`${label}: warming up`, warm * calls.length + n, 2 * calls.length);
        await breathe();
        const taken = await call();
        const wanted = Math.min(Math.ceil(LEAST_SAMPLE / Math.max(taken, 0.001)), MOST_REPEATS);
        // The faster of the warm-up calls tells more: the other may have been interrupted.
        repeats[n] = Math.max(repeats[n] ?? 1, wanted);
        round += taken * repeats[n];
      }
    }
    const count = Math.max(rounds.least, Math.min(rounds.most, Math.floor((rounds.seconds * 1000) / round)));
    /** @type {number[][]} */
    const samples = models.map(() => []);
    for (let done = 0; done < count; done++) {
      for (const [n, call] of calls.entries()) {
        tell(`${label}: round ${done + 1} of ${count}`, done * calls.length + n, count * calls.length);
        await breathe();
        samples[n].push(await call(repeats[n]));
      }
    }
    return samples;
  } finally {
    cleanups.forEach((cleanup) => cleanup());
  }
}

/**
 * A model with noise in its inputs, ready to be timed.
 *
 * @param {Engine} engine
 * @param {Uint8Array} bytes
 * @param {"wasm" | "webgpu"} accelerator
 * @param {number} threads
 */
async function candidate(engine, bytes, accelerator, threads) {
  const compiled = await engine.compile(bytes, { accelerator, threads });
  const inputs = compiled.getInputDetails().map(({ dtype, shape }, n) => noise(engine, dtype, [...shape], n));
  const call = async (repeats = 1) => {
    const started = performance.now();
    for (let n = 0; n < repeats; n++) {
      const outputs = await (accelerator === "wasm" ? engine.checked(compiled, inputs) : compiled.run(inputs));
      // A GPU is done only when its result is here; on the CPU the result is here already.
      if (accelerator === "webgpu") await outputs[0].data();
      outputs.forEach((output) => output.delete());
    }
    return (performance.now() - started) / repeats;
  };
  const result = async () => {
    const outputs = await compiled.run(inputs);
    const values = await outputs[0].data();
    outputs.forEach((output) => output.delete());
    return values;
  };
  const cleanup = () => {
    inputs.forEach((input) => input.delete());
    compiled.delete();
  };
  return { call, cleanup, result, whole: compiled.isFullyAccelerated };
}

/**
 * @param {Engine} engine
 * @param {string} dtype
 * @param {number[]} shape
 * @param {number} seed
 */
function noise(engine, dtype, shape, seed) {
  const values = new ARRAYS[/** @type {keyof typeof ARRAYS} */ (dtype)](shape.reduce((product, side) => product * side, 1));
  let state = 12345 + seed;
  for (let n = 0; n < values.length; n++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    values[n] = state >>> 24;
  }
  return new engine.core.Tensor(/** @type {any} */ (values), shape);
}

/**
 * WebGPU computes in floating point, so its result is compared with the CPU's before it is timed.
 *
 * @param {Engine} engine
 * @param {Timed[]} networks
 * @param {{seconds: number, least: number, most: number}} rounds
 * @param {Options} options
 */
async function onWebGpu(engine, networks, rounds, options) {
  const notes = [];
  const whole = [];
  for (const network of networks) {
    options.tell("Networks, WebGPU: comparing", notes.length, networks.length);
    await options.breathe();
    try {
      const bytes = await engine.bytesOf(network);
      const [cpu, gpu] = [await candidate(engine, bytes, "wasm", 1), await candidate(engine, bytes, "webgpu", 1)];
      if (!gpu.whole) {
        notes.push(`WebGPU does not take all of ${network.subject}.`);
      } else {
        const [a, b] = [await cpu.result(), await gpu.result()];
        let most = 0;
        for (let n = 0; n < a.length; n++) most = Math.max(most, Math.abs(a[n] - b[n]));
        notes.push(`WebGPU's result of ${network.subject} differs from the CPU's by up to ${most} levels.`);
        whole.push(network);
      }
      cpu.cleanup();
      gpu.cleanup();
    } catch {
      notes.push(`WebGPU cannot run ${network.subject} in this browser.`);
    }
  }
  options.give({ note: notes.join(" ") });
  if (whole.length) {
    await group(engine, whole, rounds, { ...options, accelerator: "webgpu", label: "Networks, WebGPU" });
  }
}

/** Medians with intervals, and the records that `abpn claims --add` reads; as in `abpn_lib.timing.rounds` and `results`. */

/**
 * The median, and the two order statistics that hold the true one with at least 95 %, whatever the distribution.
 *
 * @param {number[]} samples
 * @returns {{median: number, low: number, high: number}}
 */
export function medianInterval(samples) {
  const ranked = [...samples].sort((a, b) => a - b);
  const count = ranked.length;
  const middle = count >> 1;
  const median = count % 2 ? ranked[middle] : (ranked[middle - 1] + ranked[middle]) / 2;
  // As many samples may lie outside on each side as leave a binomial tail of 2.5 % at most.
  let tail = 0.5 ** count;
  let term = tail;
  let k = 0;
  while (tail < 0.025) {
    k++;
    term *= (count - k + 1) / k;
    tail += term;
  }
  const outside = Math.max(k - 1, 0);
  return { median, low: ranked[outside], high: ranked[count - 1 - outside] };
}

/**
 * How many times as long one candidate took as another: over the rounds in which both were timed.
 *
 * @param {number[]} samples
 * @param {number[]} others of the same rounds
 */
export function pairedRatio(samples, others) {
  return medianInterval(samples.map((sample, n) => sample / others[n]));
}

/**
 * The challenge's score, as `abpn_lib.paper.score`.
 *
 * @param {number} psnr dB
 * @param {number} milliseconds
 */
export function challengeScore(psnr, milliseconds) {
  return 2 ** (2 * psnr - 48) / milliseconds;
}

const LEAST_ROUNDS = 6; // below, not even least to greatest covers the median with 95 %

/**
 * What was timed: milliseconds of one candidate over all rounds.
 *
 * @typedef {{subject: string, columns: Object<string, string>, size: string, channels?: number,
 *   backend: "wasm" | "webgpu", threads: number, samples: number[], sha256: string}} Timing
 */

/**
 * Timings as records, the JSON of `abpn_lib.results`: contexts once, and a row for each value.
 *
 * @param {Timing[]} timings
 * @param {{commit: string, litert: string}} manifest
 * @param {{userAgent: string, cores: number, gpu: string, date: string}} where
 */
export function records(timings, manifest, where) {
  const device = `browser: ${where.userAgent}, ${where.cores} logical CPUs`;
  const shared = {
    command: "the book's page Try it on your device",
    versions: { "@litertjs/core": manifest.litert },
    commit: manifest.commit,
    date: where.date,
  };
  const onGpu = where.gpu ? `${device}, GPU ${where.gpu}` : device;
  const contexts = [device, onGpu].map((name) => ({ ...shared, device: name }));
  return {
    contexts,
    records: timings.map((timing) => {
      const { median, low, high } = medianInterval(timing.samples);
      return {
        quantity: "latency",
        value: median,
        unit: "ms",
        count: timing.samples.length,
        spread: [low, high],
        spread_is:
          timing.samples.length < LEAST_ROUNDS
            ? "least and greatest round"
            : "95 % interval of the median, by order statistics",
        model_sha256: timing.sha256,
        ...timing.columns,
        size: timing.size,
        threads: timing.threads,
        kernels: timing.backend === "wasm" ? "xnnpack-wasm" : "webgpu",
        ...(timing.channels ? { channels: timing.channels } : {}),
        context: timing.backend === "webgpu" ? 1 : 0,
      };
    }),
  };
}

/**
 * MATLAB's antialiased bicubic `imresize`, as in `abpn_lib.degradation`. A canvas does not do this: its smoothing is
 * another filter in every browser.
 *
 * Source: R. Keys, "Cubic convolution interpolation for digital image processing", 1981 (the kernel, a = -0.5).
 */

/**
 * For every output place: which input places it mixes, in rising order, and with which weights.
 *
 * @typedef {{indices: number[], weights: number[]}[]} Taps
 */

/** @param {number} x */
function cubic(x) {
  const a = Math.abs(x);
  if (a <= 1) return 1.5 * a ** 3 - 2.5 * a ** 2 + 1;
  return a <= 2 ? -0.5 * a ** 3 + 2.5 * a ** 2 - 4 * a + 2 : 0;
}

/**
 * The taps of a resize along one axis.
 *
 * @param {number} length of the input
 * @param {number} scale output side over input side; below 1 the kernel is stretched, which is the antialiasing
 * @returns {Taps}
 */
export function taps(length, scale) {
  // 1/3 is no exact number here: without the small allowance 9 pixels could become 4.
  const outLength = Math.ceil(length * scale - 1e-9);
  const stretch = Math.min(scale, 1);
  const kernel = 4 / stretch;
  const made = [];
  for (let out = 0; out < outLength; out++) {
    const centre = (out + 0.5) / scale - 0.5;
    const left = Math.floor(centre - kernel / 2);
    const raw = [];
    for (let n = 0; n < Math.ceil(kernel) + 2; n++) raw.push(stretch * cubic(stretch * (centre - (left + n))));
    const sum = raw.reduce((total, weight) => total + weight, 0);
    /** @type {Map<number, number>} */
    const byIndex = new Map();
    raw.forEach((weight, n) => {
      if (weight === 0) return;
      const index = mirrored(left + n, length);
      byIndex.set(index, (byIndex.get(index) ?? 0) + weight / sum);
    });
    const indices = [...byIndex.keys()].sort((a, b) => a - b);
    made.push({ indices, weights: indices.map((index) => /** @type {number} */ (byIndex.get(index))) });
  }
  return made;
}

/** Outside the image MATLAB mirrors, the border pixel included. @param {number} index @param {number} length */
function mirrored(index, length) {
  const place = ((index % (2 * length)) + 2 * length) % (2 * length);
  return place < length ? place : 2 * length - 1 - place;
}

/**
 * Resize an RGBA image, all four channels alike. Rounded once, after both passes.
 *
 * @param {Uint8Array | Uint8ClampedArray} rgba
 * @param {number} width
 * @param {number} height
 * @param {number} scale such as 3 or 1/3
 * @param {{from?: number, to?: number}} [rows] the output rows wanted; all if not given
 * @returns {{data: Uint8ClampedArray, width: number, height: number}}
 */
export function resize(rgba, width, height, scale, rows = {}) {
  const down = taps(height, scale);
  const across = taps(width, scale);
  const from = rows.from ?? 0;
  const to = rows.to ?? down.length;
  const data = new Uint8ClampedArray((to - from) * across.length * 4);
  const row = new Float64Array(width * 4);
  let place = 0;
  for (let y = from; y < to; y++) {
    row.fill(0);
    down[y].indices.forEach((index, n) => {
      const weight = down[y].weights[n];
      const start = index * width * 4;
      for (let i = 0; i < row.length; i++) row[i] += weight * rgba[start + i];
    });
    for (const { indices, weights } of across) {
      let red = 0;
      let green = 0;
      let blue = 0;
      let alpha = 0;
      for (let n = 0; n < indices.length; n++) {
        const at = indices[n] * 4;
        const weight = weights[n];
        red += weight * row[at];
        green += weight * row[at + 1];
        blue += weight * row[at + 2];
        alpha += weight * row[at + 3];
      }
      // The array clamps; its own rounding takes halves to even, which is not MATLAB's.
      data[place++] = Math.floor(red + 0.5);
      data[place++] = Math.floor(green + 0.5);
      data[place++] = Math.floor(blue + 0.5);
      data[place++] = Math.floor(alpha + 0.5);
    }
  }
  return { data, width: across.length, height: to - from };
}

/**
 * Crop the bottom and right of an RGBA image so that `scale` divides both sides.
 *
 * @param {{data: Uint8ClampedArray, width: number, height: number}} image
 * @param {number} scale
 * @returns {{data: Uint8ClampedArray, width: number, height: number}}
 */
export function cropToMultiple(image, scale) {
  const width = image.width - (image.width % scale);
  const height = image.height - (image.height % scale);
  if (width === image.width) return { data: image.data.subarray(0, 4 * width * height), width, height };
  const data = new Uint8ClampedArray(4 * width * height);
  for (let y = 0; y < height; y++) {
    data.set(image.data.subarray(4 * y * image.width, 4 * (y * image.width + width)), 4 * y * width);
  }
  return { data, width, height };
}

/**
 * PSNR and SSIM of two RGBA images under the authors' protocol, as in `abpn_lib.metrics`: the three colours, one border
 * pixel cropped.
 *
 * Source: Z. Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.
 */

const BORDER = 1;
const SIGMA = 1.5;
const RADIUS = 5; // of SSIM's 11x11 Gaussian window

/**
 * Peak signal-to-noise ratio in dB, the squared error averaged over pixels and colours together.
 *
 * @param {Uint8ClampedArray} truth RGBA
 * @param {Uint8ClampedArray} estimate RGBA of the same size
 * @param {number} width
 * @param {number} height
 * @returns {number} Infinity for equal images
 */
export function psnr(truth, estimate, width, height) {
  const sum = sumInside(width, height, BORDER, (at) => {
    const red = truth[at] - estimate[at];
    const green = truth[at + 1] - estimate[at + 1];
    const blue = truth[at + 2] - estimate[at + 2];
    return red * red + green * green + blue * blue;
  });
  return decibels(sum / 3, width, height, BORDER);
}

/**
 * The same of BT.601's luma, as most papers have it.
 *
 * @param {Uint8ClampedArray} truth RGBA
 * @param {Uint8ClampedArray} estimate RGBA of the same size
 * @param {number} width
 * @param {number} height
 * @param {number} border pixels that are cropped
 * @returns {number}
 */
export function psnrOfLuma(truth, estimate, width, height, border) {
  const weights = [65.481, 128.553, 24.966];
  const sum = sumInside(width, height, border, (at) => {
    const difference = weights.reduce((all, weight, n) => all + weight * (truth[at + n] - estimate[at + n]), 0) / 255;
    return difference * difference;
  });
  return decibels(sum, width, height, border);
}

/**
 * @param {number} width
 * @param {number} height
 * @param {number} border
 * @param {(at: number) => number} of gets where a pixel stands in RGBA data
 */
function sumInside(width, height, border, of) {
  let sum = 0;
  for (let y = border; y < height - border; y++) {
    for (let x = border; x < width - border; x++) sum += of(4 * (y * width + x));
  }
  return sum;
}

/** @param {number} sum of squares @param {number} width @param {number} height @param {number} border */
function decibels(sum, width, height, border) {
  return 10 * Math.log10((255 * 255 * (width - 2 * border) * (height - 2 * border)) / sum);
}

/**
 * Structural similarity, the mean over pixels and colours; Gaussian window, population covariance.
 *
 * @param {Uint8ClampedArray} truth RGBA
 * @param {Uint8ClampedArray} estimate RGBA of the same size
 * @param {number} width
 * @param {number} height
 * @returns {number} NaN if a side is under 13 pixels, which leaves the window no place
 */
export function ssim(truth, estimate, width, height) {
  let sum = 0;
  for (let colour = 0; colour < 3; colour++) sum += ssimOfColour(truth, estimate, width, height, colour);
  return sum / 3;
}

const WINDOW = (() => {
  const weights = Array.from({ length: 2 * RADIUS + 1 }, (_, n) => Math.exp(-0.5 * ((n - RADIUS) / SIGMA) ** 2));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
})();

/**
 * @param {Uint8ClampedArray} truth
 * @param {Uint8ClampedArray} estimate
 * @param {number} width
 * @param {number} height
 * @param {number} colour
 */
function ssimOfColour(truth, estimate, width, height, colour) {
  const c1 = (0.01 * 255) ** 2;
  const c2 = (0.03 * 255) ** 2;
  const [from, bottom, right] = [BORDER + RADIUS, height - BORDER - RADIUS, width - BORDER - RADIUS];
  // Means of x, y, xx, yy and xy down the window, for each column of one row of results.
  const down = Array.from({ length: 5 }, () => new Float64Array(width));
  let sum = 0;
  let count = 0;
  for (let y = from; y < bottom; y++) {
    down.forEach((line) => line.fill(0));
    for (let n = -RADIUS; n <= RADIUS; n++) {
      const weight = WINDOW[n + RADIUS];
      for (let x = BORDER, at = 4 * ((y + n) * width + BORDER) + colour; x < width - BORDER; x++, at += 4) {
        const a = truth[at];
        const b = estimate[at];
        down[0][x] += weight * a;
        down[1][x] += weight * b;
        down[2][x] += weight * a * a;
        down[3][x] += weight * b * b;
        down[4][x] += weight * a * b;
      }
    }
    for (let x = from; x < right; x++) {
      const [a, b, aa, bb, ab] = down.map((line) => across(line, x));
      const similar = (2 * a * b + c1) * (2 * (ab - a * b) + c2);
      sum += similar / ((a * a + b * b + c1) * (aa - a * a + (bb - b * b) + c2));
      count++;
    }
  }
  return sum / count;
}

/** @param {Float64Array} line @param {number} x */
function across(line, x) {
  let sum = 0;
  for (let n = -RADIUS; n <= RADIUS; n++) sum += WINDOW[n + RADIUS] * line[x + n];
  return sum;
}

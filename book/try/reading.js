/**
 * How the values of a model are to be read as pixels, by the rule of `abpn_lib.score`: its quantisation, what it takes
 * for black and white, and the order of its colours.
 */

/** What black and white are in a model, by the range's name. @type {Record<string, [number, number]>} */
export const RANGES = { "0..255": [0, 255], "0..1": [0, 1], "-1..1": [-1, 1] };

export const ARRAYS = { uint8: Uint8Array, int8: Int8Array, float32: Float32Array };
const LIMITS = { uint8: [0, 255], int8: [-128, 127] };

/**
 * @typedef {import("./flatbuffer.js").Image} Image
 * @typedef {{range: string, colour: string}} Way `colour` is "rgb" or "bgr"
 */

/**
 * @param {Image} image of the input
 * @param {Way} way
 * @returns {(rgb: Uint8Array) => Uint8Array | Int8Array | Float32Array}
 */
export function valuesOf(image, { range, colour }) {
  const [low, high] = RANGES[range];
  const { scale, zero } = quantization(image);
  const table = new ARRAYS[image.dtype](256);
  const [step, start, unit] = [(high - low) / 255, low, scale].map(Math.fround);
  for (let pixel = 0; pixel < 256; pixel++) {
    // Rounded to float32 after each step, as the library's arrays are.
    const value = Math.fround(Math.fround(Math.fround(Math.fround(pixel * step) + start) / unit) + zero);
    table[pixel] = image.dtype === "float32" ? value : clipped(halfEven(value), LIMITS[image.dtype]);
  }
  return (rgb) => {
    const values = new ARRAYS[image.dtype](rgb.length);
    for (let n = 0; n < rgb.length; n++) values[n] = table[rgb[place(n, colour)]];
    return values;
  };
}

/**
 * @param {Image} image of the output
 * @param {Way} way
 * @returns {(values: Uint8Array | Int8Array | Float32Array) => Uint8Array} RGB
 */
export function pixelsOf(image, { range, colour }) {
  const [low, high] = RANGES[range];
  const { scale, zero } = quantization(image);
  const pixel = (/** @type {number} */ value) =>
    Number.isNaN(value) ? 0 : clipped(halfEven(((value - zero) * scale - low) * (255 / (high - low))), LIMITS.uint8);
  // An integer has 256 values: each is worked out once.
  const table = image.dtype === "float32" ? null : Uint8Array.from({ length: 256 }, (_, n) => pixel(signed(n, image)));
  return (values) => {
    const rgb = new Uint8Array(values.length);
    for (let n = 0; n < rgb.length; n++) {
      const value = values[place(n, colour)];
      rgb[n] = table ? table[value & 255] : pixel(value);
    }
    return rgb;
  };
}

/** An integer without a scale is the pixel itself, int8 less 128. @param {Image} image */
function quantization({ dtype, scale, zero }) {
  if (dtype === "float32") return { scale: 1, zero: 0 };
  return scale > 0 ? { scale, zero } : { scale: 1, zero: LIMITS[dtype][0] };
}

/** @param {number} byte @param {Image} image */
function signed(byte, { dtype }) {
  return dtype === "int8" && byte > 127 ? byte - 256 : byte;
}

/** Where the value for one place stands in the other order of colours. @param {number} n @param {string} colour */
function place(n, colour) {
  return colour === "bgr" ? n + 2 - 2 * (n % 3) : n;
}

/** @param {number} value */
function halfEven(value) {
  const floor = Math.floor(value);
  const over = value - floor;
  return over > 0.5 || (over === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

/** @param {number} value @param {number[]} limits */
function clipped(value, [low, high]) {
  return Math.min(Math.max(value, low), high);
}

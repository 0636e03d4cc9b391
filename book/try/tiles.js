/**
 * Cutting an image into overlapping tiles, by the rule of `abpn_lib.tflite.upscaler`: every pixel that is kept saw what it would
 * have seen in the whole image, so that the joined result equals the untiled one bit for bit.
 */

/**
 * One tile along one axis, in LR pixels: what it reads (start to stop) and what is kept of it.
 *
 * @typedef {{start: number, stop: number, keepStart: number, keepStop: number}} Span
 */

/**
 * Cut an axis into tiles of one size; a tile that would pass a border is moved back to end there.
 *
 * @param {number} length of the image, in LR pixels
 * @param {number} tile side of what is kept of each tile
 * @param {number} halo LR pixels that a tile needs around what is kept of it
 * @returns {Span[]}
 */
export function spans(length, tile, halo) {
  const size = Math.min(length, tile + 2 * halo);
  const found = [];
  for (let keep = 0; keep < length; keep += tile) {
    const start = Math.min(Math.max(keep - halo, 0), length - size);
    found.push({ start, stop: start + size, keepStart: keep, keepStop: Math.min(keep + tile, length) });
  }
  return found;
}

/**
 * The tiles of a model that takes one size only, as in `abpn_lib.score`: an axis shorter than it is read with its last
 * pixel repeated.
 *
 * @param {number} length of the image, in LR pixels
 * @param {number} size that the model takes, in LR pixels
 * @returns {Span[]}
 */
export function fixedSpans(length, size) {
  const halo = Math.min(16, Math.floor(size / 4));
  const found = spans(Math.max(length, size), size - 2 * halo, halo).filter((span) => span.keepStart < length);
  return found.map((span) => ({ ...span, keepStop: Math.min(span.keepStop, length) }));
}

/**
 * Copy what a tile reads out of an RGBA image, without its alpha; beyond the image its last row and column are repeated.
 *
 * @param {{data: Uint8Array | Uint8ClampedArray, width: number, height: number}} image
 * @param {Span} row
 * @param {Span} column
 * @returns {Uint8Array} RGB
 */
export function readTile({ data, width, height }, row, column) {
  const rgb = new Uint8Array((row.stop - row.start) * (column.stop - column.start) * 3);
  let to = 0;
  for (let y = row.start; y < row.stop; y++) {
    const line = Math.min(y, height - 1) * width;
    for (let x = column.start; x < column.stop; x++) {
      const from = 4 * (line + Math.min(x, width - 1));
      rgb[to++] = data[from];
      rgb[to++] = data[from + 1];
      rgb[to++] = data[from + 2];
    }
  }
  return rgb;
}

/**
 * Copy what is kept of an enlarged RGB tile into the enlarged RGBA image. Its alpha is left alone.
 *
 * @param {Uint8Array | Uint8ClampedArray} rgba the enlarged image
 * @param {number} width of the image before it was enlarged
 * @param {Uint8Array} rgb the enlarged tile
 * @param {Span} row
 * @param {Span} column
 * @param {number} scale
 */
export function putTile(rgba, width, rgb, row, column, scale) {
  const tileWidth = (column.stop - column.start) * scale;
  const count = (column.keepStop - column.keepStart) * scale;
  for (let y = row.keepStart * scale; y < row.keepStop * scale; y++) {
    let from = 3 * ((y - row.start * scale) * tileWidth + (column.keepStart - column.start) * scale);
    let to = 4 * (y * width * scale + column.keepStart * scale);
    for (let n = 0; n < count; n++, to += 4) {
      rgba[to] = rgb[from++];
      rgba[to + 1] = rgb[from++];
      rgba[to + 2] = rgb[from++];
    }
  }
}

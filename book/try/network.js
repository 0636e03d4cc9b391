/** A model that is ready to enlarge: its bytes, how it is cut into tiles, how its values are read. */

import { withSize } from "./flatbuffer.js";
import { pixelsOf, valuesOf } from "./reading.js";
import { fixedSpans, putTile, readTile, spans } from "./tiles.js";

const TILE = 128; // LR pixels a side: small enough that progress moves and a cancel is heard on a phone

/**
 * `halo` is the LR pixels that a tile needs around what is kept of it, null for a graph that needs the whole image;
 * `size` the one size that it takes, or null; `sized` gives its bytes for one size.
 *
 * @typedef {import("./image.js").Pixels} Pixels
 * @typedef {{input: import("./flatbuffer.js").Image, output: import("./flatbuffer.js").Image}} Images
 * @typedef {{label: string, scale: number, halo: number | null, size: {width: number, height: number} | null,
 *   images: Images, range: string, colour: string, sized: (height: number, width: number) => Uint8Array}} Network
 */

/**
 * @param {Uint8Array} bytes
 * @param {Images} images
 * @param {{label: string, scale: number} & Partial<Network>} about what is left out is as in the page's own models
 * @returns {Network}
 */
export function network(bytes, images, about) {
  const sized = (/** @type {number} */ height, /** @type {number} */ width) => withSize(bytes, height, width, about.scale);
  return { halo: null, size: null, range: "0..255", colour: "rgb", images, sized, ...about };
}

/**
 * Enlarge an image, tile by tile.
 *
 * @param {import("./litert.js").Engine} engine
 * @param {Pixels} lr
 * @param {Network} net
 * @param {Uint8ClampedArray} data RGBA of the result; its alpha is left alone
 * @param {(done: number, total: number) => Promise<void>} tell is called before each tile, and may throw
 * @returns {Promise<Pixels & {seconds: number}>} the seconds without what had to be loaded and compiled first
 */
export async function through(engine, lr, net, data, tell) {
  const [rows, columns] = [[lr.height, net.size?.height], [lr.width, net.size?.width]].map(([length, size]) =>
    size ? fixedSpans(Number(length), size) : spans(Number(length), net.halo === null ? Number(length) : TILE, net.halo ?? 0),
  );
  const [height, width] = [rows[0].stop - rows[0].start, columns[0].stop - columns[0].start];
  const [toValues, toPixels] = [valuesOf(net.images.input, net), pixelsOf(net.images.output, net)];
  await tell(0, rows.length * columns.length);
  const compiled = await engine.compile(net.sized(height, width));
  const started = performance.now();
  try {
    let done = 0;
    for (const row of rows) {
      for (const column of columns) {
        await tell(done++, rows.length * columns.length);
        const values = await engine.run(compiled, toValues(readTile(lr, row, column)), height, width);
        putTile(data, lr.width, toPixels(values), row, column, net.scale);
      }
    }
  } finally {
    compiled.delete();
  }
  const seconds = (performance.now() - started) / 1000;
  return { data, width: lr.width * net.scale, height: lr.height * net.scale, seconds };
}

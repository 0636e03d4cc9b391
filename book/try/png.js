/**
 * Writing a PNG of any size with straight alpha. A canvas cannot be asked to: it has a size limit, and rounds colours
 * under transparent places.
 *
 * Source: the PNG specification, W3C.
 */

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** @param {Uint8Array[]} parts */
function crc32(...parts) {
  let crc = 0xffffffff;
  for (const part of parts) for (const byte of part) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/**
 * @param {string} name
 * @param {Uint8Array} data
 * @returns {Uint8Array[]}
 */
function chunk(name, data) {
  const head = new Uint8Array(8);
  new DataView(head.buffer).setUint32(0, data.length);
  head.set(new TextEncoder().encode(name), 4);
  const tail = new Uint8Array(4);
  new DataView(tail.buffer).setUint32(0, crc32(head.subarray(4), data));
  return [head, data, tail];
}

/**
 * Encode an RGBA image, as RGB where it is opaque.
 *
 * @param {Uint8ClampedArray} rgba
 * @param {number} width
 * @param {number} height
 * @param {boolean} alpha whether to write the alpha channel
 * @returns {Promise<Blob>}
 */
export async function encode(rgba, width, height, alpha) {
  const channels = alpha ? 4 : 3;
  let y = 0;
  const lines = new ReadableStream({
    pull(controller) {
      if (y === height) return controller.close();
      controller.enqueue(filtered(rgba, width, y++, channels));
    },
  });
  /** @type {Uint8Array[]} */
  const parts = [Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a)];
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, alpha ? 6 : 2, 0, 0, 0], 8);
  parts.push(...chunk("IHDR", header), ...chunk("sRGB", Uint8Array.of(0)));
  const reader = lines.pipeThrough(new CompressionStream("deflate")).getReader();
  for (let next = await reader.read(); !next.done; next = await reader.read()) parts.push(...chunk("IDAT", next.value));
  parts.push(...chunk("IEND", new Uint8Array(0)));
  return new Blob(/** @type {BlobPart[]} */ (parts), { type: "image/png" });
}

/**
 * One line, each byte less the one above it ("Up"), which compresses photographs well enough at no cost.
 *
 * @param {Uint8ClampedArray} rgba
 * @param {number} width
 * @param {number} y
 * @param {number} channels
 */
function filtered(rgba, width, y, channels) {
  const line = new Uint8Array(1 + width * channels);
  line[0] = y ? 2 : 0;
  const start = 4 * y * width;
  const above = y ? 4 * width : 0;
  for (let x = 0, to = 1; x < width; x++) {
    for (let c = 0; c < channels; c++) {
      const at = start + 4 * x + c;
      line[to++] = above ? rgba[at] - rgba[at - above] : rgba[at];
    }
  }
  return line;
}

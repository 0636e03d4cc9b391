/**
 * Reading the reader's image: what it is and how large, told from its first bytes before anything is decoded; then its
 * pixels, upright, with straight alpha.
 */

/**
 * An RGBA image in rows from the top.
 *
 * @typedef {{data: Uint8ClampedArray, width: number, height: number}} Pixels
 */

/** A sentence for the reader. */
export class ImageError extends Error {}

/**
 * The form and the size of an image file, as far as its first bytes tell.
 *
 * @param {Uint8Array} bytes
 * @returns {{form: string, width: number, height: number} | null} sizes 0 where they are not told; null if no image
 */
export function sniff(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = (/** @type {number} */ at, /** @type {number} */ count) =>
    String.fromCharCode(...bytes.subarray(at, at + count));
  try {
    if (text(0, 8) === "\x89PNG\r\n\x1a\n") {
      return { form: "PNG", width: view.getUint32(16), height: view.getUint32(20) };
    }
    if (bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff) return { form: "JPEG", ...jpegSize(view) };
    if (text(0, 4) === "GIF8") {
      return { form: "GIF", width: view.getUint16(6, true), height: view.getUint16(8, true) };
    }
    if (text(0, 2) === "BM" && bytes.length > 26) {
      return { form: "BMP", width: Math.abs(view.getInt32(18, true)), height: Math.abs(view.getInt32(22, true)) };
    }
    if (text(0, 4) === "RIFF" && text(8, 4) === "WEBP") return { form: "WebP", ...webpSize(view, text(12, 4)) };
    if (text(4, 4) === "ftyp" && /^(avif|avis|heic|heix|mif1)/.test(text(8, 4))) {
      return { form: text(8, 4).startsWith("avi") ? "AVIF" : "HEIC", width: 0, height: 0 };
    }
    if (text(0, 4) === "II*\0" || text(0, 4) === "MM\0*") return { form: "TIFF", width: 0, height: 0 };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return { form: "cut", width: 0, height: 0 }; // the mark is there, the header is not
  }
  return null;
}

/** @param {DataView} view */
function jpegSize(view) {
  let at = 2;
  while (at + 9 < view.byteLength && view.getUint8(at) === 0xff) {
    const marker = view.getUint8(at + 1);
    // A start-of-frame marker; the four left out among them mean something else.
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      return { width: view.getUint16(at + 7), height: view.getUint16(at + 5) };
    }
    at += marker === 0xff ? 1 : 2 + view.getUint16(at + 2);
  }
  return { width: 0, height: 0 };
}

/** @param {DataView} view @param {string} kind */
function webpSize(view, kind) {
  if (kind === "VP8X") {
    const three = (/** @type {number} */ at) => view.getUint16(at, true) + (view.getUint8(at + 2) << 16);
    return { width: three(24) + 1, height: three(27) + 1 };
  }
  if (kind === "VP8L") {
    const bits = view.getUint32(21, true);
    return { width: (bits & 0x3fff) + 1, height: ((bits >> 14) & 0x3fff) + 1 };
  }
  return { width: view.getUint16(26, true) & 0x3fff, height: view.getUint16(28, true) & 0x3fff };
}

/**
 * Decode an image file whole, turned upright by its EXIF orientation.
 *
 * @param {Blob} file
 * @param {number} maxPixels
 * @returns {Promise<Pixels>}
 * @throws {ImageError} if it is no image, a broken or a huge one
 */
export async function decode(file, maxPixels) {
  const found = sniff(new Uint8Array(await file.slice(0, 1 << 18).arrayBuffer()));
  if (!found) throw new ImageError("This file is not an image that is known here; choose a PNG, JPEG, WebP, GIF or BMP.");
  demandSize(found, maxPixels);
  /** @type {ImageBitmap} */
  let bitmap;
  try {
    // Colours are converted to sRGB, which is what the PNG that is written is read as.
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", premultiplyAlpha: "none" });
  } catch {
    throw new ImageError(
      ["AVIF", "HEIC", "TIFF"].includes(found.form)
        ? `This browser cannot read ${found.form} images; choose a PNG or a JPEG.`
        : "This image is broken, or cut short, and cannot be read.",
    );
  }
  try {
    demandSize(bitmap, maxPixels);
    return await pixelsOf(bitmap);
  } finally {
    bitmap.close();
  }
}

/**
 * @param {{width: number, height: number}} size
 * @param {number} maxPixels
 */
function demandSize({ width, height }, maxPixels) {
  if (width * height > maxPixels) {
    throw new ImageError(
      `This image has ${millions(width * height)} million pixels, and this page takes ${millions(maxPixels)}: ` +
        "crop it, make it smaller, or use the command abpn upscale.",
    );
  }
}

/** @param {number} count */
export function millions(count) {
  return (count / 1e6).toFixed(count < 1e7 ? 1 : 0);
}

const STRIP = 1 << 20; // pixels on the canvas at once: phones limit a canvas far below an image

/**
 * @param {ImageBitmap} bitmap
 * @returns {Promise<Pixels>}
 */
async function pixelsOf(bitmap) {
  const { width, height } = bitmap;
  const data = new Uint8ClampedArray(4 * width * height);
  const rows = Math.max(1, Math.floor(STRIP / width));
  const canvas = new OffscreenCanvas(width, Math.min(rows, height));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new ImageError("This browser gives no canvas to read the image with.");
  for (let y = 0; y < height; y += rows) {
    const count = Math.min(rows, height - y);
    context.clearRect(0, 0, width, count);
    context.drawImage(bitmap, 0, y, width, count, 0, 0, width, count);
    data.set(context.getImageData(0, 0, width, count).data, 4 * y * width);
  }
  if (hasAlpha(data)) await readStraight(bitmap, data);
  return { data, width, height };
}

/** @param {Uint8ClampedArray} rgba */
export function hasAlpha(rgba) {
  for (let at = 3; at < rgba.length; at += 4) if (rgba[at] !== 255) return true;
  return false;
}

/**
 * Read the colours under a transparent place as the file has them: a canvas keeps them multiplied by alpha, which
 * blackens what is transparent. Where WebGL is missing, the canvas's values stay.
 *
 * @param {ImageBitmap} bitmap
 * @param {Uint8ClampedArray} data what to write to
 */
async function readStraight(bitmap, data) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl || width > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return;
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  const rows = Math.min(Math.max(1, Math.floor(STRIP / width)), gl.getParameter(gl.MAX_TEXTURE_SIZE));
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  for (let y = 0; y < height; y += rows) {
    const count = Math.min(rows, height - y);
    const strip = await createImageBitmap(bitmap, 0, y, width, count, { premultiplyAlpha: "none" });
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, strip);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
    const read = new Uint8Array(4 * width * count);
    gl.readPixels(0, 0, width, count, gl.RGBA, gl.UNSIGNED_BYTE, read);
    if (gl.getError() === gl.NO_ERROR) data.set(read, 4 * y * width);
    gl.deleteTexture(texture);
    strip.close();
  }
  gl.getExtension("WEBGL_lose_context")?.loseContext();
}

/** The page's parts against what the library computes: VECTORS names a file of inputs and results. */

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { cropToMultiple, resize } from "../bicubic.js";
import { difference } from "../difference.js";
import { imagesOf, withSize } from "../flatbuffer.js";
import { sniff } from "../image.js";
import { psnr, psnrOfLuma, ssim } from "../metrics.js";
import { encode } from "../png.js";
import { pixelsOf, RANGES, valuesOf } from "../reading.js";
import { challengeScore, medianInterval, pairedRatio, records } from "../stats.js";
import { fixedSpans, putTile, readTile, spans } from "../tiles.js";
import { markdown } from "../yours.js";

const vectors = JSON.parse(readFileSync(String(process.env.VECTORS), "utf8"));

test("bicubic gives the library's values exactly", () => {
  for (const { width, height, scale, pixels, expected } of vectors.bicubic) {
    const factor = scale > 0 ? scale : -1 / scale;
    const whole = resize(Uint8Array.from(pixels), width, height, factor);
    assert.deepEqual(Array.from(whole.data), expected, `${width}x${height} by ${factor}`);
    const last = resize(Uint8Array.from(pixels), width, height, factor, { from: whole.height - 1 });
    assert.deepEqual(Array.from(last.data), expected.slice(-4 * whole.width), "a band of rows");
  }
});

test("a crop drops what is right of and below a multiple", () => {
  const data = Uint8ClampedArray.from({ length: 4 * 5 * 4 }, (_, n) => n);
  const cropped = cropToMultiple({ data, width: 5, height: 4 }, 3);
  assert.deepEqual([cropped.width, cropped.height], [3, 3]);
  assert.deepEqual(Array.from(cropped.data.slice(12, 16)), [20, 21, 22, 23]);
});

test("PSNR and SSIM agree with the library", () => {
  for (const { width, height, truth, other, ...expected } of vectors.scores) {
    const [a, b] = [Uint8ClampedArray.from(truth), Uint8ClampedArray.from(other)];
    assert.ok(Math.abs(psnr(a, b, width, height) - expected.psnr) < 1e-9);
    assert.ok(Math.abs(ssim(a, b, width, height) - expected.ssim) < 1e-9);
    assert.ok(Math.abs(psnrOfLuma(a, b, width, height, 3) - expected.luma) < 1e-9);
    assert.equal(psnr(a, a, width, height), Infinity);
  }
});

test("tiles are cut as in the library, and put together without a seam", () => {
  for (const { length, tile, halo, expected } of vectors.spans) {
    const found = spans(length, tile, halo).map((span) => [span.start, span.stop, span.keepStart, span.keepStop]);
    assert.deepEqual(found, expected);
  }
  const [width, height] = [11, 7];
  const rgba = Uint8ClampedArray.from({ length: 4 * width * height }, (_, n) => (n % 4 === 3 ? 255 : (n * 37) % 251));
  const out = new Uint8ClampedArray(rgba.length).fill(255);
  for (const row of spans(height, 3, 1)) {
    for (const column of spans(width, 4, 1)) putTile(out, width, readTile({ data: rgba, width, height }, row, column), row, column, 1);
  }
  assert.deepEqual(out, rgba);
  out.fill(255);
  // A model of one size: larger than the image on one axis, smaller on the other.
  for (const row of fixedSpans(height, 9)) {
    for (const column of fixedSpans(width, 6)) {
      assert.deepEqual([row.stop - row.start, column.stop - column.start], [9, 6]);
      putTile(out, width, readTile({ data: rgba, width, height }, row, column), row, column, 1);
    }
  }
  assert.deepEqual(out, rgba);
});

test("values are read as the library's scorer reads them", () => {
  const rgb = Uint8Array.from({ length: 768 }, (_, n) => Math.floor(n / 3));
  for (const { image, range, values, outputs, pixels } of vectors.readings) {
    assert.ok(range in RANGES);
    const way = { range, colour: "rgb" };
    assert.deepEqual(Array.from(valuesOf(image, way)(rgb)), values, `${image.dtype} ${range}`);
    const array = { uint8: Uint8Array, int8: Int8Array, float32: Float32Array }[/** @type {"uint8"} */ (image.dtype)];
    assert.deepEqual(Array.from(pixelsOf(image, way)(array.from(outputs))), pixels, `${image.dtype} ${range}`);
  }
  const image = { dtype: /** @type {"uint8"} */ ("uint8"), height: -1, width: -1, scale: 1, zero: 0 };
  const way = { range: "0..255", colour: "bgr" };
  assert.deepEqual(Array.from(valuesOf(image, way)(Uint8Array.of(1, 2, 3, 4, 5, 6))), [3, 2, 1, 6, 5, 4]);
  assert.deepEqual(Array.from(pixelsOf(image, way)(Uint8Array.of(3, 2, 1, 6, 5, 4))), [1, 2, 3, 4, 5, 6]);
  const float = { ...image, dtype: /** @type {"float32"} */ ("float32") };
  assert.deepEqual(Array.from(pixelsOf(float, way)(Float32Array.of(NaN, -1e9, Infinity))), [255, 0, 0]);
});

test("a map of differences has one scale, and its mean", () => {
  const [one, other] = [[0, 9, 255, 255, 30, 30, 30, 255], [3, 0, 255, 255, 30, 30, 30, 0]].map((v) => Uint8ClampedArray.from(v));
  const { pixels, mean } = difference({ data: one, width: 2, height: 1 }, { data: other }, 4);
  assert.equal(mean, 2);
  assert.deepEqual(Array.from(pixels.data), [252, 255, 164, 255, 0, 0, 4, 255]);
});

test("a model is patched for a size, and nothing else of it changes", () => {
  for (const [name, path] of Object.entries(vectors.models)) {
    const model = new Uint8Array(readFileSync(/** @type {string} */ (path)));
    const before = model.slice();
    const patched = withSize(model, 9, 14, 3);
    assert.deepEqual(model, before, "the original is left alone");
    const changed = patched.reduce((count, byte, n) => count + Number(byte !== model[n]), 0);
    // Two sides of two tensors, in shape (1 becomes n) and in signature (-1, four bytes, becomes n).
    assert.equal(changed, 2 * 2 * (1 + 4));
    writeFileSync(join(String(process.env.PATCHED), `${name}.tflite`), patched);
    assert.deepEqual([imagesOf(model).input.height, imagesOf(patched).input.height], [-1, 9]);
    assert.deepEqual(withSize(patched, 5, 6, 3), withSize(model, 5, 6, 3), "and again");
  }
});

test("a file that is no such model gets one sentence, wherever it is cut or spoilt", () => {
  assert.throws(() => imagesOf(new Uint8Array(100)), /not a \.tflite that enlarges.*mark/);
  assert.throws(() => imagesOf(new Uint8Array(3)), /broken, or cut short/);
  const model = new Uint8Array(readFileSync(vectors.models.abpn));
  let refused = 0;
  for (let n = 0; n < 2000; n++) {
    const spoilt = model.slice(0, n % 2 ? model.length : 8 + n);
    for (let k = 0; k < 40; k++) spoilt[(n * 7919 + k * k * 104729) % spoilt.length] = (n * 31 + k * 17) & 255;
    try {
      imagesOf(spoilt);
    } catch (error) {
      refused++;
      assert.match(error.message, /^This is not a \.tflite that enlarges an RGB image: [^.]+\.$/);
    }
  }
  assert.ok(refused > 1000, `${refused} of 2000`);
});

test("images are told by their first bytes", () => {
  const bytes = (/** @type {(string | number[])[]} */ ...parts) =>
    Uint8Array.from(parts.flatMap((part) => (typeof part === "string" ? [...Buffer.from(part, "latin1")] : part)));
  const png = bytes("\x89PNG\r\n\x1a\n", [0, 0, 0, 13], "IHDR", [0, 0, 1, 2, 0, 0, 0, 9]);
  assert.deepEqual(sniff(png), { form: "PNG", width: 258, height: 9 });
  assert.equal(sniff(png.subarray(0, 18))?.form, "cut");
  const jpeg = bytes([255, 216, 255, 224, 0, 4, 0, 0, 255, 196, 0, 3, 0, 255, 194, 0, 11, 8, 0, 20, 0, 30, 3, 0, 0, 0, 0]);
  assert.deepEqual(sniff(jpeg), { form: "JPEG", width: 30, height: 20 });
  const gif = bytes("GIF89a", [4, 1, 3, 0]);
  assert.deepEqual(sniff(gif), { form: "GIF", width: 260, height: 3 });
  const webp = bytes("RIFF", [0, 0, 0, 0], "WEBPVP8X", [10, 0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 49, 0, 0]);
  assert.deepEqual(sniff(webp), { form: "WebP", width: 100, height: 50 });
  assert.equal(sniff(bytes([0, 0, 0, 32], "ftypheic", [0, 0]))?.form, "HEIC");
  assert.equal(sniff(bytes("<svg/>")), null);
  assert.equal(sniff(new Uint8Array(0)), null);
});

test("a PNG is written whole", async () => {
  const blob = await encode(Uint8ClampedArray.of(1, 2, 3, 4, 5, 6, 7, 8), 1, 2, true);
  const content = Buffer.from(await blob.arrayBuffer());
  assert.deepEqual(sniff(content), { form: "PNG", width: 1, height: 2 });
  assert.equal(content.subarray(-8, -4).toString(), "IEND");
});

test("medians and their intervals are the library's", () => {
  for (const { samples, expected } of vectors.intervals) {
    const { median, low, high } = medianInterval(samples);
    assert.deepEqual([low, high], expected.slice(1), `${samples.length} samples`);
    assert.ok(Math.abs(median - expected[0]) < 1e-12);
  }
});

test("ratios are paired, and a score is the challenge's", () => {
  assert.deepEqual(pairedRatio([2, 40, 3], [1, 10, 1]), { median: 3, low: 2, high: 4 });
  for (const { psnr: db, ms, expected } of vectors.points) assert.ok(Math.abs(challengeScore(db, ms) - expected) < 1e-9);
  assert.equal(markdown({ Model: "a|b", "x": "1" }), "| Model | x |\n| --- | --- |\n| a/b | 1 |");
});

test("a record says what, where and how", () => {
  const timing = {
    subject: "node-add", columns: { network: "node-add" }, size: "1920x1080", channels: 3, threads: 2, samples: [3, 1, 2],
    sha256: "ab",
  };
  const where = { userAgent: "UA", cores: 4, gpu: "maker model", date: "2026-01-02" };
  const { contexts, records: [cpu, gpu] } = records(
    [{ ...timing, backend: "wasm" }, { ...timing, backend: "webgpu" }], { commit: "c", litert: "2" }, where,
  );
  assert.equal(cpu.value, 2);
  assert.deepEqual(cpu.spread, [1, 3]);
  const { network, size, threads, kernels, channels } = cpu;
  assert.deepEqual([network, size, threads, kernels, channels], ["node-add", "1920x1080", 2, "xnnpack-wasm", 3]);
  assert.equal(contexts[cpu.context].device, "browser: UA, 4 logical CPUs");
  assert.match(contexts[gpu.context].device, /GPU maker model$/);
  assert.equal(gpu.kernels, "webgpu");
});

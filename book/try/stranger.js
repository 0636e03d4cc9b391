/**
 * A reader's .tflite: by how much it enlarges, which sizes it takes and how its values are to be read, found out by
 * trying, as in `abpn_lib.score`. It is only ever run in a worker of its own, so that a crash costs nothing else.
 */

import { ModelError, withSize } from "./flatbuffer.js";
import { cannotRun } from "./litert.js";
import { network } from "./network.js";
import { ARRAYS, RANGES } from "./reading.js";

/**
 * @typedef {import("./litert.js").Engine} Engine
 * @typedef {import("./network.js").Network} Network
 * @typedef {import("./network.js").Images} Images
 * @typedef {{height: number, width: number}} Size
 */

const ANY = { height: 24, width: 36 };
const MOST_SIDES = 2 ** 22; // LR pixels of the one size that a model takes
const MOST_SCALE = 8;
// Apart in any range: a float that takes 0..1 clips the second, one that takes 0..255 hardly sees the first.
const DARK_AND_BRIGHT = { uint8: [64, 192], int8: [-64, 64], float32: [0.25, 192] };

/**
 * @param {Engine} engine
 * @param {{bytes: Uint8Array, images: Images, told: {range: string, colour: string}, ownSize: boolean,
 *   tried: (net: Network) => Promise<number>}} model `told` is "" where it is to be found out, `ownSize` for a model
 *   that another size has crashed, `tried` the PSNR of one image
 * @returns {Promise<Network & {found: string}>}
 * @throws {ModelError}
 */
export async function readModel(engine, { bytes, images, told, ownSize, tried }) {
  const { scale, size } = await fitted(engine, bytes, images, ownSize);
  const readings = [];
  for (const range of told.range ? [told.range] : Object.keys(RANGES)) {
    for (const colour of told.colour ? [told.colour] : ["rgb", "bgr"]) {
      const net = network(bytes, images, { label: "your model", scale, size, halo: 16, range, colour });
      readings.push({ net, db: await tried(net), text: `${range} ${colour.toUpperCase()}` });
    }
  }
  // Networks hardly tell RGB from BGR: RGB is taken unless BGR is 0.2 dB ahead.
  const worth = (/** @type {typeof readings[0]} */ { net, db }) => db - 0.2 * Number(net.colour === "bgr");
  const best = readings.reduce((one, other) => (worth(other) > worth(one) ? other : one));
  const all = readings.map(({ text, db }) => `${text} ${db.toFixed(2)}`).join(", ");
  return { ...best.net, found: `values in ${best.text}, of those tried (PSNR in dB): ${all}` };
}

/**
 * Which size it takes, and by how much it enlarges. A file of one size is tried at another first: most run at any.
 *
 * @param {Engine} engine
 * @param {Uint8Array} bytes
 * @param {Images} images
 * @param {boolean} ownSize
 * @returns {Promise<{scale: number, size: Size | null}>}
 */
async function fitted(engine, bytes, images, ownSize) {
  const { input, output } = images;
  const open = input.height === -1 || input.width === -1;
  if (!ownSize || open) {
    const scale = await scaleAt(engine, bytes, images, ANY).catch((error) => {
      if (open || !(error instanceof ModelError)) throw error;
      return 0;
    });
    if (scale) return { scale, size: null };
  }
  const size = { height: input.height, width: input.width };
  const scale = output.height / size.height;
  if (open) {
    throw new ModelError("This model does not run here (a copy of it for one size may), or does not enlarge an image by 2, 3 or 4.");
  }
  if (size.height * size.width > MOST_SIDES || ![2, 3, 4].includes(scale) || output.width !== size.width * scale) {
    throw new ModelError("This model does not run here, or does not enlarge an image by 2, 3 or 4.");
  }
  if (!(await alive(engine, bytes, images, size, scale))) throw new ModelError("LiteRT cannot run this model in a browser.");
  return { scale, size };
}

/**
 * The scale of a model at a size that is not its own, 0 if it does not run.
 *
 * In the first run LiteRT trusts the size that the file states for its output, and writes beyond it where the output is
 * larger. So a large one is stated, and the second run tells what the output really is.
 *
 * @param {Engine} engine
 * @param {Uint8Array} bytes
 * @param {Images} images
 * @param {Size} size
 */
async function scaleAt(engine, bytes, images, size) {
  const { height, width } = size;
  const compiled = await engine.compile(withSize(bytes, height, width, MOST_SCALE)).catch(refuse);
  const count = await engine.sizeOfOutput(compiled, grey(images, size, 0), height, width).catch(refuse);
  compiled.delete();
  const scale = Math.sqrt(count / ARRAYS[images.output.dtype].BYTES_PER_ELEMENT / (height * width * 3));
  if (Number.isInteger(scale) && ![2, 3, 4, MOST_SCALE].includes(scale)) {
    throw new ModelError(`This model enlarges by ${scale}, and this page takes those that do by 2, 3 or 4.`);
  }
  return [2, 3, 4].includes(scale) && (await alive(engine, bytes, images, size, scale)) ? scale : 0;
}

/**
 * Whether a model's output depends on its input: LiteRT does not always say that it could not run one.
 *
 * @param {Engine} engine
 * @param {Uint8Array} bytes
 * @param {Images} images
 * @param {Size} size
 * @param {number} scale
 */
async function alive(engine, bytes, images, size, scale) {
  const { height, width } = size;
  const compiled = await engine.compile(withSize(bytes, height, width, scale)).catch(refuse);
  const run = (/** @type {number} */ which) => engine.run(compiled, grey(images, size, which), height, width).catch(refuse);
  const [dark, bright] = [(await run(0)).slice(), await run(1)];
  compiled.delete();
  let apart = 0;
  for (let n = 0; n < dark.length; n++) apart += Number(dark[n] !== bright[n]);
  return apart > dark.length / 2;
}

/** A dark (0) or a bright (1) image for a model. @param {Images} images @param {Size} size @param {number} which */
function grey({ input }, { height, width }, which) {
  return new ARRAYS[input.dtype](height * width * 3).fill(DARK_AND_BRIGHT[input.dtype][which]);
}

/** @param {unknown} error @returns {never} */
function refuse(error) {
  const lost = error instanceof WebAssembly.RuntimeError || error instanceof RangeError; // the worker is
  throw lost || error instanceof ModelError ? error : cannotRun(error);
}

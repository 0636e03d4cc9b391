/**
 * What a .tflite says of its input and output, and the same model for another image size. The browser's LiteRT has no
 * resize call, so the sizes that the file itself states for its input and output are overwritten; LiteRT derives all
 * others from them.
 *
 * Source: `schema.fbs` of TensorFlow Lite (the field numbers below) and the FlatBuffers binary format.
 */

// Field numbers in schema.fbs.
const MODEL_SUBGRAPHS = 2;
const SUBGRAPH_TENSORS = 0;
const SUBGRAPH_INPUTS = 1;
const SUBGRAPH_OUTPUTS = 2;
const TENSOR_SHAPE = 0;
const TENSOR_TYPE = 1;
const TENSOR_QUANTIZATION = 4;
const TENSOR_SHAPE_SIGNATURE = 7;
const QUANTIZATION_SCALE = 2;
const QUANTIZATION_ZERO_POINT = 3;

/** @type {Record<number, "float32" | "uint8" | "int8">} */
const TYPES = { 0: "float32", 3: "uint8", 9: "int8" };

/** A sentence for the reader. */
export class ModelError extends Error {}

/**
 * The image that a model takes or gives: `height` and `width` are -1 where they are open, `scale` is 0 where its values
 * have none.
 *
 * @typedef {{dtype: "uint8" | "int8" | "float32", height: number, width: number, scale: number, zero: number}} Image
 */

/**
 * What a model with one RGB image in and one out says of them.
 *
 * @param {Uint8Array} model the .tflite file
 * @returns {{input: Image, output: Image}}
 * @throws {ModelError} if the file is not such a model
 */
export function imagesOf(model) {
  return reading(new DataView(model.buffer, model.byteOffset, model.byteLength), (view, input, output) => ({
    input: image(view, input),
    output: image(view, output),
  }));
}

/**
 * A copy of such a model, made for one size.
 *
 * @param {Uint8Array} model the .tflite file
 * @param {number} height of the input, in pixels
 * @param {number} width of the input, in pixels
 * @param {number} scale output side over input side
 * @returns {Uint8Array}
 * @throws {ModelError} if the file is not such a model
 */
export function withSize(model, height, width, scale) {
  const bytes = model.slice();
  reading(new DataView(bytes.buffer), (view, input, output) => {
    setSides(view, input, height, width);
    setSides(view, output, height * scale, width * scale);
  });
  return bytes;
}

/**
 * @template T
 * @param {DataView} view
 * @param {(view: DataView, input: number, output: number) => T} read gets where the two tensors stand
 * @returns {T}
 */
function reading(view, read) {
  try {
    if (view.getUint32(4, true) !== 0x334c4654) throw new ModelError("the mark of such a file is missing"); // "TFL3"
    const graph = element(view, field(view, view.getUint32(0, true), MODEL_SUBGRAPHS), 0);
    return read(view, onlyTensor(view, graph, SUBGRAPH_INPUTS), onlyTensor(view, graph, SUBGRAPH_OUTPUTS));
  } catch (error) {
    const reason = error instanceof RangeError ? "it is broken, or cut short" : error.message;
    throw new ModelError(`This is not a .tflite that enlarges an RGB image: ${reason}.`);
  }
}

/** @param {DataView} view @param {number} graph @param {number} which */
function onlyTensor(view, graph, which) {
  const list = field(view, graph, which);
  if (view.getUint32(list, true) !== 1) throw new ModelError("it has not one input and one output");
  return element(view, field(view, graph, SUBGRAPH_TENSORS), view.getInt32(list + 4, true));
}

/** @param {DataView} view @param {number} tensor @returns {Image} */
function image(view, tensor) {
  const shape = vectorOfFour(view, field(view, tensor, TENSOR_SHAPE));
  const [batch, , , channels] = [0, 1, 2, 3].map((axis) => view.getInt32(shape + 4 + 4 * axis, true));
  const place = slot(view, tensor, TENSOR_TYPE);
  const dtype = TYPES[place ? view.getUint8(place) : 0];
  if (batch !== 1 || channels !== 3 || !dtype) {
    throw new ModelError("its input and output are not one image of three channels in uint8, int8 or float32");
  }
  const signature = slot(view, tensor, TENSOR_SHAPE_SIGNATURE);
  const sides = signature ? vectorOfFour(view, field(view, tensor, TENSOR_SHAPE_SIGNATURE)) : shape;
  const [height, width] = [8, 12].map((offset) => view.getInt32(sides + offset, true));
  return { dtype, height, width, ...quantization(view, tensor) };
}

/** @param {DataView} view @param {number} tensor */
function quantization(view, tensor) {
  const table = slot(view, tensor, TENSOR_QUANTIZATION) && field(view, tensor, TENSOR_QUANTIZATION);
  if (!table || !slot(view, table, QUANTIZATION_SCALE)) return { scale: 0, zero: 0 };
  const scales = field(view, table, QUANTIZATION_SCALE);
  if (!view.getUint32(scales, true)) return { scale: 0, zero: 0 };
  const zeros = slot(view, table, QUANTIZATION_ZERO_POINT) && field(view, table, QUANTIZATION_ZERO_POINT);
  return { scale: view.getFloat32(scales + 4, true), zero: zeros ? Number(view.getBigInt64(zeros + 4, true)) : 0 };
}

/** @param {DataView} view @param {number} tensor @param {number} height @param {number} width */
function setSides(view, tensor, height, width) {
  for (const number of [TENSOR_SHAPE, TENSOR_SHAPE_SIGNATURE]) {
    if (number === TENSOR_SHAPE_SIGNATURE && !slot(view, tensor, number)) continue; // a file of one size may lack it
    const sides = vectorOfFour(view, field(view, tensor, number));
    view.setInt32(sides + 8, height, true);
    view.setInt32(sides + 12, width, true);
  }
}

/** @param {DataView} view @param {number} vector */
function vectorOfFour(view, vector) {
  if (view.getUint32(vector, true) !== 4) throw new ModelError("its input or output is not one image");
  return vector;
}

/**
 * Where a table keeps a field; 0 if it has it not.
 *
 * @param {DataView} view
 * @param {number} table
 * @param {number} number of the field
 */
function slot(view, table, number) {
  const vtable = table - view.getInt32(table, true);
  const place = 4 + 2 * number;
  const offset = place < view.getUint16(vtable, true) ? view.getUint16(vtable + place, true) : 0;
  return offset && table + offset;
}

/**
 * Where a table's field points to.
 *
 * @param {DataView} view
 * @param {number} table
 * @param {number} number of the field
 */
function field(view, table, number) {
  const place = slot(view, table, number);
  if (!place) throw new ModelError("it is broken, or cut short");
  return place + view.getUint32(place, true);
}

/**
 * Where the table at one place of a vector of tables stands.
 *
 * @param {DataView} view
 * @param {number} vector
 * @param {number} index
 */
function element(view, vector, index) {
  if (index < 0 || index >= view.getUint32(vector, true)) throw new ModelError("it is broken, or cut short");
  const place = vector + 4 + 4 * index;
  return place + view.getUint32(place, true);
}

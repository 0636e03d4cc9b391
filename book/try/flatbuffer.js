/**
 * A .tflite model for another image size. The browser's LiteRT has no resize call, so the sizes that the file itself
 * states for its input and output are overwritten; LiteRT derives all others from them.
 *
 * Source: `schema.fbs` of TensorFlow Lite (the field numbers below) and the FlatBuffers binary format.
 */

// Field numbers in schema.fbs.
const MODEL_SUBGRAPHS = 2;
const SUBGRAPH_TENSORS = 0;
const SUBGRAPH_INPUTS = 1;
const SUBGRAPH_OUTPUTS = 2;
const TENSOR_SHAPE = 0;
const TENSOR_SHAPE_SIGNATURE = 7;

/**
 * A copy of a model with one image in and one out, both NHWC and of any size, made for one size.
 *
 * @param {Uint8Array} model the .tflite file
 * @param {number} height of the input, in pixels
 * @param {number} width of the input, in pixels
 * @param {number} scale output side over input side
 * @returns {Uint8Array}
 * @throws {Error} if the file is not such a model
 */
export function withSize(model, height, width, scale) {
  const bytes = model.slice();
  const view = new DataView(bytes.buffer);
  try {
    if (String.fromCharCode(...bytes.subarray(4, 8)) !== "TFL3") throw new Error("its mark is missing");
    const graph = element(view, field(view, rootTable(view), MODEL_SUBGRAPHS), 0);
    setSides(view, onlyTensor(view, graph, SUBGRAPH_INPUTS), height, width);
    setSides(view, onlyTensor(view, graph, SUBGRAPH_OUTPUTS), height * scale, width * scale);
  } catch (error) {
    throw new Error(`The model file is not one for images of any size (${error.message}).`);
  }
  return bytes;
}

/** @param {DataView} view @param {number} graph @param {number} which */
function onlyTensor(view, graph, which) {
  const list = field(view, graph, which);
  if (view.getUint32(list, true) !== 1) throw new Error("it has not one input and one output");
  return element(view, field(view, graph, SUBGRAPH_TENSORS), view.getInt32(list + 4, true));
}

/** @param {DataView} view @param {number} tensor @param {number} height @param {number} width */
function setSides(view, tensor, height, width) {
  const signature = field(view, tensor, TENSOR_SHAPE_SIGNATURE);
  for (const vector of [field(view, tensor, TENSOR_SHAPE), signature]) {
    if (view.getUint32(vector, true) !== 4) throw new Error("its input or output is not one image");
  }
  for (const [axis, side] of [[1, height], [2, width]]) {
    if (view.getInt32(signature + 4 + 4 * axis, true) !== -1) throw new Error("its size is fixed");
    for (const vector of [field(view, tensor, TENSOR_SHAPE), signature]) view.setInt32(vector + 4 + 4 * axis, side, true);
  }
}

/** @param {DataView} view */
function rootTable(view) {
  return view.getUint32(0, true);
}

/**
 * Where a table's field points to.
 *
 * @param {DataView} view
 * @param {number} table
 * @param {number} number of the field
 */
function field(view, table, number) {
  const vtable = table - view.getInt32(table, true);
  const slot = 4 + 2 * number;
  const offset = slot < view.getUint16(vtable, true) ? view.getUint16(vtable + slot, true) : 0;
  if (!offset) throw new Error(`field ${number} is missing`);
  return table + offset + view.getUint32(table + offset, true);
}

/**
 * Where the table at one place of a vector of tables stands.
 *
 * @param {DataView} view
 * @param {number} vector
 * @param {number} index
 */
function element(view, vector, index) {
  if (index < 0 || index >= view.getUint32(vector, true)) throw new Error(`there is no element ${index}`);
  const slot = vector + 4 + 4 * index;
  return slot + view.getUint32(slot, true);
}

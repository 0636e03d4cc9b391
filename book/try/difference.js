/** Where two versions of one image differ, as a picture: from black over red to pale yellow, on one scale for all. */

/** Anchors of the colours, evenly spaced: lightness rises all along, so that no hue must be told from another. */
export const COLOURS = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

const TABLE = Array.from({ length: 256 }, (_, n) => {
  const place = (n / 255) * (COLOURS.length - 1);
  const below = Math.min(Math.floor(place), COLOURS.length - 2);
  return [0, 1, 2].map((c) => Math.round(COLOURS[below][c] + (place - below) * (COLOURS[below + 1][c] - COLOURS[below][c])));
});

/**
 * The absolute difference of two RGBA images, the mean of the three colours at each pixel.
 *
 * @param {{data: Uint8ClampedArray, width: number, height: number}} one
 * @param {{data: Uint8ClampedArray}} other of the same size
 * @param {number} top levels (of 255) from which on all is drawn in the last colour
 * @returns {{pixels: {data: Uint8ClampedArray, width: number, height: number}, mean: number}} `mean` in levels
 */
export function difference({ data, width, height }, other, top) {
  const map = new Uint8ClampedArray(data.length);
  let sum = 0;
  for (let at = 0; at < data.length; at += 4) {
    let levels = 0;
    for (let colour = at; colour < at + 3; colour++) levels += Math.abs(data[colour] - other.data[colour]) / 3;
    sum += levels;
    const shown = TABLE[Math.min(Math.round((255 * levels) / top), 255)];
    [map[at], map[at + 1], map[at + 2], map[at + 3]] = [shown[0], shown[1], shown[2], 255];
  }
  return { pixels: { data: map, width, height }, mean: sum / (width * height) };
}

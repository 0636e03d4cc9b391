/**
 * The worker's entry. It is a classic worker, since LiteRT loads its script with importScripts, which module workers
 * lack; the work itself stands in modules.
 */

/** @type {MessageEvent[]} */
const early = [];
self.onmessage = (event) => early.push(event);
import("./work.js").then(
  ({ receive }) => {
    self.onmessage = receive;
    early.forEach(receive);
  },
  () => self.postMessage({ fatal: "The page's own scripts could not be loaded: check the connection and try again." }),
);

/**
 * The page's side of the worker: one job at a time, with a progress bar, a cancel button, and one sentence when a job
 * fails. The worker is started with the first job.
 */

const PATIENCE = 10_000; // ms after a cancel, before the worker is given up

class Cancelled extends Error {}

/** The worker came to grief over what it was given. */
export class Crash extends Error {}

/**
 * Where the reader sees how a job is doing.
 *
 * @typedef {{progress: HTMLProgressElement, cancel: HTMLButtonElement, status: HTMLElement, error: HTMLElement}} Parts
 */

/** Jobs for the worker, and what the reader sees of them. */
export class Jobs {
  /** One job on the whole page: two would disturb each other's times. */
  static busy = false;

  /** @param {Parts} parts */
  constructor(parts) {
    this.parts = parts;
    /** @type {Worker | null} */
    this.worker = null;
    this.next = 0;
    /** @type {((error: Error) => void) | null} */
    this.reject = null;
    /** Called when the worker is given up, and with it all that it held. */
    this.lost = () => {};
  }

  /**
   * Run something that uses jobs, and say in one sentence what went wrong. While it runs, a second one is refused.
   *
   * @param {() => Promise<void>} action
   */
  async guard(action) {
    if (Jobs.busy) {
      this.fail("The page is still at work: wait, or press Cancel first.");
      return;
    }
    Jobs.busy = true;
    this.parts.error.hidden = true;
    this.parts.error.textContent = this.parts.status.textContent = "";
    this.parts.cancel.disabled = false;
    try {
      await action();
      this.parts.status.textContent = "Done.";
    } catch (error) {
      if (error instanceof Cancelled) this.parts.status.textContent = "Cancelled.";
      else {
        this.fail(error instanceof Error ? error.message : String(error));
        this.parts.status.textContent = "";
      }
    } finally {
      Jobs.busy = false;
      this.parts.progress.hidden = true;
      this.parts.cancel.hidden = true;
    }
  }

  /** @param {string} sentence */
  fail(sentence) {
    this.parts.error.textContent = sentence;
    this.parts.error.hidden = false;
    this.parts.error.scrollIntoView({ block: "nearest" });
  }

  cancel() {
    const { worker, next } = this;
    worker?.postMessage({ type: "cancel" });
    this.parts.cancel.disabled = true;
    this.parts.status.textContent = "Cancelling after this step …";
    setTimeout(() => {
      if (!this.reject || this.worker !== worker || this.next !== next) return;
      this.restart(); // a step without end
      this.reject(new Cancelled());
    }, PATIENCE);
  }

  /** Give the worker up; the next job starts a new one. */
  restart() {
    if (!this.worker) return;
    this.worker.terminate();
    this.worker = null;
    this.lost();
  }

  /**
   * @param {Record<string, unknown> & {type: string}} order
   * @param {(part: any) => void} [onPart] gets what a long job gives before its end
   * @returns {Promise<any>}
   */
  run(order, onPart) {
    const worker = (this.worker ??= this.#start());
    const id = ++this.next;
    this.parts.cancel.onclick = () => this.cancel();
    return new Promise((resolve, reject) => {
      this.reject = reject;
      worker.onmessage = ({ data }) => {
        if (data.fatal) {
          this.restart();
          reject(new Error(data.fatal));
        }
        if (data.id !== id) return;
        if (data.progress) this.#tell(data.progress);
        else if (data.part) onPart?.(data.part);
        else if (data.cancelled) reject(new Cancelled());
        else if (data.error) {
          if (data.broken) this.restart();
          reject(data.crashed ? new Crash(data.error) : new Error(data.error));
        } else resolve(data.result);
      };
      worker.postMessage({ ...order, id });
    }).finally(() => (this.reject = null));
  }

  #start() {
    const worker = new Worker(new URL("worker.js", import.meta.url));
    worker.onerror = (event) => {
      event.preventDefault();
      const error = new Crash("The page's worker stopped, perhaps for lack of memory, and holds nothing any more: open a smaller image.");
      const { reject } = this;
      this.restart();
      if (reject) reject(error);
      else this.fail(error.message);
    };
    return worker;
  }

  /** @param {{text: string, done: number, total: number}} progress */
  #tell({ text, done, total }) {
    this.parts.progress.hidden = false;
    this.parts.cancel.hidden = false;
    // A step that cannot be divided moves the bar to and fro instead.
    if (total > 1) Object.assign(this.parts.progress, { max: total, value: done });
    else this.parts.progress.removeAttribute("value");
    // A screen reader hears each new step once, not every count of it.
    if (!this.parts.cancel.disabled && this.parts.status.textContent !== text) this.parts.status.textContent = text;
  }
}

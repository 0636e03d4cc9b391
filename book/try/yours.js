/** A reader's model: held by a worker of its own, so that a bad one costs nothing that was there; and its row. */

import { Crash } from "./jobs.js";
import { challengeScore, medianInterval, pairedRatio } from "./stats.js";

/**
 * @typedef {import("./jobs.js").Jobs} Jobs
 * @typedef {{rgb: number, y: number}} Both
 * @typedef {{image: string, yours: Both, abpn: Both | null}} Scored
 */

/** What is known of the reader's model. */
export class Yours {
  /**
   * @param {(name: string) => any} part finds the page's elements
   * @param {() => Jobs} start
   * @param {() => void} lost is called when its worker is given up
   */
  constructor(part, start, lost) {
    this.part = part;
    this.start = start;
    this.lost = lost;
    /** @type {Jobs | null} */
    this.jobs = null;
    /** @type {File | null} */
    this.file = null;
    this.manifest = /** @type {any} */ (null);
    this.read = { scale: 3, size: null, range: "", colour: "", found: "", input: "", output: "" };
    this.opened = false; // its worker holds the image that is shown
    /** @type {Scored[]} */
    this.scored = [];
    /** @type {{size: string, abpn: number[], yours: number[]} | null} */
    this.timed = null;
    part("yours-copy").addEventListener("click", () => this.copy());
  }

  get scale() {
    return this.read.scale;
  }

  get name() {
    return (this.file?.name ?? "").replace(/\.tflite$/i, "");
  }

  get label() {
    return `Yours: ${this.name.slice(0, 24)}${this.scale === 3 ? "" : `, ×${this.scale}`}`;
  }

  /**
   * Take a model. Until it has been read, and found good, the one before it stays.
   *
   * @param {File} file
   * @param {any} manifest
   */
  async take(file, manifest) {
    const { jobs, read } = await this.#reading(file, manifest, { range: "", colour: "" });
    this.#replace(jobs);
    Object.assign(this, { file, manifest, read, scored: [], timed: null });
    this.part("yours-range").value = this.part("yours-colour").value = "";
    this.#show();
  }

  /** Read the model again, as the selects tell. */
  async reread() {
    const told = { range: this.part("yours-range").value, colour: this.part("yours-colour").value };
    const { jobs, read } = await this.#reading(/** @type {File} */ (this.file), this.manifest, told);
    this.#replace(jobs);
    Object.assign(this, { read, scored: [] });
    this.#show();
  }

  /** Its worker, started again if it was given up. @returns {Promise<Jobs>} */
  async ready() {
    if (!this.jobs) {
      const { range, colour } = this.read;
      const { jobs } = await this.#reading(/** @type {File} */ (this.file), this.manifest, { range, colour });
      this.#replace(jobs);
    }
    return /** @type {Jobs} */ (this.jobs);
  }

  /**
   * @param {File} file
   * @param {any} manifest
   * @param {{range: string, colour: string}} told
   * @returns {Promise<{jobs: Jobs, read: Yours["read"]}>}
   */
  async #reading(file, manifest, told) {
    // One that dies at another size than its own may run at that.
    for (const ownSize of [false, true]) {
      const jobs = this.start();
      try {
        return { jobs, read: await jobs.run({ type: "read", file, told, ownSize, manifest }) };
      } catch (error) {
        jobs.restart();
        if (!(error instanceof Crash)) {
          if (error instanceof Error && error.message) error.message = `${file.name}: ${error.message}`;
          throw error;
        }
      }
    }
    throw new Error(`${file.name}: This model crashes LiteRT in a browser.`);
  }

  /** @param {Jobs} jobs */
  #replace(jobs) {
    this.jobs?.restart();
    this.jobs = jobs;
    this.opened = false;
    jobs.lost = () => {
      if (this.jobs !== jobs) return;
      Object.assign(this, { jobs: null, opened: false });
      this.lost();
    };
  }

  /** Score it on the page's own images, twice. */
  async score() {
    const jobs = await this.ready();
    const { rows, same } = await jobs.run({ type: "score", manifest: this.manifest });
    this.scored = rows;
    this.part("yours-bits").textContent = same
      ? "A second run gave the same bits."
      : "A second run gave other bits: what you see is one of several results.";
    this.#show();
  }

  /** Time it beside ABPN. */
  async time() {
    const jobs = await this.ready();
    this.timed = await jobs.run({ type: "time", manifest: this.manifest });
    this.#show();
  }

  async copy() {
    const row = this.part("yours-row");
    row.select();
    try {
      await navigator.clipboard.writeText(row.value);
      this.part("status").textContent = "Copied.";
    } catch {
      this.part("status").textContent = "The row is selected: copy it with Ctrl+C.";
    }
  }

  #show() {
    const { scale, size, input, output, found } = this.read;
    const sizes = size ? `${size.width}×${size.height} pixels alone (larger images in tiles)` : "any size";
    this.part("yours").hidden = false;
    if (!this.scored.length) this.part("yours-bits").textContent = "";
    this.part("yours-facts").textContent = `${this.file?.name}: ×${scale}, ${input} in, ${output} out, ${sizes}; ${found}.`;
    const rows = [this.#cells("yours"), ...(this.scored.every(({ abpn }) => abpn) ? [this.#cells("abpn")] : [])];
    const [head, body] = [this.part("yours-table").tHead, this.part("yours-table").tBodies[0]];
    head.replaceChildren(line("th", Object.keys(rows[0])));
    body.replaceChildren(...rows.map((cells) => line("td", Object.values(cells))));
    this.part("yours-row").value = markdown(rows[0]);
  }

  /**
   * A row with its headings, as `abpn score --markdown` has it.
   *
   * @param {"yours" | "abpn"} of
   * @returns {Record<string, string>}
   */
  #cells(of) {
    const on = this.scored.map(({ image }) => image).join("+") || "–";
    const mean = (/** @type {"rgb" | "y"} */ key) =>
      this.scored.length ? this.scored.reduce((sum, row) => sum + (row[of]?.[key] ?? NaN), 0) / this.scored.length : NaN;
    const { timed } = this;
    const ms = timed ? medianInterval(timed[of]).median : NaN;
    const ratio = timed ? pairedRatio(timed[of], timed.abpn).median : NaN;
    const base = this.manifest.models.abpn.name;
    const shown = (/** @type {number} */ value, /** @type {number} */ digits) => (Number.isNaN(value) ? "–" : value.toFixed(digits));
    return {
      Model: of === "yours" ? this.name : base,
      [`PSNR ${on} rgb-border1`]: shown(mean("rgb"), 3),
      [`PSNR ${on} y-border${this.scale}`]: shown(mean("y"), 3),
      [`Browser ms, ${timed?.size ?? "not timed"}`]: shown(ms, 1),
      [`Browser time to ${base}`]: shown(ratio, 2),
      [`2^(2*PSNR-48)/ms, PSNR on ${on}, browser ms`]: shown(challengeScore(mean("rgb"), ms), 2),
    };
  }
}

/** @param {"th" | "td"} tag @param {string[]} cells */
function line(tag, cells) {
  const row = document.createElement("tr");
  row.append(
    ...cells.map((textContent, n) => {
      const cell = Object.assign(document.createElement(n ? tag : "th"), { textContent });
      if (cell.tagName === "TH") cell.setAttribute("scope", tag === "th" ? "col" : "row");
      return cell;
    }),
  );
  return row;
}

/** A row with its headings, as a table for a README or an issue. @param {Record<string, string>} row */
export function markdown(row) {
  const lines = [Object.keys(row), Object.keys(row).map(() => "---"), Object.values(row)];
  return lines.map((cells) => `| ${cells.map((cell) => cell.replaceAll("|", "/").replaceAll("\n", " ")).join(" | ")} |`).join("\n");
}

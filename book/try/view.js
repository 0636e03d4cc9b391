/**
 * Two versions of one image under one draggable divider, with zoom. The divider is a slider for the keyboard and for
 * screen readers; the picture is moved by dragging, or with the arrow keys.
 */

/**
 * One version of the image: bitmaps of full width, from the top.
 *
 * @typedef {{label: string, width: number, height: number, strips: ImageBitmap[]}} Version
 */

const STEP = 2; // per cent of the width, for each press of an arrow key
const LARGE_STEP = 10;
const ZOOM_STEP = 1.5;
const MAX_ZOOM = 16;

/** The viewer of the page. */
export class View {
  /** @param {HTMLElement} box holding a canvas, a `[role=slider]` and two `[data-side]` labels */
  constructor(box) {
    const find = (/** @type {string} */ selector) => /** @type {HTMLElement} */ (box.querySelector(selector));
    this.canvas = /** @type {HTMLCanvasElement} */ (find("canvas"));
    this.slider = find("[role=slider]");
    this.labels = [find("[data-side=left]"), find("[data-side=right]")];
    /** @type {(Version | null)[]} */
    this.sides = [null, null];
    this.divider = 50;
    this.zoom = 1; // screen pixels per image pixel; 0 < zoom
    this.fitted = true;
    this.centre = { x: 0, y: 0 }; // of the picture in the window, in image pixels
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    this.#listen();
  }

  /** @param {Version | null} left @param {Version | null} right */
  show(left, right) {
    const before = this.sides[1] ?? this.sides[0];
    const now = right ?? left;
    this.sides = [left, right];
    if (now && (before?.width !== now.width || before?.height !== now.height)) {
      this.canvas.style.aspectRatio = `${now.width} / ${now.height}`;
      this.fit();
    }
    this.draw();
  }

  /** Show the whole picture. */
  fit() {
    this.fitted = true;
    this.draw();
  }

  /** @param {number} zoom screen pixels per image pixel */
  setZoom(zoom) {
    this.fitted = false;
    this.zoom = Math.min(Math.max(zoom, 0.01), MAX_ZOOM);
    this.draw();
  }

  /** @param {number} factor */
  zoomBy(factor) {
    this.setZoom(this.zoom * factor);
  }

  zoomIn() {
    this.zoomBy(ZOOM_STEP);
  }

  zoomOut() {
    this.zoomBy(1 / ZOOM_STEP);
  }

  /** @param {number} percent of the width */
  setDivider(percent) {
    this.divider = Math.min(Math.max(percent, 0), 100);
    this.draw();
  }

  draw() {
    const [left, right] = this.sides;
    const version = right ?? left;
    if (!version) return;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(this.canvas.clientWidth * ratio);
    const height = Math.round(this.canvas.clientHeight * ratio);
    if (!width || !height) return;
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    if (this.fitted) {
      const fits = Math.min(width / version.width, height / version.height);
      // Enlarged, all pixels shall be of one size.
      this.zoom = fits > 1 ? Math.floor(fits) : fits;
      this.centre = { x: version.width / 2, y: version.height / 2 };
    }
    this.#keepInside(version, width, height);
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    context.clearRect(0, 0, width, height);
    this.#chequer(context, version);
    const place = Math.round((this.divider / 100) * width);
    this.#paint(context, left, 0, place, height);
    this.#paint(context, right, place, width, height);
    this.slider.style.left = `${this.divider}%`;
    this.slider.setAttribute("aria-valuenow", String(Math.round(this.divider)));
    const text = `${Math.round(this.divider)} % ${left?.label ?? "nothing"}, the rest ${right?.label ?? "nothing"}`;
    this.slider.setAttribute("aria-valuetext", text);
    this.labels[0].textContent = left?.label ?? "";
    this.labels[1].textContent = right?.label ?? "";
    this.canvas.setAttribute(
      "aria-label",
      `Your image, ${version.width} by ${version.height} pixels, at ${Math.round(this.zoom * 100)} per cent: ` +
        `${left?.label ?? "nothing"} left of the divider, ${right?.label ?? "nothing"} right of it.`,
    );
  }

  /**
   * The picture may not be dragged out of the window.
   *
   * @param {Version} version
   * @param {number} width
   * @param {number} height
   */
  #keepInside(version, width, height) {
    for (const [axis, side, shown] of /** @type {["x" | "y", number, number][]} */ ([
      ["x", version.width, width / this.zoom],
      ["y", version.height, height / this.zoom],
    ])) {
      const half = shown / 2;
      this.centre[axis] = shown >= side ? side / 2 : Math.min(Math.max(this.centre[axis], half), side - half);
    }
  }

  /**
   * A ground behind the picture that shows what is transparent.
   *
   * @param {CanvasRenderingContext2D} context
   * @param {Version} version
   */
  #chequer(context, version) {
    const side = 8;
    const tile = Object.assign(document.createElement("canvas"), { width: 2 * side, height: 2 * side });
    const squares = /** @type {CanvasRenderingContext2D} */ (tile.getContext("2d"));
    squares.fillStyle = "#eee";
    squares.fillRect(0, 0, 2 * side, 2 * side);
    squares.fillStyle = "#bbb";
    squares.fillRect(0, 0, side, side);
    squares.fillRect(side, side, side, side);
    context.fillStyle = /** @type {CanvasPattern} */ (context.createPattern(tile, "repeat"));
    const { left, top } = this.#corner();
    context.fillRect(left, top, version.width * this.zoom, version.height * this.zoom);
  }

  /** Where the picture's top left corner lies, in screen pixels. */
  #corner() {
    return {
      left: Math.round(this.canvas.width / 2 - this.centre.x * this.zoom),
      top: Math.round(this.canvas.height / 2 - this.centre.y * this.zoom),
    };
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Version | null} version
   * @param {number} from
   * @param {number} to
   * @param {number} height
   */
  #paint(context, version, from, to, height) {
    if (!version || to <= from) return;
    context.save();
    context.beginPath();
    context.rect(from, 0, to - from, height);
    context.clip();
    // Enlarged pixels are shown as they are; a browser's smoothing would be another super-resolution.
    context.imageSmoothingEnabled = this.zoom < 1;
    context.imageSmoothingQuality = "high";
    let { left, top } = this.#corner();
    for (const strip of version.strips) {
      context.drawImage(strip, left, top, strip.width * this.zoom, strip.height * this.zoom);
      top += strip.height * this.zoom;
    }
    context.restore();
  }

  /** @param {number} x @param {number} y in screen pixels */
  #move(x, y) {
    this.fitted = false;
    this.centre = { x: this.centre.x + x / this.zoom, y: this.centre.y + y / this.zoom };
    this.draw();
  }

  #listen() {
    const ratio = () => window.devicePixelRatio || 1;
    dragged(this.slider, (event) => {
      const box = this.canvas.getBoundingClientRect();
      this.setDivider((100 * (event.clientX - box.left)) / box.width);
    });
    dragged(this.canvas, (_, x, y) => this.#move(-x * ratio(), -y * ratio()));
    onKeys(this.slider, {
      ArrowLeft: () => this.setDivider(this.divider - STEP),
      ArrowDown: () => this.setDivider(this.divider - STEP),
      ArrowRight: () => this.setDivider(this.divider + STEP),
      ArrowUp: () => this.setDivider(this.divider + STEP),
      PageDown: () => this.setDivider(this.divider - LARGE_STEP),
      PageUp: () => this.setDivider(this.divider + LARGE_STEP),
      Home: () => this.setDivider(0),
      End: () => this.setDivider(100),
    });
    onKeys(this.canvas, {
      ArrowLeft: () => this.#move(-40, 0),
      ArrowRight: () => this.#move(40, 0),
      ArrowUp: () => this.#move(0, -40),
      ArrowDown: () => this.#move(0, 40),
      "+": () => this.zoomIn(),
      "-": () => this.zoomOut(),
      0: () => this.fit(),
    });
    this.canvas.addEventListener(
      "wheel",
      (event) => {
        // A plain wheel scrolls the page; with Ctrl, or as a pinch on a touch pad, it zooms.
        if (!event.ctrlKey) return;
        event.preventDefault();
        this.zoomBy(Math.exp(-event.deltaY / 200));
      },
      { passive: false },
    );
  }
}

/**
 * @param {HTMLElement} element
 * @param {(event: PointerEvent, x: number, y: number) => void} moved gets the way since the last event
 */
function dragged(element, moved) {
  element.addEventListener("pointerdown", (down) => {
    let last = down;
    const move = (/** @type {PointerEvent} */ event) => {
      moved(event, event.clientX - last.clientX, event.clientY - last.clientY);
      last = event;
    };
    element.setPointerCapture(down.pointerId);
    element.addEventListener("pointermove", move);
    const stop = () => element.removeEventListener("pointermove", move);
    element.addEventListener("pointerup", stop, { once: true });
    element.addEventListener("pointercancel", stop, { once: true });
  });
}

/** @param {HTMLElement} element @param {Record<string, () => void>} actions */
function onKeys(element, actions) {
  element.addEventListener("keydown", (event) => {
    const action = actions[event.key];
    if (!action || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    action();
  });
}

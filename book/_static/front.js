/**
 * The switch that shows or hides the code of all pages, and the divider between two pictures.
 * Without this script the code is there, folded at each cell, the divider stands in the middle, and pictures of one
 * place stand side by side.
 */
const root = document.documentElement;

/** Whether the code is shown: remembered where the browser allows it. */
function remembered() {
  try {
    return localStorage.getItem("abpn-code") === "on";
  } catch {
    return false;
  }
}

/** @param {boolean} on */
function showCode(on) {
  root.classList.toggle("code-on", on);
  for (const fold of document.querySelectorAll("details.above-input")) fold.open = on;
}

function addSwitch() {
  const place = document.querySelector(".article-header-buttons");
  if (!place || !document.querySelector("details.above-input")) return;
  const button = Object.assign(document.createElement("button"), { type: "button", className: "code-switch" });
  const set = (/** @type {boolean} */ on) => {
    showCode(on);
    button.textContent = on ? "Hide code" : "Show code";
    button.setAttribute("aria-pressed", String(on));
  };
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    set(on);
    try {
      localStorage.setItem("abpn-code", on ? "on" : "off");
    } catch {
      // A browser that keeps nothing still switches this page.
    }
  });
  set(remembered());
  place.prepend(button);
}

/** @param {HTMLElement} figure two images, of which the second is cut at the variable `--at` */
function addDivider(figure, swings = true) {
  const slider = Object.assign(document.createElement("input"), { type: "range", min: "0", max: "100", step: "1" });
  nameDivider(figure, slider);
  const place = (/** @type {number} */ at) => figure.style.setProperty("--at", `${at}%`);
  slider.addEventListener("input", () => {
    moved = true;
    place(slider.valueAsNumber);
  });
  const handle = Object.assign(document.createElement("i"), { textContent: "⇔" });
  handle.setAttribute("aria-hidden", "true");
  figure.append(handle, slider);
  // It swings once, so that it is seen to move; a reader who wants no motion, or takes hold of it, stops that.
  let moved = !swings || matchMedia("(prefers-reduced-motion: reduce)").matches;
  let begun = 0;
  const swing = (/** @type {number} */ now) => {
    begun ||= now;
    const part = (now - begun) / 4000;
    if (moved || part > 1) return;
    place(50 + 35 * Math.sin(2 * Math.PI * part));
    requestAnimationFrame(swing);
  };
  requestAnimationFrame(swing);
}

/** Say to who cannot see the slider what lies on its sides. */
function nameDivider(/** @type {HTMLElement} */ figure, /** @type {HTMLElement} */ slider) {
  const [right, left] = figure.querySelectorAll("img");
  slider.setAttribute("aria-label", `Divider between two pictures. Left: ${left.alt}. Right: ${right.alt}`);
}

/** @param {HTMLElement} figure pictures of one place: two of the reader's choice come under a divider, which zooms */
function addComparison(figure) {
  const grid = figure.querySelector(".image-grid");
  const cells = [...grid.children].map((cell) => [cell.querySelector("img"), cell.textContent]);
  const divided = Object.assign(document.createElement("figure"), { className: "divided" });
  const tools = Object.assign(document.createElement("p"), { className: "compare-tools" });
  const choose = (/** @type {string} */ name, /** @type {string[]} */ options, /** @type {number} */ first) => {
    const select = document.createElement("select");
    select.append(...options.map((text, at) => new Option(text, String(at), at === first, at === first)));
    const label = Object.assign(document.createElement("label"), { textContent: `${name} ` });
    label.append(select);
    tools.append(label);
    return select;
  };
  const names = cells.map(([, text]) => text);
  // The best of the methods, which stands before the original, beside the first.
  const left = choose("Left", names, 0);
  const selects = [choose("Right", names, names.length - 2), left];
  divided.style.setProperty("--at", "50%");
  divided.append(new Image(), new Image());
  for (const side of ["right", "left"]) {
    const name = document.createElement("span");
    name.dataset.side = side;
    divided.append(name);
  }
  const show = () => {
    selects.forEach((select, at) => {
      const [image, text] = cells[select.selectedIndex];
      const copy = divided.querySelectorAll("img")[at];
      Object.assign(copy, { src: image.src, alt: image.alt, width: image.width, height: image.height });
      divided.querySelectorAll("span")[at].textContent = text.split(":")[0];
    });
    const slider = divided.querySelector("input");
    if (slider) nameDivider(divided, slider);
  };
  show();
  addDivider(divided, false);
  tools.addEventListener("change", show);
  const zooms = [1, 2, 4];
  const zoom = choose("Zoom", zooms.map((times) => `×${times}`), 0);
  zoom.addEventListener("change", () => divided.style.setProperty("--zoom", String(zooms[zoom.selectedIndex])));
  // What is zoomed follows: along with the divider, and up and down with the pointer or the arrow keys.
  let down = 50;
  const move = (/** @type {number} */ to) => {
    down = Math.min(100, Math.max(0, to));
    divided.style.setProperty("--down", `${down}%`);
  };
  divided.addEventListener("pointermove", (event) => {
    const box = divided.getBoundingClientRect();
    move(100 * (event.clientY - box.top) / box.height);
  });
  divided.addEventListener("keydown", (event) => {
    if (zoom.selectedIndex === 0 || !["ArrowUp", "ArrowDown"].includes(event.key)) return;
    event.preventDefault();
    move(down + (event.key === "ArrowUp" ? -5 : 5));
  });
  const fold = Object.assign(document.createElement("details"), { className: "more" });
  fold.append(Object.assign(document.createElement("summary"), { textContent: "Side by side" }), grid);
  figure.prepend(divided, tools, fold);
}

showCode(remembered());
document.addEventListener("DOMContentLoaded", () => {
  addSwitch();
  for (const figure of document.querySelectorAll("figure.divided")) addDivider(/** @type {HTMLElement} */ (figure));
  for (const figure of document.querySelectorAll("figure.compared")) addComparison(/** @type {HTMLElement} */ (figure));
});

/**
 * The switch that shows or hides the code of all pages, and the divider between two pictures.
 * Without this script the code is there, folded at each cell, and the divider stands in the middle.
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
  root.classList.toggle("code-off", !on);
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
function addDivider(figure) {
  const [right, left] = figure.querySelectorAll("img");
  const slider = Object.assign(document.createElement("input"), { type: "range", min: "0", max: "100", step: "1" });
  slider.setAttribute("aria-label", `Divider between two pictures. Left: ${left.alt}. Right: ${right.alt}`);
  const place = (/** @type {number} */ at) => figure.style.setProperty("--at", `${at}%`);
  slider.addEventListener("input", () => {
    moved = true;
    place(slider.valueAsNumber);
  });
  const handle = Object.assign(document.createElement("i"), { textContent: "⇔" });
  handle.setAttribute("aria-hidden", "true");
  figure.append(handle, slider);
  // It swings once, so that it is seen to move; a reader who wants no motion, or takes hold of it, stops that.
  let moved = matchMedia("(prefers-reduced-motion: reduce)").matches;
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

showCode(remembered());
document.addEventListener("DOMContentLoaded", () => {
  addSwitch();
  for (const figure of document.querySelectorAll("figure.divided")) addDivider(/** @type {HTMLElement} */ (figure));
});

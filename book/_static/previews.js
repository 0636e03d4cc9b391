/**
 * What a claim, a citation or a term says, shown where it is named: when the pointer rests on the link or the keyboard
 * reaches it. Without this script the links lead there. The texts come with the first such moment, not with the page.
 */
(() => {
  const base = new URL(document.documentElement.dataset.content_root ?? "./", location.href);
  const box = Object.assign(document.createElement("div"), { id: "preview", popover: "manual", role: "tooltip" });
  /** @type {HTMLAnchorElement | undefined} */
  let shown;
  let timer = 0;
  /** @type {Promise<Record<string, string>> | undefined} */
  let texts;

  function load() {
    texts ??= new Promise((resolve) => {
      const script = Object.assign(document.createElement("script"), { src: new URL("_static/preview-data.js", base).href });
      script.addEventListener("load", () => resolve(globalThis.previews));
      script.addEventListener("error", () => resolve({}));
      document.head.append(script);
    });
    return texts;
  }

  /** @param {HTMLAnchorElement} link */
  async function show(link) {
    const text = (await load())[decodeURIComponent(link.href.split("?")[0].replace(base.href, ""))];
    if (!text || shown !== link) return;
    // The browser's own tooltip would lie over it.
    link.removeAttribute("title");
    box.innerHTML = text;
    // What is read can be pointed at, but it is no further stop for the keyboard.
    for (const inner of box.querySelectorAll("a")) inner.tabIndex = -1;
    link.setAttribute("aria-describedby", box.id);
    box.showPopover();
    const { left, top, bottom } = link.getClientRects()[0];
    const room = innerHeight - bottom > box.offsetHeight + 12 || top < box.offsetHeight + 12;
    box.style.left = `${Math.max(8, Math.min(left, document.documentElement.clientWidth - box.offsetWidth - 8))}px`;
    box.style.top = `${room ? bottom + 6 : top - box.offsetHeight - 6}px`;
  }

  function hide() {
    clearTimeout(timer);
    shown?.removeAttribute("aria-describedby");
    shown = undefined;
    if (box.isConnected) box.hidePopover();
  }

  /** @param {Event} event @param {number} wait milliseconds */
  function enter(event, wait) {
    const target = event.target instanceof Element ? event.target : null;
    if (box.contains(target)) return clearTimeout(timer);
    const link = target?.closest("a[href*='#']");
    if (!(link instanceof HTMLAnchorElement) || !link.closest(".bd-article") || link.classList.contains("headerlink")) return;
    if (shown !== link) hide();
    clearTimeout(timer);
    shown = link;
    timer = setTimeout(() => show(link), wait);
  }

  /** @param {Event} event */
  function leave(event) {
    if (!shown || !(shown.contains(/** @type {Node} */ (event.target)) || box.contains(/** @type {Node} */ (event.target)))) return;
    clearTimeout(timer);
    // Time enough to reach the box.
    timer = setTimeout(hide, 250);
  }

  if ("popover" in HTMLElement.prototype) {
    addEventListener("DOMContentLoaded", () => (document.querySelector("main") ?? document.body).append(box));
    // A finger follows the link.
    addEventListener("pointerover", (event) => event.pointerType === "mouse" && enter(event, 200));
    addEventListener("pointerout", leave);
    addEventListener("focusin", (event) => enter(event, 0));
    addEventListener("focusout", leave);
    addEventListener("keydown", (event) => event.key === "Escape" && hide());
  }
})();

// Tables named "board-..." sort by a click on a heading. Without this script they are plain tables.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table[id^='board-']")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.append(...head.childNodes);
      head.append(button);
      button.onclick = () => {
        const down = head.ariaSort !== "descending"; // numbers: the greatest first
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.ariaSort = down ? "descending" : "ascending";
        const rows = [...table.tBodies[0].rows].map((row) => [key(row.cells[column]), row]);
        rows.sort(([a], [b]) => compare(a, b) * (down ? -1 : 1) || 0);
        // What has no number stands last, whichever way.
        rows.sort(([a], [b]) => (a === null) - (b === null));
        table.tBodies[0].append(...rows.map(([, row]) => row));
      };
    });
  }
});

function key(cell) {
  if (cell.tagName === "TH") return cell.textContent.trim();
  const found = cell.textContent.replaceAll(",", "").match(/[-−]?\d+(\.\d+)?/);
  return found ? Number(found[0].replace("−", "-")) : null;
}

function compare(a, b) {
  return typeof a === "string" ? b.localeCompare(a) : a - b;
}

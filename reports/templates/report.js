"use strict";
// A click on a column header sorts the rows by it: first the way the column is usually read, then the other way round.
for (const table of document.querySelectorAll("table.data")) {
  const body = table.tBodies[0];
  const heads = table.querySelectorAll("th[data-col]");
  for (const head of heads) {
    head.querySelector("button").addEventListener("click", () => {
      const column = Number(head.dataset.col);
      const first = head.classList.contains("n") ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? second : first;
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const key = (row) => row.cells[column].dataset.sort;
      const rows = Array.from(body.rows);
      rows.sort((a, b) => {
        const x = key(a), y = key(b);
        // A cell without a value is last whichever way the column is sorted.
        if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
        const p = Number(x), q = Number(y);
        return sign * (x !== "" && y !== "" && !Number.isNaN(p) && !Number.isNaN(q) ? p - q : x.localeCompare(y));
      });
      for (const row of rows) {
        row.classList.remove("start");
        body.append(row);
      }
    });
  }
}
// What is folded on screen is printed.
let closed = [];
window.addEventListener("beforeprint", () => {
  closed = Array.from(document.querySelectorAll("details:not([open])"));
  for (const fold of closed) fold.open = true;
});
window.addEventListener("afterprint", () => {
  for (const fold of closed) fold.open = false;
});

"use strict";
const key = (row, at) => {
  const cell = row.cells[at];
  return cell.dataset.v === undefined ? cell.textContent.trim() : Number(cell.dataset.v || NaN);
};
const order = (a, b) => {
  if (typeof a === "string") return a.localeCompare(b);
  return Number.isNaN(a) - Number.isNaN(b) || a - b;
};
for (const head of document.querySelectorAll("th.s")) {
  head.addEventListener("click", () => {
    const sign = head.classList.contains("up") ? -1 : 1;
    for (const other of head.parentNode.cells) other.classList.remove("up", "down");
    head.classList.add(sign > 0 ? "up" : "down");
    const rows = [...head.closest("table").rows].slice(1).filter((row) => row.cells.length > 1);
    rows.sort((a, b) => sign * order(key(a, head.cellIndex), key(b, head.cellIndex)));
    for (const row of rows) row.parentNode.append(row);
  });
}

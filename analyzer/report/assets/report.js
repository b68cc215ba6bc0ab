// Sorts and filters the table of layers. Without this script all rows are there, worst first.
"use strict";

const table = document.querySelector("table.layers");
const body = table.tBodies[0];
const rows = Array.from(body.rows);
const headers = Array.from(table.tHead.rows[0].cells);
const input = document.querySelector("#filter");
const count = document.querySelector("#count");

function compare(column, sign) {
  const numeric = headers[column].classList.contains("number");
  return (a, b) => {
    const x = a.cells[column].dataset.sort;
    const y = b.cells[column].dataset.sort;
    // What was not measured is last, whichever way the others are sorted.
    if (x === "" || y === "") return (x === "") - (y === "");
    if (!numeric) return sign * x.localeCompare(y, undefined, { numeric: true });
    return Number(x) === Number(y) ? 0 : sign * (Number(x) < Number(y) ? -1 : 1);
  };
}

function sort(column) {
  const header = headers[column];
  const first = header.dataset.first;
  const other = first === "descending" ? "ascending" : "descending";
  const order = header.getAttribute("aria-sort") === first ? other : first;
  for (const each of headers) each.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
  rows.sort(compare(column, order === "ascending" ? 1 : -1));
  body.append(...rows);
}

function filter() {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const text = row.dataset.text.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  count.textContent = `${shown} of ${rows.length} layers`;
}

headers.forEach((header, column) => {
  header.querySelector("button").addEventListener("click", () => sort(column));
});
input.addEventListener("input", filter);
input.closest(".filter").hidden = false;
filter();

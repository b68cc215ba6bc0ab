// Sorts and filters the table of layers, copies exports, unpacks downloads, switches the theme.
// Without this script all rows are there, worst first, and nothing that needs it is shown.
"use strict";

(() => {
  const table = document.querySelector("table.layers");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const headers = Array.from(table.tHead.rows[0].cells);
  const input = document.querySelector("#filter");
  const problems = document.querySelector("#problems");
  const count = document.querySelector("#count");

  // A number as it is written, null where nothing was measured; NaN counts as the worst.
  function value(cell) {
    const text = cell.firstChild.textContent;
    if (text === "\u2013") return null;
    if (text === "inf" || text === "nan") return Infinity;
    return text === "-inf" ? -Infinity : Number.parseFloat(text);
  }

  function sort(column) {
    const header = headers[column];
    const first = header.dataset.first;
    const other = first === "descending" ? "ascending" : "descending";
    const order = header.getAttribute("aria-sort") === first ? other : first;
    for (const each of headers) each.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const numeric = header.classList.contains("number");
    const words = new Intl.Collator(undefined, { numeric: true });
    const keyed = rows.map((row) => {
      const cell = row.cells[column];
      return [numeric ? value(cell) : cell.firstChild.textContent, row];
    });
    keyed.sort(([a], [b]) => {
      // What was not measured is last, whichever way the others are sorted.
      if (a === null || b === null) return (a === null) - (b === null);
      if (!numeric) return sign * words.compare(a, b);
      return a === b ? 0 : sign * (a < b ? -1 : 1);
    });
    body.append(...keyed.map(([, row]) => row));
  }

  // What is searched of a row: its name, status, codes, op and precision; no folded details.
  function text(row) {
    const found = Array.from(row.cells[1].children).filter((each) => each.tagName !== "DETAILS");
    return [...found, row.cells[2], row.cells[3]].map((e) => e.textContent).join(" ").toLowerCase();
  }

  let texts = null;
  function filter() {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length) texts ??= new Map(rows.map((row) => [row, text(row)]));
    const target = location.hash.slice(1);
    let shown = 0;
    for (const row of rows) {
      const wanted = (!problems?.checked || row.classList.contains("hurts")) &&
        words.every((word) => texts.get(row).includes(word));
      row.hidden = !wanted && row.id !== target;
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows.length} layers`;
  }

  // A link leads to a row that is filtered out, or to something that is folded: show it.
  function reveal() {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (!target) return;
    let moved = target.hidden;
    if (target.hidden) filter();
    for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) {
      moved ||= !fold.open;
      fold.open = true;
    }
    if (moved) target.scrollIntoView({ block: "center" });
  }

  headers.forEach((header, column) => {
    header.querySelector("button")?.addEventListener("click", () => sort(column));
  });
  input.addEventListener("input", filter);
  problems?.addEventListener("change", filter);
  input.closest(".filter").hidden = false;
  filter();
  addEventListener("hashchange", reveal);
  reveal();

  function select(element) {
    const range = document.createRange();
    range.selectNodeContents(element);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  }

  // The clipboard may refuse; the older way works on a selection, which then stays for the user.
  async function copy(button, source) {
    let done = false;
    try {
      await navigator.clipboard.writeText(source.textContent);
      done = true;
    } catch {
      select(source);
      done = document.execCommand("copy");
    }
    button.textContent = done ? "Copied" : "Selected: copy with Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  }

  for (const box of document.querySelectorAll(".copied")) {
    const source = box.querySelector("pre");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.setAttribute("aria-live", "polite");
    button.addEventListener("click", () => copy(button, source));
    box.prepend(button);
  }

  async function unpack(link) {
    const packed = Uint8Array.from(atob(link.href.split(",")[1]), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const file = new Blob([await new Response(stream).arrayBuffer()], { type: link.dataset.kind });
    const plain = document.createElement("a");
    plain.href = URL.createObjectURL(file);
    plain.download = link.dataset.name;
    plain.click();
    setTimeout(() => URL.revokeObjectURL(plain.href), 60_000);
  }

  // Without DecompressionStream the link stays what it is: the packed file.
  if (typeof DecompressionStream === "function") {
    for (const link of document.querySelectorAll("a[data-name]")) {
      link.textContent = link.dataset.name;
      link.addEventListener("click", (event) => {
        event.preventDefault();
        unpack(link);
      });
    }
  }

  const theme = document.querySelector("#theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");

  function stored(value) {
    try {
      if (value) localStorage.setItem("qanalyze-theme", value);
      return localStorage.getItem("qanalyze-theme");
    } catch {
      return null; // no storage for files here: the choice lasts as long as the page
    }
  }

  function show(scheme) {
    if (scheme) {
      document.documentElement.dataset.theme = scheme;
      document.documentElement.style.colorScheme = scheme;
    }
    const is = scheme ?? (dark.matches ? "dark" : "light");
    theme.textContent = is === "dark" ? "Light theme" : "Dark theme";
    return is;
  }

  let scheme = ["light", "dark"].find((each) => each === stored());
  show(scheme);
  theme.hidden = false;
  theme.addEventListener("click", () => {
    scheme = show(scheme) === "dark" ? "light" : "dark";
    stored(scheme);
    show(scheme);
  });
  dark.addEventListener("change", () => show(scheme));

  // Paper has nothing to click on: what explains is unfolded, lists of data stay as they are.
  let unfolded = [];
  addEventListener("beforeprint", () => {
    const folds = ".provenance, .card, .card details, .cards + details, details.plot";
    unfolded = [...document.querySelectorAll(folds)].filter((e) => e.open === false);
    for (const fold of unfolded) fold.open = true;
  });
  addEventListener("afterprint", () => {
    for (const fold of unfolded) fold.open = false;
  });
})();

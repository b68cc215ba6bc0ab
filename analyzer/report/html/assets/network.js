// Draws the network, and keeps the drawing, the strip and the table of layers on the same layer.
// The location's hash says which; without this script the links of the strip lead to the rows.
"use strict";
{
  const PATIENCE = 10_000; // ms for the layout
  const READABLE = 0.34; // scale below which the drawing does not start as a whole
  const NUMBERS = ["isolated", "local", "graphwise"];
  const find = (name) => document.querySelector(`.network-${name}`);
  const strip = find("strip");
  const cells = strip ? Array.from(strip.children) : [];
  const data = JSON.parse(find("data")?.textContent ?? '{"layers": []}');
  const FIELDS = ["op", "label", "group", "found", "changed", "shades", "texts", "text"];
  data.layers = data.layers.map(
    (values, i) => ({ text: cells[i]?.title, ...Object.fromEntries(values.map((v, j) => [FIELDS[j], v])) }));
  const linesOf = data.layers.map(() => []);
  const nodes = []; // of the layers, once they are drawn
  const view = { x: 0, y: 0, width: 0, height: 0, scale: 1 };
  let drawing = null; // what the worker answered
  let svg = null;
  let selected = -1;
  let away = false; // the drawing is out of sight

  const row = (layer) => document.getElementById(`layer-${layer}`);
  const cell = (layer) => cells[Math.floor(layer / Number(strip?.dataset.run))];
  const named = (hash) => (/^#layer-\d+$/.test(hash) ? Number(hash.slice(7)) : -1);

  // Selection

  /** Mark a layer everywhere; show its row only if asked, for the reader may look elsewhere. */
  function select(layer, reveal) {
    if (!row(layer)) return;
    const mark = (which, on) => {
      for (const part of [row(which), nodes[which], cell(which)]) part?.classList.toggle("selected", on);
      for (const line of linesOf[which] ?? []) line.classList.toggle("on", on);
    };
    mark(selected, false);
    mark(layer, true);
    row(layer).hidden = false; // whatever is filtered
    selected = layer;
    const group = data.layers[layer]?.group;
    nodes.forEach((node, i) => node.classList.toggle("kin", !!group && data.layers[i].group === group));
    if (location.hash !== `#layer-${layer}`) remember(`#layer-${layer}`);
    if (drawing) bring(layer);
    if (reveal) unfold(row(layer));
  }

  /** Assigning the hash would scroll to the row, a moment later. */
  function remember(hash) {
    try {
      history.pushState(null, "", hash);
    } catch {
      // A page inside another one has no address of its own.
    }
  }

  function bring(layer) {
    stopAt(nodes, layer);
    if (!seen(layer)) centre(layer);
    say(layer);
    find("back").hidden = !away;
  }

  function unfold(shown) {
    for (let at = shown; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    shown.scrollIntoView({ block: "center" });
  }

  /** Make one of many links the only one that the tab key stops at. */
  function stopAt(links, at) {
    for (const link of links) if (link.getAttribute("tabindex") !== "-1") link.setAttribute("tabindex", -1);
    links[at]?.setAttribute("tabindex", 0);
  }

  function say(layer) {
    if (layer in data.layers) find("picked").textContent = data.layers[layer].text;
  }

  // View

  function show() {
    const { width, height } = svg.getBoundingClientRect();
    Object.assign(view, { width: width / view.scale, height: height / view.scale });
    const inside = (start, size, first, whole) => (size > whole
      ? first - (size - whole) / 2
      : Math.min(Math.max(start, first), first + whole - size));
    view.x = inside(view.x, view.width, drawing.left, drawing.width);
    view.y = inside(view.y, view.height, drawing.top, drawing.height);
    svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
    svg.classList.toggle("far", view.scale < 0.7);
    svg.classList.toggle("farther", view.scale < 0.52);
    const held = new Set([...nodes.keys()].filter(seen).map(cell));
    for (const each of cells) each.classList.toggle("seen", held.size < cells.length && held.has(each));
  }

  function zoom(factor, across = 0.5, down = 0.5) {
    const scale = Math.min(2.5, Math.max(0.05, view.scale * factor));
    view.x += across * view.width * (1 - view.scale / scale);
    view.y += down * view.height * (1 - view.scale / scale);
    view.scale = scale;
    show();
  }

  function fit() {
    const { width, height } = svg.getBoundingClientRect();
    view.scale = Math.min(1, width / drawing.width, height / drawing.height);
    show();
  }

  function seen(layer) {
    const [x, y] = [drawing.places[layer][0] - view.x, drawing.places[layer][1] - view.y];
    return x > 0 && y > 0 && x < view.width && y < view.height;
  }

  function centre(layer) {
    view.x = drawing.places[layer][0] - view.width / 2;
    view.y = drawing.places[layer][1] - view.height / 2;
    show();
  }

  // Drawing

  function element(name, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  const text = (name, x, y, words) => element("text", { class: name, x, y }, words);
  const at = (x, y) => ({ transform: `translate(${x} ${y})` });
  const mark = (name, x, y, words) => element("g", { class: `mark ${name}`, ...at(x, y) },
    element("rect", { x: -10, y: -8, width: 20, height: 16, rx: 8 }), text("", 0, 4, words));

  function box(layer, [x, y], { width, height }) {
    const { op, label, group, found, changed, text: words } = data.layers[layer];
    const made = element("a", { class: `node${found ? " found" : ""}`, href: `#layer-${layer}`,
      tabindex: -1, ...at(x - width / 2, y - height / 2) },
    element("title", {}, words), element("rect", { class: "box", width, height, rx: 6 }),
    text("op", 8, 16, op), text("value", width - 8, 16, ""), text("label", 8, 32, label));
    const rank = data.worst.indexOf(layer) + 1;
    if (rank) made.append(mark("rank", -3, -5, rank));
    if (changed) made.append(mark("changed", width, 0, "Δ"));
    if (group) made.append(mark("group", width, height, `s${group}`));
    return made;
  }

  function end([name, label], [x, y], { width, height }) {
    const size = { x: -width / 2, y: 6 - height / 2, width, height: height - 12, rx: 14 };
    return element("g", { class: "end", ...at(x, y) }, element("title", {}, name),
      element("rect", size), text("", 0, 4, label));
  }

  function draw() {
    const paths = drawing.lines.map(([from, to, d]) => {
      const path = element("path", { class: "line", d });
      for (const layer of [from, to]) linesOf[layer]?.push(path);
      return path;
    });
    data.layers.forEach((_, i) => nodes.push(box(i, drawing.places[i], drawing.box)));
    const ends = [...data.inputs, ...data.outputs].map(
      (each, i) => end(each, drawing.places[nodes.length + i], drawing.box));
    const label = `${nodes.length} layers drawn as a graph; all of them are in the table of layers`;
    svg = element("svg", { role: "group", "aria-label": label }, ...paths, ...ends, ...nodes);
    find("canvas").append(svg);
    colour(0);
  }

  /** Colour by one of the numbers; the strip too where it has a cell for each layer. */
  function colour(by) {
    document.querySelectorAll(".network-legend .range").forEach(
      (range, i) => (range.textContent = data.legends[by][i]));
    if (cells.length === nodes.length) {
      find("by").textContent = `${NUMBERS[by]} error`;
      find("by").href = `#${NUMBERS[by]}`;
    }
    nodes.forEach((node, i) => {
      node.querySelector(".value").textContent = data.layers[i].texts[by];
      const shade = data.layers[i].shades[by];
      for (const each of cells.length === nodes.length ? [node, cells[i]] : [node]) {
        each.classList.remove("none", ...each.classList.value.match(/shade\d/g) ?? []);
        each.classList.add(shade < 0 ? "none" : `shade${shade}`);
      }
    });
  }

  // Mouse and keys

  const pointed = (event) => nodes.indexOf(event.target.closest("a.node"));
  let from = null; // where the pointer went down
  let moved = false;
  const POINTER = {
    pointerdown({ button, clientX, clientY }) {
      if (button === 0) from = { clientX, clientY, ...view };
      moved = false;
    },
    pointermove({ clientX, clientY, pointerId }) {
      if (!from) return;
      const [x, y] = [clientX - from.clientX, clientY - from.clientY];
      if (!moved && Math.hypot(x, y) < 5) return;
      if (!moved) svg.setPointerCapture(pointerId);
      moved = true;
      Object.assign(view, { x: from.x - x / view.scale, y: from.y - y / view.scale });
      show();
    },
    pointerup: () => (from = null),
    pointercancel: () => (from = null),
    dragstart: (event) => event.preventDefault(),
    click(event) {
      if (pointed(event) < 0 || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      if (!moved) select(pointed(event), true);
    },
    wheel(event) {
      if (!event.ctrlKey) return; // the page scrolls
      event.preventDefault();
      const { left, top, width, height } = svg.getBoundingClientRect();
      zoom(Math.exp(-event.deltaY / 400), (event.clientX - left) / width, (event.clientY - top) / height);
    },
    pointerover: (event) => say(pointed(event)),
    focusin: (event) => say(pointed(event)),
    pointerleave: () => say(selected),
  };

  function nextWorst() {
    const { worst } = data;
    if (!worst.length) return;
    const inside = svg.contains(document.activeElement);
    select(worst[(worst.indexOf(selected) + 1) % worst.length], false);
    centre(selected);
    if (inside) nodes[selected].focus({ preventScroll: true });
  }

  const ACTS = {
    "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: fit, n: nextWorst,
    "?": () => find("shortcuts").showModal(),
  };

  /** Go to what the layout found next to a layer in the direction of an arrow key. */
  function inDrawing(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const way = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].indexOf(event.key);
    const next = way < 0 ? -1 : drawing.near[nodes.indexOf(document.activeElement)]?.[way] ?? -1;
    if (next >= 0) {
      stopAt(nodes, next);
      nodes[next].focus({ preventScroll: true });
      if (!seen(next)) centre(next);
    } else if (ACTS[event.key]) ACTS[event.key]();
    if (way >= 0 || ACTS[event.key]) event.preventDefault();
  }

  function inStrip(event) {
    const next = cells.indexOf(document.activeElement) + ({ ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? NaN);
    if (!cells[next]) return;
    event.preventDefault();
    stopAt(cells, next);
    cells[next].focus();
  }

  function backToDrawing() {
    find("section").scrollIntoView({ block: "start" });
    nodes.find((node) => node.getAttribute("tabindex") === "0")?.focus({ preventScroll: true });
  }

  function anywhere(event) {
    const typing = event.target.closest?.("input, select, textarea, dialog");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.key === "?" && drawing) ACTS["?"]();
    if (event.key === "g" && drawing) backToDrawing();
  }

  // Start

  function lay() {
    const canvas = find("canvas");
    const status = find("status");
    const cancel = find("cancel");
    canvas.hidden = false;
    const room = Math.max(360, 0.85 * innerHeight);
    const worker = new Worker(
      URL.createObjectURL(new Blob([find("worker").textContent], { type: "text/javascript" })));
    const stop = (why) => {
      clearTimeout(timer);
      worker.terminate();
      cancel.hidden = true;
      status.textContent = why && `Not drawn as a graph: ${why}. The table of layers has them all.`;
      canvas.hidden = !!why;
    };
    const timer = setTimeout(() => stop("that took too long"), PATIENCE);
    setTimeout(() => (cancel.hidden = !!drawing || canvas.hidden), 1000);
    cancel.addEventListener("click", () => stop("cancelled"));
    worker.addEventListener("error", (event) => {
      event.preventDefault();
      stop("the layout failed");
    });
    worker.addEventListener("message", (event) => {
      stop("");
      drawing = event.data;
      draw();
      const scale = Math.min(1, svg.getBoundingClientRect().width / drawing.width);
      canvas.style.height = `${Math.ceil(Math.min(room, scale * drawing.height))}px`;
      use();
    });
    const count = data.layers.length;
    const edges = [];
    for (let i = 0; i < data.edges.length; i += 2) edges.push(data.edges.slice(i, i + 2));
    data.inputs.forEach(([, , to], i) => edges.push(...to.map((layer) => [count + i, layer])));
    const first = count + data.inputs.length;
    data.outputs.forEach(([, , of], i) => edges.push(...of.map((layer) => [layer, first + i])));
    const size = first + data.outputs.length;
    worker.postMessage({ size, count, edges, width: canvas.clientWidth, height: room });
  }

  function use() {
    fit();
    if (view.scale < READABLE) {
      view.scale = 0.6;
      show();
      centre(data.worst[0] ?? 0);
    }
    find("tools").hidden = false;
    stopAt(nodes, data.worst[0] ?? 0);
    if (selected >= 0) select(selected, true);
    for (const [name, act] of Object.entries(POINTER)) {
      svg.addEventListener(name, act, { passive: false });
    }
    find("canvas").addEventListener("keydown", inDrawing);
    find("tools").addEventListener("click", (event) => ACTS[event.target.dataset?.key]?.());
    find("tools").addEventListener("change", (event) => colour(Number(event.target.value)));
    new ResizeObserver(show).observe(svg);
    addEventListener("beforeprint", fit);
    new IntersectionObserver((entries) => {
      away = entries.at(-1).intersectionRatio < 0.3;
      find("back").hidden = !away || selected < 0;
    }, { threshold: 0.3 }).observe(svg);
    find("back").addEventListener("click", backToDrawing);
  }

  document.querySelector("table.layers")?.addEventListener("click", (event) => {
    const clicked = event.target.closest("tbody tr[id^='layer-']");
    const own = event.target.closest("a, button, summary, details, input, select, label");
    if (clicked && !own && getSelection().isCollapsed) select(named(`#${clicked.id}`), false);
  });
  const fromHash = () => {
    const layer = named(location.hash);
    if (layer >= 0 && layer !== selected) select(layer, true);
  };
  addEventListener("hashchange", fromHash);
  addEventListener("keydown", anywhere);
  strip?.addEventListener("keydown", inStrip);
  strip?.addEventListener("click", (event) => {
    const clicked = event.target.closest("a");
    if (!drawing || !clicked || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    select(named(clicked.hash), false);
  });
  stopAt(cells, 0);
  fromHash();
  if (data.worst) lay();
}

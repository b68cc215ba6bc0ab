// Runs in a worker behind dagre: layers and edges in, a drawing wrapped into rows like text out.
// Each row is laid out by itself: dagre's recursion overflows at some 900 ranks, and time grows
// faster than the graph. A value that goes on to later rows leaves through a port at the end of
// its row and enters by one at the beginning of the next.
"use strict";

const BOX = { width: 150, height: 40 };
const GAP = { ranks: 26, nodes: 12, edges: 9 };
const LANE = 7; // between lines that lead from one row to the next
const MARGIN = 14;
const SCALES = [1, 0.9, 0.8, 0.7, 0.6, 0.53, 0.47, 0.42, 0.38, 0.34];
const SMALLEST = 5; // ranks in a row, also in a narrow window

/** The longest path to each node; inputs stand right before their first reader. */
function ranksOf(size, edges) {
  const rank = new Array(size).fill(0);
  const first = new Array(size).fill(Infinity);
  const fed = new Array(size).fill(false);
  for (const [a, b] of edges) {
    rank[b] = Math.max(rank[b], rank[a] + 1);
    fed[b] = true;
  }
  for (const [a, b] of edges) first[a] = Math.min(first[a], rank[b]);
  return rank.map((own, node) => (fed[node] || first[node] === Infinity ? own : first[node] - 1));
}

/** Cut ranks into rows of at most `most`, where the fewest values cross. */
function cut(ranks, edges, most) {
  const last = ranks.reduce((a, b) => Math.max(a, b), 0);
  const until = new Map(); // node -> last rank that reads it
  for (const [a, b] of edges) until.set(a, Math.max(until.get(a) ?? 0, ranks[b]));
  const crossing = new Array(last + 2).fill(0);
  for (const [a, end] of until) for (let r = ranks[a]; r < end; r++) crossing[r] += 1;
  const rows = [];
  for (let start = 0; start <= last; ) {
    let best = start + most - 1;
    if (best < last) {
      const least = start + Math.ceil(0.65 * most) - 1;
      for (let r = best; r >= least; r--) if (crossing[r] < crossing[best]) best = r;
    }
    rows.push([start, Math.min(best, last)]);
    start = best + 1;
  }
  return { rows, crossing };
}

/** About how high the rows will be: the widest rank of each, and the lanes between them. */
function heightOf(ranks, { rows, crossing }) {
  const nodes = new Array(crossing.length).fill(0);
  for (const rank of ranks) nodes[rank] += 1;
  return rows.reduce((sum, [first, last]) => {
    let row = 0;
    for (let r = first; r <= last; r++) {
      const lines = Math.max(0, crossing[r] - nodes[r]);
      row = Math.max(row, nodes[r] * (BOX.height + GAP.nodes) + lines * GAP.edges);
    }
    return sum + row + crossing[last] * LANE + 2 * MARGIN;
  }, 0);
}

/** Choose the rows so that all of it fits at the largest scale; else at the smallest. */
function wrap(ranks, edges, width, height) {
  let found;
  for (const scale of SCALES) {
    const most = Math.floor((width / scale - 4 * MARGIN) / (BOX.width + GAP.ranks));
    found = cut(ranks, edges, Math.max(SMALLEST, most));
    if (heightOf(ranks, found) * scale <= height) break;
  }
  return found.rows;
}

/** A line through the given columns: level where it passes boxes, curved between them. */
function curve(start, middle, end) {
  const text = (value) => Math.round(10 * value) / 10;
  let [x, y] = start;
  let path = `M${text(x)} ${text(y)}`;
  const to = (u, v) => {
    const half = text((x + u) / 2);
    path += `C${half} ${text(y)} ${half} ${text(v)} ${text(u)} ${text(v)}`;
    [x, y] = [u, v];
  };
  for (const point of middle) {
    to(point.x - BOX.width / 2, point.y);
    x += BOX.width;
    path += `H${text(x)}`;
  }
  to(...end);
  return path;
}

/** A line with right angles, their corners rounded. */
function angled(points) {
  let path = `M${points[0].join(" ")}`;
  for (let i = 1; i < points.length; i++) {
    const [a, b, c] = [points[i - 1], points[i], points[i + 1]];
    if (!c) return `${path}L${b.join(" ")}`;
    const towards = (from, end) => {
      const length = Math.hypot(end[0] - from[0], end[1] - from[1]) || 1;
      const part = Math.min(6, length / 2) / length;
      return [from[0] + part * (end[0] - from[0]), from[1] + part * (end[1] - from[1])].join(" ");
    };
    path += `L${towards(b, a)}Q${b.join(" ")} ${towards(b, c)}`;
  }
  return path;
}

const known = new Map(); // deep networks repeat themselves: what a row is made of -> its layout

/** Lay out one row; nodes are called by their place in it: "in0" is the first port ... */
function layRow(nodes, coming, going, edges) {
  const id = new Map(nodes.map((node, i) => [node, `${i}`]));
  coming.forEach((node, i) => id.set(node, `in${i}`));
  const pieces = [
    ...edges.map(([a, b]) => [id.get(a), id.get(b)]),
    ...going.map((node, i) => [id.get(node), `out${i}`]),
  ];
  const key = [coming.length, nodes.length, ...pieces].join(" ");
  if (!known.has(key)) known.set(key, arrange(nodes.length, coming.length, going.length, pieces));
  return { graph: known.get(key), pieces, id };
}

function arrange(boxes, coming, going, pieces) {
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({
    rankdir: "LR", ranksep: GAP.ranks, nodesep: GAP.nodes, edgesep: GAP.edges,
  });
  graph.setDefaultEdgeLabel(() => ({}));
  const add = (name, count, size) => {
    for (let i = 0; i < count; i++) graph.setNode(`${name}${i}`, { ...size });
  };
  const port = { width: 1, height: 1 };
  add("in", coming, port);
  add("", boxes, BOX);
  add("out", going, port);
  for (const [a, b] of pieces) graph.setEdge(a, b);
  // Ends that nothing else is before or behind keep the ports at the two sides.
  const [first, last] = [graph.sources(), graph.sinks()];
  const weight = (id) => ({ weight: /^(in|out)/.test(id) ? 50 : 0 });
  if (coming) for (const id of first) graph.setEdge("start", id, weight(id));
  if (going) for (const id of last) graph.setEdge(id, "end", weight(id));
  for (const id of ["start", "end"]) if (graph.hasNode(id)) graph.setNode(id, { ...port });
  dagre.layout(graph);
  return graph;
}

/** What the arrow keys lead to: the nearest source and reader, and what is above and below. */
function nearOf(places, count, edges) {
  const near = Array.from({ length: count }, () => [-1, -1, -1, -1]);
  const least = near.map(() => [Infinity, Infinity, Infinity, Infinity]);
  const offer = (node, way, other, distance) => {
    if (distance < least[node][way]) [least[node][way], near[node][way]] = [distance, other];
  };
  const apart = (a, b) => Math.hypot(places[a][0] - places[b][0], places[a][1] - places[b][1]);
  for (const [a, b] of edges) {
    if (a >= count || b >= count) continue;
    offer(b, 0, a, apart(a, b));
    offer(a, 1, b, apart(a, b));
  }
  for (let a = 0; a < count; a++) {
    for (let b = 0; b < count; b++) {
      const [x, y] = [places[b][0] - places[a][0], places[b][1] - places[a][1]];
      if (y) offer(a, y < 0 ? 2 : 3, b, 3 * Math.abs(x) + Math.abs(y));
    }
  }
  return near;
}

/** Lines from the end of one row back to the beginning of the next, beside and between them. */
function turns({ order, ends }, entry, lowest) {
  return order.map((node, i) => {
    const [[x, y], [u, v]] = [ends.get(node), entry(node)];
    const lane = lowest - LANE * i;
    const out = x + 6 + LANE * (order.length - 1 - i);
    const back = u - 6 - LANE * i;
    const points = [[x, y], [out, y], [out, lane], [back, lane], [back, v], [u, v]];
    return [node, points.map((point) => point.map(Math.round))];
  });
}

function layOut({ size, count, edges, width, height }) {
  const ranks = ranksOf(size, edges);
  const rows = wrap(ranks, edges, width, height);
  const rowOf = ranks.map((rank) => rows.findIndex(([, last]) => rank <= last));
  const until = new Map();
  for (const [a, b] of edges) until.set(a, Math.max(until.get(a) ?? 0, rowOf[b]));
  const places = new Array(size);
  const lines = []; // [source, target or -1, path]
  let top = 0;
  let left = 0;
  let right = 0;
  let above = null; // what leaves the row above
  rows.forEach((_, row) => {
    const nodes = [];
    rowOf.forEach((own, node) => own === row && nodes.push(node));
    const coming = above ? above.order : [];
    const going = [...coming, ...nodes].filter((node) => (until.get(node) ?? 0) > row);
    const inside = edges.filter((edge) => rowOf[edge[1]] === row);
    const { graph, pieces, id } = layRow(nodes, coming, going, inside);
    const at = (name) => graph.node(name);
    const shift = top + (above ? 2 * MARGIN + LANE * (coming.length - 1) : 0);
    const { width: rowWidth, height: rowHeight } = graph.graph();
    for (const node of nodes) {
      places[node] = [Math.round(at(id.get(node)).x), Math.round(shift + at(id.get(node)).y)];
    }
    pieces.forEach(([a, b], i) => {
      const [from, to] = [at(a), at(b)];
      // Every second point stands between the columns of boxes, the last one is the box itself.
      const middle = graph.edge(a, b).points.slice(1, -1).filter((_, j) => j % 2 === 1);
      const path = curve([from.x + from.width / 2, shift + from.y],
        middle.map((point) => ({ x: point.x, y: shift + point.y })),
        [to.x - to.width / 2, shift + to.y]);
      lines.push(i < inside.length ? [...inside[i], path] : [going[i - inside.length], -1, path]);
    });
    if (above) {
      const entry = (node) => [at(id.get(node)).x, shift + at(id.get(node)).y];
      for (const [node, points] of turns(above, entry, shift - MARGIN)) {
        lines.push([node, -1, angled(points)]);
        left = Math.min(left, points[3][0]);
        right = Math.max(right, points[1][0]);
      }
    }
    const ends = new Map(
      going.map((node, i) => [node, [at(`out${i}`).x, shift + at(`out${i}`).y]]));
    const order = [...going].sort((a, b) => ends.get(a)[1] - ends.get(b)[1]);
    above = { order, ends };
    top = shift + rowHeight;
    right = Math.max(right, rowWidth);
  });
  return {
    places, lines, box: BOX, near: nearOf(places, count, edges),
    left: left - MARGIN, top: -MARGIN,
    width: right - left + 2 * MARGIN, height: top + 2 * MARGIN,
  };
}

self.onmessage = ({ data }) => self.postMessage(layOut(data));

// The drawing of the timeline: one SVG per lane at its true width in pixels (a stretched drawing
// would stretch its patterns), a letter before each, and the legend under them.
const SVG = "http://www.w3.org/2000/svg";
const LANE_HEIGHT = { loudness: 30, cuts: 14, scores: 26 };
// A pattern for each lane, so that no meaning is carried by colour alone.
const PATTERNS = {
  stripes: "M-2,2 l4,-4 M0,8 l8,-8 M6,10 l4,-4",
  dots: "M2,2 h2 v2 h-2 z M6,6 h2 v2 h-2 z",
  grid: "M0,4 h8 M4,0 v8",
  lines: "M0,2 h8 M0,6 h8",
};

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function html(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// What is drawn for a value: [{kind, letter, name, ...}], from top to bottom.
function rowsOf(value, words) {
  const rows = [];
  if (!value.has_audio) rows.push({ kind: "silent", letter: "L", name: words.loudness });
  else if (value.loudness)
    rows.push({ kind: "loudness", letter: "L", name: words.loudness, bins: value.loudness });
  if (value.cuts.length)
    rows.push({ kind: "cuts", letter: "C", name: words.cuts, times: value.cuts });
  // "sound" and "picture" are said in the visitor's language, other names as they are
  for (const lane of value.lanes)
    rows.push({ kind: "scores", ...lane, name: words[`lane_${lane.name}`] || lane.name });
  return rows;
}

function loudnessShape(bins, width, height) {
  const step = width / bins.length;
  const bars = bins.map((level, i) => {
    const half = Math.max(0.5, (level * height) / 2);
    return `M${(i + 0.5) * step},${height / 2 - half} v${2 * half}`;
  });
  const strokeWidth = Math.max(0.6, Math.min(step * 0.75, 5));
  return [svg("path", { class: "av-loudness", d: bars.join(" "), "stroke-width": strokeWidth })];
}

function cutShape(times, duration, width, height) {
  const ticks = times.map((t) => `M${(t / duration) * width},1 V${height - 1}`);
  return [svg("path", { class: "av-cuts", d: ticks.join(" ") })];
}

// The known scores as [time, score] in order of time, cut where a score is missing.
function pieces(lane) {
  const points = lane.times.map((t, i) => [t, lane.scores[i]]).sort((a, b) => a[0] - b[0]);
  const found = [[]];
  for (const point of points) {
    if (point[1] === null) found.push([]);
    else found[found.length - 1].push(point);
  }
  return found.filter((piece) => piece.length);
}

// The lowest and highest score that fit: 0 and the threshold are always among them.
function bounds(lane) {
  const known = lane.scores.filter((score) => score !== null);
  if (lane.threshold !== null) known.push(lane.threshold);
  const low = Math.min(0, ...known);
  const high = Math.max(0, ...known);
  return [low, high > low ? high + 0.05 * (high - low) : low + 1];
}

function scoreShape(lane, number, duration, width, height) {
  const [low, high] = bounds(lane);
  const x = (t) => Math.min(width, Math.max(0, (t / duration) * width));
  const y = (score) => height - 1 - ((score - low) / (high - low)) * (height - 2);
  const id = `av-pattern-${number}`;
  const shapes = [
    svg("defs", {}, svg(
      "pattern", { id, width: 8, height: 8, patternUnits: "userSpaceOnUse" },
      svg("path", { d: PATTERNS[lane.pattern] || PATTERNS.stripes, class: `av-hatch av-lane-${number}` }),
    )),
  ];
  for (const piece of pieces(lane)) {
    // one score alone would have no width
    const points = piece.length > 1 ? piece : [[piece[0][0] - 0.1, piece[0][1]], [piece[0][0] + 0.1, piece[0][1]]];
    const line = points.map(([t, score]) => `${x(t).toFixed(1)},${y(score).toFixed(1)}`).join(" L");
    const [first, last] = [x(points[0][0]), x(points[points.length - 1][0])];
    shapes.push(svg("path", { d: `M${first},${height} L${line} L${last},${height} Z`, fill: `url(#${id})` }));
    shapes.push(svg("path", { d: `M${line}`, class: `av-line av-lane-${number}` }));
  }
  if (lane.threshold !== null)
    shapes.push(svg("path", { d: `M0,${y(lane.threshold)} H${width}`, class: "av-threshold" }));
  return shapes;
}

// Draws all rows into `track`; what else lies in it (playhead, range) is kept.
function drawLanes(track, letters, value, rows, words) {
  const width = Math.max(track.clientWidth, 1);
  for (const old of track.querySelectorAll(".av-row")) old.remove();
  letters.replaceChildren();
  let number = 0;
  for (const row of rows) {
    const height = LANE_HEIGHT[row.kind] || LANE_HEIGHT.cuts;
    const line = html("div", { class: "av-row", style: `height: ${height}px` });
    letters.append(html("span", { style: `height: ${height}px` }, row.letter));
    if (row.kind === "silent") line.append(html("span", { class: "av-silent" }, words.no_sound));
    else {
      const shapes =
        row.kind === "loudness" ? loudnessShape(row.bins, width, height)
        : row.kind === "cuts" ? cutShape(row.times, value.duration, width, height)
        : scoreShape(row, number++ % 4, value.duration, width, height);
      line.append(svg("svg", { width: "100%", height, viewBox: `0 0 ${width} ${height}` }, ...shapes));
    }
    track.append(line);
  }
}

// One line per row: its letter, its name, and where it is highest, which the drawing alone would say.
function drawLegend(legend, value, rows, words) {
  const lines = rows.map((row) => {
    const told = [row.name];
    if (row.kind === "silent") told.push(words.no_sound);
    if (row.kind === "cuts") told.push(cutWords(row.times));
    if (row.kind === "scores") told.push(...scoreWords(row, words));
    return html("li", {}, html("b", {}, row.letter), ` ${told.join(", ")}`);
  });
  for (const [solid, name] of [[true, words.legend_agreed], [false, words.legend_alone]])
    if (value.pins.some((pin) => pin.solid === solid)) {
      const mark = html("i", { class: solid ? "av-dot av-solid" : "av-dot", "aria-hidden": "true" });
      lines.push(html("li", {}, mark, ` ${name}`));
    }
  legend.replaceChildren(...lines);
}

// Where a few cuts are, or how many there are.
function cutWords(times) {
  return times.length > 8 ? String(times.length) : times.map((t) => clock(t)).join(" ");
}

function scoreWords(lane, words) {
  const known = lane.scores.filter((score) => score !== null);
  if (!known.length) return [];
  const best = lane.times[lane.scores.indexOf(Math.max(...known))];
  // where all is one window there is no best place
  const told = known.length > 1 ? [fill(words.best, { time: clock(best) })] : [];
  if (lane.threshold !== null) told.push(words.threshold);
  return told;
}

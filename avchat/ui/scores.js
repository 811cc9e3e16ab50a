// Scores over time as a drawing, with the least score that counts as a line, and as a table for who
// does not see it. A click seeks; keys do that on the timeline.
const words = wordsFor(given.words);
const box = element.querySelector(".av-scores");
const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 130;
const EDGE = { left: 34, right: 18, top: 10, bottom: 18 };
const MOST_ROWS = 60; // of the table: of more, every so many
let value = null;

function svg(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, to] of Object.entries(attributes)) made.setAttribute(name, to);
  made.append(...children);
  return made;
}

const drawing = document.createElement("div");
const table = document.createElement("details");
const summary = document.createElement("summary");
summary.textContent = words.as_table;
table.append(summary);
table.className = "av-table";
box.append(drawing, table);

const known = (scores) => scores.filter((score) => score !== null);

function scales(width) {
  const { times, score, sound, picture, least, duration } = value;
  const all = [...known(score), ...known(sound), ...known(picture), ...(least === null ? [] : [least])];
  const low = Math.min(...all) - 0.02;
  const high = Math.max(...all) + 0.02;
  const inner = width - EDGE.left - EDGE.right;
  const x = (t) => EDGE.left + (inner * t) / Math.max(duration, times[times.length - 1], 0.1);
  const y = (s) => HEIGHT - EDGE.bottom - ((HEIGHT - EDGE.top - EDGE.bottom) * (s - low)) / (high - low);
  return { x, y, low, high };
}

function line(name, scores, { x, y }) {
  let path = "";
  let pen = false;
  scores.forEach((score, k) => {
    if (score !== null) path += `${pen ? "L" : "M"}${x(value.times[k]).toFixed(1)},${y(score).toFixed(1)}`;
    pen = score !== null;
  });
  return svg("path", { class: `av-plot-${name}`, d: path });
}

function letter(text, scores, { x, y }) {
  const last = scores.findLastIndex((score) => score !== null);
  const where = { x: x(value.times[last]) + 4, y: y(scores[last]) + 4, class: "av-plot-text" };
  return svg("text", where, text);
}

function described() {
  const best = value.score.reduce((a, s, k) => (s > value.score[a] ? k : a), 0);
  const said = fill(words.plot, { best: value.score[best].toFixed(2), time: spoken(value.times[best]) });
  const clear = value.least === null ? "" : fill(words.plot_least, { least: value.least.toFixed(2), count: value.spans.length });
  return `${said} ${clear}`.trim();
}

function draw() {
  const width = drawing.clientWidth;
  if (!value || !width) return;
  const scale = scales(width);
  const { x, y, low, high } = scale;
  const picture = svg("svg", { width, height: HEIGHT, role: "img", "aria-label": described() });
  for (const [start, end] of value.spans) {
    const wide = Math.max(2, x(end) - x(start));
    const place = { x: x(start), y: EDGE.top, width: wide, height: HEIGHT - EDGE.top - EDGE.bottom };
    picture.append(svg("rect", { class: "av-plot-span", ...place }));
  }
  for (const level of [low + 0.02, high - 0.02]) {
    picture.append(svg("text", { x: 2, y: y(level) + 4, class: "av-plot-text" }, level.toFixed(2)));
  }
  picture.append(svg("text", { x: EDGE.left, y: HEIGHT - 4, class: "av-plot-text" }, "0:00"));
  const end = { x: width - EDGE.right, y: HEIGHT - 4, class: "av-plot-text", "text-anchor": "end" };
  picture.append(svg("text", end, clock(value.duration)));
  for (const [name, mark] of [["sound", "A"], ["picture", "V"]]) {
    if (!known(value[name]).length) continue;
    picture.append(line(name, value[name], scale), letter(mark, value[name], scale));
  }
  picture.append(line("score", value.score, scale));
  if (value.least !== null) {
    const level = { x1: EDGE.left, x2: width - EDGE.right, y1: y(value.least), y2: y(value.least) };
    picture.append(svg("line", { class: "av-plot-least", ...level }));
  }
  picture.addEventListener("click", (event) => {
    const left = picture.getBoundingClientRect().left + EDGE.left;
    const t = (value.duration * (event.clientX - left)) / (width - EDGE.left - EDGE.right);
    const detail = { t: Math.max(0, Math.min(t, value.duration)) };
    document.dispatchEvent(new CustomEvent("avchat:seek", { detail }));
  });
  const drawn = ["sound", "picture"].filter((name) => known(value[name]).length);
  if (value.least !== null) drawn.push("least");
  const legend = document.createElement("p");
  legend.className = "av-plot-legend";
  legend.textContent = ["score", ...drawn].map((name) => words[`legend_${name}`]).join("; ");
  drawing.replaceChildren(picture, legend);
}

function fillTable() {
  const old = table.querySelector("table");
  if (old) old.remove();
  if (!value || !table.open) return;
  const rows = document.createElement("table");
  const add = (cells, tag) => {
    const row = rows.insertRow();
    for (const text of cells) {
      const cell = document.createElement(tag);
      if (tag === "th") cell.scope = "col";
      cell.textContent = text;
      row.append(cell);
    }
  };
  add([words.time, words.score_name, words.sound_name, words.picture_name], "th");
  const every = Math.ceil(value.times.length / MOST_ROWS);
  const number = (score) => (score === null ? "-" : score.toFixed(2));
  value.times.forEach((t, k) => {
    if (k % every) return;
    add([clock(t, 1), ...[value.score[k], value.sound[k], value.picture[k]].map(number)], "td");
  });
  table.append(rows);
}
table.addEventListener("toggle", fillTable);

function show(next) {
  value = next && next.times.length ? next : null;
  box.hidden = value === null;
  draw();
  fillTable();
}

new ResizeObserver(draw).observe(drawing);
watch("value", () => show(props.value));
show(props.value || null);

// The timeline: a slider over the clip, the lanes behind it, pins above it, a range on it. Clicks and
// keys move the player at once, in the browser; Python is told of the range alone ("select").
const words = wordsFor(given.words);
const box = element.querySelector(".av-timeline");
let value = null;
let rows = [];
let mark = { start: null, end: null };
let drag = null; // {from, x, moved} while the pointer is down

if (window.avchatTimelineOff) window.avchatTimelineOff.abort(); // the page was drawn again
window.avchatTimelineOff = new AbortController();
const { signal } = window.avchatTimelineOff;

const button = (name, key) =>
  html("button", { type: "button", class: name, "aria-keyshortcuts": key }, words[name.replace("av-", "").replace("-", "_")]);
const empty = html("p", { class: "av-empty" }, words.no_timeline);
const pins = html("div", { class: "av-pins" });
const letters = html("div", { class: "av-letters", "aria-hidden": "true" });
const playhead = html("div", { class: "av-playhead" });
const range = html("div", { class: "av-range" });
const track = html(
  "div",
  { class: "av-track", role: "slider", tabindex: 0, "aria-label": words.place, "aria-valuemin": 0 },
  range, playhead,
);
const time = html("span", { class: "av-clock" });
const marked = html("span", { class: "av-marked", role: "status" });
const startHere = button("av-start-here", "[");
const endHere = button("av-end-here", "]");
const clearMark = button("av-clear", "Escape");
const help = button("av-keys", "?");
const legend = html("ul", { class: "av-legend" });
const tools = html("div", { class: "av-tools" }, time, startHere, endHere, clearMark, marked, help);
const body = html(
  "div", { class: "av-body", role: "group", "aria-label": words.timeline },
  pins, letters, track, tools, legend,
);
box.append(empty, body);

const now = () => (window.avchatPlayer ? window.avchatPlayer.time() : 0);
const clamp = (t) => Math.max(0, Math.min(t, value.duration));
const short = () => value.duration < 20;
const step = () => (short() ? value.duration / 20 : 1);
const leap = () => (value.duration < 50 ? value.duration / 5 : 10);
const place = (t) => `${(100 * clamp(t)) / value.duration}%`;

// ---- where the clip is

let shownTime = 0;
function showTime(t, always) {
  if (!value) return;
  shownTime = clamp(t);
  playhead.style.left = place(shownTime);
  const decimals = short() ? 1 : 0;
  time.textContent = `${clock(shownTime, decimals)} / ${clock(value.duration, decimals)}`;
  // A screen reader would speak four times a second while the clip plays.
  if (always || document.activeElement !== track) speakTime();
}

function speakTime() {
  const values = { time: spoken(shownTime), length: spoken(value.duration) };
  track.setAttribute("aria-valuemax", value.duration.toFixed(1));
  track.setAttribute("aria-valuenow", shownTime.toFixed(1));
  track.setAttribute("aria-valuetext", fill(words.time_of, values));
}

function seek(t) {
  window.avchatPlayer.seek(value ? clamp(t) : t);
  showTime(t, true);
}

document.addEventListener(
  "avchat:time", (event) => showTime(event.detail.t, !event.detail.playing), { signal },
);

// ---- the range

function showMark() {
  const { start, end } = mark;
  const whole = start !== null && end !== null;
  range.hidden = start === null;
  if (start !== null) {
    range.style.left = place(start);
    range.style.width = whole ? `${(100 * (end - start)) / value.duration}%` : "0";
  }
  clearMark.disabled = start === null;
  const decimals = short() ? 1 : 0;
  const values = { start: clock(start || 0, decimals), end: clock(end || 0, decimals) };
  marked.textContent = fill(
    whole ? words.marked : start === null ? words.not_marked : words.half_marked, values,
  );
}

// Python is told of a range that is whole, and when there is none any more.
let told = "null,null";
let wish = 0; // the last range that Python asked for
function setMark(start, end) {
  mark = { start, end };
  if (value) showMark();
  const news = start !== null && end !== null ? { start, end } : { start: null, end: null };
  if (`${news.start},${news.end}` === told) return;
  told = `${news.start},${news.end}`;
  trigger("select", news);
}

const hundredths = (t) => Math.round(t * 100) / 100;
function markStart() {
  const t = hundredths(clamp(now()));
  setMark(t, mark.end !== null && mark.end > t ? mark.end : null);
}
function markEnd() {
  const t = hundredths(clamp(now()));
  if (t > 0) setMark(mark.start !== null && mark.start < t ? mark.start : 0, t);
}
startHere.addEventListener("click", markStart);
endHere.addEventListener("click", markEnd);
clearMark.addEventListener("click", () => {
  setMark(null, null);
  track.focus({ preventScroll: true }); // a disabled button would lose the focus
});

// ---- pointer and keys on the slider

function timeAt(event) {
  const { left, width } = track.getBoundingClientRect();
  return clamp(((event.clientX - left) / width) * value.duration);
}

track.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  drag = { from: timeAt(event), x: event.clientX, moved: false, before: mark };
  track.setPointerCapture(event.pointerId);
  if (event.pointerType === "mouse") seek(drag.from); // a finger may be about to scroll the page
});
track.addEventListener("pointermove", (event) => {
  if (!drag) return;
  drag.moved = drag.moved || Math.abs(event.clientX - drag.x) > 6;
  if (!drag.moved) return;
  const [start, end] = [drag.from, timeAt(event)].sort((a, b) => a - b).map(hundredths);
  mark = { start, end };
  showMark();
});
track.addEventListener("pointerup", (event) => {
  if (!drag) return;
  const { moved, from } = drag;
  drag = null;
  if (!moved) return seek(event.pointerType === "mouse" ? from : timeAt(event));
  seek(mark.start);
  if (mark.end > mark.start) setMark(mark.start, mark.end);
  else setMark(null, null);
});
track.addEventListener("pointercancel", () => {
  if (!drag) return;
  mark = drag.before;
  drag = null;
  showMark();
});

track.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const moves = {
    ArrowLeft: -step(), ArrowDown: -step(), ArrowRight: step(), ArrowUp: step(),
    PageDown: -leap(), PageUp: leap(), Home: -Infinity, End: Infinity,
  };
  if (event.key in moves) seek(now() + moves[event.key]);
  else if (event.key === "[") markStart();
  else if (event.key === "]") markEnd();
  else if (event.key === "Escape" && mark.start !== null) setMark(null, null);
  else return;
  event.preventDefault();
  event.stopPropagation();
});

// ---- pins: buttons that are kept while the lanes stream, so that none loses the focus

const PIN_PX = 24;
const pinButtons = new Map();

function drawPins() {
  const wanted = new Set(value.pins.map((pin) => `${pin.t} ${pin.text}`));
  for (const [key, node] of pinButtons)
    if (!wanted.has(key)) {
      node.remove();
      pinButtons.delete(key);
    }
  const width = pins.clientWidth;
  const ends = []; // of each row of pins, where its last pin ends
  for (const pin of [...value.pins].sort((a, b) => a.t - b.t)) {
    const node = pinButton(pin);
    const centre = (clamp(pin.t) / value.duration) * width;
    const left = Math.max(0, Math.min(centre - PIN_PX / 2, width - PIN_PX));
    let row = ends.findIndex((end) => end <= left);
    if (row < 0) row = ends.length < 3 ? ends.length : 2;
    ends[row] = left + PIN_PX;
    node.style.left = `${left}px`;
    node.style.bottom = `${row * PIN_PX}px`;
  }
  pins.style.height = `${ends.length * PIN_PX}px`;
}

function pinButton(pin) {
  const key = `${pin.t} ${pin.text}`;
  let node = pinButtons.get(key);
  if (!node) {
    node = html("button", { type: "button", class: "av-pin" }, html("i", { class: "av-dot" }));
    node.addEventListener("click", () => seek(pin.t));
    pinButtons.set(key, node);
    // in order of time, which is the order of the Tab key
    const after = [...pins.children].find((other) => Number(other.dataset.t) > pin.t);
    node.dataset.t = pin.t;
    pins.insertBefore(node, after || null);
  }
  const text = fill(pin.solid ? words.agreed : words.alone, { time: clock(pin.t), text: pin.text });
  node.setAttribute("aria-label", text);
  node.title = text;
  node.firstChild.classList.toggle("av-solid", pin.solid);
  return node;
}

// ---- a new value

let drawnWidth = 0; // in pixels, when the lanes were last drawn
function draw() {
  if (!value) return;
  drawnWidth = track.clientWidth;
  drawLanes(track, letters, value, rows, words);
  drawPins();
}

function show(next) {
  const other = !next || !value || next.key !== value.key;
  value = next && next.duration > 0 ? next : null;
  empty.hidden = value !== null;
  empty.textContent = next ? words.no_time : words.no_timeline;
  body.hidden = value === null;
  if (!value) {
    setMark(null, null);
    return;
  }
  rows = rowsOf(value, words);
  const wanted = value.range !== undefined && value.wish !== wish && !drag;
  if (wanted) {
    wish = value.wish;
    setMark(...(value.range || [null, null]));
  } else if (other) setMark(null, null);
  else showMark();
  drawLegend(legend, value, rows, words);
  draw();
  showTime(now(), other);
  speakTime();
}

new ResizeObserver(() => track.clientWidth !== drawnWidth && draw()).observe(track);
connectKeys({ element, words, help, markStart, markEnd, seek, signal, now });
connectLinks(signal);
watch("value", () => show(props.value));
show(props.value || null);

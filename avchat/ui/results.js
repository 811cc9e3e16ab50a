// A list of results: a button for each that plays it, a tick, what else can be done with it. Python
// is told of ticks ("tick") and wishes ("act"); playing needs no round trip.
const words = wordsFor(given.words);
const box = element.querySelector(".av-results");
const LITTLE = 0.2; // a cosine of less says nothing of either sense: our choice
const ticked = new Set();
let value = null;
let at = -1; // the result that n and p go on from

if (!window.avchatResultsOff) window.avchatResultsOff = {};
const own = element.id || element.closest("[id]").id;
if (window.avchatResultsOff[own]) window.avchatResultsOff[own].abort(); // the page was drawn again
window.avchatResultsOff[own] = new AbortController();
const { signal } = window.avchatResultsOff[own];

function node(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, to] of Object.entries(attributes)) made.setAttribute(name, to);
  made.append(...children);
  return made;
}

const spanOf = (item) => {
  const decimals = item.end - item.start < 20 ? 1 : 0;
  return fill(words.span, { start: clock(item.start, decimals), end: clock(item.end, decimals) });
};

// Which sense it was, in words and numbers: never by colour alone.
function whyOf({ sound, picture, text }) {
  const said = text ? [fill(words.said, { text })] : [];
  const parts = [];
  if (sound !== null) parts.push(fill(words.sound_score, { score: sound.toFixed(2) }));
  if (picture !== null) parts.push(fill(words.picture_score, { score: picture.toFixed(2) }));
  if (!parts.length) return said.join("");
  const ahead = sound === null ? -1 : picture === null ? 1 : sound - picture;
  const side = ahead > 0.1 ? words.heard : ahead < -0.1 ? words.seen : words.heard_and_seen;
  const lead = Math.max(sound ?? 0, picture ?? 0) < LITTLE ? words.little : side;
  return [`${lead}: ${parts.join(", ")}`, ...said].join("; ");
}

function bar(letter, share) {
  const full = node("span", { class: "av-bar-full" });
  full.style.width = `${Math.round(100 * Math.max(0, Math.min(1, share)))}%`;
  return node("span", { class: `av-bar av-bar-${letter}` }, letter, node("span", { class: "av-bar-room" }, full));
}

function goButton(item, number) {
  const span = spanOf(item);
  const title = item.clip ? `${item.clip}, ${span}` : span;
  const bars = node("span", { class: "av-bars", "aria-hidden": "true" });
  if (item.sound !== null) bars.append(bar("A", item.sound));
  if (item.picture !== null) bars.append(bar("V", item.picture));
  const lines = node(
    "span", { class: "av-lines" },
    node("span", { class: "av-span" }, title),
    node("span", { class: "av-score" }, fill(words.score, { score: item.score.toFixed(2) })),
    node("span", { class: "av-why" }, item.missing ? words.missing : whyOf(item)),
    bars,
  );
  const button = node("button", { type: "button", class: "av-go", "data-focus": `go-${item.id}` });
  if (item.thumbnail) {
    const time = clock((item.start + item.end) / 2);
    const src = `data:image/jpeg;base64,${item.thumbnail}`;
    button.append(node("img", { src, alt: fill(words.picture_at, { time }) }));
  }
  button.append(lines);
  button.disabled = item.missing;
  button.addEventListener("click", () => go(item, number));
  return button;
}

function go(item, number) {
  at = number;
  box.querySelectorAll(".av-result").forEach((row, k) => row.classList.toggle("av-now", k === at));
  if (!given.plays) return wish(item, "open");
  const { start, end } = item;
  document.dispatchEvent(new CustomEvent("avchat:play", { detail: { start, end } }));
}

function tick(item) {
  const input = node("input", {
    type: "checkbox", "data-focus": `tick-${item.id}`, "aria-label": fill(words.tick, { span: spanOf(item) }),
  });
  input.checked = ticked.has(item.id);
  input.addEventListener("change", () => {
    if (input.checked) ticked.add(item.id);
    else ticked.delete(item.id);
    trigger("tick", { ids: [...ticked] });
  });
  return input;
}

// What Python is told by: it listens to each of these alone.
const EVENTS = { like_sound: "more", like_picture: "more", download: "cut" };

// The tab with the question comes up when Python says so: the person goes on typing there.
function focusQuestion(tries = 40) {
  const box = document.querySelector("#question textarea, #question input");
  if (box && box.getClientRects().length) box.focus();
  else if (tries) setTimeout(focusQuestion, 100, tries - 1);
}

function wish(item, action) {
  trigger(EVENTS[action] || "act", { id: item.id, action });
  if (action === "ask") focusQuestion();
}

function actions(item) {
  const group = node("span", { class: "av-acts", role: "group", "aria-label": spanOf(item) });
  for (const action of given.actions) {
    if (item.missing && !action.startsWith("like_")) continue;
    if (action === "like_sound" && item.sound === null) continue;
    if (action === "like_picture" && item.picture === null) continue;
    const name = `${action}-${item.id}`;
    const button = node("button", { type: "button", "data-focus": name }, words[action]);
    button.addEventListener("click", () => wish(item, action));
    group.append(button);
  }
  return group;
}

function rowOf(item, number) {
  const kind = `av-result${item.faint ? " av-faint" : ""}${number === at ? " av-now" : ""}`;
  const choice = given.ticks ? [tick(item)] : [];
  return node("li", { class: kind }, ...choice, goButton(item, number), actions(item));
}

const message = node("p", { class: "av-message", role: "status" });
const closest = node("p", { class: "av-closest" }, words.closest);
const list = node("ol", { class: "av-list", "aria-label": words.results });
box.append(message, closest, list);

function show(next) {
  if (!next || !value || next.key !== value.key) {
    ticked.clear();
    at = -1;
  }
  value = next;
  const items = next ? next.items : [];
  const said = next && next.message ? fill(words[next.message], next.values) : "";
  if (message.textContent !== said) message.textContent = said;
  closest.hidden = !items.some((item) => item.faint);
  list.hidden = !items.length;
  const held = box.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  list.replaceChildren(...items.map(rowOf));
  const again = held && list.querySelector(`[data-focus="${CSS.escape(held)}"]`);
  if (again) again.focus({ preventScroll: true });
}

document.addEventListener("avchat:result", (event) => {
  const buttons = [...list.querySelectorAll(".av-go")];
  if (!buttons.length || !list.getClientRects().length) return;
  at = Math.max(0, Math.min(buttons.length - 1, at + event.detail.by));
  buttons[at].focus();
  if (given.plays) buttons[at].click(); // else Enter opens the whole clip
}, { signal });

watch("value", () => show(props.value));
show(props.value || null);

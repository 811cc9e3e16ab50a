// The player: one native <video>, <audio> or <img>, built here and not by Gradio's template, so that
// a clip's name is never read as HTML and new subtitles do not load the clip again.
// Others steer it by window.avchatPlayer, or by the events avchat:seek and avchat:play; it says
// avchat:time {t, duration, playing} whenever one of these changes.
const words = wordsFor(given.words);
const box = element.querySelector(".av-player");
let media = null; // the <video> or <audio>; null for a picture and for nothing
let current = null; // the value that is shown
let span = null; // {start, end} while a span is played
let wish = 0; // the last start that was asked for

if (window.avchatPlayerOff) window.avchatPlayerOff.abort(); // the page was drawn again
window.avchatPlayerOff = new AbortController();
const { signal } = window.avchatPlayerOff;

// Gradio's address of this app, which may lie below a path or behind a proxy with another protocol.
function address(url) {
  if (/^[a-z]+:/i.test(url)) return url;
  const root = (window.gradio_config && window.gradio_config.root) || document.baseURI;
  const base = new URL(root, document.baseURI);
  const origin = base.hostname === location.hostname ? location.origin : base.origin;
  return new URL(url.replace(/^\//, ""), `${origin}${base.pathname.replace(/\/$/, "")}/`).href;
}

function make(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text || "";
  return node;
}

const empty = make("p", "av-empty", words.no_clip);
const problem = make("p", "av-problem");
problem.setAttribute("role", "status");
box.append(empty, problem);

function tell() {
  const detail = { t: time(), duration: duration(), playing: !!media && !media.paused };
  document.dispatchEvent(new CustomEvent("avchat:time", { detail }));
}

function time() {
  return media ? media.currentTime : 0;
}

function duration() {
  return media && Number.isFinite(media.duration) ? media.duration : 0;
}

// Runs now, or when the clip's length is known: before that a browser forgets where it was sent.
function whenReady(action) {
  const clip = media;
  if (!clip) return;
  if (clip.readyState >= 1) action();
  else clip.addEventListener("loadedmetadata", () => clip === media && action(), { once: true });
}

function play() {
  // Refused where the visitor has not touched the page yet: the clip then waits at the right place.
  if (media) media.play().catch(() => undefined);
}

function move(t) {
  const end = duration() || (Number.isFinite(t) ? t : 0); // a recording may not know its length
  media.currentTime = Math.max(0, Math.min(t, end));
}

function step(frames) {
  if (!media) return;
  media.pause();
  seek(time() + frames / ((current && current.fps) || 25));
}

function seek(t) {
  span = null;
  whenReady(() => move(t));
}

function playSpan(start, end) {
  whenReady(() => {
    span = { start, end };
    move(start);
    play();
    requestAnimationFrame(watchSpan);
  });
}

// timeupdate comes four times a second, which would play up to 0.25 s too much.
function watchSpan() {
  if (endSpan() && span) requestAnimationFrame(watchSpan);
}

// Stops at the end of the span; gives whether there still is one to watch.
function endSpan() {
  if (!span || !media) return false;
  const t = media.currentTime;
  if (media.seeking) return true;
  if (t < span.start - 0.5 || t > span.end + 0.5) span = null; // the visitor went elsewhere
  else if (t >= span.end) {
    const { end } = span;
    span = null;
    media.pause();
    move(end);
  }
  return span !== null;
}

function failed() {
  problem.textContent = fill(words.cannot_play, { name: current ? current.name : "" });
}

function checkPicture() {
  if (media.tagName === "VIDEO" && media.videoWidth === 0) problem.textContent = words.sound_alone;
}

function makeMedia(value) {
  const node = document.createElement(value.kind === "audio" ? "audio" : "video");
  node.controls = true;
  node.playsInline = true;
  node.preload = "metadata";
  node.setAttribute("aria-label", fill(words.clip, { name: value.name }));
  node.addEventListener("error", failed);
  node.addEventListener("loadedmetadata", checkPicture);
  node.addEventListener("timeupdate", endSpan);
  for (const name of ["timeupdate", "seeking", "seeked", "play", "pause", "loadedmetadata"])
    node.addEventListener(name, tell);
  node.src = address(value.url);
  return node;
}

function makePicture(value) {
  const node = document.createElement("img");
  node.alt = fill(words.clip, { name: value.name });
  node.addEventListener("error", failed);
  node.src = address(value.url);
  return node;
}

function clear() {
  const old = box.querySelector("video, audio, img");
  if (media) {
    media.pause();
    media.removeAttribute("src"); // lets go of the file that was being loaded
  }
  if (old) old.remove();
  media = null;
  span = null;
  problem.textContent = "";
}

function showSubtitles(url) {
  const old = media.querySelector("track");
  if (old && old.dataset.url === url) return;
  const off = old && old.track.mode === "disabled"; // the visitor switched them off
  if (old) old.remove();
  if (!url) return;
  const track = document.createElement("track");
  Object.assign(track, { kind: "captions", label: words.captions, srclang: visitorLanguage() });
  track.dataset.url = url;
  track.src = address(url);
  media.append(track);
  track.track.mode = off ? "disabled" : "showing";
}

function show(value) {
  empty.hidden = !!value;
  const changed = !value || !current || value.key !== current.key || value.url !== current.url;
  if (changed) {
    clear();
    current = value;
    if (value) {
      const node = value.kind === "image" ? makePicture(value) : makeMedia(value);
      media = value.kind === "image" ? null : node;
      box.insertBefore(node, problem);
    }
    tell();
  }
  current = value;
  if (!media) return;
  showSubtitles(value.subtitles);
  if (value.start === null || value.wish === wish) return;
  wish = value.wish;
  if (value.end === null) seek(value.start);
  else playSpan(value.start, value.end);
}

window.avchatPlayer = {
  seek,
  playSpan,
  time,
  duration,
  toggle: () => media && (media.paused ? play() : media.pause()),
  step,
  ready: () => media !== null,
};
document.addEventListener("avchat:seek", (event) => seek(event.detail.t), { signal });
document.addEventListener(
  "avchat:play", (event) => playSpan(event.detail.start, event.detail.end), { signal },
);
watch("value", () => show(props.value));
show(props.value || null);

// Keys for the whole page, the dialog that lists them, and links to times in what is written.
const KEYS_OFF = "avchat:keys-off"; // in localStorage: the visitor switched the keys off
const TEXT = "input, textarea, select, [contenteditable]";
// Widgets with keys of their own; a single letter chooses in some of them.
const WIDGET = "[role=radio], [role=combobox], [role=listbox], [role=option], [role=spinbutton], [role=menu], [role=slider], [role=grid], [role=textbox], dialog[open]";
// What these do themselves with some of the keys.
const OWN_KEYS = [
  [" ", "button, a[href], summary, [role=button], [role=tab], [role=checkbox], [role=switch], video, audio"],
  ["Home End", "[role=tab], video, audio"],
];

// The first of these on the page that can be seen.
function visible(selector) {
  return [...document.querySelectorAll(selector)].find((node) => node.getClientRects().length > 0);
}

function focusQuestion() {
  const box = visible("#question textarea, #question input, .avchat-query textarea, .avchat-query input");
  if (box) box.focus();
  return !!box;
}

function pressStop() {
  const selector = "#stop:enabled, #stop button:enabled, .avchat-stop:enabled, .avchat-stop button:enabled";
  const stop = visible(selector);
  if (stop) stop.click();
  return !!stop;
}

function result(by) {
  document.dispatchEvent(new CustomEvent("avchat:result", { detail: { by } }));
  return true;
}

function keysAreOff() {
  try {
    return localStorage.getItem(KEYS_OFF) === "1";
  } catch (refused) {
    return false; // a browser that keeps nothing for this site
  }
}

function rememberKeys(on) {
  try {
    localStorage.setItem(KEYS_OFF, on ? "0" : "1");
  } catch (refused) {
    return; // the choice holds for this page
  }
}

function connectKeys({ element, words, help, markStart, markEnd, seek, signal, now }) {
  const player = () => window.avchatPlayer;
  const move = (by) => () => (seek(now() + by), true);
  const frame = (by) => () => (player().step(by), true);
  const playOrPause = () => (player().toggle(), true);
  const ofClip = {
    " ": playOrPause, k: playOrPause, j: move(-5), l: move(5), ",": frame(-1), ".": frame(1),
    Home: move(-Infinity), End: move(Infinity),
    "[": () => (markStart(), true), "]": () => (markEnd(), true),
  };
  const ofPage = { "/": focusQuestion, n: () => result(1), p: () => result(-1) };
  let on = !keysAreOff();

  const dialog = makeDialog(words, on, (wanted) => {
    on = wanted;
    rememberKeys(on);
  });
  element.append(dialog);
  const open = () => (dialog.showModal(), true);
  ofPage["?"] = open;
  help.addEventListener("click", open);

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey) return;
    const at = event.target;
    if (event.key === "Escape") {
      if (!event.isComposing && !at.closest("[role=combobox], [role=listbox], dialog[open]")) pressStop();
      return;
    }
    const track = at.closest(".av-track");
    if (!on || at.closest(TEXT) || (at.closest(WIDGET) && !track)) return;
    if (OWN_KEYS.some(([keys, owners]) => keys.includes(event.key) && at.closest(owners))) return;
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const action = ofPage[name] || (player() && player().ready() && ofClip[name]);
    if (action && action()) event.preventDefault();
  }, { signal });
}

function makeDialog(words, on, changed) {
  const rows = [
    ["Space", "k", words.key_play], ["j", "l", words.key_five], [",", ".", words.key_frame],
    ["Home", "End", words.key_ends], ["[", "]", words.key_marks], ["/", words.key_question],
    ["n", "p", words.key_results], ["Esc", words.key_stop],
    ["\u2190 \u2192", "PgUp PgDn", words.key_arrows], ["?", words.key_help],
  ];
  const list = html("dl", {});
  for (const row of rows) {
    const keys = row.slice(0, -1).flatMap((key) => [html("kbd", {}, key), " "]);
    list.append(html("div", {}, html("dt", {}, ...keys), html("dd", {}, row[row.length - 1])));
  }
  const check = html("input", { type: "checkbox", class: "av-keys-on" });
  check.checked = on;
  check.addEventListener("change", () => changed(check.checked));
  const close = html("button", { type: "button", class: "av-close" }, words.close);
  const dialog = html(
    "dialog", { class: "av-help", "aria-label": words.keys_title },
    html("h2", {}, words.keys_title), list,
    html("label", {}, check, ` ${words.keys_on}`), html("p", {}, words.keys_note), close,
  );
  close.addEventListener("click", () => dialog.close());
  return dialog;
}

// [0:17](#t=17) seeks and [0:03-0:07](#span=3-7) plays that span; the address stays as it is.
function connectLinks(signal) {
  document.addEventListener("click", (event) => {
    const link = event.target.closest && event.target.closest("a[href^='#t='], a[href^='#span=']");
    if (!link) return;
    event.preventDefault();
    const found = link.getAttribute("href").match(/^#(?:t=|span=)([\d.]+)(?:-([\d.]+))?$/);
    if (!found || !window.avchatPlayer) return;
    const [start, end] = [Number(found[1]), found[2] === undefined ? null : Number(found[2])];
    if (end === null) window.avchatPlayer.seek(start);
    else window.avchatPlayer.playSpan(start, end);
    document.querySelector("#player").scrollIntoView({ block: "nearest" });
  }, { capture: true, signal });
}

// The words of the player and the timeline in the visitor's language. Gradio leaves <html lang> at
// "en" whatever it shows, so only another value there says more than the browser's own setting.
function visitorLanguage() {
  const page = document.documentElement.lang;
  return page && page !== "en" ? page : navigator.language || "en";
}

function wordsFor(all) {
  return all[visitorLanguage().slice(0, 2).toLowerCase()] || all.en;
}

// "{name} fits" with {name: "A"} -> "A fits".
function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole));
}

// Seconds -> "1:05" or "0:03.2"; a decimal is shown only where the clip is short.
function clock(t, decimals = 0) {
  const whole = Number(t.toFixed(decimals));
  const minutes = Math.floor(whole / 60);
  const hours = Math.floor(minutes / 60);
  const seconds = (whole % 60).toFixed(decimals).padStart(decimals ? 3 + decimals : 2, "0");
  return hours ? `${hours}:${String(minutes % 60).padStart(2, "0")}:${seconds}` : `${minutes}:${seconds}`;
}

// Seconds -> "1 minute 5 seconds", in the visitor's language, plurals included.
function spoken(t) {
  const part = (count, unit) =>
    new Intl.NumberFormat(visitorLanguage(), {
      style: "unit", unit, unitDisplay: "long", maximumFractionDigits: 1,
    }).format(count);
  const tenths = Math.round(t * 10) / 10;
  const minutes = Math.floor(tenths / 60);
  const seconds = part(tenths - 60 * minutes, "second");
  return minutes ? `${part(minutes, "minute")} ${seconds}` : seconds;
}

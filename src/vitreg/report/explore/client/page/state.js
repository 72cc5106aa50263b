// What is shown lives in the address after #, so that it can be shared and the back button works.

const LEAST = { photo: 0, left: 0, story: 0 }; // of the others -1 stands for none
const NUMBERS = { photo: 0, left: 0, right: -1, block: -1, patch: -1, head: -1, story: 0 };
const WORDS = { map: "norms", token: "patch" };
const SWITCHES = { repair: false, before: false, outlines: true };
const DEFAULTS = { ...NUMBERS, ...WORDS, ...SWITCHES };
const MAPS = ["norms", "given", "receives", "similar", "values", "neighbours"];

export class State {
  // start: what a page shows without words in its address; models: how many there are; changed: called with the state and the
  // names that differ.
  constructor(start, models, changed) {
    this.below = { left: models, right: models };
    this.defaults = { ...DEFAULTS, ...start };
    this.now = this.read();
    this.changed = changed;
    addEventListener("hashchange", () => this.take(this.read()));
  }

  // Change some of it. Where `step` is false, the back button does not stop here.
  set(values, step = true) {
    const next = { ...this.now, ...values };
    const hash = "#" + this.words(next);
    if (hash !== location.hash && !(hash === "#" && !location.hash)) {
      if (step) location.hash = hash;
      else location.replace(hash);
    }
    this.take(next);
  }

  take(next) {
    const names = Object.keys(next).filter((name) => next[name] !== this.now[name]);
    this.now = next;
    if (names.length) this.changed(next, names);
  }

  words(values) {
    const found = new URLSearchParams();
    for (const [name, value] of Object.entries(values)) {
      if (value !== this.defaults[name]) found.set(name, typeof value === "boolean" ? Number(value) : value);
    }
    return found.toString();
  }

  // The state of the address; words that mean nothing are left out.
  read() {
    const found = { ...this.defaults };
    for (const [name, text] of new URLSearchParams(location.hash.slice(1))) {
      const whole = Number(text);
      if (Object.hasOwn(NUMBERS, name) && Number.isSafeInteger(whole) && whole >= (LEAST[name] ?? -1) && whole < (this.below[name] ?? Infinity)) found[name] = whole;
      if (Object.hasOwn(SWITCHES, name)) found[name] = text === "1";
      if (name === "map" && MAPS.includes(text)) found.map = text;
      if (name === "token" && /^(patch|cls\d+|reg\d+)$/.test(text)) found.token = text;
    }
    return found;
  }
}

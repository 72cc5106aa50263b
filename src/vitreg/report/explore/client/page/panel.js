// One side of the page: a photo by a model, its maps, charts and what is said of the token under the pointer.
import { BlocksChart, Histogram } from "../drawing/charts.js";
import { Scale } from "../drawing/colours.js";
import { layer } from "./layers.js";
import { Map2D } from "../drawing/map.js";
import { facts, nearest } from "./readout.js";
import { documentOf } from "../measured/shown.js";

export class Panel {
  // page: what answers to pointing: hover(panel, patch), pin(panel, patch), key(panel, event), block(number).
  constructor(root, page) {
    this.root = root;
    this.find = (name) => root.querySelector(`[data-part="${name}"]`);
    const at = (row, col) => this.patchAt(row, col);
    const areas = ["photo", "map"].map((name) => new Map2D(
      this.find(name), (row, col) => page.hover(this, at(row, col)), () => page.hover(this, -1), (row, col) => page.pin(this, at(row, col)),
    ));
    [this.photo, this.map] = areas;
    this.find("map").addEventListener("keydown", (event) => page.key(this, event));
    this.blocks = new BlocksChart(this.find("blocks"), (block) => page.block(block));
    this.histogram = new Histogram(this.find("histogram"));
    this.shown = null;
  }

  patchAt(row, col) {
    const { rows, cols } = this.shown, within = (share, size) => Math.max(0, Math.min(size - 1, Math.floor(share * size)));
    return within(row, rows) * cols + within(col, cols);
  }

  async load(name) {
    if (this.shown?.key === name) return;
    const shown = await documentOf(name);
    this.root.classList.remove("waiting");
    Object.assign(this, { shown, attention: null, features: null, why: "", block: 0 });
    this.find("picture").src = shown.photo;
    this.find("sentence").textContent = shown.sentence.charAt(0).toUpperCase() + shown.sentence.slice(1);
    this.miss();
    const there = { cls: shown.cls, register: shown.registers, threshold: shown.blocks.some((block) => block.threshold !== null) };
    for (const [name, some] of Object.entries(there)) this.root.querySelector(`.key-${name}`).hidden = !some;
    this.photo.fit(shown);
    this.map.fit(shown);
  }

  // Say what there is not, and why.
  miss() {
    const missing = [...new Set(Object.values(this.shown.missing))];
    this.find("missing").textContent = missing.map((why) => `Missing: ${why}.`).join(" ").replaceAll("..", ".");
    this.find("missing").hidden = !missing.length;
  }

  // Show nothing but the choice of the model, and why.
  wait(words) {
    this.shown = null;
    this.root.classList.add("waiting");
    this.find("sentence").textContent = words;
  }

  // Draw what depends on the block and not on the pointer. range: of norms over medians, one for all panels.
  lay(what, block, range) {
    this.block = Math.min(block, this.shown.depth - 1);
    if (this.drawn !== `${this.shown.key} ${range}`) this.blocks.show(this.shown, range);
    this.drawn = `${this.shown.key} ${range}`;
    this.blocks.at(this.block);
    this.histogram.show(this.shown, this.block, range);
    this.find("spread").textContent = `Patches by norm after this block${this.shown.blocks[this.block].threshold === null ? "" : ", with the threshold"}`;
    const marked = what.outlines ? this.shown.outliers(this.block) : null;
    this.photo.surround(marked);
    this.map.surround(marked);
  }

  // Load attention and features of the block; what cannot be loaded leaves its reason.
  async fetch(what) {
    const { shown, block } = this, before = what.before;
    try {
      const attention = await shown.attention(block, before);
      if (this.shown === shown && this.block === block) [this.attention, this.why] = [attention, ""];
    } catch (error) {
      [this.attention, this.why] = [null, error.message];
    }
    this.features = await shown.features();
    if (this.shown === shown) this.miss();
  }

  // The token that the maps are of, and the one that is read out.
  tokens(what, patch) {
    const own = this.shown.token(what.token, patch);
    return [own, patch >= 0 ? this.shown.first + patch : what.token === "patch" ? -1 : own];
  }

  // The values to paint; kept, as several things are said of them.
  measure(what, patch) {
    this.layer = layer(what, this, this.tokens(what, patch)[0]);
    return this.layer;
  }

  paint(range) {
    const { values, words, why, table, norms } = this.layer, empty = this.find("empty"), caption = this.find("caption");
    this.find("canvas").style.visibility = values ? "visible" : "hidden";
    empty.hidden = Boolean(values);
    empty.textContent = why ?? "";
    caption.textContent = words ?? "";
    if (values) this.map.paint(values, (this.scale = new Scale(table, range[0], range[1], norms)));
  }

  // Follow the pointer: mark, lines of the charts, words.
  point(what, patch) {
    const token = this.tokens(what, patch)[1];
    this.photo.point(patch);
    this.map.point(patch);
    this.blocks.point(token < 0 ? null : this.shown.overBlocks(token));
    this.histogram.point(token < this.shown.first ? NaN : this.shown.norm(token, this.block) / this.shown.medians[this.block]);
    this.facts = token < 0 ? [] : facts(what, this, token);
    this.find("token").textContent = token < 0 ? "Point at a patch" : this.shown.called(token);
    this.say(this.facts.flat());
  }

  // Write names and words; elements that are there stay, which spares the browser work.
  say(words) {
    const list = this.find("facts");
    while (list.children.length > words.length) list.lastChild.remove();
    words.forEach((text, i) => {
      const item = list.children[i] ?? list.appendChild(document.createElement(i % 2 ? "dd" : "dt"));
      if (item.textContent !== text) item.textContent = text;
    });
  }

  // The nearest patches of a patch in this photo and in the others by the same model: as small pictures.
  async neighbours(patch, others) {
    const list = this.find("nearest"), { shown } = this;
    if (patch < 0 || !this.features) return list.replaceChildren();
    const own = nearest(this.features.similar(patch), 4, patch).map((found) => [shown, "here", ...found]);
    const there = await Promise.all(others.map(async ([name, photo]) => {
      const other = await documentOf(name), similar = (await other.features()).similar(patch, this.features);
      return nearest(similar, 4).map((found) => [other, photo, ...found]);
    }));
    const all = [...own, ...there.flat().sort((a, b) => b[3] - a[3]).slice(0, 4)];
    if (this.shown === shown) list.replaceChildren(...all.map((each) => crop(...each)));
    this.near = all.map(([other, where, at, cosine]) => ({ where, token: other.called(other.first + at), cosine }));
  }
}

function made(name, text) {
  const found = document.createElement(name);
  found.textContent = text;
  return found;
}

// A patch and its surroundings cut out of the photo.
function crop(shown, where, patch, cosine) {
  const item = document.createElement("li"), view = document.createElement("span");
  const across = 5, wide = shown.cols / across, tall = shown.rows / across;
  const row = Math.floor(patch / shown.cols), col = patch % shown.cols, share = (at, size, times) => (times > 1 ? Math.max(0, Math.min(100, (100 * ((at + 0.5) * times / size - 0.5)) / (times - 1))) : 50);
  view.className = "crop";
  view.style.backgroundImage = `url(${shown.photo})`;
  view.style.backgroundSize = `${100 * wide}% ${100 * tall}%`;
  view.style.backgroundPosition = `${share(col, shown.cols, wide)}% ${share(row, shown.rows, tall)}%`;
  item.append(view, made("span", cosine.toFixed(2)), made("small", `${shown.called(shown.first + patch)}, ${where}`));
  return item;
}

// One photo by one model, as measured: its tokens and their numbers. What takes megabytes is loaded when it is asked for.
import { Attention } from "./attention.js";
import { Features } from "./nearest.js";
import { mean, median, number } from "../drawing/numbers.js";
import { array, part } from "./parts.js";

const documents = new Map();

export function documentOf(name) {
  if (!documents.has(name)) documents.set(name, part(name).then((head) => new Shown(name, head)));
  return documents.get(name);
}

export class Shown {
  constructor(name, head) {
    Object.assign(this, head, { key: name });
    [this.rows, this.cols] = head.grid;
    this.patches = this.rows * this.cols;
    this.first = head.cls + head.other + head.registers; // index of the first patch
    this.tokens = this.first + this.patches;
    this.depth = head.blocks.length;
    this.norms = array(head.norms);
    this.received = this.values = new Float32Array(this.depth * this.tokens).fill(NaN); // until they are read
    this.drawn = head.missing.attention ? [] : null; // blocks whose attention can be drawn
    this.before = []; // those that are also there without rotary embedding
    this.neighbours = array(head.neighbours);
    this.medians = head.blocks.map((_, block) => median(this.normsOf(block)));
    this.loaded = new Map();
  }

  // Norms of the patches after a block.
  normsOf(block) {
    return this.norms.subarray(block * this.tokens + this.first, (block + 1) * this.tokens);
  }

  norm(token, block) {
    return this.norms[block * this.tokens + token];
  }

  // A token over the blocks, as multiples of the median patch.
  overBlocks(token) {
    return this.medians.map((middle, block) => this.norm(token, block) / middle);
  }

  // Whether a norm lies in the second group that was found after a block.
  stands(norm, block) {
    const { threshold, side } = this.blocks[block];
    return threshold !== null && (side === "low" ? norm < threshold : norm >= threshold);
  }

  outliers(block) {
    return Array.from(this.normsOf(block), (norm) => this.stands(norm, block));
  }

  // Mean attention that the second group of the block before takes in a block, over that of the other patches; NaN without a group.
  over(block) {
    const marked = block > 0 ? this.outliers(block - 1) : [], taken = this.received.subarray(block * this.tokens + this.first);
    const of = (group) => mean(Array.from(taken.subarray(0, this.patches)).filter((_, patch) => marked[patch] === group));
    return of(true) / of(false);
  }

  // The token that a word of the state names: "cls0", "reg2" or "patch", which is the one under the pointer.
  token(word, patch) {
    const which = Number(word.slice(3));
    if (word.startsWith("cls")) return which < this.cls ? which : -1;
    if (word.startsWith("reg")) return which < this.registers ? this.cls + this.other + which : -1;
    return patch < 0 ? -1 : this.first + patch;
  }

  called(token) {
    const { cls, other, registers, first, cols } = this;
    if (token >= first) return `row ${Math.floor((token - first) / cols)}, column ${(token - first) % cols}`;
    if (token < cls) return cls > 1 ? `CLS ${token + 1}` : "CLS";
    if (token < cls + other) return "another token";
    return `REG ${token - cls - other + 1}`.trim();
  }

  // What was read of the attention of all blocks, which comes after what is shown first.
  read() {
    this.reading ??= this.drawn ? Promise.resolve() : part(`${this.key}-read`).then((held) => {
      [this.received, this.values, this.drawn, this.before] = [array(held.received), array(held.values), held.blocks, held.before];
      if (held.missing) this.missing.attention = held.missing;
    }).catch((error) => {
      this.reading = null; // asked for again
      throw error;
    });
    return this.reading;
  }

  // Attention of a block, or the error why it cannot be read; before: as projected, without rotary embedding.
  async attention(block, before = false) {
    await this.read();
    if (!this.drawn.includes(block)) throw new Error(this.unread(block));
    const name = `${this.key}-b${block}`, tail = before && this.before.includes(block) ? "-before" : "";
    if (!this.loaded.has(name + tail)) {
      const compared = tail ? await part(name + tail) : undefined;
      this.loaded.set(name + tail, new Attention(await part(name), compared));
      if (this.loaded.size > 6) this.loaded.delete(this.loaded.keys().next().value);
    }
    return this.loaded.get(name + tail);
  }

  unread(block) {
    const kept = this.drawn ?? [];
    if (this.missing.attention) return this.missing.attention;
    return `Attention of block ${block} was left out; this page has that of ${kept.length ? "block " + kept.join(", ") : "none"}.`;
  }

  async features() {
    this.held ??= new Features(await part(`${this.key}-features`));
    return this.held;
  }
}

// Attention of one block, computed from its queries and keys: a row is what a token gives, a column what it receives.
import { dot } from "../drawing/numbers.js";
import { array } from "./parts.js";

export class Attention {
  // heads, tokens: how many; values, received: what was measured of the block, by head and token.
  constructor(block, compared = block) {
    this.there = array(compared.there);
    if (compared.kind === "rows") {
      this.rows = array(compared.rows);
      [this.heads, this.tokens] = this.rows.shape;
    } else {
      [this.heads, this.tokens, this.width] = compared.q.shape;
      this.keys = compared.k.shape[1];
      this.each = this.heads / compared.k.shape[0];
      this.q = restored(array(compared.q), array(compared.q_factors));
      this.k = restored(array(compared.k), array(compared.k_factors));
      this.sums = array(compared.sums);
    }
    this.received = array(block.received);
    this.values = array(block.values);
  }

  // The weights that a token gives to all tokens, in one head or (head -1) in the mean of all; null if it is not there.
  given(token, head = -1) {
    const asked = `${token} ${head}`; // a map and what is said of it ask for the same
    if (this.asked !== asked) {
      this.last = this.there[token] ? this.mean(head, (h, into) => this.row(h, token, into)) : null;
      this.asked = asked;
    }
    return this.last;
  }

  // The weights that all tokens give to one.
  receives(token, head = -1) {
    return this.there[token] ? this.mean(head, (h, into) => this.column(h, token, into)) : null;
  }

  mean(head, add) {
    const found = new Float32Array(this.tokens);
    if (head >= 0) add(head, found);
    else {
      for (let h = 0; h < this.heads; h++) add(h, found);
      for (let i = 0; i < this.tokens; i++) found[i] /= this.heads;
    }
    for (let i = 0; i < this.tokens; i++) if (!this.there[i]) found[i] = NaN;
    return found;
  }

  row(head, token, into) {
    const { tokens, width, q, k, there } = this;
    if (this.rows) {
      const start = (head * tokens + token) * tokens;
      for (let i = 0; i < tokens; i++) into[i] += this.rows[start + i] / 65535;
      return;
    }
    const from = (head * tokens + token) * width, keys = Math.floor(head / this.each) * this.keys * width;
    const sum = this.sums[head * tokens + token];
    for (let i = 0; i < tokens; i++) {
      if (there[i]) into[i] += Math.exp(dot(q, from, k, keys + i * width, width) - sum);
    }
  }

  column(head, token, into) {
    const { tokens, width, q, k, there, sums } = this;
    if (this.rows) {
      for (let i = 0; i < tokens; i++) into[i] += this.rows[(head * tokens + i) * tokens + token] / 65535;
      return;
    }
    const key = (Math.floor(head / this.each) * this.keys + token) * width;
    for (let i = 0; i < tokens; i++) {
      const row = head * tokens + i;
      if (there[i]) into[i] += Math.exp(dot(q, row * width, k, key, width) - sums[row]);
    }
  }
}

// Vectors from whole numbers and the factor of each.
export function restored(numbers, factors) {
  const found = new Float32Array(numbers.length), width = numbers.length / factors.length;
  for (let v = 0, i = 0; v < factors.length; v++) {
    for (const end = i + width; i < end; i++) found[i] = numbers[i] * factors[v];
  }
  return found;
}

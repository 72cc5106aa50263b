// What a map can show: its values by patch, its words and its colours.
import { number, percent } from "../drawing/numbers.js";

// The values of a map: an array by patch, its words, and how a value is said; or the reason why there is none.
// what: the state; panel: what is loaded of the photo and model: shown, block, attention, features, why.
export function layer(what, panel, token) {
  const { shown, block } = panel, name = token >= 0 ? shown.called(token) : "";
  const patches = (values) => values.subarray(values.length - shown.patches);
  const heads = what.head < 0 ? "mean of the heads" : `head ${what.head}`;
  const attended = what.map === "given" || what.map === "receives" || (what.map === "values" && what.head >= 0);
  if (attended && !panel.attention) return { why: panel.why || "Loading …" };
  if (attended && what.head >= panel.attention.heads) return { why: `This model has ${panel.attention.heads} heads.` };
  if (what.map === "norms") {
    const middle = shown.medians[block];
    return { values: Float32Array.from(shown.normsOf(block), (v) => v / middle), words: `Norms after block ${block}, median ${number(middle)}`, table: "magma", say: (v) => `${number(v)}× the median`, norms: true };
  }
  if (what.map === "values") {
    const values = what.head < 0 ? shown.values.subarray(block * shown.tokens, (block + 1) * shown.tokens) : ofHead(panel.attention.values, what.head, shown);
    if (!Number.isFinite(values[shown.tokens - 1]) && !values.some(Number.isFinite)) return { why: shown.missing.attention ?? (panel.why || (shown.drawn ? "Values were not read." : "Loading …")) };
    return { values: patches(values), words: `Norms of values in block ${block}, over the median, ${heads}`, table: "magma", say: (v) => `${number(v)}× the median`, norms: true };
  }
  if (what.map === "neighbours") {
    return { values: shown.neighbours, words: "Cosine of each patch to its neighbours, before positions", table: "viridis", say: (v) => v.toFixed(2), low: 0, high: 1 };
  }
  if (token < 0) return { why: what.token === "patch" ? "Point at a patch, or move with the arrow keys." : `This model has no ${what.token.startsWith("cls") ? "class token" : "such register"}.` };
  if (what.map === "similar") {
    if (token < shown.first) return { why: "Similarity is that of patches: choose Patch." };
    if (!panel.features) return { why: "Loading …" };
    return { values: panel.features.similar(token - shown.first), words: `Cosine to ${name}, last block`, table: "viridis", say: (v) => v.toFixed(2), low: -0.2, high: 1 };
  }
  const weights = what.map === "given" ? panel.attention.given(token, what.head) : panel.attention.receives(token, what.head);
  if (!weights) return { why: `${name} does not enter block ${block}.` };
  const direction = what.map === "given" ? "from" : "to";
  return { values: patches(weights), words: `Attention ${direction} ${name} in block ${block}, ${heads}`, table: "viridis", say: percent, low: 0 };
}

function ofHead(values, head, shown) {
  const own = values.subarray(head * shown.tokens, (head + 1) * shown.tokens);
  const sorted = Array.from(own.subarray(shown.first)).filter(Number.isFinite).sort((a, b) => a - b);
  const middle = sorted[sorted.length >> 1] || 1;
  return Float32Array.from(own, (v) => v / middle);
}

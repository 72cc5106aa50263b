// What is said of the token under the pointer: its norm, the attention it takes and gives, its values, its nearest patches.
import { largest, mean, number, percent, times } from "../drawing/numbers.js";

// The rows of the readout, each a name and its words.
export function facts(what, panel, token) {
  const { shown, block, attention } = panel, rows = [];
  const norm = shown.norm(token, block);
  if (Number.isNaN(norm)) return [["Norm", `there is no ${shown.called(token)} after block ${block}`]];
  const ratio = norm / shown.medians[block], patch = token >= shown.first;
  const group = !patch || shown.blocks[block].threshold === null ? "" : shown.stands(norm, block) ? ", in the second group" : ", not in the second group";
  rows.push(["Norm", `${number(norm)} after block ${block}, ${times(ratio)} the median${group}`]);
  rows.push(["Receives", taken(what, panel, token)]);
  rows.push(["Gives", attention ? most(what, panel, token) : panel.why || "…"]);
  const values = valueRatio(what, panel, token);
  rows.push(["Values", Number.isFinite(values) ? `${times(values)} the median patch in block ${block}` : unread(panel)]);
  return rows;
}

const unread = ({ shown, why }) => why || (shown.drawn ? "attention was not read" : "…");

export function valueRatio(what, { shown, block }, token) {
  return shown.values[block * shown.tokens + token];
}

// Mean attention to a token over that to a patch, of all tokens.
export function received(what, { shown, block, attention }, token) {
  if (what.head >= 0 && !attention) return [NaN, NaN];
  const all = what.head < 0
    ? shown.received.subarray(block * shown.tokens, (block + 1) * shown.tokens)
    : attention.received.subarray(what.head * shown.tokens, (what.head + 1) * shown.tokens);
  return [all[token], all[token] / mean(all.subarray(shown.first))];
}

function taken(what, panel, token) {
  const [share, over] = received(what, panel, token);
  if (!Number.isFinite(share)) return unread(panel);
  const of = panel.attention && what.token !== "patch" ? panel.shown.token(what.token, -1) : -1;
  const named = of < 0 ? "" : `; ${percent(panel.attention.given(of, what.head)?.[token] ?? NaN)} of ${panel.shown.called(of)}`;
  return `${percent(share)} of a token's attention on average, ${times(over)} the mean patch${named}`;
}

function most(what, { shown, attention }, token) {
  const weights = attention.given(token, what.head);
  if (!weights) return `${shown.called(token)} is not in this block`;
  return "most to " + largest(weights, 3).map((each) => `${shown.called(each)} (${percent(weights[each])})`).join("; ");
}

// The most similar other patches of one photo, as [patch, cosine].
export function nearest(similar, count, self = -1) {
  return largest(similar, count + 1).filter((each) => each !== self).slice(0, count).map((each) => [each, similar[each]]);
}

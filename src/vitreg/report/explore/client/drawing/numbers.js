// Numbers as people read them: three digits, percentages, multiples; and sums over many of them.

export function number(v) {
  if (v === null || v === undefined || !Number.isFinite(v)) return "–";
  const a = Math.abs(v);
  if (a >= 1e7) return v.toPrecision(3).replace("e+", "e");
  if (a >= 99.95) return Math.round(v).toLocaleString("en");
  return a === 0 ? "0" : a >= 9.995 ? v.toFixed(1) : a >= 0.9995 ? v.toFixed(2) : String(Number(v.toPrecision(3)));
}

export function percent(share) {
  const p = 100 * share;
  return (p > 0 && p < 0.001 ? "< 0.001" : number(p)) + "\u00a0%";
}

export const times = (v) => (Number.isFinite(v) ? number(v) + "\u00a0×" : "–");

// The median of the finite values.
export function median(values) {
  const sorted = Array.from(values).filter(Number.isFinite).sort((a, b) => a - b);
  const half = sorted.length >> 1;
  if (!sorted.length) return NaN;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

export function mean(values) {
  const finite = Array.from(values).filter(Number.isFinite);
  return finite.length ? finite.reduce((a, b) => a + b, 0) / finite.length : NaN;
}

// The indices of the largest values, the largest first; NaN is left out.
export function largest(values, count) {
  const found = [];
  for (let i = 0; i < values.length; i++) {
    const v = values[i];
    if (!(v > -Infinity) || (found.length === count && v <= values[found[count - 1]])) continue;
    let at = found.length;
    while (at > 0 && values[found[at - 1]] < v) at--;
    found.splice(at, 0, i);
    if (found.length > count) found.pop();
  }
  return found;
}

// The product of two vectors in longer arrays; four sums side by side take a third of the time of one.
export function dot(a, from, b, other, width) {
  let w = 0, x = 0, y = 0, z = 0, i = 0;
  for (; i + 3 < width; i += 4) {
    w += a[from + i] * b[other + i];
    x += a[from + i + 1] * b[other + i + 1];
    y += a[from + i + 2] * b[other + i + 2];
    z += a[from + i + 3] * b[other + i + 3];
  }
  for (; i < width; i++) w += a[from + i] * b[other + i];
  return w + x + y + z;
}

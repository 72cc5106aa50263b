// Drawing lines: SVG elements, axes of logarithms, charts that have one size inside and any width outside.

export function draw(name, attributes = {}, ...children) {
  const found = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  found.append(...children);
  return found;
}

const TICKS = [0.001, 0.01, 0.03, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10000];

const whole = (tick) => Number.isInteger(Math.round(Math.log10(tick) * 1e6) / 1e6); // a power of ten

// A logarithmic axis: from value to pixel, with its ticks.
export class LogAxis {
  // room: how far its ticks are apart at least, so that their words do not touch; powers of ten come first.
  constructor([low, high], [start, end], room) {
    Object.assign(this, { low, high, start, end });
    this.at = (v) => start + (Math.log(Math.max(v, low) / low) / Math.log(high / low)) * (end - start);
    this.ticks = [];
    for (const tick of [...TICKS.filter(whole), ...TICKS.filter((each) => !whole(each))]) {
      if (tick < low * 0.999 || tick > high * 1.001) continue;
      if (this.ticks.every((other) => Math.abs(this.at(other) - this.at(tick)) >= room)) this.ticks.push(tick);
    }
    this.ticks.sort((a, b) => a - b);
  }
}

export const path = (xs, ys) =>
  xs.reduce((d, x, i) => (Number.isFinite(ys[i]) ? `${d}${d && Number.isFinite(ys[i - 1]) ? "L" : "M"}${x.toFixed(1)} ${ys[i].toFixed(1)}` : d), "");

export const label = (x, y, text, anchor = "middle", kind = "tick") => draw("text", { x, y, "text-anchor": anchor, class: kind }, text);

export const multiple = (v) => `${Number(v.toPrecision(3))}×`;

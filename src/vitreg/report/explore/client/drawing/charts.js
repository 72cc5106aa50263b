// Two charts of a panel: norms over the blocks, and how the norms after one block are spread, with the threshold in both.
import { LogAxis, draw, label, multiple, path } from "./svg.js";

const WIDE = 300, TALL = 180, LEFT = 34, RIGHT = 8, TOP = 8, BOTTOM = 34;
const BINS = 48, WORD = 44, LINE = 15; // units that a tick takes, across and down

// Norms of tokens over the median patch, block by block. The token under the pointer is one path that is set anew.
export class BlocksChart {
  constructor(svg, chosen) {
    this.svg = svg;
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect(), x = ((event.clientX - box.left) / box.width) * WIDE;
      chosen(Math.max(0, Math.min(this.depth - 1, Math.round(((x - LEFT) / (WIDE - LEFT - RIGHT)) * (this.depth - 1)))));
    });
  }

  show(shown, range) {
    const { svg } = this, depth = (this.depth = shown.depth);
    const y = (this.y = new LogAxis(range, [TALL - BOTTOM, TOP], LINE));
    this.xs = shown.medians.map((_, block) => (depth > 1 ? LEFT + (block / (depth - 1)) * (WIDE - LEFT - RIGHT) : (LEFT + WIDE - RIGHT) / 2));
    svg.setAttribute("viewBox", `0 0 ${WIDE} ${TALL}`);
    const parts = y.ticks.flatMap((tick) => [
      draw("line", { x1: LEFT, x2: WIDE - RIGHT, y1: y.at(tick), y2: y.at(tick), class: "grid" }),
      label(LEFT - 5, y.at(tick) + 4, multiple(tick), "end"),
    ]);
    const step = Math.ceil(depth / 9);
    for (let block = 0; block < depth; block += step) parts.push(label(this.xs[block], TALL - BOTTOM + 15, block));
    parts.push(label((LEFT + WIDE) / 2, TALL - 4, "after block", "middle", "axis-label"));
    const line = (values, kind) => draw("path", { d: path(this.xs, values.map((v) => y.at(v))), class: kind, fill: "none" });
    const most = shown.medians.map((middle, block) => Math.max(...shown.normsOf(block).filter(Number.isFinite)) / middle);
    parts.push(line(most, "line-max"), line(shown.medians.map(() => 1), "line-median"));
    for (let token = 0; token < shown.cls; token++) parts.push(line(shown.overBlocks(token), "line-cls"));
    for (let r = 0; r < shown.registers; r++) parts.push(line(shown.overBlocks(shown.cls + shown.other + r), "line-register"));
    shown.blocks.forEach(({ threshold }, block) => {
      if (threshold === null) return;
      const at = y.at(threshold / shown.medians[block]);
      parts.push(draw("line", { x1: this.xs[block] - 6, x2: this.xs[block] + 6, y1: at, y2: at, class: "line-threshold" }));
    });
    this.now = draw("line", { y1: TOP, y2: TALL - BOTTOM, class: "line-now" });
    this.token = draw("path", { class: "line-token", fill: "none" });
    svg.replaceChildren(...parts, this.now, this.token);
  }

  at(block) {
    this.now.setAttribute("x1", this.xs[Math.min(block, this.depth - 1)]);
    this.now.setAttribute("x2", this.xs[Math.min(block, this.depth - 1)]);
  }

  point(ratios) {
    this.token.setAttribute("d", ratios ? path(this.xs, ratios.map((v) => (v > 0 ? this.y.at(v) : NaN))) : "");
  }
}

// How many patches have which norm after a block; single patches are visible, as heights are roots of the counts.
export class Histogram {
  constructor(svg) {
    this.svg = svg;
  }

  show(shown, block, range) {
    const { svg } = this, x = (this.x = new LogAxis(range, [LEFT, WIDE - RIGHT], WORD)), middle = shown.medians[block];
    const counts = new Float64Array(BINS), marked = new Float64Array(BINS), base = TALL - BOTTOM;
    for (const norm of shown.normsOf(block)) {
      if (!Number.isFinite(norm)) continue;
      const at = Math.max(0, Math.min(BINS - 1, Math.floor(((x.at(norm / middle) - LEFT) / (WIDE - LEFT - RIGHT)) * BINS)));
      (shown.stands(norm, block) ? marked : counts)[at]++;
    }
    const top = Math.sqrt(Math.max(1, ...counts, ...marked)), wide = (WIDE - LEFT - RIGHT) / BINS;
    svg.setAttribute("viewBox", `0 0 ${WIDE} ${TALL}`);
    const parts = x.ticks.map((tick) => label(x.at(tick), base + 15, multiple(tick)));
    parts.push(draw("line", { x1: LEFT, x2: WIDE - RIGHT, y1: base, y2: base, class: "axis" }));
    for (const [of, kind] of [[counts, "bar"], [marked, "bar-outlier"]]) {
      of.forEach((count, bin) => {
        const tall = (Math.sqrt(count) / top) * (base - TOP);
        if (count) parts.push(draw("rect", { x: LEFT + bin * wide + 0.5, y: base - tall, width: wide - 1, height: tall, class: kind }));
      });
    }
    for (const count of [1, 10, 100, 1000].filter((each) => Math.sqrt(each) <= top)) {
      parts.push(label(LEFT - 5, base - (Math.sqrt(count) / top) * (base - TOP) + 4, count, "end"));
    }
    const { threshold } = shown.blocks[block];
    if (threshold !== null) {
      const at = x.at(threshold / middle);
      parts.push(draw("line", { x1: at, x2: at, y1: TOP, y2: base, class: "line-threshold" }));
    }
    parts.push(label((LEFT + WIDE) / 2, TALL - 4, "norm over the median", "middle", "axis-label"));
    this.mark = draw("path", { class: "mark-token" });
    this.base = base;
    svg.replaceChildren(...parts, this.mark);
  }

  point(ratio) {
    const at = ratio > 0 ? this.x.at(ratio) : NaN;
    this.mark.setAttribute("d", Number.isFinite(at) ? `M${at.toFixed(1)} ${TOP}V${this.base}` : "");
  }
}

// Two colour tables that are even to the eye and readable without colour vision, and how values are laid on them.
import { bytes, manifest } from "../measured/parts.js";

export const tables = { magma: bytes(manifest.palettes.magma), viridis: bytes(manifest.palettes.viridis) };

// A scale from low to high; logarithmic for norms. What is not a number has no colour.
export class Scale {
  constructor(table, low, high, log = false) {
    Object.assign(this, { table: tables[table], low, high, log });
    [this.from, this.to] = log ? [Math.log(low), Math.log(high)] : [low, high];
  }

  share(value) {
    const at = this.log ? Math.log(Math.max(value, 1e-30)) : value;
    return Math.max(0, Math.min(1, (at - this.from) / (this.to - this.from || 1)));
  }
}

export function paint(canvas, rows, cols, values, scale) {
  canvas.width = cols;
  canvas.height = rows;
  const context = canvas.getContext("2d"), pixels = context.createImageData(cols, rows), { table } = scale;
  for (let i = 0; i < rows * cols; i++) {
    if (Number.isNaN(values[i])) continue;
    const at = 3 * Math.round(255 * scale.share(values[i]));
    pixels.data[4 * i] = table[at];
    pixels.data[4 * i + 1] = table[at + 1];
    pixels.data[4 * i + 2] = table[at + 2];
    pixels.data[4 * i + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
}

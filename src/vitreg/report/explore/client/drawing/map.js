// A map of patches on a canvas, or the photo itself: outlines, a mark on one patch, and where a pointer is.
import { paint } from "./colours.js";
import { draw } from "./svg.js";

export class Map2D {
  // area: an element with a canvas or picture in it; pointed: called with a row and column in shares of the sides.
  constructor(area, pointed, left, chosen) {
    this.area = area;
    this.canvas = area.querySelector("canvas");
    this.outline = draw("path", { class: "outline" });
    this.shade = draw("path", { class: "outline-shade" });
    this.mark = draw("rect", { class: "mark", width: 1, height: 1, visibility: "hidden" });
    this.over = draw("svg", { preserveAspectRatio: "none", "aria-hidden": "true" }, this.shade, this.outline, this.mark);
    area.append(this.over);
    // Where the area lies is asked anew only after the page has moved: asking makes the browser lay out what the last move changed.
    let box = null;
    const moved = () => (box = null);
    const place = (event) => {
      box ??= area.getBoundingClientRect();
      return [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width];
    };
    area.addEventListener("pointerenter", moved);
    addEventListener("scroll", moved, { capture: true, passive: true });
    new ResizeObserver(moved).observe(document.body);
    area.addEventListener("pointermove", (event) => event.pointerType === "mouse" && pointed(...place(event)));
    area.addEventListener("pointerleave", left);
    area.addEventListener("click", (event) => chosen(...place(event)));
  }

  fit(shown) {
    if (this.rows === shown.rows && this.cols === shown.cols && this.aspect === shown.aspect) return;
    Object.assign(this, { rows: shown.rows, cols: shown.cols, aspect: shown.aspect });
    this.over.setAttribute("viewBox", `0 0 ${shown.cols} ${shown.rows}`);
    this.area.style.aspectRatio = String(shown.aspect);
  }

  paint(values, scale) {
    paint(this.canvas, this.rows, this.cols, values, scale);
  }

  // Lines around the patches that are marked, where their neighbours are not.
  surround(marked) {
    const { rows, cols } = this, at = (r, c) => r >= 0 && c >= 0 && r < rows && c < cols && marked[r * cols + c];
    let d = "";
    for (let r = 0; marked && r < rows; r++) {
      for (let c = 0; c < cols; c++) {
        if (!at(r, c)) continue;
        if (!at(r - 1, c)) d += `M${c} ${r}h1`;
        if (!at(r + 1, c)) d += `M${c} ${r + 1}h1`;
        if (!at(r, c - 1)) d += `M${c} ${r}v1`;
        if (!at(r, c + 1)) d += `M${c + 1} ${r}v1`;
      }
    }
    this.outline.setAttribute("d", d);
    this.shade.setAttribute("d", d);
  }

  point(patch) {
    if (patch >= 0) {
      this.mark.setAttribute("x", patch % this.cols);
      this.mark.setAttribute("y", Math.floor(patch / this.cols));
    }
    this.mark.setAttribute("visibility", patch >= 0 ? "visible" : "hidden");
  }
}

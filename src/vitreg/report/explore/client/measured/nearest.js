// Cosine similarity of patches, of the features after the last block.
import { dot } from "../drawing/numbers.js";
import { restored } from "./attention.js";
import { array } from "./parts.js";

export class Features {
  constructor(part) {
    const factors = array(part.factors);
    this.there = factors.map((factor) => (factor ? 1 : NaN));
    this.vectors = restored(array(part.vectors), factors);
    [this.patches, this.width] = part.vectors.shape;
  }

  // Similarity of every patch to one patch of these or other features of the same model; NaN where a patch is gone.
  similar(patch, of = this) {
    const { vectors, there, patches, width } = this;
    const found = new Float32Array(patches);
    for (let p = 0; p < patches; p++) found[p] = there[p] * of.there[patch] * dot(vectors, p * width, of.vectors, patch * width, width);
    return found;
  }
}

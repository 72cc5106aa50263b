// The paper on this photo, in five steps. Each sets what is shown, and says it with the numbers that were measured here.
import { largest, mean, number, percent } from "../drawing/numbers.js";
import { valueRatio } from "./readout.js";

const many = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : noun.endsWith("h") ? "es" : "s"}`;
const NONE = "On this photo no block of this model shows a second group of norms, so there is nothing to follow: choose a model that has one.";

const patchesOf = (shown, block) => shown.outliers(block).flatMap((stands, patch) => (stands ? [patch] : []));

// The block whose attention is told: where the second group receives most, among those that the page has.
function attended(shown) {
  const kept = shown.drawn ?? [], taken = kept.filter((block) => shown.over(block) > 0);
  const wanted = taken.length ? taken.reduce((best, each) => (shown.over(each) > shown.over(best) ? each : best)) : shown.depth - 1;
  return kept.length ? kept.reduce((best, each) => (Math.abs(each - wanted) < Math.abs(best - wanted) ? each : best)) : wanted;
}

export const STEPS = [
  {
    title: "Attention is peaky",
    show: (shown) => ({ map: shown.cls ? "given" : "receives", token: shown.cls ? "cls0" : "patch", block: attended(shown), head: -1, patch: patchesOf(shown, shown.peak)[0] ?? -1 }),
    async tell(shown) {
      if (!shown.drawn?.length) return `Attention is not here: ${shown.unread(attended(shown))}`;
      if (!shown.cls) return "This model has no class token. The map shows what one patch takes from all others.";
      const block = attended(shown), weights = (await shown.attention(block)).given(0).subarray(shown.first);
      const count = Math.max(1, Math.round(0.02 * shown.patches)), top = largest(weights, count);
      const all = weights.reduce((sum, v) => sum + (v || 0), 0), share = top.reduce((sum, at) => sum + weights[at], 0) / all;
      const even = count / shown.patches, said = share > 5 * even
        ? "Where such patches lie on plain background, attention no longer shows the object."
        : "On this photo no few patches take it all.";
      return `In block ${block}, CLS gives ${percent(share)} of its attention to patches to ${many(count, "patch")} of ${shown.patches}; even attention would give them ${percent(even)}. ${said}`;
    },
  },
  {
    title: "They have other norms",
    show: (shown) => ({ map: "norms", token: "patch", block: shown.peak, outlines: true }),
    async tell(shown) {
      if (!shown.found) return NONE;
      const count = patchesOf(shown, shown.peak).length, early = (shown.single ?? null) === null ? ""
        : `; ${count === 1 ? "it stands" : "single patches of it stand"} out from block ${shown.single} on`;
      return `After block ${shown.peak}, ${many(count, "patch")} of ${shown.patches} ${count === 1 ? "forms" : "form"} a second group with ${number(shown.side === "low" ? 1 / shown.ratio : shown.ratio)} times the norm of the others. Norms are taken before the final norm, which hides them. The group is first found after block ${shown.begins}${early}.`;
    },
  },
  {
    title: "On redundant patches",
    show: (shown) => ({ map: "neighbours", token: "patch", block: shown.peak, outlines: true }),
    async tell(shown) {
      const marked = new Set(patchesOf(shown, shown.peak)), cosines = Array.from(shown.neighbours);
      if (!marked.size) return NONE;
      const inside = mean(cosines.filter((_, p) => marked.has(p))), others = mean(cosines.filter((_, p) => !marked.has(p)));
      const said = marked.size < 5 ? "So few patches do not tell whether the group lies where neighbours look alike"
        : inside > others + 0.02 ? "On this photo the group lies where neighbours look more alike" : "On this photo the group does not lie where neighbours look more alike";
      return `${said}: right after the patch projection, the mean cosine of a patch to its neighbours is ${inside.toFixed(2)} in the group and ${others.toFixed(2)} elsewhere.`;
    },
  },
  {
    title: "What a register would hold",
    show: (shown) => ({ map: "similar", token: "patch", block: shown.peak, patch: patchesOf(shown, shown.peak)[0] ?? -1 }),
    async tell(shown, page) {
      const marked = patchesOf(shown, shown.peak), block = attended(shown), at = page.patch() < 0 ? marked[0] : page.patch();
      if (!marked.length) return NONE;
      const alike = (await shown.features()).similar(at), inside = marked.includes(at), others = marked.filter((patch) => patch !== at);
      const of = mean(others.map((patch) => alike[patch])), rest = mean(Array.from(alike).filter((_, patch) => patch !== at && !marked.includes(patch)));
      const group = inside ? "the others of its group" : others.length === 1 ? "the one patch of the second group, to which it does not belong," : "the second group, to which it does not belong,";
      const said = inside && of > rest + 0.1 ? ": the group has its own content, and not that of its place" : "";
      const words = others.length ? `After the last block, the patch at ${shown.called(shown.first + at)} has a cosine of ${of.toFixed(2)} to ${group} and ${rest.toFixed(2)} to the remaining patches${said}. ` : "";
      const values = mean(marked.map((patch) => valueRatio({}, { shown, block }, shown.first + patch)));
      return `${words}Values of the group in block ${block} have ${number(values)} times the norm of a patch's. The paper finds that such tokens hold what concerns the whole image, which registers would take; one photo cannot show that.`;
    },
  },
  {
    title: "With registers",
    show: (shown, page) => ({ map: "norms", token: "patch", block: shown.peak, ...page.withRegisters() }),
    async tell(shown, page) {
      const other = page.other();
      if (!other || !(other.registers > shown.registers || page.repaired(other))) return "No model with registers or with a repair is on this page. Name one beside this with -m or --repair, and both stand on one colour scale.";
      const what = other.registers ? many(other.registers, "register") : "a repair";
      return other.found
        ? `With ${what}, ${percent(other.share)} of the patches still form a second group on this photo.`
        : `With ${what}, no block shows a second group of patch norms on this photo. Both maps share one colour scale.`;
    },
  },
];

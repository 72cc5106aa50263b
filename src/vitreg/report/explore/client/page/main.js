// The page: it answers to the address, to the controls and to pointing, and draws one or two panels on one colour scale.
import { Scale, paint } from "../drawing/colours.js";
import { Live } from "./live.js";
import { Panel } from "./panel.js";
import { manifest } from "../measured/parts.js";
import { download, numbers, picture } from "./save.js";
import { documentOf } from "../measured/shown.js";
import { State } from "./state.js";
import { STEPS } from "./story.js";

const id = (name) => document.getElementById(name);
const { photos, models } = manifest;
const named = new Map(manifest.documents.map((each) => [`${each.photo} ${each.model}`, each.name]));
const REST = 120; // milliseconds without a move, after which slower things are done
let hovered = null, rounds = 0, resting = 0, ready = Promise.resolve();

const repairOf = (model) => models.findIndex((each) => each.base === model);
const page = {
  hover: (panel, patch) => point(patch < 0 ? null : [panel, patch]),
  pin(panel, patch) {
    const again = state.now.patch === toLeft(panel, patch);
    state.set({ patch: again ? -1 : toLeft(panel, patch) });
  },
  block: (block) => state.set({ block }),
  key: moved,
  patch: () => (state.now.patch < panels[0].shown.patches ? state.now.patch : -1),
  other: () => shown().map((panel) => panel.shown)[1],
  repaired: (doc) => models.findIndex((each) => each.name === doc.name && each.base !== null) >= 0,
  withRegisters() {
    const wanted = models.findIndex((each, at) => at !== state.now.left && (each.base === state.now.left || each.registers > 0));
    return wanted < 0 ? {} : { right: wanted };
  },
};
const panels = ["left", "right"].map((name) => new Panel(id(name), page));
const state = new State({ right: models.length > 1 ? 1 : -1 }, models.length, (now, names) => draw(names));

const shown = () => panels.filter((panel) => !panel.root.hidden && panel.shown);
const kept = (panel) => (panels[0].shown ?? panel.shown); // the state tells patches of the left grid
const toLeft = (panel, patch) => across(panel.shown, kept(panel), patch);

// The patch at the same place on another grid.
function across(from, to, patch) {
  if (patch < 0 || (from.rows === to.rows && from.cols === to.cols)) return patch;
  const row = Math.floor(patch / from.cols), col = patch % from.cols;
  return Math.floor(((row + 0.5) / from.rows) * to.rows) * to.cols + Math.floor(((col + 0.5) / from.cols) * to.cols);
}

function patchIn(panel) {
  if (hovered) return panel === hovered[0] ? hovered[1] : across(hovered[0].shown, panel.shown, hovered[1]);
  const patch = across(kept(panel), panel.shown, state.now.patch);
  return patch < panel.shown.patches ? patch : -1;
}

// Everything, after a change of the state.
function draw(names = []) {
  ready = drawn(++rounds, names).catch((error) => { id("said").textContent = id("fault").textContent = error.message; id("fault").hidden = false; });
}

// The numbers of the models to show on either side.
function wanted() {
  const { left, right, repair } = state.now;
  return [repair && repairOf(left) >= 0 ? repairOf(left) : left, right];
}

async function drawn(round, names) {
  const now = state.now, photo = Math.min(now.photo, photos.length - 1);
  for (const [at, panel] of panels.entries()) {
    const model = wanted()[at], name = named.get(`${photo} ${model}`), coming = live && photo >= 0 && model in models;
    panel.root.hidden = !name && !coming;
    if (name) await panel.load(name);
    else panel.wait(coming ? live.need(photo, model) : "");
  }
  if (round !== rounds) return;
  for (const name of ["controls", "legend"]) id(name).hidden = !shown().length;
  for (const name of ["story", "save-picture", "save-numbers"]) id(name).disabled = !shown().length;
  if (!shown().length) return;
  if (names.includes("photo") || names.includes("left")) hovered = null;
  const all = shown(), block = now.block < 0 ? all[0].shown.peak : now.block, range = normRange(all);
  id("panels").classList.toggle("two", all.length > 1);
  for (const panel of all) panel.lay(now, block, range);
  controls(all, Math.min(block, Math.max(...all.map((panel) => panel.shown.depth - 1))));
  follow(true);
  await Promise.all(all.map((panel) => panel.fetch(now)));
  if (round !== rounds) return;
  controls(all, Math.min(block, Math.max(...all.map((panel) => panel.shown.depth - 1))));
  follow(true);
  await rest();
  if (now.story > 0 && panels[0].shown) await tell(now.story, round);
}

// Norms over their medians of all blocks of all panels, at least from 1/1.5 to 1.5, so that even maps look even.
function normRange(all) {
  let low = 1 / 1.5, high = 1.5;
  for (const { shown } of all) {
    shown.medians.forEach((middle, block) => {
      for (const norm of shown.normsOf(block)) if (norm > 0) [low, high] = [Math.min(low, norm / middle), Math.max(high, norm / middle)];
    });
  }
  return [low, high];
}

// The maps and what is said, for the token under the pointer. `all` measures also maps that no pointer changes.
function follow(all = false) {
  const now = state.now, seen = shown();
  const moving = now.token === "patch" && ["given", "receives", "similar"].includes(now.map);
  if (all || moving) {
    const layers = seen.map((panel) => panel.measure(now, patchIn(panel)));
    const range = rangeOf(layers, seen);
    seen.forEach((panel) => panel.paint(range));
    legend(layers.find((each) => each.values), range);
  }
  for (const panel of seen) panel.point(now, patchIn(panel));
}

function rangeOf(layers, seen) {
  const [first] = layers.filter((each) => each.values);
  if (!first) return [0, 1];
  if (state.now.map === "norms") return normRange(seen);
  if (first.high !== undefined) return [first.low, first.high];
  let low = first.norms ? 1 / 1.5 : 0, high = first.norms ? 1.5 : 1e-6;
  for (const { values } of layers) for (const v of values ?? []) if (Number.isFinite(v)) [low, high] = [v > 0 || !first.norms ? Math.min(low, v) : low, Math.max(high, v)];
  return [first.norms ? Math.max(low, 1e-3) : low, high];
}

function legend(found, [low, high]) {
  id("scale").parentElement.hidden = !found;
  if (!found) return;
  paint(id("scale"), 1, 256, Float32Array.from({ length: 256 }, (_, i) => i / 255), new Scale(found.table, 0, 1));
  id("low").textContent = found.say(low);
  id("high").textContent = found.say(high);
}

function point(next) {
  if (next?.[0] === hovered?.[0] && next?.[1] === hovered?.[1]) return;
  hovered = next;
  follow();
  clearTimeout(resting);
  resting = setTimeout(rest, REST);
}

// What is slower than a move: the nearest patches, and the words for screen readers.
async function rest() {
  const now = state.now, all = shown();
  id("said").textContent = all.map((panel) => (panel.facts?.length ? `${panel.shown.name}, ${panel.find("token").textContent}: ${panel.facts.map((each) => each.join(" ")).join("; ")}.` : "")).join(" ");
  await Promise.all(all.map((panel) => {
    const model = models.findIndex((each) => each.name === panel.shown.name);
    const others = photos.flatMap((_, photo) => (photo === now.photo || !named.has(`${photo} ${model}`) ? [] : [[named.get(`${photo} ${model}`), photos[photo]]]));
    return panel.neighbours(patchIn(panel), others);
  }));
}

// Arrow keys move over patches, o goes to the next one of the second group, Escape leaves.
function moved(panel, event) {
  const { rows, cols, patches } = panel.shown, now = patchIn(panel);
  const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
  let next = now;
  if (event.key === "Escape") next = -1;
  else if (event.key === "o") {
    const marked = panel.shown.outliers(panel.block);
    for (let i = 1; i <= patches; i++) if (marked[(Math.max(now, -1) + i + patches) % patches]) { next = (now + i + patches) % patches; break; }
  } else if (step && now < 0) next = Math.floor(rows / 2) * cols + Math.floor(cols / 2);
  else if (step) {
    const row = Math.floor(now / cols) + step[0], col = (now % cols) + step[1];
    if (row >= 0 && row < rows && col >= 0 && col < cols) next = row * cols + col;
  } else return;
  event.preventDefault();
  hovered = null;
  state.set({ patch: toLeft(panel, next) }, false);
}

// The controls say what is shown, and offer what there is.
function controls(all, block) {
  const now = state.now, depth = Math.max(...all.map((panel) => panel.shown.depth)), [{ shown: first }] = all;
  Object.assign(id("block"), { max: depth - 1, value: block });
  id("block-number").textContent = `${block} of 0 to ${depth - 1}`;
  id("block").setAttribute("aria-valuetext", `block ${block}`);
  for (const input of document.querySelectorAll("[data-map]")) input.checked = input.value === now.map;
  for (const input of document.querySelectorAll("[data-photo]")) input.checked = Number(input.value) === now.photo;
  const tokens = ["patch", ...Array.from({ length: Math.max(...all.map(({ shown }) => shown.cls)) }, (_, i) => `cls${i}`), ...Array.from({ length: Math.max(...all.map(({ shown }) => shown.registers)) }, (_, i) => `reg${i}`)];
  chips(tokens, now.token);
  const heads = Math.max(0, ...all.map((panel) => panel.attention?.heads ?? 0));
  if (heads && id("head").options.length !== heads + 1) id("head").replaceChildren(new Option("mean of all", -1), ...Array.from({ length: heads }, (_, h) => new Option(`head ${h}`, h)));
  id("head").value = String(now.head);
  id("left-model").value = String(now.left);
  id("right-model").value = String(now.right);
  const rotates = all.some(({ shown }) => shown.before.length), repairs = repairOf(now.left) >= 0;
  id("before").parentElement.hidden = !rotates;
  id("repair").parentElement.hidden = !repairs;
  for (const name of ["before", "repair", "outlines"]) id(name).checked = now[name];
  id("story").setAttribute("aria-pressed", now.story > 0);
  id("tale").hidden = now.story < 1;
  document.title = `${photos[now.photo] ?? ""} · ${first.name} · vitreg explore`;
}

function chips(tokens, chosen) {
  const room = id("tokens"), names = tokens.join();
  if (room.dataset.names !== names) {
    room.dataset.names = names;
    room.replaceChildren(...tokens.map((word) => {
      const label = document.createElement("label"), input = document.createElement("input");
      Object.assign(input, { type: "radio", name: "token", value: word });
      input.addEventListener("change", () => state.set({ token: word }));
      label.append(input, word === "patch" ? "Patch" : word.startsWith("cls") ? (names.includes("cls1") ? `CLS ${Number(word.slice(3)) + 1}` : "CLS") : `REG ${Number(word.slice(3)) + 1}`);
      return label;
    }));
  }
  for (const input of room.querySelectorAll("input")) input.checked = input.value === chosen;
}

// The story: a step sets the state once, and is told from then on.
function step(number) {
  if (!panels[0].shown) return;
  const at = Math.max(1, Math.min(STEPS.length, number)), { shown: first } = panels[0];
  state.set({ outlines: true, repair: false, story: at, ...STEPS[at - 1].show(first, page) });
}

async function tell(number, round) {
  const at = STEPS[Math.min(number, STEPS.length) - 1];
  const words = await at.tell(panels[0].shown, page);
  if (round !== rounds) return;
  id("tale-title").textContent = `${Math.min(number, STEPS.length)} of ${STEPS.length}: ${at.title}`;
  id("tale-words").textContent = words;
  id("back").disabled = number <= 1;
  id("next").disabled = number >= STEPS.length;
}

const choosePhoto = (input) => input.addEventListener("change", () => state.set({ photo: Number(input.value), patch: -1 }));

// A photo that was measured by a model; the first of those that were dropped is shown at once.
function arrived(photo, name, model, found, first) {
  named.set(`${photo} ${model}`, found);
  if (photo === photos.length) {
    const label = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "photo", value: photo }).dataset.photo = "";
    choosePhoto(input);
    label.append(input, name);
    id("photos").append(label);
    photos.push(name);
    id("photos").hidden = photos.length < 2;
  }
  if (first) state.set({ photo, patch: -1 });
  if (photo === Math.min(state.now.photo, photos.length - 1)) draw();
}

function wire() {
  const on = (name, event, act) => id(name).addEventListener(event, act);
  on("block", "input", () => state.set({ block: Number(id("block").value) }, false));
  for (const input of document.querySelectorAll("[data-map]")) input.addEventListener("change", () => state.set({ map: input.value }));
  for (const input of document.querySelectorAll("[data-photo]")) choosePhoto(input);
  on("left-model", "change", () => state.set({ left: Number(id("left-model").value), repair: false }));
  on("right-model", "change", () => state.set({ right: Number(id("right-model").value) }));
  on("head", "change", () => state.set({ head: Number(id("head").value) }));
  for (const name of ["before", "repair", "outlines"]) on(name, "change", () => state.set({ [name]: id(name).checked }));
  on("story", "click", () => (state.now.story ? state.set({ story: 0 }) : step(1)));
  on("back", "click", () => step(state.now.story - 1));
  on("next", "click", () => step(state.now.story + 1));
  on("leave", "click", () => state.set({ story: 0 }));
  const name = () => (photos[state.now.photo] ?? "photo").replace(/\.\w{1,5}( \(\d+\))?$/, "$1");
  on("save-picture", "click", async () => download(`${name()}-explore.png`, await picture(photos[state.now.photo], shown(), manifest.caution)));
  on("save-numbers", "click", () => download(`${name()}-explore.json`, numbers(state.now, photos[state.now.photo], shown())));
  on("theme", "click", () => {
    const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
}

// For those who look into the page: what is shown, and a promise that it is drawn.
window.vitregExplorer = { state, panels, documentOf, drawn: () => ready };
wire();
const live = manifest.live && new Live({ wanted, arrived, draw });
draw();

// Photos that somebody drops: a server measures them, one photo by one model at a time. One request of a page runs at once, so
// that those of other pages come in between, and a page that is closed leaves one behind, which the server ends.
import { documentOf } from "../measured/shown.js";
import { SILENT, keep, manifest } from "../measured/parts.js";

const id = (name) => document.getElementById(name);

export class Live {
  // page: wanted(): numbers of the models that are shown; arrived(photo, name, model, document, fresh); draw().
  constructor(page) {
    Object.assign(this, { page, queue: [], now: null, sources: [], asked: new Set(), failed: new Map(), fresh: false, drops: 0 });
    id("files").addEventListener("change", () => this.drop(id("files").files));
    id("stop").addEventListener("click", () => this.stop());
    id("close").addEventListener("click", () => {
      this.forgive(() => true);
      id("files").focus();
    });
    addEventListener("dragover", (event) => this.over(event, true));
    addEventListener("dragleave", (event) => event.relatedTarget === null && this.over(event, false));
    addEventListener("drop", (event) => {
      this.over(event, false);
      this.drop(event.dataTransfer.files);
    });
    this.add(manifest.live.given.map((name, given) => ({ name, given, drop: 0 })));
  }

  over(event, inside) {
    event.preventDefault();
    document.body.classList.toggle("dropping", inside);
  }

  drop(files) {
    this.drops += 1;
    for (const key of this.failed.keys()) this.asked.delete(key); // what failed before is tried again
    this.failed.clear();
    this.fresh = true; // the first one that can be read is shown
    this.add(Array.from(files, (file) => ({ name: file.name, file, drop: this.drops })));
    id("files").value = "";
  }

  add(sources) {
    this.queue.push(...sources.map((source) => ({ source })));
    this.go();
  }

  // Have a photo of the page measured by one more model before all that waits. Returns what there is to say meanwhile.
  need(photo, model) {
    const key = `${photo} ${model}`;
    if (!this.asked.has(key)) {
      this.asked.add(key);
      this.queue.unshift({ source: this.sources[photo], model });
      this.go();
    }
    return this.failed.get(key) ?? "Measuring …";
  }

  // Forget the photos that wait.
  stop() {
    this.queue = this.queue.filter((job) => job.source.photo !== undefined);
    if (this.now?.source.photo === undefined) this.now?.aborter.abort();
    this.tell();
  }

  async go() {
    if (this.now) return;
    while ((this.now = this.queue.shift() ?? null)) {
      this.now.aborter = new AbortController();
      this.tell();
      await this.measure(this.now).catch((error) => this.refuse(this.now, error));
    }
    this.tell();
  }

  async measure(job) {
    const { source } = job, [left, right] = this.page.wanted(), fresh = source.photo === undefined;
    job.model ??= left;
    const found = await this.ask(source, job.model, job.aborter.signal);
    for (const [name, part] of Object.entries(found.parts)) keep(name, part);
    this.forgive((item) => item.textContent === SILENT || (fresh && item.dataset.name === source.name && Number(item.dataset.drop) < source.drop));
    if (fresh) {
      source.name = this.free(source.name);
      source.photo = this.sources.push(source) - 1;
      this.asked.add(`${source.photo} ${job.model}`);
      if (right >= 0) this.need(source.photo, right);
    }
    this.page.arrived(source.photo, source.name, job.model, found.name, fresh && this.fresh);
    if (fresh) this.fresh = false;
    // The page keeps what is read of all blocks, the server only while it has room.
    await documentOf(found.name).then((shown) => shown.read()).catch(() => {});
  }

  // Names of photos are told apart by numbers: a browser does not tell the folder of a file.
  free(name) {
    const taken = new Set(this.sources.map((source) => source.name));
    let found = name;
    for (let number = 2; taken.has(found); number++) found = `${name} (${number})`;
    return found;
  }

  async ask({ name, file, given }, model, signal) {
    const words = new URLSearchParams({ name, model });
    if (file === undefined) words.set("given", given);
    else if (file.size > manifest.live.largest) throw new Error(`${name} has more than ${manifest.live.largest >> 20} MB.`);
    const body = file && (await file.arrayBuffer().catch(() => { throw new Error(`${name} could not be read; drop single files.`); }));
    const unheard = (error) => { throw signal.aborted ? error : new Error(SILENT); };
    const reply = await fetch(`photos?${words}`, { method: "POST", body, signal }).catch(unheard);
    if (!reply.ok) throw new Error((await reply.text()).trim());
    const found = await reply.json().catch(unheard);
    if (found.refused) throw new Error(found.refused);
    return found;
  }

  refuse(job, error) {
    const silent = error.message === SILENT, failed = silent ? [job, ...this.queue] : [job];
    if (job.aborter.signal.aborted) return;
    if (silent) this.queue = [];
    for (const { source, model } of failed) if (source.photo !== undefined) this.failed.set(`${source.photo} ${model}`, error.message);
    if (job.source.photo === undefined || silent) this.say(error.message, job.source);
    this.page.draw();
  }

  // A sentence stays until it is closed, or a file of its name is dropped again and can be read.
  say(words, { name, drop }) {
    this.forgive((each) => each.textContent === words && (words === SILENT || (each.dataset.name === name && each.dataset.drop !== String(drop))));
    const item = document.createElement("li");
    item.textContent = words;
    Object.assign(item.dataset, { name, drop });
    id("refused").append(item);
    id("refused").hidden = id("close").hidden = false;
  }

  // Take away the sentences of which a condition holds.
  forgive(holds) {
    for (const item of [...id("refused").children]) if (holds(item)) item.remove();
    id("refused").hidden = id("close").hidden = !id("refused").children.length;
  }

  tell() {
    const waiting = this.queue.filter((job) => job.source.photo === undefined).length;
    id("measuring").hidden = !this.now;
    id("stop").hidden = !waiting && this.now?.source.photo !== undefined;
    if (this.now) id("progress").textContent = `Measuring ${this.now.source.name}${waiting ? `; ${waiting} more wait` : ""} …`;
  }
}

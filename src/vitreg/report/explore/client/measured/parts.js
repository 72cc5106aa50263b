// Measured parts: in the page itself, in files beside it that script tags load, because a page opened from disk may not fetch, or
// on the server that sent the page.

const KINDS = { f32: Float32Array, i16: Int16Array, i8: Int8Array, u16: Uint16Array, u8: Uint8Array };
const known = new Map(), waiting = new Map();
const KEPT = 20; // blocks; those of large photos take megabytes

export const SILENT = "The server does not answer; start vitreg explore --serve again, and open its new address.";
export const manifest = JSON.parse(document.getElementById("explorer").textContent);

export function bytes(text) {
  const raw = atob(text), found = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
  return found;
}

// An array as it was packed, with its shape; the machine is little-endian, as all browsers' machines are.
export function array(held) {
  const values = new KINDS[held.type](bytes(held.data).buffer);
  values.shape = held.shape;
  return values;
}

// The part of this name; asked for twice, it is read once.
export function part(name) {
  let found = known.get(name);
  if (!found) {
    known.set(name, (found = inPage(name) ?? (manifest.live ? asked(name) : beside(name))));
    const blocks = [...known.keys()].filter((each) => each.includes("-b"));
    if (blocks.length > KEPT) known.delete(blocks[0]);
  }
  return found;
}

// Take a part that came by itself.
export function keep(name, content) {
  known.set(name, Promise.resolve(content));
}

async function asked(name) {
  try {
    const reply = await fetch(`data/${name}`).catch(() => { throw new Error(SILENT); });
    if (!reply.ok) throw new Error((await reply.text()).trim());
    return await reply.json();
  } catch (error) {
    known.delete(name);
    throw error;
  }
}

function inPage(name) {
  const held = document.getElementById("part-" + name);
  return held && Promise.resolve(JSON.parse(held.textContent));
}

function beside(name) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    waiting.set(name, resolve);
    script.src = `data/${name}.js`;
    script.onload = () => script.remove();
    script.onerror = () => {
      known.delete(name);
      reject(new Error(`data/${name}.js is not beside this page.`));
    };
    document.head.append(script);
  });
}

// Called by the files in data/.
window.vitregPart = (name, content) => {
  waiting.get(name)?.(content);
  waiting.delete(name);
};

// What is seen, as a file: a picture of the photos and maps, or the numbers behind them.

const PAD = 24, SIDE = 420;

export function numbers(state, photo, panels) {
  const models = panels.map(({ shown, block, layer, facts, near }) => ({
    name: shown.name, spec: shown.spec, sentence: shown.sentence, grid: [shown.rows, shown.cols], block,
    threshold: shown.blocks[block].threshold, map: layer.words ?? layer.why,
    values: layer.values ? Array.from(layer.values, (v) => (Number.isFinite(v) ? Number(v.toPrecision(5)) : null)) : null,
    token: Object.fromEntries(facts ?? []), nearest: near ?? [],
  }));
  return JSON.stringify({ schema: "vitreg.seen/1", photo, state, models }, null, 1);
}

export async function picture(title, panels, caution) {
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
  const tall = panels.map(({ shown }) => SIDE / Math.max(1, shown.aspect));
  canvas.width = 2 * SIDE + 3 * PAD;
  canvas.height = 70 + tall.reduce((sum, each) => sum + each + 110, 0) + 30;
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  const write = (text, y, font, colour = "#17202b") => {
    Object.assign(context, { font: `${font} system-ui, sans-serif`, fillStyle: colour });
    return lines(context, text, canvas.width - 2 * PAD).slice(0, 2).forEach((line, i) => context.fillText(line, PAD, y + 20 * i));
  };
  write(title, 42, "600 22px");
  let y = 70;
  for (const [at, panel] of panels.entries()) {
    const { shown, layer } = panel, wide = SIDE * Math.min(1, shown.aspect), high = tall[at];
    write(shown.name, y + 16, "600 16px");
    write(shown.sentence, y + 38, "15px");
    write(layer.words ?? layer.why, y + 82, "13px", "#4e5b6b");
    const photo = panel.find("picture");
    await photo.decode();
    context.imageSmoothingEnabled = true;
    context.drawImage(photo, PAD, y + 92, wide, high);
    context.imageSmoothingEnabled = false;
    if (layer.values) context.drawImage(panel.map.canvas, 2 * PAD + SIDE, y + 92, wide, high);
    for (const left of [PAD, 2 * PAD + SIDE]) outline(context, panel.map, left, y + 92, wide / shown.cols, high / shown.rows);
    y += high + 110;
  }
  write(caution, canvas.height - 16, "13px", "#4e5b6b");
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function outline(context, map, left, top, wide, tall) {
  const lines = new Path2D();
  lines.addPath(new Path2D(map.outline.getAttribute("d") ?? ""), new DOMMatrix([wide, 0, 0, tall, left, top]));
  for (const [colour, width] of [["#000", 4], ["#00d6ff", 2]]) {
    Object.assign(context, { strokeStyle: colour, lineWidth: width });
    context.stroke(lines);
  }
}

function lines(context, text, width) {
  const found = [];
  for (const word of text.split(" ")) {
    const longer = found.length ? `${found.at(-1)} ${word}` : word;
    if (found.length && context.measureText(longer).width <= width) found[found.length - 1] = longer;
    else found.push(word);
  }
  return found;
}

export function download(name, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

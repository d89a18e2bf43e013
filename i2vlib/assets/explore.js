// Shared by the pages of i2vlib.show.embedded. KEY and DATA are defined before it, start(root) behind it.
const INK = "#222", HEAT = "#D55E00", HEAT_INK = "#A84A00", QUERY = "#0072B2", PALE = "#c8c8c8", SHARP = 2;

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return (await new Response(stream).arrayBuffer());
}

function element(parent, tag, style, words) {
  const made = document.createElement(tag);
  made.style.cssText = style || "";
  if (words) made.textContent = words;
  parent.appendChild(made);
  return made;
}

// A canvas of so many points, sharp on screens with two pixels a point; its context draws in points. An operable one takes the
// focus; a finger scrolls over it and taps on it.
function board(parent, width, height, label, operable = true) {
  const style = "display:block;touch-action:manipulation;outline-offset:2px";
  const canvas = element(parent, "canvas", `width:${width}px;height:${height}px;${style}`);
  canvas.width = width * SHARP;
  canvas.height = height * SHARP;
  if (operable) canvas.tabIndex = 0;
  canvas.setAttribute("role", operable ? "application" : "img");
  canvas.setAttribute("aria-label", label);
  const pen = canvas.getContext("2d");
  pen.scale(SHARP, SHARP);
  pen.imageSmoothingEnabled = false;
  return [canvas, pen];
}

// Boards stand side by side where the width allows.
const shelf = (root) => element(root, "div", "display:flex;flex-wrap:wrap;gap:8px 16px");
const roomIn = (root) => (root.clientWidth || 876) - 16;

// The line of numbers: also spoken.
function spoken(root, name, lines) {
  const line = element(root, "div", `margin-top:4px;font-family:monospace;min-height:${1.3 * lines}em`);
  line.className = name;
  line.setAttribute("role", "status");
  return line;
}

function write(pen, words, x, y, align = "left", colour = INK) {
  pen.font = '12px "DejaVu Sans", Verdana, sans-serif';
  pen.textAlign = align;
  pen.textBaseline = "middle";
  pen.fillStyle = colour;
  pen.fillText(words, x, y);
}

function frameBox(pen, x, y, side, colour, line = 2) {
  pen.strokeStyle = colour;
  pen.lineWidth = line;
  pen.strokeRect(x - line / 2, y - line / 2, side + line, side + line);
}

function markPlace(pen, x, y, side, place, colour) {
  const step = side / DATA.grid, px = x + (place % DATA.grid) * step, py = y + Math.floor(place / DATA.grid) * step;
  frameBox(pen, px, py, step, "white", 3);
  frameBox(pen, px, py, step, colour, 2);
}

// Pixels of every frame, as arrays of bytes.
async function readFrames() {
  const picture = new Image();
  picture.src = DATA.strip;
  await picture.decode();
  const canvas = document.createElement("canvas");
  canvas.width = DATA.size * DATA.frames;
  canvas.height = DATA.size;
  const pen = canvas.getContext("2d", {willReadFrequently: true});
  pen.drawImage(picture, 0, 0);
  return Array.from({length: DATA.frames}, (_, t) => pen.getImageData(t * DATA.size, 0, DATA.size, DATA.size).data);
}

// A canvas of one frame out of its bytes.
function still(bytes) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = DATA.size;
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(bytes), DATA.size, DATA.size), 0, 0);
  return canvas;
}

// Bytes of a frame made of others: weight(frame, place) of each.
function mix(frames, weight) {
  const size = DATA.size, step = size / DATA.grid, bytes = new Uint8ClampedArray(size * size * 4);
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const place = Math.floor(y / step) * DATA.grid + Math.floor(x / step), at = 4 * (y * size + x), sum = [0, 0, 0];
      frames.forEach((f, i) => { for (let c = 0; c < 3; c++) sum[c] += weight(i, place) * f[at + c]; });
      for (let c = 0; c < 3; c++) bytes[at + c] = Math.round(sum[c]);
      bytes[at + 3] = 255;
    }
  }
  return bytes;
}

function pale(bytes) {
  const grey = new Uint8ClampedArray(bytes);
  for (let i = 0; i < grey.length; i += 4) grey[i] = grey[i + 1] = grey[i + 2] = 110 + 0.55 * (bytes[i] + bytes[i + 1] + bytes[i + 2]) / 3;
  return grey;
}

// What the pointer is on, by find(x, y), is shown while it is there; show(null) takes it back. A click or a tap keeps it.
function onPointer(canvas, find, show, keep) {
  const found = (event) => {
    const box = canvas.getBoundingClientRect();
    return find((event.clientX - box.left) * parseFloat(canvas.style.width) / box.width,
                (event.clientY - box.top) * parseFloat(canvas.style.height) / box.height);
  };
  let last = "null";
  const changed = (what) => { if (last !== (last = JSON.stringify(what))) show(what); };
  canvas.addEventListener("pointermove", (event) => changed(found(event)));
  for (const gone of ["pointerleave", "pointercancel"]) canvas.addEventListener(gone, () => changed(null));
  canvas.addEventListener("click", (event) => { const what = found(event); if (what) keep(what); });
}

// Arrow keys on a canvas: move(rows, columns), or with Shift turn(frames).
function onArrows(canvas, move, turn) {
  const steps = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};
  canvas.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    if (!event.shiftKey) move(...step);
    else if (step[1]) turn(step[1]);
  });
}

const limit = (v, count) => Math.max(0, Math.min(count - 1, v));
const moved = (place, rows, columns) =>
  limit(Math.floor(place / DATA.grid) + rows, DATA.grid) * DATA.grid + limit(place % DATA.grid + columns, DATA.grid);
const placeName = (place) => `(${Math.floor(place / DATA.grid)}, ${place % DATA.grid})`;
const signed = (offset) => offset > 0 ? `+${offset}` : offset < 0 ? `−${-offset}` : "0";

// Every copy of the place that is not alive yet: JupyterLab may show one output twice.
setTimeout(() => document.querySelectorAll(`[data-i2v="${KEY}"]`).forEach(async (root) => {
  if (root.dataset.ready) return;
  root.dataset.ready = "starting";
  root.textContent = "";
  root.style.cssText = "background:white;color:#222;padding:8px;border-radius:8px;max-width:100%;overflow-x:auto;font:13px 'DejaVu Sans',Verdana,sans-serif";
  element(root, "div", "font-weight:bold;margin-bottom:4px", DATA.title);
  try {
    await start(root);
    const wide = root.scrollWidth > root.clientWidth + 2;
    if (wide) root.firstChild.after(element(root, "div", "color:#555;position:sticky;left:0;width:fit-content", "The picture goes on to the right →"));
    root.dataset.ready = "yes";
  } catch (error) {
    element(root, "div", "color:#b3261e", `${error.name}: ${error.message}`);
  }
}));

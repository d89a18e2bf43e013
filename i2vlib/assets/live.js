// The live figure: a trained model answers in the page. i2vlib.show.live joins this file, live_offsets.js and live_weights.js to one
// ES module with the interface of anywidget, render({model, el}); on the site a plain object with get() stands for the model.
// Of it are read: about, graph and pixels (deflated), runtime_js, runtime_glue (text) and runtime_wasm (deflated).

async function inflate(packed) {
  const bytes = packed instanceof DataView ? new Uint8Array(packed.buffer, packed.byteOffset, packed.byteLength) : packed;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const script = (text) => URL.createObjectURL(new Blob([text], {type: "text/javascript"}));

// onnxruntime-web, started once a page out of what the model brings: nothing is fetched.
function runtime(model) {
  return globalThis.i2vRuntime ??= (async () => {
    const ort = await import(script(model.get("runtime_js")));
    ort.env.wasm.numThreads = 1;  // threads need headers that a plain server does not send
    const program = new Blob([await inflate(model.get("runtime_wasm"))], {type: "application/wasm"});
    ort.env.wasm.wasmPaths = {mjs: script(model.get("runtime_glue")), wasm: URL.createObjectURL(program)};
    return ort;
  })();
}

// The figures of a page share one runtime, which does one thing at a time.
function inTurn(work) {
  const turn = Promise.resolve(globalThis.i2vTurn).catch(() => null).then(work);
  globalThis.i2vTurn = turn;
  return turn;
}

function element(parent, tag, name = "", words = "", given = {}) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (words) made.textContent = words;
  for (const [key, value] of Object.entries(given)) made.setAttribute(key, value);
  parent.appendChild(made);
  return made;
}

function button(parent, words, act, given = {}) {
  const made = element(parent, "button", "", words, {type: "button", ...given});
  made.addEventListener("click", act);
  return made;
}

function picture(parent, size, label, name = "") {
  const made = element(parent, "canvas", name, "", label ? {role: "img", "aria-label": label} : {"aria-hidden": "true"});
  made.width = made.height = size;
  return made;
}

// rgb: the bytes of one frame
function paint(canvas, rgb) {
  const image = new ImageData(canvas.width, canvas.height);
  for (let i = 0, at = 0; at < rgb.length; i += 4, at += 3) {
    image.data[i] = rgb[at];
    image.data[i + 1] = rgb[at + 1];
    image.data[i + 2] = rgb[at + 2];
    image.data[i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function softmax(logits) {
  const most = Math.max(...logits), shares = logits.map((v) => Math.exp(v - most)), sum = shares.reduce((a, b) => a + b, 0);
  return shares.map((v) => v / sum);
}

const bestOf = (values) => values.indexOf(Math.max(...values));
const signed = (offset) => offset > 0 ? `+${offset}` : offset < 0 ? `−${-offset}` : "0";

// One answer at a time; whatever was asked for meanwhile, the last state gets the last answer.
function latest(work) {
  let busy = false, again = false;
  return async () => {
    again = true;
    if (busy) return;
    busy = true;
    try {
      while (again) {
        again = false;
        await work();
        await new Promise((go) => setTimeout(go));  // the page is drawn and hears its reader in between
      }
    } finally {
      busy = false;
    }
  };
}

// Rows of class names and bars. Returns draw(shares of one answer or several), each answer a bar of its own.
function barRows(parent, classes, kinds) {
  const table = element(parent, "div", "i2v-bars", "", {role: "img"});
  const rows = classes.map(() => {
    const row = element(table, "div", "i2v-row"), name = element(row, "span", "i2v-name"), track = element(row, "span", "i2v-track");
    return {name, bars: kinds.map((kind) => element(track, "i", kind)), numbers: kinds.map((kind) => element(row, "b", kind))};
  });
  return (names, answers) => {
    rows.forEach((row, i) => {
      row.name.textContent = names[i];
      answers.forEach((shares, k) => {
        row.bars[k].style.width = `${100 * shares[i]}%`;
        row.numbers[k].textContent = shares[i].toFixed(2);
      });
    });
    table.setAttribute("aria-label", names.map((name, i) => `${name}: ${answers.map((a) => a[i].toFixed(2)).join(", ")}`).join("; "));
  };
}

// ---- a reader's own video ----

function once(target, event) {
  return new Promise((done, fail) => {
    target.addEventListener(event, done, {once: true});
    target.addEventListener("error", () => fail(new Error("this browser cannot read the file as a video")), {once: true});
    setTimeout(() => fail(new Error("the video did not answer within 20 seconds")), 20000);
  });
}

// One frame from the centre of each of T equal parts (i2vlib.data.sampling.uniform_indices), short side to `size`, centre crop.
async function framesOfVideo(file, T, size) {
  const video = document.createElement("video"), address = URL.createObjectURL(file);
  Object.assign(video, {muted: true, playsInline: true, preload: "auto", src: address});
  try {
    await once(video, "loadeddata");
    if (video.duration === Infinity) {  // a recording that does not say how long it is says so once it was sought through
      video.currentTime = 1e9;
      await once(video, "seeked");
    }
    const [W, H] = [video.videoWidth, video.videoHeight], canvas = document.createElement("canvas");
    if (!(W && H && video.duration > 0)) throw new Error("there is no picture in it");
    [canvas.width, canvas.height] = [W, H];
    const pen = canvas.getContext("2d", {willReadFrequently: true}), frames = [];
    for (let t = 0; t < T; t++) {
      const sought = once(video, "seeked");
      video.currentTime = Math.min(video.duration * (2 * t + 1) / (2 * T) + 1e-4, video.duration);  // a frame begins at its time
      await sought;
      pen.drawImage(video, 0, 0, W, H);
      frames.push(smallSquare(pen.getImageData(0, 0, W, H).data, W, H, size));
    }
    return frames;
  } finally {
    URL.revokeObjectURL(address);
  }
}

// RGBA of W x H -> the bytes of the middle square, as torchvision does it: an antialiased bilinear filter, one side, then the other.
function smallSquare(rgba, W, H, size) {
  const [w, h] = W <= H ? [size, Math.floor(size * H / W)] : [Math.floor(size * W / H), size];
  const taps = (from, to) => {
    const scale = from / to, reach = Math.max(scale, 1), start = evenRound((to - size) / 2);
    return Array.from({length: size}, (_, i) => {
      const centre = (start + i + 0.5) * scale, first = Math.max(0, Math.floor(centre - reach + 0.5));
      const last = Math.min(from, Math.floor(centre + reach + 0.5)), weights = [];
      for (let j = first; j < last; j++) weights.push(Math.max(0, 1 - Math.abs((j + 0.5 - centre) / reach)));
      const sum = weights.reduce((a, b) => a + b, 0);
      return [first, weights.map((v) => v / sum)];
    });
  };
  const across = taps(W, w), down = taps(H, h), narrow = new Uint8ClampedArray(H * size * 3), made = new Uint8ClampedArray(size * size * 3);
  for (let y = 0; y < H; y++) across.forEach(([first, weights], x) => {
    for (let c = 0; c < 3; c++) narrow[3 * (y * size + x) + c] = weights.reduce((s, v, j) => s + v * rgba[4 * (y * W + first + j) + c], 0);
  });
  down.forEach(([first, weights], y) => {
    for (let i = 0; i < 3 * size; i++) made[3 * y * size + i] = weights.reduce((s, v, j) => s + v * narrow[3 * (first + j) * size + i], 0);
  });
  return made;
}

function evenRound(value) {  // as Python does
  const low = Math.floor(value);
  return value - low === 0.5 ? low + low % 2 : Math.round(value);
}

// ---- the figure ----

async function render({model, el}) {
  const about = model.get("about"), root = element(el, "div", "i2v-live");
  const said = element(root, "p", "i2v-said", "The model is on its way …", {role: "status"});
  try {
    const [ort, graph, pixels] = await Promise.all([runtime(model), inflate(model.get("graph")), inflate(model.get("pixels"))]);
    const made = await inTurn(() => ort.InferenceSession.create(graph, {executionProviders: ["wasm"]}));
    const session = {run: (given) => inTurn(() => made.run(given))};
    said.remove();
    const stop = await (about.kind === "offsets" ? offsetsFigure : weightsFigure)({ort, session, pixels, about, root});
    root.dataset.ready = "yes";
    return stop;
  } catch (error) {
    said.textContent = `The model could not be started in this browser (${error.message || error}).`;
    root.dataset.ready = "no";
    throw error;
  }
}

export default {render};

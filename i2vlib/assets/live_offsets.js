// Relocated heads, live: a clip, its frames in any order, an offset a head, and the scores both ways.
const FIELD = 3;  // offsets from -3 to 3

async function offsetsFigure({ort, session, pixels, about, root}) {
  const {frames: T, size, heads, classes} = about, bytes = size * size * 3, natural = Array.from({length: T}, (_, t) => t);
  const clips = about.labels.map((_, n) => natural.map((t) => pixels.subarray((n * T + t) * bytes, (n * T + t + 1) * bytes)));
  const state = {clip: 0, frames: clips[0], order: [...natural], offsets: [...about.offsets], embedding: true, own: ""};  // own: the name of a reader's video

  // ---- what it consists of ----
  const choice = element(root, "div", "i2v-clips", "", {role: "group", "aria-label": "Clips"});
  const thumbs = clips.map((frames, n) => {
    const made = button(choice, "", () => take(frames, n), {"aria-label": `Clip ${n + 1}: ${classes[about.labels[n]]}`});
    paint(picture(made, size), frames[0]);
    return made;
  });
  const own = element(choice, "label", "i2v-own");
  element(own, "span", "", "a video of your own");
  const chooser = element(own, "input", "", "", {type: "file", accept: "video/*", "aria-label": "A video file of your own"});

  const stage = element(root, "div", "i2v-stage"), left = element(stage, "div"), right = element(stage, "div");
  const film = element(left, "div", "i2v-film", "", {role: "group", "aria-label": "Frames in the order that the model gets them"});
  const slots = natural.map((t) => slot(t));
  const acts = element(left, "div", "i2v-acts");
  const back = button(acts, "Play backwards", () => { state.order.reverse(); changed(); });
  const reset = button(acts, "Order as filmed", () => { state.order = [...natural]; changed(); });
  const pause = button(acts, "Pause", () => play(!playing), {"aria-pressed": "false"});
  const legend = element(right, "p", "i2v-legend");
  element(legend, "span", "i2v-forth", "in this order");
  element(legend, "span", "i2v-back", "the same frames backwards");
  const bars = barRows(right, classes, ["i2v-forth", "i2v-back"]);

  const panel = element(root, "fieldset", "i2v-heads");
  element(panel, "legend", "", "Which frame does each attention head read? Its own is 0, the next +1, the one before −1.");
  const knobs = state.offsets.map((_, h) => knob(h));
  const presets = element(panel, "div", "i2v-acts");
  button(presets, "As trained", () => set(about.offsets, true));
  button(presets, "All 0", () => set(state.offsets.map(() => 0), state.embedding));
  const label = element(presets, "label", "i2v-check"), check = element(label, "input", "", "", {type: "checkbox"});
  element(label, "span", "", "temporal embedding, which tells the frames' places");
  check.addEventListener("change", () => { state.embedding = check.checked; changed(); });
  const said = element(root, "p", "i2v-said", "", {role: "status"});
  const speed = element(root, "p", "i2v-small");

  function slot(place) {
    const box = element(film, "figure"), canvas = picture(box, size, `Place ${place + 1}`), under = element(box, "figcaption");
    const move = (by, words, name) => button(under, words, () => swap(place, place + by), {"aria-label": `Move the frame at place ${place + 1} ${name}`});
    const earlier = move(-1, "◂", "to the left"), time = element(under, "span"), later = move(1, "▸", "to the right");
    earlier.disabled = place === 0;
    later.disabled = place === T - 1;
    canvas.addEventListener("pointerdown", (event) => drag(event, place, box));
    return {box, canvas, time};
  }

  function knob(h) {
    const box = element(panel, "label", "i2v-knob"), name = element(box, "span", "", `head ${h}`), shown = element(name, "output");
    const input = element(box, "input", "", "", {type: "range", min: -FIELD, max: FIELD, step: 1, "aria-label": `Offset of head ${h}, in frames`});
    input.addEventListener("input", () => { state.offsets[h] = Number(input.value); changed(); });
    return {input, shown, box};
  }

  // ---- what a reader does ----
  function take(frames, n, own = "") {
    Object.assign(state, {frames, clip: n, order: [...natural], own});
    changed();
  }

  function set(offsets, embedding) {
    Object.assign(state, {offsets: [...offsets], embedding});
    changed();
  }

  function swap(a, b) {
    if (b < 0 || b >= T) return;
    [state.order[a], state.order[b]] = [state.order[b], state.order[a]];
    changed();
  }

  // A frame follows the pointer sideways, and changes places with each one that it is drawn over.
  function drag(event, place, box) {
    const canvas = event.currentTarget, step = box.getBoundingClientRect().width, from = event.clientX;
    let at = place;
    canvas.setPointerCapture(event.pointerId);
    const move = (e) => {
      const to = Math.max(0, Math.min(T - 1, place + Math.round((e.clientX - from) / step)));
      while (to !== at) {
        const next = at + Math.sign(to - at);
        swap(at, next);
        at = next;
      }
    };
    canvas.addEventListener("pointermove", move);
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => canvas.removeEventListener("pointermove", move), {once: true});
    event.preventDefault();
  }

  async function open(file) {
    if (!file) return;
    said.textContent = `${file.name} is being read …`;
    try {
      take(await framesOfVideo(file, T, size), -1, file.name);
    } catch (error) {
      said.textContent = `${file.name} cannot be used: ${error.message}.`;
    }
  }
  chooser.addEventListener("change", () => { open(chooser.files[0]); chooser.value = ""; });
  root.addEventListener("dragover", (event) => { event.preventDefault(); root.classList.add("i2v-over"); });
  root.addEventListener("dragleave", () => root.classList.remove("i2v-over"));
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    root.classList.remove("i2v-over");
    open(event.dataTransfer.files[0]);
  });

  // ---- what it shows ----
  let playing = true, now = 0;
  function play(on) {
    playing = on;
    pause.textContent = on ? "Pause" : "Play";
    pause.setAttribute("aria-pressed", String(!on));
  }
  const timer = setInterval(() => {
    if (!root.isConnected) clearInterval(timer);
    if (!playing) return;
    now = (now + 1) % (T + 1);  // the last frame stands twice as long
    slots.forEach(({box}, t) => box.classList.toggle("i2v-now", t === Math.min(now, T - 1)));
    screen();
  }, 350);
  const screenCanvas = picture(element(choice, "span", "i2v-screen"), size, "The clip, playing");
  choice.prepend(screenCanvas.parentNode);
  const screen = () => paint(screenCanvas, state.frames[state.order[Math.min(now, T - 1)]]);

  function draw() {
    slots.forEach(({canvas, time}, place) => {
      paint(canvas, state.frames[state.order[place]]);
      time.textContent = `t = ${state.order[place]}`;
      canvas.setAttribute("aria-label", `Place ${place + 1}: the frame filmed at t = ${state.order[place]}`);
    });
    thumbs.forEach((made, n) => made.setAttribute("aria-pressed", String(n === state.clip)));
    own.classList.toggle("i2v-chosen", Boolean(state.own));
    knobs.forEach(({input, shown, box}, h) => {
      input.value = state.offsets[h];
      shown.textContent = signed(state.offsets[h]);
      box.classList.toggle("i2v-moved", state.offsets[h] !== 0);
    });
    check.checked = state.embedding;
    reset.disabled = String(state.order) === String(natural);
    screen();
  }

  const run = (given) => session.run({
    frames: new ort.Tensor("uint8", given, [2, T, size, size, 3]),
    offsets: new ort.Tensor("int64", BigInt64Array.from(state.offsets, BigInt), [heads]),
    embedding: new ort.Tensor("float32", [Number(state.embedding)], []),
  });

  const ask = latest(async () => {
    const {frames, order, offsets, embedding, own} = state, given = new Uint8Array(2 * T * bytes), start = performance.now();
    order.forEach((f, t) => [t, 2 * T - 1 - t].forEach((place) => given.set(frames[f], place * bytes)));  // the clip, and backwards
    const {logits} = await run(given);
    const all = Array.from(logits.data), both = [all.slice(0, classes.length), all.slice(classes.length)], shares = both.map(softmax);
    bars(classes, shares);
    said.textContent = sentence(both, shares);
    const ms = performance.now() - start;
    speed.textContent = `This answer took ${ms.toFixed(0)} ms, in your browser: ${about.size_said}. Nothing is sent anywhere.`;
    root.answer = {logits: both, ms, order: [...order], offsets: [...offsets], embedding, own, frames: given};
    root.dispatchEvent(new Event("i2v-answer"));
  });

  function sentence([forth, back], shares) {
    const names = shares.map((s) => classes[bestOf(s)]), sure = shares.map((s) => Math.max(...s).toFixed(2));
    const blind = Math.max(...forth.map((v, i) => Math.abs(v - back[i]))) < 1e-4;
    const what = state.own ? "It knows six motions of drawn things and answers with one of them, whatever your video shows. " :
      String(state.order) === String(natural) ? `The clip's class: ${classes[about.labels[state.clip]]}. ` : "";
    if (blind) return `${what}Both ways the same scores: nothing tells this model which frame came first, so it cannot know which way time runs.`;
    return `${what}The model says “${names[0]}” (${sure[0]}); backwards it says “${names[1]}” (${sure[1]}).`;
  }

  function changed() {
    draw();
    return ask();
  }

  if (matchMedia("(prefers-reduced-motion: reduce)").matches) play(false);
  await run(new Uint8Array(2 * T * bytes));  // the first run prepares the ones that a reader waits for
  back.title = "The frames in the opposite order: the clip's twin";
  await changed();
  return () => clearInterval(timer);
}

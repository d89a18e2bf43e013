// InTI, live: how much of each place of each frame is kept in the last one, and what it does with junk that a reader puts there.
const SHOWN = 5;  // classes

async function weightsFigure({ort, session, pixels, about, root}) {
  const {frames: T, size, grid, classes} = about, patch = size / grid, bytes = size * size * 3, places = grid * grid;
  const whole = (n) => Array.from({length: T}, (_, t) => pixels.slice((n * T + t) * bytes, (n * T + t + 1) * bytes));
  const clean = pixels.subarray(about.labels.length * T * bytes), pool = clean.subarray(about.labels.length * T * bytes);
  const colours = Uint8Array.from(atob(about.colours), (c) => c.charCodeAt(0));
  const state = {clip: 0, frames: whole(0), junk: about.junk[0].map((f) => [...f]), t: 0, place: 0, pasted: 0};

  const choice = element(root, "div", "i2v-clips", "", {role: "group", "aria-label": "Clips with junk"});
  const thumbs = about.labels.map((label, n) => {
    const made = button(choice, "", () => take(n), {"aria-label": `Clip ${n + 1}: ${classes[label]}`});
    paint(picture(made, size), whole(n)[0]);
    return made;
  });
  const stage = element(root, "div", "i2v-stage"), left = element(stage, "div"), right = element(stage, "div");
  const film = element(left, "div", "i2v-film i2v-pairs", "", {role: "group", "aria-label": "Frames, and their weights below"});
  const slots = Array.from({length: T}, (_, t) => {
    const box = element(film, "figure"), seen = element(box, "div", "i2v-board", "", {tabindex: 0, role: "application", "aria-label":
      `Frame ${t}: arrow keys choose a place, Enter puts junk there or takes it away`});
    const canvas = picture(seen, size, ""), mark = element(seen, "i", "i2v-mark"), map = picture(box, grid, `Weights of frame ${t}`, "i2v-map");
    element(box, "figcaption", "", `t = ${t}`);
    seen.addEventListener("click", (event) => {
      const inside = seen.getBoundingClientRect(), cell = (v, side) => Math.max(0, Math.min(grid - 1, Math.floor(v / side * grid)));
      Object.assign(state, {t, place: cell(event.clientY - inside.top, inside.height) * grid + cell(event.clientX - inside.left, inside.width)});
      toggle();
    });
    seen.addEventListener("focus", () => { state.t = t; draw(); });
    seen.addEventListener("keydown", (event) => key(event));
    return {seen, canvas, mark, map};
  });
  const acts = element(left, "div", "i2v-acts");
  button(acts, "Take all junk away", () => fill(() => false));
  button(acts, "Junk everywhere in frame 1", () => fill((t) => t === 1));
  button(acts, "As it was", () => take(state.clip));
  element(right, "p", "i2v-legend", "scores of the five likeliest of 32 drawn things");
  const bars = barRows(right, Array(SHOWN).fill(""), ["i2v-forth"]);
  const said = element(root, "p", "i2v-said", "", {role: "status"});

  function take(n) {
    Object.assign(state, {clip: n, frames: whole(n), junk: about.junk[n].map((f) => [...f])});
    changed();
  }

  function key(event) {
    const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (event.ctrlKey || event.altKey || event.metaKey || !(step || event.key === "Enter" || event.key === " ")) return;
    event.preventDefault();
    event.stopPropagation();
    if (!step) return toggle();
    const row = Math.floor(state.place / grid) + step[0], column = state.place % grid + step[1];
    if (row >= 0 && row < grid && column >= 0 && column < grid) state.place = row * grid + column;
    draw();
  }

  // A patch of junk out of the pool, or the clean picture's.
  function put(t, place, junk) {
    const from = junk ? pool.subarray((state.pasted++ % about.pool) * patch * patch * 3) : clean.subarray((state.clip * T + t) * bytes);
    for (let y = 0; y < patch; y++) {
      const at = 3 * ((Math.floor(place / grid) * patch + y) * size + place % grid * patch), own = junk ? 3 * y * patch : at;
      state.frames[t].set(from.subarray(own, own + 3 * patch), at);
    }
    state.junk[t][place] = Number(junk);
  }

  function toggle() {
    put(state.t, state.place, !state.junk[state.t][state.place]);
    changed();
  }

  function fill(wanted) {
    for (let t = 0; t < T; t++) for (let i = 0; i < places; i++) if (Boolean(state.junk[t][i]) !== wanted(t)) put(t, i, wanted(t));
    changed();
  }

  function draw() {
    slots.forEach(({canvas, mark}, t) => {
      paint(canvas, state.frames[t]);
      mark.hidden = t !== state.t;
      mark.style.left = `${100 * (state.place % grid) / grid}%`;
      mark.style.top = `${100 * Math.floor(state.place / grid) / grid}%`;
    });
    thumbs.forEach((made, n) => made.setAttribute("aria-pressed", String(n === state.clip)));
  }

  // The colours of the course: white where it is the mean's weight.
  function shade(weight) {
    const middle = 1 / T, share = weight < middle ? 0.5 * weight / middle : 0.5 + 0.5 * (weight - middle) / (1 - middle);
    return colours.subarray(3 * Math.min(255, Math.floor(share * 256)));
  }

  const ask = latest(async () => {
    const given = new Uint8Array(T * bytes);
    state.frames.forEach((f, t) => given.set(f, t * bytes));
    const {logits, weights} = await session.run({frames: new ort.Tensor("uint8", given, [1, T, size, size, 3])});
    const shares = softmax(Array.from(logits.data)), order = shares.map((_, i) => i).sort((a, b) => shares[b] - shares[a]).slice(0, SHOWN);
    bars(order.map((i) => classes[i]), [order.map((i) => shares[i])]);
    const sums = [0, 0], counts = [0, 0];
    slots.forEach(({map}, t) => {
      const own = weights.data.subarray(t * (places + 1) + 1, (t + 1) * (places + 1)), rgb = new Uint8Array(places * 3);
      own.forEach((w, i) => {
        rgb.set(shade(w).subarray(0, 3), 3 * i);
        sums[state.junk[t][i]] += w;
        counts[state.junk[t][i]]++;
      });
      paint(map, rgb);
    });
    const mean = (k) => counts[k] ? (sums[k] / counts[k]).toFixed(3) : "–";
    const here = weights.data[state.t * (places + 1) + 1 + state.place].toFixed(3);
    said.textContent = `The clip shows a ${classes[about.labels[state.clip]]}, and the model says “${classes[order[0]]}” (${shares[order[0]].toFixed(2)}). ` +
      `A place weighs ${mean(1)} where it is junk and ${mean(0)} where it is not, on average; the marked place in frame ${state.t} weighs ${here}.`;
    root.answer = {logits: Array.from(logits.data), weights: Array.from(weights.data), frames: given};
    root.dispatchEvent(new Event("i2v-answer"));
  });

  function changed() {
    draw();
    return ask();
  }
  await changed();
}

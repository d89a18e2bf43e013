async function start(root) {
  const {frames, grid, heads, layers, times, offsets} = DATA, N = grid * grid + 1;
  const bytes = await inflate(DATA.data), rows = times.map((T) => T * heads * N);
  const largest = [], packed = [];
  let at = 0;
  for (const n of rows) { largest.push(new Float32Array(bytes, at, n)); at += 4 * n; }
  for (const n of rows) { packed.push(new Uint8Array(bytes, at, n * N)); at += n * N; }
  const pixels = await readFrames(), films = {};
  for (const T of new Set(times)) {  // behind a site a frame is drawn as the average of those fused
    const group = frames / T;
    films[T] = Array.from({length: T}, (_, t) => {
      const own = mix(pixels.slice(t * group, (t + 1) * group), () => 1 / group);
      return [still(own), still(pale(own))];
    });
  }
  const reads = (l, h, t) => { const s = t + offsets[l][h]; return s >= 0 && s < times[l] ? s : t; };
  const row = (l, h, t, token) => {
    const i = (t * heads + h) * N + token, scale = largest[l][i] / 255, q = packed[l].subarray(i * N, (i + 1) * N);
    return Float32Array.from(q, (b) => b * scale);
  };

  const side = Math.max(40, Math.min(132, Math.floor(840 / frames) - 10)), step = side + 10, width = Math.max(860, frames * step + 8);
  const far = Math.max(0, layers.findIndex((_, l) => offsets[l].some((o) => o)));
  const now = {l: far, h: Math.max(0, offsets[far].findIndex((o) => o)), t: Math.floor(frames / 2), token: 1 + (grid * grid + grid) / 2 | 0, kept: false};
  const bar = element(root, "div", "display:flex;gap:10px;align-items:center;margin:4px 0");
  const button = element(bar, "button", "", "class token as the query");
  const note = element(bar, "span", "color:#555", "Hover over a patch of the upper row; click to keep it. Hover over a head below to see it. Arrow keys move the patch.");
  const [top, pen] = board(root, width, 2 * side + 68, "frames of the clip; below, the frame that the head reads with its attention");
  const thumb = Math.max(14, Math.min(40, Math.floor((width - 70) / heads) - 6)), gap = thumb + 6;
  const [all, small] = board(root, width, 46 + layers.length * gap, "attention of the query in all layers and heads");
  const said = element(root, "div", "margin-top:4px;font-family:monospace;min-height:2.6em");
  said.className = "i2v-said";

  function heatOn(context, values, x, y, size) {
    const most = values.subarray(1).reduce((a, b) => Math.max(a, b), 1e-12), cell = size / grid;
    for (let i = 0; i < grid * grid; i++) {
      context.fillStyle = `rgba(213,94,0,${(0.85 * values[i + 1] / most).toFixed(3)})`;
      context.fillRect(x + (i % grid) * cell, y + Math.floor(i / grid) * cell, cell, cell);
    }
    return most;
  }

  function draw() {
    const {l, h, token} = now, T = times[l], t = Math.floor(now.t * T / frames), s = reads(l, h, t), low = side + 46;
    const values = row(l, h, t, token), x = (i) => 4 + i * step;
    pen.fillStyle = "white";
    pen.fillRect(0, 0, width, 2 * side + 68);
    write(pen, `the query: ${token ? `patch ${placeName(token - 1)}` : "the class token"} of frame ${t}`, 4, 8, "left", QUERY);
    for (let i = 0; i < T; i++) {
      pen.drawImage(films[T][i][0], x(i), 18, side, side);
      pen.drawImage(films[T][i][1], x(i), low, side, side);
      write(pen, `t = ${i}`, x(i) + side / 2, low + side + 12, "center");
    }
    frameBox(pen, x(t), 18, side, QUERY);
    if (token) markPlace(pen, x(t), 18, side, token - 1, QUERY);
    const most = heatOn(pen, values, x(s), low, side);
    frameBox(pen, x(s), low, side, HEAT);
    pen.strokeStyle = HEAT;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.moveTo(x(t) + side / 2, side + 22);
    pen.lineTo(x(s) + side / 2, low - 4);
    pen.stroke();
    write(pen, `under it what layer ${layers[l]}, head ${h} (δ = ${signed(offsets[l][h])}) looks at: frame ${s}; strongest colour: ${most.toFixed(3)}`,
          270, 8, "left", HEAT);

    small.fillStyle = "white";
    small.fillRect(0, 0, width, 46 + layers.length * gap);
    write(small, "the same query in every head, each on its own scale; under the number of a head its δ", 4, 8);
    for (let j = 0; j < heads; j++) {
      write(small, `${j}`, 66 + j * gap + thumb / 2, 24, "center", INK, 10);
      write(small, signed(offsets[l][j]), 66 + j * gap + thumb / 2, 36, "center", offsets[l][j] ? HEAT : "#888", 10);
    }
    layers.forEach((number, k) => {
      write(small, `layer ${number}`, 58, 46 + k * gap + thumb / 2, "right", INK, 11);
      for (let j = 0; j < heads; j++) {
        const px = 66 + j * gap, py = 44 + k * gap;
        small.fillStyle = "#eee";
        small.fillRect(px, py, thumb, thumb);
        heatOn(small, row(k, j, Math.floor(now.t * times[k] / frames), token), px, py, thumb);
        if (k === l && j === h) frameBox(small, px, py, thumb, HEAT);
      }
    });
    const patches = values.subarray(1), best = patches.indexOf(patches.reduce((a, b) => Math.max(a, b)));
    said.textContent = `layer ${layers[l]}, head ${h}, δ = ${signed(offsets[l][h])}: ${token ? `patch ${placeName(token - 1)}` : "the class token"} of frame ${t}` +
      ` looks at frame ${s}, most at ${placeName(best)}: ${patches[best].toFixed(4)} ± ${(Math.max(...values) / 510).toFixed(4)}; on the class token: ${values[0].toFixed(4)}` +
      (now.kept ? " · kept, click again to let go" : "");
    button.setAttribute("aria-pressed", token === 0);
  }

  function hover(event, click) {
    const [px, py] = pointer(top, event), T = times[now.l], i = Math.floor((px - 4) / step);
    const u = (px - 4 - i * step) / side, v = (py - 18) / side;
    if (i < 0 || i >= T || u < 0 || u >= 1 || v < 0 || v >= 1) return;
    if (click) now.kept = !now.kept;
    if (now.kept && !click) return;
    now.t = i * frames / T;
    now.token = 1 + Math.floor(v * grid) * grid + Math.floor(u * grid);
    draw();
  }

  top.addEventListener("pointermove", (event) => hover(event, false));
  top.addEventListener("pointerdown", (event) => hover(event, true));
  top.addEventListener("keydown", (event) => {
    const move = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    const place = Math.max(0, now.token - 1), limit = (v) => Math.max(0, Math.min(grid - 1, v));
    now.token = 1 + limit(Math.floor(place / grid) + move[0]) * grid + limit(place % grid + move[1]);
    draw();
  });
  const head = (event) => {
    const [px, py] = pointer(all, event), j = Math.floor((px - 66) / gap), k = Math.floor((py - 44) / gap);
    if (j < 0 || j >= heads || k < 0 || k >= layers.length || (now.l === k && now.h === j)) return;
    [now.l, now.h] = [k, j];
    draw();
  };
  all.addEventListener("pointermove", head);
  all.addEventListener("pointerdown", head);
  button.addEventListener("click", () => { now.token = 0; now.kept = true; draw(); });
  draw();
}

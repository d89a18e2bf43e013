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

  const room = roomIn(root), gutter = 66, row0 = 54;  // beside the rows of heads and above them: their names
  const filmWide = (side) => frames * (side + 10) + 8, headsWide = (thumb) => gutter + heads * (thumb + 8);
  const beside = filmWide(132) + 16 + headsWide(64) <= room;
  const side = Math.max(64, Math.min(beside ? 132 : 148, Math.floor((room - 8) / frames) - 10)), step = side + 10;
  const thumb = Math.max(40, Math.min(beside ? 64 : 72, Math.floor((room - gutter) / heads) - 8));
  const gap = thumb + 8, pitch = thumb + 24;
  const wide = filmWide(side), high = 2 * side + 102, low = side + 46, headsHigh = row0 + layers.length * pitch;
  const width = Math.max(420, headsWide(thumb));

  const [l0, h0, t0, token0] = DATA.open, kept = {l: l0, h: h0, t: t0, token: token0};
  const strongest = (values) => values.reduce((most, v, i) => i && v > values[most] ? i : most, 1);  // of the patches
  const largestOf = (values) => Math.max(1e-12, values[strongest(values)]);
  const state = (what) => {  // time: of the input frames; t: of the T frames that this layer has; s: the one that is read
    const {l, h, t: time, token} = {...kept, ...what}, T = times[l], t = Math.floor(time * T / frames);
    return {l, h, token, time, T, t, s: reads(l, h, t)};
  };
  let over = {};  // what the pointer is on
  let patch = token0 || strongest(row(l0, h0, state({}).t, 0));  // what the button goes back to

  element(root, "div", "color:#555;margin:4px 0", "Pointing at a patch or a head shows it, a click keeps it. " +
    "Keys: Tab to the frames or the heads, arrows move the patch or the head, Shift with ← or → the frame.");
  const bar = element(root, "div", "display:flex;flex-wrap:wrap;gap:4px 16px;align-items:center;margin:4px 0");
  const button = element(bar, "button", "", "class token as the query");
  const label = element(bar, "label", ""), own = element(label, "input", "");
  own.type = "checkbox";
  element(label, "span", "", " each head on its own scale");
  const boards = shelf(root);
  const [top, pen] = board(boards, wide, high, "Frames. Arrow keys move the query's patch, Shift with left or right its frame.");
  const [all, small] = board(boards, width, headsHigh, "Heads. Arrow keys choose one, Shift with left or right a frame.");
  const read = spoken(root, "i2v-read", 1), said = spoken(root, "i2v-said", 2);

  function heatOn(context, values, most, x, y, size) {
    const cell = size / grid;
    for (let i = 0; i < grid * grid; i++) {
      context.fillStyle = `rgba(213,94,0,${(0.85 * values[i + 1] / most).toFixed(3)})`;
      context.fillRect(x + (i % grid) * cell, y + Math.floor(i / grid) * cell, cell, cell);
    }
  }

  function drawFrames({l, h, t, s, T, token}, name, values) {
    const x = (i) => 4 + i * step, most = largestOf(values);
    pen.fillStyle = "white";
    pen.fillRect(0, 0, wide, high);
    write(pen, `the query: ${name}`, 4, 8, "left", QUERY);
    for (let i = 0; i < T; i++) {
      pen.drawImage(films[T][i][0], x(i), 18, side, side);
      pen.drawImage(films[T][i][1], x(i), low, side, side);
      write(pen, `t = ${i}`, x(i) + side / 2, low + side + 12, "center");
    }
    frameBox(pen, x(t), 18, side, QUERY);
    if (token) markPlace(pen, x(t), 18, side, token - 1, QUERY);
    heatOn(pen, values, most, x(s), low, side);
    frameBox(pen, x(s), low, side, HEAT);
    if (over.read) markPlace(pen, x(s), low, side, over.read - 1, HEAT_INK);
    pen.strokeStyle = HEAT;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.moveTo(x(t) + side / 2, side + 22);
    pen.lineTo(x(s) + side / 2, low - 4);
    pen.stroke();
    const under = (words, y) => write(pen, words, 4, low + side + y, "left", HEAT_INK);
    under(`block ${layers[l] + 1}, head ${h} (δ = ${signed(offsets[l][h])}) looks at frame ${s}`, 30);
    under(`strongest colour: ${most.toFixed(4)}`, 46);
  }

  function drawHeads({l, h, time, token}) {
    const values = times.map((T, k) => Array.from({length: heads}, (_, j) => row(k, j, Math.floor(time * T / frames), token)));
    const most = values.map((rows) => rows.map(largestOf)), whole = Math.max(...most.flat());
    small.fillStyle = "white";
    small.fillRect(0, 0, width, headsHigh);
    write(small, `every head, ${own.checked ? "each on its own scale" : "all on one scale"}; under it its largest weight`, 4, 8);
    write(small, "head", 58, 26, "right");
    write(small, "δ", 58, 42, "right");
    for (let j = 0; j < heads; j++) {
      write(small, `${j}`, gutter + j * gap + thumb / 2, 26, "center");
      write(small, signed(offsets[l][j]), gutter + j * gap + thumb / 2, 42, "center", offsets[l][j] ? HEAT_INK : "#595959");
    }
    layers.forEach((number, k) => {
      write(small, `block ${number + 1}`, 58, row0 + k * pitch + thumb / 2, "right");
      for (let j = 0; j < heads; j++) {
        const x = gutter + j * gap, y = row0 + k * pitch;
        small.fillStyle = "#eee";
        small.fillRect(x, y, thumb, thumb);
        heatOn(small, values[k][j], own.checked ? most[k][j] : whole, x, y, thumb);
        write(small, most[k][j].toFixed(3), x + thumb / 2, y + thumb + 11, "center");
        if (k === l && j === h) frameBox(small, x, y, thumb, HEAT);
      }
    });
  }

  function draw() {
    const now = state(over), {l, h, t, s, token} = now, values = row(l, h, t, token), best = strongest(values);
    const number = (v) => v.toFixed(4), error = number(Math.max(...values) / 510);
    const name = `${token ? `patch ${placeName(token - 1)}` : "the class token"} of frame ${t}`;
    drawFrames(now, name, values);
    drawHeads(now);
    said.textContent = `block ${layers[l] + 1}, head ${h}, δ = ${signed(offsets[l][h])}: ${name} looks at frame ${s}, ` +
      `most at ${placeName(best - 1)}: ${number(values[best])} ± ${error}; on the class token: ${number(values[0])}`;
    read.textContent = over.read ? `on patch ${placeName(over.read - 1)} of frame ${s}: ${number(values[over.read])} ± ${error}`
      : "Point at the orange picture to read the weight of a patch.";
    button.setAttribute("aria-pressed", kept.token === 0);
    button.style.cssText = kept.token ? "" : `background:${QUERY};color:white`;
  }

  function show(what) {
    over = what || {};
    draw();
  }

  function keep(what) {
    Object.assign(kept, what);
    if (kept.token) patch = kept.token;
    show(null);
  }

  function onFrames(px, py) {
    const {T, s} = state({}), i = Math.floor((px - 4) / step), u = (px - 4 - i * step) / side;
    const inside = (v) => i >= 0 && i < T && u >= 0 && u < 1 && v >= 0 && v < 1;
    const place = (v) => 1 + Math.floor(v * grid) * grid + Math.floor(u * grid);
    const upper = (py - 18) / side, lower = (py - low) / side;
    if (inside(upper)) return {t: i * frames / T, token: place(upper)};
    return inside(lower) && i === s ? {read: place(lower)} : null;
  }

  function onHeads(px, py) {
    const h = Math.floor((px - gutter) / gap), l = Math.floor((py - row0) / pitch);
    return h >= 0 && h < heads && l >= 0 && l < layers.length ? {l, h} : null;
  }

  function turn(by) {
    const T = times[kept.l];
    keep({t: limit(Math.floor(kept.t * T / frames) + by, T) * frames / T});
  }

  onPointer(top, onFrames, show, (what) => what.read ? show(what) : keep(what));
  onPointer(all, onHeads, show, keep);
  onArrows(top, (rows, columns) => keep({token: 1 + moved((kept.token || patch) - 1, rows, columns)}), turn);
  onArrows(all, (rows, columns) => keep({l: limit(kept.l + rows, layers.length), h: limit(kept.h + columns, heads)}), turn);
  button.addEventListener("click", () => keep({token: kept.token ? 0 : patch}));
  own.addEventListener("change", draw);
  draw();
}

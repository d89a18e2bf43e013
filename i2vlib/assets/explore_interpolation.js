async function start(root) {
  const {frames, grid, sites, size} = DATA, N = grid * grid + 1, whole = new Uint16Array(await inflate(DATA.data));
  const colours = Uint8Array.from(atob(DATA.colours), (c) => c.charCodeAt(0)), pixels = await readFrames();
  let at = 0;
  const maps = sites.map((T) => Array.from({length: T}, () => Float64Array.from(whole.subarray(at, at += N), (q) => q / 65535)));
  const total = Array.from({length: frames}, (_, t) => Float64Array.from({length: N}, (_, i) =>
    maps.reduce((product, m) => product * m[Math.floor(t * m.length / frames)][i], 1)));
  const left = sites[sites.length - 1] / 2, group = frames / left, neutral = 1 / 2 ** sites.length;
  const parts = Array.from({length: left}, (_, f) => pixels.slice(f * group, (f + 1) * group));
  const fused = parts.map((p, f) => mix(p, (i, place) => total[f * group + i][place + 1]));
  const average = parts.map((p) => mix(p, () => 1 / group));
  const stills = {frames: pixels.map(still), fused: fused.map(still), average: average.map(still)};
  const now = {place: (grid * grid + grid) / 2 | 0, f: 0, kept: false};

  const side = Math.max(34, Math.min(92, Math.floor(640 / frames) - 10)), step = side + 10, first = 138;
  const wide = first + frames * step, width = Math.max(860, wide + 120), line = side + 26;
  element(root, "div", "color:#555;margin:4px 0", "Hover over a place in any picture: its weights are read off in every row. Click to keep it, arrow keys move it.");
  const names = ["frames", ...sites.map((_, i) => `weights at site ${i + 1}`), "weight in the last", "fused by them"];
  const [canvas, pen] = board(root, width, names.length * line + 8, "frames, weights at each site, weights in the last frame, fused frames");
  const [zoom, close] = board(root, width, 150, "the patch of this place in every frame with its weight, and what is fused of them");
  const said = element(root, "div", "margin-top:4px;font-family:monospace;min-height:2.6em");
  said.className = "i2v-said";

  function colour(weight, middle) {
    const share = weight < middle ? 0.5 * weight / middle : 0.5 + 0.5 * (weight - middle) / (1 - middle);
    const i = 3 * Math.max(0, Math.min(255, Math.floor(share * 256)));
    return `rgb(${colours[i]},${colours[i + 1]},${colours[i + 2]})`;
  }

  function drawMap(map, middle, x, y) {
    const cell = side / grid;
    for (let i = 0; i < grid * grid; i++) {
      pen.fillStyle = colour(map[i + 1], middle);
      pen.fillRect(x + (i % grid) * cell, y + Math.floor(i / grid) * cell, cell, cell);
    }
    frameBox(pen, x, y, side, PALE, 1);
  }

  // Every picture: where it stands, and the group of frames it belongs to.
  const spots = [], centre = (n, i) => first + ((i + 0.5) * frames / n - 0.5) * step;
  const lay = (r, n, count) => { for (let i = 0; i < count; i++) spots.push({r, i, x: centre(n, i), y: 4 + r * line, f: Math.floor(i * left / n)}); };
  lay(0, frames, frames);
  sites.forEach((T, s) => lay(s + 1, T, T));
  lay(sites.length + 1, frames, frames);
  for (let f = 0; f < left; f++) {
    const x = first + f * 2 * step;
    spots.push({r: names.length - 1, i: f, x, y: 4 + (names.length - 1) * line, f, kind: "fused"});
    spots.push({r: names.length - 1, i: f, x: x + step, y: 4 + (names.length - 1) * line, f, kind: "average"});
  }

  function magnified(bytes, place, x, y, room) {
    const patch = size / grid;
    close.drawImage(bytes, (place % grid) * patch, Math.floor(place / grid) * patch, patch, patch, x, y, room, room);
    frameBox(close, x, y, room, PALE, 1);
  }

  function draw() {
    const {place, f} = now, number = (w) => w.toFixed(3);
    pen.fillStyle = close.fillStyle = "white";
    pen.fillRect(0, 0, width, names.length * line + 8);
    close.fillRect(0, 0, width, 150);
    names.forEach((name, r) => write(pen, name, first - 12, 4 + r * line + side / 2, "right"));
    for (const {r, i, x, y, kind} of spots) {
      const under = (words, colour) => write(pen, words, x + side / 2, y + side + 12, "center", colour, 11);
      if (kind) {
        pen.drawImage(stills[kind][i], x, y, side, side);
        under(kind === "fused" ? "fused" : "plain average");
      } else if (r === 0) {
        pen.drawImage(stills.frames[i], x, y, side, side);
        under(`t = ${i}`);
      } else {
        const last = r > sites.length, map = last ? total[i] : maps[r - 1][i];
        drawMap(map, last ? neutral : 0.5, x, y);
        under(number(map[place + 1]), QUERY);
      }
      markPlace(pen, x, y, side, place, QUERY);
    }
    for (let i = 0; i < 60; i++) {  // the scale
      pen.fillStyle = colour(1 - i / 60, 0.5);
      pen.fillRect(wide + 16, 4 + line + i, 12, 1);
    }
    [["1", 0], ["the mean's", 30], ["0", 60]].forEach(([words, y]) => write(pen, words, wide + 34, 4 + line + y, "left", INK, 10));

    write(close, `place ${placeName(place)}: ${group} patches, their weights in the last frame, what is fused of them, and their plain average`, 4, 10);
    const room = Math.max(30, Math.min(64, Math.floor((width - 330) / group) - 14)), bars = 46;
    for (let i = 0; i < group; i++) {
      const t = f * group + i, x = 8 + i * (room + 14), w = total[t][place + 1];
      magnified(stills.frames[t], place, x, 26, room);
      close.fillStyle = QUERY;
      close.fillRect(x, 96, room * w, 12);
      close.strokeStyle = PALE;
      close.strokeRect(x, 96, room, 12);
      write(close, `t = ${t}: ${number(w)}`, x + room / 2, 120, "center", INK, 11);
    }
    const x = 8 + group * (room + 14) + 20;
    write(close, "→", x - 18, 26 + room / 2);
    magnified(stills.fused[f], place, x, 26, room);
    write(close, "fused", x + room / 2, 104, "center", INK, 11);
    magnified(stills.average[f], place, x + room + 24, 26, room);
    write(close, "plain average", x + room * 1.5 + 24, 104, "center", INK, 11);

    const mean = [0, 0, 0], patch = size / grid, top = Math.floor(place / grid) * patch, start = (place % grid) * patch;
    for (let y = 0; y < patch; y++) for (let px = 0; px < patch; px++) for (let c = 0; c < 3; c++)
      mean[c] += fused[f][4 * ((top + y) * size + start + px) + c] / patch ** 2;
    const pairs = sites.map((T, s) => {
      const half = T / left / 2;
      return `site ${s + 1}: ` + Array.from({length: half}, (_, p) => 2 * (f * half + p)).map((a) =>
        `${number(maps[s][a][place + 1])} and ${number(maps[s][a + 1][place + 1])}`).join(", ");
    });
    const way = Array.from({length: group}, (_, i) => total[f * group + i][place + 1]), sum = way.reduce((a, b) => a + b, 0);
    said.textContent = `place ${placeName(place)}: ${pairs.join("; ")}; in the last frame: ${way.map(number).join(" + ")} = ${number(sum)}; ` +
      `fused colour (${mean.map((v) => Math.round(v)).join(", ")})${now.kept ? " · kept, click again to let go" : ""}`;
  }

  function hover(event, click) {
    const [px, py] = pointer(canvas, event), spot = spots.find((s) => px >= s.x && px < s.x + side && py >= s.y && py < s.y + side);
    if (!spot) return;
    if (click) now.kept = !now.kept;
    if (now.kept && !click) return;
    now.f = spot.f;
    now.place = Math.floor((py - spot.y) / side * grid) * grid + Math.floor((px - spot.x) / side * grid);
    draw();
  }

  canvas.addEventListener("pointermove", (event) => hover(event, false));
  canvas.addEventListener("pointerdown", (event) => hover(event, true));
  canvas.addEventListener("keydown", (event) => {
    const move = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    const limit = (v) => Math.max(0, Math.min(grid - 1, v));
    now.place = limit(Math.floor(now.place / grid) + move[0]) * grid + limit(now.place % grid + move[1]);
    draw();
  });
  draw();
}

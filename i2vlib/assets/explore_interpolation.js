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
  const names = ["frames", ...sites.map((_, i) => `weights at site ${i + 1}`), "weight in the last", "fused by them"];
  const stills = {frames: pixels.map(still), fused: fused.map(still), average: average.map(still)};
  const kept = {f: DATA.open[0], place: DATA.open[1]};
  let over = {};  // what the pointer is on

  const room = roomIn(root), first = 138, scale = 110;
  const side = Math.max(44, Math.min(92, Math.floor((room - first - scale) / frames) - 10)), step = side + 10;
  const wide = first + frames * step, width = wide + scale, line = side + 26, high = names.length * line + 8;
  const patchSide = Math.max(48, Math.min(64, Math.floor((room - 60) / (group + 2)) - 14));
  const closeWide = Math.max(370, 60 + (group + 2) * (patchSide + 14)), closeHigh = patchSide + 94;
  element(root, "div", "color:#555;margin:4px 0", "Pointing at a place shows its weights in every row, a click keeps it. " +
    "Keys: Tab to the pictures, arrows move the place" + (left > 1 ? ", Shift with ← or → the group of frames." : "."));
  const boards = shelf(root);
  const [canvas, pen] = board(boards, width, high, "Frames, weights at each site, fused frames. Arrow keys move the place.");
  const [, close] = board(boards, closeWide, closeHigh, "The patches of this place and what is fused of them.", false);
  const said = spoken(root, "i2v-said", 2);

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
    const {place, f} = {...kept, ...over}, number = (w) => w.toFixed(3);
    pen.fillStyle = close.fillStyle = "white";
    pen.fillRect(0, 0, width, high);
    close.fillRect(0, 0, closeWide, closeHigh);
    names.forEach((name, r) => write(pen, name, first - 12, 4 + r * line + side / 2, "right"));
    for (const {r, i, x, y, kind} of spots) {
      const under = (words, colour) => write(pen, words, x + side / 2, y + side + 12, "center", colour);
      if (kind) {
        pen.drawImage(stills[kind][i], x, y, side, side);
        under(kind);
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
    [["1", 0], ["the mean's", 30], ["0", 60]].forEach(([words, y]) => write(pen, words, wide + 34, 4 + line + y, "left"));

    write(close, `place ${placeName(place)}: ${group} patches, their weights in the last frame,`, 4, 10);
    write(close, "what is fused of them, and their average", 4, 26);
    const foot = 40 + patchSide, at = (i) => 8 + i * (patchSide + 14);
    for (let i = 0; i < group; i++) {
      const t = f * group + i, x = at(i), w = total[t][place + 1];
      magnified(stills.frames[t], place, x, 40, patchSide);
      close.fillStyle = QUERY;
      close.fillRect(x, foot + 6, patchSide * w, 12);
      close.strokeStyle = PALE;
      close.strokeRect(x, foot + 6, patchSide, 12);
      write(close, `t = ${t}`, x + patchSide / 2, foot + 30, "center");
      write(close, number(w), x + patchSide / 2, foot + 46, "center", QUERY);
    }
    const x = at(group) + 20;
    write(close, "→", x - 18, 40 + patchSide / 2);
    magnified(stills.fused[f], place, x, 40, patchSide);
    write(close, "fused", x + patchSide / 2, foot + 12, "center");
    magnified(stills.average[f], place, x + patchSide + 24, 40, patchSide);
    write(close, "average", x + patchSide + 24, foot + 12);

    const mean = [0, 0, 0], patch = size / grid, top = Math.floor(place / grid) * patch, start = (place % grid) * patch;
    for (let y = 0; y < patch; y++) for (let px = 0; px < patch; px++) for (let c = 0; c < 3; c++)
      mean[c] += fused[f][4 * ((top + y) * size + start + px) + c] / patch ** 2;
    const pairs = sites.map((T, s) => {
      const half = T / left / 2;
      return `site ${s + 1}: ` + Array.from({length: half}, (_, p) => 2 * (f * half + p)).map((a) =>
        `${number(maps[s][a][place + 1])} and ${number(maps[s][a + 1][place + 1])}`).join(", ");
    });
    const way = Array.from({length: group}, (_, i) => total[f * group + i][place + 1]), sum = way.reduce((a, b) => a + b, 0);
    said.textContent = `place ${placeName(place)}: ${pairs.join("; ")}; in the last frame: ${way.map(number).join(" + ")}` +
      ` = ${number(sum)}; fused colour (${mean.map((v) => Math.round(v)).join(", ")})`;
  }

  function find(px, py) {
    const spot = spots.find((s) => px >= s.x && px < s.x + side && py >= s.y && py < s.y + side);
    const cell = (v) => Math.floor(v / side * grid);
    return spot ? {f: spot.f, place: cell(py - spot.y) * grid + cell(px - spot.x)} : null;
  }

  function show(what) {
    over = what || {};
    draw();
  }

  function keep(what) {
    Object.assign(kept, what);
    show(null);
  }

  onPointer(canvas, find, show, keep);
  const turn = (by) => keep({f: limit(kept.f + by, left)});
  onArrows(canvas, (rows, columns) => keep({place: moved(kept.place, rows, columns)}), turn);
  draw();
}

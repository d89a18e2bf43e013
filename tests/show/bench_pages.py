"""Our kernel-free attention page against bertviz's views of the same attention.

    pip install bertviz; python tests/show/bench_pages.py


Prints medians and, in brackets, the ratio ours / bertviz: megabytes of the page, seconds to make it (running the model included)
and from opening it until it is drawn, and milliseconds from a move of the pointer to the frame after the one that it changes (by
the browser's clock, without painting that frame, which favours the page with more to paint). All in turn. "frame": bertviz holds
one frame; "clip": all frames strung together, as our page holds them; model_view of the clip would take 5 GB of memory and is
left out. bertviz's pages load require.js, d3 and jquery from cdnjs, or with --scripts FOLDER from there.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
try:
    from bertviz import head_view, model_view
    from playwright import sync_api
except ImportError as error:
    sys.exit(f"{error}: pip install bertviz playwright")

import torch
from test_browser import chromium, patch_at, shipped

from i2vlib.show.embedded import attention_page, head_offsets, read_attention

NAMES = ["cls"] + [f"{r},{c}" for r in range(8) for c in range(8)]
ROUNDS, MOVES = 5, 25
DRAWN = """(() => { const look = () => document.querySelector("[data-i2v][data-ready=yes], #vis svg line")
    ? requestAnimationFrame(() => requestAnimationFrame(() => { window.drawn = performance.now(); })) : setTimeout(look, 4);
    setTimeout(look); })();"""
CLOCK = """addEventListener("pointermove", (event) => { if (window.took !== undefined) return; window.took = null;
    requestAnimationFrame(() => requestAnimationFrame(() => { window.took = performance.now() - event.timeStamp; })); }, true)"""
SHOWN = """() => document.querySelector(".i2v-said")?.innerText + document.querySelectorAll("line[visibility=visible]").length +
    [...document.querySelectorAll(".background, .attn-line-group")].map((e) => e.style.opacity)"""
MIDDLES = """(all) => all.map((e) => e.getBoundingClientRect()).filter((b) => b.y > 5 && b.bottom < innerHeight - 5)
    .map((b) => [b.x + b.width / 2, b.y + b.height / 2])"""


def strung(maps, offsets) -> torch.Tensor:
    """A layer's whole clip as bertviz can hold it: (T,h,N,N) -> (1,h,T·N,T·N), a head's block at the frame that it reads."""
    frames, heads, tokens, _ = maps.shape
    whole = torch.zeros(1, heads, frames, tokens, frames, tokens)
    for t in range(frames):
        for head, offset in enumerate(offsets):
            whole[0, head, t, :, t + offset if 0 <= t + offset < frames else t] = torch.from_numpy(maps[t, head])
    return whole.reshape(1, heads, frames * tokens, frames * tokens)


def makers() -> dict:
    """How each page is made, by name: functions that return its HTML."""
    model, clip = shipped("motion", 14)

    def shown(view, whole: bool) -> str:
        maps = zip(read_attention(model, clip), head_offsets(model), strict=True)
        names = [f"t{t} {name}" for t in range(4) for name in NAMES] if whole else NAMES
        return view([strung(m, o) if whole else torch.from_numpy(m[2])[None] for m, o in maps], names, html_action="return").data

    return {"ours": lambda: attention_page(model, clip), "head_view, frame": lambda: shown(head_view, False),
            "head_view, clip": lambda: shown(head_view, True), "model_view, frame": lambda: shown(model_view, False)}


def opened(browser, path: Path, scripts: Path | None):
    """The page in a context of its own, drawn; seconds until then."""
    page = browser.new_context(viewport={"width": 1300, "height": 1000}).new_page()
    if scripts:
        page.route(re.compile("^https?:"), lambda route: route.fulfill(  # require, d3, jquery
            path=next(scripts.glob(re.search(r"(\w+)[^/]*$", route.request.url)[1] + "*.js")), content_type="text/javascript"))
    page.add_init_script(DRAWN + CLOCK)
    page.goto(path.as_uri(), wait_until="commit")
    try:
        page.wait_for_function("window.drawn", polling=100, timeout=180_000)
    except sync_api.TimeoutError:
        sys.exit(f"{path.name} was not drawn in 3 minutes: is cdnjs.cloudflare.com reached? If not: --scripts FOLDER")
    return page, page.evaluate("window.drawn") / 1000


def places(page, name: str) -> list[tuple[float, float]]:
    """Points on tokens or patches, each far from the one before; one more than moves."""
    if name == "ours":
        box = page.query_selector("canvas").bounding_box()
        return [(box["x"] + x, box["y"] + y) for x, y in (patch_at(i % 4, 3 * i % 8, (5 * i + 1) % 8) for i in range(MOVES + 1))]
    if name.startswith("model"):  # its lines answer in the detail of a head, which a click opens
        page.bring_to_front()
        box = page.query_selector("#attn_background_0_1").bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 40)
        page.wait_for_selector(".detail .token")
        page.evaluate("scrollTo(0, 0)")
    tokens = page.eval_on_selector_all(".detail .token, #left text", MIDDLES)[:40]
    return [tokens[(i // 2 + i % 2 * len(tokens) // 2) % len(tokens)] for i in range(MOVES + 1)]


def moved(page, to: tuple[float, float]) -> float:
    """Milliseconds of one move, which has to change what is shown."""
    page.bring_to_front()
    before, _ = page.evaluate(SHOWN), page.evaluate("window.took = undefined")
    page.mouse.move(*to)
    page.wait_for_function("window.took > 0", polling=20, timeout=120_000)
    assert page.evaluate(SHOWN) != before, f"{page.url}: a move to {to} changed nothing"
    return page.evaluate("window.took")


def measure(browser, folder: Path, scripts: Path | None) -> dict[str, dict[str, list[float]]]:
    """Of each quantity and page its numbers."""
    jobs, pages = makers(), {}
    found = {what: {name: [] for name in jobs} for what in ("MB", "s to make", "s until drawn", "ms a move")}
    jobs["ours"]()  # warm
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            start, text = time.perf_counter(), job()
            found["s to make"][name].append(time.perf_counter() - start)
            found["MB"][name].append(len(text.encode()) / 1e6)
            (folder / f"{name}.html").write_text("<!doctype html><meta charset=utf-8>\n" + text)
            if name in pages:
                pages[name].context.close()
            pages[name], seconds = opened(browser, folder / f"{name}.html", scripts)
            found["s until drawn"][name].append(seconds)
    spots = {name: places(page, name) for name, page in pages.items()}
    for name, page in pages.items():
        page.mouse.move(*spots[name].pop())
    for i in range(MOVES):
        for name, page in pages.items():
            found["ms a move"][name].append(moved(page, spots[name][i]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scripts", type=Path, help="a folder with require.js, d3.js, jquery.js (or .min.js) instead of cdnjs")
    scripts = parser.parse_args().scripts
    if not (path := chromium()):
        sys.exit("no Chromium: apt install chromium, or playwright install chromium")
    with tempfile.TemporaryDirectory() as folder, sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        found = measure(browser, Path(folder), scripts)
        browser.close()
    print(f"medians of {ROUNDS} rounds and {MOVES} moves\n" + " " * 14 + "".join(f"{name:>20}" for name in found["MB"]))
    for what, values in found.items():
        middle = {name: statistics.median(numbers) for name, numbers in values.items()}
        cells = [f"{m:.3g} ({middle['ours'] / m:.3f})" for m in middle.values()]
        print(f"{what:14}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main()

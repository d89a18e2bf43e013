"""The explorers in a real browser: JupyterLab and headless Chromium, controls moved, pictures seen to change.

Skipped, with the reason, where Playwright or a Chromium is missing. I2V_SCREENSHOTS=folder keeps pictures of every explorer.
"""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import urllib.request
from pathlib import Path

import nbformat
import pytest
import torch
from _processes import wait_until

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "08_explore_the_weights.ipynb"
NEEDED = ("COLAB =", "junk_number: int", "check_parameters(", "shipped(", "= explore_", "_page(")  # what cells of 08 must hold
UPLOAD = """from i2vlib.own_video import predict, upload_box
from i2vlib.presets import PROTOCOLS
from i2vlib.show.own_video import bars

upload_box(lambda path: [bars(predict(motion, path, PROTOCOLS["mini-motion"].clip, names))])"""  # as notebook 11 makes it
PRIVATE = ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTERLAB_SETTINGS_DIR",
           "JUPYTERLAB_WORKSPACES_DIR")  # folders of its own, so that no one's settings matter
SLOW = 3.0  # seconds; the aim on two idle cores is .2, and this machine may be busy: the median is printed


def chromium() -> str:
    """The path of a Chromium, or ''."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if found := shutil.which(name):
            return found
    with playwright.sync_playwright() as p:
        return p.chromium.executable_path if Path(p.chromium.executable_path).exists() else ""


@pytest.fixture(scope="module")
def browser():
    path = chromium()
    if not path:
        pytest.skip("no Chromium on PATH or of Playwright's own: apt install chromium, or playwright install chromium")
    with playwright.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser):
    """A new page; what it says on its console as an error fails the test."""
    made, said = browser.new_page(viewport={"width": 1300, "height": 1000}), []
    made.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    made.on("pageerror", lambda error: said.append(str(error)))
    yield made
    made.close()
    assert not said, said


def keep(target, name: str) -> None:
    if folder := os.environ.get("I2V_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        target.screenshot(path=Path(folder) / f"{name}.png")


# ---- pages without a kernel ----

def shipped(task: str, number: int):
    """(model, clip): a shipped checkpoint, and a test clip of its task as the model sees it."""
    from i2vlib.course.ship import ASSETS
    from i2vlib.data.mini import mini_data
    from i2vlib.data.transforms import test_views as views
    from i2vlib.data.video import read_clip
    from i2vlib.presets import PROTOCOLS
    from i2vlib.tower.checkpoints import load_checkpoint

    clip = views(PROTOCOLS[f"mini-{task}"].clip)(read_clip(mini_data(task) / f"val/{number:05d}.mp4", range(4)))[0]
    return load_checkpoint(ASSETS / f"{task}.safetensors"), clip


@pytest.fixture(scope="module")
def embedded():
    """(attention of the motion clip, weights of the corrupted clip, both pages)."""
    from i2vlib.show.embedded import attention_page, interpolation_page, read_attention, read_weights

    motion, corrupted = shipped("motion", 14), shipped("corrupted", 43)
    return read_attention(*motion), read_weights(*corrupted), attention_page(*motion), interpolation_page(*corrupted)


def show(page, *fragments: str) -> list:
    """The fragments on a page that asks for nothing; their roots, once they are alive."""
    asked = []
    page.on("request", lambda request: asked.append(request.url) if not request.url.startswith(("data:", "blob:")) else None)
    page.set_content("<!doctype html><meta charset=utf-8>" + "\n".join(fragments))
    page.wait_for_function(f"document.querySelectorAll('[data-i2v][data-ready=yes]').length === {len(fragments)}", timeout=30000)
    assert not asked, asked
    return page.query_selector_all("[data-i2v]")


def hover(page, root, x: float, y: float) -> tuple[str, bool, float]:
    """Move the pointer over the first canvas; the line that is said, whether the picture changed, and milliseconds to draw."""
    canvas = root.query_selector("canvas")
    canvas.scroll_into_view_if_needed()
    before, box = canvas.evaluate("c => c.toDataURL()"), canvas.bounding_box()
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.wait_for_timeout(50)
    took = canvas.evaluate("""(c, [x, y]) => {
        c.dispatchEvent(new PointerEvent("pointerleave"));
        const box = c.getBoundingClientRect(), start = performance.now();
        c.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + x, clientY: box.top + y, bubbles: true}));
        return performance.now() - start;
    }""", [x, y])
    return said(root), canvas.evaluate("c => c.toDataURL()") != before, took


def patch_at(t: int, row: int, column: int, low: bool = False) -> tuple[float, float]:
    """Where a patch lies on the first canvas of the attention page, 1300 wide: in the upper row, or in the lower one."""
    return 4 + 142 * t + 132 * (column + 0.5) / 8, (178 if low else 18) + 132 * (row + 0.5) / 8


def head_at(layer: int, head: int) -> tuple[float, float]:
    """Where a head lies on the second one."""
    return 66 + 72 * head + 32, 54 + 88 * layer + 32


def go(page, canvas, at: tuple[float, float], steps: int = 1) -> None:
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + at[0], box["y"] + at[1], steps=steps)


def said(root, name: str = "said") -> str:
    return root.query_selector(f".i2v-{name}").inner_text()


def test_hovering_shows_attention_on_the_frame_that_is_read(page, embedded):
    attention, _, fragment, _ = embedded
    (root,) = show(page, fragment)
    keep(root, "page-attention-before")
    line, changed, took = hover(page, root, *patch_at(2, 5, 3))
    keep(root, "page-attention-after")
    row = attention[0][2, 1, 1 + 5 * 8 + 3]
    best = int(row[1:].argmax())
    assert changed and "block 1, head 1, δ = +1: patch (5, 3) of frame 2 looks at frame 3, " in line
    found = re.search(r"\): ([\d.]+) ± ([\d.]+); on the class token: ([\d.]+)", line)
    value, error, on_class = map(float, found.groups())
    assert f"most at ({best // 8}, {best % 8})" in line
    assert abs(value - row[1 + best]) <= error + 5e-5 and abs(on_class - row[0]) <= error + 5e-5
    print(f"attention page: {len(fragment) / 1e6:.2f} MB, {took:.1f} ms for a patch")
    assert took < 200 * 5 and len(fragment) < 1e6
    frame, _, _ = hover(page, root, *patch_at(3, 5, 3))  # frame 3: its head 1 has no frame behind it
    assert "of frame 3 looks at frame 3" in frame


def test_the_attention_page_opens_where_a_relocated_head_is_most_concentrated(page, embedded):
    attention, _, fragment, _ = embedded
    (root,) = show(page, fragment)
    best = max((float(m[t, h, q, 1:].max()), k, h, t, q) for k, m in enumerate(attention) for h, offset in ((0, -1), (1, 1))
               for t in range(4) if 0 <= t + offset < 4 for q in range(65))
    value, layer, head, t, query = best
    name = f"patch ({(query - 1) // 8}, {(query - 1) % 8})" if query else "the class token"
    assert said(root).startswith(f"block {layer + 1}, head {head}, δ = {'−1' if head == 0 else '+1'}: {name} of frame {t} ")
    assert abs(float(re.search(r"\): ([\d.]+) ±", said(root))[1]) - value) <= 6e-5


def test_pointing_shows_a_click_keeps_and_the_way_to_the_heads_changes_nothing(page, embedded):
    _, _, fragment, _ = embedded
    (root,) = show(page, fragment)
    frames, heads = root.query_selector_all("canvas")
    opening = said(root)
    go(page, frames, patch_at(0, 2, 1))
    assert "patch (2, 1) of frame 0" in said(root)
    go(page, heads, head_at(2, 3), steps=40)  # over frames 1 to 3
    assert said(root).startswith("block 3, head 3, δ = 0: the class token of frame 2 looks at frame 2")
    go(page, heads, (10, 10))
    assert said(root) == opening, "what was only pointed at stayed"
    go(page, frames, patch_at(0, 2, 1))
    page.mouse.down()
    page.mouse.up()
    go(page, heads, head_at(2, 3), steps=40)
    assert said(root).startswith("block 3, head 3, δ = 0: patch (2, 1) of frame 0 looks at frame 0")
    page.mouse.down()
    page.mouse.up()
    go(page, frames, patch_at(3, 4, 4), steps=40)
    assert said(root).startswith("block 3, head 3, δ = 0: patch (4, 4) of frame 3")
    go(page, frames, (2, 170))
    assert said(root).startswith("block 3, head 3, δ = 0: patch (2, 1) of frame 0")


def test_pointing_at_the_orange_picture_reads_a_weight(page, embedded):
    attention, _, fragment, _ = embedded
    (root,) = show(page, fragment)
    frames = root.query_selector("canvas")
    go(page, frames, patch_at(1, 3, 2))
    page.mouse.down()
    page.mouse.up()
    for row, column in ((3, 1), (0, 0), (7, 7)):
        go(page, frames, patch_at(2, row, column, low=True))
        found = re.fullmatch(r"on patch \((\d), (\d)\) of frame 2: ([\d.]+) ± ([\d.]+)", said(root, "read"))
        want, step = attention[0][1, 1, 1 + 3 * 8 + 2], float(found[4])
        assert (int(found[1]), int(found[2])) == (row, column) and abs(step - want.max() / 510) <= 5e-5
        assert abs(float(found[3]) - want[1 + row * 8 + column]) <= want.max() / 510 + 5e-5
    go(page, frames, patch_at(1, 0, 0, low=True))  # not the frame that is read
    assert said(root, "read").startswith("Point at")


def stops(page) -> list[str]:
    """What Tab comes by, from the top of the page to its end."""
    found = []
    while len(found) < 20:
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.tagName")
        if name == "BODY":
            return found
        found.append(name.split(".")[0])
    raise AssertionError(f"Tab does not leave the page: {found}")


def test_keys_choose_patch_frame_layer_and_head(page, embedded):
    _, _, fragment, _ = embedded
    (root,) = show(page, fragment)
    frames, heads = root.query_selector_all("canvas")
    assert stops(page) == ["BUTTON", "INPUT", "Frames", "Heads"]
    frames.press("ArrowDown")  # from the patch that the class token looks at
    assert said(root).startswith("block 1, head 1, δ = +1: patch (3, 1) of frame 2")
    for key, want in (("ArrowLeft", "patch (3, 0) of frame 2"), ("ArrowLeft", "patch (3, 0) of frame 2"),
                      ("Shift+ArrowLeft", "patch (3, 0) of frame 1"), ("Shift+ArrowRight", "patch (3, 0) of frame 2"),
                      ("Shift+ArrowDown", "patch (3, 0) of frame 2"), ("ArrowUp", "patch (2, 0) of frame 2")):
        frames.press(key)
        assert f": {want} looks at " in said(root), key
    for key, want in (("ArrowDown", "block 2, head 1,"), ("ArrowRight", "block 2, head 2,"), ("ArrowUp", "block 1, head 2,"),
                      ("ArrowUp", "block 1, head 2,"), ("ArrowLeft", "block 1, head 1,")):
        heads.press(key)
        assert said(root).startswith(want) and "patch (2, 0) of frame 2" in said(root), key
    heads.press("Shift+ArrowLeft")
    assert said(root).startswith("block 1, head 1, δ = +1: patch (2, 0) of frame 1")
    for canvas in (frames, heads):
        assert canvas.get_attribute("role") == "application"
    assert root.query_selector(".i2v-said").get_attribute("role") == "status"


def test_the_class_tokens_button_lets_go_at_a_second_press(page, embedded):
    _, _, fragment, _ = embedded
    (root,) = show(page, fragment)
    button, frames = root.query_selector("button"), root.query_selector("canvas")
    go(page, frames, patch_at(0, 6, 2))
    page.mouse.down()
    page.mouse.up()
    for pressed, want in (("true", "the class token of frame 0"), ("false", "patch (6, 2) of frame 0")) * 2:
        button.press("Enter")
        assert button.get_attribute("aria-pressed") == pressed
        go(page, frames, (2, 170))
        assert want in said(root)
    button.press("Enter")
    go(page, frames, patch_at(1, 1, 1))
    assert "patch (1, 1) of frame 1" in said(root), "the class token stopped the pointer"


def test_heads_share_one_scale_and_a_switch_gives_each_its_own(page, embedded):
    attention, _, fragment, _ = embedded
    (root,) = show(page, fragment)
    heads = root.query_selector_all("canvas")[1]
    colour = """(c, [x, y]) => { const d = c.getContext("2d").getImageData(2 * x - 64, 2 * y - 64, 128, 128).data; let sum = 0;
        for (let i = 0; i < d.length; i += 4) sum += d[i] - d[i + 2]; return 4 * sum / d.length; }"""  # orange, over a head
    most = attention[0][2, :, 0, 1:].max(-1)
    even, sharp = int(most.argmin()), int(most.argmax())
    shared = [heads.evaluate(colour, head_at(0, h)) for h in (even, sharp)]
    root.query_selector("input").check()
    own = [heads.evaluate(colour, head_at(0, h)) for h in (even, sharp)]
    assert shared[1] == own[1] and shared[0] < shared[1] < own[0], "the most even head must be the palest on one scale"
    root.query_selector("input").uncheck()
    assert heads.evaluate(colour, head_at(0, even)) == shared[0]


def test_a_finger_taps_patches_heads_and_weights(browser, embedded):
    _, _, attention, interpolation = embedded
    context = browser.new_context(viewport={"width": 1300, "height": 1000}, has_touch=True)
    page = context.new_page()

    def tap(canvas, at) -> None:
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        page.touchscreen.tap(box["x"] + at[0], box["y"] + at[1])

    first, second = show(page, attention, interpolation)
    frames, heads = first.query_selector_all("canvas")
    tap(frames, patch_at(1, 3, 2))
    tap(heads, head_at(1, 0))
    assert said(first).startswith("block 2, head 0, δ = −1: patch (3, 2) of frame 1 looks at frame 0")
    tap(frames, patch_at(0, 4, 1, low=True))
    assert said(first, "read").startswith("on patch (4, 1) of frame 0: ")
    tap(second.query_selector("canvas"), (138 + 92 * 6.5 / 8, 4 + 92 * 1.5 / 8))
    assert said(second).startswith("place (1, 6): ")
    assert all(c.evaluate("c => getComputedStyle(c).touchAction") == "manipulation" for c in page.query_selector_all("canvas"))
    context.close()


def test_keys_move_the_place_and_the_patches_below_take_no_focus(page, embedded):
    _, maps, _, fragment = embedded
    (root,) = show(page, fragment)
    canvas, below = root.query_selector_all("canvas")
    assert stops(page) == ["Frames, weights at each site, fused frames"] and below.get_attribute("role") == "img"
    whole = maps[0] * maps[1].repeat(2, axis=0)  # the opening: where one frame weighs most in the last
    place = int(whole[:, 1:].argmax()) % 64
    opening = said(root)
    assert opening.startswith(f"place ({place // 8}, {place % 8}): ")
    go(page, canvas, (138 + 92 * 6.5 / 8, 4 + 92 * 1.5 / 8))
    assert said(root).startswith("place (1, 6): ")
    go(page, canvas, (20, 20))
    assert said(root) == opening
    canvas.press("ArrowRight")
    assert said(root).startswith(f"place ({place // 8}, {place % 8 + 1}): ")


def test_hovering_shows_the_weights_of_a_place_and_two_pages_do_not_meet(page, embedded):
    from i2vlib.compression import cascade

    _, maps, attention, fragment = embedded
    first, second, third = show(page, fragment, attention, re.sub(r"i2v-([0-9a-f]{8})", r"i2v-x\1", fragment))
    keep(first, "page-interpolation-before")
    alone = said(third)
    line, changed, took = hover(page, first, 138 + 102 + 92 * 6.5 / 8, 4 + 92 * 1.5 / 8)  # frame 1, row 1, column 6
    keep(first, "page-interpolation-after")
    place = 1 + 8 + 6
    whole = cascade([torch.from_numpy(m)[None] for m in maps])[0, :, place]
    assert changed and line.startswith("place (1, 6): site 1: ")
    numbers = [float(v) for v in re.findall(r"\d\.\d{3}", line)]
    want = [*maps[0][:, place], *maps[1][:, place], *whole, whole.sum()]
    assert len(numbers) == len(want) and all(abs(a - float(b)) < 6e-4 for a, b in zip(numbers, want, strict=True))
    assert said(third) == alone, "a page answered for another"
    print(f"interpolation page: {len(fragment) / 1e6:.2f} MB, {took:.1f} ms for a place")
    assert took < 200 * 5


def test_an_exported_notebook_stays_alive_without_a_network(browser, tmp_path):
    from nbconvert import HTMLExporter

    (tmp_path / "08.html").write_text(HTMLExporter().from_filename(str(NOTEBOOK))[0])
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.route(re.compile("^https?:"), lambda route: route.abort())
    page.goto((tmp_path / "08.html").as_uri(), wait_until="domcontentloaded")
    page.wait_for_function("document.querySelectorAll('[data-i2v][data-ready=yes]').length === 2", timeout=30000)
    for root, at in zip(page.query_selector_all("[data-i2v]"), ((40, 60), (160, 40)), strict=True):
        assert hover(page, root, *at)[1]
    context.close()


# ---- explorers in JupyterLab ----

@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """A page of JupyterLab in which the cells of notebook 08 that make explorers have run."""
    home = tmp_path_factory.mktemp("lab")
    (home / "course").mkdir()
    for name in ("i2vlib", "notebooks"):
        (home / "course" / name).symlink_to(ROOT / name)
    notebook = nbformat.read(NOTEBOOK, 4)
    cells = [c for c in notebook.cells if c.cell_type == "code" and any(word in c.source for word in NEEDED)
             and "solution" not in c.metadata.get("tags", [])]
    for cell in cells:
        cell.outputs, cell.execution_count = [], None
    notebook.cells = [*cells, nbformat.v4.new_code_cell(UPLOAD)]
    nbformat.write(notebook, home / "course" / "nb.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {name: str(home / name.lower()) for name in PRIVATE}
    news = Path(folders["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root",
               "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.password=",
               f"--ServerApp.root_dir={home / 'course'}", "--LabApp.expose_app_in_browser=True", upload_limit(12 * 2**20)]
    log = open(home / "log.txt", "w")
    server = subprocess.Popen(command, cwd=home, env=os.environ | folders | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
    try:
        wait_until(lambda: _answers(port) or server.poll() is not None, 120)
        assert server.poll() is None, (home / "log.txt").read_text()[-3000:]
        page = browser.new_page(viewport={"width": 1300, "height": 1100})
        page.goto(f"http://127.0.0.1:{port}/lab/tree/nb.ipynb?reset", timeout=120000)
        page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext?.isReady", timeout=120000)
        page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_function("""() => jupyterapp.shell.currentWidget.content.widgets.every(
            (cell) => cell.model.type !== "code" || cell.model.executionCount)""", timeout=240000)
        assert not page.query_selector_all('.jp-Notebook [data-mime-type="application/vnd.jupyter.error"]')
        yield page
        page.close()
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


def upload_limit(limit: int) -> str:
    """The flag of `make lab` that raises the size of an upload, with another limit."""
    said = subprocess.run(["make", "-n", "-C", str(ROOT), "lab"], capture_output=True, text=True).stdout
    line = next(line for line in said.splitlines() if "-m jupyterlab" in line)
    flag = next(word for word in shlex.split(line) if "max_message_size" in word)
    assert "536870912" in flag, "512 MiB, as the box says"
    return flag.replace("536870912", str(limit))


def _answers(port: int) -> bool:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status", timeout=5).status == 200
    except OSError:
        return False


def kernel(page, expression: str, code: str = ""):
    """The value of a Python expression of literals in the notebook's kernel, after some code."""
    reply = page.evaluate("""async ([code, expression]) => {
        const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
        const future = kernel.requestExecute({code, user_expressions: {value: `repr(${expression})`}, store_history: false});
        return (await future.done).content;
    }""", [code, expression])
    assert reply["status"] == "ok" and reply["user_expressions"]["value"]["status"] == "ok", reply
    import ast

    return ast.literal_eval(ast.literal_eval(reply["user_expressions"]["value"]["data"]["text/plain"]))


def cell_of(page, source: str):
    """The notebook's cell that holds this source, scrolled into view with its picture drawn."""
    index = page.evaluate("""(source) => jupyterapp.shell.currentWidget.content.widgets.findIndex(
        (cell) => cell.model.sharedModel.getSource().includes(source))""", source)
    page.evaluate("(index) => jupyterapp.shell.currentWidget.content.scrollToItem(index)", index)
    cell = page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{index}"]')
    cell.locator("img").first.wait_for(timeout=60000)
    assert cell.locator("img").count() == 1
    return cell


PIXELS = """(img) => { const c = document.createElement("canvas"); c.width = img.naturalWidth; c.height = img.naturalHeight;
    c.getContext("2d").drawImage(img, 0, 0); return c.toDataURL(); }"""
MOVE = """async (control, [kind, key]) => {
    const img = control.closest(".jp-Cell").querySelector("img");
    const drawn = new Promise((done, fail) => { img.addEventListener("load", done, {once: true});
                                                setTimeout(() => fail(new Error("no new picture in 60 s")), 60000); });
    const start = performance.now();
    if (kind === "slider") control.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
    else if (kind === "button") control.click();
    else { control.selectedIndex = Number(key); control.dispatchEvent(new Event("change", {bubbles: true})); }
    await drawn;
    return performance.now() - start;
}"""


def move(cell, control, kind: str = "slider", key: str = "ArrowRight") -> float:
    """Move a control as a person does; seconds until the new picture stands there. It must differ from the one before."""
    picture = cell.locator("img")
    before = picture.evaluate(PIXELS)
    took = control.evaluate(MOVE, [kind, key]) / 1000
    wait_until(lambda: picture.evaluate(PIXELS) != before, 30)
    cell.page.wait_for_timeout(100)
    return took


EXPLORERS = {  # variable in the notebook: its sliders, by name, and the key that moves each away from its start
    "attention": {"frame": "ArrowRight", "block": "ArrowRight", "head": "ArrowRight", "row": "ArrowRight", "column": "ArrowLeft"},
    "fusing": {"frame": "ArrowRight", "site": "ArrowRight", "weights": "ArrowRight"},
    "relocated": {"frame": "ArrowRight", **{f"head_{i}": "ArrowRight" for i in range(8)}},
    "dial": {"share": "ArrowLeft"},
}


@pytest.mark.parametrize("name", EXPLORERS)
def test_every_slider_moves_the_picture_and_the_kernel(lab, name):
    cell, times = cell_of(lab, f"{name} = explore_"), []
    keep(cell, f"{name}-before")
    handles, readouts = cell.locator(".noUi-handle"), cell.locator(".widget-readout")
    assert handles.count() == len(EXPLORERS[name]), "a slider is not there, or there twice"
    order = [n for n in kernel(lab, f"list({name}.controls)") if n != "query"]
    for i, control in enumerate(order):
        before, shown = kernel(lab, f"{name}.values()"), readouts.nth(i).inner_text()
        times.append(move(cell, handles.nth(i), key=EXPLORERS[name][control]))
        after = kernel(lab, f"{name}.values()")
        assert after[control] != before[control], f"the kernel does not know of {control}"
        assert readouts.nth(i).inner_text() != shown
        changed = {k for k in after if after[k] != before[k]}
        assert changed == {control} or (control == "row" and changed == {"row", "query"}), changed
        said = cell.locator(".widget-html code").last.inner_text()
        assert html.unescape(kernel(lab, f"{name}.text.value")) == f"<code>{said}</code>"
    for key in (("ArrowLeft", "ArrowRight") if name != "dial" else ("ArrowRight", "ArrowLeft")) * 4:
        times.append(move(cell, handles.nth(0), key=key))
    keep(cell, f"{name}-after")
    middle = statistics.median(times)
    print(f"{name}: median response {1000 * middle:.0f} ms of {len(times)} moves, slowest {1000 * max(times):.0f} ms")
    assert middle < SLOW
    assert kernel(lab, f"{name}.errors.outputs") == ()


def test_the_query_is_chosen_by_buttons_and_a_row_means_a_patch(lab):
    cell = cell_of(lab, "attention = explore_")
    buttons = cell.locator(".widget-toggle-button")
    kernel(lab, "0", "attention.set(query='patch')")
    move(cell, buttons.nth(0), "button")
    assert kernel(lab, "attention.controls['query'].value") == "class token"
    move(cell, cell.locator(".noUi-handle").nth(3), key="ArrowLeft")
    assert kernel(lab, "attention.controls['query'].value") == "patch"


def test_the_drop_down_sets_all_heads_at_once(lab):
    cell = cell_of(lab, "relocated = explore_")
    kernel(lab, "0", "relocated.set(head_0=-2)")
    chooser = cell.locator("select")
    chooser.evaluate("(s) => { s.selectedIndex = 3; s.dispatchEvent(new Event('change', {bubbles: true})); }")
    move(cell, chooser, "drop-down", "1")
    assert kernel(lab, "[relocated.controls[f'head_{i}'].value for i in range(8)]") == [0] * 8
    assert "1 of 4 frames reach" in kernel(lab, "relocated.text.value")
    assert kernel(lab, "motion.config.temporal.offsets") == (-1, 1, 0, 0, 0, 0, 0, 0), "the model given was changed"
    assert kernel(lab, "motion.backbone.transformer.resblocks[0].attn.offsets") == (-1, 1, 0, 0, 0, 0, 0, 0)


def test_an_error_is_shown_in_place_and_goes_away(lab):
    cell = cell_of(lab, "dial = explore_")
    kernel(lab, "0", "from i2vlib.show.views import View")
    kernel(lab, "0", "kept = dial.view; dial.view = View(lambda share: 1 / 0, {})")
    cell.locator(".noUi-handle").press("ArrowLeft")
    cell.get_by_text("ZeroDivisionError: division by zero").wait_for(timeout=20000)
    kernel(lab, "0", "dial.view = kept")
    move(cell, cell.locator(".noUi-handle"), key="ArrowLeft")
    wait_until(lambda: cell.get_by_text("ZeroDivisionError").count() == 0, 20)


def test_a_file_is_chosen_in_the_upload_box_and_a_bad_one_gets_a_message(lab, tmp_path):
    from i2vlib.data.mini import mini_data

    index = lab.evaluate("() => jupyterapp.shell.currentWidget.content.widgets.length - 1")
    lab.evaluate("(index) => jupyterapp.shell.currentWidget.content.scrollToItem(index)", index)
    cell = lab.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{index}"]')
    good, bad = mini_data("motion") / "val" / "00014.mp4", tmp_path / "half.mp4"
    bad.write_bytes(good.read_bytes()[:3000])
    refused = "This file cannot be used. half.mp4"
    for path, said, pictures in ((bad, refused, 0), (good, "00014.mp4: 0.0 MB", 1), (bad, refused, 0)):
        with lab.expect_file_chooser() as choice:
            cell.locator("button.jupyter-button").click()
        choice.value.set_files(path)
        cell.get_by_text(said).wait_for(timeout=30000)
        wait_until(lambda wanted=pictures: cell.locator("img").count() == wanted, 30)


def test_the_pages_live_in_jupyterlab_too(lab):
    for source, at in (("attention_page(motion", (40, 60)), ("interpolation_page(inti", (160, 40))):
        index = lab.evaluate("""(source) => jupyterapp.shell.currentWidget.content.widgets.findIndex(
            (cell) => cell.model.sharedModel.getSource().includes(source) &&
                      !cell.model.sharedModel.getSource().includes("import"))""", source)
        lab.evaluate("(index) => jupyterapp.shell.currentWidget.content.scrollToItem(index)", index)
        root = lab.wait_for_selector(f'.jp-Cell[data-windowed-list-index="{index}"] [data-i2v][data-ready=yes]', timeout=60000)
        assert hover(lab, root, *at)[1]
        canvas, active = root.query_selector("canvas"), "jupyterapp.shell.currentWidget.content.activeCellIndex"
        canvas.focus()
        lab.wait_for_function(f"{active} === {index}", timeout=20000)
        line = said(root)
        canvas.press("ArrowDown")
        assert said(root) != line and lab.evaluate(active) == index, "JupyterLab took the arrow key"


def test_the_log_console_is_empty(lab):
    """Exceptions of callbacks reach no cell, only this console. Runs last, after every move."""
    lab.evaluate("jupyterapp.commands.execute('logconsole:open')")
    lab.wait_for_selector(".jp-LogConsole", timeout=20000)
    lab.wait_for_timeout(1000)
    entries = lab.locator(".jp-LogConsole .jp-OutputArea-child")
    assert entries.count() == 0, entries.all_inner_texts()


def test_a_file_that_is_too_large_takes_the_old_answer_away_and_leaves_a_message(lab, tmp_path):
    """After the log console: the server cuts the connection."""
    from i2vlib.data.mini import mini_data

    index = lab.evaluate("() => jupyterapp.shell.currentWidget.content.widgets.length - 1")
    lab.evaluate("(index) => jupyterapp.shell.currentWidget.content.scrollToItem(index)", index)
    cell = lab.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{index}"]')
    good = (mini_data("motion") / "val" / "00014.mp4").read_bytes()
    for mega, said, pictures in ((11, "large.mp4: 11", 1), (13, "No file has arrived", 0)):  # Jupyter's own limit is 10
        path = tmp_path / "large.mp4"
        path.write_bytes(good + (mega * 2**20).to_bytes(4, "big") + b"free" + bytes(mega * 2**20 - 8))
        with lab.expect_file_chooser() as choice:
            cell.locator("button.jupyter-button").click()
        choice.value.set_files(path)
        cell.get_by_text(said).wait_for(timeout=30000)
        wait_until(lambda wanted=pictures: cell.locator("img").count() == wanted, 30)
    lab.wait_for_timeout(2000)
    assert cell.locator("img").count() == 0 and cell.get_by_text("No file has arrived").count() == 1

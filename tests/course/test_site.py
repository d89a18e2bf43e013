"""The static site: made from the committed notebooks, whole, linked within itself, alive in a browser without a kernel."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import nbformat
import pytest

from i2vlib.course import front, site
from i2vlib.course.claims import MIME
from i2vlib.course.environment import DEVELOPMENT, REPOSITORY
from i2vlib.course.site import (
    BADGE,
    NOWHERE,
    ROOT,
    SIGNS,
    SiteError,
    build,
    landing_pages,
    link_notebooks,
    main,
    page,
    with_figures,
)
from i2vlib.show.web_files import MATHJAX, RUNTIME, WebFilesError, web_files

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
COLAB = "https://colab.research.google.com/github/{}/blob/main/notebooks/{}"


@cache
def here(package) -> bool:
    """Whether a package's files are here, or can be had."""
    try:
        return bool(web_files(package))
    except WebFilesError:
        return False


def allowed_abroad(url: str) -> bool:
    """Nothing is fetched from another host; where MathJax itself could not be had, the formulas are."""
    return url.startswith("https://cdn.jsdelivr.net/npm/mathjax@") and not here(MATHJAX)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of the site of this checkout, in a path with a blank."""
    out = tmp_path_factory.mktemp("a site") / "site"
    build(out)
    return out


class Reader(HTMLParser):
    """The ids of a page, what it links to, what of that it loads, and the words outside of code and scripts."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.loads, self.words, self.within = set(), [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids.add(given.get("id"))
        links = [given[key] for key in ("href", "src") if given.get(key)]
        self.links += links
        self.loads += links if tag != "a" else []
        if tag in ("script", "style", "pre", "code"):
            self.within.append(tag)

    def handle_endtag(self, tag):
        if self.within and self.within[-1] == tag:
            self.within.pop()

    def handle_data(self, data):
        if not self.within:
            self.words.append(data)


def test_every_notebook_has_its_page_and_github_pages_will_serve_it(made):
    assert {p.stem for p in (made / "notebooks").glob("*.html")} == {p.stem for p in NOTEBOOKS} | {"symbols"}
    assert (made / ".nojekyll").exists() and (made / "index.html").exists() and (made / "data" / "README.html").exists()
    assert [p.name for p in made.parent.iterdir()] == ["site"], "something of the making was left"


def test_every_link_is_relative_and_has_an_end(made):
    pages = {p.resolve(): Reader(p) for p in made.rglob("*.html")}
    count = 0
    for path, reader in pages.items():
        for link in reader.links:
            address, anchor = urldefrag(link.split("?")[0] if not link.startswith("http") else link)
            if address.startswith(("data:", "https:")):
                assert link not in reader.loads or address.startswith("data:") or allowed_abroad(address), f"{path.name}: {link}"
                continue
            target = (path.parent / unquote(address)).resolve() if address else path
            assert not address.startswith(("/", "http:", "file:")) and target.is_file(), f"{path.name}: {link}"
            assert not anchor or target.suffix != ".html" or unquote(anchor) in pages[target].ids, f"{path.name}: {link}"
            count += target in pages
    assert count > 20 * len(NOTEBOOKS), "the links were not found"


def test_the_landing_page_leads_to_every_notebook_and_shows_the_figure(made):
    links = Reader(made / "index.html").links
    assert {f"notebooks/{p.stem}.html" for p in NOTEBOOKS} <= set(links)
    assert {"_images/opening.png", "_images/opening.gif"} <= set(links)
    assert "data/README.html" in Reader(made / "measured.html").links


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_page_holds_what_the_notebook_holds(made, path):
    """Figures and claims, a badge that leads somewhere or none; solutions closed; tables as tables, all Markdown read."""
    notebook, text = nbformat.read(path, 4), (made / "notebooks" / f"{path.stem}.html").read_text()
    words = " ".join(Reader(made / "notebooks" / f"{path.stem}.html").words)
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    outputs = [o.get("data", {}) for c in cells for o in c.outputs]
    repository = REPOSITORY.search((ROOT / "notebooks" / "setup_cell.py").read_text()).group(1)
    assert (COLAB.format(repository, path.name) in text) == (repository != NOWHERE) == ("Open in Colab" in text)
    figures = set(re.findall(r'src="\.\./(_images/[0-9a-f]{64}\.png)"', text))
    assert len(figures) == len({o["image/png"] for o in outputs if "image/png" in o})
    assert words.count("holds") >= sum(MIME in o for o in outputs)
    assert text.count("Show the solution") == sum("solution" in c.metadata.get("tags", []) for c in cells) >= 3
    assert text.count("Show the setup cell") == 1 and "<details open" not in text
    for sign in ("|---", "|—", "$$", "](", "**", ":::"):
        assert sign not in words, words[max(0, words.index(sign) - 80):words.index(sign) + 80]


def test_notebooks_are_linked_where_they_are_named_and_nowhere_else():
    names = {"02": "02_b.ipynb", "05": "05_e.ipynb"}
    assert link_notebooks("Notebook 02 and notebook 05.", names) == "[Notebook 02](02_b.ipynb) and [notebook 05](05_e.ipynb)."
    assert link_notebooks("notebook 02's", names, "notebooks/") == "[notebook 02](notebooks/02_b.ipynb)'s"
    for same in ("# After notebook 02", "`notebook 02`", "[notebook 02](there)", "notebook 03", "notebooks 02 to 05"):
        assert link_notebooks(same, names) == same


def test_a_notebook_is_folded_and_freed_of_what_only_the_results_page_reads():
    v4 = nbformat.v4
    claim = v4.new_output("display_data", {MIME: {}, "text/html": "<b>holds</b>"})
    cells = [v4.new_markdown_cell("notebook 02"), v4.new_code_cell("setup"), v4.new_code_cell("x", outputs=[claim]),
             v4.new_code_cell("y", metadata={"tags": ["solution"]}), v4.new_code_cell("z", metadata={"tags": ["figure"]})]
    text, setup, shown, solution, figure = page(v4.new_notebook(cells=cells), {"02": "02_b.ipynb"}).cells
    assert text.source == "[notebook 02](02_b.ipynb)" and setup.metadata.tags == ["hide-input"]
    assert "tags" not in shown.metadata and dict(shown.outputs[0].data) == {"text/html": "<b>holds</b>"}
    assert solution.metadata.tags == ["solution", "hide-cell"]
    assert solution.metadata.mystnb["code_prompt_show"] == "Show the solution"
    assert figure.metadata.tags == ["figure", "hide-input"]  # its output stays open


def test_a_badge_is_drawn_by_us_and_stands_only_where_it_leads_somewhere(small):
    path = small / "notebooks" / "00_a.ipynb"
    image, before = "https://colab.research.google.com/assets/colab-badge.svg", path.read_text()
    for repository, shown in (("you/fork", ["../_images/open_in_colab.svg"]), (NOWHERE, [])):
        link = COLAB.format(repository, path.name)
        path.write_text(before.replace('"# A"', json.dumps(f"# A\n\n[![Open in Colab]({image})]({link})\n\ntext")))
        build(small / "site", small)
        reader = Reader(small / "site" / "notebooks" / "00_a.html")
        assert [a for a in reader.loads if "colab" in a] == shown and (link in reader.links) == bool(shown)
    assert "<script" not in BADGE.read_text() and "href" not in BADGE.read_text()  # an image that fetches nothing


def test_the_readme_is_cut_at_its_headings():
    readme = "# T\n\n| 00 | start |  q |\n| 07 | planned | q |\n\n## Measured\n\nm, notebook 00\n\n## Library\n\nl\n"
    first, measured = landing_pages(readme, {"00": "00_s.ipynb"})
    assert first == "# T\n\n| 00 | [start](notebooks/00_s.ipynb) |  q |\n| 07 | planned | q |\n\n## Library\n\nl\n"
    assert measured == "# Measured\n\nm, [notebook 00](notebooks/00_s.ipynb)\n\n"
    for wrong in (readme.replace("## Measured", "## Numbers"), readme.replace("|", "")):
        with pytest.raises(SiteError, match="its table of the course .* and its section Measured"):
            landing_pages(wrong, {})


@pytest.fixture
def small(tmp_path):
    """A repository of one notebook, without outputs."""
    root = tmp_path / "repo"
    for folder in ("notebooks/figures", "data"):
        (root / folder).mkdir(parents=True)
    (root / "data/README.md").write_text("# Data\n")
    (root / "notebooks/symbols.md").write_text("# Symbols\n")
    (root / "README.md").write_text("# T\n\n| 00 | a |\n\n## Measured\n\nm\n\n## Rest\n")
    v4 = nbformat.v4
    nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell("# A"), v4.new_code_cell("raise SystemExit(1)")],
                                   metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"},
                                             "language_info": {"name": "python"}}),
                   root / "notebooks" / "00_a.ipynb")
    return root


def test_nothing_is_executed_and_a_site_replaces_a_site_only(small, tmp_path):
    out = tmp_path / "site"
    assert len(build(out, small)) == 6  # the notebook, the symbols, the landing page, measured, data, search
    (out / "old.html").write_text("")
    build(out, small)
    assert not (out / "old.html").exists()
    for missing in SIGNS:
        mine = tmp_path / f"without {missing}"
        mine.mkdir()
        for name in {*SIGNS, "letters.txt"} - {missing}:
            (mine / name).write_text("dear")
        with pytest.raises(SiteError, match="holds something else than a site: allowed is"):
            build(mine, small)
        assert (mine / "letters.txt").exists()


def test_neither_a_file_nor_a_checkout_is_replaced(small, tmp_path):
    (tmp_path / "file").write_text("dear")
    for out, words in ((tmp_path / "file", "is a file: allowed is a new folder"), (tmp_path / "file" / "in", "cannot be made")):
        with pytest.raises(SiteError, match=words):
            build(out, small)
    assert (tmp_path / "file").read_text() == "dear"
    site_of_git = tmp_path / "gh-pages"
    site_of_git.mkdir()
    for name in (*SIGNS, ".git"):  # a worktree has .git as a file
        (site_of_git / name).write_text("dear")
    with pytest.raises(SiteError, match="is a checkout of git"):
        build(site_of_git, small)
    assert (site_of_git / ".git").exists() and (site_of_git / "index.html").read_text() == "dear"


@pytest.mark.parametrize("wrong", ["[there](01_nowhere.ipynb)", "![figure](figures/nowhere.png)", "{nosuchrole}`x`"])
def test_a_warning_is_an_error_and_leaves_no_site(small, tmp_path, capfd, wrong):
    path = small / "notebooks" / "00_a.ipynb"
    (tmp_path / "site").mkdir()
    for name in SIGNS:  # an earlier site
        (tmp_path / "site" / name).touch()
    path.write_text(path.read_text().replace('"# A"', json.dumps(f"# A\n\n{wrong}")))
    with pytest.raises(SiteError, match="a warning is an error"):
        build(tmp_path / "site", small)
    assert not (tmp_path / "site").exists() and "00_a.ipynb" in capfd.readouterr().err


def test_the_command_says_what_it_made_or_why_not(small, tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(site, "build", lambda out: made.append(build(out, small)) or made[-1])
    assert main(["--out", str(tmp_path / "site")]) == 0
    assert re.search(rf"6 pages, \d+ MB: {re.escape(str(tmp_path / 'site' / 'index.html'))}", capsys.readouterr().out)
    shutil.rmtree(small / "notebooks")
    assert main(["--out", str(tmp_path / "site")]) == 1 and "no notebook in" in capsys.readouterr().err


def test_without_a_network_the_site_is_made_with_pictures_and_says_so(small, tmp_path, monkeypatch, capsys):
    def unreachable(package):
        raise WebFilesError(f"{package.name} is not reachable")

    monkeypatch.setattr(front, "web_files", unreachable)
    monkeypatch.setattr(front, "runtime_parts", lambda: unreachable(RUNTIME))
    build(tmp_path / "site", small)
    said, page = capsys.readouterr().out, Reader(tmp_path / "site" / "index.html")
    assert "are pictures: onnxruntime-web is not reachable" in said and "need a network: mathjax is not reachable" in said
    assert {"_static/live/motion.png", "_static/live/corrupted.png"} <= set(page.loads)
    assert "onnxruntime-web could not be fetched" in " ".join(page.words)
    assert not list((tmp_path / "site/_static/live").glob("*.js"))


def test_a_landing_page_has_a_title_and_sections():
    made = with_figures("# T\n\nfirst words\n\n## S\n", alive=False)
    places = [made.index(words) for words in ("# T", "motion.png", "first words", "corrupted.png", "## S")]
    assert places == sorted(places)
    for wrong in ("no title\n\n## S\n", "# T\n\nno section\n"):
        with pytest.raises(SiteError, match="needs its title"):
            with_figures(wrong, alive=False)


def test_make_and_the_workflow_know_of_it():
    import yaml

    assert "make site" in subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True).stdout
    flow = yaml.safe_load((ROOT / ".github/workflows/pages.yml").read_text())
    assert flow[True] == "workflow_dispatch", "it is started by hand alone"  # YAML reads the key `on` as true
    steps = flow["jobs"]["build"]["steps"] + flow["jobs"]["deploy"]["steps"]
    assert "make site" in [s.get("run") for s in steps]
    assert {s["uses"].split("@")[0] for s in steps if "uses" in s} == {f"actions/{name}" for name in (
        "checkout", "setup-python", "configure-pages", "upload-pages-artifact", "deploy-pages")}
    assert next(s["with"]["path"] for s in steps if "upload" in s.get("uses", "")) == "build/site"
    assert {"sphinx", "myst-nb", "furo"} <= DEVELOPMENT, "Colab would install them"


# ---- in a browser ----

@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    with playwright.sync_playwright() as p:
        own = p.chromium.executable_path
        path = next(filter(None, map(shutil.which, names)), own if Path(own).exists() else "")
        if not path:
            pytest.skip("no Chromium on PATH or of Playwright's own: apt install chromium, or playwright install chromium")
        opened = p.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


def visit(browser, path: Path):
    """A page without a network: (page, what it asked for there, the errors that its scripts threw)."""
    opened, asked, thrown = browser.new_page(viewport={"width": 1300, "height": 1000}), [], []
    opened.route(re.compile("^https?:"), lambda route: (asked.append(route.request.url), route.abort()))
    opened.on("pageerror", lambda error: thrown.append(str(error)))
    opened.goto(path.as_uri(), wait_until="load")
    return opened, asked, thrown


def test_pages_without_a_kernel_live_in_the_site(browser, made):
    opened, asked, thrown = visit(browser, made / "notebooks" / "08_explore_the_weights.html")
    opened.wait_for_function("document.querySelectorAll('[data-i2v][data-ready=yes]').length === 2", timeout=30000)
    for root in opened.query_selector_all("[data-i2v]"):
        canvas, said = root.query_selector("canvas"), root.query_selector(".i2v-said")
        canvas.scroll_into_view_if_needed()
        before, words, box = canvas.evaluate("c => c.toDataURL()"), said.inner_text(), canvas.bounding_box()
        opened.mouse.move(box["x"] + 170, box["y"] + 50)
        opened.wait_for_timeout(100)
        assert canvas.evaluate("c => c.toDataURL()") != before and said.inner_text() != words
    assert not thrown and all(map(allowed_abroad, asked)), (thrown, asked)
    opened.close()


def test_the_landing_page_opens_with_a_model_that_answers_and_asks_no_one(browser, made):
    if not here(RUNTIME):
        pytest.skip("onnxruntime-web is not here, and no network to fetch it")
    opened, asked, thrown = visit(browser, made / "index.html")
    opened.wait_for_selector("[data-i2v-live=motion] .i2v-live[data-ready=yes]", timeout=60000)
    assert opened.locator("h1").bounding_box()["y"] < opened.locator(".i2v-live").first.bounding_box()["y"] < 300
    opened.locator("[data-i2v-live=corrupted]").scroll_into_view_if_needed()
    opened.wait_for_selector("[data-i2v-live=corrupted] .i2v-live[data-ready=yes]", timeout=60000)
    assert not thrown and not [url for url in asked if not allowed_abroad(url)]
    assert not opened.locator(".i2v-still").count() and opened.evaluate("[...document.images].every((image) => image.alt)")
    opened.close()


def test_formulas_are_set_without_a_network(browser, made):
    if not here(MATHJAX):
        pytest.skip("MathJax is not here, and no network to fetch it")
    opened, asked, thrown = visit(browser, made / "notebooks" / "03_linear_adapters_and_the_merge.html")
    opened.wait_for_selector("mjx-container svg", state="attached", timeout=30000)
    assert not asked and not thrown and not opened.locator("mjx-merror").count()
    opened.close()


def test_a_solution_opens_by_a_click(browser, made):
    opened, _, thrown = visit(browser, made / "notebooks" / "05_interpolating_frames.html")
    solutions = opened.locator("details:has-text('Show the solution')")
    first = solutions.first
    code = first.locator("pre").first
    assert solutions.count() >= 3 and not code.is_visible()
    first.locator("summary").click()
    assert code.is_visible() and not thrown
    opened.close()


def test_no_page_is_wider_than_the_window_and_no_printed_line_is_cut(browser, made):
    for path in sorted(made.rglob("*.html")):
        opened, _, thrown = visit(browser, path)
        cut = "[...document.querySelectorAll('.cell_output pre')].filter(p=>p.scrollWidth > p.clientWidth).map(p=>p.innerText)"
        assert not opened.evaluate(cut), f"{path.name}: what cells printed is cut at the right"
        for width in (400, 800, 1100, 1400, 1920):
            opened.set_viewport_size({"width": width, "height": 1000})
            wide = opened.evaluate("document.documentElement.scrollWidth")
            assert wide <= width and not thrown, f"{path.name}: {wide} pixels in {width}; {thrown}"
        opened.close()

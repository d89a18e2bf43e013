"""The course as a static site: `python -m i2vlib.course.site [--out build/site]`, which is `make site`.

Pages are made from the committed notebooks, whose outputs are those of a whole run (tests/test_notebooks.py); nothing is
executed here. The landing page is README.md, with the shipped models live above and in it (i2vlib.course.front). All that a page
needs lies in the site, is linked relatively, and works from a file, a sub-folder of a server or GitHub Pages; onnxruntime-web and
MathJax are fetched once, and without them models are pictures and formulas come from a CDN.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

from i2vlib.course.claims import MIME
from i2vlib.course.front import placed, write_live, write_mathjax
from i2vlib.course.results_page import inert_outputs

ROOT = Path(__file__).resolve().parents[2]
TITLE = "Image models become video models"
BADGE = Path(__file__).resolve().parents[1] / "assets" / "open_in_colab.svg"  # ours, in place of Colab's, which lies abroad
NOWHERE = "OWNER/REPO"  # what the repository is called until `make badges` names one
SIGNS = (".buildinfo", ".nojekyll", "index.html")  # all that a site of ours has: one of them alone may be anyone's
CONFIG = {  # what conf.py says
    "project": TITLE, "html_title": TITLE, "html_theme": "furo", "html_css_files": ["site.css"], "html_static_path": ["_static"],
    "extensions": ["myst_nb", "sphinx.ext.githubpages"],  # the second writes .nojekyll: folders with _ are served
    "myst_enable_extensions": ["dollarmath", "amsmath"],
    "nb_execution_mode": "off", "nb_merge_streams": True,
    "nb_render_markdown_format": "myst",  # outputs in Markdown are tables, often with formulas
    "nb_ipywidgets_js": {},  # no widget lives without a kernel, so their scripts are not fetched
    "html_copy_source": False, "html_show_sourcelink": False, "html_show_copyright": False, "html_use_index": False,
}
TREE = """
```{toctree}
:hidden:
:caption: The course
:glob:

notebooks/[0-9]*
```

```{toctree}
:hidden:
:caption: Beside it

notebooks/symbols
measured
data/README
```
"""


class SiteError(RuntimeError):
    """The site could not be made; the message says why."""


def build(out: Path, root: Path = ROOT) -> list[Path]:
    """Make the site of the repository at `root` in the folder `out`, in place of what lies there; its pages.

    Raises SiteError where Sphinx warns of anything (a link without an end, an unknown output, broken markup): it has written
    its words to stderr. Then there is no `out`, not an old one either. Raises SiteError, too, where `out` is or lies in a file,
    is a checkout of git, or holds anything but a site: it would be lost.
    """
    make_room(out)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".site-") as folder:  # myst-nb writes beside its output, too
        source, made = Path(folder) / "source", Path(folder) / "html"
        for line in write_sources(source, root):
            print(line)
        command = [sys.executable, "-m", "sphinx", "-qW", "--keep-going", "-d", str(Path(folder) / "doctrees")]
        if subprocess.run([*command, str(source), str(made)]).returncode:  # a process: docutils keeps what Sphinx registers
            raise SiteError("Sphinx warned, and a warning is an error here: see above")
        (made / "_sources").rmdir()  # empty, as html_copy_source has it
        made.rename(out)
    return sorted(out.rglob("*.html"))


def make_room(out: Path) -> None:
    """Remove an earlier site at `out` and make the folder around it. Raises SiteError for anything else that lies there."""
    allowed = "allowed is a new folder, an empty one or an earlier site"
    if out.exists() and not out.is_dir():
        raise SiteError(f"{out} is a file: {allowed}")
    if (out / ".git").exists():  # such as a checkout of gh-pages, which looks like a site
        raise SiteError(f"{out} is a checkout of git, whose history would be lost: {allowed}, to be copied into it")
    if out.exists() and any(out.iterdir()) and not all((out / name).exists() for name in SIGNS):
        raise SiteError(f"{out} holds something else than a site: {allowed}")
    shutil.rmtree(out, ignore_errors=True)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SiteError(f"{out} cannot be made: {error}") from error


def write_sources(source: Path, root: Path = ROOT) -> list[str]:
    """What Sphinx reads, laid out as the repository is, so that the links in its texts hold; what could not be fetched, in words.

    Raises SiteError.
    """
    paths = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise SiteError(f"no notebook in {root / 'notebooks'}: the site is made in a checkout of the repository")
    shutil.copytree(root / "notebooks" / "figures", source / "notebooks" / "figures")
    for name in ("data", "_static"):
        (source / name).mkdir()
    shutil.copy(root / "data" / "README.md", source / "data")
    shutil.copy(root / "notebooks" / "symbols.md", source / "notebooks")
    shutil.copy(Path(__file__).with_name("site.css"), source / "_static")
    shutil.copy(BADGE, source / "_static")
    names = {p.name[:2]: p.name for p in paths}
    for path in paths:
        nbformat.write(page(nbformat.read(path, 4), {n: name for n, name in names.items() if name != path.name}),
                       source / "notebooks" / path.name)
    landing, measured = landing_pages((root / "README.md").read_text(encoding="utf-8"), names)
    still, abroad = write_live(source / "_static" / "live"), write_mathjax(source / "_static" / "mathjax")
    config = CONFIG | ({} if abroad else {"mathjax_path": "mathjax/tex-svg-full.js"})
    (source / "conf.py").write_text("".join(f"{key} = {value!r}\n" for key, value in config.items()))
    (source / "index.md").write_text(with_figures(landing, alive=not still) + TREE, encoding="utf-8")
    (source / "measured.md").write_text(measured, encoding="utf-8")
    return [line for line in (still, abroad) if line]


def page(notebook, others: dict[str, str]):
    """A notebook as the site shows it: solutions, the setup cell and what draws figures folded, other notebooks linked where they
    are named.

    others: number -> file name. The notebook is changed and returned. Claims lose the form that only the page of results reads;
    the badge is the site's own, or none as long as its link leads nowhere.
    """
    setup = True
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = link_notebooks(own_badge(cell.source), others)
        elif cell.cell_type == "code":
            for output in cell.outputs:
                output.get("data", {}).pop(MIME, None)
            if setup:
                fold(cell, "hide-input", "the setup cell")
            elif "solution" in cell.metadata.get("tags", []):
                fold(cell, "hide-cell", "the solution")
            elif "figure" in cell.metadata.get("tags", []):
                fold(cell, "hide-input", "how the figure is drawn")
            setup = False
    return inert_outputs(notebook)


def fold(cell, tag: str, what: str) -> None:
    """Show a cell closed, under a line that opens it."""
    cell.metadata["tags"] = [*cell.metadata.get("tags", []), tag]
    cell.metadata["mystnb"] = {"code_prompt_show": f"Show {what}", "code_prompt_hide": f"Hide {what}"}


def own_badge(text: str) -> str:
    """Markdown with the image of the site in its Colab badge; without the badge where that opens the placeholder's repository."""
    def badge(found: re.Match) -> str:
        return "" if f"/{NOWHERE}/" in found[2] else f"[![{found[1]}](../_static/{BADGE.name})]({found[2]})"

    return re.sub(r"\[!\[([^]]*)\]\(https://colab\.research\.google\.com/assets/[^)]*\)\]\(([^)]*)\)", badge, text)


def link_notebooks(text: str, names: dict[str, str], folder: str = "") -> str:
    """Markdown with a link wherever "notebook NN" names one of `names` (number -> file name), but in headings and code."""
    def link(found: re.Match) -> str:
        name = names.get(found[1] or "")
        return f"[{found[0]}]({folder}{name})" if name else found[0]

    return re.sub(r"^#.*$|`[^`]*`|\[[^]]*\]|\bnotebook (\d\d)\b", link, text, flags=re.MULTILINE | re.IGNORECASE)


def landing_pages(readme: str, names: dict[str, str]) -> tuple[str, str]:
    """README.md in two: the landing page, its table of the course linked, and the section "Measured", a page of its own.

    Raises SiteError where the README has no such table or section.
    """
    text, linked = re.subn(r"^\| (\d\d) \| ([^|\[]+?) \|", lambda m: f"| {m[1]} | [{m[2]}](notebooks/{names[m[1]]}) |"
                           if m[1] in names else m[0], readme, flags=re.MULTILINE)
    parts = re.fullmatch(r"(.*?)^#(# Measured\n.*?)(^## .*)", text, re.MULTILINE | re.DOTALL)
    if not linked or not parts:
        raise SiteError("README.md: the site needs its table of the course (| 00 | name | question |) and its section Measured")
    first, measured, rest = parts.groups()
    return link_notebooks(first + rest, names, "notebooks/"), link_notebooks(measured, names, "notebooks/")


def with_figures(landing: str, alive: bool) -> str:
    """The landing page with the live figures, or pictures in their places: one under its title, one above its first section.

    Raises SiteError where it has neither.
    """
    parts = re.fullmatch(r"(# .*?\n)(.*?)(^## .*)", landing, re.MULTILINE | re.DOTALL)
    if not parts:
        raise SiteError("README.md: the site needs its title (# ...) and sections (## ...)")
    title, first, rest = parts.groups()
    motion, corrupted = (placed(name, "_static/live", alive) for name in ("motion", "corrupted"))
    return f"{title}\n{motion}\n{first}\n{corrupted}\n{rest}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site", help="folder for the site; what it holds is removed")
    out = parser.parse_args(arguments).out
    try:
        pages = build(out)
    except SiteError as error:
        print(error, file=sys.stderr)
        return 1
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    print(f"{len(pages)} pages, {size / 1e6:.0f} MB: {out / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

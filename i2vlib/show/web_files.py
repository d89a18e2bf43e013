"""Programs of others that a web page of the course runs, fetched once: onnxruntime-web for models, MathJax for formulas.

They come from the npm registry as its packages, pinned by hash, and the few files that are needed are kept in data/web/, so that
a page asks no other host for anything. Both are given out under licences that allow to serve them (MIT, Apache 2.0).
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from i2vlib.files import whole_file
from i2vlib.places import kept_in

REGISTRY = "https://registry.npmjs.org"


@dataclass(frozen=True, eq=False)  # one of each: they are told apart as objects, and a dict has no hash
class Package:
    """A package of the npm registry. integrity: SHA-512 of its archive, as the registry says it; files: name in it -> SHA-256."""

    name: str
    version: str
    integrity: str
    files: dict[str, str]

    @property
    def url(self) -> str:
        return f"{REGISTRY}/{self.name}/-/{self.name}-{self.version}.tgz"


RUNTIME = Package(  # newer ones do the same with a file that is a fifth larger
    "onnxruntime-web", "1.20.1",
    "TePF6XVpLL1rWVMIl5Y9ACBQcyCNFThZON/jgElNd9Txb73CIEGlklhYR3UEr1cp5r0rbGI6nDwwrs79g7WjoA==", {
        "dist/ort.wasm.min.mjs": "f53ed4792e758e7232f779d479eb8931b97ff3ab2e3b9a33ee00d1251ffdaad6",
        "dist/ort-wasm-simd-threaded.mjs": "745eb7c0ce6f18a6aa521971b2877babc7ffb27eecb58ab3bc6e5ef4692672e8",
        "dist/ort-wasm-simd-threaded.wasm": "207d02be4591c156b0a98f024f3d58005b5b04c92274d759fb390338c63559ea"})
MATHJAX = Package(  # 4 asks a CDN for parts of its fonts; this one draws with what it brings
    "mathjax", "3.2.2", "Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==", {
        "es5/tex-svg-full.js": "a4354ff94fd868aea0cc6eaaa79a57fda0588646fc46ee3700a349ee0a11cbe6",
        "LICENSE": "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"})


class WebFilesError(RuntimeError):
    """A package is not here and cannot be had, or is not the one that was pinned."""


def web_files(package: Package) -> dict[str, Path]:
    """Last part of its name -> each needed file of a package, whole and as pinned; fetched where one is not here.

    Raises WebFilesError without a network or for an archive that is another one, OSError where it cannot be written.
    """
    folder = kept_in("data/web") / f"{package.name}-{package.version}"
    paths = {name: folder / Path(name).name for name in package.files}
    if not all(_good(path, package.files[name]) for name, path in paths.items()):
        archive = download(package)
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in paths.items():
            with whole_file(path) as file:
                file.write(_member(archive, package, name))
    return {path.name: path for path in paths.values()}


def download(package: Package) -> bytes:
    """The archive of a package. Raises WebFilesError where the registry is not reachable or gives another one."""
    try:
        with urllib.request.urlopen(package.url, timeout=20) as answer:
            data = answer.read()
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise WebFilesError(f"{package.url} is not reachable ({getattr(error, 'reason', error)})") from error
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != package.integrity:
        raise WebFilesError(f"{package.url}: {len(data)} bytes that are not the archive that was pinned (by its SHA-512)")
    return data


def _good(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _member(archive: bytes, package: Package, name: str) -> bytes:
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            data = opened.extractfile(f"package/{name}").read()
    except (KeyError, tarfile.TarError, AttributeError) as error:
        raise WebFilesError(f"{package.url}: no {name} in it ({error})") from error
    if hashlib.sha256(data).hexdigest() != package.files[name]:
        raise WebFilesError(f"{package.url}: {name} is not the file that was pinned (by its SHA-256)")
    return data

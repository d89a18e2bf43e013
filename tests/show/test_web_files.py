"""i2vlib.show.web_files: programs of others, whole, as pinned, fetched once."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from dataclasses import replace

import pytest

from i2vlib.show import web_files as module
from i2vlib.show.web_files import Package, WebFilesError, web_files


def archive(**files: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/dist/{name}.js")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry in a folder with a package of two files, of which one is needed."""
    data = archive(tool=b"let x = 1;", other=b"let y = 2;")
    package = Package("tool", "1.0", base64.b64encode(hashlib.sha512(data).digest()).decode(),
                      {"dist/tool.js": hashlib.sha256(b"let x = 1;").hexdigest()})
    (tmp_path / "tool" / "-").mkdir(parents=True)
    (tmp_path / "tool" / "-" / "tool-1.0.tgz").write_bytes(data)
    monkeypatch.setattr(module, "REGISTRY", tmp_path.as_uri())
    monkeypatch.setattr(module, "kept_in", lambda name: tmp_path / "cache" / name)
    return package


def test_what_is_needed_is_kept_and_fetched_once(registry, tmp_path, monkeypatch):
    path = web_files(registry)["tool.js"]
    assert path == tmp_path / "cache/data/web/tool-1.0/tool.js" and path.read_bytes() == b"let x = 1;"
    assert list(path.parent.iterdir()) == [path], "something of the fetching was left"
    monkeypatch.setattr(module, "download", lambda package: pytest.fail("it is there"))
    assert web_files(registry) == {"tool.js": path}


def test_a_damaged_file_is_replaced_by_a_whole_one(registry):
    path = web_files(registry)["tool.js"]
    path.write_bytes(b"let x")
    assert web_files(registry)["tool.js"].read_bytes() == b"let x = 1;"


def test_what_is_not_as_pinned_is_refused_and_nothing_is_kept(registry, tmp_path):
    other = replace(registry, integrity="A" * 86 + "==")
    for package, said in ((other, "not the archive that was pinned"), (replace(registry, version="2.0"), "is not reachable"),
                          (replace(registry, files={"dist/none.js": ""}), "no dist/none.js in it"),
                          (replace(registry, files={"dist/other.js": "0"}), "other.js is not the file that was pinned")):
        with pytest.raises(WebFilesError, match=said):
            web_files(package)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]

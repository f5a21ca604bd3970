"""docs/api.md, word by word, against a server: only its address is another one."""

import re
import runpy
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlparse

import pytest

from .server import REPOSITORY, ComfyServer

pytestmark = pytest.mark.comfy

PAGE = (REPOSITORY / "docs" / "api.md").read_text("utf-8")


def blocks(language: str, server: ComfyServer) -> list[str]:
    text = PAGE.replace("127.0.0.1:8188", server.address)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the examples run: beside the workflows, and without writing into the repository."""
    shutil.copytree(REPOSITORY / "workflows" / "api", tmp_path / "workflows" / "api")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_example(
    comfy_server: ComfyServer, folder: Path, capsys: pytest.CaptureFixture[str]
):
    (folder / "example.py").write_text("\n".join(blocks("python", comfy_server)), "utf-8")

    runpy.run_path(str(folder / "example.py"))

    said = capsys.readouterr().out
    assert "step 4 of 4" in said
    assert "4 of 4 steps in" in said
    assert b"ftyp" in (folder / "video.mp4").read_bytes()[:16]
    assert (folder / "preview.webp").read_bytes()[8:12] == b"WEBP"


@pytest.mark.skipif(not shutil.which("curl"), reason="There is no curl.")
def test_the_curl_example(comfy_server: ComfyServer, folder: Path):
    (script,) = blocks("bash", comfy_server)

    subprocess.run(["bash", "-euc", script], check=True)

    assert b"ftyp" in (folder / "video.mp4").read_bytes()[:16]


def test_the_routes_of_the_page_answer(comfy_server: ComfyServer):
    routes = re.findall(r"^\| `GET (/wanduet/\S+)`", PAGE, re.MULTILINE)
    assert len(routes) >= 3
    for route in routes:
        answer = comfy_server.get(route.replace("FILE", "wan22-tiny-ti2v.safetensors"))
        assert "error" not in answer, route


def test_every_route_is_on_the_page():
    sources = "".join(path.read_text("utf-8") for path in (REPOSITORY / "nodes").rglob("*.py"))
    added = set(re.findall(r'table\.\w+\("(/wanduet/\w+)"', sources))
    told = {urlparse(found).path for found in re.findall(r"(/wanduet/[^`\s]+)", PAGE)}
    assert added
    assert added <= told

"""Real Chromium, the real frontend in two versions, and servers with toy checkpoints.

The newest frontend comes from a folder named by WANDUET_NEWEST_FRONTEND: the `static` folder of the
`comfyui-frontend-package` wheel, unpacked. Screenshots are saved below WANDUET_RESULTS, if
it is set.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from tests.comfy.server import REPOSITORY, ComfyServer, install_pack
from tests.conftest import missing
from tests.toy.make_checkpoints import SUBSTITUTES

from .chromium import find_chromium, start_chromium
from .editor import Editor, Mode
from .workflows import image_names

REQUIRED_BY = "WANDUET_REQUIRE_BROWSER"

MODES = (Mode("own", False), Mode("newest", False), Mode("newest", True))

VIEWPORT = {"width": 1800, "height": 1000}

ServerOf = Callable[[str], ComfyServer]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The one browser of the session."""
    executable = find_chromium()
    if executable is None:
        missing("No Chromium. Install it, or set CHROMIUM_PATH to its program.", REQUIRED_BY)
    assert executable is not None
    with sync_playwright() as playwright:
        running = start_chromium(playwright, executable)
        yield running
        running.close()


@pytest.fixture(scope="session")
def results() -> Path | None:
    """Folder for screenshots, which are made only where somebody wants them."""
    wanted = os.environ.get("WANDUET_RESULTS")
    if not wanted:
        return None
    Path(wanted).mkdir(parents=True, exist_ok=True)
    return Path(wanted)


@pytest.fixture(scope="session")
def base_folder(toy_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes server folders in which every file that the templates name exists, as a toy."""

    def make() -> Path:
        base = tmp_path_factory.mktemp("editor")
        shutil.copytree(toy_models, base / "models")
        for name, toy in SUBSTITUTES.items():
            for found in (base / "models").rglob(toy):
                os.link(found, found.with_name(name))
        install_pack(base / "custom_nodes")
        (base / "input").mkdir()
        for name in image_names(REPOSITORY / "workflows"):
            Image.linear_gradient("L").convert("RGB").save(base / "input" / name)
        return base

    return make


@pytest.fixture(scope="session")
def server_of(comfyui: Path, base_folder: Callable[[], Path]) -> Iterator[ServerOf]:
    """Returns the server that serves a frontend, started when it is first asked for."""
    servers: dict[str, ComfyServer] = {}
    with ExitStack() as stack:

        def start(frontend: str) -> ComfyServer:
            if frontend not in servers:
                server = ComfyServer(comfyui, base_folder(), arguments=arguments(frontend))
                servers[frontend] = stack.enter_context(server)
            return servers[frontend]

        yield start


def arguments(frontend: str) -> tuple[str, ...]:
    """Returns the server's arguments that choose a frontend."""
    if frontend == "own":
        return ()
    folder = os.environ.get("WANDUET_NEWEST_FRONTEND", "")
    if not folder:
        missing("No newest frontend. Set WANDUET_NEWEST_FRONTEND to its folder.", REQUIRED_BY)
    return ("--front-end-root", folder)


@pytest.fixture(scope="session", params=MODES, ids=lambda mode: mode.name)
def open_editor(
    request: pytest.FixtureRequest, browser: Browser, server_of: ServerOf
) -> Iterator[Editor]:
    """One page per way of running the editor, which all files share: loading it takes seconds."""
    mode: Mode = request.param
    context = browser.new_context(viewport=VIEWPORT)
    editor = Editor(context.new_page(), server_of(mode.frontend), mode)
    editor.open()
    yield editor
    context.close()


@pytest.fixture
def editor(open_editor: Editor) -> Iterator[Editor]:
    """The page with an empty graph. An error in its console fails the test."""
    open_editor.clear()
    yield open_editor
    assert open_editor.take_errors() == []

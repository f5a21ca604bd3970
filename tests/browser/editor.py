"""The graph editor in a browser page, driven the way its own scripts and a person drive it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import ConsoleMessage, Page

from tests.comfy.server import ComfyServer

READY = (
    "() => !!(window.app?.extensionManager && window.app.canvas && window.app.graph)"
    # Newer editors open a workflow of their own once there is a graph, in place of what is there.
    " && window.app.extensionManager.spinner === false"
)

SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.32.9",
    "Comfy.Minimap.Visible": False,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Workflow.Persist": False,
    "Comfy.Graph.CanvasInfo": False,
    # Draws every detail in the images of whole templates, however small.
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
    # The wheel zooms. The mode sets the other two, which it may find not yet registered.
    "Comfy.Canvas.NavigationMode": "legacy",
    "Comfy.Canvas.LeftMouseClickBehavior": "panning",
    "Comfy.Canvas.MouseWheelScroll": "zoom",
}

FOREIGN_ERRORS = re.compile(
    # Requests that this server or this machine's network does not answer.
    r"^Failed to load resource"
    r"|^Connecting to 'https://"
    # Frontend 1.32 stores a setting before it has registered it.
    r"|^TypeError: Cannot read properties of undefined \(reading 'id'\)\s+at onChange"
    # 0.3.75 reports no output of the second of two equal LoadImage nodes, which 1.32 stumbles over.
    r"|^Error calling extension 'Comfy\."
    # 1.49 asks for the graph's events before it has a graph.
    r"|^ComfyApp graph accessed before initialization"
    # A frontend newer than the server asks for its newer interface.
    r"|Failed to fetch jobs|Failed to fetch queue|Error fetching"
)
"""Errors that the frontend logs with no pack installed. Those that name our files always count."""

LONGEST_WAIT = 300_000
"""Milliseconds: only what hangs takes so long, however busy the machine is."""

OUR_FILES = re.compile(r"/extensions/wan-duet/|/wanduet/")


@dataclass(frozen=True)
class Mode:
    """One way of running the editor."""

    frontend: str
    """"own" (that of the ComfyUI under test) or "newest"."""
    nodes2: bool
    """Nodes 2.0, drawn as HTML, instead of the canvas."""

    @property
    def name(self) -> str:
        """Such as "newest-nodes2"."""
        return f"{self.frontend}-{'nodes2' if self.nodes2 else 'canvas'}"


@dataclass(frozen=True)
class Panel:
    """What a schedule panel shows."""

    split: str
    """"High 9 | Low 11"."""
    values: str
    labels: list[str]
    note: str
    curves: list[list[tuple[float, float]]]
    """Per zone: (step, sigma) of each point, read back from the drawing."""
    boundary: float | None
    """Sigma at which the boundary line lies."""


class Editor:
    """A loaded page of the graph editor."""

    def __init__(self, page: Page, server: ComfyServer, mode: Mode) -> None:
        self.page = page
        self.server = server
        self.mode = mode
        self.errors: list[str] = []
        page.set_default_timeout(LONGEST_WAIT)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.errors.append(f"exception: {error.stack}"))

    def open(self, language: str = "en") -> None:
        """Loads the page and waits until the editor runs."""
        own = {"Comfy.VueNodes.Enabled": self.mode.nodes2, "Comfy.Locale": language}
        self.server.post("/settings", SETTINGS | own)
        self.page.goto(self.server.url)
        self.page.wait_for_function(READY)
        self.page.wait_for_function("() => 'WanDuetMoESampler' in LiteGraph.registered_node_types")
        self.page.evaluate(Path(__file__).with_name("page.js").read_text(encoding="utf-8"))

    def call(self, function: str, *arguments: Any) -> Any:
        """Calls a function of page.js."""
        return self.page.evaluate(f"(given) => wanduetTest.{function}(...given)", [*arguments])

    def settle(self) -> None:
        """Waits until changes have been drawn, and our routes have answered."""
        self.call("settle", LONGEST_WAIT)

    def clear(self) -> None:
        """Empties the graph."""
        self.call("clear")

    def load(self, workflow: Mapping[str, Any]) -> None:
        """Opens a workflow in graph format."""
        self.call("load", workflow)
        self.settle()

    def serialize(self) -> dict[str, Any]:
        """Returns the workflow as it would be saved."""
        return self.call("serialize")

    def api_prompt(self) -> dict[str, Any]:
        """Returns the workflow in API format, as the editor itself exports it."""
        return self.call("apiPrompt")

    def set_widgets(self, node_id: str, values: Mapping[str, Any]) -> None:
        """Changes widgets as their own controls do."""
        self.call("setWidgets", node_id, dict(values))

    def panel(self, node_id: str) -> Panel:
        """Reads the schedule panel of a node."""
        return Panel(**self.call("readPanel", node_id))

    def run(self, timeout: float = 600) -> dict[str, Any]:
        """Queues the graph and returns the last message about it: {"type", "detail"}."""
        return self.call("run", timeout * 1000)

    def screenshot(self, results: Path | None, name: str) -> None:
        """Saves a screenshot of the page for people to look at, if there is a folder for it."""
        if results:
            self.page.screenshot(path=results / f"{self.mode.name}-{name}.png")

    def accessibility_faults(self, selector: str) -> list[str]:
        """Returns what axe-core finds wrong with the elements, rule and element by rule."""
        found = Axe().run(self.page, context={"include": [selector]}).response["violations"]
        return [f"{rule['id']}: {at['html']}" for rule in found for at in rule["nodes"]]

    def take_errors(self) -> list[str]:
        """Returns the errors since the last call."""
        errors, self.errors = self.errors, []
        return errors

    def _on_console(self, message: ConsoleMessage) -> None:
        text = f"{message.text} ({message.location.get('url', '')})"
        ours = OUR_FILES.search(text)
        if message.type == "error" and (ours or not FOREIGN_ERRORS.search(message.text)):
            self.errors.append(text)


def saved(workflow: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a workflow as it comes back from a file."""
    return json.loads(json.dumps(workflow))

"""The editor in Chinese: nodes, our panels, and a help page with its image."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from .conftest import VIEWPORT, ServerOf
from .editor import Editor, Mode

pytestmark = pytest.mark.browser

SAMPLER = "WanDuetMoESampler"

OPEN_HELP = """async (type) => {
  const root = document.querySelector("#vue-app").__vue_app__.config.globalProperties;
  const store = (name) => root.$pinia._s.get(name);
  await app.extensionManager.command.execute("Workspace.ToggleSidebarTab.node-library");
  store("nodeHelp").openHelp(store("nodeDef").nodeDefsByName[type]);
}"""
IMAGE = ".node-help-content img"


@pytest.fixture(scope="module", params=["own", "newest"])
def chinese(
    request: pytest.FixtureRequest, browser: Browser, server_of: ServerOf
) -> Iterator[Editor]:
    context = browser.new_context(viewport=VIEWPORT, locale="zh-CN")
    editor = Editor(context.new_page(), server_of(request.param), Mode(request.param, False))
    editor.open("zh")
    yield editor
    context.close()


def test_the_editor_speaks_chinese(chinese: Editor, results: Path):
    node = chinese.call("add", SAMPLER, 700, 100)
    chinese.settle()
    labels = chinese.page.evaluate(
        """(id) => {
          const node = wanduetTest.node(id);
          return [node.title, ...node.widgets.map((widget) => widget.label ?? widget.name)];
        }""",
        node,
    )
    assert labels[:2] == ["Wan 2.2 采样器", "种子"]
    assert "CFG" in labels[4]
    assert chinese.panel(node).note == "连接模型后显示它的官方设置。"
    assert chinese.panel(node).split.startswith("高噪声")

    chinese.page.evaluate(OPEN_HELP, SAMPLER)
    chinese.page.wait_for_function(
        f"() => document.querySelector('{IMAGE}')?.naturalWidth > 0", timeout=20_000
    )
    help_text = chinese.page.locator(".node-help-content").inner_text()
    assert "示例" in help_text
    assert "返回剩余噪声" in help_text
    chinese.screenshot(results, "help-zh")
    assert chinese.take_errors() == []

"""The editor in Chinese: nodes, our panels, and a help page with its image."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from .conftest import VIEWPORT, ServerOf
from .editor import Editor, Mode

pytestmark = pytest.mark.browser

SAMPLER = "WanDuetMoESampler"
SELECT = "(id) => app.canvas.selectNode(wanduetTest.node(id))"
LABELS = """(id) => {
  const node = wanduetTest.node(id);
  return [node.title, ...node.widgets.map((widget) => widget.label ?? widget.name)];
}"""
IMAGE_IS_THERE = "() => document.querySelector('.node-help-content img')?.naturalWidth > 0"


@pytest.fixture(scope="module", params=["own", "newest"])
def chinese(
    request: pytest.FixtureRequest, browser: Browser, server_of: ServerOf
) -> Iterator[Editor]:
    context = browser.new_context(viewport=VIEWPORT, locale="zh-CN")
    editor = Editor(context.new_page(), server_of(request.param), Mode(request.param, False))
    editor.open("zh")
    yield editor
    context.close()


def test_the_editor_speaks_chinese(chinese: Editor, results: Path | None):
    node = chinese.call("add", SAMPLER, 700, 250)
    chinese.settle()
    names = chinese.page.evaluate(LABELS, node)
    if chinese.mode.frontend == "newest":  # 1.32 forgets packs' names when it loads a language
        assert names[:2] == ["Wan 2.2 采样器", "种子"]
    assert chinese.panel(node).split.endswith("步")
    assert chinese.panel(node).note == "连接模型后显示它的官方设置。"

    chinese.page.evaluate(SELECT, node)
    chinese.page.get_by_test_id("info-button").click()
    chinese.page.wait_for_function(IMAGE_IS_THERE)
    text = chinese.page.locator(".node-help-content").inner_text()
    assert "示例" in text
    assert "返回剩余噪声" in text
    chinese.screenshot(results, "help-zh")
    assert chinese.take_errors() == []

"""Where a CPU multiplies no fp8, tests of that are skipped, and no others."""

from typing import Any

import pytest

MISSING = NotImplementedError("Could not run 'aten::_scaled_mm' with arguments from the 'CPU'.")


@pytest.fixture
def suite(request: pytest.FixtureRequest) -> Any:
    """The suite's conftest."""
    plugins = request.config.pluginmanager.get_plugins()
    (found,) = [plugin for plugin in plugins if hasattr(plugin, "cpu_multiplies_fp8")]
    return found


@pytest.mark.parametrize(
    ("multiplies", "error", "ends"),
    [
        (False, MISSING, pytest.skip.Exception),
        (True, MISSING, NotImplementedError),
        (False, NotImplementedError("something else"), NotImplementedError),
        (False, AssertionError("1 == 2"), AssertionError),
    ],
)
def test_only_what_the_cpu_lacks(
    suite: Any,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    multiplies: bool,
    error: Exception,
    ends: type[BaseException],
) -> None:
    monkeypatch.setattr(suite, "cpu_multiplies_fp8", lambda: multiplies)
    hook = suite.pytest_runtest_call(request.node)
    next(hook)
    with pytest.raises(ends):
        hook.throw(error)


def test_results_pass(suite: Any, request: pytest.FixtureRequest) -> None:
    hook = suite.pytest_runtest_call(request.node)
    next(hook)
    with pytest.raises(StopIteration) as ended:
        hook.send("result")
    assert ended.value.value == "result"

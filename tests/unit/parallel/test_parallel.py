"""A forward pass split over processes gives what it gives in one."""

import json
import multiprocessing
import re
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch.multiprocessing import start_processes

from tests.unit.dit.toy import make_dit
from tests.unit.parallel.ranks import RANKS, Report, start
from wan_model.errors import SettingsError
from wan_model.parallel import Sharing, check_ulysses, fitting_ranks
from wan_model.parallel.team import shares


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> list[Report]:
    """What each rank found."""
    folder = tmp_path_factory.mktemp("ranks")
    model = make_dit("ti2v", num_heads=2, dim=256, freq_dim=256, text_len=512)
    save_file(model.state_dict(), folder / "model.safetensors")
    # One process imports PyTorch, and the ranks are made of it.
    multiprocessing.get_context("forkserver").set_forkserver_preload([start.__module__])
    start_processes(start, (str(folder),), nprocs=RANKS, start_method="forkserver")
    return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(RANKS)]


def test_every_split_is_exact(reports):
    errors = {
        (name, rank): value
        for rank, report in enumerate(reports)
        for name, value in report.items()
        if isinstance(value, float)
    }
    assert len(errors) == 2 * 11 + 3 * 3 + 4 * 3 + 4 * 8 + 2 * 8 + (2 + 3) * 4 + 4 * 2
    wrong = {case: e for case, e in errors.items() if not e < (1e-3 if case[0] == "bf16" else 1e-5)}
    assert not wrong


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("heads", r"Got 3 for 4 heads, need one of 1, 2, 4\."),
        ("tokens", r"Got 4 for 3 tokens, need one of 1, 2, 3\."),
        ("rows", r"Got 3 for 2 rows of the latent, need 2 at most\."),
        ("ranks", r"Got 3 x 1 for 4 of them, need a product of 4\."),
    ],
)
def test_what_cannot_be_split_is_refused(reports, case, message):
    said = [report[case] for report in reports if case in report]
    assert said
    assert all(re.search(message, str(line)) for line in said)


def test_what_sharing_gains():
    """Sending takes as long as computing a half, then ten times as long."""
    assert Sharing(2.0, 100, 100.0, 2).gain == 1
    assert Sharing(2.0, 100, 1000.0, 2).gain == pytest.approx(2 / 1.1)


def test_degrees():
    assert fitting_ranks(40, 32760) == [1, 2, 4, 5, 8, 10, 20, 40]
    assert fitting_ranks(24, 5) == [1, 2, 3, 4]
    with pytest.raises(SettingsError, match=r"Got 3 for 40 heads, need one of 1, 2, 4, 5, 8"):
        check_ulysses(40, 32760, 3)


@pytest.mark.parametrize(("count", "ranks"), [(45, 2), (45, 4), (3, 4), (8, 4)])
def test_shares(count, ranks):
    found = shares(count, ranks)
    assert sum(found) == count
    assert max(found) - min(found) <= 1

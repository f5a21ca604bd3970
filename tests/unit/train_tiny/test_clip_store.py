"""Training clips: made once, and again when what they depend on has changed."""

from dataclasses import replace

import pytest
import torch

from tests.unit.train_tiny.micro import CPU, micro_recipe
from tools.train_tiny import clip_store
from tools.train_tiny.clip_store import training_clips
from tools.train_tiny.runs import open_dit_stage

GROUP = 4


@pytest.fixture(autouse=True)
def few_clips(monkeypatch):
    monkeypatch.setattr(clip_store, "GROUP", GROUP)


@pytest.fixture
def maker(trained):
    return open_dit_stage("i2v_low", micro_recipe(), trained, CPU).makers["train"]


def test_clips_are_made_once(maker, trained, tmp_path):
    vae = trained.weights("vae21")
    made = training_clips(maker, GROUP + 1, tmp_path, vae)
    (file,) = tmp_path.iterdir()
    changed = file.stat().st_mtime_ns
    read = training_clips(maker, GROUP + 1, tmp_path, vae)
    assert file.stat().st_mtime_ns == changed
    assert set(made) == set(read) == {"latent", "tokens", "cond"}
    assert all(torch.equal(made[name], read[name]) for name in made)
    assert len(made["latent"]) == 2 * GROUP
    second = maker.group(1, GROUP)
    assert torch.equal(made["cond"][GROUP:], second["cond"].bfloat16())
    assert torch.equal(made["tokens"][GROUP:], second["tokens"])


def test_other_clips_get_another_file(maker, trained, tmp_path):
    vae = trained.weights("vae21")
    training_clips(maker, GROUP, tmp_path, vae)
    training_clips(replace(maker, captions=1), GROUP, tmp_path, vae)
    training_clips(replace(maker, last_frame_probability=0.5), GROUP, tmp_path, vae)
    training_clips(maker, GROUP, tmp_path, trained.weights("vae22"))
    assert len(list(tmp_path.iterdir())) == 4

"""Every stage of a recipe of micro size: it learns, can be resumed, and gives files that load."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.unit.train_tiny.micro import CPU, STEPS, micro_recipe, run
from tools.train_tiny.config import Recipe
from tools.train_tiny.dit import start_from
from tools.train_tiny.export import LIMIT_BYTES, NAMES, export_all
from tools.train_tiny.files import TrainingFolder
from tools.train_tiny.import_shipped import import_shipped
from tools.train_tiny.preview import SHOWN_FRAMES, preview
from tools.train_tiny.runs import open_dit_stage, open_tokenizer
from tools.train_tiny.sizes import shipped_sizes
from tools.train_tiny.text_stage import TextStage
from tools.train_tiny.trainer import LOG_STEPS, Trainer, learning_rate_factor
from tools.train_tiny.vae import VaeStage
from wan_model import detect, load_dit, load_vae

STAGES = tuple(micro_recipe().stages)


def overfit(stage, tmp_path, steps: int) -> tuple[float, float]:
    """Returns the loss of step 0 before and after training on nothing but step 0, unvalidated."""
    batch = stage.batch(0)
    first = stage.loss(batch)[0].item()
    stage.batch, stage.validate = lambda *_: batch, dict
    stage.optimisation = replace(stage.optimisation, steps=steps)
    trainer = Trainer(stage, tmp_path / "state.pt", steps=steps)
    trainer.run(seconds=300)
    trainer.weights.put(trainer.weights.current)
    return first, stage.loss(batch)[0].item()


@pytest.mark.parametrize(("name", "dtype"), [("vae21", torch.float32), ("vae22", torch.bfloat16)])
def test_a_vae_learns_one_batch(name, dtype, tmp_path):
    stage = VaeStage(name, micro_recipe(), CPU, dtype)
    before, after = overfit(stage, tmp_path, 4)
    assert after < 0.8 * before


def test_the_text_encoder_learns_one_batch(trained, tmp_path):
    recipe = micro_recipe()
    stage = TextStage("text_encoder", recipe, CPU, open_tokenizer(recipe, trained))
    before, after = overfit(stage, tmp_path, 20)
    assert after < 0.7 * before


@pytest.mark.parametrize("name", ["i2v_high", "ti2v"])
def test_a_transformer_learns_one_batch(name, trained, tmp_path):
    stage = open_dit_stage(name, micro_recipe(), trained, CPU)
    before, after = overfit(stage, tmp_path, 10)
    assert after < 0.9 * before
    assert all(parameter.grad is None for parameter in stage.model.parameters())


def test_the_schedule_is_cut_to_the_time(tmp_path):
    stage = VaeStage("vae22", micro_recipe(), CPU, torch.float32)
    stage.optimisation = replace(stage.optimisation, steps=100_000)
    trainer = Trainer(stage, tmp_path / "state.pt")
    trainer.progress.step = 2 * LOG_STEPS
    trainer._fit_schedule(rate=10.0, seconds_left=100.0)
    assert trainer.progress.total == pytest.approx(2 * LOG_STEPS + 970, abs=1)
    trainer.progress.step = 900  # the learning rate falls already
    trainer._fit_schedule(rate=100.0, seconds_left=100.0)
    assert trainer.progress.total == pytest.approx(2 * LOG_STEPS + 970, abs=1)


def test_the_learning_rate_rises_stays_and_falls_to_almost_nothing():
    recipe = replace(micro_recipe().vaes["vae21"].optimisation, warmup_steps=10)
    factors = [learning_rate_factor(step, 100, recipe) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:50] == [1.0] * 41
    assert factors[99] == pytest.approx(1 / 50)


@pytest.mark.parametrize("stages", [("i2v_high", "i2v_low"), ("ti2v",)], ids=lambda s: s[0])
def test_a_preview_shows_clips(stages, trained, tmp_path):
    output = tmp_path / "preview.png"
    preview(stages, micro_recipe(), trained, output, device=CPU, clips=2, steps=2)
    with Image.open(output) as image:
        assert image.size == (SHOWN_FRAMES * 32, 2 * 32)


@pytest.mark.parametrize("name", ["text_encoder", "vae22", "t2v_small"])
def test_a_resumed_run_ends_with_the_same_weights(name, trained, tmp_path):
    recipe = micro_recipe()
    folder = TrainingFolder(tmp_path)
    folder.tokenizer.write_bytes(trained.tokenizer.read_bytes())
    for part in {"text_encoder", *recipe.vaes} - {name}:
        folder.write_weights(part, trained.read_weights(part), {})
    assert run(name, folder, recipe, stop_after=2).step == 2
    assert run(name, folder, recipe).step == STEPS
    weights, expected = folder.read_weights(name), trained.read_weights(name)
    assert all(torch.equal(weights[key], expected[key]) for key in expected)


def test_every_stage_leaves_weights_and_a_curve(trained):
    for stage in STAGES:
        assert trained.metadata(stage)["recipe"] == micro_recipe().digest()
        assert trained.metadata(stage)["licence"] == "Apache-2.0"
        assert "val_" in trained.log(stage).read_text()


def test_shipped_files_are_recognised_and_load(trained):
    kinds = {"t2v": "t2v", "i2v": "i2v", "ti2v": "ti2v"}
    for path in export_all(micro_recipe(), trained):
        info = detect(path)
        stage = next(stage for stage, name in NAMES.items() if name == path.stem)
        if stage.startswith("vae"):
            load_vae(path).decode(torch.zeros(1, info.config.z_dim, 2, 1, 1))
        elif stage != "text_encoder":
            kind, _, expert = stage.partition("_")
            assert (info.kind, info.expert) == (kinds[kind], expert or None)
            assert info.format == "fp8 scaled"
            load_dit(path)
        else:
            assert info.component == "text_encoder"
            assert load_file(path)["spiece_model"].dtype == torch.uint8


def test_a_shipped_transformer_computes_what_was_trained(trained):
    recipe = micro_recipe()
    stage = open_dit_stage("i2v_low", recipe, trained, CPU)
    state = trained.read_weights("i2v_low")
    stage.dit.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    path = next(p for p in export_all(recipe, trained) if "i2v-low" in p.name)
    shipped = load_dit(path, dtype=torch.float32)
    rng = torch.Generator().manual_seed(0)
    latent, cond = (torch.randn(2, c, 3, 4, 4, generator=rng) for c in (16, 20))
    text = torch.randn(2, 30, recipe.text.dim, generator=rng)
    text[1, 20:] = 0
    inputs = latent, torch.tensor([400.0, 900.0]), text, cond
    with torch.no_grad():
        difference = shipped(*inputs) - stage.dit(*inputs)
    assert difference.abs().max() < 1e-5


def test_the_next_expert_begins_with_the_weights_of_the_last(trained):
    recipe = micro_recipe()
    state = trained.read_weights("t2v_high")
    stage = open_dit_stage("i2v_high", recipe, trained, CPU)
    start_from(stage.dit, state)
    started = stage.dit.state_dict()
    assert torch.equal(started["blocks.0.ffn.0.weight"], state["blocks.0.ffn.0.weight"].float())
    patch = started["patch_embedding.weight"]
    assert torch.equal(patch[:, :16], state["patch_embedding.weight"].float())
    assert not patch[:, 16:].any()


def test_the_real_sizes_fit_the_limit():
    tokenizer_and_headers = 500_000
    total = sum(size.file_bytes for size in shipped_sizes(Recipe()))
    assert total + tokenizer_and_headers < LIMIT_BYTES


def test_stages_begin_with_stages_of_their_own_size():
    dits = Recipe().dits
    begun = [(dit, dits[dit.init_from]) for dit in dits.values() if dit.init_from]
    assert all(dit.size == source.size for dit, source in begun)


def test_a_stage_begins_with_shipped_files(trained, tmp_path):
    recipe = micro_recipe()
    export_all(recipe, trained)
    folder = TrainingFolder(tmp_path)
    folder.write_weights("vae22", trained.read_weights("vae21"), {})
    imported = import_shipped(trained.export, folder)
    assert set(imported) == set(NAMES) - {"vae22"}  # what was there stays
    assert folder.tokenizer.read_bytes() == trained.tokenizer.read_bytes()
    for stage in imported:
        before, after = trained.read_weights(stage), folder.read_weights(stage)
        absent = {"encoder.embed_tokens.weight"} if stage == "text_encoder" else set()
        assert set(after) == set(before) - absent
        for name, weight in after.items():
            error = (weight.float() - before[name].float()).abs().max()
            assert error <= before[name].abs().max() / 16, name  # half a step of fp8
    with pytest.raises(FileNotFoundError, match="Got no file"):
        import_shipped(tmp_path / "empty", folder)

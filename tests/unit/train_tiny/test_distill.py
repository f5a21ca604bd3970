"""The four-step LoRAs: what the teacher says, that a student learns it, and the files."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.unit.train_tiny.micro import CPU, micro_recipe
from tests.unit.train_tiny.test_stages import overfit
from tools.tiny_generate.loras import give_lora
from tools.train_tiny.distill import export_loras, run_distillation
from tools.train_tiny.distill_config import Distillation
from tools.train_tiny.distill_legs import Teacher, Told, run_student
from tools.train_tiny.distill_stage import DistillStage
from tools.train_tiny.dit import start_from
from tools.train_tiny.files import TrainingFolder
from tools.train_tiny.runs import open_dit_stage
from wan_model import load_dit
from wan_model.lora import open_lora
from wan_model.quant import Linear

STEPS = 8


def micro_distillation() -> Distillation:
    """Returns the real recipe with everything small."""
    real = Distillation()
    stages = {
        name: replace(
            stage,
            rank=8,
            clips=8,
            group_size=2,
            groups=2,
            refresh_steps=3,
            solver_steps=(2, 1, 1, 1),
            optimisation=replace(
                stage.optimisation, steps=STEPS, batch_size=4, warmup_steps=1, ema_decay=0.5
            ),
        )
        for name, stage in real.stages.items()
    }
    return Distillation(stages=stages)


class Towards:
    """A transformer that always thinks of the same clip."""

    def __init__(self, clip: Tensor) -> None:
        self.clip, self.asked = clip, list[float]()

    def __call__(self, x: Tensor, timestep: Tensor, *told: Tensor | None) -> Tensor:
        assert len(told) == 2
        self.asked.append(float(timestep[0]))
        sigma = timestep.view(-1, 1, 1, 1, 1) / 1000
        return (x - self.clip) / sigma


def test_the_four_steps_are_two_for_each_expert():
    for own in Distillation().stages.values():
        assert own.first_step == (0 if own.expert == "high" else 2)
        assert own.levels == pytest.approx([1, 0.9375, 0.83333, 0.625, 0], abs=1e-4)


def test_the_teacher_goes_where_its_experts_lead_and_changes_them_at_the_boundary():
    rng = torch.Generator().manual_seed(0)
    clip, start = torch.randn(2, 1, 16, 2, 4, 4, generator=rng)
    high, low = Towards(clip), Towards(clip)
    told = Told(torch.zeros(1, 1, 8), torch.zeros(1, 1, 8), None)
    end = Teacher("t2v", (high, low)).follow(start, 1.0, 0.5, 6, told)
    torch.testing.assert_close(end, 0.5 * clip + 0.5 * start, atol=2e-3, rtol=0)
    assert min(high.asked) >= 875 > max(low.asked)
    assert high.asked[0] == 1000
    led = run_student(high, start, (1.0, 0.9, 0.5), told)
    torch.testing.assert_close(led, 0.5 * clip + 0.5 * start)


@pytest.fixture(scope="module")
def folder(trained: TrainingFolder, tmp_path_factory: pytest.TempPathFactory) -> TrainingFolder:
    """Both LoRAs of I2V, the first one stopped and gone on with."""
    folder, recipe = TrainingFolder(tmp_path_factory.mktemp("distill")), micro_recipe()
    folder.tokenizer.write_bytes(trained.tokenizer.read_bytes())
    for part in ("text_encoder", "vae21", "i2v_high", "i2v_low"):
        folder.write_weights(part, trained.read_weights(part), {})
    for name, stop in (("high", 4), ("high", None), ("low", None)):
        progress = run_distillation(
            f"i2v_lightning_{name}",
            recipe,
            micro_distillation(),
            folder,
            device=CPU,
            seconds=300,
            steps=STEPS,
            stop_after=stop,
        )
        assert progress.step == (stop or STEPS)
    return folder


def test_a_student_learns_one_batch(folder: TrainingFolder, tmp_path: Path):
    recipe = micro_recipe()
    stages = [open_dit_stage(f"i2v_{name}", recipe, folder, CPU) for name in ("high", "low", "low")]
    for stage, name in zip(stages, ("high", "low", "low"), strict=True):
        start_from(stage.dit, folder.read_weights(f"i2v_{name}"))
    own = micro_distillation().stages["i2v_lightning_low"]
    before, after = overfit(
        DistillStage(own, (stages[0], stages[1]), stages[2], stages[0]), tmp_path, STEPS
    )
    assert after < 0.9 * before


def test_their_files_fit_the_experts_and_say_what_they_are(
    folder: TrainingFolder, trained: TrainingFolder
):
    files = export_loras(micro_distillation(), folder)
    names = [f"wan22-tiny-i2v-lightning-{expert}-noise" for expert in ("high", "low")]
    assert [file.stem for file in files] == names
    for file, expert in zip(files, ("i2v_high", "i2v_low"), strict=True):
        dit = load_dit(trained.weights(expert))
        found = give_lora(dit, file)
        assert found is not None
        assert found.values("i2v").steps == 4
        layers = [layer for layer in dit.modules() if isinstance(layer, Linear)]
        changed = [layer for layer in layers if layer.adapters]
        assert len(changed) == 10 * len(dit.blocks) + 1
        assert any(float(layer.adapters[0].b.abs().sum()) > 0 for layer in changed)
        renamed = file.with_name("style.safetensors")
        renamed.write_bytes(file.read_bytes())
        by_title = open_lora(renamed).distilled
        assert by_title is not None
        assert by_title.sign == "the title in it"

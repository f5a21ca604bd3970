"""Two processes that train one transformer together."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.unit.train_tiny.micro import CPU, micro_recipe, run
from tools.train_tiny.files import TrainingFolder
from tools.train_tiny.peers import AVERAGE_STEPS, Peers
from tools.train_tiny.runs import open_dit_stage
from tools.train_tiny.trainer import Trainer

ROOT = Path(__file__).parents[3]
STEPS_TOGETHER = AVERAGE_STEPS + 2
"""The last ones are not followed by an average of their own."""


def train(rank: int, out: Path) -> None:
    """Entry of a process; leaves what it has seen and learned in a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/meet", rank=rank, world_size=2)
    peers = Peers(rank, 2)
    stage = open_dit_stage("ti2v", micro_recipe(), TrainingFolder(out), CPU, peers)
    stage.validate = dict
    trainer = Trainer(stage, out / f"state{rank}.pt", steps=STEPS_TOGETHER, peers=peers)
    trainer.run(seconds=300)
    weights = torch.cat([weight.flatten() for weight in trainer.weights.average])
    torch.save({"tokens": stage.clips["tokens"], "weights": weights}, out / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_processes_train_on_clips_of_their_own_and_end_with_the_same_weights(trained, tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.unit.train_tiny.test_peers import train; "
    )
    code += "train(int(sys.argv[1]), Path(sys.argv[2]))"
    folder = TrainingFolder(tmp_path)
    folder.tokenizer.write_bytes(trained.tokenizer.read_bytes())
    for part in ("text_encoder", "vae22"):
        folder.write_weights(part, trained.read_weights(part), {})
    commands = [[sys.executable, "-c", code, str(rank), str(tmp_path)] for rank in (0, 1)]
    processes = [subprocess.Popen(command, cwd=ROOT) for command in commands]
    assert [process.wait() for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert torch.equal(first["weights"], second["weights"])
    assert not torch.equal(first["tokens"], second["tokens"])
    assert [(tmp_path / f"state{rank}.pt").is_file() for rank in (0, 1)] == [True, False]


def test_only_transformers_are_trained_together(trained):
    with pytest.raises(ValueError, match="without torchrun"):
        run("vae22", trained, micro_recipe(), peers=Peers(0, 2))

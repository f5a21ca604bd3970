"""The files of a training folder.

```
tokenizer.model                sentencepiece
state/STAGE.pt                 everything needed to go on with a stage; large
weights/STAGE.safetensors      averaged weights in bf16, what later stages begin with
weights/text_encoder.safetensors
logs/STAGE.json                loss curve
clips/                         encoded training clips, GB; made again where they are missing
export/wan22-tiny-*            what is shipped
```
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .trainer import Progress

State = dict[str, Tensor]


@dataclass(frozen=True)
class TrainingFolder:
    """Names and reads what stages leave for each other."""

    path: Path

    @property
    def tokenizer(self) -> Path:
        """The sentencepiece model."""
        return self.path / "tokenizer.model"

    @property
    def export(self) -> Path:
        """Folder of what is shipped."""
        return self.path / "export"

    @property
    def clips(self) -> Path:
        """Folder of encoded clips."""
        return self.path / "clips"

    def state(self, stage: str) -> Path:
        """Everything needed to go on with a stage."""
        return self.path / "state" / f"{stage}.pt"

    def weights(self, stage: str) -> Path:
        """Averaged weights of a stage, or of "text_encoder"."""
        return self.path / "weights" / f"{stage}.safetensors"

    def log(self, stage: str) -> Path:
        """The loss curve of a stage."""
        return self.path / "logs" / f"{stage}.json"

    def read_weights(self, stage: str) -> State:
        """Returns the weights of a stage, bf16.

        Raises:
            FileNotFoundError: says which stage to run first.
        """
        if not self.weights(stage).is_file():
            raise FileNotFoundError(
                f"The weights of {stage} are missing. Got no file {self.weights(stage)}, need the "
                f"result of an earlier stage. Run the stages in the order of `--help`."
            )
        return load_file(self.weights(stage))

    def write_weights(self, stage: str, state: State, metadata: dict[str, str]) -> None:
        """Writes weights as bf16."""
        path = self.weights(stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: t.detach().to("cpu", torch.bfloat16) for name, t in state.items()}
        save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata)

    def metadata(self, stage: str) -> dict[str, str]:
        """Returns the notes that the weights of a stage carry."""
        return read_metadata(self.weights(stage))

    def write_log(self, stage: str, progress: Progress) -> None:
        """Writes the loss curve."""
        path = self.log(stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(vars(progress), indent=1) + "\n")


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the text notes of a safetensors file."""
    with path.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return header.get("__metadata__", {})

"""What the files of a workflow are, by their headers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...wan_model.config import OFFICIAL, DiTConfig, Kind, OfficialSettings
from ...wan_model.errors import ShortageError, WanError
from ...wan_model.loading import CheckpointInfo, open_checkpoint
from .._comfy.host import runtime
from .graph import MODEL_INPUTS, Graph, Output

DIFFUSION, VAE = "diffusion_models", "vae"
LOADERS = {
    "WanDuetModelLoader": ("model_name",),
    "WanDuetExpertLoader": ("high_noise_model", "low_noise_model"),
}
"""Inputs of ours with the file of each output."""
FILE_INPUTS = {"unet_name": DIFFUSION, "ckpt_name": "checkpoints", "model_name": DIFFUSION}
"""Inputs with the file of the first output at loaders of others, such as ComfyUI's and those of
packs for GGUF files or several GPUs, and the folder that it is in."""
VAE_LOADERS = ("WanDuetVAELoader", "VAELoader")

Describe = Callable[[str, str], CheckpointInfo | None]
"""From a folder and a name to what the file is; None if it cannot be had or read."""


@dataclass(frozen=True)
class Model:
    """A transformer that reaches an input."""

    output: Output
    """Of the loader."""
    file_input: str
    """The loader's input that names the file."""
    name: str
    info: CheckpointInfo
    way: tuple[tuple[str, str | None], ...]
    """Class and values of each node from the input to the loader; see `Graph.values`. Of the
    loader the file is enough."""

    @property
    def kind(self) -> Kind:
        """T2V, I2V or TI2V."""
        assert self.info.kind is not None
        return self.info.kind

    @property
    def channels(self) -> int:
        """Of its latents."""
        assert isinstance(self.info.config, DiTConfig)
        return self.info.config.out_channels

    def is_same_as(self, other: "Model") -> bool:
        """Whether both are certainly one model: of one file, through nodes that do the same."""
        known = all(values is not None for _, values in self.way)
        return known and (self.name, self.way) == (other.name, other.way)

    @property
    def official(self) -> OfficialSettings:
        """The official settings of its kind."""
        return OFFICIAL[self.kind]


def find_model(graph: Graph, describe: Describe, node_id: str, name: str) -> Model | None:
    """Returns the model at an input; None if it is not known before the run."""
    way: list[tuple[str, str | None]] = []
    for output in graph.chain(node_id, name):
        kind = graph.kind(output.node_id)
        file_input, file = _file(graph, output)
        if file_input is not None:
            info = None if file is None else describe(DIFFUSION, file)
            if file is None or info is None or info.kind is None:
                return None
            if not isinstance(info.config, DiTConfig):
                return None
            return Model(output, file_input, file, info, (*way, (kind, file)))
        way.append((kind, graph.values(output.node_id)))
    return None


def _file(graph: Graph, output: Output) -> tuple[str | None, str | None]:
    """Returns the input of a loader that names the file of an output, and that name in our lists.

    Without a loader there is no input; without a name a link decides it.
    """
    node_id, folder = output.node_id, DIFFUSION
    names = LOADERS.get(graph.kind(node_id), ())
    if not names and not any(graph.given(node_id, name) for name in MODEL_INPUTS):
        names = [name for name in FILE_INPUTS if name in graph.inputs(node_id)][:1]
        folder = FILE_INPUTS[names[0]] if names else folder
    if output.slot >= len(names):
        return None, None
    file = graph.value(node_id, names[output.slot])
    listed = runtime.name_in_lists(folder, file) if isinstance(file, str) else None
    return names[output.slot], listed


def vae_channels(graph: Graph, describe: Describe, node_id: str, name: str) -> int | None:
    """Returns the latent channels of the VAE at an input; None if it is not known."""
    output = graph.link(node_id, name)
    if output is None or graph.kind(output.node_id) not in VAE_LOADERS:
        return None
    file = graph.value(output.node_id, "vae_name")
    info = describe(VAE, file) if isinstance(file, str) else None
    return getattr(info.config, "z_dim", None) if info is not None else None


def describe_file(folder: str, name: str) -> CheckpointInfo | None:
    """Reads the header of a listed file, once for each version of it."""
    path = runtime.listed_file(folder, name)
    if path is None:
        return None
    try:
        return _described(path, folder, runtime.file_stamp(folder, name))
    except (ShortageError, OSError):
        return None


@lru_cache(maxsize=64)
def _described(path: Path, folder: str, _stamp: str) -> CheckpointInfo | None:
    """Remembers what a file is; not that it could not be looked at for the moment."""
    try:
        return open_checkpoint(path, "vae" if folder == VAE else "dit").info
    except ShortageError:
        raise
    except (WanError, ValueError):
        return None  # its loader will say why

"""Shipped files back to weights, so that a stage can be trained without those before it."""

from pathlib import Path

from safetensors.torch import load_file

from wan_model.quant import scale_weight

from .export import NAMES, TOKENIZER_KEY
from .files import State, TrainingFolder, read_metadata


def import_shipped(models: Path, folder: TrainingFolder) -> list[str]:
    """Writes the weights, and the tokenizer, of whatever is shipped but not in the folder yet.

    Args:
        models: folder of shipped files, in whatever subfolders. Missing ones are left out.
        folder: where weights are missing.

    Returns:
        Names of the stages that were imported.

    Raises:
        FileNotFoundError: there is no shipped file at all.
    """
    found = {path.stem: path for path in models.rglob("*.safetensors")}
    shipped = {stage: found[name] for stage, name in NAMES.items() if name in found}
    if not shipped:
        raise FileNotFoundError(
            f"There is nothing to begin with. Got no file wan22-tiny-... below {models}, need "
            "those that are shipped. Give their folder as `--models`."
        )
    missing = {s: path for s, path in shipped.items() if not folder.weights(s).is_file()}
    for stage, path in missing.items():
        state = load_file(path)
        if TOKENIZER_KEY in state:
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.tokenizer.write_bytes(bytes(state.pop(TOKENIZER_KEY).tolist()))
        folder.write_weights(stage, _without_scales(state), read_metadata(path))
    return list(missing)


def _without_scales(state: State) -> State:
    """Returns a state whose fp8 weights are multiplied by their scales."""
    scales = {name: scale for name, scale in state.items() if name.endswith(".weight_scale")}
    weights = {name.removesuffix("_scale"): scale for name, scale in scales.items()}
    return {
        name: scale_weight(tensor, weights[name]) if name in weights else tensor
        for name, tensor in state.items()
        if name not in scales
    }

"""How strong a LoRA is at strength 1, where a file says so."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..loading.source import damaged
from ..loading.source_safetensors import parse_json

IN_HEADER = "lora_adapter_metadata"
"""PEFT's configuration in the header, as diffusers writes it since 0.34; then there is no alpha."""


LARGEST = 1e30
"""Of an alpha; real ones are below a few thousand."""


class HeaderScales:
    """PEFT's scale of each module: alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA."""

    def __init__(self, file: Path, metadata: Mapping[str, str]) -> None:
        """Reads a header.

        Raises:
            CheckpointError: if its configuration is no JSON object.
        """
        text = metadata.get(IN_HEADER)
        try:
            fields = {} if text is None else parse_json(text)
        except ValueError as error:
            raise damaged(file, f"Its {IN_HEADER} cannot be read", error, "JSON") from error
        if not isinstance(fields, dict):
            raise damaged(file, f"Its {IN_HEADER} is no object", fields, "a JSON object")
        self._file, self._fields = file, fields

    def __call__(self, module: str, rank: int) -> float:
        """Returns the scale of a module, as the file spells it; 1 if the header has none."""
        prefix = self._prefix(module)
        alpha = self._of(module, prefix, "alpha_pattern", self._fields.get(f"{prefix}lora_alpha"))
        if alpha is None:
            return 1.0
        if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not _is_usable(alpha):
            raise damaged(self._file, f"Its {IN_HEADER} has no usable alpha", alpha, "a number")
        stabilised = self._fields.get(f"{prefix}use_rslora") is True
        return alpha / (rank**0.5 if stabilised else rank)

    def _prefix(self, module: str) -> str:
        """Returns what stands before the fields of a module: the name of its model, and a dot."""
        prefixes = {key.removesuffix("lora_alpha") for key in self._fields if "lora_alpha" in key}
        own = [prefix for prefix in prefixes if module.startswith(prefix)]
        if own:
            return max(own, key=len)
        return prefixes.pop() if len(prefixes) == 1 else ""

    def _of(self, module: str, prefix: str, field: str, default: Any) -> Any:
        """Returns a module's own setting: by the end of its name, or all of it after a caret."""
        patterns = self._fields.get(f"{prefix}{field}")
        name = module.removeprefix(prefix)
        for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
            if pattern.lstrip("^") == name or (
                not pattern.startswith("^") and name.endswith(f".{pattern}")
            ):
                return value
        return default


def _is_usable(alpha: float) -> bool:
    return -LARGEST < alpha < LARGEST  # which NaN is not, and an endless integer may be asked

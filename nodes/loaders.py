"""Nodes that load transformers as MODELs: one, or the two experts of a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from ..wan_model.config import DiTConfig
from ..wan_model.errors import PairingError
from ..wan_model.loading import Checkpoint, guess_pair, open_checkpoint, says_noise
from ..wan_model.offload import Limits
from ..wan_model.presets import AUTO, find_tier, tier_names
from ._comfy.host import runtime
from ._comfy.model.attention_choice import what_to_install
from ._comfy.model.computing import Wanted, computing, said_of_devices
from ._comfy.model.load_models import load_models
from ._comfy.model.precision_choice import QUANTIZED
from ._report import reports_errors
from .checked_inputs import Choice, linked
from .model_files import missing_file
from .search_words import search_words
from .speed_tiers import at_tier, said_of

CATEGORY = "Wan 2.2/load"
PRECISIONS = ["auto", "bf16", "fp16", "fp32"]
PRECISION_TOOLTIP = (
    "Number format used for the heavy maths. auto suits your file and GPU and is shown here. "
    "fp8 is faster on RTX 40, RTX 50 and H100; bf16 gives the more faithful picture."
)
ATTENTIONS = [
    "auto",
    "sdpa",
    "flash_attn_2",
    "flash_attn_3",
    "sage",
    "kitchen_int8",
    "flash_attn_3_fp8",
    "kitchen_sol",
    "auto_fast",
]
"""Of the library's kernels, those worth choosing; PyTorch's single kernels are for comparisons."""
DEVICES = ["auto", *(f"cuda:{number}" for number in range(8))]
"""Of every machine alike, so that workflows travel; what a machine does not have is refused."""
ATTENTION_TOOLTIP = (
    "Attention kernel. auto: the fastest exact one that is installed, shown here. auto_fast "
    "and the 8-bit kernels trade accuracy for speed; see this node's help page."
)


def _attention_input() -> Choice.Input:
    return Choice.Input("attention", options=ATTENTIONS, default="auto", tooltip=ATTENTION_TOOLTIP)


def _precision_input() -> Choice.Input:
    return Choice.Input(
        "precision",
        options=[*PRECISIONS, *QUANTIZED],
        default="auto",
        tooltip=PRECISION_TOOLTIP,
    )


def _memory_input() -> Any:
    return linked(io.Custom("WANDUET_MEMORY")).Input(
        "memory",
        optional=True,
        tooltip=(
            "Limits of VRAM and RAM from 'Wan 2.2 VRAM & Block Swap'. Leave it empty for the "
            "fastest plan that fits."
        ),
    )


def _device_input(expert: str) -> Choice.Input:
    return Choice.Input(
        f"device_{expert}",
        options=DEVICES,
        default="auto",
        optional=True,
        tooltip=f"GPU of the {expert}-noise expert. auto: the one that ComfyUI uses. With two "
        "cards give each expert its own, so that neither waits for weights at the switch.",
    )


def _speed_input() -> Choice.Input:
    return Choice.Input(
        "speed",
        options=tier_names(),
        default=AUTO,
        optional=True,
        tooltip="How exact the video has to be: what precision and attention mean on auto, and how "
        "many steps are skipped. auto: what the file asks for, and every step.",
    )


def _model_input(name: str, tooltip: str) -> Choice.Input:
    return Choice.Input(name, options=runtime.model_names("diffusion_models"), tooltip=tooltip)


class WanDuetModelLoader(io.ComfyNode):
    """Loads one transformer file: TI2V-5B, or a single expert."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetModelLoader",
            display_name="Wan 2.2 Load Model",
            **search_words("WanDuetModelLoader"),
            category=CATEGORY,
            description="Loads TI2V-5B, or one expert of a 14B model. The node says what it is.",
            inputs=[
                _model_input(
                    "model_name",
                    (
                        "Model file: TI2V-5B, or a single expert. For both 14B experts use 'Wan "
                        "2.2 Load 14B Experts'."
                    ),
                ),
                _precision_input(),
                _attention_input(),
                _memory_input(),
                _speed_input(),
            ],
            outputs=[io.Model.Output(display_name="model")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None = None) -> bool | str:
        """Refuses a file that cannot be had; see `WanDuetExpertLoader.validate_inputs`."""
        return missing_file("diffusion_models", model_name) or True

    @classmethod
    def fingerprint_inputs(cls, model_name: str | None = None, **_: Any) -> str:
        """Has a file that was written again be loaded again."""
        return runtime.file_stamp("diffusion_models", model_name)

    @classmethod
    @reports_errors
    def execute(
        cls,
        model_name: str,
        precision: str,
        attention: str,
        memory: Limits | None = None,
        speed: str = AUTO,
    ) -> io.NodeOutput:
        """Loads the file."""
        checkpoint = open_checkpoint(runtime.model_path("diffusion_models", model_name))
        options = (precision, attention, memory, [runtime.compute_device()], speed)
        (patcher,) = _load([checkpoint], *options, cls.hidden.unique_id)
        return io.NodeOutput(patcher)


class WanDuetExpertLoader(io.ComfyNode):
    """Loads the high-noise and the low-noise expert of an A14B model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetExpertLoader",
            display_name="Wan 2.2 Load 14B Experts",
            **search_words("WanDuetExpertLoader"),
            category=CATEGORY,
            description=(
                "Loads both experts of T2V or I2V 14B. The high-noise one lays out scene and "
                "motion, the low-noise one paints the detail."
            ),
            inputs=[
                _model_input(
                    "high_noise_model",
                    (
                        "File of the high-noise expert, such as "
                        "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors."
                    ),
                ),
                _model_input(
                    "low_noise_model",
                    (
                        "File of the low-noise expert of the same model, such as "
                        "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors."
                    ),
                ),
                _precision_input(),
                _attention_input(),
                _memory_input(),
                _device_input("high"),
                _device_input("low"),
                _speed_input(),
            ],
            outputs=[
                io.Model.Output(display_name="model_high"),
                io.Model.Output(display_name="model_low"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, low_noise_model: str | None = None) -> bool | str:
        """Refuses a low-noise file that is not there or has the name of a high-noise one.

        ComfyUI checks what this does not read, and would repeat an error at all that it reads.
        None is not known yet.
        """
        return _low_noise_problem(low_noise_model) or True

    @classmethod
    def fingerprint_inputs(
        cls, high_noise_model: str | None = None, low_noise_model: str | None = None, **_: Any
    ) -> str:
        """Has a file that was written again be loaded again."""
        return runtime.file_stamp("diffusion_models", high_noise_model, low_noise_model)

    @classmethod
    @reports_errors
    def execute(
        cls,
        high_noise_model: str,
        low_noise_model: str,
        precision: str,
        attention: str,
        memory: Limits | None = None,
        device_high: str = "auto",
        device_low: str = "auto",
        speed: str = AUTO,
    ) -> io.NodeOutput:
        """Checks that the files are a pair, then loads them."""
        names = (high_noise_model, low_noise_model)
        devices = [runtime.device_called(name) for name in (device_high, device_low)]
        _check_names(*names)
        files = [runtime.model_path("diffusion_models", name) for name in names]
        checkpoints = [open_checkpoint(file) for file in files]
        _check_pair(*checkpoints)
        options = (precision, attention, memory, devices, speed)
        high, low = _load(checkpoints, *options, cls.hidden.unique_id)
        return io.NodeOutput(high, low)


def _load(
    checkpoints: Sequence[Checkpoint],
    precision: str,
    attention: str,
    memory: Limits | None,
    devices: Sequence[torch.device],
    speed: str,
    node_id: str | None,
) -> list[Any]:
    """Loads the files of one model as MODELs, and shows what they are and how they compute.

    Experts on one device share what they have there. Those on two know nothing of each other, and
    what suits one device may be refused by the other.
    """
    tier = find_tier(speed)
    wanted = Wanted(precision, attention, tier)
    places: dict[torch.device, list[Checkpoint]] = {}
    for checkpoint, device in zip(checkpoints, devices, strict=True):
        places.setdefault(device, []).append(checkpoint)
    found = {
        device: computing(wanted, [checkpoint.info for checkpoint in files], device)
        for device, files in places.items()
    }
    patchers = [
        patcher
        for device, files in places.items()
        for patcher in load_models(
            files, found[device].precision, found[device].attend, memory, device
        )
    ]
    infos = [checkpoint.info for checkpoint in checkpoints]
    advice = (line for device in places for line in what_to_install(device))
    lines = [
        *(info.label for info in infos),
        *said_of_devices(found),
        *said_of(tier, found.values()),
        *dict.fromkeys(advice),
        *dict.fromkeys(remark for info in infos for remark in info.remarks),
    ]
    runtime.show(node_id, "\n".join(lines))
    return [at_tier(tier, patcher) for patcher in patchers]


def _low_noise_problem(name: str | None) -> str | None:
    if name is None:
        return None
    if missing := missing_file("diffusion_models", name):
        return missing
    if says_noise(Path(name).name) == "high":
        return (
            f"This is a high-noise file, judging by its name. Got {name} as low_noise_model, need "
            "the low-noise expert. Choose that one, or rename a file whose name is wrong."
        )
    return None


def _check_names(high: str, low: str) -> None:
    """Refuses pairs that the names alone show to be wrong, before a file is opened."""
    if high == low:
        raise PairingError(
            f"Both experts are the same file. Got {high} twice, need the high-noise and the "
            "low-noise file. Choose the other file in one of them."
        )
    found = guess_pair(*(runtime.model_path("diffusion_models", name) for name in (high, low)))
    if found == ("low", "high"):
        raise PairingError(
            f"These look swapped, judging by the file names. Got {high} as high_noise_model and "
            f"{low} as low_noise_model, need them the other way round. Swap them."
        )
    if found[0] == "low" or found[1] == "high":
        raise PairingError(
            f"Both experts are {found[0] or found[1]}-noise files, judging by the file names. Got "
            f"{high} as high_noise_model and {low} as low_noise_model, need one of each. Choose "
            "the other one, or rename a file whose name is wrong."
        )


def _check_pair(*experts: Checkpoint) -> None:
    high, low = (expert.info for expert in experts)
    for expert, info in zip(experts, (high, low), strict=True):
        expert.require(DiTConfig)
        if info.kind == "ti2v":
            raise PairingError(
                f"TI2V-5B has one model for all steps. Got {info.path.name} ({info.label}), need "
                "an expert of T2V-A14B or I2V-A14B. Load this file with 'Wan 2.2 Load Model'."
            )
    if high.config != low.config:
        raise PairingError(
            f"These two files don't belong together. Got {high.path.name} ({high.label}) and "
            f"{low.path.name} ({low.label}), need both of one model. Choose both of T2V-A14B or "
            "both of I2V-A14B."
        )


NODES: list[type[io.ComfyNode]] = [WanDuetModelLoader, WanDuetExpertLoader]

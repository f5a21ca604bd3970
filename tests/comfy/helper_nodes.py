"""Test-only ComfyUI nodes: inputs and outputs that no stock node offers."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.weight_adapter import LoRAAdapter
from comfy_api.latest import ComfyExtension, io
from safetensors.torch import save_file


class RandomConditioning(io.ComfyNode):
    """A seeded random text embedding, so that stock models of text width 4096 need no encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestConditioning",
            category="WanDuet tests",
            inputs=[
                io.Int.Input("seed", default=0, min=0, max=2**31),
                io.Int.Input("tokens", default=512, min=1, max=512),
                io.Int.Input("text_dim", default=4096, min=1, max=8192),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, seed: int, tokens: int, text_dim: int) -> io.NodeOutput:
        generator = torch.Generator().manual_seed(seed)
        return io.NodeOutput([[torch.randn(1, tokens, text_dim, generator=generator), {}]])


class GiveChoice(io.ComfyNode):
    """One of its own list of choices."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        choices = ["euler", "heun"]
        return io.Schema(
            node_id="WanDuetTestChoice",
            category="WanDuet tests",
            inputs=[io.Combo.Input("value", options=choices)],
            outputs=[io.Combo.Output(options=choices)],
        )

    @classmethod
    def execute(cls, value: str) -> io.NodeOutput:
        return io.NodeOutput(value)


class Switch(io.ComfyNode):
    """One of two latents; what makes the other one is not run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestSwitch",
            category="WanDuet tests",
            inputs=[
                io.Boolean.Input("second"),
                io.Latent.Input("a", lazy=True),
                io.Latent.Input("b", lazy=True),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def check_lazy_status(cls, second: bool, a: Any = None, b: Any = None) -> list[str]:
        missing = "b" if second and b is None else "a" if not second and a is None else None
        return [] if missing is None else [missing]

    @classmethod
    def execute(cls, second: bool, a: Any = None, b: Any = None) -> io.NodeOutput:
        return io.NodeOutput(b if second else a)


class SaveTensors(io.ComfyNode):
    """Saves latents and images exactly, as `NAME.safetensors` in the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestSaveTensors",
            category="WanDuet tests",
            inputs=[
                io.String.Input("name"),
                io.Latent.Input("latent", optional=True),
                io.Image.Input("image", optional=True),
                io.Sigmas.Input("sigmas", optional=True),
                io.Conditioning.Input("conditioning", optional=True),
            ],
            outputs=[],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def execute(
        cls, name: str, latent=None, image=None, sigmas=None, conditioning=None
    ) -> io.NodeOutput:
        tensors = {"image": image, "sigmas": sigmas}
        if latent is not None:
            tensors |= {key: latent.get(key) for key in ("samples", "noise_mask")}
        if conditioning is not None:
            embedding, options = conditioning[0]
            tensors |= {"conditioning": embedding}
            tensors |= {k: v for k, v in options.items() if isinstance(v, torch.Tensor)}
        present = {k: v.contiguous().clone() for k, v in tensors.items() if v is not None}
        save_file(present, Path(folder_paths.get_output_directory()) / f"{name}.safetensors")
        return io.NodeOutput()


class RandomImage(io.ComfyNode):
    """Seeded smooth images of any size, count and number of channels, in 8-bit steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestImage",
            category="WanDuet tests",
            inputs=[
                io.Int.Input("seed", default=0, min=0, max=2**31),
                io.Int.Input("width", default=64, min=1, max=8192),
                io.Int.Input("height", default=48, min=1, max=8192),
                io.Int.Input("count", default=1, min=1, max=1000),
                io.Int.Input("channels", default=3, min=1, max=4),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(
        cls, seed: int, width: int, height: int, count: int = 1, channels: int = 3
    ) -> io.NodeOutput:
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(count, channels, 5, 7, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
        return io.NodeOutput((smooth.movedim(1, -1) * 255).round() / 255)


class RecordModelInputs(io.ComfyNode):
    """A MODEL that saves what each call gives it, as `NAME_CALL.safetensors`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestRecordModel",
            category="WanDuet tests",
            inputs=[io.Model.Input("model"), io.String.Input("name")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, name: str) -> io.NodeOutput:
        folder = Path(folder_paths.get_output_directory())
        recorded = model.clone()

        def wrapper(apply_model, call):
            given = {"input": call["input"], "timestep": call["timestep"], **call["c"]}
            tensors = {k: v.clone() for k, v in given.items() if isinstance(v, torch.Tensor)}
            number = len(list(folder.glob(f"{name}_*.safetensors")))
            save_file(
                {k: v.contiguous() for k, v in tensors.items()},
                folder / f"{name}_{number}.safetensors",
            )
            return apply_model(call["input"], call["timestep"], **call["c"])

        recorded.set_model_unet_function_wrapper(wrapper)
        return io.NodeOutput(recorded)


class WaitForFile(io.ComfyNode):
    """A MODEL that waits before its passes until a test has seen what it wants to see of the run.

    The test makes the file NAME.go in the output folder then. All but the first passes wait, which
    `free` says how many are; each for so many seconds at most.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestWaitForFile",
            category="WanDuet tests",
            inputs=[
                io.Model.Input("model"),
                io.String.Input("name"),
                io.Int.Input("free"),
                io.Float.Input("seconds", max=1000.0),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        return float("nan")  # each prompt counts anew

    @classmethod
    def execute(cls, model: Any, name: str, free: int, seconds: float) -> io.NodeOutput:
        patient, left = model.clone(), free
        file = Path(folder_paths.get_output_directory()) / f"{name}.go"

        def wait(executor: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            end = time.monotonic() + (seconds if left < 0 else 0.0)
            while not file.exists() and time.monotonic() < end:
                comfy.model_management.throw_exception_if_processing_interrupted()
                time.sleep(0.01)
            return executor(*args, **kwargs)

        patient.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "wait", wait)
        return io.NodeOutput(patient)


class ForeignObjects(io.ComfyNode):
    """A MODEL, a CLIP and a VAE that are not Wan's, just real enough to be recognised as such."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestForeign",
            category="WanDuet tests",
            inputs=[],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        class Flux(torch.nn.Module):
            diffusion_model = torch.nn.Linear(1, 1)

        tokenizer = type("SDXLTokenizer", (), {"clip_name": "clip_l"})()
        clip = SimpleNamespace(tokenizer=tokenizer)
        patcher = ModelPatcher(Flux(), torch.device("cpu"), torch.device("cpu"))
        return io.NodeOutput(patcher, clip, SimpleNamespace(latent_channels=4))


class ClipSize(io.ComfyNode):
    """Saves how many bytes a CLIP's encoder takes, and passes it on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestClipSize",
            category="WanDuet tests",
            inputs=[io.Clip.Input("clip"), io.String.Input("name")],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, clip: Any, name: str) -> io.NodeOutput:
        path = Path(folder_paths.get_output_directory()) / f"{name}.txt"
        path.write_text(str(clip.patcher.model_size()))
        return io.NodeOutput(clip)


class ReplacePart(io.ComfyNode):
    """A CLIP of which an object patch takes the last norm away."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestReplacePart",
            category="WanDuet tests",
            inputs=[io.Clip.Input("clip")],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, clip: Any) -> io.NodeOutput:
        changed = clip.clone()
        names = [name for name, _ in clip.patcher.model.named_modules()]
        (norm,) = [name for name in names if name.endswith("final_layer_norm")]
        changed.patcher.add_object_patch(norm, torch.nn.Identity())
        return io.NodeOutput(changed)


class SetComputeDtype(io.ComfyNode):
    """A CLIP as ComfyUI 0.33 makes each: with an object patch of what it computes in."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestComputeDtype",
            category="WanDuet tests",
            inputs=[io.Clip.Input("clip")],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, clip: Any) -> io.NodeOutput:
        changed = clip.clone()
        if not hasattr(changed.patcher.model, "manual_cast_dtype"):  # before 0.33
            changed.patcher.model.manual_cast_dtype = None
        changed.patcher.set_model_compute_dtype(torch.float32)
        return io.NodeOutput(changed)


class UnnamedLora(io.ComfyNode):
    """A LoRA of a file that no input names, on a weight that the toy LoRA leaves alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestUnnamedLora",
            category="WanDuet tests",
            inputs=[
                io.Model.Input("model"),
                io.Boolean.Input("narrow_lightning", default=False, optional=True),
                io.Boolean.Input("lightning", default=False, optional=True),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(
        cls, model: ModelPatcher, narrow_lightning: bool = False, lightning: bool = False
    ) -> io.NodeOutput:
        """With the numbers of a LoRA for few steps, half as wide as the weight, or none of both."""
        key = "diffusion_model.blocks.0.self_attn.v.weight"
        rows, columns = model.model.state_dict()[key].shape
        rank, alpha = (64, 8) if narrow_lightning or lightning else (1, 1.0)
        columns //= 1 + narrow_lightning
        pair = (torch.ones(rows, rank), torch.ones(rank, columns), alpha, None, None, None)
        patched = model.clone()
        patched.add_patches({key: LoRAAdapter({key}, pair)}, 0.1)
        return io.NodeOutput(patched)


ROWS = io.Custom("LORA_ROWS")


class LoraRow(io.ComfyNode):
    """A row of a stack of LoRAs, as packs have them: on or off."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WTestLoraRow",  # not ours by its name
            category="WanDuet tests",
            inputs=[io.String.Input("lora_1"), io.Boolean.Input("switch_1")],
            outputs=[ROWS.Output()],
        )

    @classmethod
    def execute(cls, lora_1: str, switch_1: bool) -> io.NodeOutput:
        return io.NodeOutput([lora_1] if switch_1 else [])


class ApplyLoraRows(io.ComfyNode):
    """Puts a stack of LoRAs on a MODEL, the second if there are two."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WTestApplyLoraRows",
            category="WanDuet tests",
            inputs=[
                io.Model.Input("way_1"),
                ROWS.Input("rows"),
                io.Model.Input("way_2", optional=True),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(
        cls, way_1: ModelPatcher, rows: list[str], way_2: ModelPatcher | None = None
    ) -> io.NodeOutput:
        model = way_2 or way_1
        for name in rows:
            path = folder_paths.get_full_path_or_raise("loras", name)
            state = comfy.utils.load_torch_file(path, safe_load=True)
            model, _ = comfy.sd.load_lora_for_models(model, None, state, 1.0, 0)
        return io.NodeOutput(model)


class TestExtension(ComfyExtension):
    """The nodes of this file."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        nodes = [RandomConditioning, GiveChoice, SaveTensors, RandomImage, RecordModelInputs]
        nodes += [LoraRow, ApplyLoraRows, WaitForFile]
        return [*nodes, ForeignObjects, ClipSize, Switch, ReplacePart, SetComputeDtype, UnnamedLora]


async def comfy_entrypoint() -> TestExtension:
    """Called by ComfyUI when it loads the file."""
    return TestExtension()

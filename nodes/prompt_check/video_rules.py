"""Images and VAEs that do not fit the model."""

from collections.abc import Iterator

from ...wan_model.errors import SettingsError, ShapeError
from ...wan_model.shapes import check_size
from ..video_size import FREE, check_image_for
from .graph import MAX_CHAIN, Graph, Output
from .known_files import Describe, Model, find_model, vae_channels
from .problem import Problem

SIZE = "WanDuetImageToVideo"
IMAGES = ("start_image", "end_image", "anchor_image", "previous_latent")
VAE_FILES = {16: "wan_2.1_vae.safetensors", 48: "wan2.2_vae.safetensors"}
SIDES = ("width", "height")
PASSED = ("samples", "latent_image", "latent")
"""Inputs through which nodes pass a latent on."""


def _size_node(graph: Graph, node_id: str, name: str) -> str | None:
    """Returns the node that a conditioning or latent comes from, if it is ours and straight."""
    found = graph.link(node_id, name)
    return found.node_id if found is not None and graph.kind(found.node_id) == SIZE else None


def _images(graph: Graph, size: str) -> list[str]:
    return [name for name in IMAGES if graph.given(size, name)]


def image_problems(graph: Graph, describe: Describe, node_id: str) -> Iterator[Problem]:
    """Looks at what a sampler or guider gets beside its model."""
    model = find_model(graph, describe, node_id, "model_high")
    size = _size_node(graph, node_id, "positive")
    if model is None or size is None:
        return
    channels = vae_channels(graph, describe, size, "vae")
    if channels in VAE_FILES and channels != model.channels:
        yield _wrong_vae(size, model, channels)
        return
    images = _images(graph, size)
    if model.kind == "t2v" and images:
        yield Problem(
            node_id,
            "model_high",
            f"This model cannot start from an image. Got {model.info.label} with a start or end "
            "image, need I2V-A14B. Load the wan2.2_i2v_high_noise_14B and "
            "wan2.2_i2v_low_noise_14B files, or disconnect the image.",
        )
    if model.kind == "i2v" and not images:
        yield Problem(
            size,
            "start_image",
            f"This model needs an image. Got {model.info.label} without start or end image, need "
            "one. Connect it here, or load the wan2.2_t2v_high_noise_14B and "
            "wan2.2_t2v_low_noise_14B files for text to video.",
        )


def _wrong_vae(size: str, model: Model, channels: int) -> Problem:
    return Problem(
        size,
        "vae",
        f"This VAE belongs to a different model. Got one for {channels} latent channels, "
        f"{model.info.label} needs {model.channels}. Load the VAE {VAE_FILES[model.channels]}.",
    )


def size_problems(graph: Graph, describe: Describe, node_id: str) -> Iterator[Problem]:
    """Looks at sizes that need an image; for TI2V-5B, which its VAE tells, at size and images."""
    size = graph.value(node_id, "size", FREE)
    try:
        check_image_for(str(size), bool(_images(graph, node_id)))
    except SettingsError as error:
        yield Problem(node_id, "size", str(error))
    if vae_channels(graph, describe, node_id, "vae") != 48:
        return
    if graph.given(node_id, "end_image"):
        yield Problem(
            node_id,
            "end_image",
            "TI2V-5B cannot end with a given image. Got an end_image with the Wan 2.2 VAE, need a "
            "start_image only. Disconnect end_image, or use I2V-A14B with wan_2.1_vae.safetensors.",
        )
    for name in SIDES if size == FREE else ():
        side = graph.number(node_id, name)
        if side is None or side % 16 or side <= 0 or _from_image(graph, node_id):
            continue
        try:
            check_size(int(side), int(side), 32)
        except ShapeError as error:
            yield Problem(node_id, name, _of_side(str(error), name))


def _of_side(sentence: str, side: str) -> str:
    """The check names the first wrong side, and both are the same here."""
    return sentence.replace("width", side)


def _from_image(graph: Graph, node_id: str) -> bool:
    """Whether an image decides the sides, in the area of width and height, or a latent does."""
    if graph.given(node_id, "previous_latent"):
        return True
    mode = str(graph.value(node_id, "size_mode", ""))
    return mode.startswith("keep aspect") and bool(_images(graph, node_id))


def decode_problems(
    graph: Graph, describe: Describe, node_id: str, latent: str
) -> Iterator[Problem]:
    """Looks at the VAE that decodes what comes in as `latent`."""
    channels = vae_channels(graph, describe, node_id, "vae")
    wanted = _latent_channels(graph, describe, graph.link(node_id, latent))
    if channels not in VAE_FILES or wanted not in VAE_FILES or channels == wanted:
        return
    yield Problem(
        node_id,
        "vae",
        f"The VAE does not fit the latent. Got a VAE for {channels} channels, need one for "
        f"{wanted}. Load the VAE {VAE_FILES[wanted]}.",
    )


def _latent_channels(graph: Graph, describe: Describe, latent: Output | None) -> int | None:
    """Returns the channels of a latent, by the VAE of the node that made it first."""
    for _ in range(MAX_CHAIN):
        if latent is None:
            return None
        if graph.kind(latent.node_id) == SIZE:
            return vae_channels(graph, describe, latent.node_id, "vae")
        links = (graph.link(latent.node_id, name) for name in PASSED)
        latent = next((each for each in links if each is not None), None)
    return None

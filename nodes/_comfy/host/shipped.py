"""What comes with the pack besides code: the tiny models, and the image that templates load."""

import logging
import shutil
from pathlib import Path

import folder_paths

logger = logging.getLogger(__name__)

PACK = Path(__file__).parents[3]
MODELS = PACK / "models"
IMAGES = PACK / "workflows" / "input"


def offer_shipped_files() -> None:
    """Makes the shipped files known to ComfyUI. To be called once, at start."""
    _offer_models()
    _offer_images(Path(folder_paths.get_input_directory()))


def _offer_models() -> None:
    """Adds the model folders after the person's own, which stay the default."""
    for name in ("diffusion_models", "loras", "text_encoders", "vae"):
        if (MODELS / name).is_dir():
            folder_paths.add_model_folder_path(name, str(MODELS / name))


def _offer_images(target: Path) -> None:
    """Copies images into the input folder, the only one that LoadImage reads.

    A file of the same name is left as it is.
    """
    for image in sorted(IMAGES.glob("wan22-*")):
        if (target / image.name).exists():
            continue
        try:
            shutil.copyfile(image, target / image.name)
        except OSError as error:
            logger.info("The templates' image %s could not be copied: %s", image.name, error)

"""How weights that have been trained before go on, such as the shipped ones on richer scenes."""

from dataclasses import replace

from .config import SHIPPED, TEXT_ENCODER, Optimisation, Recipe, dit_optimisation

RATES = {"t2v": 1.5e-3, "i2v": 2e-3, "ti2v": 2e-3}
"""Learning rates of matrices by kind, with which transformers go on."""

TI2V_IMAGE_PROBABILITY = 0.2
"""Text alone is TI2V's weaker part; 0.4 until what is shipped."""


def continued(recipe: Recipe, rate: float = 1.0) -> Recipe:
    """Returns a recipe in which every shipped stage begins with its own weights.

    Of the VAEs, only the decoders are trained.

    They must be in the training folder (`import`); a stage's file in its folder `state` is in the
    way of a second leg and is to be deleted before.

    Args:
        recipe: of training from random weights.
        rate: factor of all learning rates, such as less than 1 for a second leg.
    """
    dits = dict(recipe.dits)
    for stage in SHIPPED:
        own = dits[stage]
        seconds, batch = own.optimisation.seconds, own.optimisation.batch_size
        again = dit_optimisation(60000, seconds, rate * RATES[own.kind], batch_size=batch)
        dits[stage] = replace(own, init_from=stage, optimisation=again)
    dits["ti2v"] = replace(dits["ti2v"], image_probability=TI2V_IMAGE_PROBABILITY)
    text = replace(
        recipe.text, init_from=TEXT_ENCODER, optimisation=_slower(recipe.text.optimisation, rate)
    )
    vaes = {
        name: replace(vae, init_from=name, optimisation=_slower(vae.optimisation, rate))
        for name, vae in recipe.vaes.items()
    }
    return replace(recipe, dits=dits, text=text, vaes=vaes)


def _slower(optimisation: Optimisation, rate: float) -> Optimisation:
    """Returns half the learning rates, times a factor, from which to fall almost at once."""
    return replace(
        optimisation,
        learning_rate=rate * optimisation.learning_rate / 2,
        matrix_learning_rate=rate * optimisation.matrix_learning_rate / 2,
        decay_fraction=0.85,
    )

"""Each rank computes a part of the samples: of guidance, those with and without the prompt."""

from collections.abc import Callable

from torch import Tensor

from .team import Team, shares

Predict = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(latent, timestep, text, cond) -> velocity, of any number of samples; see `WanDiT.forward`."""


def samples_parallel(predict: Predict, team: Team) -> Predict:
    """Returns what predicts the samples of this rank, and returns those of all ranks.

    A batch that cannot be split evenly is predicted whole by every rank.

    Args:
        predict: predicts samples on this rank.
        team: shares the samples; all of it is given the same ones.
    """

    def predict_all(
        latent: Tensor, timestep: Tensor, text: Tensor, cond: Tensor | None = None
    ) -> Tensor:
        batch = len(latent)
        if batch % team.ranks or team.ranks == 1:
            return predict(latent, timestep, text, cond)
        counts = shares(batch, team.ranks)
        start = sum(counts[: team.rank])
        mine = slice(start, start + counts[team.rank])
        timestep = timestep.expand(batch) if timestep.ndim == 0 else timestep
        part = predict(
            latent[mine], timestep[mine], text[mine], None if cond is None else cond[mine]
        )
        return team.gather(part, counts)

    return predict_all

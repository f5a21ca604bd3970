"""Each rank computes a part of the samples: of guidance, those with and without the prompt."""

from collections.abc import Callable

from torch import Tensor

from .team import Team, shares

Predict = Callable[..., Tensor]
"""(latent, timestep, text, cond, ...) -> velocity; tensors of one sample or more, or None."""


def samples_parallel(predict: Predict, team: Team) -> Predict:
    """Returns what predicts the samples of this rank, and returns those of all ranks.

    A batch that cannot be split evenly is predicted whole by every rank.

    Args:
        predict: predicts samples on this rank.
        team: shares the samples; all of it is given the same ones.
    """

    def predict_all(latent: Tensor, *others: Tensor | None) -> Tensor:
        batch = len(latent)
        if batch % team.ranks or team.ranks == 1:
            return predict(latent, *others)
        counts = shares(batch, team.ranks)
        start = sum(counts[: team.rank])
        mine = slice(start, start + counts[team.rank])
        parts = [None if tensor is None else tensor[mine] for tensor in others]
        return team.gather(predict(latent[mine], *parts), counts)

    return predict_all

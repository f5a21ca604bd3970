"""What one rank of two sends while it projects its tokens."""

import torch
from torch import Tensor

from tests.unit.dit.toy import make_dit
from wan_model.attention.sdpa import sdpa
from wan_model.parallel.shared_tokens import SharedTokens


class Recorded:
    """Stands for a team; keeps what the other rank is given."""

    rank, ranks = 0, 2

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def start_trade(self, give, take):  # noqa: ARG002
        self.given += give[1]
        return lambda: None


def test_each_of_q_k_and_v_travels_as_soon_as_it_is_written():
    team, layer = Recorded(), make_dit().blocks[0].self_attn
    shared = SharedTokens(team, (5, 4), layer, sdpa, torch.empty(1, 5, 1))
    for number, part in enumerate(shared.places(slice(0, 5))):
        part.fill_(number)
        shared.written()
        assert [float(sent.mean()) for sent in team.given] == list(range(number + 1))

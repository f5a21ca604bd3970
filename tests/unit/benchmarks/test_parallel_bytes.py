"""The bytes that the cost model of several GPUs counts are those that a pass sends."""

import torch

from tests.unit.dit.toy import BF16, SIZE, make_dit, make_inputs
from wan_model.dit import run_in_order
from wan_model.parallel import sequence_parallel

from .conftest import import_script


class Alone:
    """Stands for a team of which this process is the only one that is there."""

    rank, ranks = 0, 2

    def __init__(self) -> None:
        self.sent_bytes = 0

    def start_trade(self, give, take):
        self.sent_bytes += sum(x.nbytes for x in give[1])
        for place in take[1]:
            place.zero_()
        return lambda: None

    def gather(self, x, counts):
        return x.new_zeros((sum(counts), *x.shape[1:]))


@torch.no_grad()
def test_exchanged_bytes():
    model, team = make_dit(precision=BF16), Alone()
    inputs = make_inputs(model)
    model(*inputs, run_blocks=sequence_parallel(run_in_order, team))
    tokens = SIZE[0] * SIZE[1] * SIZE[2] // 4
    count = import_script("parallel").exchanged_bytes
    assert count(model.config, tokens, team.ranks) == team.sent_bytes > 0

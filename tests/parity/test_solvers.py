"""Schedules, expert switch and solvers against the official code and diffusers."""

import json

import pytest
import torch
from torch import Tensor

from tests.parity.recipe import GOLDEN, golden, value
from wan_model.sampling import (
    expert_split,
    make_sigmas,
    make_solver,
    make_timesteps,
    official_timestep,
    solve,
)

SCHEDULES: dict[str, dict[str, list[float]]] = json.loads((GOLDEN / "schedules.json").read_text())

T2V_40 = (
    "999 997 995 993 990 988 985 982 979 976 972 969 965 961 956 952 947 941 936 929 922 915 907 "
    "898 888 877 865 852 837 819 799 776 749 717 678 631 571 492 386 235"
)
I2V_40 = (
    "999 994 989 983 978 972 965 959 952 944 937 929 920 911 902 892 882 870 859 846 833 818 803 "
    "786 768 749 728 706 681 654 624 591 555 514 468 416 356 288 208 113"
)
TI2V_50 = (
    "999 995 991 987 982 978 973 968 963 957 952 946 940 934 927 920 913 906 898 890 882 873 863 "
    "854 843 833 821 809 796 783 768 753 737 720 701 681 660 636 611 584 555 522 487 448 405 356 "
    "302 241 172 92"
)

SPLIT_COLUMNS = ((12, 0.875), (8, 0.875), (5, 0.875), (8, 0.9), (5, 0.9), (3, 0.9))
SPLITS = {
    4: "3 3 2 2 2 1|2",
    6: "4 4 3 3 3 2",
    8: "6 5 4 4 3 2|3",
    10: "7 6 5 5 4 3",
    12: "8 7 5|6 6 5 3|4",
    16: "11 9 7 8 6 4|5",
    20: "13 11 9 10 8 5|6",
    25: "16 14 11 12 9 7",
    30: "19 16|17 13 15 11 8",
    40: "26 22 17 19 15 10|11",
    50: "32 27 21 24 18 13",
}
"""High-noise steps by (shift, boundary): official UniPC | DPM++ and Euler, one number if equal."""


def toy_velocity(x: Tensor, sigma: float, _timestep: float = 0.0) -> Tensor:
    """The flow that the golden trajectories were made with."""
    return 0.8 * x - torch.sin(3 * x) + 0.1 * sigma * x**2


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("solver", "key"), [("unipc", "unipc"), ("dpm++", "dpm")])
def test_schedule(name: str, solver: str, key: str) -> None:
    steps, shift = (part.lstrip("stephif") for part in name.split("_"))
    expected = SCHEDULES[name]
    sigmas = make_sigmas(solver, int(steps), float(shift))
    timesteps = make_timesteps(solver, int(steps), float(shift)).tolist()
    torch.testing.assert_close(sigmas, torch.tensor(expected[f"{key}_sigma"]), atol=1e-7, rtol=0)
    assert timesteps == expected[f"{key}_t"]
    assert [official_timestep(sigma) for sigma in sigmas[:-1].tolist()] == timesteps


@pytest.mark.parametrize(
    ("steps", "shift", "timesteps", "last_sigma"),
    [(40, 12, T2V_40, 0.235110), (40, 5, I2V_40, 0.113533), (50, 5, TI2V_50, 0.092507)],
)
def test_official_lists(steps: int, shift: float, timesteps: str, last_sigma: float) -> None:
    assert make_timesteps("unipc", steps, shift).tolist() == [int(t) for t in timesteps.split()]
    assert make_sigmas("unipc", steps, shift)[-2].item() == pytest.approx(last_sigma, abs=1e-6)


@pytest.mark.parametrize(
    ("solver", "shift", "boundary", "high"),
    [
        ("unipc", 12, 0.875, 26),
        ("unipc", 5, 0.9, 15),
        ("unipc", 3, 0.9, 10),
        ("dpm++", 3, 0.9, 11),
    ],
)
def test_official_expert_splits_of_40_steps(
    solver: str, shift: float, boundary: float, high: int
) -> None:
    assert expert_split(solver, 40, shift, boundary) == high


@pytest.mark.parametrize("steps", SPLITS)
def test_expert_split_table(steps: int) -> None:
    for (shift, boundary), cell in zip(SPLIT_COLUMNS, SPLITS[steps].split(), strict=True):
        unipc, dpmpp = int(cell.split("|")[0]), int(cell.split("|")[-1])
        where = f"shift {shift} boundary {boundary}"
        assert expert_split("unipc", steps, shift, boundary) == unipc, where
        assert expert_split("dpm++", steps, shift, boundary) == dpmpp, where
        assert expert_split("euler", steps, shift, boundary) == dpmpp, where


@pytest.mark.parametrize(("steps", "shift"), [(8, 5), (20, 8), (40, 12)])
@pytest.mark.parametrize(
    ("solver", "key"), [("unipc", "unipc"), ("dpm++", "dpm"), ("euler", "euler_on_dpm_sigmas")]
)
def test_golden_trajectory(solver: str, key: str, steps: int, shift: float) -> None:
    expected = torch.from_numpy(golden()[f"traj.{key}.steps{steps}_shift{shift}"])
    samples = [value("traj", (1, 2, 1, 4, 4))]
    solve(
        solver,
        toy_velocity,
        samples[0],
        make_sigmas(solver, steps, shift),
        on_step=lambda _index, _x0, x: samples.append(x),
    )
    torch.testing.assert_close(torch.stack(samples), expected, atol=3e-6, rtol=0)


@pytest.mark.parametrize("first", [0, 5, 13])
@pytest.mark.parametrize(("steps", "shift"), [(14, 5), (20, 8), (40, 12)])
def test_unipc_against_diffusers(steps: int, shift: float, first: int) -> None:
    """On the official sigmas and on their tails, as denoise below 1 takes them."""
    diffusers = pytest.importorskip("diffusers")
    sigmas = make_sigmas("unipc", steps, shift)[first:]
    scheduler = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=1.0
    )
    scheduler.set_timesteps(sigmas=sigmas[:-1].double().numpy())
    torch.testing.assert_close(scheduler.sigmas, sigmas, atol=1e-7, rtol=0)
    compare_with_scheduler("unipc", sigmas, scheduler)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
@pytest.mark.parametrize("first", [0, 5, 13])
@pytest.mark.parametrize(("steps", "shift"), [(14, 5), (20, 8), (40, 12)])
def test_dpmpp_against_diffusers(steps: int, shift: float, first: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    sigmas = make_sigmas("dpm++", steps, shift)[first:]
    scheduler = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=1.0
    )
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = sigmas
    compare_with_scheduler("dpm++", sigmas, scheduler)


def compare_with_scheduler(name: str, sigmas: Tensor, scheduler: object) -> None:
    """Runs our solver and a diffusers scheduler side by side, step by step."""
    scheduler.set_begin_index(0)  # type: ignore[attr-defined]
    solver = make_solver(name, sigmas)
    ours = theirs = value("diffusers", (2, 3, 4))
    for index, sigma in enumerate(solver.sigmas[:-1]):
        ours = solver.step(index, ours - sigma * toy_velocity(ours, sigma), ours)
        timestep = scheduler.timesteps[index]  # type: ignore[attr-defined]
        v = toy_velocity(theirs, sigma)
        theirs = scheduler.step(v, timestep, theirs, return_dict=False)[0]  # type: ignore[attr-defined]
        torch.testing.assert_close(ours, theirs, atol=3e-6, rtol=0)

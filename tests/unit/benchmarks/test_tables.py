import pytest

from benchmarks.layouts import FORWARD
from benchmarks.markdown import ReportError, headline, rewrite, table, tables
from benchmarks.tables import groups

from .measured import forward, line


def cells(markdown: str) -> list[dict[str, str]]:
    """Reads a Markdown table back."""
    rows = [row[2:-2].split(" | ") for row in markdown.splitlines() if row.startswith("| ")]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def test_ratio_is_ours_by_theirs():
    lines = [forward("comfyui", 4.0, peak_gib=3.0), forward("wan-duet", 3.0, peak_gib=1.5)]

    ours, theirs = cells(table(lines, "forward"))

    assert (ours["by"], ours["seconds"], ours["ours / its: time"]) == ("WanDuet", "3.00", "")
    assert (theirs["by"], theirs["ours / its: time"], theirs["memory"]) == (
        "ComfyUI 0.3.75",
        "0.75",
        "0.50",
    )


def test_numbers_of_different_runs_are_not_compared():
    lines = [forward("wan-duet", 3.0, run="1"), forward("comfyui", 4.0, run="2")]

    assert [row["ours / its: time"] for row in cells(table(lines, "forward"))] == ["", ""]


def test_sizes_formats_and_slices_are_not_compared():
    others = ({"size": "1280x720x81"}, {"format": "fp8"}, {"layers": 8, "of_layers": 40})
    lines = [forward("wan-duet", 3.0), *({**forward("comfyui", 4.0), **other} for other in others)]

    rows = cells(table(lines, "forward"))

    assert [row["ours / its: time"] for row in rows] == [""] * 4
    assert rows[-1]["model"] == "A14B, 8 of 40 blocks"


def test_a_missing_and_a_failed_peer():
    alone = cells(table([forward("wan-duet", 3.0)], "forward"))
    lines = [forward("wan-duet", 3.0), forward("comfyui", None, failed="out of memory")]

    failed = cells(table(lines, "forward"))[1]

    assert [row["by"] for row in alone] == ["WanDuet"]
    assert (failed["seconds"], failed["ours / its: time"]) == ("out of memory", "")


def test_the_last_run_counts_for_each_setting():
    lines = [
        forward("wan-duet", 3.0, run="1"),
        forward("comfyui", 4.0, run="1"),
        {**forward("wan-duet", 2.0, run="1"), "compiled": True, "run": "1b"},
        forward("wan-duet", 2.8, run="2"),
        forward("comfyui", 3.9, run="2"),
        forward("comfyui", 4.1, run="2"),
    ]

    found = groups(lines, "forward", FORWARD)

    assert [[row.line["seconds"] for row in group.rows] for group in found] == [[2.8, 4.1], [2.0]]


def test_an_error_belongs_to_its_contestant_at_all_sizes():
    about = {"model": "a14b", "format": "bf16", "size": "832x480x13"}
    lines = [
        forward("wan-duet", 3.0),
        {**forward("wan-duet", 9.0), "size": "1280x720x81"},
        forward("comfyui", 4.0),
        line("forward_error", **about, contestant="wan-duet", rms_error=0.003),
    ]

    rows = cells(table(lines, "forward"))

    assert [row["rms error"] for row in rows] == ["3.0e-3", "", "3.0e-3"]


def test_a_table_without_layout_shows_what_its_lines_hold():
    lines = [
        line("other", format="fp8", ms=1.23456, fits=True),
        line("other", format="int8", note="x"),
    ]

    assert cells(table(lines, "other")) == [
        {"format": "fp8", "ms": "1.235", "fits": "yes", "note": ""},
        {"format": "int8", "ms": "", "fits": "", "note": "x"},
    ]


def test_machines_are_kept_apart():
    card = {"name": "RTX 4090", "memory_gib": 24.0}
    lines = [forward("wan-duet", 3.0), {**forward("wan-duet", 6.0), "machine": card}]

    parts = table(lines, "forward").split("\n\n")

    assert parts[0] == (
        "NVIDIA H100 80GB HBM3 79 GiB, driver 580.1, limit 700.00 W, python 3.12.0, "
        "torch 2.11.0+cu130, 2026-11-21."
    )
    assert parts[2].startswith("RTX 4090 24 GiB, python")


def test_only_what_is_between_markers_changes():
    text = "# A\n<!-- table:forward -->\nold\n<!-- /table -->\nB\n<!-- table:x -->\nkept\n"
    text += "<!-- /table -->\nC"

    new = rewrite(text, {"forward": "| new |\n", "vae": "| nowhere |\n"})

    assert new == text.replace("old", "| new |")
    assert rewrite(new, {"forward": "| new |\n"}) == new


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<!-- table:forward -->\n", "forward has no end"),
        ("a\n<!-- /table -->", "line 2"),
        ("<!-- table:a --><!-- table:b --><!-- /table -->", "need <!-- /table -->"),
    ],
)
def test_markers_that_do_not_match(text: str, told: str):
    with pytest.raises(ReportError, match=told):
        rewrite(text, {})


def test_errors_and_ratios_are_no_tables_of_their_own():
    lines = [forward("wan-duet", 3.0), line("forward_ratio", ratio=1.0)]
    lines += [line("forward_error", contestant="wan-duet", rms_error=0.1)]

    assert list(tables(lines)) == ["forward"]


def test_headline_for_an_issue():
    card = {"name": "RTX 4090", "memory_gib": 24.0}
    lines = [forward("wan-duet", 1.0), forward("wan-duet", 5.1, run="2", peak_gib=2.34)]
    lines += [forward("comfyui", 6.0, run="2")]
    lines = [lines[0], *({**one, "machine": card} for one in lines[1:])]

    assert headline(lines) == (
        "RTX 4090 24 GiB | wan-duet 83b72d0 | python 3.12.0 | torch 2.11.0+cu130 | "
        "A14B 832x480x81 bf16 (sdpa) 5.10 s (0.85 of ComfyUI 0.3.75), peak 2.3 GiB"
    )


def test_floor_is_beside_the_time():
    lines = [forward("comfyui", 4.0), forward("wan-duet", 3.0, floor_seconds=2.25)]

    ours, theirs = cells(table(lines, "forward"))

    assert (ours["floor, s"], theirs["floor, s"]) == ("2.25", "")

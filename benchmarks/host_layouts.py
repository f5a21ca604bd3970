"""How what runs on a computer cost it becomes tables.

Many prompts in a row, several processes, the first use of kernels.
"""

from .tables import Column, Layout, Row


def _growth(title: str, key: str, form: str) -> Column:
    """What each prompt adds, with one standard error."""

    def text(row: Row) -> str:
        growth = row.line[f"{key}_a_prompt"]
        if growth is None:
            return ""  # too few prompts
        value, error = growth
        return f"{value or 0:{form}}" + (f" ± {error:{form}}" if error else "")  # not "-0"

    return Column(title, text)


def _count(title: str, key: str) -> Column:
    return Column(title, lambda row: row.number(key, ",d"))


def _longest_pause(row: Row) -> str:
    pauses = row.line.get("longest_pauses")
    return f"{1000 * pauses[0]:.0f}" if pauses else ""


SOAK = Layout(
    subject=("server", "prompts"),
    columns=(
        Column("nodes", lambda row: row.name("server")),
        _count("prompts", "prompts"),
        _growth("a prompt adds: private memory, KiB", "rss_kib", ".2f"),
        _growth("of it not freed to C's allocator", "heap_kib", ".2f"),
        _growth("open files", "files", "g"),
        _growth("threads", "threads", "g"),
        _growth("bytes below user/", "disk_bytes", ".3f"),
        Column("results unlike a fresh server's", lambda row: f"{len(row.line['differences'])}"),
    ),
    title=lambda row: f"{row.name('prompts')} prompts, private memory",
    told=None,
)

HOST_MEMORY = Layout(
    subject=("ranks", "layers"),
    columns=(
        Column("processes", lambda row: row.name("ranks")),
        _count("files, MiB", "files_mib"),
        _count("own, MiB", "after_mib"),
        _count("of it before loading", "before_mib"),
        Column("RAM, MiB", lambda row: format(row.line["files_mib"] + row.line["after_mib"], ",d")),
        Column("of one process'", lambda row: row.number("of_first", ".2f")),
    ),
    title=lambda row: f"{row.name('ranks')} processes, RAM",
    told=None,
)

FIRST_USE = Layout(
    subject=("case", "mode"),
    columns=(
        Column("what", lambda row: row.name("case")),
        Column("kernels are", lambda row: row.name("mode")),
        Column("kernels", lambda row: row.name("kernels")),
        Column("compiled ahead in, s", lambda row: row.number("ahead_seconds", ".1f")),
        Column("longest pause of others, ms", _longest_pause),
        Column("first call, s", lambda row: row.number("first_seconds", ".2f")),
        Column("second, s", lambda row: row.number("second_seconds", ".3f")),
    ),
    title=lambda row: f"first use of {row.name('case')}, {row.name('mode')}",
    told=None,
)

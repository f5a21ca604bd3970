"""How what a computer's memory holds becomes tables: many prompts in a row, several processes."""

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

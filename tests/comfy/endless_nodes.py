"""A node as some packs write it: its tuple of output types answers for every number."""

from typing import Any


class Endless(tuple[str, ...]):
    """Has one type, and gives it for any output."""

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(0)


class ManyOutputs:
    """Gives whole numbers at as many outputs as are linked."""

    CATEGORY = "WanDuet tests"
    FUNCTION = "give"
    RETURN_TYPES = Endless(("INT",))

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {}}

    def give(self) -> tuple[int, ...]:
        return (1, 2, 3, 4)


NODE_CLASS_MAPPINGS = {"WanDuetTestManyOutputs": ManyOutputs}

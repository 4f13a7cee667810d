"""Draw the package from its imports: its rooms, the floors they lie on, who looks into whom.

    python scripts/draw_house.py

A room is a folder, or a file in the package's root. A room lies one floor above the highest of
those that it imports. Prints the floors from the top, then the figures that are kept small.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "st_adapter"
NOT_ROOMS = ("st_adapter", "st_adapter.__main__")


def main() -> None:
    """Print the house and its figures."""
    rooms = read_rooms()
    arrows = {(a, b) for a, others in rooms.items() for b in others}
    floors = {room: floor_of(room, rooms) for room in rooms}
    for floor in sorted(set(floors.values()), reverse=True):
        there = sorted(room for room in rooms if floors[room] == floor)
        print(f"{floor:3}  {'  '.join(name.removeprefix('st_adapter.') for name in there)}")
    longest, name = max(function_lengths())
    lines = sum(len(file.read_text().splitlines()) for file in SOURCE.rglob("*.py"))
    print(f"{len(list(SOURCE.glob('*.py')))} files in the root, {lines} lines")
    print(f"{len(rooms)} rooms, {max(floors.values())} floors, {len(arrows)} imports between rooms")
    print(f"longest function: {longest} lines, {name}")


def read_rooms() -> dict[str, set[str]]:
    """Each room to the other rooms that something in it imports."""
    files = {module_name(file): file for file in SOURCE.rglob("*.py")}
    rooms: dict[str, set[str]] = {}
    for module, file in files.items():
        room = room_of(module, files)
        if room in NOT_ROOMS:
            continue
        seen = rooms.setdefault(room, set())
        for imported in imported_modules(file, files):
            other = room_of(imported, files)
            if other not in (room, *NOT_ROOMS):
                seen.add(other)
    return rooms


def module_name(file: Path) -> str:
    """The dotted name of a file's module."""
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str, files: dict[str, Path]) -> str:
    """The folder that a module lies in; a module in the root is a room of its own."""
    is_folder = files[module].name == "__init__.py"
    folder = module if is_folder else module.rpartition(".")[0]
    return module if folder == "st_adapter" else folder


def imported_modules(file: Path, files: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that a file imports, wherever in it that stands."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("st_adapter"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in files else str(node.module)


def floor_of(room: str, rooms: dict[str, set[str]], above: tuple[str, ...] = ()) -> int:
    """How high a room lies.

    Raises:
        ValueError: imports go round in a circle.
    """
    if room in above:
        raise ValueError(f"a circle: {' > '.join((*above[above.index(room) :], room))}")
    return 1 + max((floor_of(other, rooms, (*above, room)) for other in rooms[room]), default=0)


def function_lengths() -> Iterator[tuple[int, str]]:
    """Lines of each function, docstring included, with its place."""
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                yield lines, f"{module_name(file)}.{node.name}"


if __name__ == "__main__":
    main()

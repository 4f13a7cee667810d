"""Write the HTML page of a run or of a comparison, a single file without external parts."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from st_adapter.common.files import atomic_path, no_folder
from st_adapter.common.hub import refuse_hub_name
from st_adapter.errors import ArgumentError
from st_adapter.report.answers import COMPACT
from st_adapter.report.comparison_page import comparison_values
from st_adapter.report.parts import interval_text, percent, points, size
from st_adapter.report.run_page import ORDER_NAMES, run_values


def write_report(folder: Path) -> Path:
    """Write `report.html` to the folder of a run or of a comparison.

    Args:
        folder: The folder, with a finished run or comparison.

    Returns:
        The path of the page.

    Raises:
        ArgumentError: The folder contains neither a finished run nor a finished comparison.
    """
    refuse_hub_name(folder)
    if (folder / "results.json").is_file():
        template, values_of = "comparison.html", comparison_values
    elif (folder / "eval.json").is_file():
        template, values_of = "run.html", run_values
    elif not folder.is_dir():
        raise ArgumentError(
            f"{folder} {no_folder(folder)}; give the folder of a run or of a comparison"
        )
    else:
        raise ArgumentError(
            f"{folder} contains neither eval.json of a run nor results.json of a comparison; run "
            "train, evaluate or compare first"
        )
    try:
        values = values_of(folder)
    except KeyError as error:
        raise ArgumentError(
            f"{folder} was written by another version of st-adapter (its files do not contain "
            f"{error}); evaluate or compare again"
        ) from error
    text = render(template, orders=ORDER_NAMES, **values)
    with atomic_path(folder / "report.html") as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")
    return folder / "report.html"


def render(template: str, **values: Any) -> str:
    """Fill in a template of this package.

    Args:
        template: Name of its file in `templates/`.
        **values: What it shows. A name that is missing is an error.
    """
    environment = Environment(
        loader=PackageLoader("st_adapter.report"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {
        "percent": percent,
        "points": points,
        "interval": interval_text,
        "size": size,
    }
    environment.policies["json.dumps_kwargs"] = {"separators": COMPACT}
    environment.filters["names"] = lambda value: (
        value if isinstance(value, str) else ", ".join(value) or "nothing"
    )
    return environment.get_template(template).render(**values)

"""Times in a video as people write them: seconds, m:ss or h:mm:ss."""

import math
import re

_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)", re.ASCII)


def clock(seconds: float, *, with_tenths: bool = True) -> str:
    """Write a time to a tenth of a second, or cut off to a whole second.

    >>> clock(12.44), clock(59.96), clock(3723.5)
    ('0:12.4', '1:00.0', '1:02:03.5')
    """
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    start = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{start}:{rest // 10:02}" + (f".{rest % 10}" if with_tenths else "")


def parse_clock(text: str) -> float:
    """Read a time.

    >>> parse_clock("90.5"), parse_clock("75:30.5"), parse_clock("1:02:03")
    (90.5, 4530.5, 3723.0)

    Args:
        text: Seconds, m:ss or h:mm:ss. Seconds may have decimals.

    Raises:
        ValueError: If the text is not a time. The message says what was given and what would do.
    """
    match = _TIME.fullmatch(text.strip())
    hours, minutes, seconds = match.groups() if match else (None, None, "inf")
    value = float(seconds)
    is_carried = (hours is None or int(minutes or 0) < 60) and (minutes is None or value < 60)
    if not math.isfinite(value) or not is_carried:
        raise ValueError(
            f"{text!r} is not a time; use seconds such as 90.5, or m:ss, or h:mm:ss such as 1:02:03"
        )
    return 3600.0 * int(hours or 0) + 60.0 * int(minutes or 0) + value

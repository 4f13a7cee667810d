"""Whether the validation videos are enough to choose an epoch by."""

from st_adapter.data.annotations import Annotations
from st_adapter.data.formats.listing import counted
from st_adapter.wording import setting

FEWEST_VIDEOS = 20
"""Fewest validation videos to choose an epoch by.

With fewer, a single video is more than 5 points of accuracy, and the standard error of a measured
accuracy is about 10 points: more than the epochs of a run usually differ by. The best epoch would
be the luckiest one, and its accuracy an overestimate.
"""


def can_choose_epoch(data: Annotations) -> bool:
    """Return whether there are enough validation videos to choose the best epoch by."""
    return len(data.val) >= FEWEST_VIDEOS


def too_few_videos(data: Annotations) -> str:
    """Say how many validation videos there are, how many it takes, and what would help."""
    return (
        f"{counted(len(data.val), 'validation video')} are too few to choose an epoch by (it takes "
        f"{FEWEST_VIDEOS}); {setting('folds', 5)} measures with every video, and a larger "
        f"{setting('val-fraction')} holds out more"
    )

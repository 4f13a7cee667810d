import pytest

from st_adapter.common.task import Task
from st_adapter.data.annotations import Annotations
from st_adapter.data.class_pairs import UNKNOWN, mirrored_classes, reversed_classes
from st_adapter.data.videos import VideoList
from st_adapter.errors import ArgumentError

SOMETHING = (
    "Pulling something from left to right",
    "Pulling something from right to left",
    "Turning the camera left while filming something",
    "Holding something, upright",
    "Turning the camera right while filming something",
)


def data(labels, task=Task()):
    return Annotations(
        labels=tuple(labels), train=VideoList((), ()), val=VideoList((), ()), task=task
    )


def test_names_tell_left_from_right():
    assert mirrored_classes("names", data(SOMETHING)) == {0: 1, 1: 0, 2: 4, 4: 2}
    jester = ("Turning Hand Clockwise", "Turning Hand Counterclockwise", "swipe_left", "leftovers")
    assert mirrored_classes("names", data(jester)) == {0: 1, 1: 0, 2: UNKNOWN}


def test_a_mirror_is_refused_where_it_would_change_classes_unsaid():
    with pytest.raises(ArgumentError, match="'Pulling something from left to right'.*flip=False"):
        mirrored_classes(None, data(SOMETHING))
    assert mirrored_classes("same", data(SOMETHING)) == {}
    assert mirrored_classes(None, data(("Copyright", "cleft"))) == {}


def test_pairs_come_from_a_file_where_names_have_commas(tmp_path):
    file = tmp_path / "pairs.csv"
    labels = ("a, left", "b", "c=d")
    file.write_text('"a, left",b\n')
    assert mirrored_classes(str(file), data(labels)) == {0: 1, 1: 0}
    assert reversed_classes(str(file), data(labels)) == {0: 1, 1: 0}
    file.write_text("b,c=d\nb,a\n")
    with pytest.raises(ArgumentError, match="pairs.csv takes pairs.*pair 2 is 'b=a'"):
        mirrored_classes(str(file), data(labels))


@pytest.mark.parametrize("kind", [mirrored_classes, reversed_classes])
def test_a_name_that_is_no_class_is_refused(kind):
    with pytest.raises(ArgumentError, match="'stand', which is not a class.*did you mean Stand"):
        kind("Sit=stand", data(("Sit", "Stand")))


def test_classes_of_heads_are_mirrored_by_their_full_names():
    task = Task(heads=(("verb", 2), ("noun", 1)))
    labels = ("verb/turn left", "verb/turn right", "noun/tap")
    assert mirrored_classes("names", data(labels, task)) == {0: 1, 1: 0}
    with pytest.raises(ArgumentError, match="reversal needs one label per video"):
        reversed_classes("verb/turn left=verb/turn right", data(labels, task))


def test_pairs_leave_other_directions_to_their_names():
    labels = ("Turn left", "Turn right", "Push left", "Push right", "Wave clockwise")
    mirror = mirrored_classes("Turn left=Turn right", data(labels))
    assert mirror == {0: 1, 1: 0, 2: 3, 3: 2, 4: UNKNOWN}

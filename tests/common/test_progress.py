import pytest

from st_adapter.common.progress import rows, trend


def test_facts_stay_whole_in_a_narrow_terminal():
    facts = ["step 7", "loss 1.097", "rate 3.3e-04"]
    assert rows(facts, 100) == ["  step 7   loss 1.097   rate 3.3e-04"]
    assert rows(facts, 24) == ["  step 7   loss 1.097", "  rate 3.3e-04"]
    assert rows(facts, 5) == ["  step 7", "  loss 1.097", "  rate 3.3e-04"]


@pytest.mark.parametrize(
    ("values", "shown"),
    [([], ""), ([1.0], ""), ([2.0, 2.0], "▁▁"), ([0.0, 0.5, 1.0], "▁▅█"), ([3.0, 1.0], "█▁")],
)
def test_the_largest_value_of_a_trend_is_the_highest(values, shown):
    assert trend(values) == shown

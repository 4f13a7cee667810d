"""The documented interface: nothing that a client can send gets an answer it does not list."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from st_adapter.serving.app import make_app
from st_adapter.serving.limits import Limits

TOKEN = "0123456789abcdef"
HERE = {"Host": "localhost", "Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def app(label_runs):
    limits = Limits(decoders=1, max_megabytes=1)
    app = make_app(
        [label_runs["light"], label_runs["doing"]], token=TOKEN, limits=limits, device="cpu"
    )
    yield app
    app.state.backend.close()


def test_answers_are_those_that_are_documented(app):
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=HERE)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 5
    for operation in operations:

        @settings(max_examples=20, deadline=None, suppress_health_check=[*HealthCheck])
        @given(case=operation.as_strategy())
        def answers_as_documented(case):
            # The schema cannot say which files are videos.
            case.call_and_validate(headers=HERE, excluded_checks=[positive_data_acceptance])

        answers_as_documented()

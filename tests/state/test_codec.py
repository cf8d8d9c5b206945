"""Models to JSON and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.certificates import Authority, Certificate
from state.codec import DecodeError, decode, encode
from state.models import Backend, Deployment, DeploymentState, Endpoint, Replica, Route, Scale, Service

MODELS = [Service, Deployment, Replica, Scale, Backend, Route, Certificate, Authority]


@pytest.mark.parametrize("model", MODELS)
@given(st.data())
def test_every_value_comes_back(model: type, data: st.DataObject) -> None:
    value = data.draw(st.builds(model))
    assert decode(model, encode(value)) == value


def test_defaults_are_left_out_and_unknown_fields_ignored() -> None:
    backend = Backend("s", "acme", "api", endpoints=(Endpoint("r", "127.0.0.1", 1),))
    assert b"phase" not in encode(backend)
    assert decode(Backend, encode(backend)[:-1] + b',"later":1}') == backend


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"service":1}', b'{"service":"s","namespace":"n"}', b"\xff"])
def test_damage_is_told(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(Backend, data)


def test_states_are_checked() -> None:
    with pytest.raises(DecodeError):
        decode(Deployment, b'{"id":"d","service":"s","state":"flying","run":{},"created_at":1}')
    assert DeploymentState.STARTING.in_progress
    assert not DeploymentState.FAILED.in_progress


def test_records_of_before_the_whole_api_are_read() -> None:
    """What an older release stored lacks the fields that came later; they have their defaults."""
    run = b'{"repo":"acme/api","branch":"main"}'
    deployment = decode(
        Deployment, b'{"id":"d","service":"s","state":"active","run":' + run + b',"created_at":1,"commit":"c"}'
    )
    assert (deployment.cause, deployment.digest) == ("create", None)
    service = decode(
        Service,
        b'{"id":"s","namespace":"acme","name":"api","label":"api-acme","run":' + run + b',"gpu":"none",'
        b'"gpu_count":null,"min_replicas":0,"max_replicas":1,"target_gpu_utilization":70,"region":"us-east-1",'
        b'"custom_domain":null,"scaling":{},"created_at":1,"updated_at":1,"latest":"d"}',
    )
    assert (service.queued, service.webhook, service.hooked_at) == (False, "", None)
    assert not decode(Scale, b'{"desired":1}').asleep

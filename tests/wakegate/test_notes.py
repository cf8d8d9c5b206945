"""What an operator is told of a valid configuration before he relies on it."""

from wakegate.config import load
from wakegate.serve import notes


def test_a_plain_start_has_nothing_to_say():
    assert notes(load({}, {})) == []


def test_a_shared_store_reaches_no_farther_than_this_machine():
    (note,) = notes(load({}, {"WAKEGATE_REDIS": "redis://127.0.0.1:6379/0"}))
    assert "must run on this machine" in note


def test_credentials_on_the_command_line_are_told_without_them():
    private = "https://bot:t0ken@forge.example/{repo}.git"
    (note,) = notes(load({"git_url": [private]}, {}))
    assert "WAKEGATE_GIT_URL" in note
    assert "t0ken" not in note
    assert notes(load({}, {"WAKEGATE_GIT_URL": private})) == []
    assert notes(load({"git_url": ["https://forge.example/{repo}.git"]}, {})) == []

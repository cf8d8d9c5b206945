"""What is told of a node that stopped and left something running."""

from pathlib import Path

from wakegate.config import Config, load
from wakegate.remnants import complaint, running

LEFT = ["replica a (pid 7)", "replica b (pid 8)"]


def config(tmp_path: Path, driver: str = "process") -> Config:
    return load({"data_dir": [str(tmp_path)], "driver": [driver]}, {}, None).config


def test_a_node_that_never_was_has_nothing(tmp_path):
    assert running(config(tmp_path / "new")) == []


def test_nothing_is_told_where_nothing_runs(tmp_path):
    assert complaint(config(tmp_path), [], control_ended=True) == ""
    assert complaint(config(tmp_path), [], control_ended=False) == "", "the records say so"


def test_each_replica_that_runs_is_told_and_what_ends_it(tmp_path):
    told = complaint(config(tmp_path), LEFT, control_ended=True)
    assert told.startswith("left running: replica a (pid 7), replica b (pid 8). ")
    assert f"Start `wakegate serve` on {tmp_path} again" in told


def test_only_control_knows_of_containers(tmp_path):
    containers = config(tmp_path, "container")
    assert complaint(containers, [], control_ended=True) == ""
    assert complaint(containers, [], control_ended=False).startswith("left running: what the engine still has")


def test_a_record_that_cannot_be_read_counts_as_running(tmp_path):
    (tmp_path / "replicas" / "r").mkdir(parents=True)
    (tmp_path / "replicas" / "r" / "replica.json").write_text("{")
    (told,) = running(config(tmp_path))
    assert "can't be read" in told

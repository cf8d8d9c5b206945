"""What is sent to an engine: limits, GPUs, privileges, ports, labels; and in what Docker and Podman differ."""

from __future__ import annotations

import json

from activator.drivers import Launch
from activator.drivers.container.body import (
    Identity,
    container_body,
    container_name,
    network_name,
    node_label,
    resources,
)
from activator.drivers.container.flavour import Flavour
from activator.drivers.gpus import cuda_environment, free_gpus, least_used

DOCKER = Flavour(podman=False, version="28.2.2", cpus=8, swap_limit=True)
PODMAN = Flavour(podman=True, version="4.3.1", cpus=8, swap_limit=True)
LAUNCH = Launch(
    replica_id="r1",
    service_id="svc",
    namespace="acme",
    deployment_id="dep",
    artifact="localhost/wakegate-n1/acme/svc:abc",
    port=20_001,
    env={"TOKEN": "s3cret", "PORT": "1", "HOST": "127.0.0.1"},
    cpu=4,
    memory=2,
    container_port=9000,
)
IDENTITY = Identity.of(LAUNCH, "n1", ("2", "3"))


def test_the_body_has_the_limits_the_port_the_network_and_few_rights() -> None:
    body = container_body(LAUNCH, IDENTITY, DOCKER)
    host = body["HostConfig"]
    assert body["Image"] == LAUNCH.artifact
    assert body["ExposedPorts"] == {"9000/tcp": {}}
    assert host["PortBindings"] == {"9000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "20001"}]}
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (4_000_000_000, 2 << 30, 2 << 30)
    assert host["NetworkMode"] == network_name("n1", "acme")
    assert host["Init"] is True
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert "NET_RAW" in host["CapDrop"]
    assert host["PidsLimit"] > 0
    assert "Ulimits" not in host
    assert "Privileged" not in host


def test_the_port_is_the_service_s_own_whatever_its_environment_says() -> None:
    env = dict(entry.split("=", 1) for entry in container_body(LAUNCH, IDENTITY, DOCKER)["Env"])
    assert env == {"PORT": "9000", "HOST": "127.0.0.1", "TOKEN": "s3cret"}
    plain = container_body(Launch("r", "s", "n", "d", "a", 1), IDENTITY, DOCKER)["Env"]
    assert "HOST=0.0.0.0" in plain


def test_labels_say_whose_it_is_and_hold_no_environment() -> None:
    labels = container_body(LAUNCH, IDENTITY, DOCKER)["Labels"]
    assert Identity.from_labels(labels) == IDENTITY
    assert node_label("n1") == f"wakegate.node={labels['wakegate.node']}"
    assert "s3cret" not in json.dumps(labels)
    assert "s3cret" not in repr(LAUNCH)
    assert container_name("r1") == "wakegate-r1"


def test_labels_that_are_not_whole_are_nobody_s() -> None:
    whole = IDENTITY.labels()
    for name in whole:
        assert Identity.from_labels({key: value for key, value in whole.items() if key != name}) is None
    assert Identity.from_labels(whole | {"wakegate.port": "x"}) is None


def test_more_cpus_than_there_are_become_all_of_them() -> None:
    assert resources(64, 1024, DOCKER) == {"NanoCpus": 8_000_000_000, "Memory": 1 << 40, "MemorySwap": 1 << 40}
    assert "MemorySwap" not in resources(2, 4, Flavour(podman=False, version="1", cpus=8))
    assert resources(2, 4, Flavour(podman=True, version="1", cpus=8, limits=False)) == {}


def test_gpus_are_requested_by_number_from_docker() -> None:
    requests = container_body(LAUNCH, IDENTITY, DOCKER)["HostConfig"]["DeviceRequests"]
    assert requests == [{"Driver": "nvidia", "DeviceIDs": ["2", "3"], "Capabilities": [["gpu"]]}]
    without = Identity.of(LAUNCH, "n1")
    assert container_body(LAUNCH, without, DOCKER)["HostConfig"]["DeviceRequests"] == []
    assert DOCKER.gpus
    assert not PODMAN.gpus


def test_a_gpu_belongs_to_one_replica_and_kinds_are_numbered_through() -> None:
    offer = {"T4": 2, "L4": 3}
    assert free_gpus(offer, "T4", 1, set()) == ["0"]
    assert free_gpus(offer, "T4", 1, {"0"}) == ["1"]
    assert free_gpus(offer, "T4", 2, {"1"}) is None
    assert free_gpus(offer, "L4", 2, {"0", "1", "3"}) == ["2", "4"]
    assert free_gpus(offer, "H100-80GB", 1, set()) is None


def test_processes_get_the_gpus_that_the_fewest_have() -> None:
    offer = {"T4": 2, "L4": 3}
    assert least_used(offer, "L4", 2, {"2": 1}) == ["3", "4"]
    assert least_used(offer, "L4", 2, {"2": 1, "3": 1, "4": 2}) == ["2", "3"]
    assert least_used(offer, "T4", 8, {}) == ["0", "1"]
    assert least_used({}, "T4", 1, {}) == []
    assert cuda_environment(["3", "4"]) == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "3,4"}
    assert cuda_environment([]) == {}


def test_the_engine_tells_what_it_is() -> None:
    info = {"NCPU": 16, "MemoryLimit": True, "SwapLimit": False}
    podman = Flavour.of({"Version": "4.3.1", "Components": [{"Name": "Podman Engine"}]}, info | {"CpuCfsQuota": True})
    docker = Flavour.of({"Version": "28.2.2", "Components": [{"Name": "Engine"}]}, info | {"CpuCfsQuota": True})
    assert (podman.name, docker.name) == ("Podman 4.3.1", "Docker 28.2.2")
    assert docker.limits
    assert (docker.cpus, docker.swap_limit) == (16, False)
    assert not Flavour.of({}, info | {"CpuCfsQuota": False}).limits


def test_the_newest_version_of_the_api_that_both_know_is_spoken() -> None:
    def spoken(newest: str, oldest: str) -> str:
        return Flavour.api_version({"ApiVersion": newest, "MinAPIVersion": oldest})

    assert spoken("1.41", "1.24") == "v1.41"  # Podman 4, Docker 20.10
    assert spoken("1.52", "1.44") == "v1.47"  # Docker 29
    assert spoken("1.60", "1.50") == "v1.50"
    assert Flavour.api_version({}) == "v1.41"


def test_logs_are_bounded_and_networks_of_podman_kept_apart() -> None:
    assert DOCKER.log_config() == {"Type": "json-file", "Config": {"max-size": "16777216", "max-file": "4"}}
    assert PODMAN.log_config() == {"Type": "k8s-file", "Config": {"max-size": "67108864"}}
    assert PODMAN.network_options() == {"isolate": "true"}
    assert DOCKER.network_options() == {}

"""The configuration by values: precedence, every mistake at once, the round trip."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wakegate.config import Config, ConfigError, Loaded, load
from wakegate.options import OPTIONS
from wakegate.values import Address, Span, exporter_url, listener, public, resolver, size


def mistakes(flags=None, environment=None, file=None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(flags or {}, environment or {}, file)
    return list(caught.value.mistakes)


@pytest.fixture
def toml(tmp_path):
    def write(text: str) -> Path:
        (tmp_path / "w.toml").write_text(text)
        return tmp_path / "w.toml"

    return write


def test_the_defaults_are_those_of_the_specification():
    config = load({}, {}).config
    assert config.data_dir == Path.cwd() / ".wakegate"
    assert config.http == (Address("127.0.0.1", 8080),)
    assert config.api == Address("127.0.0.1", 8081)
    assert (config.idle_timeout, config.hold_timeout, config.hold_limit) == (300, 120, 1000)
    assert (config.response_timeout, config.drain_timeout, config.stale_limit) == (300, 30, 3600)
    assert (config.domain, config.role, config.driver, config.region) == (
        "apps.localhost",
        "all",
        "process",
        "us-east-1",
    )
    assert config.access_log == str(Path.cwd() / ".wakegate" / "access.log")
    assert config.process_uids == Span(61000, 61999)
    assert config.max_body is None
    assert config.redis is None
    assert config.public_http_port == 8080


VALUE = st.integers(1, 9999).map(str)


@given(flag=st.none() | VALUE, variable=st.none() | VALUE, key=st.none() | VALUE)
def test_flag_over_environment_over_file_over_default(tmp_path_factory, flag, variable, key):
    file = tmp_path_factory.getbasetemp() / "precedence.toml"
    file.write_text(f"hold-limit = {key}\n" if key else "")
    flags = {"hold_limit": [flag]} if flag else {}
    environment = {"WAKEGATE_HOLD_LIMIT": variable} if variable else {}
    assert load(flags, environment, file).config.hold_limit == int(flag or variable or key or 1000)


def test_an_overridden_value_is_not_looked_at(toml):
    assert load({"workers": ["2"]}, {"WAKEGATE_WORKERS": "many"}, toml("workers = -1")).config.workers == 2


def test_every_mistake_is_named_at_once(toml):
    file = toml('http = ["x"]\nhtpps = 1\nacme-eab = "kid"\n[api]\nx = 1\n')
    environment = {"WAKEGATE_WORKERS": "0", "WAKEGATE_HOLD_LIMITS": "1", "WAKEGATE_IDLE_TIMEOUT": "nan"}
    found = mistakes({"role": ["gateway"], "domain": ["-x"], "max_body": ["0"]}, environment, file)
    text = "\n".join(found)
    assert len(found) == 10
    assert f"{file}: htpps: no such option (did you mean https?)" in text
    assert "WAKEGATE_HOLD_LIMITS: no such option (did you mean WAKEGATE_HOLD_LIMIT?)" in text
    assert "WAKEGATE_WORKERS: expected a whole number from 1 to 1024" in text
    assert "WAKEGATE_IDLE_TIMEOUT: expected seconds from 1 to 86400" in text
    assert f"{file}: api: expected a string or a number" in text
    assert f"{file}: http: expected host:port" in text
    assert "--role: gateway needs --redis" in text
    for flag in ("--domain: ", "--max-body: ", f"{file}: acme-eab: expected KID:KEY"):
        assert flag in text


def test_a_file_that_is_not_there_or_not_toml_is_one_mistake_among_others(tmp_path, toml):
    assert len(mistakes({"workers": ["x"]}, {}, tmp_path / "none.toml")) == 2
    assert "line 1" in mistakes({}, {}, toml("http 1"))[0]
    (tmp_path / "latin.toml").write_bytes(b"domain = '\xff'")
    assert len(mistakes({}, {}, tmp_path / "latin.toml")) == 1


def test_an_option_written_in_two_ways_is_a_mistake(toml):
    file = toml("idle-timeout = 1\nhold_limit = 7\nidle_timeout = 2\n")
    assert mistakes({"idle_timeout": ["5"]}, {}, file) == [
        f"{file}: idle_timeout: the same option as idle-timeout: give one of them"
    ]


@pytest.mark.parametrize("text", ["x", "c2hvcnQ=", "A" * 44, "ä" * 44, "A" * 43, "-" * 43 + "=", " "])
def test_a_secret_key_that_is_none_is_a_mistake_among_others(text):
    found = mistakes({"workers": ["0"]}, {"WAKEGATE_SECRET_KEY": text})
    assert len(found) == 2
    assert found[0].startswith("WAKEGATE_SECRET_KEY: must be 32 bytes in base64")


@pytest.mark.parametrize("text", ["", "A" * 43 + "=", "A" * 43 + "=\n"])
def test_a_secret_key(text):
    load({}, {"WAKEGATE_SECRET_KEY": text})


def test_toml_types(toml):
    file = toml(
        'api_insecure = true\nworkers = 3\ngit-poll = 1.5\nhttp = ["127.0.0.1:1", "127.0.0.1:2"]\napi = "0.0.0.0:3"'
    )
    config = load({}, {}, file).config
    assert (config.api_insecure, config.workers, config.git_poll, len(config.http)) == (True, 3, 1.5, 2)
    assert mistakes({}, {}, toml("workers = true")) == [f"{file}: workers: expected a string or a number"]
    assert mistakes({}, {}, toml("workers = [1]")) == [f"{file}: workers: expected one value, not a list"]
    assert mistakes({}, {}, toml('api-insecure = "yes"')) == [f"{file}: api-insecure: expected true or false"]


def test_what_holds_between_options():
    assert "needs TLS, or --api-insecure" in mistakes({"api": ["0.0.0.0:8081"]})[0]
    assert load({"api": [":8081"], "api_insecure": ["true"]}, {}).config.api == Address("::", 8081)
    assert mistakes({"role": ["control"]})[0].startswith("--role: control needs --redis")
    assert load({"role": ["control"], "redis": ["redis://h"]}, {}).config.runs_workers is False
    assert "needs --acme-directory" in mistakes({"acme_eab": ["k:v"]})[0]
    assert "needs --acme-directory" in mistakes({"acme_fallback": ["https://ca.test/dir"]})[0]
    assert "needs --acme-fallback" in mistakes({"acme_fallback_eab": ["k:v"]})[0]
    assert "is the same as" in mistakes({"acme_directory": ["letsencrypt"], "acme_fallback": ["letsencrypt"]})[0]
    assert "overlaps" in mistakes({"http": ["127.0.0.1:8081"]})[0]
    assert "overlaps" in mistakes({"http": ["0.0.0.0:80", "127.0.0.1:80"]})[0]
    assert "overlaps" in mistakes({"http": ["127.0.0.1:8443"]})[0]  # the default of --https
    assert load({"http": ["127.0.0.1:8443"], "https": ["off"]}, {}).config.https == ()
    assert load({"http": ["127.0.0.1:0", "127.0.0.1:0"]}, {})


def test_the_program_that_sets_txt_records_can_be_run(tmp_path):
    file = tmp_path / "hook"
    file.write_text("#!/bin/sh\n")
    given = {"acme_directory": ["letsencrypt"], "acme_dns_hook": [str(file)]}
    assert "chmod +x" in mistakes(given)[0]
    file.chmod(0o755)
    assert load(given, {}).config.acme_dns_hook == file
    assert "no such file" in mistakes(given | {"acme_dns_hook": [str(tmp_path / "gone")]})[0]


def test_https_can_be_switched_off(toml):
    for text in ("off", ""):
        assert load({"https": [text]}, {}).config.https == ()
        assert load({}, {"WAKEGATE_HTTPS": text}).config.https == ()
    assert load({}, {}, toml('https = "off"')).config.https == load({}, {}, toml("https = []")).config.https == ()
    assert load({"https": ["off"]}, {}).config.public_https_port is None
    assert load({"https": ["off"], "public_https": ["443"]}, {}).config.public_https_port == 443
    assert mistakes({"https": ["off", "127.0.0.1:1"]})[0].startswith("--https: expected host:port")
    assert mistakes({"http": ["off"]})[0].startswith("--http: expected host:port")


def test_variables_of_others_are_left_alone():
    load({}, {"WAKEGATE_NAMESPACE": "x", "WAKEGATE_API_KEY": "x", "WAKEGATE_SERVICE_HOST": "x"})
    load({}, {"WAKEGATE_PORT_8080_TCP_ADDR": "x", "WAKEGATE_API_PORT": "tcp://x", "PATH": "x"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:80", Address("127.0.0.1", 80)),
        ("[::]:80", Address("::", 80)),
        ("[0:0::1]:80", Address("::1", 80)),
        (":80", Address("::", 80)),
        ("LOCALHOST:80", Address("localhost", 80)),
    ],
)
def test_listeners(text, expected):
    assert listener(text) == expected
    assert listener(str(expected)) == expected


@pytest.mark.parametrize("text", ["", "80", "x:80", "::1:80", "[127.0.0.1]:80", "1.2.3.4:65536", "1.2.3.4:-1", "[::1]"])
def test_what_is_no_listener(text):
    with pytest.raises(ValueError):
        listener(text)


def test_other_values():
    assert public("443") == public(":443") == Address("", 443)
    assert str(public(str(public("443")))) == ":443"
    assert resolver("::1") == Address("::1", 53)
    assert (size("1"), size("10k"), size("10MiB"), size("2 GB")) == (1, 10240, 10 << 20, 2 << 30)
    assert load({"gpus": ["T4=2, L4=1"]}, {}).config.gpus == "T4=2,L4=1"
    assert load({"trusted_proxies": ["10.0.0.0/8,::1"]}, {}).config.trusted_proxies == ("10.0.0.0/8", "::1/128")
    for name, text in {
        "git_url": "x",
        "redis": "http://x",
        "gpus": "T5=1",
        "dcgm_url": "http://user:secret@127.0.0.1:9400/metrics",
        "process_uids": "0-1",
        "hsts": "x",
        "log_size": "999k",
        "acme_profile": "a b",
    }.items():
        assert len(mistakes({name: [text]})) == 1, name


EXAMPLES = {
    "gpus": "T4=2",
    "dcgm_url": "http://127.0.0.1:9400/metrics",
    "public_http": "edge.example.com:80",
    "public_https": "443",
    "api_host": "api.example.com",
    "redis": "rediss://u:p@h:6379/1",
    "max_body": "1MiB",
    "acme_directory": "letsencrypt",
    "acme_email": "a@example.com",
    "acme_eab": "kid:key",
    "acme_profile": "shortlived",
    "acme_fallback": "https://other.example.com/directory",
    "acme_fallback_eab": "kid:key_",
    "dns_server": "192.0.2.53",
    "trusted_proxies": "10.0.0.0/8",
}


def test_the_configuration_travels_as_json(tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text("")
    given = {name: [text] for name, text in EXAMPLES.items()} | {"acme_ca_bundle": [str(file)]}
    loaded = load(given, {})
    assert isinstance(loaded, Loaded)
    for config in (loaded.config, load({}, {}).config):
        assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_the_table_and_the_object_name_the_same_options():
    assert sorted(Config.__dataclass_fields__) == sorted(option.name for option in OPTIONS)


def test_exporters_of_gpus():
    given = {"gpus": ["T4=2"], "dcgm_url": ["http://127.0.0.1:9400", "https://[::1]/gpus?x=1"]}
    assert load(given, {}).config.dcgm_url == ("http://127.0.0.1:9400/metrics", "https://[::1]/gpus?x=1")
    assert load({}, {}).config.dcgm_url == ()
    for wrong in ("127.0.0.1:9400", "ftp://h/metrics", "http://", "http://h:0/metrics", "http://h/a b"):
        with pytest.raises(ValueError, match="expected a URL"):
            exporter_url(wrong)
    assert mistakes({"dcgm_url": ["http://127.0.0.1:9400"]}) == [
        "--dcgm-url: this node offers no GPUs: say which, as in --gpus T4=2"
    ]


def test_the_apis_host_needs_https():
    given = {"api_host": ["api.example.com"]}
    assert mistakes(given | {"https": ["off"]}) == [
        "--api-host: is served over https only: it needs --https, or --public-https where a balancer ends TLS"
    ]
    behind = load(given | {"https": ["off"], "public_https": ["443"]}, {})
    assert behind.config.api_url == "https://api.example.com"
    assert load(given, {}).config.api_url == "https://api.example.com:8443"
    assert load({}, {}).config.api_url is None


@pytest.mark.parametrize(
    ("bound", "reached"), [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1")]
)
def test_where_a_listener_is_reached_on_its_machine(bound, reached):
    assert str(listener(bound).reachable) == reached

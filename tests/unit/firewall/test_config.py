"""The configuration file: what is right loads, what is wrong is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from firewall_vnf.config import ConfigError, load_config

ONE_KIND = "interface: give either this (behind a GWLB) or 'interfaces' (a routed firewall)"
PAIR = (
    "high_availability: {address: 10.0.0.1, secret: s, cloud: 'http://10.0.2.1:8080',"
    " here: {ha1: 10.0.0.1, ha2: 10.0.1.1}, there: {ha1: 10.0.0.2, ha2: 10.0.1.2}}\n"
)
STORE_OF_A_PAIR = "session_store: a pair in 'high_availability' shares sessions over HA2; leave this out"
ONE_LINK = "high_availability: give an address for ha1 and for ha2, here and there"
MINIMAL = "name: fw1\ninterface: eth0\npolicy: policy.yaml\nlog_directory: logs\ncontrol: /run/fw1.sock\n"


def load(directory: Path, text: str) -> object:
    (directory / "fw1.yaml").write_text(text)
    return load_config(directory / "fw1.yaml")


def test_minimal_file_and_relative_paths(tmp_path: Path) -> None:
    (tmp_path / "fw1.yaml").write_text(MINIMAL + "zones: {vpce-0123456789abcdef0: transit}\ntimers: {tcp: 60}\n")
    config = load_config(tmp_path / "fw1.yaml")
    assert (config.policy, config.control) == (tmp_path / "policy.yaml", Path("/run/fw1.sock"))
    assert (config.max_sessions, config.tcp_reject_non_syn, config.health_port) == (250_000, True, 80)
    assert (config.timers.tcp, config.timers.udp) == (60, 30)
    assert (config.management_address, config.management_port, config.metrics_interval) == (None, 9090, 5.0)
    assert config.session_store is None


def test_management_network(tmp_path: Path) -> None:
    text = "management_address: 100.64.0.11\nmanagement_port: 9100\nsession_store: redis://100.64.0.1:6380\n"
    (tmp_path / "fw1.yaml").write_text(MINIMAL + text)
    config = load_config(tmp_path / "fw1.yaml")
    assert (str(config.management_address), config.management_port) == ("100.64.0.11", 9100)
    assert config.session_store is not None
    assert (config.session_store.host, config.session_store.port) == ("100.64.0.1", 6380)


def test_one_of_a_pair(tmp_path: Path) -> None:
    (tmp_path / "fw1.yaml").write_text(MINIMAL + PAIR)
    config = load_config(tmp_path / "fw1.yaml")
    assert config.high_availability is not None
    assert config.session_store is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping of settings, such as 'name: fw1'"),
        ("name: [", "not YAML: "),
        (MINIMAL.replace("interface: eth0\n", ""), ONE_KIND),
        (MINIMAL + "interfaces: {eth1: trust}\n", ONE_KIND),
        (MINIMAL.replace("policy: policy.yaml\n", ""), "policy: missing; every firewall needs it"),
        (MINIMAL + "max_session: 5\n", "max_session: unknown setting; known are address, bypass, control, "),
        (MINIMAL + "max_sessions: 0\n", "max_sessions: input should be greater than or equal to 1, not 0"),
        (MINIMAL + "zones: {gwlbe1: inside}\n", "zones.gwlbe1: 'gwlbe1' is no endpoint id; write vpce-0 and "),
        (MINIMAL + "timers: {tcp: soon}\n", "timers.tcp: input should be a valid integer, "),
        (MINIMAL + "timers: {tpc: 5}\n", "timers.tpc: unknown setting; known are discard_other, discard_tcp, "),
        (MINIMAL + "session_store: http://x\n", "session_store: 'http://x' is no Redis server; write redis://ADDRESS:PORT"),
        (MINIMAL + PAIR + "session_store: redis://10.0.2.1\n", STORE_OF_A_PAIR),
        (MINIMAL + PAIR.replace(", ha2: 10.0.1.2", ""), ONE_LINK),
        (MINIMAL + "metrics_interval: 0\n", "metrics_interval: input should be greater than 0, not 0"),
        (MINIMAL + "ipv6: maybe\n", "ipv6: input should be 'inspect', 'pass' or 'drop', not 'maybe'"),
    ],
)  # fmt: skip
def test_errors_are_one_line_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path}/fw1.yaml: {message}")
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file or directory"):
        load_config(tmp_path / "none.yaml")

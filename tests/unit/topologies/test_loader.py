"""Files become topologies: by name or path, with what they leave out filled in."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topologies import schema
from topologies.catalogue import packaged
from topologies.decision import cookie, decision
from topologies.fabric import build_fabric
from topologies.ids import endpoint_ids, endpoint_number, resource_ids
from topologies.loader import TopologyError, load_topology, parse
from topologies.validation import validate

SMALL = """
name: small
vpcs:
  one:
    cidr: 10.0.0.0/24
    subnets:
      left: {cidr: 10.0.0.0/28, az: a}
      right: {cidr: 10.0.0.16/28, az: b}
    route_tables:
      left: {subnets: [left]}
    instances:
      on: {subnet: left}
      no: {subnet: left, address: 10.0.0.4}
      off: {subnet: left}
transit_gateways:
  tgw: {attachments: {att: {vpc: one, subnets: [left, right]}}}
gateway_load_balancers:
  gwlb: {vpc: one, subnets: [left, right], appliances: {fw1: {subnet: left}, fw2: {subnet: right}}}
"""


@pytest.mark.parametrize("name", packaged())
def test_what_ships_loads_and_is_valid(name: str) -> None:
    topology = load_topology(name)
    assert topology.name == name
    assert topology.description
    assert validate(topology) == []


def test_a_topology_is_found_by_path_as_well(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(SMALL)
    assert load_topology(file) == load_topology(str(file))
    assert load_topology(file).name == "small"


SHIPPED = "active-passive, autoscale, gwlb, sandwich, vpn-ecmp"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gwbl", "no topology 'gwbl'; did you mean gwlb? (or give the path of a YAML file)"),
        (
            "mine",
            f"no topology 'mine'; there are: {SHIPPED} (or give the path of a YAML file)",
        ),
        (
            "labs/mine.yaml",
            f"no file labs/mine.yaml; packaged topologies go by name: {SHIPPED}",
        ),
    ],
)
def test_an_unknown_topology(name: str, text: str) -> None:
    with pytest.raises(TopologyError) as caught:
        load_topology(name)
    assert str(caught.value) == text


def test_a_loaded_topology_survives_json() -> None:
    """The lab hands its topology to the controller this way."""
    topology = load_topology("gwlb")
    assert parse(topology.model_dump_json(), Path("/elsewhere/lab.json")) == topology


def test_json_that_breaks_a_rule_is_told_so_with_its_line() -> None:
    text = load_topology("gwlb").model_dump_json(indent=1)
    assert text.count('"cidr": "10.250.0.0/16"') == 1
    text = text.replace('"cidr": "10.250.0.0/16"', '"cidr": "10.250.0.0/15"')
    line = next(number for number, row in enumerate(text.splitlines(), start=1) if "10.250.0.0/15" in row)
    with pytest.raises(TopologyError, match=rf"(?m)^lab\.json:{line}: vpcs\.spoke2: 10\.250\.0\.0/15 is no size "):
        parse(text, Path("lab.json"))


def test_a_binary_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "image.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TopologyError, match=r"image\.yaml: cannot be read: 'utf-8' codec"):
        load_topology(file)


def test_what_is_left_out_is_filled_in() -> None:
    topology = parse(SMALL, Path("small.yaml"))
    vpc, gwlb = topology.vpcs["one"], topology.gateway_load_balancers["gwlb"]
    assert vpc.route_tables["main"].subnets == ("right",)
    # In the subnet's order of arrival: the load balancer's node, appliances, instances; never a taken address.
    addresses = {name: str(instance.address) for name, instance in vpc.instances.items()}
    assert gwlb.subnets == {"left": IPv4Address("10.0.0.5"), "right": IPv4Address("10.0.0.20")}
    assert {name: str(item.address) for name, item in gwlb.appliances.items()} == {
        "fw1": "10.0.0.6",
        "fw2": "10.0.0.21",
    }
    assert addresses == {"on": "10.0.0.7", "no": "10.0.0.4", "off": "10.0.0.8"}
    assert gwlb.target_group.targets == ("fw1", "fw2")
    table = topology.transit_gateways["tgw"].route_tables["default"]
    assert (table.associations, table.propagations) == (("att",), ("att",))


def test_the_schema_is_that_of_the_model() -> None:
    """Write it anew with ``python -m topologies.schema > topologies/schema.json``."""
    file = Path(schema.__file__).with_name("schema.json")
    assert json.loads(file.read_text()) == schema.schema()
    assert file.read_text() == schema.text()


def test_the_schema_explains_fields_and_allows_the_short_forms() -> None:
    definitions = schema.schema()["$defs"]
    assert "appliance_mode" in definitions["TransitGatewayVpcAttachment"]["properties"]
    assert definitions["TransitGatewayVpcAttachment"]["properties"]["appliance_mode"]["description"]
    assert [form["type"] for form in definitions["GatewayLoadBalancer"]["properties"]["subnets"]["anyOf"]] == [
        "array",
        "object",
    ]
    assert definitions["Instance"]["required"] == ["subnet"]


def test_ids_have_the_form_of_aws() -> None:
    topology = load_topology("gwlb")
    ids = resource_ids(topology)
    assert len(set(ids.values())) == len(ids)
    for identity in ids.values():
        prefix, digits = identity.rsplit("-", 1)
        assert prefix in {"vpc", "subnet", "rtb", "igw", "i", "nat", "tgw", "tgw-attach", "tgw-rtb", "vpce", "vpce-svc"}
        assert len(digits) == 17
        assert digits.startswith("0")
        assert int(digits, 16) < 2**64
    endpoints = endpoint_ids(topology)
    assert list(endpoints) == ["gwlbe1-a", "gwlbe1-b", "gwlbe2-a", "gwlbe2-b", "gwlbe3-a", "gwlbe3-b"]
    assert ids["vpcs", "spoke1", "endpoints", "gwlbe1-a"] == endpoints["gwlbe1-a"]
    assert endpoint_number("vpce-0123456789abcdef0") == 0x123456789ABCDEF0
    assert endpoints == endpoint_ids(load_topology("gwlb")), "the same file gives the same ids"


def test_decisions_and_cookies() -> None:
    assert decision("spoke1", "public-a", "10.0.0.0/8") == "spoke1/public-a 10.0.0.0/8"
    assert cookie("spoke1/public-a 10.0.0.0/8") == 0xF5AC0248DAE74526
    assert cookie("a") != cookie("b")


def test_names_fit_into_interfaces() -> None:
    fabric = build_fabric(load_topology("gwlb"))
    ports = [port for element in fabric.elements.values() for port in element.ports.values() if port.peer is None]
    names = [port.name for port in ports] + [f"bw-{name}" for name in fabric.elements]
    assert len(set(names)) == len(names), "a bridge and a veth pair share one name space"
    assert max(map(len, names)) <= 15


names = st.sampled_from(["a", "b", "igw", "gwlbe", "web", "nat", "tgw", "gwlb", "local", "blackhole", "att", "none"])
prefixes = st.sampled_from(
    [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.0.0.4/32",
        "10.0.0.0/30",
        "10.0.0.0/16",
        "10.0.0.0/24",
        "10.0.0.0/25",
        "10.1.0.0/16",
    ]
)
addresses = st.sampled_from(["10.0.0.4", "10.0.0.1", "10.0.1.9", "10.1.0.7", "192.0.2.1", "203.0.113.1", "0.0.0.0"])
some = st.lists(names, max_size=3)


def mapping(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.dictionaries(names, values, max_size=3)


routes = st.dictionaries(prefixes, names, max_size=3)
table = st.fixed_dictionaries({}, optional={"subnets": some, "gateway": names, "routes": routes})
instance = st.fixed_dictionaries({"subnet": names}, optional={"address": addresses, "public_address": addresses})
accounts = st.sampled_from(["111111111111", "222222222222"])
vpc = st.fixed_dictionaries(
    {"cidr": prefixes},
    optional={
        "owner": accounts,
        "internet_gateway": names,
        "subnets": mapping(st.fixed_dictionaries({"cidr": prefixes, "az": st.sampled_from("ab")})),
        "route_tables": mapping(table),
        "instances": mapping(instance),
        "nat_gateways": mapping(st.fixed_dictionaries({"subnet": names, "public_address": addresses})),
        "endpoints": mapping(st.fixed_dictionaries({"subnet": names, "service": names})),
    },
)
tgw_table = st.fixed_dictionaries({}, optional={"associations": some, "propagations": some, "routes": routes})
tgw = st.fixed_dictionaries(
    {},
    optional={
        "attachments": mapping(st.fixed_dictionaries({"vpc": names, "subnets": some})),
        "route_tables": mapping(tgw_table),
    },
)
bounds = st.none() | st.integers(-20, 20)
step = st.fixed_dictionaries({"adjustment": st.integers(-3, 3)}, optional={"lower": bounds, "upper": bounds})
metrics = names | st.just("panSessionActive")
policy = st.one_of(
    st.fixed_dictionaries({"type": st.just("target-tracking"), "metric": metrics, "target_value": st.integers(0, 5)}),
    st.fixed_dictionaries(
        {
            "type": st.just("step"),
            "metric": metrics,
            "comparison": st.just("GreaterThanOrEqualToThreshold"),
            "threshold": st.integers(0, 5),
            "steps": st.lists(step, max_size=4),
        }
    ),
)
group = st.fixed_dictionaries(
    {"subnets": some},
    optional={
        "min_size": st.integers(0, 3),
        "max_size": st.integers(1, 3),
        "desired_capacity": st.integers(0, 4),
        "scaling_policies": mapping(policy),
    },
)
gwlb = st.fixed_dictionaries(
    {"vpc": names, "subnets": some},
    optional={
        "appliances": mapping(instance.map(lambda item: {"subnet": item["subnet"]})),
        "target_group": st.fixed_dictionaries({"targets": some}),
        "endpoint_service": st.fixed_dictionaries(
            {
                "acceptance_required": st.booleans(),
                "accepted": some,
                "rejected": some,
                "allowed_principals": st.lists(accounts | st.just("*"), max_size=2),
            }
        ),
        "auto_scaling_group": group,
        "load_balancing": st.fixed_dictionaries({"cross_zone": st.fixed_dictionaries({"enabled": st.booleans()})}),
    },
)
topologies = st.fixed_dictionaries(
    {"name": st.just("lab"), "vpcs": mapping(vpc)},
    optional={
        "transit_gateways": mapping(tgw),
        "gateway_load_balancers": mapping(gwlb),
        "internet": mapping(st.fixed_dictionaries({"address": addresses})),
        "firewalls": st.just({"policy": "none.yaml", "zones": {"gwlbe": "x"}}),
    },
)


@settings(max_examples=150)
@given(topologies)
def test_any_document_is_valid_or_an_error_in_lines(document: object) -> None:
    problems = []
    try:
        build_fabric(parse(json.dumps(document), Path("random.yaml")))
    except TopologyError as error:
        problems = error.problems
    for problem in problems:
        assert problem.startswith("random.yaml:1: ")
        assert "\n" not in problem
        assert "; " in problem, "it says what to do"


@settings(max_examples=200)
@given(st.text(alphabet="abn:-{}[]&*!|>'\"# \n\t0.,?%@", max_size=60))
def test_any_text_is_a_topology_or_an_error(text: str) -> None:
    with pytest.raises(TopologyError) as caught:
        parse(text, Path("random.yaml"))
    assert all(problem.startswith("random.yaml") and "\n" not in problem for problem in caught.value.problems)

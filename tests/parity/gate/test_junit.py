"""JUnit XML: what CI systems read, and nothing that breaks them."""

import re
from datetime import datetime
from xml.etree import ElementTree

from mbv3c.errors import ToolError
from mbv3c.parity.gate.gate import junit_xml
from mbv3c.parity.verdict import Check

# What Jenkins' junit-10.xsd allows, and of it what is required.
ATTRIBUTES = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, set()),
    "testsuite": (
        {"name", "tests", "failures", "errors", "time", "skipped", "timestamp", "hostname"},
        {"name", "tests", "failures", "errors"},
    ),
    "testcase": ({"name", "time", "classname", "group"}, {"name"}),
    "failure": ({"type", "message"}, set()),
    "error": ({"type", "message"}, set()),
    "skipped": ({"type", "message"}, set()),
    "system-out": (set(), set()),
}
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"testcase"},
    "testcase": {"failure", "error", "skipped", "system-out"},
}
TIME = re.compile(r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]*)?")

CHECKS = [
    Check("parity", "runs on this machine", True, "it ran", seconds=12.3456),
    Check("parity", "logits, input 0", False, 'max error 1 of range, "so" <large> & wrong'),
    Check("parity", "command stream", True, "unknown device", skipped=True),
    Check("limits", "--max-abs of logits, input 0", True, "0 (at most 1)", seconds=0.5),
]


def checked(data: bytes) -> ElementTree.Element:
    """Parse a document and hold every element to the schema; counts and times must add up."""
    root = ElementTree.fromstring(data)
    assert root.tag == "testsuites"
    for element in root.iter():
        allowed, required = ATTRIBUTES[element.tag]
        assert required <= set(element.attrib) <= allowed
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
        if "time" in element.attrib:
            assert TIME.fullmatch(element.attrib["time"])
    for group in (root, *root):
        cases = list(group.iter("testcase"))
        assert int(group.attrib["tests"]) == len(cases)
        for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            if name in group.attrib:
                assert int(group.attrib[name]) == len(list(group.iter(tag)))
        total = sum(float(case.attrib["time"]) for case in cases)
        assert abs(float(group.attrib["time"]) - total) < 1e-3
    return root


def test_suites_and_cases() -> None:
    root = checked(junit_xml("a.bundle", CHECKS))
    assert [suite.attrib["name"] for suite in root] == ["parity", "limits"]
    assert (root.attrib["tests"], root.attrib["failures"]) == ("4", "1")
    parity = root[0]
    assert parity.attrib["skipped"] == "1"
    assert parity[0].attrib == {
        "classname": "a_bundle.parity",
        "name": "runs on this machine",
        "time": "12.346",
    }
    (failure,) = parity[1]
    assert failure.attrib == {"message": CHECKS[1].finding, "type": "parity"}
    datetime.fromisoformat(parity.attrib["timestamp"])


def test_an_error_is_a_case_of_its_own() -> None:
    root = checked(junit_xml("a", CHECKS[:1], ToolError("no emulator")))
    assert (root.attrib["failures"], root.attrib["errors"]) == ("0", "1")
    (error,) = root[1][0]
    assert error.attrib == {"message": "no emulator", "type": "tool"}


def test_nothing_but_an_error() -> None:
    assert checked(junit_xml("a", [], ToolError("x"))).attrib["tests"] == "1"


def test_names_from_a_model_cannot_break_it() -> None:
    """XML has no way to hold control characters, not even escaped."""
    name = 'x"<y>&]]>\x00\x1b\ufffe\ud800 ü→'
    root = checked(junit_xml(name, [Check("parity", name, False, name)]))
    case = root[0][0]
    assert case.attrib["name"] == 'x"<y>&]]>\ufffd\ufffd\ufffd\ufffd ü→'
    assert case[0].text == case.attrib["name"]

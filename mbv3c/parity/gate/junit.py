"""Checks as JUnit XML, which CI systems show: testsuites → testsuite → testcase.

There is no standard; elements and attributes are those that Jenkins' schema, junit-10.xsd, has.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from xml.etree import ElementTree

from mbv3c.errors import Mbv3cError
from mbv3c.parity.checks import Check

# What XML 1.0 cannot hold, however it is escaped.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(name: str, checks: Sequence[Check], error: Mbv3cError | None = None) -> bytes:
    """Return a document with one testcase per check, in suites by what they belong to.

    Args:
        name: of what was verified.
        checks: in the order of their suites.
        error: why it could not be verified to the end; a suite of its own.
    """
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    root = ElementTree.Element("testsuites", {"name": _text(name)})
    for suite, group in groupby(checks, key=lambda one: one.suite):
        element = _suite(root, suite, now)
        for one in group:
            _case(element, name, one)
    if error is not None:
        case = _testcase(_suite(root, "verify", now), name, "verify", "runs to its end", 0.0)
        said = {"message": _text(str(error)), "type": _text(error.kind)}
        ElementTree.SubElement(case, "error", said).text = _text(str(error))
    for element in root:
        _count(element, list(element))
    _count(root, [case for element in root for case in element])
    del root.attrib["skipped"]
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _suite(root: ElementTree.Element, name: str, now: str) -> ElementTree.Element:
    return ElementTree.SubElement(root, "testsuite", {"name": name, "timestamp": now})


def _case(suite: ElementTree.Element, name: str, check: Check) -> None:
    case = _testcase(suite, name, check.suite, check.name, check.seconds)
    said = _text(check.said)
    if check.skipped:
        ElementTree.SubElement(case, "skipped", {"message": said})
    elif not check.passed:
        kind = {"message": said, "type": check.suite}
        ElementTree.SubElement(case, "failure", kind).text = said
    else:
        ElementTree.SubElement(case, "system-out").text = said


def _testcase(
    suite: ElementTree.Element, name: str, kind: str, what: str, seconds: float
) -> ElementTree.Element:
    # CI systems take what is before the last dot of a class for its package.
    classname = f"{name.replace('.', '_')}.{kind}"
    attributes = {"classname": _text(classname), "name": _text(what), "time": f"{seconds:.3f}"}
    return ElementTree.SubElement(suite, "testcase", attributes)


def _count(element: ElementTree.Element, cases: list[ElementTree.Element]) -> None:
    element.set("tests", str(len(cases)))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(attribute, str(sum(case.find(tag) is not None for case in cases)))
    element.set("time", f"{sum(float(case.get('time', '0')) for case in cases):.3f}")


def _text(text: str) -> str:
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)

"""A page as a browser shows it: pictures, sizes, what it asked for and what it complained about.

The browser is driven over two pipes, in Chrome's DevTools protocol: JSON, each message ended by 0.
"""

import base64
import fcntl
import json
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from mbv3c.execution.browser import BrowserKit, fetch_browser

# Runs in the page: the place of every element, and text whose contrast is below 4.5 (WCAG AA).
LAYOUT = """(() => [...document.querySelectorAll('body *')].map(one => {
  const box = one.getBoundingClientRect();
  return [one.tagName, Math.round(box.x), Math.round(box.y + scrollY),
          Math.round(box.width), Math.round(box.height)];
}))()"""
CONTRAST = """(() => {
  const parsed = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => (v /= 255) <= 0.03928 ? v / 12.92
                                                  : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = one => {
    for (; one; one = one.parentElement) {
      const colour = parsed(getComputedStyle(one).backgroundColor);
      if (colour.length && colour[3] !== 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const one of document.querySelectorAll('body *')) {
    if (one.closest('svg') || ![...one.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
      continue;
    const a = light(parsed(getComputedStyle(one).color)), b = light(ground(one));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push([one.tagName, one.className, ratio]);
  }
  return found;
})()"""
WIDTHS = "[document.documentElement.scrollWidth, innerWidth]"


@dataclass
class Browser:
    """A browser with one page open.

    Attributes:
        requests: the addresses that pages asked for, but for themselves.
        complaints: what the console says, and exceptions.
        events: what has happened since the last page was opened.
    """

    reader: Any
    writer: Any
    session: str = ""
    count: int = 0
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; events on the way are noted."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.writer.write(json.dumps(message).encode() + b"\0")
        self.writer.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        text = bytearray()
        while (one := self.reader.read(1)) != b"\0":
            assert one, "the browser has ended"
            text += one
        answer: dict[str, Any] = json.loads(text)
        self.events.append(str(answer.get("method")))
        match answer.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            case "Log.entryAdded":
                self.complaints.append(str(answer["params"]["entry"]))
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                self.complaints.append(str(answer["params"]))
        return answer

    def open(self, page: Path, width: int, theme: str, *, scripts: bool = True) -> None:
        """Show a page in a window of a width, in a theme: light or dark."""
        self.requests.clear()
        self.complaints.clear()
        self.events.clear()
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.ask("Emulation.setEmulatedMedia", features=features)
        self.ask("Emulation.setScriptExecutionDisabled", value=not scripts)
        address = page.as_uri()
        self.ask("Page.navigate", url=address)
        while "Page.loadEventFired" not in self.events:
            self._next()
        own = [address, *(one for one in self.requests if one.startswith("data:"))]
        self.requests = [one for one in self.requests if one not in own]

    def evaluate(self, expression: str) -> Any:
        """Return what an expression is in the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"]["value"]

    def picture(self, path: Path) -> bytes:
        """Write the whole page as .png."""
        taken = self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(taken))
        return path.read_bytes()

    def printed(self, path: Path) -> bytes:
        """Write the page as it is printed, as .pdf."""
        path.write_bytes(base64.b64decode(self.ask("Page.printToPDF")["data"]))
        return path.read_bytes()


@contextmanager
def browser() -> Iterator[Browser]:
    """Yield a browser; it ends with the block."""
    kit = fetch_browser(logging.getLogger(__name__).info)
    with (
        tempfile.TemporaryDirectory(prefix="mbv3c-browser-") as folder,
        _started(kit, Path(folder)) as (reader, writer),
    ):
        opened = Browser(reader, writer)
        targets = opened.ask("Target.getTargets")["targetInfos"]
        (page,) = [one["targetId"] for one in targets if one["type"] == "page"]
        attached = opened.ask("Target.attachToTarget", targetId=page, flatten=True)
        opened.session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            opened.ask(f"{domain}.enable")
        yield opened


@contextmanager
def _started(kit: BrowserKit, profile: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Yield what the browser writes and what it reads: its descriptors 4 and 3."""
    (its_in, our_out), (our_in, its_out) = os.pipe(), os.pipe()
    high = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 10) for one in (its_in, its_out)]
    os.close(its_in)
    os.close(its_out)
    actions = [
        *((os.POSIX_SPAWN_OPEN, one, os.devnull, os.O_RDWR, 0) for one in range(3)),
        *((os.POSIX_SPAWN_DUP2, one, place) for one, place in zip(high, (3, 4), strict=True)),
    ]
    command = [*kit.command(profile), "--remote-debugging-pipe", "about:blank"]
    process = os.posix_spawn(
        command[0], command, kit.environment(profile), file_actions=actions, setpgroup=0
    )
    for one in high:
        os.close(one)
    try:
        with os.fdopen(our_in, "rb") as reader, os.fdopen(our_out, "wb") as writer:
            yield reader, writer
    finally:
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)

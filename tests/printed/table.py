"""How pages are followed: what each takes as given, and which lines cannot be run as printed.

Every line of every page is run, in order, unless `LEFT_OUT` has it. It is run as printed, but for
what `INSTEAD` has another text for. Both say why; a test fails where an entry fits no line.
"""

import re
from dataclasses import dataclass

from tests.printed.given import NETWORK, SHORT_ADAPTATION, SHORT_SEARCH, SMALL
from tests.printed.lines import Line

_EMULATED = "emulated, a network at 224 pixels takes minutes; a small one takes the same options"
_BUDGET = "the printed amount takes minutes or hours, a lesser one takes the same options"

# What each page takes as given, in the order in which it is made.
PAGES: dict[str, tuple[str, ...]] = {
    "README.md": (".venv",),
    "docs/accuracy.md": ("model.onnx", "BUNDLE", "FOLDER", "labels.csv", "classes.txt"),
    "docs/android.md": (),
    "docs/architectures.md": ("semnasnet_100.safetensors",),
    "docs/benchmarks.md": ("model.onnx", "BUNDLE", "a board that serves"),
    "docs/ci.md": ("model.onnx",),
    "docs/cluster.md": ("grid.yaml", "tls.yaml"),
    "docs/detection.md": ("model.onnx", "BUNDLE", "x.npy", "street.jpg"),
    "docs/device.md": ("mbv3c", "x.npy"),
    "docs/embedding.md": ("model.onnx", "CMakeLists.txt", "main.cpp"),
    "docs/extending.md": (),
    "docs/frames.md": ("model.onnx", "imagenet.txt"),
    "docs/gpu-runtime.md": (),
    "docs/habits.md": ("model.onnx",),
    "docs/ladder.md": ("mobilenet_v3_large-arm_cpu-cortex-a76-fp32", "your.onnx"),
    "docs/metrics.md": ("model.onnx", "BUNDLE"),
    "docs/microcontrollers.md": ("images",),
    "docs/mobile-gpu.md": (),
    "docs/passes.md": ("large.onnx",),
    "docs/pi.md": ("mbv3c", "mobilenet_v3_small-047dcff4.pth", "calibration", "photos"),
    "docs/pictures.md": ("model.onnx", "BUNDLE", "photo.jpg", "photos"),
    "docs/quantization.md": ("model.onnx", "calibration", "photos"),
    "docs/report.md": (
        *("model.onnx", "BUNDLE", "bundle-fp32", "bundle-int8", "digits.npz"),
        "search-arm_cpu-cortex-a76",
    ),
    "docs/security.md": ("model.onnx",),
    "docs/shapes.md": ("detector.onnx",),
    "docs/kernels.md": (),
    "docs/smaller.md": ("photos",),
    "docs/training.md": ("photos",),
    "docs/tuning-on-devices.md": (
        *("mbv3c", "secret", "a tracker", "a board that serves", "a board of the tracker"),
    ),
    "docs/verification.md": ("model.onnx", "BUNDLE", "FOLDER", "x.npy"),
    "examples/android/README.md": ("model.onnx", "labels.txt"),
    "examples/cortex-m55/README.md": ("model.onnx", "examples", ".venv"),
}
# Those that need the NPU's tools.
NPU_PAGES: dict[str, tuple[str, ...]] = {
    "docs/adapt.md": ("photos",),
    "docs/boards.md": ("model.onnx", "images", "a board that serves"),
    "docs/costs.md": ("model.onnx",),
    "docs/npu.md": ("model.onnx", "calibration", "photos"),
    "docs/search.md": ("photos", "digits.npz"),
    "docs/sweep.md": (
        "digits.npz",
        "grid.yaml",
        "photos",
        "own.onnx",
        "layers.json",
        "v2.safetensors",
    ),
    "docs/tuning.md": ("a scheduler", "a worker"),
    "examples/ethos-u/README.md": ("model.onnx", "examples", ".venv-npu"),
}


@dataclass(frozen=True)
class Entry:
    """Lines that are not run as printed.

    Attributes:
        page: where they are; "" for all pages.
        printed: a regular expression for a part of the line.
        why: the reason.
        typed: what stands in the place of that part; None where the line is left out.
    """

    page: str
    printed: str
    why: str
    typed: str | None = None

    def fits(self, line: Line) -> bool:
        return self.page in ("", line.page) and re.search(self.printed, line.text) is not None


LEFT_OUT = (
    Entry(
        "", r"^make (compile|test|test-\w+|lint|format|docs|dist|bench)\b", "CI runs make itself"
    ),
    Entry("", r"\bpip install\b|^python3 -m venv", "it needs the network; CI installs by pip"),
    Entry("docs/pi.md", r"^(git|cd|scp|\.) ", "there is no second machine to copy from or to"),
    Entry("docs/npu.md", r"^make \.venv-npu", "CI makes this environment"),
    Entry("", r"^adb |^scripts/android|^ANDROID", "there is no phone and no NDK"),
    Entry("", r"^gradle ", "Gradle fetches; tests/c_library/test_android.py builds the example"),
    Entry("", "--device 127.0.0.1:9090", "there is no phone"),
    Entry("docs/board.md", r"g\+\+|mbv3c_run", "tests/execution builds and runs this program"),
    Entry("docs/benchmarks.md", "benchmarks.search", "it takes hours; tests/benchmarks runs it"),
    Entry("docs/cluster.md", "slurm|tls://login", "no Slurm; tests/jobs/cluster has a stand-in"),
    Entry("docs/cluster.md", "kubernetes", "no cluster of Kubernetes is here"),
    Entry("docs/device.md", "mobile_gpu|--timeout 120", "there is no board with a GPU"),
    Entry(
        "",
        "--cost .*--(device|tracker)",
        "times of an emulated board vary; tests/targets/library",
    ),
    Entry("docs/mobile-gpu.md", "pytest", "CI runs this test"),
    Entry("docs/tuning-on-devices.md", "^sudo", "it changes the clock of a board"),
    Entry("docs/tuning.md", "ship_tune_logs", "it writes into the package"),
    Entry("docs/tuning.md", "board:9090", "there is no board with a GPU; tests/targets/opencl"),
)
INSTEAD = (
    # Addresses.
    Entry("", r"\b192\.168\.1(?=\.\d)", "a board's address; here it is on loopback", NETWORK),
    Entry("docs/gpu-runtime.md", r"127\.0\.0\.1", "its port may be in use", f"{NETWORK}.1"),
    Entry("", r"\b10\.0\.0(?=\.\d)", "another machine's address", NETWORK),
    # Sizes.
    Entry(
        "",
        r"(?<=mbv3c )(compile|tune) (?=--target (?!.*--variant))",
        _EMULATED,
        rf"\1 {SMALL} ",
    ),
    Entry("", r"--variant small(?=$| (-o small-int8|--(minutes|jobs)))", _EMULATED, SMALL),
    Entry("", r"--minutes \d+", _BUDGET, "--minutes 0.1"),
    Entry(
        "",
        r"^mbv3c tune (?=.*--target (arm_cpu|mobile_gpu:generic))(?!.*--minutes)",
        _BUDGET,
        r"\g<0>--minutes 0.1 ",
    ),
    Entry("docs/architectures.md", "--network mnasnet_a1", _EMULATED, r"\g<0> --resolution 32"),
    Entry("docs/shapes.md", "320x320 640x640 480x640", _EMULATED, "32x32 64x64 48x64"),
    Entry("docs/adapt.md", "^mbv3c adapt", _BUDGET, rf"\g<0> {SHORT_ADAPTATION}"),
    Entry("docs/smaller.md", "^mbv3c adapt", _BUDGET, rf"\g<0> {SHORT_ADAPTATION}"),
    Entry("", "^mbv3c search(?= .*--images photos)", _BUDGET, rf"\g<0> {SHORT_SEARCH}"),
    Entry("docs/smaller.md", "--resolution 96", _EMULATED, "--resolution 32"),
    Entry("docs/training.md", "--resolution 96", _EMULATED, "--resolution 32"),
    Entry("docs/search.md", "--resolution 96", _EMULATED, "--resolution 32"),
    Entry("docs/sweep.md", "--resolution 96,160", _EMULATED, "--resolution 32"),
    Entry("docs/sweep.md", "--width 0.5,0.75,1", _EMULATED, "--width 0.35,0.5"),
    # Signs that stand for something.
    Entry("docs/benchmarks.md", "HOST:PORT", "a device's address", f"{NETWORK}.20:9090"),
    Entry("docs/benchmarks.md", r"\[--against.*", "what may be left out", "--runs 20 --profile"),
    Entry("docs/benchmarks.md", r"\[--pin.*", "what may be left out", "--runs 20 --minutes 0.1"),
    Entry("docs/benchmarks.md", r"\[--profile\]$", "what may be left out", "--profile"),
    Entry("docs/report.md", r"BUNDLE\.\.\.", "one bundle or several", "BUNDLE"),
    # Places.
    Entry(
        "docs/cluster.md",
        "-out cert.pem$",
        "the page then says what to write into this file",
        r"\g<0> && mkdir -p ~/.config/dask"
        r" && sed s+/home/me+$PWD+g tls.yaml > ~/.config/dask/tls.yaml",
    ),
    Entry("docs/ci.md", "-o bundle", "each run of CI has a clean folder", r"\g<0> --force"),
    Entry(
        "docs/security.md",
        "^mbv3c verify",
        "`elsewhere` is a machine that has made no bundle",
        r"MBV3C_STATE=$HOME/elsewhere \g<0>",
    ),
    Entry(
        "docs/embedding.md",
        "CC=aarch64-linux-gnu-gcc",
        "Debian's cross compiler is not installed; zig brings one",
        "CC='python -m ziglang cc -target aarch64-linux-gnu'",
    ),
    Entry(
        "",
        "^make run ",
        "Debian's emulator is not installed; the page says how to name the fetched one",
        r"""\g<0>QEMU="$(python -c 'from mbv3c.targets.mcu.kit import require_kit as kit;"""
        """ print(*kit().command)')" """,
    ),
    Entry("docs/embedding.md", "-mcpu=cortex-a76", "zig's spelling", "-mcpu=cortex_a76"),
    Entry("docs/embedding.md", "O=/tmp", "a test leaves nothing behind", "O=$HOME"),
)


def left_out(line: Line) -> Entry | None:
    """Return why a line is not run."""
    return next((entry for entry in LEFT_OUT if entry.fits(line)), None)


def typed(line: Line) -> str:
    """Return what is run for a line."""
    text = line.text
    for entry in INSTEAD:
        if entry.fits(line):
            assert entry.typed is not None
            text = re.sub(entry.printed, entry.typed, text)
    return text

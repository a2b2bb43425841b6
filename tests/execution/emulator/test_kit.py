"""The emulator kit, what doctor reports, and mbv3c_run on emulated ARM."""

import fcntl
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mbv3c.doctor import diagnose
from mbv3c.errors import ToolError
from mbv3c.execution.cache import cache_root
from mbv3c.execution.emulator import kit as toolbox
from mbv3c.execution.emulator.llvm import Llvm
from mbv3c.execution.processes import Finished, finish, require
from tests.execution.conftest import link_for_aarch64

Kit = toolbox.EmulatorKit
Board = Callable[..., Finished]
Network = Callable[[np.ndarray], np.ndarray]

SHAPE = (1, 4, 6, 6)
RUNNER_SOURCE = Path(toolbox.__file__).with_name("mbv3c_run.cc")
# One matmul of four terms in float32: rounding is a few units of 2**-24.
TOLERANCE = 1e-6


@pytest.fixture
def bundle(tmp_path: Path, models: dict[int, Path], network: Network) -> Path:
    """Return a bundle of the small network, golden output from numpy."""
    place = tmp_path / "a bundle"
    (place / "golden").mkdir(parents=True)
    shutil.copy(models[1], place / "model.so")
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    np.save(place / "golden" / "input.npy", x)
    np.save(place / "golden" / "output.npy", network(x))
    (place / "golden" / "tolerance.txt").write_text(f"{TOLERANCE}\n")
    return place


# ---- the kit ----


def test_fetched_kit_is_found_again(emulator_kit: Kit) -> None:
    assert toolbox.emulator_kit() == emulator_kit
    lines: list[str] = []
    assert toolbox.fetch(lines.append) == emulator_kit
    assert lines == []  # all parts are there: nothing was fetched


def test_kit_keeps_only_what_is_needed(emulator_kit: Kit) -> None:
    programs = [path.name for path in (emulator_kit.system / "usr" / "bin").iterdir()]
    assert programs == ["qemu-aarch64"]
    libraries = {path.name for path in emulator_kit.runtime.iterdir()}
    assert libraries == {"libtvm_runtime.so", "libtvm_ffi.so"}


def test_no_kit_in_an_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path))
    assert toolbox.emulator_kit() is None
    parts = {part.name: part for part in diagnose()}
    for name in ("emulator", "aarch64 runtime", "runner", "counter"):
        assert not parts[name].ok
        assert parts[name].remedy == "mbv3c doctor --fetch"


def test_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MBV3C_CACHE", raising=False)
    assert cache_root() == tmp_path / "mbv3c"
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"


def test_fetch_refuses_a_folder_that_the_tools_cannot_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path / "a,b"))
    with pytest.raises(ToolError, match="set MBV3C_CACHE to another folder"):
        toolbox.fetch(lambda line: None)


def test_fetch_names_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ToolError, match="cannot write to the cache folder"):
        toolbox.fetch(lambda line: None)


def test_fetch_without_apt_says_what_to_provide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"apt-get .* qemu-user, libc6-arm64-cross"):
        toolbox.fetch(lambda line: None)
    assert not list(tmp_path.rglob("system*"))  # nothing half made is left


def test_failed_download_reports_the_tool_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_sources = 'Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "/dev/null";'
    (tmp_path / "apt.conf").write_text(no_sources)
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ToolError, match="Unable to locate package qemu-user") as caught:
        toolbox.fetch(lambda line: None)
    assert "check the network and this system's apt sources" in str(caught.value)
    assert not list(tmp_path.rglob("system*"))


def test_second_fetch_waits_for_the_first(emulator_kit: Kit) -> None:
    lines: list[str] = []
    with (emulator_kit.system.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=toolbox.fetch, args=(lines.append,))
        second.start()
        time.sleep(0.3)
        assert second.is_alive()
    second.join(timeout=10)
    assert not second.is_alive()
    assert lines == ["waiting for another mbv3c that is fetching the same parts"]


# ---- doctor ----


def test_diagnose_finds_every_part(emulator_kit: Kit, llvm: Llvm) -> None:
    found = diagnose()
    optional = [part.name for part in found if part.optional]
    assert optional == [
        *("other emulators", "other counter", "llvm-mca"),
        *("opencl driver", "opencl runtime", "oclgrind", "npu tools"),
        *("mcu emulator", "mcu counter", "torch", "optuna", "distributed", "demo images"),
        "browser",
    ]
    assert f"llvm-mca {llvm.version}" in next(
        part.detail for part in found if part.name == "llvm-mca"
    )
    parts = [part for part in found if not part.optional]
    assert [part.name for part in parts] == [
        "python",
        "tvm",
        "onnxruntime",
        "linker",
        "emulator",
        "aarch64 runtime",
        "runner",
        "counter",
    ]
    assert [part for part in parts if not part.ok or part.remedy] == []


# ---- processes ----


def test_timeout_ends_the_whole_group(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ToolError, match=r"still running after 0\.5 s"):
        finish(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/child; wait"], timeout=0.5)
    assert time.monotonic() - started < 10
    assert _is_gone(int((tmp_path / "child").read_text()))


def _is_gone(process: int) -> bool:
    """Wait until a process has ended; a zombie that nobody reaped has ended, too."""
    status = Path(f"/proc/{process}/stat")
    for _ in range(50):
        if not status.exists() or status.read_text().split(") ")[1].startswith("Z"):
            return True
        time.sleep(0.1)
    return False


def test_require_gives_last_lines_and_remedy() -> None:
    command = ["sh", "-c", "seq 100 >&2; exit 7"]
    with pytest.raises(ToolError, match=r"counting failed with status 7; count less\.") as caught:
        require(command, doing="counting", remedy="count less", timeout=10)
    assert str(caught.value).endswith("99\n100")
    assert "\n50\n" not in str(caught.value)


def test_missing_program_is_named() -> None:
    with pytest.raises(ToolError, match="cannot start no-such-program: "):
        finish(["no-such-program"], timeout=10)


# ---- mbv3c_run: the golden check ----


def test_golden_check_passes(board: Board, bundle: Path) -> None:
    done = board(bundle)
    best = int(np.load(bundle / "golden" / "output.npy").argmax())
    assert done.returncode == 0, done
    assert done.stdout.startswith("PASS max error of range ")
    assert done.stdout.endswith(f"(tolerance 1e-06), argmax {best} equal\n")


def test_golden_check_fails_on_a_small_error(board: Board, bundle: Path) -> None:
    golden = np.load(bundle / "golden" / "output.npy")
    golden[0, 0] += 1e-5 * np.ptp(golden)
    np.save(bundle / "golden" / "output.npy", golden)
    done = board(bundle)
    assert done.returncode == 3, done
    assert done.stdout.startswith("FAIL max error of range 1.0e-05 (tolerance 1e-06)")


def test_golden_check_fails_on_another_argmax(board: Board, bundle: Path) -> None:
    golden = np.load(bundle / "golden" / "output.npy")
    best, worst = int(golden.argmax()), int(golden.argmin())
    golden[0, [best, worst]] = golden[0, [worst, best]]
    np.save(bundle / "golden" / "output.npy", golden)
    (bundle / "golden" / "tolerance.txt").write_text("1")
    done = board(bundle)
    assert done.returncode == 3, done
    assert f"argmax {best} instead of {worst} in row 0" in done.stdout


def test_each_element_is_judged_by_its_own_range(board: Board, bundle: Path) -> None:
    golden = np.load(bundle / "golden" / "output.npy")
    scale = np.full_like(golden, np.ptp(golden))
    scale[0, 0] /= 10
    (bundle / "golden" / "tolerance.txt").write_text("1e-5 scaled\n")
    done = board(bundle)
    assert done.returncode == 1, done
    assert "scale.npy" in done.stderr
    np.save(bundle / "golden" / "scale.npy", scale)
    assert board(bundle).returncode == 0
    for place, code in ((1, 0), (0, 3)):
        wrong = golden.copy()
        wrong[0, place] += 3e-6 * np.ptp(golden)
        np.save(bundle / "golden" / "output.npy", wrong)
        assert board(bundle).returncode == code


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_golden_check_fails_on_what_is_no_number(board: Board, bundle: Path, value: float) -> None:
    x = np.load(bundle / "golden" / "input.npy")
    x[0, 0, 0, 0] = value
    np.save(bundle / "golden" / "input.npy", x)
    (bundle / "golden" / "tolerance.txt").write_text("1")
    done = board(bundle)
    assert done.returncode == 3, done
    assert done.stdout.startswith("FAIL output element 0 is ")


def test_golden_check_fails_on_another_shape(board: Board, bundle: Path) -> None:
    golden = np.load(bundle / "golden" / "output.npy")
    np.save(bundle / "golden" / "output.npy", golden[0])
    done = board(bundle)
    assert done.returncode == 3, done
    assert done.stdout.startswith("FAIL the output's shape is not that of ")


@pytest.mark.parametrize("text", ["", "small", "-1", "nan"])
def test_golden_check_needs_a_tolerance(board: Board, bundle: Path, text: str) -> None:
    (bundle / "golden" / "tolerance.txt").write_text(text)
    done = board(bundle)
    assert done.returncode == 1, done
    assert "tolerance.txt: holds no number from 0 to 1" in done.stderr


# ---- mbv3c_run: running files ----


def test_runs_several_inputs_and_times_them(
    board: Board, bundle: Path, network: Network, tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    arguments: list[str | Path] = ["--repeat", "4", bundle]
    inputs = [rng.standard_normal(SHAPE).astype(np.float32) for _ in range(3)]
    for index, x in enumerate(inputs):
        np.save(tmp_path / f"x{index}.npy", x)
        arguments += [tmp_path / f"x{index}.npy", tmp_path / f"y{index}.npy"]
    done = board(*arguments)
    assert done.returncode == 0, done
    assert done.stdout == ""
    assert done.stderr.count("of 4 runs on this machine") == 3
    for index, x in enumerate(inputs):
        output = np.load(tmp_path / f"y{index}.npy")
        assert output.dtype == np.float32
        np.testing.assert_allclose(output, network(x), atol=TOLERANCE)
    assert not list(tmp_path.glob("*.partial"))


def test_every_output_of_several_is_written_and_checked(
    board: Board, bundle: Path, models: dict[int, Path], tmp_path: Path
) -> None:
    shutil.copy(models[2], bundle / "model.so")
    golden = np.load(bundle / "golden" / "output.npy")
    np.save(bundle / "golden" / "output.1.npy", golden**2)
    (bundle / "golden" / "tolerance.txt").write_text("1e-6\n2e-6\n")
    done = board(bundle)
    assert done.returncode == 0, done
    assert done.stdout.index("tolerance 1e-06") < done.stdout.index("tolerance 2e-06")
    assert done.stdout.count("PASS") == 2

    done = board(bundle, bundle / "golden" / "input.npy", tmp_path / "y.npy")
    assert done.returncode == 0, done
    np.testing.assert_allclose(np.load(tmp_path / "y.1.npy"), golden**2, rtol=1e-5)

    np.save(bundle / "golden" / "output.1.npy", golden)
    done = board(bundle)
    assert done.returncode == 3, done
    assert done.stdout.startswith("PASS")
    assert "\nFAIL" in done.stdout

    (bundle / "golden" / "tolerance.txt").write_text("1e-6\n")
    done = board(bundle)
    assert done.returncode == 1, done
    assert "holds no number from 0 to 1 for output 1" in done.stderr


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_reads_every_npy_version(board: Board, bundle: Path, version: tuple[int, int]) -> None:
    path = bundle / "golden" / "input.npy"
    x = np.load(path)
    with path.open("wb") as file:
        np.lib.format.write_array(file, x, version=version)
    assert board(bundle).returncode == 0


Save = Callable[[np.ndarray, Path], object]


def _half(x: np.ndarray, path: Path) -> None:
    np.save(path, x)
    path.write_bytes(path.read_bytes()[:300])


def _header_only(x: np.ndarray, path: Path) -> None:
    np.save(path, x)
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (_half, "truncated, holds 172 of 576 bytes"),
        (_header_only, "truncated in its header"),
        (lambda x, path: path.write_bytes(b"no array"), "not a .npy file"),
        (lambda x, path: np.save(path, x.astype("f8")), "with dtype float32 but get float64"),
        (lambda x, path: np.save(path, x.astype("c8")), "holds dtype '<c8'"),
        (lambda x, path: np.save(path, x.astype(">f4")), "holds dtype '>f4'"),
        (lambda x, path: np.save(path, np.asfortranarray(x)), "is in Fortran order"),
        (lambda x, path: np.save(path, x[:0]), "empty, or a shape that cannot be read"),
        (lambda x, path: np.save(path, x.reshape((1,) * 6 + x.shape[1:])), "more than 8"),
        (lambda x, path: path.unlink(), "No such file or directory"),
    ],
)
def test_bad_npy_is_named(board: Board, bundle: Path, save: Save, message: str) -> None:
    path = bundle / "golden" / "input.npy"
    save(np.load(path), path)
    done = board(bundle)
    assert done.returncode == 1, done
    assert done.stderr.startswith("mbv3c_run: ")
    assert str(path) in done.stderr
    assert message in done.stderr


def test_wrong_input_shape_is_an_error(board: Board, bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 4, 5, 5), np.float32))
    done = board(bundle, tmp_path / "x.npy", tmp_path / "y.npy")
    assert done.returncode == 1, done
    assert done.stderr.startswith(f"mbv3c_run: inference on {tmp_path / 'x.npy'} failed: ")
    assert not (tmp_path / "y.npy").exists()


def test_missing_model_is_named(board: Board, tmp_path: Path) -> None:
    done = board(tmp_path)
    assert done.returncode == 1, done
    expected = f"mbv3c_run: cannot open {tmp_path}/model.so: No such file or directory\n"
    assert done.stderr == expected


def test_model_that_is_no_library_is_an_error(board: Board, tmp_path: Path) -> None:
    (tmp_path / "model.so").write_text("no library")
    done = board(tmp_path)
    assert done.returncode == 1, done
    assert done.stderr == f"mbv3c_run: {tmp_path}/model.so: is not a shared library\n"


def test_model_for_another_processor_is_an_error(board: Board, bundle: Path) -> None:
    library = bytearray((bundle / "model.so").read_bytes())
    library[18:20] = (62).to_bytes(2, "little")  # EM_X86_64
    (bundle / "model.so").write_bytes(library)
    done = board(bundle)
    assert done.returncode == 1, done
    assert "was compiled for another kind of processor than this one" in done.stderr


def test_library_without_a_model_is_an_error(
    board: Board, emulator_kit: Kit, bundle: Path
) -> None:
    library = emulator_kit.system / "usr" / "aarch64-linux-gnu" / "lib" / "libm.so.6"
    shutil.copy(library, bundle / "model.so")
    done = board(bundle)
    assert done.returncode == 1, done
    assert done.stderr == "mbv3c_run: the model has no function vm_load_executable\n"


def test_an_instruction_that_is_not_there_has_a_message(board: Board, bundle: Path) -> None:
    source = bundle / "model.s"
    source.write_text(
        '.globl start\nstart:\n    udf #0\n.section .init_array,"aw"\n    .quad start\n'
    )
    link_for_aarch64(str(bundle / "model.so"), [str(source)])
    done = board(bundle)
    assert done.returncode == 1, done
    assert done.stderr.startswith("mbv3c_run: the bundle has an instruction that this processor")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "no bundle given"),
        (("bundle", "in.npy"), "every IN.npy needs an OUT.npy"),
        (("--fast", "bundle", "in.npy"), "unknown option"),
        (("--fast",), "unknown option"),
        (("bundle", "--repeat"), "--repeat needs a number"),
        (("bundle", "--repeat", "0"), "--repeat needs a number"),
        (("bundle", "--repeat", "2x"), "--repeat needs a number"),
        (("bundle", "--kernels"), "--kernels needs a folder"),
        (("--kernels", "folder", "bundle"), "--kernels goes with one input"),
    ],
)
def test_wrong_usage(board: Board, arguments: tuple[str, ...], reason: str) -> None:
    done = board(*arguments)
    assert done.returncode == 2, done
    assert done.stderr.startswith(f"mbv3c_run: {reason}")
    assert "usage: mbv3c_run" in done.stderr


def test_help_is_not_an_error(board: Board) -> None:
    done = board("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: mbv3c_run")


def test_builds_with_the_command_in_its_header(tmp_path: Path) -> None:
    """The line of the comment works; zig's clang stands in for the board's g++."""
    import tvm_ffi

    site = Path(tvm_ffi.__file__).parents[1]
    header = RUNNER_SOURCE.read_text().split("#include")[0]
    lines = [line.removeprefix("//").strip() for line in header.splitlines()]
    first = next(i for i, line in enumerate(lines) if line.startswith("g++"))
    command = " ".join(lines[first : first + 3]).replace("$P", str(site)).split()
    command[command.index("mbv3c_run.cc")] = str(RUNNER_SOURCE)
    command[command.index("-o") + 1] = str(tmp_path / "mbv3c_run")
    command[:1] = [sys.executable, "-m", "ziglang", "c++", "-nostdlib++"]
    subprocess.run([*command, "-Wall", "-Wextra", "-Werror"], check=True)

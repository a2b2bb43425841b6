"""What is downloaded: by whose signature, by which hash, and where it is unpacked."""

import hashlib
import sys
from pathlib import Path

import pytest

from mbv3c.errors import ToolError
from mbv3c.execution import cache
from mbv3c.execution.cache import cache_root, provide, unpack_archives, unpack_packages
from mbv3c.execution.emulator import kit
from mbv3c.execution.processes import finish

PACKAGE = "mbv3c-probe"


def deb(folder: Path, name: str, contents: dict[str, str | Path]) -> Path:
    """Write a Debian package that holds files, and links to paths."""
    root = folder / f"{name}-root"
    (root / "DEBIAN").mkdir(parents=True)
    fields = {
        "Package": name,
        "Version": "1",
        "Architecture": "amd64",
        "Maintainer": "nobody <nobody@example.org>",
        "Description": "none",
    }
    lines = "".join(f"{key}: {value}\n" for key, value in fields.items())
    (root / "DEBIAN" / "control").write_text(lines)
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            (root / path).symlink_to(content)
        else:
            (root / path).write_text(content)
    archive = folder / f"{name}.deb"
    assert finish(["dpkg-deb", "-b", root, archive], timeout=60).returncode == 0
    return archive


def repository(folder: Path) -> None:
    """Write an archive with one package, which nobody has signed."""
    archive = deb(folder, PACKAGE, {"usr/bin/probe": "probe"})
    data = archive.read_bytes()
    index = (
        f"Package: {PACKAGE}\nVersion: 1\nArchitecture: amd64\nFilename: ./{archive.name}\n"
        f"Size: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
    )
    (folder / "Packages").write_text(index)
    listed = f" {hashlib.sha256(index.encode()).hexdigest()} {len(index)} Packages\n"
    head = "Origin: probe\nDate: Mon, 30 Nov 2026 00:00:00 UTC\nSHA256:\n"
    (folder / "Release").write_text(head + listed)


@pytest.mark.parametrize(
    ("name", "entry", "said"),
    [
        ("a.list", "deb [arch=amd64] file:{0} ./\n", "is not signed"),
        ("a.list", "deb [arch=amd64 trusted=yes] file:{0} ./\n", "a.list has apt trust"),
        ("a.sources", "Types: deb\nURIs: file:{0}\nSuites: ./\nTrusted: yes\n", "has apt trust"),
    ],
)
def test_what_is_not_signed_is_not_fetched(
    name: str, entry: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where this system's settings would take it."""
    (tmp_path / "archive").mkdir()
    repository(tmp_path / "archive")
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / name).write_text(entry.format(tmp_path / "archive"))
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "{tmp_path / "sources"}";\n'
        'Acquire::AllowInsecureRepositories "true"; APT::Get::AllowUnauthenticated "true";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    monkeypatch.setenv("LC_ALL", "C")
    with pytest.raises(ToolError, match=said):
        provide(
            tmp_path / "kit",
            lambda place: unpack_packages(place, "amd64", (PACKAGE,), lambda line: None),
        )
    assert not list(tmp_path.glob("kit*"))


def test_entries_that_trust_without_a_signature_are_found() -> None:
    for text, found in (
        ("deb [trusted=yes] http://a b c", True),
        ("Types: deb\nTrusted:true\n", True),
        ("# deb [trusted=yes] http://a b c", False),
        ("deb [signed-by=/usr/share/keyrings/trusted.gpg] http://a b c", False),
        ("deb [trusted=no] http://a b c\nTrusted: no\n", False),
    ):
        assert bool(cache._TRUSTED.search(text)) is found, text


def test_nothing_is_written_or_deleted_behind_a_link_of_a_package(tmp_path: Path) -> None:
    outside, place = tmp_path / "outside", tmp_path / "place"
    outside.mkdir()
    place.mkdir()
    (outside / "precious").write_text("kept")
    first = deb(
        tmp_path, "first", {"usr/share": outside, "usr/inner": Path("bin"), "usr/bin/x": ""}
    )
    second = deb(tmp_path, "second", {"usr/share/doc/second": "text"})
    unpack_archives([first, second], place)
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (place / "usr/share/doc/second").read_text() == "text"
    assert not (place / "usr/share").is_symlink()
    assert (place / "usr/inner").is_symlink()


def test_another_wheel_than_the_one_that_was_published_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file, under the name of the wheel, from where pip is set up to look."""
    index = tmp_path / "index"
    index.mkdir()
    for name in ("apache_tvm-0.27.0.post1", "apache_tvm_ffi-0.1.14.post1"):
        (index / f"{name}-py3-none-manylinux_2_28_aarch64.whl").write_bytes(b"PK other")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    place = tmp_path / "cache" / "runtime"
    place.parent.mkdir()
    with pytest.raises(ToolError, match="DO NOT MATCH THE HASHES") as raised:
        provide(place, lambda partial: kit.fetch_runtime(partial, lambda line: None))
    assert "nothing of it was kept" in str(raised.value)
    assert list(place.parent.iterdir()) == []


def test_a_version_whose_hash_is_not_known_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kit.metadata, "version", lambda name: "0.99")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(
        ToolError, match=r"the hash of the wheel of apache-tvm==0\.99 is not known"
    ):
        kit.fetch_runtime(tmp_path, lambda line: None)


def test_the_home_of_an_unknown_user_is_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MBV3C_CACHE", "~nobody-of-this-name/cache")
    with pytest.raises(ToolError, match="MBV3C_CACHE is '~nobody-of-this-name/cache'"):
        cache_root()

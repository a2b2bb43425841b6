"""Whose bundles run: those made here, those that a key signed, those that the user trusts."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

import mbv3c as api
from mbv3c.errors import BundleError, UsageError
from mbv3c.manifest import MANIFEST, SIGNATURE
from mbv3c.targets import open_bundle
from mbv3c.trust import MADE_HERE, Trust, TrustError, note_made, read_signer
from tests.command_line import document, mbv3c

SECRET = b"only for tests"


def write_key(folder: Path, name: str, kind: str = "ed25519", secret: bytes | None = None) -> Path:
    """Write a pair of keys; return the private one, beside which the public one is NAME.pub.pem"""
    key = (
        ed25519.Ed25519PrivateKey.generate()
        if kind == "ed25519"
        else ec.generate_private_key(ec.SECP256R1())
    )
    hidden = BestAvailableEncryption(secret) if secret else NoEncryption()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pem").write_bytes(private)
    (folder / f"{name}.pub.pem").write_bytes(public)
    return folder / f"{name}.pem"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    write_key(folder, "mine")
    write_key(folder, "another")
    write_key(folder, "curve", kind="P-256")
    write_key(folder, "hidden", secret=SECRET)
    (folder / "text.pem").write_text("no key at all")
    return folder


@pytest.fixture(scope="module")
def made(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a signed bundle, which this machine has made."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]>'
        "g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) { y = Relu(x) }"
    )
    folder = tmp_path_factory.mktemp("made")
    onnx.save(model, folder / "model.onnx")
    options = ("--target", "host_cpu", "--sign", keys / "mine.pem", "-o", folder / "bundle")
    done = mbv3c("compile", folder / "model.onnx", *options)
    assert done.returncode == 0, done.stderr
    return folder / "bundle"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a machine that has made nothing yet."""
    monkeypatch.setenv("MBV3C_STATE", str(tmp_path / "state"))


def test_a_bundle_made_here_runs_wherever_it_is_copied(made: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    assert open_bundle(copy, MADE_HERE).path == copy


def test_of_a_changed_one_only_what_is_in_it_can_be_read(made: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    written = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(written | {"mbv3c": "0.0.9"}))
    assert api.open_bundle(copy).manifest.mbv3c == "0.0.9"
    with pytest.raises(TrustError, match="was not made on this machine"):
        open_bundle(copy, MADE_HERE)


@pytest.mark.usefixtures("elsewhere")
def test_commands_ask_whether_to_trust_a_foreign_bundle(
    made: Path, keys: Path, tmp_path: Path
) -> None:
    run = ("run", made, "--input", made / "golden/input.npy", "-o", tmp_path / "y.npy")
    for command in (run, ("verify", made), ("verify", made, "--ladder"), ("bench", made)):
        error = document(mbv3c(*command, "--json"), code=2)["error"]
        assert error["kind"] == "trust"
        assert "--trust" in error["message"]
        assert "--key PUBLIC.pem" in error["message"]
    assert not (tmp_path / "y.npy").exists()
    assert mbv3c("inspect", made).returncode == 0
    for said in (("--trust",), ("--key", keys / "mine.pub.pem")):
        done = mbv3c(*run, *said, "--force")
        assert done.returncode == 0, done.stderr
    assert mbv3c("verify", made, "--key", keys / "mine.pub.pem").returncode == 0
    wrong = mbv3c("bench", made, "--key", keys / "another.pub.pem")
    assert wrong.returncode == 1
    assert "is not signed by" in wrong.stderr


@pytest.mark.usefixtures("elsewhere")
def test_the_python_interface_asks_too(made: Path, keys: Path) -> None:
    x = made / "golden/input.npy"
    for refused in (
        lambda: api.run(made, x),
        lambda: api.verify(made),
        lambda: api.ladder(made),
        lambda: api.bench(made),
        lambda: api.bench_shapes(made),
    ):
        with pytest.raises(api.TrustError):
            refused()
    assert api.open_bundle(made, key=keys / "mine.pub.pem").path == made
    assert "y" in api.run(made, x, key=keys / "mine.pub.pem").arrays
    assert api.verify(made, trust=True).exit_code == 0


def test_the_signature_is_one_that_openssl_checks(made: Path, keys: Path) -> None:
    files = ("-in", made / MANIFEST, "-sigfile", made / SIGNATURE)
    command = ["openssl", "pkeyutl", "-verify", "-rawin", *files, "-pubin", "-inkey"]
    for key, status in (("mine", 0), ("another", 1)):
        done = subprocess.run(
            [*command, keys / f"{key}.pub.pem"], check=False, stdout=subprocess.DEVNULL
        )
        assert done.returncode == status


@pytest.mark.parametrize(
    ("key", "error", "said"),
    [
        (
            "another.pub.pem",
            BundleError,
            "another key signed it, or its manifest.json was",
        ),
        ("mine.pem", UsageError, "is a private key; `openssl pkey"),
        ("curve.pub.pem", UsageError, "is not Ed25519's"),
        ("text.pem", UsageError, "is no public key in PEM"),
        ("absent.pem", UsageError, "cannot be read: No such file"),
    ],
)
def test_a_key_that_does_not_fit_is_named(
    key: str, error: type[Exception], said: str, made: Path, keys: Path
) -> None:
    """Also where this machine has made the bundle: the user asks for the signature."""
    with pytest.raises(error, match=said) as raised:
        open_bundle(made, Trust(key=keys / key))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("mine.pub.pem", "is a public key; `openssl genpkey"),
        ("curve.pem", "is not Ed25519's"),
        ("hidden.pem", "has a passphrase"),
        ("text.pem", "is no private key in PEM"),
        ("absent.pem", "no such file: "),
    ],
)
def test_a_key_that_cannot_sign_is_named_before_anything_is_compiled(
    key: str, said: str, keys: Path, tmp_path: Path
) -> None:
    options = ("--target", "host_cpu", "-o", tmp_path / "b", "--sign", keys / key)
    (tmp_path / "no model").touch()
    done = mbv3c("compile", tmp_path / "no model", *options)
    assert done.returncode == 2
    assert said in done.stderr
    for line in (keys / key).read_text().splitlines()[1:-1] if key != "absent.pem" else ():
        assert line not in done.stderr


def into_a_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def test_what_is_signed_cannot_be_changed(made: Path, keys: Path, tmp_path: Path) -> None:
    copy, mine = tmp_path / "copy", Trust(key=keys / "mine.pub.pem")
    for change, said in (
        (lambda: (copy / "model.so").write_bytes(b"other code"), "was changed after compile"),
        (lambda: (copy / MANIFEST).write_text((copy / MANIFEST).read_text() + " "), "not signed"),
        (lambda: (copy / SIGNATURE).write_bytes(b"short"), "not signed by"),
        (lambda: (copy / SIGNATURE).unlink(), "it has no manifest.sig"),
        (lambda: into_a_pipe(copy / SIGNATURE), "it is no plain file"),
        (lambda: into_a_pipe(copy / "golden" / "more.npy"), "was added after compile"),
        (lambda: (copy / "golden" / "empty").mkdir(), "was added after compile"),
        (lambda: (copy / "shapes.txt").write_text("main_9 1x4x8x8\n"), "was added after compile"),
    ):
        shutil.copytree(made, copy)
        (copy / ".DS_Store").touch()  # other programs leave such files everywhere
        assert open_bundle(copy, mine).path == copy
        change()
        with pytest.raises(BundleError, match=said):
            open_bundle(copy, mine)
        shutil.rmtree(copy)


def test_a_signed_bundle_has_the_bytes_of_one_that_is_not(
    made: Path, keys: Path, tmp_path: Path
) -> None:
    """Signatures of Ed25519 are deterministic, too."""
    again = tmp_path / "bundle"
    options = ("--target", "host_cpu", "-o", again)
    done = mbv3c("compile", made.parent / "model.onnx", *options)
    assert done.returncode == 0, done.stderr
    assert (again / MANIFEST).read_bytes() == (made / MANIFEST).read_bytes()
    read_signer(keys / "mine.pem").sign(again)
    assert (again / SIGNATURE).read_bytes() == (made / SIGNATURE).read_bytes()


def test_a_place_that_others_write_to_vouches_for_nothing(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MBV3C_STATE", str(tmp_path))
    assert note_made(made) is None
    assert open_bundle(made, MADE_HERE)
    assert [path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")] == [0o700, 0o600]
    (tmp_path / "made").chmod(0o777)
    with pytest.raises(TrustError):
        open_bundle(made, MADE_HERE)
    assert note_made(made) == f"others may write to {tmp_path / 'made'}"
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MBV3C_STATE", str(tmp_path / "file"))
    assert note_made(made) == os.strerror(20)


def test_options_that_do_not_go_together(made: Path, tmp_path: Path) -> None:
    for given, said in (
        (("--trust", "--key", "k.pem"), "exclude each other"),
        (("--key", "k.pem", "--key", "l.pem"), "one device, and one public key (.pem), at most"),
        (("--key", "board"), "belongs to --tracker or --device; a public key ends in .pem"),
    ):
        done = mbv3c("verify", made, *given)
        assert done.returncode == 2
        assert said in done.stderr
    done = mbv3c("verify", "--check", tmp_path / "x.npz", "--trust")
    assert "take a bundle, and --check runs none" in done.stderr

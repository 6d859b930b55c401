"""A signature vouches for every file of a version and for how it was made."""

from __future__ import annotations

import base64
import builtins
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from zoo_cli.main import cli

from zoo import Registry, Version
from zoo.errors import InvalidKey, NotFound, PluginError, StoreError, VerificationFailed
from zoo.signing import SignatureVerdict

pytest.importorskip("model_signing")


def write_key(folder: Path, key: Any, password: bytes | None = None) -> tuple[Path, Path]:
    """Private and public PEM files."""
    hidden = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    pkcs8, spki = serialization.PrivateFormat.PKCS8, serialization.PublicFormat.SubjectPublicKeyInfo
    pem = serialization.Encoding.PEM
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, hidden))
    (folder / "key.pub.pem").write_bytes(key.public_key().public_bytes(pem, spki))
    return folder / "key.pem", folder / "key.pub.pem"


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_key(tmp_path / "keys", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def signed(
    registry: Registry, family: dict[str, Version], keys: tuple[Path, Path], tmp_path: Path
) -> Path:
    """The signature of `both`."""
    return registry.sign("both", keys[0], out=tmp_path / "both.sig")


def test_a_version_is_as_signed(registry: Registry, signed: Path, keys: tuple[Path, Path]) -> None:
    verdict = registry.verify_signature("both", signed, keys[1])

    run = registry.catalog.run_of(registry.get("both").id)
    assert verdict.ok
    assert len(registry.catalog.files(registry.get("both").id)) == verdict.checked
    assert verdict.said is not None
    assert run.recipe == json.loads(verdict.said["recipe"])
    assert run.recipe_digest == verdict.said["recipe_digest"]
    assert [("qwen@1", None), ("math@1", 0.25), ("code@1", 0.75)] == [
        (p["ref"], p.get("weight")) for p in verdict.said["parents"]
    ]


def test_the_librarys_own_command_verifies_an_exported_directory(
    registry: Registry, signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    out = registry.export("both", tmp_path / "out")
    verify = [sys.executable, "-m", "model_signing", "verify", "key", str(out)]
    verify += ["--signature", str(signed), "--public_key", str(keys[1])]

    good = subprocess.run(verify, capture_output=True, text=True, check=False)
    (out / "config.json").write_text("{}")
    bad = subprocess.run(verify, capture_output=True, text=True, check=False)

    assert 0 == good.returncode, good.stderr
    assert 0 != bad.returncode
    assert "config.json" in bad.stdout + bad.stderr


def test_what_the_library_signs_is_verified_here(
    registry: Registry, family: dict[str, Version], keys: tuple[Path, Path], tmp_path: Path
) -> None:
    from model_signing import signing

    out = registry.export("both", tmp_path / "out")
    signing.Config().use_elliptic_key_signer(private_key=keys[0]).sign(out, tmp_path / "theirs.sig")

    verdict = registry.verify_signature("both", tmp_path / "theirs.sig", keys[1])

    assert verdict.ok
    assert verdict.said is None


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_other_curves_and_passwords_sign_too(
    registry: Registry, family: dict[str, Version], tmp_path: Path, curve: Any
) -> None:
    private, public = write_key(tmp_path / "k", ec.generate_private_key(curve), b"secret")

    out = registry.sign("math", private, out=tmp_path / "x.sig", password="secret")

    assert registry.verify_signature("math", out, public).ok
    with pytest.raises(InvalidKey, match="ZOO_KEY_PASSWORD"):
        registry.sign("math", private, out=tmp_path / "y.sig")
    assert not (tmp_path / "y.sig").exists()


def damage(registry: Registry, path: str) -> None:
    """Flip the last bit of a file of `both` in the store."""
    (key,) = (f.object for f in registry.catalog.files(registry.get("both").id) if f.path == path)
    stored = registry.store.path(key)
    stored.chmod(0o644)
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)


@pytest.mark.parametrize("path", ["model.safetensors", "README.md", "zoo_recipe.json"])
def test_a_changed_file_is_named(
    registry: Registry, signed: Path, keys: tuple[Path, Path], path: str
) -> None:
    damage(registry, path)

    verdict = registry.verify_signature("both", signed, keys[1])

    assert (path,) == verdict.changed
    assert () == verdict.missing + verdict.extra


def test_a_damaged_version_is_not_signed(
    registry: Registry, family: dict[str, Version], keys: tuple[Path, Path], tmp_path: Path
) -> None:
    damage(registry, "model.safetensors")

    with pytest.raises(VerificationFailed, match="is not signed") as error:
        registry.sign("both", keys[0], out=tmp_path / "x.sig")

    assert ["a.weight"] == [m for m in error.value.mismatched if m == "a.weight"] or (
        error.value.mismatched
    )
    assert not (tmp_path / "x.sig").exists()


def test_a_missing_file_is_named(registry: Registry, signed: Path, keys: tuple[Path, Path]) -> None:
    (key,) = (
        f.object
        for f in registry.catalog.files(registry.get("both").id)
        if f.path == "model.safetensors"
    )
    registry.store.path(key).unlink()

    verdict = registry.verify_signature("both", signed, keys[1])

    assert ("model.safetensors",) == verdict.missing
    assert () == verdict.changed + verdict.extra


def test_a_directory_is_compared_file_by_file(
    registry: Registry, signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    out = registry.export("both", tmp_path / "out")
    (out / "both.sig").write_bytes(signed.read_bytes())
    (out / ".gitattributes").write_text("git's own")

    whole = registry.verify_signature(str(out), out / "both.sig", keys[1])
    (out / "pytorch_model.bin").write_bytes(b"slipped in")
    (out / "README.md").unlink()
    (out / "config.json").write_text("{}")
    changed = registry.verify_signature(str(out), out / "both.sig", keys[1])

    assert whole.ok
    assert (("config.json",), ("README.md",), ("pytorch_model.bin",)) == (
        changed.changed,
        changed.missing,
        changed.extra,
    )


def test_a_signature_of_another_version_does_not_fit(
    registry: Registry, signed: Path, keys: tuple[Path, Path]
) -> None:
    verdict = registry.verify_signature("math", signed, keys[1])

    assert {"config.json", "model.safetensors"} >= set(verdict.changed)
    assert {"README.md", "zoo_recipe.json"} <= set(verdict.missing)
    assert {"weights", "recipe"} <= set(verdict.lineage)


def test_another_key_is_refused(registry: Registry, signed: Path, tmp_path: Path) -> None:
    _, public = write_key(tmp_path / "other", ec.generate_private_key(ec.SECP256R1()))

    with pytest.raises(VerificationFailed, match=r"no signature by the key .*Key mismatch"):
        registry.verify_signature("both", signed, public)


def test_a_statement_that_was_edited_is_refused(
    registry: Registry, signed: Path, keys: tuple[Path, Path]
) -> None:
    bundle = json.loads(signed.read_text())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    statement["predicate"]["zoo"]["method"] = "another"
    edited = base64.b64encode(json.dumps(statement).encode()).decode()
    bundle["dsseEnvelope"]["payload"] = edited
    signed.write_text(json.dumps(bundle))

    with pytest.raises(VerificationFailed, match="the key did not make it"):
        registry.verify_signature("both", signed, keys[1])


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "null", "\xff", '{"dsseEnvelope": {}}', "[" * 9999, "a" * 99]
)
def test_a_file_that_is_no_signature_is_refused(
    registry: Registry,
    family: dict[str, Version],
    keys: tuple[Path, Path],
    tmp_path: Path,
    content: str,
) -> None:
    (tmp_path / "x.sig").write_text(content, "latin-1")

    with pytest.raises(VerificationFailed, match="is no signature by the key"):
        registry.verify_signature("both", tmp_path / "x.sig", keys[1])


def test_keys_that_cannot_be_used_say_how_to_make_one(
    registry: Registry, signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    edwards, _ = write_key(tmp_path / "ed", ed25519.Ed25519PrivateKey.generate())
    (tmp_path / "text.pem").write_text("hello")

    for key in (edwards, tmp_path / "text.pem", keys[1]):
        with pytest.raises(InvalidKey, match="openssl ecparam"):
            registry.sign("both", key, out=tmp_path / "no.sig")
    for key in (tmp_path / "text.pem", keys[0]):
        with pytest.raises(InvalidKey, match="openssl ec -in"):
            registry.verify_signature("both", signed, key)
    with pytest.raises(NotFound, match="no key"):
        registry.sign("both", tmp_path / "none.pem", out=tmp_path / "no.sig")
    with pytest.raises(NotFound, match="no signature"):
        registry.verify_signature("both", tmp_path / "none.sig", keys[1])


def test_a_signature_is_never_overwritten(
    registry: Registry, signed: Path, keys: tuple[Path, Path]
) -> None:
    before = signed.read_bytes()

    with pytest.raises(StoreError, match="exists"):
        registry.sign("both", keys[0], out=signed)

    assert before == signed.read_bytes()


def test_signing_changes_nothing_in_the_version(
    registry: Registry, family: dict[str, Version], keys: tuple[Path, Path], tmp_path: Path
) -> None:
    files = registry.catalog.files(family["both"].id)

    registry.sign("both", keys[0], out=tmp_path / "x.sig")

    assert files == registry.catalog.files(family["both"].id)
    assert family["both"] == registry.get("both")


def test_without_the_library_the_error_says_what_to_install(
    registry: Registry,
    family: dict[str, Version],
    keys: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("model_signing"):
            raise ImportError("No module named 'model_signing'")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises(PluginError, match=r"pip install 'zoo-registry\[sign\]'"):
        registry.sign("both", keys[0])


def test_the_commands_sign_and_verify(
    registry: Registry,
    family: dict[str, Version],
    keys: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> Any:
        return CliRunner().invoke(cli, args, prog_name="zoo")

    made = run("sign", "both", "--key", str(keys[0]))
    check = ("verify", "both", "--signature", "both@1.sig", "--key", str(keys[1]))
    good = run(*check)
    damage(registry, "README.md")
    bad, told = run(*check), run(*check, "--json")

    assert (0, "both@1.sig\n") == (made.exit_code, made.stdout)
    assert 0 == good.exit_code
    assert "files, and its lineage, as signed by" in good.stderr
    assert (12, 12) == (bad.exit_code, told.exit_code)
    assert "Changed: `README.md`." in bad.stderr
    assert ["README.md"] == json.loads(told.stdout)["changed"]
    assert 2 == run("verify", "both", "--signature", "both@1.sig").exit_code
    assert 2 == run(*check, "--replay").exit_code


def test_a_verdict_is_ok_only_without_differences() -> None:
    assert SignatureVerdict(3).ok
    for difference in ("changed", "missing", "extra", "lineage"):
        assert not SignatureVerdict(3, **{difference: ("x",)}).ok

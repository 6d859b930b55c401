"""Signatures of versions by local elliptic curve keys, in the form of the OpenSSF's model signing.

    bundle -> DSSE envelope -> in-toto statement -> predicate
                                 resources   path and sha256 of every file of the version
                                 zoo         its weights digest, recipe and parents

Whoever has an exported directory checks the files with `model_signing verify` alone. That library
leaves room in the predicate for more, which its verifiers skip: there we say how the model was
made, so the signature covers its lineage too. A signature is a file beside the model and never
part of a version, whose bytes are settled before anybody signs them.

Source: https://github.com/sigstore/model-transparency, `model_signing/_signing/signing.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from zoo.cards.version_card import parents_of
from zoo.digest import canonical_json, flat_key_of_file
from zoo.errors import InvalidKey, NotFound, PluginError, StoreError, VerificationFailed
from zoo.records import Version

if TYPE_CHECKING:
    from zoo.registry import Registry

LARGEST_SIGNATURE = 50_000_000
"""Bytes; 200 for each file of a version, and its recipe."""
_NOT_SIGNED = (".git", ".gitattributes", ".github", ".gitignore")
_SERIALIZATION = {
    "method": "files",
    "hash_type": "sha256",
    "allow_symlinks": False,
    "ignore_paths": list(_NOT_SIGNED),
}
"""What the library's own command signs by default, so that it verifies without options."""


@dataclass(frozen=True, slots=True)
class SignatureVerdict:
    """What comparing a model with a signature by a trusted key found."""

    checked: int
    """Files that were signed."""
    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """Signed, and not there."""
    extra: tuple[str, ...] = ()
    """There, and not signed."""
    lineage: tuple[str, ...] = ()
    """What the signature says of the version's making that the registry does not."""
    said: Mapping[str, Any] | None = None
    """What the signature says of the version's making; None where zoo did not sign it."""

    @property
    def ok(self) -> bool:
        return not (self.changed or self.missing or self.extra or self.lineage)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "ok": self.ok,
            "checked": self.checked,
            "changed": list(self.changed),
            "missing": list(self.missing),
            "extra": list(self.extra),
            "lineage": list(self.lineage),
            "said": None if self.said is None else dict(self.said),
        }


def sign(
    registry: Registry,
    version: Version,
    key: Path,
    out: Path,
    *,
    password: str | None = None,
    threads: int,
) -> Path:
    """Sign a version, once its bytes are found to be those on record.

    Args:
        key: private key in PEM form, on the curve P-256, P-384 or P-521.
        out: file to write the signature to; there must be none.
    Raises:
        VerificationFailed: stored bytes are not those on record.
        InvalidKey, NotFound, StoreError, PluginError
    """
    library = _library()
    if out.exists():
        raise StoreError(
            f"`{out}` exists:", "it may be what somebody relies on.", "Choose another by --out."
        )
    signer = _keyed(library.ec.Signer, key, "private", password.encode() if password else None)
    from zoo.engine.verify import verify

    verdict = verify(registry, version, threads=threads)
    if not verdict.ok:
        raise VerificationFailed(
            f"`{version.ref}` is not signed: its bytes are not those on record.",
            "Differs: " + ", ".join(f"`{name}`" for name in verdict.mismatched[:10]) + ".",
            "`zoo fsck` tells what else is damaged.",
            mismatched=list(verdict.mismatched),
        )
    digests, _ = _files_of(registry, version)
    payload = library.signing.Payload(_manifest(library, version.ref, digests))
    payload.statement.pb.predicate.update({"zoo": _made(registry, version)})
    _write(signer.sign(payload), out)
    return out


def verify_signature(registry: Registry, ref: str, signature: Path, key: Path) -> SignatureVerdict:
    """Compare a version, or an exported directory, with a signature.

    Args:
        ref: a reference, or the path of a directory.
        key: the public key that is trusted, in PEM form.
    Raises:
        VerificationFailed: the key did not make the signature, or the file holds none.
        InvalidKey, NotFound, PluginError
    """
    library = _library()
    if not signature.is_file():
        raise NotFound(
            f"There is no signature `{signature}`.",
            how="Make it: `zoo sign REF --key KEY.pem`.",
            path=str(signature),
        )
    verifier = _keyed(library.ec.Verifier, key, "public")
    signed, said = _signed(library, verifier, signature, key)
    version = None
    if Path(ref).is_dir():
        found, missing = _files_in(Path(ref), signature), set[str]()
    else:
        version = registry.get(ref)
        found, missing = _files_of(registry, version, lenient=True)
    return SignatureVerdict(
        checked=len(signed),
        changed=tuple(sorted(p for p in signed.keys() & found if signed[p] != found[p])),
        missing=tuple(sorted(signed.keys() - found)),
        extra=tuple(sorted((found.keys() | missing) - signed.keys())),
        lineage=_disagreements(registry, version, said) if version else (),
        said=said,
    )


def _made(registry: Registry, version: Version) -> dict[str, Any]:
    """How a version was made, as the signature says it. Numbers of a recipe would not survive as
    they are, so it stands there as JSON."""
    run = registry.catalog.run_of(version.id)
    found: dict[str, Any] = {
        "ref": version.ref,
        "kind": version.kind,
        "weights": version.digest,
        "parents": [one.block for one in parents_of(registry, version)],
    }
    if run is not None:
        found |= {
            "method": f"{run.method} {run.method_version}",
            "code_hash": run.code_hash,
            "recipe_digest": run.recipe_digest,
            "recipe": canonical_json(run.recipe).decode(),
        }
    return found


def _disagreements(
    registry: Registry, version: Version, said: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """What a signature says of a version's making, and the registry otherwise.

    Names are each zoo's own, so parents are compared by their weights.
    """
    if said is None:
        return ()
    known = _made(registry, version)
    wrong = [k for k in ("weights", "recipe_digest", "recipe") if said.get(k) != known.get(k)]

    def roles(made: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        listed = made.get("parents")
        rows = [p for p in listed if isinstance(p, dict)] if isinstance(listed, list) else []
        return [(p.get("role"), p.get("weight"), p.get("weights")) for p in rows]

    if known.get("recipe") is not None and roles(said) != roles(known):
        wrong.append("parents")
    return tuple(wrong)


def _signed(
    library: _Library, verifier: Any, signature: Path, key: Path
) -> tuple[dict[str, str], dict[str, Any] | None]:
    """Path -> sha256 of what was signed, and what zoo added."""
    try:
        if signature.stat().st_size > LARGEST_SIGNATURE:
            raise ValueError(f"it is larger than {LARGEST_SIGNATURE:,} bytes")
        bundle = library.bundles.Signature.read(signature)
        manifest = verifier.verify(bundle)
        envelope = json.loads(bundle.bundle.dsse_envelope.payload)
    except library.InvalidSignature:
        _refuse(signature, key, "the key did not make it, or it was changed since")
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        _refuse(signature, key, " ".join(str(error).split())[:300] or type(error).__name__)
    signed = {}
    for one in manifest.resource_descriptors():
        if one.digest.algorithm != "sha256":
            _refuse(signature, key, f"it has digests by {one.digest.algorithm}, not by sha256")
        signed[one.identifier] = one.digest.digest_hex
    said = envelope["predicate"].get("zoo")
    return signed, said if isinstance(said, dict) else None


def _refuse(signature: Path, key: Path, why: str) -> Any:
    raise VerificationFailed(
        f"`{signature}` is no signature by the key `{key}`:",
        f"{why}.".replace("..", "."),
        "Ask whoever signed it for their public key.",
        signature=str(signature),
    )


def _files_of(
    registry: Registry, version: Version, *, lenient: bool = False
) -> tuple[dict[str, str], set[str]]:
    """Path -> sha256 of a version's files as they are stored, and those that are gone.

    Args:
        lenient: whether gone ones are told, and no error.
    """
    found, missing = {}, set()
    for file in registry.catalog.files(version.id):
        try:
            key = flat_key_of_file(registry.store.path(file.object))
        except FileNotFoundError:
            if not lenient:
                raise
            missing.add(file.path)
            continue
        found[file.path] = key.removeprefix("flat:")
    return found, missing


def _files_in(directory: Path, signature: Path) -> dict[str, str]:
    """Path -> sha256 of the files in a directory, without the signature and git's."""
    found = {}
    left_out = {directory / path for path in _NOT_SIGNED}
    for folder, folders, files in os.walk(directory):
        folders[:] = sorted(f for f in folders if Path(folder, f) not in left_out)
        for path in (Path(folder, name) for name in sorted(files)):
            if path in left_out or path.resolve() == signature.resolve():
                continue
            relative = path.relative_to(directory).as_posix()
            found[relative] = flat_key_of_file(path).removeprefix("flat:")
    return found


def _manifest(library: _Library, name: str, digests: Mapping[str, str]) -> Any:
    made = library.manifest
    items = [
        made.FileManifestItem(
            path=Path(path), digest=library.hashing.Digest("sha256", bytes.fromhex(digest))
        )
        for path, digest in sorted(digests.items())
    ]
    return made.Manifest(name, items, made.SerializationType.from_args(_SERIALIZATION))


def _keyed(make: Any, key: Path, which: str, *more: Any) -> Any:
    """A signer or verifier of the library.

    Raises:
        NotFound, InvalidKey
    """
    if not key.is_file():
        making = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
        public = "openssl ec -in key.pem -pubout -out key.pub.pem"
        raise NotFound(
            f"There is no key `{key}`.",
            how=f"Make a pair: `{making}` and `{public}`.",
            path=str(key),
        )
    try:
        return make(key, *more)
    except Exception as error:  # the library passes on whatever its own libraries raise
        other = "private" if which == "public" else "public"
        raise InvalidKey(
            f"`{key}` is no {which} key that can be used:",
            f"{' '.join(str(error).split()) or type(error).__name__}.".replace("..", "."),
            f"It is a {which} elliptic curve key in PEM form, not the {other} one: "
            "`openssl ecparam -name prime256v1 -genkey -noout -out key.pem` makes a private key, "
            "`openssl ec -in key.pem -pubout -out key.pub.pem` its public one. "
            "ZOO_KEY_PASSWORD has the password of a private key that has one.",
            path=str(key),
        ) from None


def _write(signature: Any, out: Path) -> None:
    partial = out.with_name(f".{out.name}-{uuid4().hex}")
    try:
        signature.write(partial)
        partial.rename(out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"Cannot write `{out}`:", f"{error.strerror}.", path=str(out)) from error


@dataclass(frozen=True, slots=True)
class _Library:
    """The parts of model-signing that are used. Its public functions sign directories on disk as
    they lie there, and a version's directory is made of links, which they refuse."""

    signing: Any
    ec: Any
    bundles: Any
    manifest: Any
    hashing: Any
    InvalidSignature: type[Exception]


def _library() -> _Library:
    """
    Raises:
        PluginError: the extra is not installed.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from model_signing import manifest
        from model_signing._hashing import hashing
        from model_signing._signing import sign_ec_key, sign_sigstore_pb, signing
    except ImportError as error:
        raise PluginError(
            "Signatures need a library that is not installed:",
            f"{error}.",
            "pip install 'zoo-registry[sign]'",
        ) from error
    return _Library(signing, sign_ec_key, sign_sigstore_pb, manifest, hashing, InvalidSignature)

"""Bentos on disk: names, folders and confirmations."""

# This module reads files and imports neither torch nor BentoML, so that a rerun of an unchanged
# command confirms its Bento within milliseconds.

import hashlib
import os
import re
from pathlib import Path

import yaml
from pydantic import ValidationError

import aigc_ops
from aigc_ops.core.artifacts import BentoTag, ModelVersion, Record, file_digest, json_digest
from aigc_ops.core.errors import PackagingError
from aigc_ops.core.state_dir import home
from aigc_ops.provenance.added_code import BENTOFILE, added_code

REQUIREMENTS = Path("aigc_ops/serving/bento/requirements.txt")
CONFIRMATION = "confirmed.json"
MAX_NAME = 63  # BentoML's limit on the name in a tag, that of a DNS label


class Confirmation(Record):
    """Record in a Bento's folder: it booted and reproduced its golden samples."""

    bento: BentoTag
    code_digest: str
    content_digest: str


def find_bento(version: ModelVersion) -> BentoTag | None:
    """Return the confirmed Bento of this version and of the current code, or None.

    The result is None also when a file of the Bento or of its model is missing or changed.
    """
    code = code_digest(package_root())
    store = bento_store()
    folder = bento_folder(store, version, code)
    # The tag holds 8 digits of the digests, so the confirmation's whole ones are compared. Cheap
    # comparisons come first: the last one hashes the weights.
    proof = read_confirmation(folder)
    if proof is None or proof.code_digest != code or proof.bento.model != version:
        return None
    return proof.bento if is_unchanged(folder, proof) else None


def find_newest_bento(version: ModelVersion) -> BentoTag | None:
    """Return the version's Bento of the current code, else the newest unchanged earlier one."""
    if current := find_bento(version):
        return current
    proofs = {folder / CONFIRMATION: read_confirmation(folder) for folder in bento_folders(version)}
    newest_first = sorted(proofs, key=lambda path: path.stat().st_mtime, reverse=True)
    # A generator: older Bentos are not hashed once one is found.
    valid = (p for path in newest_first if (p := proofs[path]) and is_unchanged(path.parent, p))
    return next((proof.bento for proof in valid), None)


def read_confirmation(folder: Path) -> Confirmation | None:
    """Return the confirmation in a Bento's folder; None without a valid one."""
    try:
        return Confirmation.model_validate_json((folder / CONFIRMATION).read_text("utf-8"))
    except (OSError, ValidationError):
        return None


def is_unchanged(folder: Path, proof: Confirmation) -> bool:
    """Return True if all files of a Bento and of its model are as they were confirmed."""
    model = model_folder(folder.parents[2], proof.bento.model)
    return proof.content_digest == content_digest(folder, model)


def bento_folders(version: ModelVersion) -> list[Path]:
    """Return the folders of all confirmed Bentos of a version, of current or earlier code."""
    # A name that was shortened may match another model's, so the confirmation decides.
    folders = (bento_store() / "bentos" / tag_name(version.name)).glob(f"v{version.version}-*")
    return sorted(f for f in folders if (p := read_confirmation(f)) and p.bento.model == version)


def tagged_folder(tag: str) -> Path:
    """Return BentoML's folder of the Bento with a tag `name:version`."""
    name, _, version = tag.partition(":")
    return bento_store() / "bentos" / name / version


def labelled_version(folder: Path) -> ModelVersion | None:
    """Return the model version in a Bento's labels; None without such labels."""
    try:
        labels = yaml.safe_load((folder / "bento.yaml").read_text("utf-8"))["labels"]
        return ModelVersion.model_validate(
            {name: labels[name] for name in ModelVersion.model_fields}
        )
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError):
        return None


def bento_store() -> Path:
    """Return BentoML's home: `BENTOML_HOME`, or `bentoml` in the state directory."""
    return Path(os.environ.get("BENTOML_HOME") or home() / "bentoml").absolute()


def bento_folder(store: Path, version: ModelVersion, code: str) -> Path:
    """Return BentoML's folder of the Bento of a model version and a code digest."""
    return store / "bentos" / tag_name(version.name) / bento_version(version, code)


def model_folder(store: Path, version: ModelVersion) -> Path:
    """Return BentoML's folder of the model of a version."""
    return store / "models" / tag_name(version.name) / model_version(version)


def bento_version(version: ModelVersion, code: str) -> str:
    """Return the version in the Bento's tag: model version, digest of model and code."""
    return f"v{version.version}-{json_digest([version.manifest_digest, code])[:8]}"


def model_version(version: ModelVersion) -> str:
    """Return the version in the tag of the model in BentoML's model store."""
    return f"v{version.version}-{version.manifest_digest[:8]}"


def tag_name(name: str) -> str:
    """Return a registered model's name in the form that BentoML allows."""
    # A name that has to change gets a digest of the original, or `Digits` and `digits` would
    # share a tag.
    plain = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")
    if plain == name and len(plain) <= MAX_NAME:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{plain[: MAX_NAME - 9]}-{digest}".lstrip("-._")


def package_root() -> Path:
    """Return the folder that contains `aigc_ops`: a checkout, or site-packages."""
    return Path(aigc_ops.__file__).parents[1]


def bentofile(root: Path) -> Path:
    """Return the bentofile.yaml that lists the files of `aigc_ops` in a Bento."""
    # In a checkout it is at the top, where `bentoml build` finds it; in a wheel it is here.
    at_top = root / BENTOFILE
    return at_top if at_top.is_file() else root / "aigc_ops" / "serving" / "bento" / BENTOFILE


def code_files(root: Path) -> list[Path]:
    """Return the files that bentofile.yaml includes, sorted by path."""
    files: set[Path] = set()
    for pattern in yaml.safe_load(bentofile(root).read_text("utf-8"))["include"]:
        matches = list(root.glob(pattern))
        # BentoML itself would ignore such a pattern, and the service would fail at an import.
        if not matches:
            raise PackagingError(f"{bentofile(root)}: {pattern} names no file; correct it")
        files.update(matches)
    return sorted(files)


def code_digest(root: Path) -> str:
    """Return a SHA-256 (hex) over the code in a Bento.

    The code is bentofile.yaml, the files that it includes, and other packages and the project
    that add modalities or families.
    """
    # Without other code the digest is that of versions before it was supported.
    own = _tree_digest(root, [bentofile(root), *code_files(root)])
    others = [added.digests() for added in added_code()]
    return json_digest([own, *others]) if others else own


def content_digest(bento: Path, model: Path) -> str:
    """Return a SHA-256 (hex) over all files of a Bento and its model, without the confirmation."""
    parts = [
        _tree_digest(folder, [p for p in folder.rglob("*") if p.is_file()])
        for folder in (bento, model)
    ]
    return json_digest(parts)


def _tree_digest(root: Path, files: list[Path]) -> str:
    return json_digest(
        {
            path.relative_to(root).as_posix(): file_digest(path)
            for path in files
            if path.name != CONFIRMATION and path.suffix != ".pyc"
        }
    )

"""Bentos at rest: what they are called, where they lie, and which were confirmed.

Reads files only, neither torch nor BentoML, so that an unchanged run is told in
milliseconds that its Bento still stands.
"""

import hashlib
import os
import re
from pathlib import Path

import yaml
from pydantic import ValidationError

import aigc_ops
from aigc_ops.core.artifacts import BentoTag, ModelVersion, Noun, file_digest, json_digest
from aigc_ops.core.errors import PackagingError
from aigc_ops.core.state_dir import home
from aigc_ops.serving.bento.external_code import external_packages

BENTOFILE = "bentofile.yaml"
CONFIRMATION = "confirmed.json"
MAX_NAME = 63


class Confirmation(Noun):
    """Proof, kept in a Bento's folder, that it booted and drew its golden samples."""

    bento: BentoTag
    code_digest: str
    content_digest: str


def find_bento(version: ModelVersion) -> BentoTag | None:
    """The confirmed Bento of this version and of the present code; None: package it.

    None also when a file of the Bento or of its model is missing or changed.
    """
    root = find_project()
    if root is None:
        return None
    code = code_digest(root)
    store = bento_store()
    folder = bento_folder(store, version, code)
    found = confirmation(folder)
    if found is None or found.code_digest != code or found.bento.model != version:
        return None
    return found.bento if is_whole(folder, found) else None


def standing_bento(version: ModelVersion) -> BentoTag | None:
    """The version's Bento of the present code, else the newest whole one of earlier code."""
    if found := find_bento(version):
        return found
    proofs = {folder / CONFIRMATION: confirmation(folder) for folder in folders_of(version)}
    newest_first = sorted(proofs, key=lambda path: path.stat().st_mtime, reverse=True)
    whole = (p for path in newest_first if (p := proofs[path]) and is_whole(path.parent, p))
    return next((proof.bento for proof in whole), None)


def confirmation(folder: Path) -> Confirmation | None:
    """The proof that a Bento's folder holds, None without one."""
    try:
        return Confirmation.model_validate_json((folder / CONFIRMATION).read_text("utf-8"))
    except (OSError, ValidationError):
        return None


def is_whole(folder: Path, proof: Confirmation) -> bool:
    """Whether every file of a Bento and of its model is as it was when it was confirmed."""
    model = model_folder(folder.parents[2], proof.bento.model)
    return proof.content_digest == content_digest(folder, model)


def folders_of(version: ModelVersion) -> list[Path]:
    """Every Bento of a version that stands in BentoML's store, whatever code it was made with."""
    folders = (bento_store() / "bentos" / tag_name(version.name)).glob(f"v{version.version}-*")
    return sorted(f for f in folders if (p := confirmation(f)) and p.bento.model == version)


def tagged_folder(tag: str) -> Path:
    """Where BentoML keeps the Bento of a tag, `name:version`."""
    name, _, version = tag.partition(":")
    return bento_store() / "bentos" / name / version


def labelled_version(folder: Path) -> ModelVersion | None:
    """The model version that a Bento's own labels name, None when it has none."""
    try:
        labels = yaml.safe_load((folder / "bento.yaml").read_text("utf-8"))["labels"]
        return ModelVersion.model_validate(
            {name: labels[name] for name in ModelVersion.model_fields}
        )
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError):
        return None


def bento_store() -> Path:
    """BentoML's home: `BENTOML_HOME`, or `bentoml` in the home of aigc-ops."""
    return Path(os.environ.get("BENTOML_HOME") or home() / "bentoml").absolute()


def bento_folder(store: Path, version: ModelVersion, code: str) -> Path:
    """Where BentoML keeps the Bento of a model version made with this code."""
    return store / "bentos" / tag_name(version.name) / bento_version(version, code)


def model_folder(store: Path, version: ModelVersion) -> Path:
    """Where BentoML keeps the model of a version."""
    return store / "models" / tag_name(version.name) / model_version(version)


def bento_version(version: ModelVersion, code: str) -> str:
    """Version part of the Bento's tag: the model's version and a digest of model and code."""
    return f"v{version.version}-{json_digest([version.manifest_digest, code])[:8]}"


def model_version(version: ModelVersion) -> str:
    """Version part of the tag of the model in BentoML's model store."""
    return f"v{version.version}-{version.manifest_digest[:8]}"


def tag_name(name: str) -> str:
    """A registered model's name as BentoML allows it; names that change keep a digest."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")
    if plain == name and len(plain) <= MAX_NAME:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{plain[: MAX_NAME - 9]}-{digest}".lstrip("-._")


def find_project() -> Path | None:
    """The checkout that bentofile.yaml lies in: this package's, or the current folder."""
    candidates = [Path(aigc_ops.__file__).parent.parent, Path.cwd()]
    for folder in candidates:
        if (folder / BENTOFILE).is_file() and (folder / "aigc_ops" / "serving").is_dir():
            return folder
    return None


def code_files(root: Path) -> list[Path]:
    """Files of the checkout that bentofile.yaml includes, in order of their paths."""
    files: set[Path] = set()
    for pattern in yaml.safe_load((root / BENTOFILE).read_text("utf-8"))["include"]:
        found = list(root.glob(pattern))
        if not found:
            raise PackagingError(f"{root / BENTOFILE}: {pattern} names no file; correct it")
        files.update(found)
    return sorted(files)


def code_digest(root: Path) -> str:
    """Return a SHA-256 (hex) over bentofile.yaml, every file that it includes, and other packages.

    Those are the ones that add modalities or families.
    """
    own = _tree_digest(root, [root / BENTOFILE, *code_files(root)])
    others = [package.digests() for package in external_packages()]
    return json_digest([own, *others]) if others else own


def content_digest(bento: Path, model: Path) -> str:
    """SHA-256 (hex) over every file of a Bento, its confirmation aside, and of its model."""
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

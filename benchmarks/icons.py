"""Make a folder of 1,911 icons of 32 x 32 pixels, many of which are near relatives.

    python benchmarks/icons.py FOLDER

They are the emoji of the npm package emoji-datasource-google (Apache-2.0), on white, without the
variants of skin tones. `npm` downloads it.
"""

import argparse
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

from PIL import Image

PACKAGE = "emoji-datasource-google@16.0.0"
SHA256 = "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
SHEET = "package/img/google/sheets-clean/32.png"
SIDE, BORDER = 32, 1


def make_icons(folder: Path) -> int:
    """Write the icons as PNG files named by their code points; return their number."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=place, check=True)
        (path,) = Path(place).glob("*.tgz")
        if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
            raise SystemExit(f"{PACKAGE}: the archive's SHA-256 is not {SHA256}")
        with tarfile.open(path) as archive:
            icons = json.loads(_member(archive, "package/emoji.json"))
            sheet = Image.open(io.BytesIO(_member(archive, SHEET))).convert("RGBA")
    folder.mkdir(parents=True)
    step = SIDE + 2 * BORDER
    for icon in icons:
        left, top = (step * icon[name] + BORDER for name in ("sheet_x", "sheet_y"))
        tile = sheet.crop((left, top, left + SIDE, top + SIDE))
        white = Image.new("RGBA", tile.size, "white")
        white.alpha_composite(tile)
        white.convert("RGB").save(folder / f"{icon['unified'].lower()}.png")
    return len(icons)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, name
    return file.read()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a folder that does not exist yet")
    return parser


if __name__ == "__main__":
    given = build_parser().parse_args()
    print(f"{make_icons(given.folder):,} icons in {given.folder}")

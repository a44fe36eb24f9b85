"""Inputs of images."""

from tests.data.inputs.deep import MODES, png, tiff, values_of
from tests.data.inputs.making import (
    COMPANION,
    IMAGES,
    JUNK,
    OTHER_COLUMN,
    Input,
    Read,
    Refused,
    accepted,
    animated,
    arrayed,
    at,
    both,
    class_label,
    cut_short,
    encoded,
    files,
    linked,
    looped,
    metadata,
    names,
    one_more,
    pictures,
    piped,
    refused_format,
    saved,
    stylegan,
    table,
    these,
    turned,
    zipped,
)
from tests.data.making_data import encode, noise

DEEP = {mode: png(values_of(num, 8, 8)) for num, mode in MODES.items()}
FLAG = "--data.image.convert 8-bit"
CONVERT = {"image": {"convert": "8-bit"}}

IMAGE_INPUTS: list[Input] = [
    # Formats of images
    *(
        Input(f"PNG in Pillow's mode {mode}", pictures(*names(20), mode=mode), Read(20))
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA")
    ),
    accepted("x.JPG", saved("JPEG"), "a JPEG with a suffix in capitals"),
    accepted("x.jpeg", saved("JPEG", progressive=True), "a progressive JPEG"),
    *(accepted(f"x.{s}", saved("JPEG"), f"a JPEG as `.{s}`") for s in ("jpe", "jif", "jfif")),
    accepted("x.webp", saved("WEBP"), "a lossy WebP"),
    accepted("y.webp", saved("WEBP", lossless=True), "a lossless WebP"),
    accepted("x.gif", saved("GIF"), "a still GIF"),
    accepted("x.bmp", saved("BMP"), "a BMP"),
    accepted("x.png", saved("JPEG"), "a JPEG called `.png`"),
    accepted("x.jpg", saved("PNG"), "a PNG called `.jpg`"),
    accepted("x.jpg", turned(), "a JPEG that EXIF turns: read upright"),
    *(refused_format(s, saved("TIFF")) for s in ("tif", "tiff")),
    *(refused_format(s) for s in ("heic", "heif", "avif", "jxl", "jp2", "apng", "ico", "tga")),
    *(refused_format(s) for s in ("psd", "eps", "svg", "ppm", "pgm", "pbm", "pcx", "dds")),
    *(refused_format(s) for s in ("exr", "hdr", "dng", "cr2", "nef", "arw")),
    Input("an animated GIF", one_more("x.gif", animated("GIF")), Refused("x.gif")),
    Input("an animated WebP", one_more("x.webp", animated("WEBP")), Refused("x.webp")),
    Input("a CMYK JPEG", one_more("x.jpg", saved("JPEG", mode="CMYK")), Refused("x.jpg")),
    *(
        Input(f"a PNG of 16 bits, {mode}", one_more("x.png", deep), Refused(f"by {FLAG}"))
        for mode, deep in DEEP.items()
    ),
    *(
        Input(
            f"a PNG of 16 bits, {mode}, with `data.image.convert 8-bit`",
            one_more("x.png", deep),
            Read(21, noted="converted to 8-bit"),
            CONVERT,
        )
        for mode, deep in DEEP.items()
    ),
    *(
        Input(
            f"a TIFF of {bits} bits with `data.image.convert 8-bit`",
            one_more("x.tif", content),
            Read(21, noted="converted to 8-bit"),
            CONVERT,
        )
        for bits, content in {8: saved("TIFF"), 16: tiff(values_of(3, 8, 8))}.items()
    ),
    Input(
        "icons of which 19 % repeat, some in another format",
        both(
            pictures(*names(81)),
            pictures(*names(9, "again{}.png")),
            these({f"again{i}.bmp": encode(noise(i, mode="RGB"), "BMP") for i in range(9, 19)}),
        ),
        Read(81, left_out=19),
    ),
    Input(
        "images of which half repeat",
        both(pictures(*names(20)), pictures(*names(20, "again{}.png"))),
        Refused("--validation.max-duplicate-fraction 0.5", by_validation=True),
    ),
    Input(
        "images that are in both splits: not trained on",
        both(
            pictures(*names(20, "train/{}.png")),
            pictures(*names(4, "test/{}.png")),
        ),
        Read(20, left_out=4),
    ),
    Input(
        "an image in the folders of two classes: in both",
        both(
            pictures(*names(10, "cat/{}.png"), *names(10, "dog/{}.png")),
            pictures("dog/again.png"),
        ),
        Read(21, labels="sub-folders", noted="another label"),
    ),
    Input("a truncated PNG", one_more("x.png", saved("PNG")[:60]), Refused("x.png")),
    Input("an empty file", one_more("x.png", b""), Refused("x.png")),
    Input("text called `.png`", one_more("x.png", "no image"), Refused("x.png")),
    Input("a web page called `.jpg`", one_more("x.jpg", "<html></html>"), Refused("x.jpg")),
    Input(
        "a Git LFS pointer",
        one_more("x.png", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        Refused("x.png"),
    ),
    Input(
        "images of two sizes",
        both(pictures(*names(20)), pictures("large.png", size=16)),
        Refused("large.png"),
    ),
    Input(
        "images of two sizes with `data.image.size`",
        both(pictures(*names(20)), pictures("large.png", size=16)),
        Read(21),
        {"image": {"size": 8}},
    ),
    # Layouts of images
    Input("a flat folder of images", pictures(*names(20)), Read(20)),
    Input(
        "a folder for each class",
        pictures(*names(10, "cat/{}.png"), *names(10, "dog/{}.png")),
        Read(20, labels="sub-folders"),
    ),
    Input(
        "folders in the folders of classes",
        pictures(*names(10, "cat/black/{}.png"), *names(10, "dog/brown/{}.png")),
        Read(20, labels="sub-folders"),
    ),
    Input(
        "numbered folders that only divide the files",
        pictures(*names(10, "00000/{}.png"), *names(10, "00001/{}.png")),
        Read(20, labels="sub-folders (if they only divide the files: --data.label-column '')"),
    ),
    Input(
        "`train` and `test`",
        pictures(*names(10, "train/{}.png"), *names(4, "test/{}.png")),
        Read(14),
    ),
    Input(
        "`Training` and `Validation` with classes",
        pictures(
            *(
                f"{s}/{c}/{i}.png"
                for s in ("Training", "Validation")
                for c in "ab"
                for i in range(6)
            )
        ),
        Read(24, labels="sub-folders"),
    ),
    Input(
        "`train`, `val` and `test`",
        pictures(*(f"{s}/{i}.png" for s in ("train", "val", "test") for i in range(5))),
        Read(10, unread=("in the split test, beside the two that are read",)),
    ),
    Input("`train` alone", pictures(*names(9, "train/{}.png")), Refused("look like splits")),
    Input(
        "a folder around both splits",
        pictures(*(f"set/{s}/{i}.png" for s in ("train", "test") for i in range(5))),
        Refused("the splits are in its folder set"),
    ),
    Input(
        "pictures beside `train` and `test`",
        pictures(*names(40), *(f"{s}/{i}.png" for s in ("train", "test") for i in range(5))),
        Refused("40 of 50 files that could be samples are not read"),
    ),
    Input(
        "pictures beside `train` and `test`, allowed",
        pictures(*names(40), *(f"{s}/{i}.png" for s in ("train", "test") for i in range(5))),
        Read(10, unread=("outside the splits",)),
        {"allow_unread": True},
    ),
    Input(
        "pictures called `train.png` and `test.png`",
        pictures(*names(20), "train.png", "test.png"),
        Read(22),
    ),
    Input("StyleGAN's `dataset.json`", stylegan(True), Read(20, labels="dataset.json")),
    Input("StyleGAN's `dataset.json` without labels", stylegan(None), Read(20)),
    Input(
        "StyleGAN's `dataset.json`, damaged",
        both(pictures(*names(9)), files(dataset__json='{"labels": [["0.png"]]}')),
        Refused("dataset.json: labels cannot be read"),
    ),
    Input("`metadata.csv` with labels", metadata(), Read(20, labels="metadata.csv")),
    Input(
        "`metadata.csv` in each split",
        both(metadata("train/"), metadata("test/", num=4, start=30)),
        Read(24, labels="test/metadata.csv, train/metadata.csv"),
    ),
    Input(
        "`metadata.csv` with captions alone",
        both(pictures(*names(20)), files(metadata__csv="file_name,text\n0.png,a cat\n")),
        Read(20, unread=("not an image",)),
    ),
    Input(
        "`metadata.csv` that labels an absent file",
        both(metadata(), lambda folder: (folder / "19.png").unlink()),
        Read(19, labels="metadata.csv", unread=("labelled in metadata.csv, but not there",)),
    ),
    Input(
        "a caption `.txt` beside each picture",
        both(pictures(*names(20)), these({f"{i}.txt": f"a cat {i}" for i in range(20)})),
        Read(20, unread=("not an image",)),
    ),
    Input(
        "COCO's `annotations.json` beside pictures",
        one_more("annotations.json", "{}"),
        Read(20, unread=("not an image",)),
    ),
    Input(
        "README, LICENSE, `Thumbs.db`, `.DS_Store` beside pictures",
        both(
            pictures(*names(20)),
            these(dict.fromkeys(("README.md", "LICENSE", "Thumbs.db", ".DS_Store"), "-")),
        ),
        Read(20, unread=(COMPANION,)),
    ),
    Input("`__MACOSX` of a zip", one_more("__MACOSX/x.png", JUNK), Read(20, unread=(COMPANION,))),
    Input("a hidden folder", one_more(".cache/x.png", JUNK), Read(20, unread=(COMPANION,))),
    Input("a zip among 20 pictures", zipped, Refused("an archive, which is not unpacked")),
    Input("one NumPy archive", arrayed, Refused("is not a dataset")),
    Input("a link to a folder of images", linked, Read(20, labels="sub-folders")),
    Input("a link that leads back", looped, Refused("leads back to a folder")),
    Input("a pipe", piped, Refused("not a regular file")),
    Input("an empty folder", these({}), Refused("an empty folder")),
    Input("one picture", at("0.png", pictures("0.png")), Refused("put single images in a folder")),
    Input(
        "a path that does not exist", lambda folder: folder / "absent", Refused("does not exist")
    ),
    # Parquet of images
    Input(
        "Parquet, images as bytes",
        table("rows.parquet", [{"image": c} for c in encoded(20)]),
        Read(20, IMAGES),
    ),
    Input(
        "Parquet, images as the `datasets` library writes them",
        table("rows.parquet", [{"image": {"bytes": c, "path": "x.png"}} for c in encoded(20)]),
        Read(20, IMAGES),
    ),
    Input(
        "Parquet, paths of images alone",
        table("rows.parquet", [{"image": {"path": f"{i}.png"}} for i in range(20)]),
        Refused("a struct without a bytes field"),
    ),
    Input(
        "Parquet, an image that is null",
        table("rows.parquet", [{"image": c} for c in [*encoded(20), None]]),
        Refused("row 20"),
    ),
    *(
        Input(
            f"Parquet, labels as {kind}",
            table(
                "rows.parquet", [{"image": c, "label": v[i % 2]} for i, c in enumerate(encoded(20))]
            ),
            Read(20, {**IMAGES, "label": "label"}, "column label"),
        )
        for kind, v in {
            "integers": (0, 1),
            "names": ("cat", "dog"),
            "booleans": (False, True),
            "whole floats": (0.0, 1.0),
        }.items()
    ),
    Input(
        "Parquet, `ClassLabel`",
        class_label,
        Read(20, {**IMAGES, "label": "label"}, "column label"),
    ),
    Input(
        "Parquet, labels with fractions",
        table("rows.parquet", [{"image": c, "label": 0.5} for c in encoded(9)]),
        Refused("expected whole numbers"),
    ),
    Input(
        "Parquet, labels in another column",
        table("rows.parquet", [{"image": c, "fine_label": 1} for c in encoded(20)]),
        Read(20, IMAGES, unread=(OTHER_COLUMN,)),
    ),
    Input(
        "Parquet without a known column",
        table("rows.parquet", [{"pixels": c} for c in encoded(9)]),
        Refused("expected a column 'image'"),
    ),
    Input("Parquet, cut short", cut_short("rows.parquet"), Refused("rows.parquet")),
    Input(
        "Parquet shards by split",
        both(
            table("train-00000-of-00002.parquet", [{"image": c} for c in encoded(9)]),
            table("train-00001-of-00002.parquet", [{"image": c} for c in encoded(9, 9)]),
            table("test-00000-of-00001.parquet", [{"image": c} for c in encoded(4, 30)]),
        ),
        Read(22, IMAGES),
    ),
    Input(
        "a clone of a hub's dataset: `data/` and a card",
        both(
            table("data/train-00000-of-00001.parquet", [{"image": c} for c in encoded(9)]),
            table("data/test-00000-of-00001.parquet", [{"image": c} for c in encoded(4, 30)]),
            these({"README.md": "# Card\n", ".gitattributes": "-\n", "dataset_infos.json": "{}"}),
        ),
        Read(13, IMAGES, unread=(COMPANION,)),
    ),
    Input(
        "Parquet of two datasets in two folders",
        both(
            table("a/rows.parquet", [{"image": c} for c in encoded(9)]),
            table("b/rows.parquet", [{"image": c} for c in encoded(9)]),
        ),
        Refused("several folders hold Parquet"),
    ),
    Input(
        "Parquet beside its splits",
        both(
            table("train.parquet", [{"image": c} for c in encoded(9)]),
            table("test.parquet", [{"image": c} for c in encoded(4, 30)]),
            table("more.parquet", [{"image": c} for c in encoded(4, 40)]),
        ),
        Refused("outside the splits"),
    ),
]

"""A contact sheet: what each image family, network and loss draws after the same short training.

    python benchmarks/families.py [--steps 600] [--out docs/families.png]

The demo's digits, batches of 64, moving averages of 0.99. To be looked at; figures of two
such sides come from benchmarks/quality.py.
"""

import argparse
from pathlib import Path

from harness import quiet, train_model
from PIL import Image, ImageDraw
from quality import config_of

from aigc_ops.core.state_dir import export_environment
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.media import Picture

GAN = "configs/mnist-gan.yaml --training.batch-size 64 --training.ema-decay 0.99 "
VAE = "configs/mnist-vae.yaml "
PLAIN = "--model.loss non_saturating "
SPECTRAL = "--model.spectral-norm true "
SIDES = {
    "DCGAN, non-saturating": GAN + PLAIN,
    "DCGAN, least squares": GAN + "--model.loss least_squares",
    "DCGAN, hinge, spectral norm": GAN + SPECTRAL + "--model.loss hinge",
    "DCGAN, WGAN-GP": GAN
    + "--model.loss wasserstein --model.gradient-penalty 10 --model.critic-steps 2",
    "fully connected GAN": GAN + PLAIN + "--model.network fully_connected",
    "residual, attention, hinge": GAN
    + SPECTRAL
    + "--model.network residual --model.loss hinge --model.label-in norm",
    "InfoGAN, no labels": GAN
    + PLAIN
    + "--data.label-column '' --model.categorical-codes 10 --model.continuous-codes 2"
    " --model.generator.learning-rate 1e-3",
    "VAE, convolutional": VAE,
    "VAE, fully connected": VAE + "--model.network fully_connected",
}
ROWS, COLUMNS, CAPTION, GAP = 3, 3, 14, 8


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("docs/families.png"))
    return parser


def main() -> None:
    """Train every side in turn and paste their samples."""
    arguments = build_parser().parse_args()
    export_environment()
    grids = {}
    for title, side in SIDES.items():
        config = config_of(side)
        training = quiet(config.training, steps=arguments.steps)
        rate, model = train_model(config.model, training, config.data)
        medium = find_modality(model.modality).training.preview(model, None)
        assert isinstance(medium, Picture), type(medium)
        grids[title] = medium.image
        print(f"{title}: {rate:.0f} images/s", flush=True)
    width = max(grid.size[0] for grid in grids.values())
    height = 2 * width // 10  # two rows of ten
    sheet = Image.new("L", (COLUMNS * (width + GAP), ROWS * (height + CAPTION + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (title, grid) in enumerate(grids.items()):
        row, column = divmod(place, COLUMNS)
        corner = column * (width + GAP), row * (height + CAPTION + GAP)
        pen.text(corner, title, fill="black")
        sheet.paste(grid.crop((0, 0, width, height)), (corner[0], corner[1] + CAPTION))
    sheet.save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()

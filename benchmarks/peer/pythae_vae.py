"""The networks of pythae's MNIST benchmark as a family of ours, for benchmarks/vae.py.

Encoder_Conv_VAE_MNIST and Decoder_Conv_AE_MNIST of pythae 0.1.2: parts bear pythae's
names, so that each side's weights can be judged by the same code.
"""

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from aigc_ops.core.artifacts import ImageShape
from aigc_ops.modalities.image.model import ImageModel
from aigc_ops.models.nn.convolutions import Conv2d, ConvTranspose2d
from aigc_ops.models.vae import Vae, VaeConfig

DOWN, UP = (1, 128, 256, 512, 1024), (1024, 512, 256)


class PythaeVaeConfig(VaeConfig):
    """The VAE's settings; width and network are pythae's."""

    family: Literal["pythae_vae"] = "pythae_vae"


class Networks(nn.Module):
    """Encoder and decoder of 28 x 28 grey images, without labels."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.layers = nn.ModuleList(
            nn.Sequential(Conv2d(n, m, 4, 2, padding=1), nn.BatchNorm2d(m), nn.ReLU())
            for n, m in pairwise(DOWN)
        )
        self.encoder.embedding = nn.Linear(DOWN[-1], latent_dim)
        self.encoder.log_var = nn.Linear(DOWN[-1], latent_dim)
        doubled = [
            nn.Sequential(
                ConvTranspose2d(n, m, 3, 2, padding=1, output_padding=int(n < UP[0])),
                nn.BatchNorm2d(m),
                nn.ReLU(),
            )
            for n, m in pairwise(UP)
        ]
        last = nn.Sequential(ConvTranspose2d(UP[-1], 1, 3, 2, padding=1, output_padding=1))
        self.decoder.layers = nn.ModuleList([nn.Linear(latent_dim, UP[0] * 16), *doubled, last])

    def encode(self, images: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of images in [-1, 1], which pythae has in [0, 1]."""
        features = (images + 1) / 2
        for layer in self.encoder.layers:
            features = layer(features)
        features = features.flatten(1)
        return self.encoder.embedding(features).float(), self.encoder.log_var(features).float()

    def decode(self, codes: Tensor, _: Tensor | None) -> Tensor:
        """(B, 1, 28, 28) logits; pythae ends with their sigmoid."""
        first, *others = self.decoder.layers
        images = first(codes).view(-1, UP[0], 4, 4)
        for layer in others:
            images = layer(images)
        return images.float()


class PythaeVae(Vae):
    """Our VAE with pythae's networks."""

    config_type = PythaeVaeConfig

    def __init__(self, config: PythaeVaeConfig, shape: ImageShape) -> None:
        ImageModel.__init__(self, config, shape)
        self.autoencoder = Networks(config.latent_dim)

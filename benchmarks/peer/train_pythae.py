"""pythae's own trainer on given images; benchmarks/vae.py runs it in pythae's environment.

python train_pythae.py SETTINGS.json      writes weights.pt and prints images per second
"""

import json
import sys
import time
from pathlib import Path

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.nn.benchmarks.mnist import Decoder_Conv_AE_MNIST, Encoder_Conv_VAE_MNIST
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback


class Clock(TrainingCallback):
    """Images per second of the epochs, those of the warm-up and all pauses left out."""

    def __init__(self, warmup_steps, batch_size):
        self.left, self.batch_size = warmup_steps, batch_size
        self.seconds, self.steps, self.last = 0.0, 0, 0.0

    def on_train_step_begin(self, training_config, **kwargs):  # noqa: ARG002 - of an epoch
        self.last = time.perf_counter()

    def on_train_step_end(self, training_config, **kwargs):  # noqa: ARG002
        now = time.perf_counter()
        if self.left > 0:
            self.left -= 1
        else:
            self.seconds, self.steps = self.seconds + now - self.last, self.steps + 1
        self.last = now

    @property
    def rate(self):
        return self.steps * self.batch_size / self.seconds


settings = json.loads(Path(sys.argv[1]).read_text())
torch.set_num_threads(settings["threads"])
torch.manual_seed(settings["seed"])
folder = Path(sys.argv[1]).parent
images = torch.load(folder / "images.pt", weights_only=True)
config = VAEConfig(
    input_dim=(1, 28, 28), latent_dim=settings["latent_dim"], reconstruction_loss="bce"
)
model = VAE(config, Encoder_Conv_VAE_MNIST(config), Decoder_Conv_AE_MNIST(config))
clock = Clock(settings["warmup_steps"], settings["batch_size"])
BaseTrainer(
    model,
    BaseDataset(images, torch.zeros(len(images))),
    training_config=BaseTrainerConfig(
        output_dir=str(folder / "pythae"),
        num_epochs=settings["epochs"],
        per_device_train_batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        seed=settings["seed"],
        no_cuda=True,
    ),
    callbacks=[clock],
).train()
weights = {k: v for k, v in model.state_dict().items() if k.startswith(("encoder.", "decoder."))}
torch.save(weights, folder / "weights.pt")
print(json.dumps({"rate": clock.rate}))

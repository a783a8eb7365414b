"""Adversarial training under Accelerate: two models, two optimizers, one loop; and the image GAN."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.utils.data import DataLoader, TensorDataset

from startup_llm.errors import UserError
from startup_llm.models.scratch.checks import check_at_least
from startup_llm.models.scratch.formats import load_generator, save_generator
from startup_llm.models.scratch.gan import (
    ExponentialMovingAverage,
    ImageGenerator,
    build_gan,
    discriminator_loss,
    generator_loss,
    r1_penalty,
)
from startup_llm.training.reload_gate import ReloadError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accelerate import Accelerator
    from torch import Tensor

    from startup_llm.data.digits import LabelledImages
    from startup_llm.gan.options import GanBertConfig, GanConfig, GanModelConfig, GanTrainConfig
    from startup_llm.run_folder import RunFolder
    from startup_llm.session import Session

STATE = "trainer_state.json"
TOLERANCE = 1e-3
"""Largest difference of a pixel between the saved generator's images and the trained one's."""
MOST_REPORTED_EPOCHS = 20
"""A training of more epochs is reported after so many of them, evenly spread."""


@dataclass
class AdversarialTrainer(ABC):
    """Two players with all that their training keeps between steps.

    Attributes:
        accelerator: Places and synchronizes everything.
        generator: G, prepared.
        discriminator: D, prepared.
        generator_optimizer: Adam over G, prepared.
        discriminator_optimizer: Adam over D, prepared.
        loader: Batches of real examples with labels, prepared.
        train: Settings.
        history: One record per epoch: step, epoch, and mean losses.
        shown_losses: Those of them that a figure shows.
    """

    shown_losses: ClassVar[tuple[str, ...]]
    accelerator: Accelerator
    generator: Any
    discriminator: Any
    generator_optimizer: Any
    discriminator_optimizer: Any
    loader: DataLoader
    train: GanTrainConfig | GanBertConfig
    history: list[dict[str, float]]

    def run_epochs(self) -> Iterator[int]:
        """Train to the last epoch, from the one after the last that `history` holds.

        Yields:
            Each epoch's number, from 1, after its last step.
        """
        for epoch in range(len(self.history) + 1, self.train.epochs + 1):
            self.loader.set_epoch(epoch)
            sums: dict[str, Tensor] = {}
            for examples, labels in self.loader:
                for name, value in self._step(examples, labels).items():
                    sums[name] = sums.get(name, 0.0) + value.detach()
            means = {name: float(total) / len(self.loader) for name, total in sums.items()}
            self.history.append({"epoch": epoch, "step": epoch * len(self.loader), **means})
            yield epoch

    def train_in(self, session: Session[GanConfig]) -> Iterator[int]:
        """Train as `run_epochs` does, from the last checkpoint where the run is resumed; report and save on the way.

        Args:
            session: The run, in whose folder a checkpoint is kept.

        Yields:
            Each epoch's number, from 1.
        """
        last, epochs = session.run.last_checkpoint() if session.config.resume else None, self.train.epochs
        if last:
            self.load(last)
            session.report(f"resumed after epoch {len(self.history)}")
        with session.reporter.show_progress("training", total=epochs, unit="epochs") as bar:
            bar.advance(len(self.history))
            for epoch in self.run_epochs():
                bar.advance()
                if epoch % math.ceil(epochs / MOST_REPORTED_EPOCHS) == 0 or epoch == epochs:
                    losses = {name: value for name, value in self.history[-1].items() if name.endswith("loss")}
                    values = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in losses.items())
                    session.report(f"epoch {epoch}/{epochs}: {values}")
                if epoch % self.train.checkpoint_epochs == 0 or epoch == epochs:
                    self.save(session.run)
                yield epoch

    @abstractmethod
    def _step(self, examples: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Move D, then G, on one batch, and return the losses."""

    def save(self, run: RunFolder) -> None:
        """Write a checkpoint of everything, and drop the one before it."""
        epoch = len(self.history)
        folder = run.checkpoints / f"checkpoint-{epoch}"
        older = run.last_checkpoint()
        self.accelerator.save_state(str(folder))
        if run.is_writer:
            (folder / STATE).write_text(json.dumps({"history": self.history}))
            if older is not None and older != folder:
                import shutil

                shutil.rmtree(older, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def load(self, folder: Path) -> None:
        """Go back to a checkpoint: weights, optimizers, running mean and random states."""
        self.accelerator.load_state(str(folder))
        self.history[:] = json.loads((folder / STATE).read_text())["history"]


@dataclass
class GanTrainer(AdversarialTrainer):
    """The image GAN.

    Attributes:
        average: Running mean of G's weights; what is saved and judged.
    """

    shown_losses = ("discriminator_loss", "generator_loss", "r1_penalty")
    train: GanTrainConfig
    average: ExponentialMovingAverage

    def _step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        unwrapped = self.accelerator.unwrap_model(self.generator)
        noise = torch.randn(len(images), unwrapped.noise_size, device=images.device)
        fake = self.generator(noise, labels)

        real = images.detach().requires_grad_()
        real_logits = self.discriminator(real, labels)
        penalty = r1_penalty(real_logits, real, self.train.r1_gamma)
        loss_d = discriminator_loss(real_logits, self.discriminator(fake.detach(), labels))
        self.discriminator_optimizer.zero_grad()
        self.accelerator.backward(loss_d + penalty)
        self.discriminator_optimizer.step()

        loss_g = generator_loss(self.discriminator(fake, labels))
        self.generator_optimizer.zero_grad()
        self.accelerator.backward(loss_g)
        self.generator_optimizer.step()
        self.average.update(unwrapped)
        return {"discriminator_loss": loss_d, "generator_loss": loss_g, "r1_penalty": penalty}


def build_gan_trainer(model: GanModelConfig, train: GanTrainConfig, data: LabelledImages) -> GanTrainer:
    """Build the players, their optimizers and the batches, and hand them to Accelerate.

    Args:
        model: Sizes.
        train: Settings of the training.
        data: Real images; the training split is used.

    Raises:
        UserError: if a number is out of range, or the images do not fill one batch.
    """
    check_at_least(1, batch_size=train.batch_size, epochs=train.epochs, checkpoint_epochs=train.checkpoint_epochs)
    check_at_least(0, grids=train.grids)
    if train.batch_size > len(data.train_images):
        raise UserError(
            f"train.batch_size {train.batch_size}: expected at most the {len(data.train_images)} training images"
        )
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration, set_seed

    seeded = DataLoaderConfiguration(use_seedable_sampler=True, data_seed=train.seed)
    accelerator = Accelerator(dataloader_config=seeded)
    set_seed(train.seed, device_specific=True)  # each process draws noise of its own
    size, channels = data.train_images.shape[-1], data.train_images.shape[1]
    generator, discriminator = build_gan(size, channels, model.noise_size, model.width, classes=len(data.label_names))
    average = ExponentialMovingAverage(generator, train.ema_decay)
    average.average.to(accelerator.device)
    optimizers = [
        torch.optim.Adam(player.parameters(), lr=rate, betas=(train.beta1, 0.99))
        for player, rate in (
            (generator, train.generator_learning_rate),
            (discriminator, train.discriminator_learning_rate),
        )
    ]
    rows = TensorDataset(data.train_images, data.train_labels)
    loader = DataLoader(rows, batch_size=train.batch_size, shuffle=True, drop_last=True)
    prepared: tuple[Any, Any, Any, Any, Any] = accelerator.prepare(generator, discriminator, *optimizers, loader)
    accelerator.register_for_checkpointing(average.average)
    return GanTrainer(accelerator, *prepared, train, [], average)


def save_and_check_generator(
    trainer: GanTrainer, data: LabelledImages, session: Session[GanConfig]
) -> tuple[ImageGenerator, dict[str, float]]:
    """Write the running mean of the generator, and compare what it draws when read back.

    Args:
        trainer: The trained players.
        data: Real images, for their size.
        session: The run.

    Returns:
        The generator as it reads back; and the reload gate: rows, tolerance and saved_max_difference of the pixels.

    Raises:
        ReloadError: If the images differ by more than the tolerance.
    """
    folder, classes = session.run.model, len(data.label_names)
    sizes = {"image_size": data.train_images.shape[-1], "channels": data.train_images.shape[1]}
    save_generator(trainer.average.average, folder, **sizes, **asdict(session.config.model), classes=classes)
    generator, labels = load_generator(folder), torch.arange(classes).repeat_interleave(classes)
    again, kept = (draw_labelled_images(model, labels, seed=1) for model in (generator, trainer.average.average))
    difference = float((again - kept).abs().max())
    if difference > TOLERANCE:
        raise ReloadError(
            f"the saved generator's pixels differ from the trained one's by {difference:.3g}, more than {TOLERANCE}; "
            "the run is not finished"
        )
    return generator, {"rows": len(again), "tolerance": TOLERANCE, "saved_max_difference": difference}


@torch.inference_mode()
def draw_labelled_images(generator: ImageGenerator, labels: Tensor, seed: int) -> Tensor:
    """Draw one image per label from a generator in evaluation mode.

    Args:
        generator: A class-conditional generator.
        labels: Shape (rows,), int64.
        seed: Seed of the noise.

    Returns:
        Shape (rows, channels, size, size), on the CPU.
    """
    noise = torch.randn(len(labels), generator.noise_size, generator=torch.Generator().manual_seed(seed))
    device = next(generator.parameters()).device
    return generator(noise.to(device), labels.to(device)).cpu()

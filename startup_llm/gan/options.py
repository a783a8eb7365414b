"""The options of the GANs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from startup_llm.config import (
    Count,
    Dropout,
    EvaluationConfig,
    LabelledTextData,
    LearningRate,
    Range,
    Seed,
    SpeedConfig,
)
from startup_llm.tasks.text_classification.options import TextClassificationModel


@dataclass(frozen=True)
class GanModelConfig:
    """The two players: DCGAN's generator and discriminator, conditioned on the class."""

    noise_size: Count = 64
    """Width of the noise z."""
    width: Count = 64
    """Channels of the generator's last hidden layer and of the discriminator's first."""


@dataclass(frozen=True)
class GanTrainConfig:
    """How the two players are trained: non-saturating loss, R1 on the real images, Adam for each."""

    epochs: Count = 200
    """Passes over the training images."""
    batch_size: Count = 64
    """Images per step and process."""
    generator_learning_rate: LearningRate = 1e-3
    """Learning rate of the generator."""
    discriminator_learning_rate: LearningRate = 1e-3
    """Learning rate of the discriminator."""
    beta1: Annotated[float, Range(0, below=1)] = 0.0
    """Adam's first beta; 0 is usual with R1, 0.5 is DCGAN's."""
    r1_gamma: Annotated[float, Range(0)] = 1.0
    """Weight of the R1 penalty."""
    ema_decay: Annotated[float, Range(0, below=1)] = 0.995
    """Decay of the running mean of the generator's weights, which is what is kept."""
    seed: Seed = 0
    """Seed of weights, order and noise."""
    checkpoint_epochs: Count = 25
    """Epochs between checkpoints, from which --resume goes on."""
    grids: Annotated[int, Range(0)] = 6
    """How many grids of samples are drawn over the training, the last one at its end."""


@dataclass(frozen=True)
class GanBertConfig:
    """GAN-BERT's two players on sentence vectors (Croce et al. 2020), and how they are trained: Adam for each."""

    noise_size: Count = 100
    """Width of the noise z."""
    hidden_size: Count = 384
    """Width of the hidden layer of each player."""
    dropout: Dropout = 0.1
    """Dropout of each player."""
    epochs: Count = 20
    """Passes over the training rows, the unlabelled ones among them."""
    batch_size: Count = 64
    """Rows per step and process."""
    generator_learning_rate: LearningRate = 5e-4
    """Learning rate of the generator."""
    discriminator_learning_rate: LearningRate = 5e-4
    """Learning rate of the discriminator."""
    seed: Seed = 0
    """Seed of weights, order and noise."""
    checkpoint_epochs: Count = 5
    """Epochs between checkpoints, from which --resume goes on."""


@dataclass(frozen=True)
class GanConfig:
    """Train a class-conditional image GAN on digits, or GAN-BERT on few labelled and many unlabelled texts."""

    kind: Literal["image", "text"] = "image"
    """image: digits, by the sections model and train; text: GAN-BERT, by data, encoder, text and speed."""
    run_dir: str | None = None
    """Where the run is kept; default runs/digits-gan or runs/DATASET-ganbert."""
    overwrite: bool = False
    """Replace a finished run."""
    resume: bool = False
    """Go on from the last checkpoint of an interrupted run."""
    split_seed: Seed = 0
    """Seed of the split: 500 of the 1,797 digits are tested on."""
    generated_rows: Count = 5000
    """Generated labelled images that a classifier is trained on, as many of each class."""
    model: GanModelConfig = field(default_factory=GanModelConfig)
    train: GanTrainConfig = field(default_factory=GanTrainConfig)
    data: LabelledTextData = field(default_factory=LabelledTextData)
    encoder: TextClassificationModel = field(default_factory=TextClassificationModel)
    text: GanBertConfig = field(default_factory=GanBertConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

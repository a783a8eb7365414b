"""GAN-BERT on a frozen encoder's sentence vectors: few labelled rows and many unlabelled ones (Croce et al. 2020).

The paper updates BERT along with the discriminator. Here the encoder stays as it is and its vectors are computed once,
so that a run takes minutes on a processor; a comparison with the paper's figures has to say so.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from startup_llm.errors import UserError
from startup_llm.evaluation import baselines
from startup_llm.evaluation.metrics import rank_metrics
from startup_llm.gan.image_gan import AdversarialTrainer
from startup_llm.models.scratch.gan import (
    SentenceDiscriminator,
    build_gan_bert,
    gan_bert_generator_loss,
    gan_bert_supervised_loss,
    gan_bert_unsupervised_loss,
)
from startup_llm.models.sequence_classifier import find_output_layer, gather_last_token
from startup_llm.tasks.checkpoint import load_task_checkpoint
from startup_llm.training import finetuning
from startup_llm.training.inference import extract_features
from startup_llm.training.probe import compute_feature_norm, fit_linear_probe
from startup_llm.training.reload_gate import ReloadError
from startup_llm.training.resumption import check_resumption

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from startup_llm.config import EvaluationConfig, LabelledTextData
    from startup_llm.data.task_data import TaskData
    from startup_llm.evaluation.metrics import Values
    from startup_llm.gan.options import GanBertConfig, GanConfig
    from startup_llm.run_folder import RunFolder
    from startup_llm.session import Session
    from startup_llm.tasks.base import Task
    from startup_llm.training.finetuning import Prepared

NO_LABEL = -100
TOLERANCE = 1e-3
_CONFIG, _WEIGHTS, _ENCODER = "discriminator.json", "discriminator.safetensors", "encoder"


@dataclass
class GanBertTrainer(AdversarialTrainer):
    """The players on sentence vectors.

    Attributes:
        adversarial: Whether the unlabelled rows and the generator take part; without them D is a plain classifier of
            the labelled rows, which tells what they add.
    """

    shown_losses = ("supervised_loss", "unsupervised_loss", "generator_loss")
    train: GanBertConfig
    adversarial: bool

    def unwrap_discriminator(self) -> SentenceDiscriminator:
        """Return the discriminator without what Accelerate put around it."""
        return self.accelerator.unwrap_model(self.discriminator)

    def _step(self, examples: Tensor, labels: Tensor) -> dict[str, Tensor]:
        real_logits, _ = self.discriminator(examples)
        supervised = gan_bert_supervised_loss(real_logits, labels)
        losses, loss_d = {"supervised_loss": supervised}, supervised
        if self.adversarial:
            noise_size = self.accelerator.unwrap_model(self.generator).noise_size
            fake = self.generator(torch.randn(len(examples), noise_size, device=examples.device))
            unsupervised = gan_bert_unsupervised_loss(real_logits, self.discriminator(fake.detach())[0])
            loss_d = supervised + unsupervised
            losses["unsupervised_loss"] = unsupervised
        self.discriminator_optimizer.zero_grad()
        self.accelerator.backward(loss_d)
        self.discriminator_optimizer.step()
        losses["discriminator_loss"] = loss_d
        if self.adversarial:
            with torch.no_grad():
                _, real_features = self.discriminator(examples)
            fake_logits, fake_features = self.discriminator(fake)
            losses["generator_loss"] = gan_bert_generator_loss(fake_logits, real_features, fake_features)
            self.generator_optimizer.zero_grad()
            self.accelerator.backward(losses["generator_loss"])
            self.generator_optimizer.step()
        return losses


@dataclass(frozen=True)
class SentenceVectors:
    """What the frozen encoder makes of each row: float32, shape (rows, width), entries of mean square 1 in training.

    Attributes:
        train: Of the labelled training rows.
        unlabelled: Of the other training rows.
        test: Of the test rows.
        scale: What the encoder's own vectors were divided by.
        test_seconds: What the test rows took, nearly all that a prediction takes.
    """

    train: np.ndarray
    unlabelled: np.ndarray
    test: np.ndarray
    scale: float
    test_seconds: float


def load_few_labels(task: Task, data: LabelledTextData, evaluation: EvaluationConfig | None = None) -> TaskData:
    """Load rows of which few keep their labels.

    Raises:
        UserError: if data.labels_per_class is not given or leaves no row without label, or if the primary metric is
            not measured.
    """
    if data.labels_per_class is None:
        raise UserError(
            "data.labels_per_class is not given; GAN-BERT learns from few labelled rows and many unlabelled ones: "
            "give the number of labels to keep per class, such as 10"
        )
    loaded = task.load_data(data, evaluation)
    if evaluation is not None:
        rank_metrics(task.metrics(loaded), evaluation.decides)
    if not loaded.unlabelled:
        raise UserError(
            f"data.labels_per_class is {data.labels_per_class}, which leaves none of the "
            f"{len(loaded.splits['train'])} training rows unlabelled; give a smaller number"
        )
    return loaded


def prepare(task: Task, data: TaskData, session: Session[GanConfig]) -> Prepared:
    """Load the encoder as it is and encode every split.

    Args:
        task: Text classification.
        data: Its rows.
        session: Names the encoder.

    Raises:
        UserError: If the run that is resumed was begun with others.
    """
    config = session.config
    checkpoint = load_task_checkpoint(task, config.encoder)
    processor = task.load_processor(checkpoint, config.encoder)
    plan = finetuning.choose_plan(session)
    task_model = task.build_model(checkpoint, processor, data, config.encoder, plan.attention_kernel)
    plan = finetuning.settle_kernel(plan, config.speed, task_model.model, checkpoint.name)
    prepared = finetuning.encode_splits(task, data, checkpoint, processor, task_model, plan)
    check_resumption(session, prepared)
    return prepared


def extract_sentence_vectors(prepared: Prepared) -> SentenceVectors:
    """Run the frozen encoder once over all rows."""
    task, data = prepared.task, prepared.data
    unlabelled, _ = task.encode(data.unlabelled, prepared.processor)

    def extract(rows: Dataset) -> np.ndarray:
        return extract_features(task, prepared.task_model.model, rows, prepared.processor, prepared.plan)

    train, others = extract(prepared.encoded["train"]), extract(unlabelled)
    start = time.perf_counter()
    test = extract(prepared.encoded["test"])
    test_seconds = time.perf_counter() - start
    scale = compute_feature_norm(np.concatenate([train, others])) / math.sqrt(train.shape[1])
    return SentenceVectors(train / scale, others / scale, test / scale, scale, test_seconds)


def predict_baselines(prepared: Prepared, vectors: SentenceVectors, session: Session[GanConfig]) -> dict[str, Values]:
    """Return the test predictions of what GAN-BERT has to beat: those of the discriminator trained alone, and, in the
    main process, of the task's baselines and of the linear probe.
    """
    data = prepared.data
    predictions: dict[str, Values] = {}
    if session.run.is_writer:
        predictions = baselines.predict_baselines(prepared.task.baselines(data), data)
        predictions["linear-probe"] = predict_probe(prepared, vectors)
    alone = build_ganbert_trainer(session.config.text, vectors, data, adversarial=False)
    for _ in alone.run_epochs():
        pass
    return {**predictions, "discriminator-alone": predict_classes(alone, prepared, vectors)}


def predict_probe(prepared: Prepared, vectors: SentenceVectors) -> np.ndarray:
    """Fit the linear probe on the labelled rows and return its test predictions."""
    data = prepared.data
    labels = np.asarray(data.splits["train"]["label"])
    weight, bias = fit_linear_probe(
        vectors.train, labels, data.problem_type, classes=len(data.label_names), intercept=True
    )
    return _read_predictions(prepared, vectors.test @ weight.T + bias)


def predict_classes(trainer: GanBertTrainer, prepared: Prepared, vectors: SentenceVectors) -> np.ndarray:
    """Return the discriminator's test predictions among the real classes."""
    return _read_predictions(prepared, compute_class_logits(trainer.unwrap_discriminator(), vectors.test))


def _read_predictions(prepared: Prepared, logits: np.ndarray) -> np.ndarray:
    rows = prepared.data.splits["test"]
    return np.asarray(prepared.task.read_predictions(list(logits), prepared.encoded["test"], rows, prepared.data))


def build_ganbert_trainer(
    train: GanBertConfig, vectors: SentenceVectors, data: TaskData, *, adversarial: bool = True
) -> GanBertTrainer:
    """Build the players, their optimizers and the batches, and hand them to Accelerate.

    Labelled rows are repeated log2(unlabelled / labelled) times, as in the authors' code, so that batches hold some.

    Args:
        train: Sizes and settings.
        vectors: Of the rows.
        data: The rows, for their labels.
        adversarial: See `GanBertTrainer`.
    """
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration, set_seed

    accelerator = Accelerator(
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=train.seed)
    )
    set_seed(train.seed, device_specific=True)  # each process draws noise of its own
    labelled, unlabelled = vectors.train, vectors.unlabelled
    labels = np.asarray(data.splits["train"]["label"])
    generator, discriminator = build_gan_bert(
        labelled.shape[1], len(data.label_names), train.noise_size, train.hidden_size, train.dropout
    )
    rates = (train.generator_learning_rate, train.discriminator_learning_rate)
    players: tuple[nn.Module, ...] = (generator, discriminator)
    optimizers = [torch.optim.Adam(player.parameters(), lr=rate) for player, rate in zip(players, rates, strict=True)]
    repeats = max(1, int(math.log2(max(len(unlabelled) / len(labelled), 1))))
    vectors = np.concatenate([*[labelled] * repeats, unlabelled]).astype(np.float32)
    targets = np.concatenate([*[labels] * repeats, np.full(len(unlabelled), NO_LABEL)]).astype(np.int64)
    rows = TensorDataset(torch.from_numpy(vectors), torch.from_numpy(targets))
    loader = DataLoader(rows, batch_size=train.batch_size, shuffle=True)
    prepared: tuple[Any, Any, Any, Any, Any] = accelerator.prepare(generator, discriminator, *optimizers, loader)
    return GanBertTrainer(accelerator, *prepared, train, [], adversarial)


@torch.inference_mode()
def compute_class_logits(discriminator: SentenceDiscriminator, vectors: np.ndarray) -> np.ndarray:
    """Return the logits of the real classes, shape (rows, classes), from scaled sentence vectors."""
    discriminator.eval()
    device = next(discriminator.parameters()).device
    logits, _ = discriminator(torch.from_numpy(vectors.astype(np.float32)).to(device))
    return logits[:, :-1].cpu().numpy()


class GanBertClassifier(nn.Module):
    """The encoder and the discriminator as one text classifier.

    Args:
        encoder: A sequence classifier of transformers; what its output layer reads is the sentence vector.
        discriminator: Trained on those vectors.
        scale: What the vectors are divided by.
    """

    def __init__(self, encoder: Any, discriminator: SentenceDiscriminator, scale: float) -> None:
        super().__init__()
        self.encoder, self.discriminator, self.scale = encoder, discriminator, scale

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Classify tokenized texts, the tokenizer's tensors of shape (batch, seq): logits (batch, classes)."""
        seen: list[Tensor] = []
        handle = find_output_layer(self.encoder).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.encoder(**batch)
        finally:
            handle.remove()
        vectors = seen[0]
        if vectors.dim() == 3:
            vectors = gather_last_token(vectors, batch["input_ids"], self.encoder.config.pad_token_id)
        logits, _ = self.discriminator(vectors.float() / self.scale)
        return {"logits": logits[:, :-1]}


def save_and_check(
    trainer: GanBertTrainer, prepared: Prepared, vectors: SentenceVectors, run: RunFolder
) -> dict[str, float]:
    """Write encoder, tokenizer and discriminator, and compare what they say when read back, from the texts on.

    Every process takes part; the main one writes.

    Returns:
        The reload gate: rows, tolerance and saved_max_difference of the logits.

    Raises:
        ReloadError: if the logits differ by more than the tolerance.
    """
    from safetensors.torch import save_file

    discriminator, train = trainer.unwrap_discriminator(), trainer.train
    sizes = {
        "feature_size": vectors.train.shape[1],
        "classes": len(prepared.data.label_names),
        "hidden_size": train.hidden_size,
        "dropout": train.dropout,
    }
    if run.is_writer:
        prepared.task_model.model.save_pretrained(run.model / _ENCODER)
        prepared.processor.save_pretrained(run.model / _ENCODER)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in discriminator.state_dict().items()}
        save_file(weights, run.model / _WEIGHTS, metadata={"format": "pt"})
        (run.model / _CONFIG).write_text(json.dumps({"sizes": sizes, "scale": vectors.scale}, indent=2) + "\n")
    trainer.accelerator.wait_for_everyone()

    again, _ = load_ganbert(run.model)
    rows = prepared.encoded["test"].select(range(min(64, len(prepared.encoded["test"]))))
    exact = prepared.plan.exact()
    saved_logits = np.asarray(prepared.predict(again.to(exact.device), rows, exact))
    encoder = prepared.task_model.model
    kept = extract_features(prepared.task, encoder, rows, prepared.processor, exact) / vectors.scale
    difference = float(np.abs(saved_logits - compute_class_logits(discriminator, kept)).max())
    if difference > TOLERANCE:
        raise ReloadError(
            f"the saved model's logits differ from the trained model's by {difference:.3g}, more than {TOLERANCE}; "
            "the run is not finished"
        )
    return {"rows": len(rows), "tolerance": TOLERANCE, "saved_max_difference": difference}


def load_ganbert(folder: str | Path) -> tuple[GanBertClassifier, Any]:
    """Read what `save_and_check` wrote.

    Returns:
        The classifier, in evaluation mode, whose `encoder.config.id2label` names the classes; and the tokenizer.
    """
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = Path(folder)
    config = json.loads((folder / _CONFIG).read_text())
    discriminator = SentenceDiscriminator(**config["sizes"])
    discriminator.load_state_dict(load_file(folder / _WEIGHTS))
    encoder = AutoModelForSequenceClassification.from_pretrained(folder / _ENCODER, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(folder / _ENCODER)
    return GanBertClassifier(encoder, discriminator, config["scale"]).eval(), tokenizer

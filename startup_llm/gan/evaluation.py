"""What a GAN's images are worth: distances to real ones, and how well a classifier learns from them alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from startup_llm.evaluation.metrics import ACCURACY, MACRO_F1
from startup_llm.evaluation.results import score_models
from startup_llm.gan.digit_classifier import extract_image_features, fit_image_classifier, predict_images
from startup_llm.gan.image_gan import draw_labelled_images
from startup_llm.gan.metrics import compute_frechet_distance, compute_precision_recall

if TYPE_CHECKING:
    from startup_llm.data.digits import LabelledImages
    from startup_llm.gan.options import GanConfig
    from startup_llm.models.scratch.gan import ImageGenerator

ON_GENERATED, ON_REAL = "train-on-generated", "train-on-real"


def evaluate_generator(
    generator: ImageGenerator, data: LabelledImages, config: GanConfig
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Judge a class-conditional generator.

    A classifier trained on generated images alone is tested on the real test images, beside the same classifier
    trained on the real training images. The latter's last hidden layer gives the features in which as many generated
    images as there are training images, with the same labels, are compared with these; what the real test images
    reach in the same comparison is the mark to measure against.

    Args:
        generator: In evaluation mode.
        data: Real images.
        config: Generated images that the classifier learns from, and how metrics are computed; the seed of training
            is that of the noise and of the classifiers.

    Returns:
        The keys of `score_models`, with further rows `generated images` and `real test images`; and the test
        predictions per classifier.
    """
    classes, rows, seed = len(data.label_names), config.generated_rows, config.train.seed
    judge = fit_image_classifier(data.train_images, data.train_labels, classes, seed=seed)
    labels = torch.arange(rows) % classes
    learned = fit_image_classifier(
        draw_labelled_images(generator, labels, seed), labels, classes, seed=seed, epochs=_match_steps(data, rows)
    )
    frequent = int(torch.bincount(data.train_labels).argmax())
    predictions = {
        "majority": np.full(len(data.test_labels), frequent),
        ON_REAL: predict_images(judge, data.test_images),
        ON_GENERATED: predict_images(learned, data.test_images),
    }
    scores = score_models((ACCURACY, MACRO_F1), data.test_labels.numpy(), predictions, ON_GENERATED, config.evaluation)
    reference = extract_image_features(judge, data.train_images)
    sets = {
        "generated images": draw_labelled_images(generator, data.train_labels, seed + 1),
        "real test images": data.test_images,
    }
    for name, images in sets.items():
        features = extract_image_features(judge, images)
        precision, recall = compute_precision_recall(reference, features)
        values = {
            "frechet_distance": compute_frechet_distance(reference, features),
            "precision": precision,
            "recall": recall,
        }
        scores["models"][name] = {metric: {"value": value} for metric, value in values.items()}
    scores["lower_is_better"] = [*scores["lower_is_better"], "frechet_distance"]
    return scores, predictions


def _match_steps(data: LabelledImages, rows: int, epochs: int = 40) -> int:
    """Return the epochs over `rows` images that make as many steps as `epochs` over the training images."""
    return max(1, round(epochs * len(data.train_images) / rows))

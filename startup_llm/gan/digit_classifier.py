"""A small image classifier, trained in seconds: the judge of generated images, and their use as training data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from startup_llm.models.scratch.dnn import ImageDnn

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def fit_image_classifier(
    images: Tensor,
    labels: Tensor,
    classes: int,
    *,
    seed: int = 0,
    epochs: int = 40,
    hidden: tuple[int, ...] = (256, 64),
) -> ImageDnn:
    """Train an `ImageDnn` with AdamW, one learning-rate cycle, and noise on the pixels.

    Args:
        images: Shape (rows, channels, size, size).
        labels: Shape (rows,), int64.
        classes: Number of classes.
        seed: Seed of the weights, the order and the noise; the caller's random state is left as it was.
        epochs: Passes over the images.
        hidden: Widths of the hidden layers; the last one gives the features.

    Returns:
        The classifier in evaluation mode, on the CPU.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        model = ImageDnn(images.shape[-1], images.shape[1], classes, hidden, dropout=0.2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
        batch_rows = 64
        steps = epochs * -(-len(images) // batch_rows)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
        for _ in range(epochs):
            for rows in torch.randperm(len(images)).split(batch_rows):
                noisy = images[rows] + 0.1 * torch.randn_like(images[rows])
                loss = model(noisy, labels[rows])["loss"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.eval()


@torch.inference_mode()
def extract_image_features(model: ImageDnn, images: Tensor) -> np.ndarray:
    """Return the activations of the last hidden layer, shape (rows, width), float32."""
    x = images.flatten(1)
    for layer in model.dnn.layers[:-1]:
        x = model.dnn.activation(layer(x))
    return x.numpy()


@torch.inference_mode()
def predict_images(model: ImageDnn, images: Tensor) -> np.ndarray:
    """Return the class of each image, shape (rows,), int64."""
    return model(images)["logits"].argmax(1).numpy()

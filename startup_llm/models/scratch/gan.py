from __future__ import annotations

import copy
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from startup_llm.errors import UserError
from startup_llm.models.scratch.checks import check_at_least, check_probability
from startup_llm.models.scratch.losses import compute_classification_loss, keep_digits


class ImageGenerator(nn.Module):
    """DCGAN's generator: noise to image through transposed convolutions (Radford et al. 2016, section 3).

    With classes, a learned vector per class is put beside the noise (Mirza & Osindero 2014, section 3.2).

    Args:
        image_size: Height and width of the images: 8, 16, 32, ...
        channels: 1 for grey, 3 for colour.
        noise_size: Width of the noise z.
        width: Channels of the last hidden layer; each layer before it has twice as many.
        classes: Number of classes; None for an unconditional generator.

    Raises:
        UserError: if image_size is no power of 2 from 8 up, or a size is below 1.
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        noise_size: int = 64,
        width: int = 32,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        check_at_least(1, channels=channels, noise_size=noise_size, width=width)
        doublings = _count_doublings(image_size)
        self.noise_size, self.classes = noise_size, classes
        if classes is not None:
            check_at_least(1, classes=classes)
            self.class_embedding = nn.Embedding(classes, noise_size)
        widest = width * 2 ** (doublings - 1)
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(noise_size if classes is None else 2 * noise_size, widest, 4, bias=False),  # 1x1 to 4x4
            nn.BatchNorm2d(widest),
            nn.ReLU(),
        ]
        for step in range(doublings - 1):
            wide = widest // 2**step
            layers += [
                nn.ConvTranspose2d(wide, wide // 2, 4, stride=2, padding=1, bias=False),  # twice as high and wide
                nn.BatchNorm2d(wide // 2),
                nn.ReLU(),
            ]
        layers += [nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(_initialize_dcgan)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw images G(z), or G(z | y).

        Args:
            noise: z ~ N(0, 1), shape (batch, noise_size).
            labels: Class numbers, shape (batch,), int64; for a class-conditional generator.

        Returns:
            Shape (batch, channels, image_size, image_size), values in (-1, 1).

        Raises:
            UserError: if labels are missing or superfluous.
        """
        _check_labels(labels, self.classes)
        if labels is not None:
            noise = torch.cat([noise, self.class_embedding(labels)], dim=1)  # (z, y): (batch, 2 * noise_size)
        return self.layers(noise[:, :, None, None])


class ImageDiscriminator(nn.Module):
    """DCGAN's discriminator: image to one logit through strided convolutions (Radford et al. 2016, section 3).

    There is no batch normalization: it would tie the images of a batch together, and R1 needs each image's own
    gradient. With classes, the logit is w · φ(x) + e_y · φ(x) (Miyato & Koyama 2018).

    Args:
        image_size: Height and width of the images: 8, 16, 32, ...
        channels: 1 for grey, 3 for colour.
        width: Channels of the first layer; each layer after it has twice as many.
        classes: Number of classes; None for an unconditional discriminator.

    Raises:
        UserError: if image_size is no power of 2 from 8 up, or a size is below 1.
    """

    def __init__(self, image_size: int = 32, channels: int = 3, width: int = 32, classes: int | None = None) -> None:
        super().__init__()
        check_at_least(1, channels=channels, width=width)
        doublings = _count_doublings(image_size)
        self.classes = classes
        wide = [channels, *(width * 2**step for step in range(doublings))]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(wide):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]  # half as high and wide
        self.features = nn.Sequential(*layers, nn.Flatten())  # φ: (batch, wide[-1] * 4 * 4)
        self.output = nn.Linear(wide[-1] * 16, 1)
        if classes is not None:
            check_at_least(1, classes=classes)
            self.class_embedding = nn.Embedding(classes, wide[-1] * 16)
            nn.init.normal_(self.class_embedding.weight, std=0.02)
        self.apply(_initialize_dcgan)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Judge images.

        Args:
            images: Shape (batch, channels, image_size, image_size), values in [-1, 1].
            labels: Class numbers, shape (batch,), int64; for a class-conditional discriminator.

        Returns:
            Logits D(x), shape (batch,); σ(D(x)) is the probability of "real".

        Raises:
            UserError: if labels are missing or superfluous.
        """
        _check_labels(labels, self.classes)
        phi = self.features(images)  # (batch, features)
        logits = self.output(phi)[:, 0]  # w · φ(x) + b: (batch,)
        if labels is not None:
            logits = logits + (self.class_embedding(labels) * phi).sum(1)  # + e_y · φ(x)
        return logits


def build_gan(
    image_size: int = 32,
    channels: int = 3,
    noise_size: int = 64,
    width: int = 32,
    classes: int | None = None,
) -> tuple[ImageGenerator, ImageDiscriminator]:
    """Return a generator and a discriminator that fit together; the arguments are those of the two classes."""
    return (
        ImageGenerator(image_size, channels, noise_size, width, classes),
        ImageDiscriminator(image_size, channels, width, classes),
    )


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the mean of -log σ(D(x)) plus the mean of -log(1 - σ(D(G(z)))) (Goodfellow et al. 2014, equation 1).

    The second term is the negative log-likelihood of "fake", a probability of 1 - σ(D). The form log σ(1 - D(G(z))),
    which a popular founders' article prints, is not: at D = 0, where "fake" has probability 1/2, it gives
    log σ(1) = log 0.731 and not log 0.5, and its optimum is no longer D = log(p / q).

    Stable for any logit: -log σ(D) = softplus(-D) and -log(1 - σ(D)) = softplus(D).

    Args:
        real_logits: D(x), shape (batch,).
        fake_logits: D(G(z)), shape (batch,); the caller detaches G(z).

    Returns:
        A scalar; log 4 where the discriminator cannot tell (all logits 0).
    """
    return F.softplus(-keep_digits(real_logits)).mean() + F.softplus(keep_digits(fake_logits)).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Return the mean of -log σ(D(G(z))), the non-saturating loss (Goodfellow et al. 2014, section 3).

    Args:
        fake_logits: D(G(z)), shape (batch,).

    Returns:
        A scalar; log 2 where the discriminator cannot tell.
    """
    return F.softplus(-keep_digits(fake_logits)).mean()


def r1_penalty(real_logits: Tensor, real_images: Tensor, gamma: float = 10.0) -> Tensor:
    """Return γ/2 E[‖∇_x D(x)‖²] over real images (Mescheder et al. 2018, equation 9).

    Args:
        real_logits: D(x), shape (batch,), computed from real_images.
        real_images: x, shape (batch, ...), with requires_grad on.
        gamma: γ.

    Returns:
        A scalar that can be differentiated again.

    Raises:
        UserError: if gamma is negative or real_images has requires_grad off.
    """
    check_at_least(0, gamma=gamma)
    if not real_images.requires_grad:
        raise UserError(
            "real_images has requires_grad (False); call real_images.requires_grad_() before D(real_images)"
        )
    (gradient,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)  # like real_images
    return gamma / 2 * keep_digits(gradient).flatten(1).square().sum(1).mean()


class ExponentialMovingAverage:
    """The running average of a generator's weights, θ' ← β θ' + (1 - β) θ (Yazıcı et al. 2019).

    Images drawn from `average` are better than those from the generator of the last step. Buffers, such as batch
    normalization's statistics, are copied.

    Args:
        model: The model to follow.
        decay: β.

    Raises:
        UserError: if decay is not in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        check_probability(decay=decay)
        self.decay = decay
        self.average = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights that `model` has now."""
        for mean, new in zip(self.average.parameters(), model.parameters(), strict=True):
            mean.lerp_(new, 1 - self.decay)  # β θ' + (1 - β) θ
        for mean, new in zip(self.average.buffers(), model.buffers(), strict=True):
            mean.copy_(new)


class SentenceGenerator(nn.Module):
    """GAN-BERT's generator: noise to a fake sentence vector (Croce et al. 2020, section 3).

    Args:
        feature_size: Width of the encoder's sentence vector.
        noise_size: Width of the noise.
        hidden_size: Width of the hidden layer.
        dropout: Dropout probability.

    Raises:
        UserError: if a size is below 1 or dropout is no probability.
    """

    def __init__(self, feature_size: int, noise_size: int = 100, hidden_size: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        check_at_least(1, feature_size=feature_size, noise_size=noise_size, hidden_size=hidden_size)
        check_probability(dropout=dropout)
        self.noise_size = noise_size
        self.layers = nn.Sequential(
            nn.Linear(noise_size, hidden_size),
            nn.LeakyReLU(0.2),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, feature_size),
        )

    def forward(self, noise: Tensor) -> Tensor:
        """Map noise z ~ N(0, 1), shape (batch, noise_size), to fake sentence vectors, shape (batch, feature_size)."""
        return self.layers(noise)


class SentenceDiscriminator(nn.Module):
    """GAN-BERT's discriminator: k real classes and, last, the class "fake" (Croce et al. 2020, section 3).

    Args:
        feature_size: Width of the encoder's sentence vector.
        classes: k, the number of real classes.
        hidden_size: Width of the hidden layer.
        dropout: Dropout probability.

    Raises:
        UserError: if a size is below 1 or dropout is no probability.
    """

    def __init__(self, feature_size: int, classes: int, hidden_size: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        check_at_least(1, feature_size=feature_size, classes=classes, hidden_size=hidden_size)
        check_probability(dropout=dropout)
        self.features = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(feature_size, hidden_size), nn.LeakyReLU(0.2), nn.Dropout(dropout)
        )
        self.output = nn.Linear(hidden_size, classes + 1)

    def forward(self, sentence: Tensor) -> tuple[Tensor, Tensor]:
        """Judge sentence vectors, shape (batch, feature_size).

        Returns:
            Logits, shape (batch, classes + 1), the last one for "fake"; and the features f(x) that feature matching
            compares, shape (batch, hidden_size).
        """
        features = self.features(sentence)
        return self.output(features), features


def build_gan_bert(
    feature_size: int, classes: int, noise_size: int = 100, hidden_size: int = 256, dropout: float = 0.1
) -> tuple[SentenceGenerator, SentenceDiscriminator]:
    """Return a generator and a discriminator that fit together; the arguments are those of the two classes."""
    return (
        SentenceGenerator(feature_size, noise_size, hidden_size, dropout),
        SentenceDiscriminator(feature_size, classes, hidden_size, dropout),
    )


def compute_fake_log_probability(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p(fake) = log softmax(z)_{k+1} and log(1 - p(fake)), each of shape (batch,).

    The second is log Σ_{j≤k} e^{z_j} - log Σ_{j≤k+1} e^{z_j}, exact also where p(fake) rounds to 1.

    Args:
        logits: z, shape (batch, classes + 1).
    """
    logits = keep_digits(logits)
    everything = logits.logsumexp(-1)  # log Σ_{j≤k+1} e^{z_j}: (batch,)
    return logits[:, -1] - everything, logits[:, :-1].logsumexp(-1) - everything


def gan_bert_supervised_loss(real_logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of -log p(y | x, y ≤ k) over labelled sentences (Croce et al. 2020, section 3, L_D_sup).

    Args:
        real_logits: Of real sentences, shape (batch, classes + 1).
        labels: Class numbers, shape (batch,), int64; -100 for a sentence without label.

    Returns:
        A scalar; 0 where no sentence has a label.
    """
    return compute_classification_loss(real_logits[:, :-1], labels)  # without the class "fake": y ≤ k


def gan_bert_unsupervised_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the mean of -log(1 - p(fake | x)) plus the mean of -log p(fake | G(z)) (same section, L_D_unsup).

    Args:
        real_logits: Of real sentences, labelled or not, shape (batch, classes + 1).
        fake_logits: Of generated sentences, shape (batch, classes + 1); the caller detaches G(z).

    Returns:
        A scalar.
    """
    _, real = compute_fake_log_probability(real_logits)
    fake, _ = compute_fake_log_probability(fake_logits)
    return -real.mean() - fake.mean()


def gan_bert_generator_loss(fake_logits: Tensor, real_features: Tensor, fake_features: Tensor) -> Tensor:
    """Return ‖E f(x) - E f(G(z))‖² / width plus the mean of -log(1 - p(fake | G(z))) (same section, L_G).

    The first term is feature matching (Salimans et al. 2016, section 3.1), averaged over the features as in the
    authors' code, so that it does not outweigh the second one for wide layers.

    Args:
        fake_logits: Of generated sentences, shape (batch, classes + 1).
        real_features: f(x), shape (batch, hidden_size); they are the goal and get no gradient.
        fake_features: f(G(z)), shape (batch, hidden_size).

    Returns:
        A scalar.
    """
    matching = F.mse_loss(keep_digits(fake_features).mean(0), keep_digits(real_features.detach()).mean(0))
    _, taken_for_real = compute_fake_log_probability(fake_logits)
    return matching - taken_for_real.mean()


def _count_doublings(image_size: int) -> int:
    doublings = max(image_size, 1).bit_length() - 3  # 4 * 2^doublings = image_size
    if doublings < 1 or image_size != 4 * 2**doublings:
        better = min((8, 16, 32, 64, 128, 256), key=lambda size: abs(size - image_size))
        raise UserError(
            f"image_size ({image_size}) must be 8, 16, 32, ...; resize the images, for instance to {better}"
        )
    return doublings


def _check_labels(labels: Tensor | None, classes: int | None) -> None:
    if labels is None and classes is not None:
        raise UserError(f"labels (None) are needed: the model was built with classes={classes}")
    if labels is not None and classes is None:
        raise UserError("labels were given, but the model was built with classes=None; leave them out")


def _initialize_dcgan(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, std=0.02)  # Radford et al. 2016, section 4

import math

import pytest
import torch

from startup_llm.errors import UserError
from startup_llm.models.scratch.dnn import Dnn
from startup_llm.models.scratch.gan import (
    ExponentialMovingAverage,
    ImageDiscriminator,
    ImageGenerator,
    build_gan,
    build_gan_bert,
    compute_fake_log_probability,
    discriminator_loss,
    gan_bert_generator_loss,
    gan_bert_supervised_loss,
    gan_bert_unsupervised_loss,
    generator_loss,
    r1_penalty,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("image_size", [8, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [None, 5])
def test_generator_and_discriminator_fit_together(image_size, channels, classes):
    generator, discriminator = build_gan(image_size, channels, noise_size=6, width=4, classes=classes)
    labels = None if classes is None else torch.tensor([0, 4])
    images = generator(torch.randn(2, 6), labels)
    assert images.shape == (2, channels, image_size, image_size)
    assert images.abs().max() < 1
    assert discriminator(images, labels).shape == (2,)


def test_the_class_changes_the_image_and_the_verdict():
    generator, discriminator = build_gan(8, 1, noise_size=6, width=4, classes=2)
    noise, zeros, ones = torch.randn(3, 6), torch.zeros(3).long(), torch.ones(3).long()
    images = generator(noise, zeros)
    assert not torch.allclose(images, generator(noise, ones))
    assert not torch.equal(discriminator(images, zeros), discriminator(images, ones))


def test_losses_at_the_equilibrium_are_log_4_and_log_2():
    zero = torch.zeros(7)
    assert discriminator_loss(zero, zero).item() == pytest.approx(math.log(4))
    assert generator_loss(zero).item() == pytest.approx(math.log(2))


def test_losses_are_the_log_likelihoods_and_stay_finite():
    real, fake = torch.tensor([1.5, -0.5]), torch.tensor([0.3, -2.0])
    expected = -torch.log(torch.sigmoid(real)).mean() - torch.log(1 - torch.sigmoid(fake)).mean()
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    torch.testing.assert_close(generator_loss(fake), -torch.log(torch.sigmoid(fake)).mean())
    far = torch.tensor([200.0])
    assert discriminator_loss(-far, far).item() == pytest.approx(400.0)


def test_the_articles_form_is_not_the_likelihood_of_fake():
    logit = torch.zeros(1)  # the discriminator is undecided: "fake" has probability 1/2
    article = torch.log(torch.sigmoid(1 - logit))
    likelihood = -discriminator_loss(torch.full((1,), 1e9), logit)  # the real term is 0 there
    assert likelihood.item() == pytest.approx(math.log(0.5))
    assert article.item() == pytest.approx(math.log(0.731059), abs=1e-5)
    assert likelihood.item() == pytest.approx(torch.log(torch.sigmoid(-logit)).item())


def test_trained_discriminator_recovers_p_over_p_plus_q():
    p, q = torch.distributions.Normal(-0.5, 1.0), torch.distributions.Normal(1.0, 0.7)
    discriminator = Dnn((1, 32, 1), activation="tanh")
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    for _ in range(500):
        optimizer.zero_grad()
        real, fake = p.sample((2048, 1)), q.sample((2048, 1))
        discriminator_loss(discriminator(real), discriminator(fake)).backward()
        optimizer.step()
        schedule.step()
    x = torch.linspace(-2.5, 2.5, 51)[:, None]
    likely_p, likely_q = p.log_prob(x).exp(), q.log_prob(x).exp()
    with torch.no_grad():
        probability = torch.sigmoid(discriminator(x))
    torch.testing.assert_close(probability, likely_p / (likely_p + likely_q), atol=0.04, rtol=0)


def test_r1_of_a_linear_discriminator_is_half_gamma_times_its_squared_norm():
    weight = torch.tensor([1.0, -2.0, 2.0])
    images = torch.randn(5, 3, requires_grad=True)
    penalty = r1_penalty(images @ weight, images, gamma=4.0)
    assert penalty.item() == pytest.approx(4.0 / 2 * 9.0)


def test_r1_of_a_quadratic_discriminator_can_be_differentiated():
    scale = torch.tensor(3.0, requires_grad=True)
    images = torch.randn(5, 3, requires_grad=True)
    penalty = r1_penalty(scale * images.square().sum(1), images, gamma=2.0)  # E‖2 s x‖²
    expected = 4 * 9 * images.square().sum(1).mean()
    torch.testing.assert_close(penalty, expected)
    penalty.backward()
    torch.testing.assert_close(scale.grad, (2 * expected / 3).detach())


def test_r1_needs_images_with_gradient():
    images = torch.randn(2, 1, 8, 8)
    with pytest.raises(UserError, match=r"requires_grad \(False\)"):
        r1_penalty(ImageDiscriminator(8, 1, 4)(images), images)


def test_moving_average_follows_the_formula():
    model = torch.nn.BatchNorm1d(2)
    average = ExponentialMovingAverage(model, decay=0.9)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([2.0, 3.0]))
    model.running_mean.copy_(torch.tensor([5.0, 6.0]))
    average.update(model)
    average.update(model)
    # 1 → 0.9 * 1 + 0.1 * w → ...: w + 0.9² (1 - w)
    torch.testing.assert_close(average.average.weight, torch.tensor([2.0 - 0.81, 3.0 - 2 * 0.81]))
    assert average.average.running_mean.tolist() == [5.0, 6.0]
    assert not average.average.training


def test_moving_average_refuses_a_decay_of_one():
    with pytest.raises(UserError, match=r"decay \(1.0\) must be at least 0 and below 1"):
        ExponentialMovingAverage(torch.nn.Linear(1, 1), decay=1.0)


@pytest.mark.parametrize("autocast", [False, True])
def test_each_side_learns_to_beat_the_other_one_held_fixed(autocast):
    def cast():  # entered anew in each step: autocast remembers the weights that it has cast
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast)

    generator, discriminator = build_gan(8, 1, noise_size=4, width=8)
    noise, real = torch.randn(8, 4), torch.rand(8, 1, 8, 8) * 2 - 1
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        images = real.clone().requires_grad_()
        with cast():
            real_logits = discriminator(images)
            loss = discriminator_loss(real_logits, discriminator(generator(noise).detach()))
            (loss + r1_penalty(real_logits, images, gamma=0.01)).backward()
        optimizer.step()
    assert loss.item() < 0.1
    optimizer = torch.optim.Adam(generator.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        with cast():
            loss = generator_loss(discriminator(generator(noise)))
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize("build", [ImageGenerator, ImageDiscriminator])
def test_labels_and_classes_must_agree(build):
    batch = torch.randn(2, 4) if build is ImageGenerator else torch.randn(2, 1, 8, 8)
    arguments = {"image_size": 8, "channels": 1, "width": 4}
    if build is ImageGenerator:
        arguments["noise_size"] = 4
    with pytest.raises(UserError, match="built with classes=3"):
        build(**arguments, classes=3)(batch)
    with pytest.raises(UserError, match="built with classes=None"):
        build(**arguments)(batch, torch.tensor([0, 1]))


def test_the_last_class_of_the_sentence_discriminator_is_fake():
    _, discriminator = build_gan_bert(feature_size=6, classes=3, hidden_size=8)
    logits, features = discriminator(torch.randn(2, 6))
    assert logits.shape == (2, 4)
    assert features.shape == (2, 8)
    fake, real = compute_fake_log_probability(logits)
    probabilities = torch.softmax(logits, dim=-1)
    torch.testing.assert_close(fake.exp(), probabilities[:, 3])  # class k + 1 = 4, counted from 1
    torch.testing.assert_close(real.exp(), probabilities[:, :3].sum(1))


def test_the_generator_loss_moves_the_fake_features_only():
    real, fake, logits = (torch.randn(4, 3, requires_grad=True) for _ in range(3))
    gan_bert_generator_loss(logits, real, fake).backward()
    assert real.grad is None
    assert fake.grad.any()
    assert logits.grad.any()


def test_log_probability_of_real_is_exact_where_fake_is_certain():
    fake, real = compute_fake_log_probability(torch.tensor([[0.0, 0.0, 100.0]]))
    assert fake.item() == 0.0
    assert real.item() == pytest.approx(math.log(2) - 100)


def test_gan_bert_losses_follow_their_formulas():
    real, fake = torch.randn(4, 3), torch.randn(5, 3)
    p_real, p_fake = torch.softmax(real, -1)[:, 2], torch.softmax(fake, -1)[:, 2]
    labels = torch.tensor([0, -100, 1, -100])
    log_p = real[:, :2].log_softmax(-1)  # the class "fake" is left out
    torch.testing.assert_close(gan_bert_supervised_loss(real, labels), -(log_p[0, 0] + log_p[2, 1]) / 2)
    assert gan_bert_supervised_loss(real, torch.full((4,), -100)).item() == 0.0
    expected = -torch.log(1 - p_real).mean() - torch.log(p_fake).mean()
    torch.testing.assert_close(gan_bert_unsupervised_loss(real, fake), expected)
    f_real, f_fake = torch.randn(4, 6), torch.randn(5, 6)
    expected = (f_real.mean(0) - f_fake.mean(0)).square().mean() - torch.log(1 - p_fake).mean()
    torch.testing.assert_close(gan_bert_generator_loss(fake, f_real, f_fake), expected)


@pytest.mark.parametrize("autocast", [False, True])
def test_gan_bert_learns_from_few_labels(autocast):
    generator, discriminator = build_gan_bert(4, classes=2, noise_size=5, hidden_size=16, dropout=0.0)
    sentences = torch.randn(32, 4)
    truth = (sentences[:, 0] > 0).long()
    labels = torch.where(torch.arange(32) < 8, truth, -100)
    for_discriminator = torch.optim.Adam(discriminator.parameters(), lr=0.01)
    for_generator = torch.optim.Adam(generator.parameters(), lr=0.01)
    start = [parameter.clone() for parameter in generator.parameters()]
    for _ in range(100):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            fakes = generator(torch.randn(32, 5))
            real_logits, real_features = discriminator(sentences)
            supervised = gan_bert_supervised_loss(real_logits, labels)
            unsupervised = gan_bert_unsupervised_loss(real_logits, discriminator(fakes.detach())[0])
            fake_logits, fake_features = discriminator(fakes)
            to_fool = gan_bert_generator_loss(fake_logits, real_features, fake_features)
        for_generator.zero_grad()
        to_fool.backward(retain_graph=True)
        for_discriminator.zero_grad()
        (supervised + unsupervised).backward()
        for_discriminator.step()
        for_generator.step()
    assert supervised.item() < 0.05
    assert all(not torch.equal(old, new) for old, new in zip(start, generator.parameters(), strict=True))

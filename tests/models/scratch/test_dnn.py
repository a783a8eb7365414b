import math

import pytest
import torch

from startup_llm.errors import UserError
from startup_llm.models.scratch.dnn import Dnn, TextDnn, encode_ngrams, hash_ngrams
from startup_llm.models.scratch.losses import compute_classification_loss, compute_token_loss


@pytest.mark.parametrize(
    ("activation", "hidden", "output"),
    [
        # z_1 =  0.1 * 1 + 0.2 * 2 + 0.3 * 3 + 0.1 =  1.5
        # z_2 = -0.4 * 1 + 0.5 * 2 - 0.6 * 3 + 0.2 = -1.0
        ("relu", (1.5, 0.0), 3.5),  # y = 2 * 1.5 + 3 * 0 + 0.5
        ("sigmoid", (0.817574, 0.268941), 2.941973),  # y = 2 * 0.817574 + 3 * 0.268941 + 0.5
        ("tanh", (0.905148, -0.761594), 0.025514),  # y = 2 * 0.905148 - 3 * 0.761594 + 0.5
    ],
)
def test_worked_example_with_three_inputs_and_two_hidden_units(activation, hidden, output):
    model = Dnn((3, 2, 1), activation)
    with torch.no_grad():
        model.layers[0].weight.copy_(torch.tensor([[0.1, 0.2, 0.3], [-0.4, 0.5, -0.6]]))
        model.layers[0].bias.copy_(torch.tensor([0.1, 0.2]))
        model.layers[1].weight.copy_(torch.tensor([[2.0, 3.0]]))
        model.layers[1].bias.copy_(torch.tensor([0.5]))
        x = torch.tensor([[1.0, 2.0, 3.0]])
        z = model.layers[0](x)
        torch.testing.assert_close(z, torch.tensor([[1.5, -1.0]]))
        torch.testing.assert_close(model.activation(z), torch.tensor([hidden]), atol=1e-6, rtol=0)
        torch.testing.assert_close(model(x), torch.tensor([[output]]), atol=1e-5, rtol=0)


def test_gradient_of_a_layer_is_the_input_times_the_error():
    model = Dnn((2, 1))
    x, target = torch.tensor([[2.0, -3.0]]), torch.tensor([0.0])
    y = model(x)
    compute_classification_loss(y, target).backward()
    # d(y - 0)²/dW = 2 y x, d/db = 2 y
    torch.testing.assert_close(model.layers[0].weight.grad, 2 * y.detach() * x)
    torch.testing.assert_close(model.layers[0].bias.grad, 2 * y.detach()[0])


def test_ngrams_are_hashed_the_same_on_every_machine():
    # CRC-32 of "good", "day" and "good day", modulo 1,000,003
    assert hash_ngrams("Good DAY!", buckets=1_000_003) == [604734, 467308, 430616]


def test_a_text_without_words_has_no_ngrams_and_still_gets_logits():
    model = TextDnn(50, classes=2)
    input_ids = encode_ngrams(["", "a text", "..."], buckets=50)
    assert input_ids.tolist()[0] == [50, 50, 50]
    assert model(input_ids)["logits"].isfinite().all()


def test_padding_does_not_change_a_text():
    model = TextDnn(50, classes=2)
    alone = model(encode_ngrams(["short text"], 50))["logits"]
    beside = model(encode_ngrams(["short text", "a much longer text stands beside it"], 50))["logits"]
    torch.testing.assert_close(beside[:1], alone)


def test_a_mask_hides_tokens_from_the_mean():
    model = TextDnn(50, classes=2)
    masked = model(torch.tensor([[3, 4, 9]]), attention_mask=torch.tensor([[1, 1, 0]]))["logits"]
    torch.testing.assert_close(masked, model(torch.tensor([[3, 4]]))["logits"])


def test_too_few_buckets_are_named():
    with pytest.raises(UserError, match=r"buckets \(0\) must be at least 1"):
        hash_ngrams("text", buckets=0)


def test_rows_without_label_do_not_count():
    logits = torch.tensor([[0.0, 0.0], [9.0, -9.0]])
    assert compute_classification_loss(logits, torch.tensor([1, -100])).item() == pytest.approx(math.log(2))
    assert compute_classification_loss(logits, torch.tensor([-100, -100])).item() == 0.0


def test_the_loss_of_bfloat16_logits_is_computed_in_float32():
    logits = torch.randn(8, 5).bfloat16()
    labels = torch.arange(8) % 5
    torch.testing.assert_close(
        compute_classification_loss(logits, labels), torch.nn.functional.cross_entropy(logits.float(), labels)
    )


def test_float_labels_mean_several_labels_at_once():
    logits = torch.tensor([[0.0, 0.0, 0.0]])
    assert compute_classification_loss(logits, torch.tensor([[1.0, 0.0, 1.0]])).item() == pytest.approx(math.log(2))


def test_padding_does_not_count_in_the_token_loss():
    logits = torch.randn(2, 3, 5)
    labels = torch.tensor([[1, 2, -100], [3, -100, -100]])
    log_p = logits.log_softmax(-1)
    expected = -(log_p[0, 0, 1] + log_p[0, 1, 2] + log_p[1, 0, 3]) / 3
    torch.testing.assert_close(compute_token_loss(logits, labels), expected)

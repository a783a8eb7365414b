import torch

from startup_llm.models.scratch.vit import VisionTransformer, split_into_patches


def test_patches_are_cut_row_by_row():
    image = torch.arange(2 * 4 * 4).view(1, 2, 4, 4)
    patches = split_into_patches(image, 2)
    assert patches.shape == (1, 4, 8)
    assert patches[0, 1].tolist() == [2, 3, 6, 7, 18, 19, 22, 23]  # top right: both channels


def test_patch_embedding_is_a_strided_convolution():
    torch.manual_seed(0)
    model, images = VisionTransformer(8, 4, classes=2, width=16), torch.randn(2, 3, 8, 8)
    weight = model.patch_embedding.weight.view(16, 3, 4, 4)
    convolved = torch.nn.functional.conv2d(images, weight, model.patch_embedding.bias, stride=4)
    ours = model.patch_embedding(split_into_patches(images, 4))
    torch.testing.assert_close(ours, convolved.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_both_kernels_agree():
    torch.manual_seed(0)
    eager = VisionTransformer(8, 4, classes=2, width=16)
    sdpa = VisionTransformer(8, 4, classes=2, width=16, kernel="sdpa")
    sdpa.load_state_dict(eager.state_dict())
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(eager(images)["logits"], sdpa(images)["logits"])

import torch
from torch.nn import functional as F

from i2vlib.course.pretrain import contrast, load_mini_clip, new_tower, sincos_positions, swapped_words, zero_shot
from i2vlib.data.drawing import ATTRIBUTES, image_batch


def test_the_shipped_tower_passes_its_gates():
    tower, text, made = load_mini_clip()
    accuracy = zero_shot(tower, text, images=512)
    assert tower.config.tower.grid == 8
    assert accuracy["shape"] >= 0.7 and accuracy["x"] >= 0.9 and accuracy["y"] >= 0.9
    assert all(abs(accuracy[name] - value) < 0.05 for name, value in made["zero_shot"].items()), "the file says what it can do"


def test_a_random_tower_sees_little():
    _, text, _ = load_mini_clip()
    assert zero_shot(new_tower(1).eval(), text, images=512)["shape"] < 0.3


def test_swapped_words_differ_in_one_attribute_each():
    captions = image_batch(0, 32)["captions"]
    wrong = swapped_words(captions, torch.Generator().manual_seed(0))
    differs = wrong != captions[:, None]
    assert torch.equal(differs, torch.eye(len(ATTRIBUTES), dtype=torch.bool).expand(32, -1, -1))
    assert (wrong < torch.tensor([len(w) for w in ATTRIBUTES.values()])).all()


def test_contrast_equals_a_loop():
    torch.manual_seed(0)
    images, texts, wrong = (F.normalize(torch.randn(*s, 8, dtype=torch.float64), dim=-1) for s in ((4,), (4,), (4, 6)))
    captions, scale = torch.tensor([[0], [1], [2], [0]]), torch.tensor(3.0, dtype=torch.float64)  # 0 and 3 say the same
    total = 0.0
    for i in range(4):
        others = [j for j in range(4) if j == i or captions[j] != captions[i]]
        to_text = [scale * images[i] @ texts[j] for j in others] + [scale * images[i] @ w for w in wrong[i]]
        to_image = [scale * images[j] @ texts[i] for j in others]
        own = scale * images[i] @ texts[i]
        total += torch.stack(to_text).logsumexp(0) - own + torch.stack(to_image).logsumexp(0) - own
    torch.testing.assert_close(contrast(images, texts, wrong, scale, captions), total / 8)


def test_positions_tell_every_place_apart():
    positions = sincos_positions(8, 64)
    assert positions.shape == (65, 64) and positions[0].count_nonzero() == 0
    nearest = torch.cdist(positions[1:], positions[1:]) + 1e9 * torch.eye(64)
    assert nearest.min() > 0.1
    torch.testing.assert_close(positions[1, :32], positions[9, :32])  # one column, another row: the x half agrees

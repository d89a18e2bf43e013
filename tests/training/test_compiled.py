"""A compiled model trains, stops, goes on and is saved like a plain one: i2vlib.training.state and .train."""

from dataclasses import replace

import pytest
import torch
from _train_victim import TRAIN, TinySet, tiny_model
from safetensors.torch import load_file

from i2vlib.training import runs
from i2vlib.training.train import train

SHORT = replace(TRAIN, steps=4, save_every=1)


def compiled(parts: bool):
    model = tiny_model()
    if not parts:
        return torch.compile(model, backend="eager")
    model.backbone.transformer = torch.compile(model.backbone.transformer, backend="eager")
    return model


class Stopping(TinySet):
    """A set whose clips end with the third step: a process that dies while it reads."""

    read = 0

    def __getitem__(self, i):
        self.read += 1
        if self.read > 3 * TRAIN.batch_size:
            raise KeyboardInterrupt
        return super().__getitem__(i)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("parts", [False, True], ids=["whole", "part"])
def test_a_compiled_run_is_the_plain_run_and_either_goes_on_from_the_other(tmp_path, parts, precision):
    config, plain = replace(SHORT, precision=precision), tiny_model()
    train(plain, TinySet(), config, tmp_path / "plain", val_set=TinySet(7, seed=500), progress=False)
    model = compiled(parts)
    with pytest.raises(KeyboardInterrupt):
        train(model, Stopping(), config, tmp_path / "stopped", val_set=TinySet(7, seed=500), progress=False)
    assert runs.read_state(tmp_path / "stopped")["step"] == 3
    video = TinySet()[0]["video"]
    assert torch.equal(model(video), getattr(model, "_orig_mod", model)(video)), "the wrapper still works"
    train(compiled(parts), TinySet(), config, tmp_path / "stopped", val_set=TinySet(7, seed=500), progress=False)
    states = [runs.read_state(tmp_path / name)["model"] for name in ("plain", "stopped")]
    saved = load_file(tmp_path / "stopped" / "model.safetensors")
    assert states[0].keys() == states[1].keys() == saved.keys() == plain.state_dict().keys()
    assert all(torch.equal(states[0][k], v) and torch.equal(saved[k], v) for k, v in states[1].items())
    again = tiny_model()  # a plain model takes up what a compiled one left
    train(again, TinySet(), config, tmp_path / "stopped", val_set=TinySet(7, seed=500), progress=False)
    assert all(torch.equal(v, states[1][k]) for k, v in again.state_dict().items())

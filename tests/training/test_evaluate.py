"""Testing over views: every number is compared with one computed by hand or by a plain loop."""

from __future__ import annotations

import signal
import time

import pytest
import torch
from _train_victim import TinySet, tiny_model

from i2vlib.data import reader
from i2vlib.training.evaluate import Result, direction_accuracy, evaluate


def result_of(scores, labels) -> Result:
    return Result(torch.tensor(scores), torch.tensor(labels), torch.arange(len(labels)))


def test_numbers_by_hand():
    result = result_of([[.7, .2, .1], [.1, .6, .3], [.5, .4, .1], [.2, .3, .5]], [0, 1, 1, 1])
    assert result.top1 == 0.5
    assert result.confusion.tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]  # rows: the label
    assert result.per_class[:2].tolist() == pytest.approx([1, 1 / 3]) and result.per_class[2].isnan()
    assert result.top5 == 1.0  # fewer than five classes: all of them


def test_top5_wants_the_label_among_the_five_highest():
    scores = torch.linspace(1, 0, 7).expand(7, 7)
    assert Result(scores, torch.arange(7), torch.arange(7)).top5 == pytest.approx(5 / 7)


def test_equal_scores_go_to_the_class_listed_first():
    result = Result(torch.ones(12, 12), torch.arange(12), torch.arange(12))
    assert result.top1 == pytest.approx(1 / 12) and result.top5 == pytest.approx(5 / 12)


@pytest.mark.parametrize("batch_size, workers", [(1, 0), (3, 0), (32, 0), (2, 2)])
def test_scores_are_the_mean_of_softmax_over_views(batch_size, workers):
    model, data = tiny_model().eval(), TinySet(7, views=3)
    result = evaluate(model, data, batch_size=batch_size, workers=workers, progress=False)
    with torch.no_grad():
        for row, index in enumerate(result.indices.tolist()):
            one_by_one = [model(view[None]).softmax(-1)[0] for view in data[index]["video"]]
            assert torch.allclose(result.scores[row], sum(one_by_one) / 3, atol=1e-6)
    assert result.scores.shape == (7, 3) and result.scores.dtype == torch.float32
    assert result.labels.tolist() == [0, 1, 2, 0, 1, 2, 0] and result.indices.tolist() == list(range(7))


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_left_as_it_was(training):
    model = tiny_model().train(training)
    first, second = (evaluate(model, TinySet(5), progress=False).scores for _ in range(2))
    assert model.training is training
    assert torch.equal(first, second)  # no dropout in testing
    with pytest.raises(RuntimeError, match="weights of another"):
        evaluate(model, FailingSet(5), progress=False)
    assert model.training is training


class FailingSet(TinySet):
    def __getitem__(self, i):
        raise RuntimeError("weights of another")


def test_bad_clips_are_left_out_and_named_once(capsys):
    model = tiny_model()
    result = evaluate(model, TinySet(7, bad=(0, 4)), batch_size=2, progress=False)
    assert result.bad_files == {"clips/0.mp4": "no video stream", "clips/4.mp4": "no video stream"}
    assert result.indices.tolist() == [1, 2, 3, 5, 6] and len(result.scores) == 5
    assert torch.equal(result.scores, evaluate(model, TinySet(7), progress=False).scores[[1, 2, 3, 5, 6]])
    printed = capsys.readouterr().out
    assert printed.count("clips/0.mp4") == printed.count("clips/4.mp4") == 1
    evaluate(model, TinySet(7, bad=(0, 4)), progress=False, named=["clips/0.mp4"])
    printed = capsys.readouterr().out
    assert "clips/0.mp4" not in printed and "clips/4.mp4" in printed


def test_what_cannot_be_evaluated_says_why():
    model = tiny_model()
    with pytest.raises(ValueError, match="none of the 2 clips could be read. clips/0.mp4: no video stream; clips/1.mp4"):
        evaluate(model, TinySet(2, bad=(0, 1)), progress=False)
    with pytest.raises(ValueError, match="empty"):
        evaluate(model, TinySet(0), progress=False)
    with pytest.raises(ValueError, match="clips/2.mp4 .*label 2.*allowed is 0 to 1"):
        evaluate(tiny_model(classes=2), TinySet(5), progress=False)
    with pytest.raises(ValueError, match="labels go from 0 to 2: allowed is 0 to 1"):
        evaluate(tiny_model(classes=2), TinySet(5, named=False), progress=False)
    with pytest.raises(ValueError, match="classes = 0"):
        evaluate(tiny_model(classes=0), TinySet(5), progress=False)


class PoisonedSet(TinySet):
    def __getitem__(self, i):
        item = super().__getitem__(i)
        return {**item, "video": item["video"] / (i not in (2, 4))}  # 2 and 4 are divided by zero


def test_scores_that_are_not_finite_are_no_prediction():
    with pytest.raises(ValueError, match="not finite for 2 of 6 clips: clips/2.mp4, clips/4.mp4"):
        evaluate(tiny_model(), PoisonedSet(7, bad=(0,)), batch_size=4, progress=False)


def test_direction_compares_the_two_classes_of_a_pair_only():
    pairs = [(0, 1), (3, 2)]
    right_pair_wrong_class = [.1, .2, .0, .7]  # top-1 is class 3, but within its pair class 1 beats class 0
    result = result_of([right_pair_wrong_class] * 2 + [[.0, .0, .4, .6]] * 3, [0, 1, 2, 3, 3])
    assert direction_accuracy(result, pairs) == pytest.approx((0 + 1 + 0 + 1 + 1) / 5)
    assert direction_accuracy(result, [(2, 3)]) == pytest.approx(2 / 3)  # clips of the other classes are left out


def test_a_model_blind_to_direction_has_exactly_half():
    one_sided = result_of([[.3, .3, .4]] * 5, [0, 0, 0, 0, 1])
    assert direction_accuracy(one_sided, [(0, 1)]) == 0.5
    twins = result_of([[.1, .9], [.1, .9], [.8, .2], [.8, .2]], [0, 1, 1, 0])  # a clip and its reversal score the same
    assert direction_accuracy(twins, [(0, 1)]) == 0.5


@pytest.mark.parametrize("pairs", [[(0, 1), (1, 2)], [(0, 3)], [(1, 1)], [(-1, 0)]])
def test_impossible_pairs(pairs):
    with pytest.raises(ValueError, match="allowed are 0 to 2, each in one pair"):
        direction_accuracy(result_of([[.3, .3, .4]], [0]), pairs)


def test_pairs_without_clips():
    with pytest.raises(ValueError, match="no clip"):
        direction_accuracy(result_of([[.3, .3, .4]], [2]), [(0, 1)])


class GuiltySet(TinySet):
    """Clip 2 raises, clip 3 hangs, where no signal of Python's is heard."""

    def __getitem__(self, i):
        if i == 2:
            raise SystemError("of a decoder")
        if i == 3:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            time.sleep(1000)
        return super().__getitem__(i)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_clip_that_cannot_be_read_costs_that_clip(monkeypatch, workers):
    monkeypatch.setattr(reader, "SECONDS", 2)
    model = tiny_model()
    result = evaluate(model, GuiltySet(7), batch_size=2, workers=workers, progress=False)
    assert result.bad_files == {"clips/2.mp4": "SystemError: of a decoder",
                                "clips/3.mp4": "harmful to read: gave no answer in 2 s"}
    assert torch.equal(result.scores, evaluate(model, TinySet(7), progress=False).scores[[0, 1, 4, 5, 6]])
    again = evaluate(model, GuiltySet(7), batch_size=2, workers=workers, progress=False, named=result.bad_files)
    assert again.bad_files == result.bad_files

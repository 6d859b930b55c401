"""Tasks in memory: lazy, checked, named by digests that anyone can compute."""

from __future__ import annotations

import hashlib

import pytest
import torch

from zoo import DataTask, Sample
from zoo.errors import InvalidTask, NotFound
from zoo.tasks.data import Normalization
from zoo.tasks.examples import Examples

X = torch.arange(24, dtype=torch.float32).view(6, 1, 2, 2) / 24
Y = torch.tensor([0, 1, 0, 1, 1, 0])


def task(x=X, y=Y, **options):
    return DataTask("t", lambda split: Examples(x, y), **{"labels": ("a", "b"), **options})


def test_nothing_is_read_before_it_is_asked_for_and_nothing_twice():
    read = []

    def reader(split):
        read.append(split)
        return Examples(X, Y)

    made = DataTask("t", reader, labels=("a", "b"))
    assert [] == read

    made.digest("test")
    assert 6 == made.size("test")
    list(made.batches("test"))
    made.examples("test", torch.tensor([1]))

    assert ["test"] == read


def test_batches_are_all_examples_in_order():
    batches = list(task().batches("test", 4))

    assert [4, 2] == [len(y) for _, y in batches]
    assert torch.equal(X, torch.cat([x for x, _ in batches]))
    assert torch.equal(Y, torch.cat([y for _, y in batches]))


def test_examples_are_found_by_their_place():
    x, y = task().examples("test", torch.tensor([4, 0]))

    assert torch.equal(X[[4, 0]], x)
    assert [1, 0] == y.tolist()


def test_a_sample_draws_examples_by_its_seed():
    drawn = [next(Sample(task(), count=3, seed=s).batches())[0] for s in (1, 1, 2)]

    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_the_digest_is_over_type_shape_and_bytes_of_inputs_and_targets():
    """Computed here from the definition in `zoo.digest`, byte by byte."""

    def tensor(head, values):
        return hashlib.sha256(head + values.numpy().tobytes()).digest()

    parts = [
        (b"inputs", tensor(b"zoo.tensor.1\0F32\x006,1,2,2\0", X)),
        (b"targets", tensor(b"zoo.tensor.1\0I64\x006\0", Y)),
    ]
    whole = b"zoo.weights.1\0" + b"".join(
        len(name).to_bytes(8, "little") + name + digest for name, digest in parts
    )

    assert "sha256:" + hashlib.sha256(whole).hexdigest() == task().digest("test")


@pytest.mark.parametrize(
    ("x", "y"), [(X + 1, Y), (X, 1 - Y), (X.view(6, 4), Y), (X.flip(0), Y), (X[:5], Y[:5])]
)
def test_other_data_has_another_digest(x, y):
    assert task().digest("test") != task(x, y).digest("test")


def test_normalization_is_part_of_what_is_delivered_and_of_the_digest():
    made = task(normalize=Normalization((0.5,), (0.25,)))

    assert torch.allclose((X - 0.5) / 0.25, made.tensors("test")[0])
    assert torch.equal(X, made.raw("test").inputs)
    assert task().digest("test") != made.digest("test")


def test_channels_are_normalized_each_by_its_own():
    x = torch.rand(2, 3, 2, 2)
    made = task(x, Y[:2], normalize=Normalization((0.1, 0.2, 0.3), (1.0, 2.0, 4.0)))

    expected = torch.stack([(x[:, c] - (c + 1) / 10) / 2**c for c in range(3)], 1)

    assert torch.allclose(expected, made.tensors("test")[0])


def test_a_wrong_number_of_means_is_refused():
    with pytest.raises(InvalidTask, match=r"cannot be normalized.*2 means.*\(6, 1, 2, 2\)"):
        task(normalize=Normalization((0.1, 0.2), (1.0, 2.0))).tensors("test")


def test_an_unknown_split_is_named_with_the_nearest():
    with pytest.raises(NotFound, match=r"no split `tset`. Did you mean `test`"):
        task().tensors("tset")


@pytest.mark.parametrize(
    ("x", "y", "what"),
    [
        (X, Y[:5], "6 inputs and 5 targets"),
        (X[:0], Y[:0], "no examples"),
        (X, Y + 1, "targets from 1 to 2, and 2 labels"),
        (X, Y - 1, "targets from -1 to 0"),
        (X, Y.float(), "whole numbers"),
        (X * float("nan"), Y, "not finite"),
    ],
)
def test_what_are_no_examples_is_refused(x, y, what):
    with pytest.raises(InvalidTask, match=f"Split `test` of task `t` has .*{what}"):
        task(x, y).tensors("test")


@pytest.mark.parametrize("labels", [("a", "a"), ("", "b")])
def test_labels_that_name_no_one_class_are_refused(labels):
    with pytest.raises(InvalidTask, match="names of their own"):
        task(labels=labels).tensors("test")


def test_data_that_is_not_what_its_digest_says_is_refused():
    good = task().digest("test")

    assert good == task(digests={"test": good}).digest("test")
    with pytest.raises(InvalidTask, match=r"has changed.*Mend it so") as e:
        task(x=X + 1, digests={"test": good}, mend="Mend it so.").digest("test")
    assert good == e.value.expected


def test_the_shipped_digits_are_those_of_uci(plugins):
    """Counts and a checksum of the pixels, worked out from the file without zoo."""
    digits = plugins.tasks["digits"]

    assert (1442, 355) == (digits.size("train"), digits.size("test"))
    assert "CC-BY-4.0" == digits.license
    every = torch.cat([digits.tensors(s)[0] for s in digits.splits])
    assert 561718 == int(every.sum() * 16)  # of all pixels of the file, 0 to 16
    assert [35, 36, 35, 36, 36, 36, 36, 35, 34, 36] == digits.tensors("test")[1].bincount().tolist()


def test_loss_and_scores_of_a_perfect_model_are_right(plugins):
    digits = plugins.tasks["digits"]
    x, y = digits.tensors("test")

    class Knows(torch.nn.Module):
        def forward(self, inputs):
            at = (inputs[:, None] == x[None]).flatten(2).all(2).int().argmax(1)
            return 100.0 * torch.nn.functional.one_hot(y[at], 10)

    found = {(v.name, v.split): v.value for v in digits.evaluate(Knows(), Sample(digits, batch=64))}

    assert 1.0 == found["accuracy", ""]
    assert abs(found["loss", ""]) < 1e-6
    assert digits.loss(Knows()(x[:9]), y[:9]) < 1e-6

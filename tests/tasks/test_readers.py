"""Readers of each format, on files written here byte by byte."""

from __future__ import annotations

import gzip
import io

import numpy as np
import pytest
import torch
from data_files import idx, idx_pair

from zoo.errors import InvalidTask
from zoo.readers import FORMATS, reader
from zoo.tasks.options import options


def read(format, path, where, labels=(), **chosen):
    found = reader(format)
    return found.read(
        path, options(found.Where, where, "split"), options(found.Options, chosen, "o"), labels
    ).checked("It")


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_a_reader(format):
    found = reader(format)

    assert found.read.__doc__ or found.__doc__
    assert found.Where and found.Options


def test_an_unknown_format_is_named_with_the_nearest():
    with pytest.raises(InvalidTask, match=r"no reader of `npx`. Did you mean"):
        reader("npx")


@pytest.mark.parametrize("compress", [False, True])
def test_idx_gives_images_in_0_to_1(tmp_path, compress):
    idx_pair(tmp_path, compress=compress)

    found = read("idx", tmp_path, {"inputs": "x", "targets": "y"})

    assert torch.equal(torch.arange(12).view(3, 1, 2, 2) / 255, found.inputs)
    assert [0, 1, 1] == found.targets.tolist()
    assert ("0", "1") == found.labels


@pytest.mark.parametrize(("letter", "values"), [("f", [0, 0.5, 1, 0.25]), ("d", [0, 0.5, 1, 0.25])])
def test_idx_of_floats_is_taken_as_it_is(tmp_path, letter, values):
    idx_pair(tmp_path, idx((1, 2, 2), values, letter), targets=(0,))

    found = read("idx", tmp_path, {"inputs": "x", "targets": "y"})

    assert values == found.inputs.flatten().tolist()


def test_idx_of_other_integers_needs_a_divisor(tmp_path):
    idx_pair(tmp_path, idx((1, 2, 2), [0, 100, 200, 400], "h"), targets=(0,))
    where = {"inputs": "x", "targets": "y"}

    with pytest.raises(InvalidTask, match=r"values from 0 to 400.*`divide`"):
        read("idx", tmp_path, where)
    assert [0, 0.25, 0.5, 1] == read("idx", tmp_path, where, divide=400).inputs.flatten().tolist()


@pytest.fixture
def colour(tmp_path):
    """Two images of 2 x 3 pixels in three channels, in every array format."""
    x = np.arange(36, dtype=np.uint8).reshape(2, 2, 3, 3)
    y = np.array([1, 0], dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", x=x, y=y, first=x.transpose(0, 3, 1, 2)[:, :, :, :2])
    np.save(tmp_path / "x.npy", np.asfortranarray(x))
    np.save(tmp_path / "y.npy", y[:, None])
    return x


def test_npz_and_npy_give_the_same(tmp_path, colour):
    packed = read(
        "npz", tmp_path / "a.npz", {"inputs": "x", "targets": "y"}, layout="channels_last"
    )
    alone = read("npy", tmp_path, {"inputs": "x.npy", "targets": "y.npy"}, layout="channels_last")

    assert (2, 3, 2, 3) == packed.inputs.shape
    assert torch.equal(torch.tensor(colour).permute(0, 3, 1, 2) / 255, packed.inputs)
    assert packed.digest == alone.digest


def test_where_the_channels_are_must_be_said_if_it_cannot_be_told(tmp_path, colour):
    with pytest.raises(InvalidTask, match="layout: channels_last"):
        read("npy", tmp_path, {"inputs": "x.npy", "targets": "y.npy"}, shape=[3, 2, 3])


def test_channels_are_found_where_only_one_axis_can_be_theirs(tmp_path, colour):
    where = {"file": "a.npz", "inputs": "first", "targets": "y"}

    assert (2, 3, 2, 2) == read("npz", tmp_path, where).inputs.shape


def test_an_array_that_is_not_there_is_named_with_the_nearest(tmp_path, colour):
    with pytest.raises(InvalidTask, match=r"no array `firts`. Did you mean `first`"):
        read("npz", tmp_path / "a.npz", {"inputs": "firts", "targets": "y"})


@pytest.mark.parametrize("compress", [False, True])
def test_csv_of_numbers(tmp_path, compress):
    text = b"0,8,16,4,1\n16,0,0,8,0\n"
    (tmp_path / "a.csv").write_bytes(gzip.compress(text) if compress else text)

    found = read("csv", tmp_path / "a.csv", {}, shape=[1, 2, 2], divide=16)

    assert [[0, 0.5, 1, 0.25], [1, 0, 0, 0.5]] == found.inputs.flatten(1).tolist()
    assert [1, 0] == found.targets.tolist()


def test_csv_with_names(tmp_path):
    (tmp_path / "a.csv").write_text("\ufeffkind;width;height\nplum;2;3.5\n\nfig;1;-1e2\n")

    found = read("csv", tmp_path, "a.csv", target="kind", delimiter=";")

    assert [[2, 3.5], [1, -100]] == found.inputs.tolist()
    assert ("fig", "plum") == found.labels
    assert [1, 0] == found.targets.tolist()
    named = read("csv", tmp_path, "a.csv", ("plum", "fig"), target="kind", delimiter=";")
    assert [0, 1] == named.targets.tolist()


def test_csv_of_many_rows_is_whole(tmp_path):
    (tmp_path / "a.csv").write_text("".join(f"{i},{2 * i},{i % 3}\n" for i in range(9001)))

    found = read("csv", tmp_path / "a.csv", {})

    assert torch.equal(torch.arange(9001.0), found.inputs[:, 0])
    assert torch.equal(torch.arange(9001) % 3, found.targets)


def test_image_folders(tmp_path):
    from PIL import Image

    for split, names in (("train", "ab"), ("test", "b")):
        for name in names:
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                pixels = np.full((4, 4, 3), (ord(name), i, 200), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
            (folder / "readme.txt").write_text("not an image")

    train = read("images", tmp_path, "train")
    test = read("images", tmp_path, "test", ("a", "b"))

    assert (4, 3, 4, 4) == train.inputs.shape
    assert ("a", "b") == train.labels
    assert [1, 1] == test.targets.tolist()
    assert [97 / 255, 0, 200 / 255] == pytest.approx(train.inputs[0, :, 0, 0].tolist())
    small = read("images", tmp_path, "train", mode="L", size=[2, 3])
    assert (4, 1, 2, 3) == small.inputs.shape


def test_images_of_several_sizes_need_one_size(tmp_path):
    from PIL import Image

    (tmp_path / "a").mkdir()
    for i, side in enumerate((4, 5)):
        Image.new("RGB", (side, 3)).save(tmp_path / "a" / f"{i}.png")

    with pytest.raises(InvalidTask, match=r"1.png` is \(3, 5\) pixels.*`size`"):
        read("images", tmp_path, {})
    assert (2, 3, 8, 8) == read("images", tmp_path, {}, size=8).inputs.shape


def test_text_as_windows_whose_targets_are_the_next_characters(tmp_path):
    (tmp_path / "a.txt").write_text("abcabcabc€\n", encoding="utf-8")

    found = read("text", tmp_path / "a.txt", {}, length=3)

    assert ("\n", "a", "b", "c", "€") == found.labels
    assert [[1, 2, 3], [1, 2, 3], [1, 2, 3]] == found.inputs.tolist()
    assert [[2, 3, 1], [2, 3, 1], [2, 3, 4]] == found.targets.tolist()


def test_text_as_bytes_and_in_shares(tmp_path):
    (tmp_path / "a.txt").write_bytes(bytes(range(20)))

    first = read("text", tmp_path / "a.txt", [0, 0.5], tokens="bytes", length=4)
    last = read("text", tmp_path / "a.txt", [0.5, 1], tokens="bytes", length=4)

    assert 256 == len(first.labels)
    assert [list(range(4)), list(range(4, 8))] == first.inputs.tolist()
    assert list(range(10, 14)) == last.inputs[0].tolist()


def test_datasets_of_hugging_face_through_their_own_library(tmp_path, monkeypatch):
    """The library is not here; a stand-in with the calls that are made."""
    import sys
    from types import ModuleType, SimpleNamespace

    from PIL import Image

    images = [Image.new("L", (3, 2), v) for v in (0, 51)]
    module = ModuleType("datasets")
    columns = {"image": images, "label": [1, 0]}

    class Saved:
        column_names = ["image", "label"]
        features = {"image": None, "label": SimpleNamespace(names=["no", "yes"])}

        def __getitem__(self, key):
            return columns[key]

    module.load_from_disk = lambda path: {"train": Saved()}
    monkeypatch.setitem(sys.modules, "datasets", module)

    found = read("datasets", tmp_path, "train", mode="L")

    assert (2, 1, 2, 3) == found.inputs.shape
    assert 0.2 == pytest.approx(float(found.inputs[1].mean()))
    assert ("no", "yes") == found.labels
    with pytest.raises(InvalidTask, match=r"no split `trian`. Did you mean `train`"):
        read("datasets", tmp_path, "trian")
    with pytest.raises(InvalidTask, match="no column `img`"):
        read("datasets", tmp_path, "train", inputs="img")


def test_without_the_library_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)

    with pytest.raises(InvalidTask, match="pip install datasets"):
        read("datasets", tmp_path, "train")


def test_an_npy_in_memory_and_one_in_a_file_are_read_alike():
    from zoo.readers.npy import array

    stream = io.BytesIO()
    np.save(stream, np.array([[1.5, 2.5]]))
    size = stream.tell()
    stream.seek(0)

    assert [[1.5, 2.5]] == array(stream, size, "it").tolist()

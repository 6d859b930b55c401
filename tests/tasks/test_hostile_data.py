"""Damaged and hostile files give an error that names the file: no crash, no code run."""

from __future__ import annotations

import gzip
import io
import pickle
import resource
import struct
import zipfile

import numpy as np
import pytest
from data_files import idx, idx_pair
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import InvalidTask
from zoo.readers import csv, images, npz, text
from zoo.readers.arrays import ArrayOptions
from zoo.readers.idx import array_of
from zoo.readers.npy import array

HUGE = 2**32 - 1


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no IDX file: it begins with nothing"),
        (b"\0\0", "no IDX file"),
        (b"\1\0\x08\1\0\0\0\1x", "no IDX file"),
        (b"\0\0\x07\1\0\0\0\1x", "no IDX file"),
        (b"\0\0\x08\0x", "no IDX file"),
        (b"\0\0\x08\xff" + b"\0\0\0\1" * 255, "no IDX file"),
        (b"\0\0\x08\3\0\0\0\1", "does not hold what its header says"),
        (idx((2, 2), [1, 2, 3, 4])[:-1], "does not hold"),
        (idx((2, 2), [1, 2, 3, 4]) + b"\0", "does not hold"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, HUGE, HUGE, HUGE), "does not hold"),
        (struct.pack(">BBBB2I", 0, 0, 14, 2, HUGE, 1) + bytes(100), "does not hold"),
    ],
)
@pytest.mark.parametrize("compress", [False, True])
def test_hostile_idx_headers(tmp_path, data, what, compress):
    file = tmp_path / "x"
    file.write_bytes(gzip.compress(data) if compress else data)

    with pytest.raises(InvalidTask, match=what) as e:
        array_of(file)
    assert str(file) in str(e.value)


def test_an_idx_header_that_claims_much_of_a_small_gzip_file_takes_no_memory(tmp_path):
    """4 GB claimed, 4 KB there."""
    file = tmp_path / "x"
    file.write_bytes(gzip.compress(struct.pack(">BBBB1I", 0, 0, 8, 1, HUGE) + bytes(4096)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(InvalidTask):
        array_of(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.parametrize("cut", [5, 15, 30])
def test_gzip_that_was_cut_short(tmp_path, cut):
    data = gzip.compress(idx((40,), list(range(40))))
    (tmp_path / "x").write_bytes(data[:cut])

    with pytest.raises(InvalidTask, match=r"damaged|does not hold|no IDX"):
        array_of(tmp_path / "x")


@given(st.binary(max_size=80))
def test_any_bytes_are_an_array_or_an_error(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("any") / "x"
    file.write_bytes(b"\0\0" + data)

    try:
        found = array_of(file)
    except InvalidTask:
        return
    assert found.nbytes == len(data) - 2 - 4 * data[1]


class Bomb:
    def __reduce__(self):
        raise AssertionError("it was pickled or unpickled")


def npy(header, data=b""):
    text = header.encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no array of NumPy"),
        (b"\x93NUMPY\3\0", "no array of NumPy"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", pickle.dumps(1)), "object"),
        (
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9,)}", bytes(35)),
            "does not hold",
        ),
        (
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9,)}", bytes(37)),
            "does not hold",
        ),
        (
            npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**62}, 8)}}"),
            "does not hold",
        ),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4)}", bytes(16)), "not"),
        (npy("{'descr': '<M8[s]', 'fortran_order': False, 'shape': (1,)}", bytes(8)), "numbers"),
        (npy("__import__('os').abort()"), "no array of NumPy"),
        (npy("(" * 5000), "no array of NumPy"),
    ],
)
def test_hostile_npy(data, what):
    with pytest.raises(InvalidTask, match=what):
        array(io.BytesIO(data), len(data), "it")


def test_pickles_in_npz_are_refused_before_they_are_opened(tmp_path):
    np.savez(tmp_path / "a.npz", y=np.zeros(1))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        header = npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}")
        archive.writestr("x.npy", header + b"cos\nabort\n(tR.")

    with pytest.raises(InvalidTask, match="a pickle can run code"):
        npz.read(tmp_path / "a.npz", npz.Where("x", "y"), ArrayOptions(), ())


def test_a_damaged_npz_is_named(tmp_path):
    np.savez_compressed(
        tmp_path / "a.npz", x=np.random.default_rng(0).random((9, 9)), y=np.zeros(9)
    )
    whole = (tmp_path / "a.npz").read_bytes()
    for at in (0, 60, 200, len(whole) - 30):
        (tmp_path / "b.npz").write_bytes(whole[:at] + b"\xff\xff" + whole[at + 2 :])
        with pytest.raises(InvalidTask, match=r"b\.npz"):
            npz.read(tmp_path / "b.npz", npz.Where("x", "y"), ArrayOptions(), ())
    (tmp_path / "c.npz").write_bytes(whole[:100])
    with pytest.raises(InvalidTask, match=r"c\.npz"):
        npz.read(tmp_path / "c.npz", npz.Where("x", "y"), ArrayOptions(), ())


@pytest.mark.parametrize(
    ("content", "options", "what"),
    [
        (b"", {}, "no rows"),
        (b"\n\n", {}, "no rows"),
        (b"1,2,0\n1,0\n", {}, "row of 2 columns, not 3"),
        (b"1,x,0\n", {}, "could not convert"),
        (b"1\n2\n", {}, "1 columns"),
        (b"1,2,0\n", {"target": 7}, "column 7"),
        (b"a,b,c\n1,2,0\n", {"target": "d"}, "no column `d`"),
        (b'1,"2,0\n', {}, "cannot be read"),
        (b"\xff\xfe\x00,1\n", {}, "cannot be read"),
        (b"1,\x002,0\n", {}, "cannot be read"),
        (b"1" * (1 << 24), {}, "a line of"),
        (b"1,2,0.5\n", {"target": 0}, "^(?!.*Traceback)"),
    ],
)
def test_hostile_tables(tmp_path, content, options, what):
    file = tmp_path / "a.csv"
    file.write_bytes(content)

    if what.startswith("^"):
        assert ("1",) != csv.read(file, csv.Where(), csv.Options(**options), ()).labels
        return
    with pytest.raises(InvalidTask, match=what):
        csv.read(file, csv.Where(), csv.Options(**options), ())


def png(width, height):
    """The beginning of a PNG of any size that it likes to claim."""
    import zlib

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no image"),
        (b"not a picture", "no image"),
        (png(60_000, 60_000), "pixels"),
        (png(20_000, 20_000), "pixels"),
        (png(8, 8), "damaged"),
    ],
)
def test_hostile_images(tmp_path, data, what):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(data)

    with pytest.raises(InvalidTask, match=rf"x\.png.*{what}"):
        images.read(tmp_path, images.Where(), images.Options(), ())


def test_folders_without_classes_or_images_say_what_is_missing(tmp_path):
    with pytest.raises(InvalidTask, match="holds no directories"):
        images.read(tmp_path, images.Where(), images.Options(), ())
    (tmp_path / "cat").mkdir()
    with pytest.raises(InvalidTask, match="holds no images"):
        images.read(tmp_path, images.Where(), images.Options(), ())
    with pytest.raises(InvalidTask, match="directory of no label"):
        images.read(tmp_path, images.Where(), images.Options(), ("cut",))


@pytest.mark.parametrize(
    ("data", "labels", "what"),
    [
        (b"\xff\xfe", (), "not UTF-8"),
        (b"", (), "0 tokens"),
        (b"abc", (), "3 tokens here, and a window takes 3 and one"),
        ("abcd€".encode(), ("a", "b", "c", "d"), "'€', which is no label"),
    ],
)
def test_hostile_texts(tmp_path, data, labels, what):
    file = tmp_path / "a.txt"
    file.write_bytes(data)

    with pytest.raises(InvalidTask, match=what):
        text.read(file, text.Where(), text.Options(length=3), labels)


def test_a_target_beyond_all_counting_makes_no_room_for_labels(tmp_path):
    idx_pair(tmp_path)
    np.save(tmp_path / "y.npy", np.array([0, 1, 2**40]))
    np.save(tmp_path / "x.npy", np.zeros((3, 2, 2), dtype=np.uint8))

    from zoo.readers import npy as npy_reader

    with pytest.raises(InvalidTask, match="targets from 0 to"):
        npy_reader.read(tmp_path, npy_reader.Where("x.npy", "y.npy"), ArrayOptions(), ())


def test_a_target_that_no_whole_number_holds_is_refused(tmp_path):
    from zoo.readers.arrays import targets_of

    with pytest.raises(InvalidTask, match="not whole numbers"):
        targets_of(np.array([0.0, 1e30]), (), tmp_path)

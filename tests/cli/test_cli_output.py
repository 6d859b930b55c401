"""Tables are rich on a terminal and tab-separated in a pipe; numbers have units for people."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys

import pytest
from zoo_cli.output import show_json
from zoo_cli.units import count, moment, number, short_digest, size


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (8_534_000, "8.53 MB"),
        (988_097_824, "988 MB"),
        (999_999, "1.00 MB"),
        (5 * 10**12, "5.00 TB"),
    ],
)
def test_bytes_have_three_figures_and_a_unit(n, said):
    assert said == size(n)


@pytest.mark.parametrize(
    ("n", "said"), [(0, "0"), (34, "34"), (25_600, "25.6 k"), (494_032_768, "494 M")]
)
def test_parameters_are_told_as_model_sizes_are(n, said):
    assert said == count(n)


def test_values_times_and_digests_are_short():
    assert "31.725" == number(31.7249)
    assert "2025-03-01 14:07" == moment("2025-03-01T14:07:59.123456Z")
    assert "0123456789ab" == short_digest("sha256:" + "0123456789abcdef" * 4)


def test_json_has_null_where_a_number_is_not_finite(capsys):
    show_json({"psnr": float("inf"), "pair": (1, 2), "text": "ü"})

    assert {"psnr": None, "pair": [1, 2], "text": "ü"} == json.loads(capsys.readouterr().out)


def test_a_pipe_gets_tab_separated_lines_without_colour(zoo_run):
    lines = zoo_run("methods").stdout.splitlines()

    assert ["method", "version"] == lines[0].split("\t")[:2]
    assert "linear" in [line.split("\t")[0] for line in lines[1:]]
    assert "\x1b" not in "".join(lines)


def on_a_terminal(code: str, columns: int = 100) -> str:
    """What a Python program writes to a terminal, stdout and stderr together."""
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color"},
    )
    os.close(terminal)
    said = b""
    while True:
        try:
            block = os.read(main, 65536)
        except OSError:  # Linux says EIO when the other end is closed
            break
        if not block:
            break
        said += block
    os.close(main)
    assert 0 == process.wait()
    return said.decode()


def without_colour(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "").split("\n")


def test_a_terminal_gets_a_table_with_a_rule_and_bold_heads_that_fits():
    said = on_a_terminal(
        "from zoo_cli.main import cli; cli(['methods'], prog_name='zoo', standalone_mode=False)"
    )

    assert "─" in said
    assert "\x1b[1m" in said
    assert max(len(line) for line in without_colour(said)) <= 100


TABLE = """
from zoo_cli.output import Column, show_table
show_table(
    [Column("name", whole=True), Column("first", spare=1), Column("least", spare=2)],
    [["a" * 20, "b" * 20, "c" * 20]],
)
"""


@pytest.mark.parametrize(
    ("columns", "seen"), [(80, "abc"), (50, "ab"), (30, "a")], ids=["wide", "middling", "narrow"]
)
def test_a_narrow_terminal_loses_the_columns_that_matter_least_and_is_told(columns, seen):
    lines = without_colour(on_a_terminal(TABLE, columns))

    assert list(seen) == [cell[0] for cell in lines[2].split()]
    assert ("left out" in " ".join(lines)) == (seen != "abc")
    assert max(map(len, lines)) <= columns


def test_long_work_shows_its_label_and_bytes_per_second():
    said = on_a_terminal(
        "from zoo_cli.bars import Bars; import time\n"
        "bars = Bars(); bars.start(2_000_000, 'hashing'); bars.advance(1_000_000)\n"
        "time.sleep(0.3); bars.advance(1_000_000); bars.done()\n"
        "bars.start(0, 'of unknown size'); bars.done()"
    )

    assert "hashing" in said
    assert "2.0/2.0 MB" in said
    assert "MB/s" in said
    assert "of unknown size" in said


def test_work_on_every_byte_of_a_version_shows_how_far_it_is(checkpoint, tmp_path):
    registry = str(tmp_path / "r.db")
    sources = {n: str(checkpoint(n, v)) for n, v in (("math", 1.0), ("code", 2.0))}
    code = (
        "from zoo_cli.main import cli\n"
        "def zoo(*args):\n"
        f"    cli(['--registry', {registry!r}, *args], standalone_mode=False)\n"
        f"for name, source in {sources!r}.items():\n"
        "    zoo('register', source, '--name', name)\n"
        "zoo('diff', 'math', 'code')\n"
        "zoo('verify', 'math')\n"
        f"zoo('export', 'math', {str(tmp_path / 'out')!r})\n"
    )

    bars = [line for line in without_colour(on_a_terminal(code)) if "━" in line]

    for label in ("hash", "compare", "verify", "copy"):
        assert any(line.startswith(label) and "bytes" in line for line in bars), label


def test_columns_nobody_filled_are_left_out_of_tables():
    lines = without_colour(on_a_terminal(TABLE.replace('"b" * 20', "None")))

    assert ["name", "least"] == lines[0].split()


def test_a_result_far_wider_than_the_terminal_is_shown_row_by_row(tmp_path):
    query = "select 1 as first, repeat('x', {}) as second"
    code = (
        "from zoo_cli.main import cli\n"
        f"cli(['--registry', {str(tmp_path / 'r.db')!r}, 'init'], standalone_mode=False)\n"
        f"cli(['--registry', {str(tmp_path / 'r.db')!r}, 'query', {query!r}.format(NUMBER)],"
        " standalone_mode=False)"
    )

    wide, narrow = (
        [line.split() for line in without_colour(on_a_terminal(code.replace("NUMBER", n)))]
        for n in ("300", "20")
    )

    assert ["row", "1"] in wide and ["first", "1"] in wide
    assert ["first", "second"] in narrow and ["1", "x" * 20] in narrow

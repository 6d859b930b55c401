"""`zoo diff` tells kinship from weights, whatever the files are called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from zoo_cli.main import cli


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs `zoo ARGS` in an empty directory; the command must succeed."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str | Path) -> Any:
        result = CliRunner().invoke(cli, [str(a) for a in args], prog_name="zoo")
        assert 0 == result.exit_code, result.output
        return result

    return run


def cosine(a: Path, b: Path) -> float:
    """Over all floating tensors but the running statistics, in float64, by another hand."""
    left, right = (load_file(d / "model.safetensors") for d in (a, b))
    names = [n for n, t in left.items() if t.is_floating_point() and ".running_" not in n]
    x, y = (torch.cat([m[n].double().flatten() for n in names]) for m in (left, right))
    return float(x @ y / x.norm() / y.norm())


@pytest.mark.parametrize("organ", ["heart", "brain"])
def test_files_called_another_replicate_are_seen_to_be_of_the_first(run, data, organ):
    folder = data / "pangolin-splice"
    named, kin = f"v2-r3-{organ}-psplice", f"r1-{organ}-psplice"
    run("register", folder / named, "--name", named)
    run("register", folder / kin, "--name", kin)

    said = run("diff", named, kin)

    expected = cosine(folder / named, folder / kin)
    assert expected > 0.98
    total = json.loads(run("diff", named, kin, "--json").stdout)["total"]
    assert total["cosine"] == pytest.approx(expected, abs=1e-12)
    assert f"All weights together: cosine {expected:.5g}" in said.stderr


def test_members_of_one_shape_and_other_starts_are_seen_to_be_strangers(run, data):
    folder = data / "ani-potentials"
    run("register", folder / "ani1x-m0", "--name", "m0")
    run("register", folder / "ani1x-m1", "--name", "m1")

    total = json.loads(run("diff", "m0", "m1", "--json").stdout)["total"]

    assert total["cosine"] == pytest.approx(
        cosine(folder / "ani1x-m0", folder / "ani1x-m1"), abs=1e-12
    )
    assert abs(total["cosine"]) < 0.05


def test_a_half_frozen_pair_is_said_to_share_half(run, data):
    folder = data / "ani-potentials"
    run("register", folder / "ani1x-m0", "--name", "base", "--kind", "base")
    run("register", folder / "ani1ccx-m0", "--name", "tuned", "--base", "base")

    said = run("diff", "base", "tuned").stderr

    assert "16 shared, 16 changed." in said


def test_counters_that_changed_are_said_not_to_merge(run, data):
    folder = data / "pangolin-splice"
    run("register", folder / "r1-heart-psplice", "--name", "heart")
    run("register", folder / "v2-r3-heart-psplice", "--name", "other")

    said = run("diff", "heart", "other").stderr

    assert "220 changed, 32 changed that do not merge." in said

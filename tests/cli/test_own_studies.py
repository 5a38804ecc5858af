"""`skipscope twin`, `lesion` and `sweep` of a model of one's own, by its name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from skipscope import Readings, studies

SOURCE = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

    def forward(self, x):
        return self.body(x) + x


def deep(depth, seed):
    return nn.Sequential(nn.Linear(6, 8), *(Block() for _ in range(depth)), nn.Linear(8, 3))


def make_model():
    return deep(5, 0)


def loss(output, batch):
    return nn.functional.cross_entropy(output, batch[1])


def square(output, batch):
    return output.square().mean()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a module of models and a file of data, to stand in."""
    (tmp_path / "ourdeep.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (60,), generator=generator)
    save_file({"input": torch.randn(60, 6, generator=generator), "target": target}, "data.safetensors")
    yield tmp_path
    sys.modules.pop("ourdeep", None)


FILE = ["--batch", "data.safetensors", "--loss", "ourdeep:loss"]


def test_twin(here: Path, succeeded: Callable[..., str]):
    given = ["twin", "ourdeep:make_model", *FILE, "--batches", 5, "--steps", 4]
    text = succeeded(*given, "--out", "a.parquet", "--report", "a.html")
    assert "site signal, as it is signal, without" in " ".join(text.split())
    assert "with its shortcuts the model trains better" in text
    found = Readings.load("a.parquet")
    assert set(found.cells["batch_number"].drop_nulls()) == {1, 2, 3, 4, 5}
    assert set(found.cells["batch"]) == {12}
    assert "without its 5 shortcuts" in (here / "a.html").read_text()
    assert {"profile", "flow", "training", "findings"} == json.loads(succeeded(*given, "--format", "json")).keys()


def test_twin_of_drawn_inputs(here: Path, succeeded: Callable[..., str]):
    text = succeeded("twin", "ourdeep:make_model", "--input", "7x6", "--batches", 2, "--out", "a.parquet", "--quiet")
    assert text.splitlines()[1].split()[0] == "input"
    found = Readings.load("a.parquet")
    assert found.cells.height == 4
    assert found.cells["data"].n_unique() == 2


def test_lesion(here: Path, succeeded: Callable[..., str]):
    text = succeeded("lesion", "ourdeep:make_model", *FILE, "--batches", 5, "--report", "a.html", "--out", "a.parquet")
    assert [line.split()[0] for line in text.splitlines()[:6]] == ["site", "1", "2", "3", "4", "5"]
    assert "one deleted block hardly matters: cannot tell" in text
    assert "without each of its blocks the loss rises" in (here / "a.html").read_text()
    some = succeeded("lesion", "ourdeep:make_model", *FILE, "--at", "2", "--at", "[4-5]", "--quiet")
    assert [line.split()[0] for line in some.splitlines()[1:4]] == ["2", "4", "5"]


def test_sweep(here: Path, succeeded: Callable[..., str]):
    given = ["sweep", "ourdeep:deep", "--input", "9x6", "--depths", "2:6:2", "--seeds", 3, "--twin"]
    text = succeeded(*given, "--folder", "kept", "--report", "a.html")
    assert "the model Sequential without shortcuts: trend of the gradient: cannot tell" in text
    assert "Depth by depth" in (here / "a.html").read_text()
    deep = sys.modules["ourdeep"].deep
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
    expected = studies.sweep(deep, batch=x, depths=[2, 4, 6], seeds=range(3), twin=True)
    assert sorted(Readings.load("kept/readings.parquet").rows.rows()) == sorted(expected.rows.rows())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["twin"], "MODEL is missing"),
        (["twin", "ourdeep:make_model"], "either --input 8x3x224x224 or --batch"),
        (["twin", "ourdeep:make_model", "--input", "4x6", "--steps", "2"], "loss is missing"),
        (["twin", "ourdeep:make_model", "--input", "4x6", "--batches", "0"], "--batches must be at least 1"),
        (["twin", "ourdeep:make_model", "--input", "4x6", "--seeds", "2"], "--seeds 2: twin is about one model"),
        (["twin", "ourdeep:make_model", "--input", "4x7"], "fails on what it is given"),
        (["twin", "ourdeep:make_model", *FILE, "--batches", "61"], "--batches 61 needs tensors of 61 samples"),
        (["twin", "ourdeep:make_model", "--input", "4x6", "--jobs", "2"], "--jobs 2 is about designs"),
        (["lesion", "ourdeep:make_model", *FILE, "--depth", "3"], "--depth 3 is about designs"),
        (["lesion", "ourdeep:make_model", *FILE, "--at", "7"], "names no junction"),
        (["lesion", "--at", "7"], "--at '7' is about a model of your own"),
        (["lesion", "--batch", "file.safetensors"], "--batch must be a whole number"),
        (["sweep", "ourdeep:deap", "--input", "4x6"], "Did you mean 'deep'"),
        (["sweep", "ourdeep:make_model", "--input", "4x6"], "MODEL 'ourdeep:make_model' must be a function of (depth,"),
        (["sweep", "ourdeep:deep", "--input", "4x6", "--width", "3"], "--width 3 is about designs"),
        (["sweep", "--twin"], "is about a model of your own"),
    ],
)
def test_what_is_refused(here: Path, refused: Callable[..., str], given: list[str], words: str):
    assert words in refused(*given)

"""`skipscope flow MODEL`: a model of one's own, by its name."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file

import skipscope
from skipscope import Readings
from skipscope.torch import naming

SOURCE = """
import torch
from torch import nn


def make_model(seed=None):
    make_model.seed = seed
    parts = [nn.Linear(6, 8), nn.ReLU()]
    for _ in range(3):
        parts += [nn.Linear(8, 8), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(8, 3))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7)

    def forward(self, ids):
        return self.head(self.embed(ids))


def loss(output, batch):
    return nn.functional.cross_entropy(output, batch[1])


number = 3


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 3), nn.Linear(4, 3)

    def forward(self, left, right):
        return self.first(left) + self.second(right)


class WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return {"logits": self.layer(x), "loss": self.layer(x).square().mean()}


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = make_model()
        self.output, self.output_proj = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.output_proj(self.output(self.body(x)))


class Trouble(Exception):
    pass


def troubled(*given):
    raise Trouble("no luck\\ntoday")


def of_a_file(*given):
    return open("weights.bin")


def needs_more(*given):
    raise ImportError("no such library")


def out_of_luck(output, batch):
    raise ValueError("no luck")


def no_number(output, batch):
    return output


class Add(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))

    def forward(self, x):
        return x + self.branch(x)


def add():
    return Add()


def deep(depth, seed):
    return nn.Sequential(*(Add() for _ in range(depth)))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a module of models, to stand in."""
    (tmp_path / "ourmodels.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("ourmodels", None)


def test_a_factory_and_the_size_of_an_input(here: Path, succeeded: Callable[..., str]):
    lines = succeeded("flow", "ourmodels:make_model", "--input", "40x6").splitlines()

    assert lines[0].split() == ["site", "site_depth", "activation_rms", "activation_grad_norm", "dead"]
    assert [line.split()[0] for line in lines[1:6]] == ["input", "3", "5", "7", "output"]
    assert "the model Sequential (5 weight layers" in "".join(lines)
    assert "95 % interval over its 40 samples" in " ".join(" ".join(lines).split())


def test_of_parts_that_are_called_output_none_is_taken_for_that_of_the_model(here: Path, succeeded: Callable[..., str]):
    lines = succeeded("flow", "ourmodels:Named", "--input", "40x6").splitlines()

    names = [line.split()[0] for line in lines[1:8]]
    assert names == ["input", "body.3", "body.5", "body.7", "body.8", "output", "output'"]  # all but the last: blocks


def test_what_is_measured_is_what_probe_measures(here: Path, succeeded: Callable[..., str]):
    succeeded("flow", "ourmodels:make_model", "--input", "5x6", "--seed", 3, "--out", "a.parquet", "--quiet")
    found = Readings.load("a.parquet")

    module = sys.modules["ourmodels"]
    torch.manual_seed(3)
    model = module.make_model()
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64).float()
    expected = skipscope.probe(model, x, seed=3)
    assert found.rows["value"].sort().to_list() == expected.rows["value"].sort().to_list()
    assert set(found.rows["seed"]) == {3}


def test_several_seeds_are_several_draws(here: Path, succeeded: Callable[..., str]):
    records = json.loads(succeeded("flow", "ourmodels:make_model", "--input", "5x6", "--seeds", 20, "--format", "json"))

    assert {row["n"] for row in records["summary"] if row["quantity"] == "activation_rms"} == {20}
    assert any("20 seeds" in finding["statement"] for finding in records["findings"])


def test_tokens(here: Path, succeeded: Callable[..., str]):
    text = succeeded("flow", "ourmodels:Tokens", "--input", "4x5", "--input-dtype", "int64", "--high", 7)

    assert text.splitlines()[1].split()[0] == "embed"


def test_a_batch_in_a_file_with_a_loss_sites_and_a_report(here: Path, succeeded: Callable[..., str]):
    save_file({"input": torch.randn(9, 6), "target": torch.randint(0, 3, (9,))}, "batch.safetensors")
    given = ["--batch", "batch.safetensors", "--loss", "ourmodels:loss", "--report", "page.html", "--out", "a.parquet"]
    succeeded("flow", "ourmodels:make_model", *given, "--sites", "[0-4]", "--sites", "network")

    found = Readings.load("a.parquet")
    assert set(found.sites["site"]) == {"0", "1", "2", "3", "4", "network"}
    assert "loss" in set(found.rows["quantity"])
    assert "Sequential" in (here / "page.html").read_text()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["ourmodels:make_modle", "--input", "4x6"], "Did you mean 'make_model'"),
        (["ourmodel:make_model", "--input", "4x6"], "no module 'ourmodel'"),
        (["ourmodels", "--input", "4x6"], "must be package.module:name"),
        (["ourmodels:number", "--input", "4x6"], "must be a module or a function that makes one"),
        (["ourmodels:loss", "--input", "4x6"], "must be callable without arguments"),
        (["ourmodels:make_model"], "either --input 8x3x224x224 or --batch"),
        (["ourmodels:make_model", "--input", "4by6"], "--input must be the sizes of a tensor"),
        (["ourmodels:make_model", "--input", f"{10**11}x{10**8}"], "x100000000' cannot be drawn (Storage size"),
        (["ourmodels:make_model", "--input", f"4x{10**30}"], "000' cannot be drawn ("),
        (["ourmodels:make_model", "--input", "4x6", "--input-dtype", "float"], "--input-dtype must be one of"),
        (["ourmodels:Tokens", "--input", "4x6", "--input-dtype", "int64"], "needs --high"),
        (["ourmodels:make_model", "--input", "4x6", "--high", "3"], "--high 3 is of whole numbers"),
        (["ourmodels:make_model", "--batch", "none.safetensors"], "cannot be read as safetensors"),
        (["ourmodels:make_model", "--input", "4x6", "--depth", "3"], "--depth 3 is about designs"),
        (["ourmodels:make_model", "--input", "4x6", "--sites", "layer9"], "matches none of the"),
        (["--input", "4x6"], "--input '4x6' is about a model of your own"),
        (["--batch", "file.safetensors"], "--batch must be a whole number"),
    ],
)
def test_what_is_refused(here: Path, refused: Callable[..., str], given: list[str], words: str):
    assert words in refused("flow", *given)


def test_without_pytorch_there_is_one_line_with_the_command(here: Path, refused: Callable[..., str]):
    found = importlib.util.find_spec

    def without(name: str, *rest: Any) -> Any:
        return None if name == "torch" else found(name, *rest)

    with mock.patch.object(importlib.util, "find_spec", without):
        line = refused("flow", "ourmodels:make_model", "--input", "4x6")

    assert "pip install 'skipscope[torch]'" in line


def test_what_the_model_raises_is_one_line(here: Path, refused: Callable[..., str]):
    message = refused("flow", "ourmodels:make_model", "--input", "4x5")

    assert message.startswith("MODEL 'ourmodels:make_model' fails on what it is given (RuntimeError: mat1 and mat2 ")
    assert message.endswith("mend it, or give another --input, --batch or --loss.")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("ourmodels:troubled", "MODEL 'ourmodels:troubled' fails on what it is given (Trouble: no luck today)"),
        ("ourmodels:of_a_file", "(FileNotFoundError: [Errno 2] No such file or directory: 'weights.bin')"),
        ("wrong:make_model", "MODEL 'wrong:make_model' cannot be imported (SyntaxError: "),
        ("needy:make_model", "MODEL 'needy:make_model' cannot be imported (ModuleNotFoundError: No module named "),
    ],
)
def test_whatever_a_factory_raises_is_one_line(here: Path, refused: Callable[..., str], target: str, words: str):
    Path("wrong.py").write_text("def make_model(:\n")
    Path("needy.py").write_text("import nothing_of_that_name\n")

    for verb in ("flow", "twin"):
        assert words in refused(verb, target, "--input", "4x6")
    assert words in refused("sweep", target, "--input", "4x6", "--depths", "1:2")
    if "import" in words:
        line = refused("flow", "ourmodels:make_model", "--input", "4x6", "--loss", target)
        assert words.replace("MODEL", "--loss") in line


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ("ourmodels:troubled", "fails on what it is given (Trouble: no luck today): mend it"),
        ("ourmodels:of_a_file", "fails on what it is given (FileNotFoundError: [Errno 2] No such file"),
        ("ourmodels:needs_more", "fails on what it is given (ImportError: no such library): mend it"),
        ("ourmodels:loss", "fails on what it is given ("),  # the batch has no targets
        ("ourmodels:number", "must be a function of (output, batch), e.g. lambda output, batch: torch."),
        ("ourmodels:Tokens", "got the class Tokens, which makes an object in place of an answer"),
        ("ourmodels:make_model", "got make_model(seed=None): too many positional arguments"),
        ("ourmodels:no_number", ": loss must give one real number"),
        ("ourmodels:los", ": the name must be one of "),
        ("ourloss:loss", ": there is no module 'ourloss' here or installed"),
    ],
)
@pytest.mark.parametrize(
    "given",
    [
        ("flow", "ourmodels:add"),
        ("twin", "ourmodels:add"),
        ("lesion", "ourmodels:add"),
        ("sweep", "ourmodels:deep", "--depths", "1:2", "--seeds", 1, "--folder", "kept"),
    ],
    ids=lambda given: given[0],
)
def test_a_loss_that_fails_is_not_blamed_on_the_model(
    here: Path, refused: Callable[..., str], given: tuple[Any, ...], loss: str, words: str
):
    line = refused(*given, "--input", "4x6", "--loss", loss)

    assert line.startswith(f"--loss {loss!r}")
    assert words in line
    assert "MODEL" not in line


def test_a_loss_that_fails_in_a_worker_is_not_blamed_on_the_model(here: Path, refused: Callable[..., str]):
    given = ("--input", "4x6", "--depths", "1:2", "--seeds", 1, "--jobs", 2)
    line = refused("sweep", "ourmodels:deep", *given, "--loss", "ourmodels:out_of_luck")

    assert line.startswith("--loss 'ourmodels:out_of_luck' fails on what it is given (ValueError: no luck)")


def test_a_model_that_fails_is_not_blamed_on_its_loss(here: Path, refused: Callable[..., str]):
    line = refused("flow", "ourmodels:add", "--input", "4x5", "--loss", "ourmodels:no_number")

    assert line.startswith("MODEL 'ourmodels:add' fails on what it is given (RuntimeError: mat1 and mat2 ")


def test_what_cannot_be_written_is_no_fault_of_the_model(here: Path, refused: Callable[..., str]):
    Path("there").write_text("a file")
    line = refused("sweep", "ourmodels:troubled", "--input", "4x6", "--depths", "1:2", "--folder", "there/sweep")

    assert "MODEL" not in line


def test_several_inputs_and_a_target(here: Path, succeeded: Callable[..., str]):
    tensors = {"left": torch.randn(9, 6), "right": torch.randn(9, 4), "target": torch.randint(0, 3, (9,))}
    save_file(tensors, "batch.safetensors")
    given = ["ourmodels:Both", "--batch", "batch.safetensors", "--loss", "ourmodels:loss"]
    succeeded("flow", *given, "--out", "a.parquet", "--quiet")

    (loss,) = Readings.load("a.parquet").rows.filter(quantity="loss")["value"]
    torch.manual_seed(0)
    model = sys.modules["ourmodels"].Both()
    output = model(tensors["left"], tensors["right"])
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(output, tensors["target"]).item(), rel=1e-6)
    assert [len(y) for _, y in naming.parts(naming.stored(Path("batch.safetensors")), 4)] == [3, 2, 2, 2]


def test_the_help_says_what_the_file_holds(succeeded: Callable[..., str]):
    assert "`target` is for the loss" in " ".join(succeeded("flow", "--help").split())


@pytest.mark.parametrize(
    ("target", "told"), [("make_model", "gaussian"), ("WithLoss", "the model's own loss")], ids=["none", "its own"]
)
def test_what_is_sent_back_is_told(here: Path, succeeded: Callable[..., str], target: str, told: str):
    succeeded("flow", f"ourmodels:{target}", "--input", "5x6", "--seeds", 3, "--out", "a.parquet", "--quiet")

    cells = Readings.load("a.parquet").cells
    assert cells["cotangent"].to_list() == [told]

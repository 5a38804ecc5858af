"""`skipscope networks`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from skipscope.designs import NETWORKS, spec_named


def test_the_papers_networks_are_listed(succeeded: Callable[..., str]):
    rows = json.loads(succeeded("networks", "--format", "json"))

    assert [row["network"] for row in rows] == list(NETWORKS)
    for row in rows:
        spec = spec_named(row["network"])
        assert row == {
            "network": row["network"],
            "shortcut": spec.stages[0].shortcut,
            "layers": spec.depth,
            "parameters": spec.parameters,
            "multiply_adds": spec.multiply_adds,
        }


def test_named_networks_as_a_table_and_as_csv(succeeded: Callable[..., str]):
    assert succeeded("networks", "imagenet-50-v1.5").split() == [
        *("network", "shortcut", "layers", "parameters", "multiply_adds"),
        *("imagenet-50-v1.5", "B", "50", "25557032", "4089184256"),
    ]
    assert succeeded("networks", "cifar-20", "cifar-20-plain", "--format", "csv").splitlines() == [
        "network,shortcut,layers,parameters,multiply_adds",
        "cifar-20,A,20,269722,40551040",
        "cifar-20-plain,none,20,269722,40551040",
    ]


def test_a_name_of_no_network_is_refused(run: Callable[..., Any]):
    result = run("networks", "cifar-20", "imagnet-34")

    assert (result.code, result.out) == (2, "")
    assert result.err.endswith("got 'imagnet-34'. Did you mean 'imagenet-34'?\n")

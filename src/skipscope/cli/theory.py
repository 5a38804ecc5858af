"""`skipscope theory`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
import polars as pl
import polars.selectors as cs

from skipscope.cli import options, printing
from skipscope.cli.options import Format

if TYPE_CHECKING:
    from skipscope.theory import Prediction


@click.command()
@options.network
@options.batch()
@options.format_
@options.quiet
def theory(
    designs: list[str], depth: int, batch: int, cotangent: Any, format_: Format, quiet: bool, **fields: Any
) -> None:
    """What the laws predict for a network, and why others do not hold there."""
    from skipscope import theory
    from skipscope.designs import design

    predictions = [
        (name, prediction)
        for name in dict.fromkeys(designs)
        for prediction in theory.laws(design(name, depth=depth, **fields), cotangent=cotangent, batch=batch)
    ]
    if format_ == "json":
        printing.print_json([_record(name, prediction) for name, prediction in predictions])
    elif format_ == "csv":
        printing.print_table(_predicted(predictions), "csv")
    else:
        _print(predictions)


def _predicted(predictions: Sequence[tuple[str, Prediction]]) -> pl.DataFrame:
    """A row a design, law and site; a law that does not hold has one row, with the reason."""
    tables = []
    for name, prediction in predictions:
        named = {"design": name, "law": prediction.law, "quantity": prediction.quantity}
        table = pl.DataFrame([named]) if prediction.table.is_empty() else prediction.table
        columns = [pl.lit(value).alias(key) for key, value in {**named, "refusal": prediction.refusal}.items()]
        tables.append(
            table.with_columns(columns).select("design", "law", "quantity", pl.exclude("design", "law", "quantity"))
        )
    return pl.concat(tables, how="diagonal")


def _record(name: str, prediction: Prediction) -> dict[str, Any]:
    told = {key: getattr(prediction, key) for key in ("law", "quantity", "statement", "source", "refusal")}
    return {"design": name, **told, "table": prediction.table.to_dicts()}


def _print(predictions: Sequence[tuple[str, Prediction]]) -> None:
    """Both ends of every law that holds, and why the others do not; json and csv hold every site."""
    from rich.markup import escape

    console = printing.console()
    holding = [(name, prediction) for name, prediction in predictions if prediction.holds]
    if holding:
        ends = [
            (name, replace(each, table=pl.concat([each.table.head(1), each.table.tail(1)]).unique(maintain_order=True)))
            for name, each in holding
        ]
        table = _predicted(ends).drop("quantity", "refusal", cs.starts_with("asymptotic_"))
        printing.print_table(table, "table")
        click.echo()
    for law, statement in {prediction.law: prediction.statement for _, prediction in holding}.items():
        console.print(f"[bold]{escape(law)}[/]: {escape(statement)}")
    refused: dict[tuple[str, str], list[str]] = {}
    for name, prediction in predictions:
        if not prediction.holds:
            refused.setdefault((prediction.law, prediction.refusal), []).append(name)
    for (law, refusal), names in refused.items():
        console.print(f"[bold]{escape(', '.join(names))}[/]: {escape(law)}: [bold]does not hold[/]")
        console.print(f"  {escape(refusal)}")

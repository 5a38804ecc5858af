"""The section on study `notebook`: the original notebook's experiment, beside all the draws it could have made.

Each of its conclusions stands beside what these readings say to it: the six items of "where the popular story differs".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from skipscope import charts
from skipscope.diagnosis import FACTOR, SEEDS, Finding, diagnose
from skipscope.errors import InputError
from skipscope.readings import Readings, require_readings
from skipscope.report.page import Block, Claim, Claims, Figure, Findings, Holds, Prose, Section, Table
from skipscope.report.pairs import PAIRED, RATIO, Pair, depth_table, growth_table, pairs_of, quantiles
from skipscope.report.prose import (
    QUANTILE_NAMES,
    UNTRAINED,
    capital,
    joined,
    limits,
    measured,
    method,
    plural,
    seeds_of,
    sent,
    versions_of,
)
from skipscope.summary import Summary, summarise
from skipscope.words import number, percent

__all__ = ["AGREED", "APART", "Draw", "Verdicts", "notebook_section"]

# -------------------------------------------------------------------------------------------------------- the section


def notebook_section(readings: Readings, *, anchor: str = "notebook") -> Section:
    """The section on readings of study `notebook`.

    Raises:
        InputError: the readings hold no plain network with a residual one of its depth, width and cotangent.
    """
    require_readings(readings)
    pairs = pairs_of(readings)
    if not pairs:
        raise InputError(
            "these readings hold no pair to compare: a plain and a residual design of one depth, width and cotangent, "
            f"with {RATIO!r}, as studies.notebook measures them."
        )
    summary, findings = summarise(readings), diagnose(readings)
    settings = _settings(pairs)
    seed = int(str(readings.rows["seed"].min()))
    claims = tuple(_claims(pairs, settings, seed, summary, findings))
    blocks: list[Block] = [Prose(_asked(settings, readings, seed))]
    for pair in settings:
        blocks += _drawn_once(pair, seed)
    blocks += [*_sweep(pairs, summary), Prose((), "What the notebook concludes, and what was measured"), Claims(claims)]
    return Section(
        title="As the notebook did it",
        anchor=anchor,
        answer=_answer(pairs, settings, seed),
        blocks=(*blocks, limits(*_LIMITS), *_verdicts(findings, readings), method(readings)),
        versions=versions_of(readings),
        about="What does the original experiment say if it is drawn not once, but many times?",
        part=UNTRAINED,
    )


_LIMITS = (
    "These are the notebook's own networks: narrow, without normalisation, with another block than the paper's, and "
    "not trained. That its conclusion does not follow from one draw does not mean that shortcuts do nothing: the "
    "sections on trained networks say what they do.",
)


def _settings(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs to show in full: with the notebook's cotangent, one of each width: depth 10 where it was swept."""
    ones = [pair for pair in pairs if pair.cotangent == "ones"] or list(pairs)
    found = []
    for width in dict.fromkeys(pair.width for pair in ones):
        group = [pair for pair in ones if pair.width == width]
        found.append(next((pair for pair in group if pair.depth == 10), group[len(group) // 2]))
    return found


def _asked(settings: Sequence[Pair], readings: Readings, seed: int) -> tuple[str, ...]:
    return (
        "The original notebook draws one plain and one residual network, sends one random input through each and "
        f"{sent(settings[0].cotangent)} back, and divides the norm of the first weight gradient by that of the last. "
        "N, the plain network's ratio over the residual one's, is its conclusion: "
        '"ResNet maintains gradient flow N× better".',
        f"Here the same is done in its settings ({joined(pair.name for pair in settings)}) with {seeds_of(readings)}. "
        f"The first pair ({settings[0].seeds(seed)}) plays the notebook's one draw; the others are what it might as "
        f"well have drawn. {_sharing(settings[0], seed)}",
    )


def _sharing(pair: Pair, seed: int) -> str:
    if pair.partner[seed] == seed:
        return "With one seed the two networks share their normals, which those of the notebook do not."
    return (
        "As in the notebook, the two networks of a pair share no weight: the plain one of a seed is set against the "
        "residual one of the next."
    )


def _answer(pairs: Sequence[Pair], settings: Sequence[Pair], seed: int) -> str:
    pair = settings[0]
    draw = _draw(pair, seed)
    said = f"Drawn once ({pair.name}; {draw.seeds}), it says {_better(draw.paired)}. " if draw else ""
    return f"{said}{_spread(pair)}. {_disagreement([_dissent(each) for each in _alike(pairs, pair)])}"


def _alike(pairs: Sequence[Pair], pair: Pair) -> list[Pair]:
    """All pairs with the cotangent of `pair`."""
    return [each for each in pairs if each.cotangent == pair.cotangent]


def _dissent(pair: Pair) -> float:
    """The share of draws that contradict the majority of draws."""
    return min(pair.above, 1 - pair.above)


AGREED = 0.01
"""The share of dissenting draws below which draws are said to agree."""


def _disagreement(shares: Sequence[float]) -> str:
    low, high = percent(min(shares)), percent(max(shares))
    among = low if low == high else f"{low} to {high}"
    if max(shares) < AGREED:
        return f"Draws agree on which network has the larger ratio: {among} of them contradict the majority."
    return f"One draw settles nothing: {among} of draws, depending on the setting, contradict the majority."


# ------------------------------------------------------------------------------------------------------- the one draw


@dataclass(frozen=True)
class Draw:
    """The one draw in its distribution: three ratios, the share of draws whose N is smaller, and the two seeds."""

    plain: float
    residual: float
    paired: float
    rank: float
    seeds: str


def _draw(pair: Pair, seed: int) -> Draw | None:
    """The draw of a seed; None if it is dead."""
    found = [pair.values(design).filter(pl.col("seed") == seed)["value"] for design in ("plain", "residual", PAIRED)]
    if not all(map(len, found)):
        return None
    rank = float(str((pair.values(PAIRED)["value"] < found[2][0]).mean()))
    return Draw(found[0][0], found[1][0], found[2][0], rank, pair.seeds(seed))


def _median(pair: Pair, design: str) -> float:
    return quantiles(pair, design)["q50"]


def _better(ratio: float) -> str:
    """What the notebook prints: it takes the larger ratio for the worse flow."""
    worse = "" if ratio > 1 else ", which is to say worse"
    return f'"ResNet maintains gradient flow {number(ratio, 2)}× better"{worse}'


def _spread(pair: Pair) -> str:
    found = quantiles(pair, PAIRED)
    return (
        f"Over {plural(pair.drawn, 'draw')} N has the median {number(found['q50'])} and lies between "
        f"{_between(pair, ' and ')}"
    )


def _between(pair: Pair, to: str = " to ") -> str:
    """Where N is in nine draws of ten; where it is in all, if they are so few that a quantile is an extreme."""
    values, found = pair.values(PAIRED)["value"], quantiles(pair, PAIRED)
    if len(values) >= SEEDS:
        return f"{number(found['q05'])}{to}{number(found['q95'])} in nine draws of ten"
    low, high = (number(float(str(end))) for end in (values.min(), values.max()))
    return f"{low}{to}{high} in all of {plural(len(values), 'draw')}"


def _drawn_once(pair: Pair, seed: int) -> list[Block]:
    """One setting: what one draw says, and the distribution that it is from."""
    chart = charts.distribution(
        pair.readings,
        RATIO,
        seed=seed if _draw(pair, seed) else None,
        called="one draw",
        title="ratio, on a log axis",
        reference=1.0,
    )
    figure = Figure(
        name=f"Ratio of first to last weight gradient: {pair.name}, {plural(pair.drawn, 'draw')}",
        chart=chart,
        caption=(
            "How often each ratio ‖dW_{first}‖/‖dW_{last}‖ occurs in the plain and in the residual network, and N, the "
            "one over the other. Solid line: the one draw. Dashed line: 1, where both ends, or both networks, are "
            "alike."
        ),
        table=_distribution_table(pair),
    )
    return [Prose((_one_draw(pair, seed),), f"One draw, and {pair.drawn:,}: {pair.name}"), figure]


def _one_draw(pair: Pair, seed: int) -> str:
    draw = _draw(pair, seed)
    if draw is None:
        return (
            f"The one draw ({pair.seeds(seed)}) is dead: no gradient arrives, and there is no ratio. {_spread(pair)}."
        )
    opposite = 1 - pair.above if draw.paired > 1 else pair.above
    return (
        f"In the one draw the ratio is {number(draw.plain)} in the plain network and "
        f"{number(draw.residual)} in the residual one, so N is {number(draw.paired)}: {_better(draw.paired)}. "
        f"{_spread(pair)}; {percent(draw.rank)} of draws have a smaller N than this one, and {percent(opposite)} say "
        "the opposite of what it says."
    )


def _distribution_table(pair: Pair) -> pl.DataFrame:
    rows = []
    for design in ("plain", "residual", PAIRED):
        values = pair.values(design)["value"]
        share = percent(float(str((values > 1).mean())))
        rows.append((design, len(values), pair.drawn - len(values), *quantiles(pair, design).values(), share))
    names = ["ratio", "draws", "dead", *QUANTILE_NAMES.values(), "above 1"]
    return pl.DataFrame(rows, schema=names, orient="row")


# ---------------------------------------------------------------------------------------------------- the depth sweep


def _sweep(pairs: Sequence[Pair], summary: Summary) -> list[Block]:
    """The notebook's last part: the ratio against depth, and what it hides."""
    try:
        drawn = charts.depth_ratio_data(summary, RATIO)
    except InputError:  # measured at one depth only
        return []
    swept = [pair for pair in pairs if pair.width in set(drawn["width"])]
    if not swept:
        return []
    shown = drawn.select("depth", "cotangent", "design", "width", "n", *QUANTILE_NAMES).rename(
        {"cotangent": "sent back", "design": "network", "n": "draws", **QUANTILE_NAMES}
    )
    figure = Figure(
        name="Ratio of first to last weight gradient, against depth",
        chart=charts.depth_ratio(summary, RATIO),
        caption=(
            "Line: median; dark band: 25 to 75 % of draws; light band: 5 to 95 %; a panel for what is sent back: the "
            "notebook's ones, or a Gaussian gradient, which favours no direction. Dashed: 1, both ends alike."
        ),
        table=shown,
    )
    table = Table(
        depth_table(swept),
        "Quantiles over draws of ‖dW_{first}‖/‖dW_{last}‖, and of N, the plain network's over that of an independent "
        "residual one, or of the one with the same seed, whose normals it shares. Dead: pairs in which no gradient "
        "arrives in one of the two; they are counted and left out.",
        main=("plain|median", "residual|median", "N|median"),
    )
    blocks: list[Block] = [Prose((_against_depth(swept),), "The ratio against depth"), figure, table]
    hidden = growth_table(swept, summary)
    return [*blocks, *_hidden(hidden)] if hidden.height else blocks


def _hidden(table: pl.DataFrame) -> list[Block]:
    """What happens between first and last, where the ratio sees nothing."""
    deepest = table.sort("d", maintain_order=True).row(-1, named=True)

    def whole(design: str) -> str:
        signal, gradient = (deepest[f"{design}: {what}|whole body"] for what in ("signal", "gradient"))
        return (
            f"the signal of the {design} network by a factor of {number(signal)} and its gradient by {number(gradient)}"
        )

    said = (
        "The ratio compares two ends of one network; where signal and gradient grow alike, it sees neither. At depth "
        f"{deepest['d']}, with {sent(deepest['sent back'])} sent back, blocks change {whole('residual')}, and "
        f"{whole('plain')} (medians over draws)."
    )
    caption = (
        "Medians over draws. A block: factor on the squared norm from one block to the next. Whole body: factor on the "
        "norm from one end of all blocks to the other."
    )
    bold = tuple(name for name in table.columns if name.endswith("whole body"))
    return [Prose((said,), "What the ratio hides"), Table(table, caption, main=bold)]


def _medians(pairs: Sequence[Pair], design: str, cotangent: str) -> list[float]:
    return [_median(pair, design) for pair in pairs if pair.cotangent == cotangent]


def _span(values: Sequence[float]) -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def _where(pairs: Sequence[Pair]) -> str:
    """The sizes of the networks, and their depths."""
    low, high = min(pair.depth for pair in pairs), max(pair.depth for pair in pairs)
    return f"{pairs[0].sizes}, depth {low if low == high else f'{low} to {high}'}"


def _against_depth(pairs: Sequence[Pair]) -> str:
    """The medians against depth, and how the spread grows."""
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.cotangent, pair.sizes), []).append(pair)
    told = [
        f"With {sent(cotangent)} sent back the median ratio is {_span(_medians(group, 'plain', cotangent))} in the "
        f"plain networks of {_where(group)} and {_span(_medians(group, 'residual', cotangent))} in the residual ones."
        for (cotangent, _), group in groups.items()
    ]
    first = pairs[0]
    pairs = [pair for pair in pairs if pair.sizes == first.sizes]
    last = max(_alike(pairs, first), key=lambda pair: pair.depth)
    spread = [found["q95"] / found["q05"] for found in (quantiles(pair, "plain") for pair in (first, last))]
    grows = "grows" if spread[1] > spread[0] else "does not grow"
    told.append(
        f"The spread between draws of the plain network {grows} with depth: its 95 % quantile is {number(spread[0])} "
        f"times its 5 % quantile at depth {first.depth}, and {number(spread[1])} times at depth {last.depth} "
        f"({sent(first.cotangent)} sent back)."
    )
    return " ".join(told)


# ---------------------------------------------------------------------------------------------------------- the claims

Verdicts = dict[tuple[str, str], Finding]  # by cell and rule


def _claims(
    pairs: Sequence[Pair], settings: Sequence[Pair], seed: int, summary: Summary, findings: Sequence[Finding]
) -> Iterator[Claim]:
    # One setting, that with the most depths, so that no two claims speak of different networks.
    sizes = [pair.sizes for pair in _alike(pairs, settings[0])]
    main = [pair for pair in pairs if pair.sizes == max(sizes, key=sizes.count)]
    deepest = max(_alike(main, settings[0]), key=lambda pair: pair.depth)
    verdicts = {(finding.cell, finding.rule): finding for finding in findings}
    yield _better_claim(pairs, settings, seed)
    yield from _vanishing_claim(main, deepest, verdicts)
    yield from _ratio_claim(main, deepest, verdicts, summary)
    yield _fair_claim(settings[0])
    yield _degradation_claim(deepest, verdicts)
    yield from _identity_claim(deepest, verdicts)


def _better_claim(pairs: Sequence[Pair], settings: Sequence[Pair], seed: int) -> Claim:
    shares = [_dissent(pair) for pair in _alike(pairs, settings[0])]
    found = [(pair, _draw(pair, seed)) for pair in settings]
    draws = joined(
        f"{number(draw.paired) if draw else 'dead'} in the one draw and {_between(pair)} at {pair.name}"
        for pair, draw in found
    )
    said = (
        f"{_disagreement(shares)} N is {draws}. Nor is a larger ratio a worse flow: by this measure a first gradient "
        "three times the last is bad, and one a hundredth of the last excellent."
    )
    return Claim("ResNet maintains gradient flow N times better.", "right" if max(shares) < AGREED else "wrong", said)


def _vanishing_claim(pairs: Sequence[Pair], deepest: Pair, verdicts: Verdicts) -> Iterator[Claim]:
    finding = verdicts.get((deepest.cells[0], "gradient"))
    if finding is None:
        return
    told: dict[str, tuple[Holds, str]] = {
        "vanishing": ("right", "It does"),
        "exploding": ("wrong", "It explodes"),
        "dead": ("right", "It does, wholly"),
        "healthy": ("wrong", f"It stays within a factor of {FACTOR:g}"),
        "spread out": (
            "wrong",
            "It does not: what depth adds is spread between draws, and as they move apart the median draw moves with "
            "them",
        ),
        "cannot tell": ("unknown", "These draws do not decide it"),
    }
    holds, words = told[finding.verdict]
    said = f"{words}. At {deepest.name}, with {sent(deepest.cotangent)} sent back, {measured(finding)}."
    ones, gaussian = (_medians(pairs, "plain", cotangent) for cotangent in ("ones", "gaussian"))
    if ones:
        said += f" {_first_is(ones, 'ones', _where(pairs))}"
    if ones and gaussian:
        said += f" {_first_is(gaussian, 'gaussian', _where(pairs))} {_artefact(ones, gaussian)}"
    yield Claim("In the plain network the gradient vanishes on its way to the first layer.", holds, said)


APART = 1.1
"""By which factor medians must differ to be called different; the error of a median over 2000 draws is 2 to 4 %."""


def _first_is(medians: Sequence[float], cotangent: str, where: str) -> str:
    """Whether the first weight gradient is larger or smaller than the last."""
    if min(medians) > APART:
        words = "the first weight gradient is larger than the last"
    elif max(medians) < 1 / APART:
        words = "the first weight gradient is smaller than the last"
    elif min(medians) > 1 / APART and max(medians) < APART:
        words = "first and last weight gradient are alike"
    else:
        words = "which of first and last weight gradient is larger depends on the depth"
    return f"With {sent(cotangent)} sent back {words} (median ratio {_span(medians)} at {where})."


def _artefact(ones: Sequence[float], gaussian: Sequence[float]) -> str:
    if min(ones) > APART * max(gaussian) or max(ones) < min(gaussian) / APART:
        return (
            "So the ratio is about what is sent back as much as about the network: a gradient of ones is coherent with "
            "a ReLU output, and a Gaussian one is not."
        )
    return "So it makes little difference what is sent back."


def _ratio_claim(pairs: Sequence[Pair], deepest: Pair, verdicts: Verdicts, summary: Summary) -> Iterator[Claim]:
    told = [verdicts[deepest.cells[1], rule] for rule in ("signal", "gradient") if (deepest.cells[1], rule) in verdicts]
    table = growth_table([deepest], summary)
    if not told or table.is_empty():
        return
    growth = table.row(0, named=True)
    numbers = joined(
        f"the {what} by a factor of {number(growth[f'residual: {what}|a block'])} a block (squared norm) and of "
        f"{number(growth[f'residual: {what}|whole body'])} over all blocks (norm)"
        for what in ("signal", "gradient")
    )
    same = _alike(pairs, deepest)
    ratios = _span(_medians(same, "residual", deepest.cotangent))
    said = f"The residual network's median ratio is {ratios} at {_where(same)}, {sent(deepest.cotangent)} sent back."
    grown = f"At {deepest.name} its blocks change {numbers}, as medians over draws."
    exploding = joined(finding.rule for finding in told if finding.verdict == "exploding")
    claim = "The ratio of first to last gradient shows how well the gradient flows."
    if exploding:
        yield Claim(claim, "wrong", f"{said} It is blind to the explosion of {exploding}. {grown}")
    else:
        words = joined(f"{finding.rule}: {finding.verdict}" for finding in told)
        yield Claim(claim, "unknown", f"{said} There is no explosion here that it could miss ({words}). {grown}")


def _fair_claim(pair: Pair) -> Claim:
    plain, residual = pair.plain, pair.residual
    stage = residual.stages[0]
    ratio = residual.parameters / plain.parameters
    work = residual.multiply_adds / plain.multiply_adds
    said = (
        f"At depth {pair.depth} the plain network has {plain.depth} weight layers and {plain.parameters:,} parameters, "
        f"the residual one {residual.depth} and {residual.parameters:,}: {number(ratio)} times the parameters and "
        f"{number(work)} times the multiply-adds."
    )
    paper = stage.order == "after-add" and stage.norm == "batch"
    if not paper:
        norm = "no normalisation" if stage.norm == "none" else f"{stage.norm} normalisation"
        place = {"before-add": "before the addition", "after-add": "after it", "pre-activation": "before the weights"}
        said += (
            f" And the block, with {norm} and its ReLU {place[stage.order]}, is not that of He et al. 2015 "
            "(arXiv:1512.03385, Fig. 2), which normalises by batch and has a ReLU after the addition."
        )
    fair = paper and 0.95 <= ratio <= 1.05
    return Claim("A plain and a residual network of one depth d are a fair pair.", "right" if fair else "wrong", said)


def _degradation_claim(deepest: Pair, verdicts: Verdicts) -> Claim:
    finding = verdicts.get((deepest.cells[0], "gradient"))
    here = f" (before training the plain network's gradient is judged: {finding.verdict})" if finding else ""
    return Claim(
        "Deep plain networks degrade because their gradients vanish.",
        "unknown",
        "Degradation is a higher training error of the deeper network. Nothing was trained here, so these readings do "
        f"not bear on it{here}. He et al. 2015 themselves call vanishing gradients an unlikely cause "
        "(arXiv:1512.03385, section 4.1): with batch normalisation the gradients of their plain networks keep "
        "healthy norms.",
    )


def _identity_claim(deepest: Pair, verdicts: Verdicts) -> Iterator[Claim]:
    finding = verdicts.get((deepest.cells[1], "gradient"))
    if finding is None:
        return
    told: dict[str, tuple[Holds, str]] = {
        "vanishing": ("wrong", "It vanishes in spite of the identity"),
        "exploding": ("wrong", "The identity says nothing about explosion, and the gradient explodes"),
        "dead": ("wrong", "Nothing arrives"),
        "healthy": ("right", f"It stays within a factor of {FACTOR:g}"),
        "spread out": ("wrong", "It differs too much from draw to draw for that"),
        "cannot tell": ("unknown", "These draws do not decide it"),
    }
    holds, words = told[finding.verdict]
    said = f"{words}. At {deepest.name}, {measured(finding)}."
    yield Claim("dL/dx = dL/dy (dF/dx + I): the + I ensures that gradients always flow.", holds, said)


# -------------------------------------------------------------------------------------------------------- the verdicts


def _verdicts(findings: Sequence[Finding], readings: Readings) -> list[Block]:
    """All verdicts in one table, and the findings in full behind it."""
    cells = {row["cell"]: row for row in readings.cells.iter_rows(named=True)}
    rows: dict[str, dict[str, object]] = {}
    for finding in findings:
        cell = cells[finding.cell]
        what = {"network": cell["design"], "d": cell["depth"], "width": cell["width"], "sent back": cell["cotangent"]}
        rows.setdefault(finding.cell, what)[finding.rule] = finding.verdict
    back = pl.col("sent back") != "ones"
    table = pl.DataFrame(list(rows.values())).sort("width", back, "d", "network")
    folded = f"All {len(findings)} findings, with thresholds, sources and evidence"
    caption = f"{capital(plural(len(rows), 'network'))}, and the verdict on each."
    return [Table(table, caption, folded="The verdict on every network, as a table"), Findings(tuple(findings), folded)]

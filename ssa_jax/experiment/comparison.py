"""Evaluated networks compared case by case: their tables read and paired, the files written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from input_pipeline.files import atomic_directory, require_own, write_bytes, write_json, write_text
from ssa_jax.evaluation.comparison import METRICS, Compared, compare, notes_of, table_rows
from ssa_jax.evaluation.paired import RESAMPLES
from ssa_jax.evaluation.text_table import format_rows, latex_table, latex_text, markdown_table
from ssa_jax.experiment.case_tables import (
    Table,
    check_same,
    origin_notes,
    patients_of,
    read_table_of,
    scores_in,
    shared_cases,
    tables_named,
)
from ssa_jax.figures.differences import paired_differences
from ssa_jax.figures.drawing import png_bytes

OUTPUTS = ("comparison.json", "comparison.md", "comparison.tex", "comparison.png")


def compare_networks(
    given: Sequence[str], *, metric: str, common: bool, out: Path | None
) -> dict[str, Any]:
    """Compare evaluated networks with the first one, in the same cases.

    Args:
        given: 'NAME=PATH[,PATH...]' or 'PATH' for each network, see `case_tables.tables_named`.
            Several paths are repetitions or parts: the value of a case is the mean over those that
            hold it.
        metric: 'dsc', 'hd95', 'nsd' or 'mae'.
        common: compare the cases that all networks have, instead of refusing others.
        out: folder for `OUTPUTS`; None writes nothing.

    Returns:
        The content of `comparison.json`: 'metric', 'unit', 'reference', 'networks' (the folders of
        each, with their number of cases), 'cases', 'patients', 'left_out' (number of cases that not
        all have), 'confidence', 'resamples', 'classes' (of `comparison.compare`) and 'notes'.

    Raises:
        ValueError: fewer than two networks, tables that are damaged or not of the same cases, truth
            or classes.
        OSError: a file cannot be read or written.
        FileExistsError: `out` holds files of these names that no comparison wrote.
    """
    folders = tables_named(given)
    if len(folders) < 2:
        raise ValueError(
            f"{len(folders)} network is given, expected two or more; name the reference first"
        )
    return compare_tables(folders, metric=metric, common=common, out=out)


def compare_tables(
    folders: Mapping[str, Sequence[Path]], *, metric: str, common: bool, out: Path | None
) -> dict[str, Any]:
    """Compare evaluated networks with the first one, see `compare_networks`.

    Args:
        folders: of each network's tables, two networks or more.
        metric: to compare.
        common: whether to leave out cases that not all networks have.
        out: folder for `OUTPUTS`; None writes nothing.

    Returns:
        The content of `comparison.json`.

    Raises:
        ValueError, OSError: as `compare_networks`.
    """
    if out is not None:
        require_own(out, OUTPUTS, what="comparison")
    networks = {
        name: [read_table_of(folder, metric) for folder in paths] for name, paths in folders.items()
    }
    check_same(networks, metric)
    cases, left_out = shared_cases(networks, common=common)
    compared = _compared(networks, cases, metric)
    result = _result(networks, compared, metric, left_out)
    if out is not None:
        _write(result, out)
    return result


def comparison_text(result: Mapping[str, Any]) -> str:
    """Format a comparison as aligned plain text.

    Args:
        result: of `compare_networks`.
    """
    notes = [f"note: {note}" for note in result["notes"]]
    return "\n".join(
        [_head(result), "", *format_rows(_rows(result)), *([""] if notes else []), *notes]
    )


def _compared(
    networks: Mapping[str, Sequence[Table]], cases: Sequence[str], metric: str
) -> dict[str, Compared]:
    """Return the scores of each network in the cases, and those of its repetitions."""
    patients = patients_of(table for tables in networks.values() for table in tables)
    compared: dict[str, Compared] = {}
    for name, tables in networks.items():
        repeated = len(tables) > 1 and all(t.cases == tables[0].cases for t in tables)
        compared[name] = Compared(
            scores_in(tables, cases, patients, metric),
            [scores_in([table], cases, patients, metric) for table in tables if repeated],
        )
    return compared


def _result(
    networks: Mapping[str, Sequence[Table]],
    compared: Mapping[str, Compared],
    metric: str,
    left_out: int,
) -> dict[str, Any]:
    """Compute the content of `comparison.json`."""
    scores = next(iter(compared.values())).scores
    first = next(iter(networks.values()))[0].rows[0]["standard"]
    units = {"hd95": first["unit"], "nsd": f"{first['tolerance']:g} {first['unit']}"}
    classes = compare(compared, metric)
    notes = [*origin_notes(networks), *notes_of(classes, compared)]
    if left_out:
        notes.insert(0, f"cases left out, as not all networks have them: {left_out}")
    return {
        "metric": metric,
        "unit": units.get(metric),
        "reference": next(iter(networks)),
        "networks": {
            name: [{"path": str(t.folder), "cases": len(t.cases)} for t in tables]
            for name, tables in networks.items()
        },
        "cases": len({score.case for score in scores}),
        "patients": len({score.patient for score in scores}),
        "left_out": left_out,
        "confidence": 0.95,
        "resamples": RESAMPLES,
        "classes": classes,
        "notes": notes,
    }


def _write(result: Mapping[str, Any], out: Path) -> None:
    """Write the files of a comparison, all or none."""
    rows, head = _rows(result), _head(result)
    picture = paired_differences(
        result["classes"],
        title=_title(result),
        reference=result["reference"],
        more_is_better=METRICS[result["metric"]].best > 0,
    )
    page = [head, "", *markdown_table(rows), ""]
    page += [f"- {note}" for note in result["notes"]] + ["", "![Differences](comparison.png)"]
    table = ["% needs \\usepackage{booktabs}", *latex_table(rows, groups=True)]
    notes = [f"% {latex_text(line)}" for line in (head, *result["notes"])]
    with atomic_directory(out, owned=OUTPUTS) as folder:
        write_json(folder / OUTPUTS[0], result)
        write_text(folder / OUTPUTS[1], "\n".join(page) + "\n")
        write_text(folder / OUTPUTS[2], "\n".join([*notes, *table]) + "\n")
        write_bytes(folder / OUTPUTS[3], png_bytes(picture))


def _rows(result: Mapping[str, Any]) -> list[list[str]]:
    return table_rows(result["classes"], result["metric"], result["reference"])


def _head(result: Mapping[str, Any]) -> str:
    """Say what the table shows."""
    tests = sum(
        row.get("p") is not None for rows in result["classes"].values() for row in rows.values()
    )
    text = f"{_title(result)} of {_count(result['cases'], 'case')} of "
    text += _count(result["patients"], "patient")
    if tests:
        text += "; intervals by bootstrap over patients, p by Wilcoxon's signed ranks of patients' "
        text += f"means, Holm's correction over {_count(tests, 'test')}"
    return text


def _title(result: Mapping[str, Any]) -> str:
    unit = {"hd95": " ({})", "nsd": " at {}"}.get(result["metric"], "")
    return METRICS[result["metric"]].title + unit.format(result["unit"])


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"

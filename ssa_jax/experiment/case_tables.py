"""Tables of scored cases for a comparison: found, read, and checked to be of the same truth."""

import math
import os.path
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline.files import UNFINISHED
from ssa_jax.evaluation.metrics import CaseRow
from ssa_jax.evaluation.paired import Score
from ssa_jax.experiment.data import TRAIN, VALIDATION
from ssa_jax.experiment.evaluation import read_rows, read_summary
from ssa_jax.experiment.workdir import FOLDS_FILE

TABLE = "cases.csv"
NAMED = 3  # cases that an error names
LISTED = 12  # tables that an error lists
EXPECTED = "expected NAME=PATH, NAME=PATH,PATH or PATH"


class Table(NamedTuple):
    """The cases of one evaluation.

    Attributes:
        folder: that holds the table.
        summary: its `metrics.json`.
        rows: of each case and class, once for each fold that held the case out; the names of the
            cases are those of the data set, without the fold.
    """

    folder: Path
    summary: Mapping[str, Any]
    rows: Sequence[CaseRow]

    @property
    def cases(self) -> set[str]:
        """Names of the cases."""
        return {row["case"] for row in self.rows}

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the table."""
        return list(dict.fromkeys(row["class_name"] for row in self.rows))


def tables_named(given: Sequence[str]) -> dict[str, list[Path]]:
    """Find the folders of tables of each network that a command line names.

    Args:
        given: 'NAME=PATH[,PATH...]' or 'PATH', which is named by its folder. A path is a folder
            that holds `cases.csv`, or has one such folder in it; folders within that do not count.

    Returns:
        The folders of each network, by name.

    Raises:
        ValueError: a name that two networks have, a folder twice, none or several tables in one.
        FileNotFoundError: a path does not exist.
    """
    networks: dict[str, list[Path]] = {}
    seen: dict[Path, str] = {}
    for text in given:
        name, paths = _name_and_paths(text)
        if name in networks:
            raise ValueError(
                f"{text}: two networks are named {name!r}, expected a name for each; write "
                "NAME=PATH, or NAME=PATH,PATH for several paths of one network"
            )
        networks[name] = [_find(path) for path in paths]
        for folder in networks[name]:
            if folder.resolve() in seen:
                raise ValueError(
                    f"{folder}: is given for {seen[folder.resolve()]} and for {name}, expected "
                    "each table once"
                )
            seen[folder.resolve()] = name
    return networks


def read_table_of(folder: Path, metric: str) -> Table:
    """Read the cases of an evaluation, whole volumes where there are any.

    Args:
        folder: written by `evaluate`, `cross_validate`, `self_train` (its `test/`) or `score`.
        metric: that every row must have.

    Raises:
        ValueError: the table is damaged, empty or lacks the metric or a class of a case.
        OSError: it cannot be read.
    """
    if not (folder / "metrics.json").exists():
        raise FileNotFoundError(
            f"{folder}: holds {TABLE} without metrics.json, expected both as they are written; "
            "copy that too, or evaluate again"
        )
    summary = read_summary(folder)
    folds = summary.get("folds", 0)
    prefixes = tuple(f"fold_{number}/" for number in range(1, folds + 1))
    rows = [_without_fold(row, prefixes, folder) for row in read_rows(folder, "")]
    if not rows:
        raise ValueError(f"{folder / TABLE}: holds no case, expected one or more; evaluate again")
    table = Table(folder, summary, rows)
    _check_values(table, metric)
    _check_complete(table, repeated=bool(folds))
    return table


def check_same(networks: Mapping[str, Sequence[Table]], metric: str) -> None:
    """Check that all tables are of the same classes and truth, and in the same unit.

    Args:
        networks: tables of each.
        metric: to be compared; only distances have a unit.

    Raises:
        ValueError: they are not.
    """
    tables = [table for of_network in networks.values() for table in of_network]
    keys = {"hd95": ("unit",), "nsd": ("unit", "tolerance")}.get(metric, ())
    first: Mapping[str, Any] = tables[0].rows[0]["standard"]
    truths: dict[tuple[str, str], tuple[float, Path]] = {}
    for table in tables:
        if set(table.classes) != set(tables[0].classes):
            raise ValueError(
                f"{table.folder}: has the classes {', '.join(table.classes)}, expected those of "
                f"{tables[0].folder}, {', '.join(tables[0].classes)}; compare networks of the same "
                "data.task"
            )
        for row in table.rows:
            block: Mapping[str, Any] = row["standard"]
            for key in keys:
                if block[key] != first[key]:
                    raise ValueError(
                        f"{table.folder}: {row['case']} has the {key} {block[key]}, expected "
                        f"{first[key]} as in {tables[0].folder}; evaluate both alike or compare DSC"
                    )
            size = block["truth_size"]
            here = row["case"], row["class_name"]
            there = truths.setdefault(here, (size, table.folder))
            if size != there[0]:
                raise ValueError(
                    f"{table.folder}: the truth of {here[1]} in {here[0]} has {size:g} pixels, "
                    f"expected the {there[0]:g} of {there[1]}; compare networks that were "
                    "evaluated on the same data"
                )


def patients_of(tables: Iterable[Table]) -> dict[str, str]:
    """Return the patient of each case; one that no table names is the case itself.

    Args:
        tables: of all networks.

    Raises:
        ValueError: two tables name different patients.
    """
    known: dict[str, tuple[str, Path]] = {}
    for table in tables:
        for row in table.rows:
            case, patient = row["case"], row["patient"]
            before, folder = known.get(case, (case, table.folder))
            if before not in (case, patient) and patient != case:
                raise ValueError(
                    f"{table.folder}: {case} is of patient {patient!r}, expected {before!r} as in "
                    f"{folder}; compare networks that were evaluated on the same data"
                )
            if before == case:
                known[case] = patient, table.folder
    return {case: patient for case, (patient, _) in known.items()}


def shared_cases(networks: Mapping[str, Sequence[Table]], *, common: bool) -> tuple[list[str], int]:
    """Return the cases that all networks have, sorted, and the number of the others.

    Args:
        networks: tables of each.
        common: leave out the others instead of refusing them.

    Raises:
        ValueError: there are others and not `common`, or there is no case that all have.
    """
    cases = {
        name: set[str]().union(*(table.cases for table in tables))
        for name, tables in networks.items()
    }
    every, shared = set[str]().union(*cases.values()), set.intersection(*cases.values())
    if not shared:
        listed = "; ".join(f"{name} has {_some(found)}" for name, found in cases.items())
        raise ValueError(
            f"no case that all networks have ({listed}), expected evaluations of the same data"
        )
    if every - shared and not common:
        listed = "; ".join(
            f"{name} lacks {len(every - found)} of {len(every)} ({_some(every - found)})"
            for name, found in cases.items()
            if every - found
        )
        raise ValueError(
            f"not all networks have the same cases: {listed}; evaluate them on the same data, or "
            f"compare the {len(shared)} that all have by --common"
        )
    return sorted(shared), len(every) - len(shared)


def scores_in(
    tables: Sequence[Table], cases: Sequence[str], patients: Mapping[str, str], metric: str
) -> list[Score]:
    """Average a metric of each case and class over the tables that hold the case.

    Args:
        tables: of one network. The folds of a cross-validation that held out the same case count
            as one table.
        cases: the cases wanted, each in a table at least.
        patients: the patient of each case.
        metric: of the `standard` block.

    Returns:
        The scores, by case and class; undefined values are no part of a mean, see `Score.share`.
    """
    weighted: dict[tuple[str, str], list[tuple[float, float]]] = {}  # value by share, and share
    for table in tables:
        values: dict[tuple[str, str], list[float | None]] = {}
        for row in table.rows:
            block: Mapping[str, Any] = row["standard"]
            values.setdefault((row["case"], row["class_name"]), []).append(block[metric])
        for key, of_folds in values.items():
            known = [value for value in of_folds if value is not None]
            entry = math.fsum(known) / len(of_folds), len(known) / len(of_folds)
            weighted.setdefault(key, []).append(entry)
    scores = []
    for case in cases:
        for name in tables[0].classes:
            entries = weighted[case, name]
            total, shares = (math.fsum(column) for column in zip(*entries, strict=True))
            value = total / shares if shares else None
            scores.append(Score(case, patients[case], name, value, shares / len(entries)))
    return scores


def origin_notes(networks: Mapping[str, Sequence[Table]]) -> list[str]:
    """Say where the scores of a network flatter it, or its paths hold a case unequally often.

    Args:
        networks: tables of each.
    """
    notes = []
    for name, tables in networks.items():
        origins = {(t.summary.get("split"), t.summary.get("checkpoint")) for t in tables}
        if any(split == TRAIN for split, _ in origins):
            notes.append(f"{name}: scored on slices that it was trained on")
        if (VALIDATION, "best") in origins:
            notes.append(
                f"{name}: its checkpoint was chosen on these slices, so its scores are too high; "
                "evaluate all networks with --which last"
            )
        held = [
            sum(case in t.cases for t in tables) for case in set().union(*(t.cases for t in tables))
        ]
        if min(held) != max(held):
            notes.append(
                f"{name}: some cases are in {min(held)} of its {len(tables)} paths and others in "
                f"{max(held)}; each is the mean of those that hold it"
            )
    return notes


def _name_and_paths(text: str) -> tuple[str, list[Path]]:
    """Split what names a network; a path that exists may hold commas and equals signs."""
    name, mark, rest = text.partition("=")
    if not mark or os.path.exists(os.path.expanduser(text)):
        name, rest = "", text
    parts = [rest] if os.path.exists(os.path.expanduser(rest)) else rest.split(",")
    if not all(parts) or (mark and rest != text and not name):
        raise ValueError(f"{text!r}: {EXPECTED}")
    paths = [Path(part).expanduser() for part in parts]
    folder = paths[0].resolve() if paths[0].name in ("", "..") else paths[0]
    return name or folder.name, paths


def _find(path: Path) -> Path:
    """Return the folder of the only table at or below a path."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder; {EXPECTED}")
    if not path.is_dir():
        raise ValueError(f"{path}: is a file, expected the folder that holds {TABLE}")
    if (path / TABLE).exists():
        return path
    if (path / FOLDS_FILE).exists():
        raise ValueError(
            f"{path}: a cross-validation without {TABLE}, expected one that is done; run its "
            "command again, which goes on where it stopped"
        )
    below = path.rglob(TABLE)
    folders = {file.parent for file in below if UNFINISHED not in str(file.relative_to(path))}
    # A cross-validation's own table is of all its folds.
    found = sorted(str(folder) for folder in folders if not folders & set(folder.parents))
    if not found:
        raise ValueError(
            f"{path}: no {TABLE} in it or below, expected one; run ssa-jax evaluate on the workdir"
        )
    if len(found) > 1:
        more = [f"and {len(found) - LISTED} more"] if len(found) > LISTED else []
        raise ValueError(
            f"{path}: holds {len(found)} tables, expected one; name its folder: "
            f"{', '.join([*found[:LISTED], *more])}"
        )
    return Path(found[0])


def _check_values(table: Table, metric: str) -> None:
    """Check that every row has what is compared, and what the truth is known by."""
    path = table.folder / TABLE
    for row in table.rows:
        block: Mapping[str, Any] = row.get("standard", {})
        if not {metric, "truth_size", "unit", "tolerance"} <= block.keys():
            raise ValueError(
                f"{path}: lacks a column of standard.{metric}, truth_size, unit and tolerance, "
                "expected what ssa-jax evaluate writes; evaluate again"
            )
        known = {name: block[name] for name in (metric, "truth_size", "tolerance")}
        numbers = [
            0.0 if value is None and name == metric else value for name, value in known.items()
        ]
        if None in numbers or not all(map(math.isfinite, numbers)):
            raise ValueError(
                f"{path}: {row['case']} has {known}, expected finite numbers, or an empty cell of "
                f"{metric}; evaluate again"
            )


def _check_complete(table: Table, *, repeated: bool) -> None:
    """Check that every case has as many rows of each class, one unless folds repeat it."""
    classes, counts = table.classes, dict[str, dict[str, int]]()
    for row in table.rows:
        of_case = counts.setdefault(row["case"], dict.fromkeys(classes, 0))
        of_case[row["class_name"]] += 1
    for case, of_case in counts.items():
        if len(set(of_case.values())) > 1 or (not repeated and max(of_case.values()) > 1):
            raise ValueError(
                f"{table.folder / TABLE}: {case} has the rows {of_case} by class, expected one of "
                "each; evaluate again"
            )


def _without_fold(row: CaseRow, prefixes: tuple[str, ...], folder: Path) -> CaseRow:
    """Return a row of a cross-validation under the case's own name, without its fold's."""
    if not prefixes:
        return row
    for prefix in prefixes:
        if row["case"].startswith(prefix):
            return {**row, "case": row["case"].removeprefix(prefix)}
    raise ValueError(
        f"{folder / TABLE}: the case {row['case']} names no fold, expected one of "
        f"{', '.join(prefixes)}; run ssa-jax cross_validate again"
    )


def _some(cases: set[str]) -> str:
    """List the first of some cases."""
    listed = ", ".join(sorted(cases)[:NAMED])
    return listed + (", ..." if len(cases) > NAMED else "")

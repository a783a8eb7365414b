from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from startup_llm.config import DataConfig
from startup_llm.data.columns import list_columns
from startup_llm.errors import UserError, nearest

if TYPE_CHECKING:
    import datasets
    import numpy as np


class _Groups(NamedTuple):
    """The column whose equal values stay together, and what messages call it."""

    column: str
    name: str


def make_splits(
    splits: datasets.DatasetDict,
    data: DataConfig,
    *,
    stratify_by: str | None = None,
    group_by: str | None = None,
    group_name: str | None = None,
) -> tuple[datasets.DatasetDict, list[str]]:
    """Cut the missing test and validation splits from train; the same seed gives the same rows.

    The test is a share of the given rows, the validation split a share of what is left. Rows stand in their source's
    order in every split.

    Args:
        splits: The given splits, `train` among them.
        data: The shares `test_fraction` and `validation_fraction` (0 for no validation split) and `split_seed`; with
            `folds` the test split is part number `fold` of as many, which together are all rows.
        stratify_by: Column of hashable values whose shares are kept, with at least one row of each value in train;
            not used where `group_by` is given.
        group_by: Column whose equal values stay on one side of every cut.
        group_name: What messages call that column; default its name.

    Returns:
        The splits train, validation (unless its fraction is 0) and test; and notes to be reported.

    Raises:
        UserError: if a fraction is out of range, a group is missing, or there are too few rows or groups to cut.
    """
    import datasets

    if not 0 < data.test_fraction < 1:
        raise UserError(f"data.test_fraction ({data.test_fraction}) must lie between 0 and 1; try 0.2")
    if not 0 <= data.validation_fraction < 1:
        raise UserError(
            f"data.validation_fraction ({data.validation_fraction}) must be 0 or more and below 1; try 0.1"
        )
    result, notes = dict(splits), []
    groups = _Groups(group_by, group_name or group_by) if group_by else None
    if data.folds is not None:
        if "test" in result:
            raise UserError("data.folds cuts the test rows from the training rows, but a test split is given too")
        cut, kept = _cut_fold(result["train"], data, stratify_by, groups)
        notes.append(
            f"{len(cut):,} test rows are fold {data.fold} of {data.folds} of the {result['train'].num_rows:,} rows "
            f"({f'by {groups.name!r}' if groups else 'at random'}, seed {data.split_seed})."
        )
        result["test"], result["train"] = result["train"].select(cut), result["train"].select(kept)
    for split, fraction in (("test", data.test_fraction), ("validation", data.validation_fraction)):
        if split in result or fraction == 0:
            continue
        train = result["train"]
        if groups:
            cut, kept = _cut_by_group(train, split, fraction, data.split_seed, stratify_by, groups)
            how = f"by {groups.name!r}"
        else:
            cut, kept = cut_rows(
                _read_values(train, stratify_by), max(1, round(fraction * train.num_rows)), data.split_seed
            )
            how = "stratified by label" if stratify_by else "at random"
        if not len(cut) or not len(kept):
            raise UserError(
                f"{train.num_rows} training rows are too few to cut {fraction:g} of them for the {split} split and "
                f"keep one of each label; add rows or give a {split} split"
            )
        result[split], result["train"] = train.select(cut), train.select(kept)
        notes.append(f"{len(cut):,} {split} rows were cut from train ({how}, seed {data.split_seed}).")
    if groups:
        notes += _notes_on_shared_groups(result, groups)
    ordered = {split: result[split] for split in ("train", "validation", "test") if split in result}
    return datasets.DatasetDict(ordered), notes


def cut_rows(strata: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` rows so that every stratum gives its share and keeps at least one row.

    Shares are rounded by the largest remainder.

    Args:
        strata: Stratum of each row, shape (rows,).
        count: How many rows to draw; fewer are drawn where each stratum must keep a row.
        seed: Seed of the draw.

    Returns:
        Positions of the drawn rows and of the others, each ascending.
    """
    import numpy as np
    import pandas as pd

    generator = np.random.default_rng(seed)
    codes = pd.factorize(strata)[0]
    sizes = np.bincount(codes)  # (strata,)
    share = sizes * min(count, len(codes)) / len(codes)
    quota = np.minimum(np.floor(share).astype(int), sizes - 1)
    order = np.lexsort((generator.random(len(sizes)), -(share - quota)))  # largest remainder first, ties by lot
    while (missing := count - quota.sum()) > 0 and (open_strata := order[quota[order] < sizes[order] - 1]).size:
        quota[open_strata[:missing]] += 1
    shuffled = generator.permutation(len(codes))
    by_stratum = shuffled[np.argsort(codes[shuffled], kind="stable")]
    rank = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # position within the row's stratum
    is_drawn = rank < np.repeat(quota, sizes)
    return np.sort(by_stratum[is_drawn]), np.sort(by_stratum[~is_drawn])


def draw_rows(rows: datasets.Dataset, count: int, seed: int) -> datasets.Dataset:
    """Return so many rows in random order, drawn anew as often as all were drawn."""
    import numpy as np

    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(len(rows)) for _ in range(-(-count // len(rows)))]
    return rows.select(np.concatenate(drawn)[:count])


def sample_rows(
    dataset: datasets.Dataset, count: int, seed: int, *, stratify_by: str | None = None
) -> datasets.Dataset:
    """Return `count` rows in their order, drawn by `seed`, with one row of each stratum where there is room.

    Raises:
        UserError: if `count` is below 1.
    """
    import numpy as np

    if count < 1:
        raise UserError(f"data.max_train_rows and data.max_test_rows must be 1 or more, not {count}")
    if count >= dataset.num_rows:
        return dataset
    strata = _read_values(dataset, stratify_by)
    if len(set(strata)) <= count:
        return dataset.select(cut_rows(strata, dataset.num_rows - count, seed)[1])
    drawn = np.random.default_rng(seed).choice(dataset.num_rows, size=count, replace=False)
    return dataset.select(np.sort(drawn))


def handle_overlap(
    splits: datasets.DatasetDict, remove_overlap: bool, what: str
) -> tuple[datasets.DatasetDict, list[str]]:
    """Count training rows whose `digest` the test split holds too; remove them from train if asked to.

    Args:
        splits: Splits with a column `digest`.
        remove_overlap: Whether to remove them.
        what: What a row is, in the plural, such as images.

    Returns:
        The splits, and a note where there are such rows.

    Raises:
        UserError: If no training row is left.
    """
    tested = set(splits["test"]["digest"])
    is_shared = [digest in tested for digest in splits["train"]["digest"]]
    if not any(is_shared):
        return splits, []
    overlap_note = f"{sum(is_shared):,} training {what} stand in the test split too"
    if not remove_overlap:
        return splits, [f"{overlap_note}, so the test score may be too high; --data.remove_overlap true removes them."]
    if all(is_shared):
        raise UserError(f"all {len(is_shared)} training {what} stand in the test split; give another test split")
    splits["train"] = splits["train"].select([place for place, shared in enumerate(is_shared) if not shared])
    return splits, [f"{overlap_note}; they were removed from training."]


def check_group_column(rows: datasets.Dataset, column: str) -> None:
    """Refuse a column for `data.group_column` that rows have not.

    Raises:
        UserError: If there is no such column.
    """
    if column not in rows.column_names:
        raise UserError(
            f"data.group_column: no column {column!r} among {list_columns(rows.column_names, column)}"
            f"{nearest(column, rows.column_names)}"
        )


def read_groups(rows: datasets.Dataset, column: str) -> list[str | None]:
    """Return the group of each row as text; None where it has none.

    Args:
        rows: Rows of a split.
        column: The column that `data.group_column` names.

    Raises:
        UserError: If there is no such column.
    """
    check_group_column(rows, column)
    return [None if value is None else str(value) for value in rows[column]]


def _read_values(dataset: datasets.Dataset, column: str | None) -> np.ndarray:
    import numpy as np

    if column is None:
        return np.zeros(dataset.num_rows, dtype=int)
    return dataset.select_columns([column]).with_format("arrow")[:][column].to_pandas().to_numpy()


def _read_group_values(train: datasets.Dataset, groups: _Groups) -> np.ndarray:
    import numpy as np
    import pandas as pd

    values = _read_values(train, groups.column)
    missing = np.flatnonzero(pd.isna(values) | (values == ""))
    if len(missing):
        raise UserError(
            f"data.group_column: {len(missing)} rows have no {groups.name!r} (first: row {missing[0] + 1}); fill it in"
        )
    return values


def _cut_by_group(
    train: datasets.Dataset, split: str, fraction: float, seed: int, stratify_by: str | None, groups: _Groups
) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np
    import pandas as pd
    from sklearn.model_selection import GroupShuffleSplit

    values = _read_group_values(train, groups)
    if len(pd.unique(values)) < 2:
        raise UserError(
            f"no group of {groups.name!r} is left for the {split} split: all {len(values)} training rows have "
            f"{values[0]!r}; give the split or set data.{split}_fraction=0"
        )
    share = min(fraction, 1 - 1 / len(pd.unique(values)))  # one group at least stays in train
    kept, cut = next(GroupShuffleSplit(1, test_size=share, random_state=seed).split(values, groups=values))
    labels = _read_values(train, stratify_by)
    only_in_cut = ~pd.Series(labels[cut]).isin(set(labels[kept]))
    goes_back = np.isin(values[cut], values[cut][only_in_cut])
    if goes_back.all():
        raise UserError(
            f"no group of {groups.name!r} can be put aside for the {split} split: each that was drawn holds a "
            "label that no other group has; change data.split_seed or give the split"
        )
    return cut[~goes_back], np.sort(np.concatenate([kept, cut[goes_back]]))


def _cut_fold(
    train: datasets.Dataset, data: DataConfig, stratify_by: str | None, groups: _Groups | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the rows in fold `data.fold` of `data.folds`, and of the others, each ascending."""
    import numpy as np
    import pandas as pd
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    labels, group_codes = _read_values(train, stratify_by), None
    parts = len(labels)
    if groups:
        group_codes = pd.factorize(_read_group_values(train, groups))[0]
        parts = len(np.unique(group_codes))
    if data.folds is None or not 2 <= data.folds <= parts:
        what = f"groups of {groups.name!r}" if groups else "rows"
        raise UserError(f"data.folds ({data.folds}) must be 2 to {parts:,}, the number of {what}; try 5")
    codes = pd.factorize(labels)[0]
    kinds = {
        (False, False): KFold,
        (True, False): StratifiedKFold,
        (False, True): GroupKFold,
        (True, True): StratifiedGroupKFold,
    }
    splitter = kinds[stratify_by is not None, groups is not None](
        data.folds, shuffle=True, random_state=data.split_seed
    )
    kept, cut = list(splitter.split(codes, codes, group_codes))[data.fold - 1]
    return np.sort(cut), np.sort(kept)


def _notes_on_shared_groups(splits: dict[str, datasets.Dataset], groups: _Groups) -> list[str]:
    import numpy as np

    notes = []
    for split in ("validation", "test"):
        if split in splits and groups.column in splits[split].column_names:
            values = _read_values(splits[split], groups.column)
            is_shared = np.isin(values, _read_values(splits["train"], groups.column))
            if is_shared.any():
                notes.append(
                    f"{len(set(values[is_shared])):,} groups of {groups.name!r} stand in both train and {split} "
                    f"({int(is_shared.sum()):,} {split} rows), so the {split} score may be too high."
                )
    return notes

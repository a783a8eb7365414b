"""Whether rows that come in differ from those that a run was measured on: statistics of both, and tests on them.

The statistics hold no text: labels, scores, lengths, languages, features, and of the words those that stand in at
least `LEAST_ROWS_OF_A_WORD` rows and are letters alone, so that neither a number nor a rare name is kept.
"""

from __future__ import annotations

import dataclasses
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from startup_llm.errors import UserError
from startup_llm.evaluation import report
from startup_llm.pages import load_page

LEAST_ROWS_OF_A_WORD = 3
LEAST_ROWS = 20
"""Fewest rows whose tests say anything."""
_LEAST_EXPECTED = 5.0
"""Expected rows of a category from which the chi-squared distribution fits (Cochran 1954)."""
_SHOWN_CHANGES = 8
_DRAWS = 2_000
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class RowStatistics:
    """What is known of rows and of a model's answers to them.

    Attributes:
        rows: Their number.
        labels: How often each label was answered.
        scores: The answers' scores, shape (rows,); empty where there are none.
        lengths: What each row costs, in tokens, patches or frames.
        words: In how many rows each word stands; empty for rows without text.
        label_words: The same for the rows of each answered label.
        languages: In how many rows each language was recognised; empty where it was not asked.
        features: What the output layer read, shape (sample, width), float32.
        feature_mean: Their mean over the rows, shape (width,); alone where `features` is empty.
    """

    rows: int
    labels: Counter[str] = field(default_factory=Counter)
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))
    lengths: np.ndarray = field(default_factory=lambda: np.empty(0))
    words: Counter[str] = field(default_factory=Counter)
    label_words: dict[str, Counter[str]] = field(default_factory=dict)
    languages: Counter[str] = field(default_factory=Counter)
    features: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    feature_mean: np.ndarray = field(default_factory=lambda: np.empty(0))

    def to_json(self) -> dict[str, Any]:
        """Return all but the features as plain data; of them their mean."""
        return {
            "rows": self.rows,
            "labels": dict(self.labels.most_common()),
            "scores": [round(float(score), 6) for score in self.scores],
            "lengths": [int(length) for length in self.lengths],
            "words": dict(self.words.most_common()),
            "label_words": {label: dict(words.most_common()) for label, words in self.label_words.items()},
            "languages": dict(self.languages.most_common()),
            "feature_mean": [round(float(value), 6) for value in self.feature_mean],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], place: str) -> RowStatistics:
        """Read what `to_json` returned.

        Args:
            content: The plain data.
            place: Where it stands, for the error.

        Raises:
            UserError: If it is something else.
        """
        try:
            labels, words, languages = (_read_counts(content[name]) for name in ("labels", "words", "languages"))
            by_label = {str(label): _read_counts(counts) for label, counts in content["label_words"].items()}
            scores, lengths, mean = (
                np.asarray(content[name], float).reshape(-1) for name in ("scores", "lengths", "feature_mean")
            )
            return cls(int(content["rows"]), labels, scores, lengths, words, by_label, languages, feature_mean=mean)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{place} holds no statistics of rows ({error!r}); expected those of predict.py") from None


def _read_counts(counts: Mapping[str, Any]) -> Counter[str]:
    return Counter({str(name): int(count) for name, count in counts.items()})


@dataclass(frozen=True)
class Change:
    """One test of whether rows differ.

    Attributes:
        name: What is compared.
        test: The test's name.
        p_value: Without a correction.
        size: What the change is, in words with its interval.
        details: The largest single changes.
        adjusted_p_value: After Holm's correction for all tests.
    """

    name: str
    test: str
    p_value: float
    size: str
    details: tuple[str, ...] = ()
    adjusted_p_value: float = math.nan


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Return in how many of the texts each word stands, words of letters alone, without case."""
    folded = (unicodedata.normalize("NFKC", text).casefold() for text in texts)
    return Counter(word for text in folded for word in set(_WORD.findall(text)) if word.isalpha())


def keep_frequent_words(words: Counter[str], known: Iterable[str] = ()) -> Counter[str]:
    """Leave out the words of fewer than `LEAST_ROWS_OF_A_WORD` rows, but for known ones."""
    known = set(known)
    return Counter({word: rows for word, rows in words.items() if rows >= LEAST_ROWS_OF_A_WORD or word in known})


def pool_statistics(parts: Sequence[RowStatistics]) -> RowStatistics:
    """Return the statistics of the rows of several records together."""
    rows = sum(part.rows for part in parts)
    means = [(part.rows, part.feature_mean) for part in parts if len(part.feature_mean)]
    if len({len(mean) for _, mean in means}) > 1:
        raise UserError("the statistics are of several models; compare the rows of one model at a time")
    mean = np.average([m for _, m in means], axis=0, weights=[n for n, _ in means]) if means else np.empty(0)
    return RowStatistics(
        rows,
        labels=sum((part.labels for part in parts), Counter()),
        scores=np.concatenate([part.scores for part in parts]),
        lengths=np.concatenate([part.lengths for part in parts]),
        words=sum((part.words for part in parts), Counter()),
        label_words={
            label: sum((part.label_words.get(label, Counter()) for part in parts), Counter())
            for label in dict.fromkeys(label for part in parts for label in part.label_words)
        },
        languages=sum((part.languages for part in parts), Counter()),
        feature_mean=mean,
    )


def compare_statistics(reference: RowStatistics, new: RowStatistics, seed: int = 0) -> list[Change]:
    """Test each kind of statistics that both have, corrected for the number of tests by Holm (1979).

    Args:
        reference: Of the rows that the run was measured on.
        new: Of the rows that come in.
        seed: Of what is drawn.

    Raises:
        UserError: If there are too few rows.
    """
    for what, rows in (("the reference has", reference.rows), ("there are", new.rows)):
        if rows < LEAST_ROWS:
            raise UserError(f"{what} {rows} rows; a comparison needs {LEAST_ROWS} at least")
    changes = []
    if len(reference.labels) > 1:
        changes.append(compare_counts("labels", reference.labels, new.labels))
    pairs = [(name, getattr(reference, name), getattr(new, name)) for name in ("scores", "lengths")]
    changes += [compare_values(*pair) for pair in pairs if len(pair[1]) and len(pair[2])]
    if reference.words:
        changes.append(compare_words(reference, new))
    if reference.languages and new.languages:
        changes.append(compare_counts("languages", reference.languages, new.languages))
    if len(reference.features) and len(new.features):
        changes.append(compare_features(reference.features, new.features, seed))
    elif len(reference.features) and len(new.feature_mean):
        changes.append(compare_feature_means(reference.features, new.feature_mean, new.rows, seed))
    return correct_p_values(changes)


def correct_p_values(changes: Sequence[Change]) -> list[Change]:
    """Return the tests with p-values by which the chance of any false one is bounded (Holm 1979)."""
    order = sorted(range(len(changes)), key=lambda place: changes[place].p_value)
    adjusted, largest = dict.fromkeys(order, 0.0), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(changes) - rank) * changes[place].p_value))
        adjusted[place] = largest
    return [dataclasses.replace(change, adjusted_p_value=adjusted[i]) for i, change in enumerate(changes)]


def compare_counts(name: str, reference: Counter[str], new: Counter[str]) -> Change:
    """Compare shares of categories by Pearson's chi-squared test, rare categories joined."""
    from scipy.stats import chi2_contingency

    total, total_new = reference.total(), new.total()
    names = sorted(reference.keys() | new.keys())
    table = np.array([[reference[key] for key in names], [new[key] for key in names]], float)
    is_rare = table.sum(axis=0) * min(total, total_new) / max(total + total_new, 1) < _LEAST_EXPECTED
    joined = np.column_stack([table[:, ~is_rare], table[:, is_rare].sum(axis=1)])
    joined = joined[:, joined.sum(axis=0) > 0]
    p_value = 1.0
    if joined.shape[1] > 1 and (joined.sum(axis=1) > 0).all():
        p_value = float(chi2_contingency(joined, correction=False).pvalue)
    shares = [_describe_share(key, reference[key], total, new[key], total_new) for key in names]
    shares.sort(key=lambda share: -share[0])
    distance = 0.5 * np.abs(table[0] / max(total, 1) - table[1] / max(total_new, 1)).sum()
    size = f"{distance:.1%} of the rows would have to move (total variation distance)"
    return Change(name, "chi-squared", p_value, size, tuple(text for _, text in shares[:_SHOWN_CHANGES]))


def _describe_share(name: str, count: int, total: int, count_new: int, total_new: int) -> tuple[float, str]:
    """Return the size of a share's change, and the change with its 95 % interval (Agresti and Caffo 2000)."""
    adjusted = [(count + 1) / (total + 2), (count_new + 1) / (total_new + 2)]
    center = adjusted[1] - adjusted[0]
    variances = [share * (1 - share) / (rows + 2) for share, rows in zip(adjusted, (total, total_new), strict=True)]
    error = 1.96 * math.sqrt(max(0.0, sum(variances)))
    share, share_new = count / max(total, 1), count_new / max(total_new, 1)
    low, high = (100 * min(max(end, -1.0), 1.0) for end in (center - error, center + error))
    interval = f"{low:+.1f} to {high:+.1f} points"
    return abs(share_new - share), f"{name}: {share:.1%} before, {share_new:.1%} now ({interval})"


def compare_values(name: str, reference: np.ndarray, new: np.ndarray) -> Change:
    """Compare two distributions by Kolmogorov and Smirnov's test, and their means by Welch's interval."""
    from scipy.stats import ks_2samp, ttest_ind

    p_value = float(ks_2samp(reference, new).pvalue)
    size = f"mean {reference.mean():.3g} before, {new.mean():.3g} now"
    if reference.std() + new.std() > 0:
        interval = ttest_ind(new, reference, equal_var=False).confidence_interval()
        size += f" (difference {interval.low:+.3g} to {interval.high:+.3g})"
    return Change(name, "Kolmogorov-Smirnov", p_value, size)


def compare_words(reference: RowStatistics, new: RowStatistics) -> Change:
    """Compare in how many rows each word stands, of all rows and of those of each answered label.

    Each word is compared by Fisher's exact test, and the p-values are multiplied by their number (Bonferroni). A word
    that the reference does not name stands there in fewer rows than `LEAST_ROWS_OF_A_WORD`; the most is taken.
    """
    everywhere = _compare_word_counts("", reference.words, reference.rows, new.words, new.rows)
    tested = [
        *everywhere,
        *(
            word
            for label, words in reference.label_words.items()
            if new.labels[label]
            for word in _compare_word_counts(
                f" (in rows answered {label})",
                words,
                reference.labels[label],
                new.label_words.get(label, Counter()),
                new.labels[label],
            )
        ),
    ]
    tested.sort(key=lambda word: word[0])
    changed = [word for word in tested if word[0] * len(tested) < 0.05]
    known = sum(count for word, count in new.words.items() if word in reference.words)
    share = known / max(new.words.total(), 1)
    size = (
        f"{len(changed):,} of {len(tested):,} words, of all rows and by label, stand in more or fewer rows; "
        f"{share:.1%} of the words are known"
    )
    details = tuple(text for _, text in (changed or tested)[:_SHOWN_CHANGES])
    return Change("words", "Fisher's exact", min(1.0, tested[0][0] * len(tested)), size, details)


def _compare_word_counts(
    place: str, words: Counter[str], rows: int, new_words: Counter[str], new_rows: int
) -> list[tuple[float, str]]:
    """Return each word's p-value and its change in words."""
    from scipy.stats import hypergeom

    names = sorted(words.keys() | keep_frequent_words(new_words).keys())
    before = np.array([words.get(name, min(rows, LEAST_ROWS_OF_A_WORD - 1)) for name in names])
    now = np.array([new_words.get(name, 0) for name in names])
    lower = hypergeom.cdf(now, rows + new_rows, before + now, new_rows)
    upper = hypergeom.sf(now - 1, rows + new_rows, before + now, new_rows)
    p_values = np.minimum(1, 2 * np.minimum(lower, upper))
    return [
        (float(p), _describe_share(f"{name}{place}", words.get(name, 0), rows, new_words.get(name, 0), new_rows)[1])
        for name, p in zip(names, p_values, strict=True)
    ]


def compare_features(reference: np.ndarray, new: np.ndarray, seed: int = 0) -> Change:
    """Let a linear classifier tell new rows from old ones: a classifier two-sample test (Lopez-Paz and Oquab 2017).

    It is fitted on half of the rows. On the other half its AUROC has the interval of DeLong et al. (1988), and the
    p-value is that of Mann and Whitney's test.

    Args:
        reference: Shape (rows, width).
        new: Shape (rows, width).
        seed: Draws the halves.
    """
    from scipy.stats import mannwhitneyu
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if reference.shape[1] != new.shape[1]:
        raise UserError(f"features of width {new.shape[1]}, the reference's have {reference.shape[1]}; use its run")
    generator = np.random.default_rng(seed)
    halves = [np.array_split(rows[generator.permutation(len(rows))], 2) for rows in (reference, new)]
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=200))
    learnt = np.concatenate([halves[0][0], halves[1][0]])
    classifier.fit(learnt, np.arange(len(learnt)) >= len(halves[0][0]))
    old_scores, new_scores = (classifier.decision_function(half[1]) for half in halves)
    p_value = float(mannwhitneyu(new_scores, old_scores, alternative="greater").pvalue)
    wins = (new_scores[:, None] > old_scores) + 0.5 * (new_scores[:, None] == old_scores)
    area = float(wins.mean())
    error = 1.96 * math.sqrt(wins.mean(axis=1).var() / len(new_scores) + wins.mean(axis=0).var() / len(old_scores))
    interval = f"{max(0, area - error):.3f} to {min(1, area + error):.3f}"
    size = f"a classifier tells new rows from old ones with AUROC {area:.3f} ({interval}; 0.5 is a coin)"
    return Change("features", "classifier two-sample", p_value, size)


def compare_feature_means(reference: np.ndarray, mean: np.ndarray, rows: int, seed: int = 0) -> Change:
    """Compare the mean of features: its squared distance, beside what chance gives under the reference's covariance.

    The distance of two means of n and m rows is distributed as a sum of squared normal variables, weighed by the
    eigenvalues of (1/n + 1/m) times the covariance.

    Args:
        reference: Shape (sample, width).
        mean: Of the new rows' features, shape (width,).
        rows: How many new rows.
        seed: Of the draws.
    """
    if reference.shape[1] != len(mean):
        raise UserError(f"features of width {len(mean)}, the reference's have {reference.shape[1]}; use its run")
    distance = float(((mean - reference.mean(axis=0)) ** 2).sum())
    scale = 1 / len(reference) + 1 / rows
    eigenvalues = np.clip(np.linalg.eigvalsh(np.cov(reference, rowvar=False).reshape(len(mean), -1)), 0, None) * scale
    draws = np.random.default_rng(seed).chisquare(1, (_DRAWS, len(eigenvalues))) @ eigenvalues
    p_value = (1 + int((draws >= distance).sum())) / (len(draws) + 1)
    size = f"the mean moved by {math.sqrt(distance):.3g}; chance gives up to {math.sqrt(np.quantile(draws, 0.95)):.3g}"
    return Change("features", "distance of means", p_value, size)


def describe_drift(changes: Sequence[Change], rows: int, level: float) -> list[str]:
    """Return the verdict in plain sentences.

    Args:
        changes: From `compare_statistics`.
        rows: How many new rows were compared.
        level: Largest chance of a false alarm over all tests.
    """
    changed = [change for change in changes if change.adjusted_p_value < level]
    if not changed:
        few = " Few rows show large changes alone: compare again with more." if rows < 100 else ""
        return [f"No change was found in {rows:,} rows: {len(changes)} tests, at most {level:.0%} false alarms.{few}"]
    *others, last = [change.name for change in changed]
    names = f"{', '.join(others)} and {last}" if others else last
    advice = (
        "Label some of the new rows (recipes/suggest.py chooses them), measure the model on them with "
        "recipes/evaluate.py, and train again if it is worse: a change of the rows is no error by itself."
    )
    return [f"The {rows:,} new rows differ from the test rows in {names}.", advice]


def build_drift_page(results: Mapping[str, Any]) -> str:
    """Build the comparison as one HTML page without external assets.

    Args:
        results: What drift.json holds.
    """
    filters = {"count": report.format_count, "p_value": report.format_p_value}
    return load_page("startup_llm.evaluation", "drift.html.jinja", filters).render(results)

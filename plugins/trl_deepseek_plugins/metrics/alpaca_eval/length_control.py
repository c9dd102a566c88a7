"""What the win rate would be if both models' answers were equally long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

FOLDS = 5  # of the cross-validation that chooses the strength of the penalty
GAMED_WEIGHT = 0.2  # of the two gamed baselines together, against 1 for the model's own rows
COLUMNS = (
    "index",
    "instruction_difficulty",
    "not_gamed_baseline",
    "preference",
    "std_delta_len",
)


@dataclass(frozen=True)
class Gamed:
    """AlpacaEval's ``df_gamed.csv``: its baseline, told to be brief and to be verbose, judged.

    Attributes:
        difficulty: Of each instruction, by its place in AlpacaEval's file.
        rows: (N, 3) float: the features of the gamed baselines' answers, as :func:`_features`.
        preferences: (N,) of the judge for these answers, 0 to 1.
    """

    difficulty: Mapping[int, float]
    rows: np.ndarray
    preferences: np.ndarray


def read_gamed(file: str) -> Gamed:
    """Read the file.

    Raises:
        ValueError: A column is missing.
        OSError: It cannot be read.
    """
    import pandas

    table = pandas.read_csv(file)
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise ValueError(
            f"{file} has no column {missing[0]!r}\n"
            "  it must be AlpacaEval's df_gamed.csv, with the columns " + ", ".join(COLUMNS)
        )
    each = table.drop_duplicates("index")
    return Gamed(
        dict(zip(each["index"].tolist(), each["instruction_difficulty"].tolist(), strict=True)),
        _features(
            table["std_delta_len"], table["instruction_difficulty"], table["not_gamed_baseline"]
        ),
        table["preference"].to_numpy(float),
    )


def at_equal_length(
    preferences: Sequence[float],
    lengths: Sequence[int],
    opponent_lengths: Sequence[int],
    places: Sequence[int] | None = None,
    gamed: Gamed | None = None,
) -> list[float]:
    r"""The preference that the fitted model predicts for each row had both answers one length.

    Formula: σ(θ + φ·tanh((opponent_length - length) / std) + ψ·difficulty), fitted to the
    preferences with an L1 penalty whose strength five-fold cross-validation chooses; predicted
    with the tanh at 0.

    Source: Dubois et al. 2024, arXiv:2404.04475, equation 2, as ``length_controlled_v1`` of
    ``alpaca-eval``; without the gamed baselines ``length_controlled_minimal`` of it, which has no
    difficulty.

    Differs: answers of which no two differ more in length than others (std 0) count as equally
    long; there it is not a number.

    Args:
        preferences: For the model over its opponent, 0 to 1; at least five.
        lengths: Characters of the model's answers.
        opponent_lengths: Characters of the opponent's.
        places: Place of each instruction in AlpacaEval's file; needed with ``gamed``.
        gamed: Baselines that hold the effect of length in check, and the instructions'
            difficulty; None for the minimal form.
    """
    import numpy as np

    difference = np.asarray(opponent_lengths, float) - np.asarray(lengths, float)
    spread = difference.std(ddof=1)
    difference = difference / spread if spread > 0 else np.zeros_like(difference)
    own = np.ones_like(difference)
    if gamed is None or places is None:
        rows = np.column_stack([np.tanh(difference), own])
        equal = np.column_stack([np.zeros_like(difference), own])
        return _fit(rows, np.asarray(preferences, float), own).predict_proba(equal)[:, 1].tolist()
    difficulty = np.asarray([gamed.difficulty[place] for place in places])
    rows = np.concatenate([gamed.rows, _features(difference, difficulty, own)])
    targets = np.concatenate([gamed.preferences, np.asarray(preferences, float)])
    # There are two gamed baselines, which share the weight.
    weights = np.where(rows[:, 2] == 1, 1.0, GAMED_WEIGHT / 2)
    fitted = _fit(rows, targets, weights)
    return fitted.predict_proba(_features(0 * difference, difficulty, own))[:, 1].tolist()


def _features(difference: Any, difficulty: Any, own: Any) -> np.ndarray:
    import numpy as np

    columns = [np.tanh(difference), difficulty, own]
    return np.column_stack([np.asarray(column, float) for column in columns])


def _fit(rows: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Any:
    """Logistic regression on shares: each row stands there won and lost, weighted by its share."""
    import numpy as np
    import sklearn
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import GroupKFold

    twice = np.concatenate([rows, rows])
    won = np.repeat([1, 0], len(rows))
    share = np.concatenate([targets * weights, (1 - targets) * weights])
    both = np.tile(np.arange(len(rows)), 2)  # the two copies of a row stay in one fold
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(
            _weighted_log_loss, response_method="predict_proba", greater_is_better=False
        ).set_score_request(sample_weight=True)
        model = LogisticRegressionCV(
            cv=list(GroupKFold(FOLDS).split(twice, groups=both)),
            scoring=scorer,
            l1_ratios=(1.0,),
            solver="liblinear",
            fit_intercept=False,
            random_state=123,
            use_legacy_attributes=False,
        ).set_fit_request(sample_weight=True)
        return model.fit(twice, won, sample_weight=share)


def _weighted_log_loss(won: Any, predicted: Any, sample_weight: Any) -> float:
    """Mean of the weighted losses; scikit-learn's own divides by the fold's weight instead."""
    import numpy as np

    chance = np.clip(predicted, 1e-15, 1 - 1e-15)
    return float(-np.mean(sample_weight * np.log(np.where(won == 1, chance, 1 - chance))))

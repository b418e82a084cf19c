"""Compute lead scores and rank the leads."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from msmtfn.errors import require
from msmtfn.leads.schema import SCORED
from msmtfn.rows import ROW_ID


@dataclass(frozen=True, kw_only=True, slots=True)
class LeadWeights:
    """Value of a call of each intent, from 0 (no value) to 1 (call back first)."""

    weight_a: float = 1.0
    """Value of a call that is certainly A, very positive."""
    weight_b: float = 0.6
    """Value of a call that is certainly B, neutral and receptive."""
    weight_c: float = 0.2
    """Value of a call that is certainly C, a little impatient and negative."""
    weight_d: float = 0.0
    """Value of a call that is certainly D, an explicit refusal."""
    weight_e: float = 0.0
    """Value of a call that is certainly E, without intent or not relevant."""

    def __post_init__(self) -> None:
        """Check the weights.

        Raises:
            ValueError: one is not between 0 and 1.
        """
        for name in self.__slots__:
            value = getattr(self, name)
            require(0 <= value <= 1, name, value, "between 0 and 1")


def lead_scores(five: npt.NDArray[np.float32], weights: LeadWeights) -> npt.NDArray[np.float32]:
    """Return the mean of the weights under the probabilities (C, 5) of calls, scaled to 0 to 100, as (C,)."""
    scores: npt.NDArray[np.float64] = 100.0 * five.astype(np.float64) @ np.array(astuple(weights))
    return scores.astype(np.float32)


def rank_leads(keys: pa.Table) -> tuple[npt.NDArray[np.int64], int]:
    """Sort a day's calls into the order in which they are published.

    Args:
        keys: `row_id`, `call_id`, `status`, `lead_score` and `unranked_reason` of every call, in any order.

    Returns:
        The row ids, best lead first (ties by `call_id`), then the scored calls without a rank in the same order, then
        the rejected calls in the order of the manifest; and the number of leads that have a rank.
    """
    is_scored = pc.equal(keys["status"], SCORED)
    is_ranked = pc.and_(is_scored, pc.is_null(keys["unranked_reason"]))
    is_unranked = pc.and_(is_scored, pc.is_valid(keys["unranked_reason"]))
    ranked, unranked = keys.filter(is_ranked), keys.filter(is_unranked)
    rejected = keys.filter(pc.invert(is_scored))
    best_first = [("lead_score", "descending"), ("call_id", "ascending"), (ROW_ID, "ascending")]
    ids = [ranked.sort_by(best_first)[ROW_ID], unranked.sort_by(best_first)[ROW_ID], rejected.sort_by(ROW_ID)[ROW_ID]]
    return np.concatenate([column.to_numpy() for column in ids]), len(ranked)

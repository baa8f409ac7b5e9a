"""Shapley contributions of the modalities to the accuracy of an ablated model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mmzoo.core.seeding import stream
from mmzoo.evaluation.ablations import Ablation
from mmzoo.evaluation.metrics import imbalance
from mmzoo.functional import sampled_shapley, shapley

#: Subsets of modalities that are scored at most: over features that are there already, and through the encoders.
SUBSETS, SUBSETS_COUPLED = 64, 16


def contributions(ablation: Ablation) -> tuple[dict[str, float], dict[str, Any]]:
    """modality -> Shapley contribution to the accuracy, and the facts that belong to them.

    v(S) is the accuracy with the modalities S kept. v(none) is that of a model without any information on the sample,
    not zero, so that the contributions add up to accuracy - v(none). Exact for up to SUBSETS subsets (SUBSETS_COUPLED
    if each runs the encoders); beyond, the mean gain over sampled orders of the modalities, whose number the word
    gives. The orders are the same for every model, and come in pairs, an order and its reverse.

    Args:
        ablation: the ablated model.
    """
    players = ablation.modalities
    limit = SUBSETS_COUPLED if ablation.costly else SUBSETS
    if 2 ** len(players) <= limit:
        shares = shapley(ablation.accuracy, players)
        word = f"{ablation.word}, exact"
    else:
        orders = paired_orders(players, max(1, (limit - 2) // (len(players) - 1) // 2))
        shares = sampled_shapley(ablation.accuracy, orders)
        word = f"{ablation.word}, {len(orders)} sampled orders"
    facts = {"none": ablation.accuracy(()), "all": ablation.accuracy(players), "imbalance": imbalance(shares)}
    return shares, {**facts, "word": word}


def paired_orders(players: Sequence[str], pairs: int) -> list[tuple[str, ...]]:
    """2 * pairs orders of the players: random ones, always the same, each followed by its reverse.

    Args:
        players: the players.
        pairs: number of pairs.
    """
    generator = stream(0, "orders", len(players))
    drawn = [torch.randperm(len(players), generator=generator).tolist() for _ in range(pairs)]
    return [tuple(players[i] for i in order) for each in drawn for order in (each, each[::-1])]

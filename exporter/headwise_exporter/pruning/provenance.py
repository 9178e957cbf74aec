"""How pruned models came about, in the words of the bundle's manifest."""

from dataclasses import asdict
from typing import Any

from headwise.v1.bundle_pb2 import CriterionResult, EncoderShape, LayerMask, MaskResult, PruningProvenance

from headwise_exporter.model.cct import count_parameters
from headwise_exporter.model.config import count_macs
from headwise_exporter.pruning.names import AUTO
from headwise_exporter.pruning.prune import Pruned
from headwise_exporter.pruning.settings import PruneSettings


def provenance(pruned: Pruned, settings: PruneSettings) -> PruningProvenance:
    """How the pruned models came about, as the manifest states it."""
    searched: dict[str, Any] = {}
    if settings.removal == "search":
        asked = {"speedup_asked": settings.search.speedup, "macs_asked": settings.search.macs}
        searched = {name: value for name, value in asked.items() if value is not None}
        searched |= {"cost": pruned.cost, "speedup": pruned.speedup}
    return PruningProvenance(
        layers=pruned.masked.layers,
        mask_by=pruned.masked.mask_by,
        pruned_layers=pruned.base.layers,
        pruned_mask_by=pruned.base.mask_by,
        mask_chosen=len(pruned.tried) > 1,
        masks=[
            MaskResult(
                layers=masked.layers,
                mask_by=masked.mask_by,
                validation_accuracy=masked.validation_accuracy,
                validation_loss=masked.validation_loss,
                kept_connections=masked.masks.kept_share(),
            )
            for masked in pruned.tried
        ],
        threshold=settings.threshold,
        criterion=pruned.chosen.criterion,
        criterion_chosen=settings.criterion == AUTO,
        candidates=[
            CriterionResult(
                criterion=candidate.criterion,
                validation_accuracy=candidate.validation_accuracy,
                validation_loss=candidate.validation_loss,
                parameters=count_parameters(candidate.model),
                macs=count_macs(candidate.model.config),
                passes=settings.passes(candidate.validation_accuracy, pruned.dense_accuracy),
                chosen=candidate is pruned.chosen,
                filters=candidate.model.config.conv_hidden_channels,
                encoders=[EncoderShape(**asdict(shape)) for shape in candidate.model.config.encoders],
            )
            for candidate in pruned.candidates
        ],
        dense_validation_accuracy=pruned.dense_accuracy,
        max_drop=settings.max_drop_points / 100,
        **searched,
        layer_masks=[
            LayerMask(layer=name, connections=mask.numel(), kept=int(mask.sum()))
            for name, mask in pruned.masked.masks.by_layer.items()
        ],
        nodes_without_cluster=pruned.nodes_without_cluster,
    )

"""The output of a cascade."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_rcnn.faster_rcnn.output import RoIOutput, SampledAnchors


@dataclass(frozen=True)
class CascadeOutput:
    """The regions of each stage with the predictions for them, and in training the sample of the proposal network.

    In evaluation region i of an image is the same one at all stages; in training a stage may drop regions that were
    refined to nothing.
    """

    stages: tuple[RoIOutput, ...]
    anchors: SampledAnchors | None

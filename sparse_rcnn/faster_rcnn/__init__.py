"""Faster R-CNN with a feature pyramid, from torchvision's public parts, on the suite's padded batches."""

"""DETR and DETR-DC5 (arXiv 2005.12872): a transformer over one feature map, and its set-prediction loss."""

"""Deformable DETR (arXiv 2010.04159): one stage, several levels, without refinement of boxes."""

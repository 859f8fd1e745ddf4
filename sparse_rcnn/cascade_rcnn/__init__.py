"""Cascade R-CNN: three stages that refine the same proposals, over the parts of Faster R-CNN."""

"""RetinaNet (arXiv 1708.02002), of torchvision's public parts."""

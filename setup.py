"""Packages of the distribution: pyproject.toml cannot both find them and map conf/ to sparse_rcnn_conf."""

from setuptools import find_namespace_packages, setup

CODE = find_namespace_packages(include=["sparse_rcnn*", "experiments*", "analysis*"])
CONF = ["sparse_rcnn_conf", *(f"sparse_rcnn_conf.{group}" for group in find_namespace_packages("conf"))]

setup(packages=CODE + CONF, package_dir={"sparse_rcnn_conf": "conf"})

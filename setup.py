"""All else is in pyproject.toml, which either finds packages or lists them: conf/ is one under another name."""

from setuptools import find_namespace_packages, setup

CODE = find_namespace_packages(include=["sparse_rcnn*", "experiments*", "analysis*"])
CONF = ["sparse_rcnn_conf", *(f"sparse_rcnn_conf.{group}" for group in find_namespace_packages("conf"))]

setup(packages=CODE + CONF, package_dir={"sparse_rcnn_conf": "conf"})

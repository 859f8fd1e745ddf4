"""Annotation formats that are not COCO's, by what gives them away: for the message that says so."""

from __future__ import annotations

from typing import Any

EXPORT = "export the annotations in COCO format (object detection)"
INSTANCES = "give the file of the same images with boxes (instances_... in COCO)"
LFS_START = b"version https://git-lfs"
LFS = "it is a pointer of Git LFS: fetch the file itself with `git lfs pull`"


def foreign_bytes(data: bytes) -> str | None:
    """The likely format of a file that is not JSON, with the way out; None where nothing gives it away."""
    start = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if data[:2] == b"\x1f\x8b" or data[:4] == b"PK\x03\x04":
        return "it is a compressed archive: unpack it first"
    if not start:
        return "the file is empty"
    if start.startswith(LFS_START):
        return LFS
    if start[:1] == b"<":
        return f"it looks like XML (Pascal VOC or CVAT): {EXPORT}"
    if start[:3] == b"\xff\xd8\xff" or start[:8] == b"\x89PNG\r\n\x1a\n":
        return "it is a picture: give the annotation file"
    lines = [line for line in start.splitlines()[:20] if line.strip()]
    if all(line.strip().startswith(b"{") and line.strip().endswith(b"}") for line in lines[:-1]) and len(lines) > 2:
        return f"it looks like JSON lines, one record a line: {EXPORT}"
    if start[:1] in b"{[":
        return "it looks like Python's text of an object: write it with json.dump" if _is_python(start) else None
    if all(_is_yolo(line) for line in lines[:-1] or lines):
        return f"it looks like YOLO's text format: {EXPORT}"
    if any(line.startswith((b"names:", b"nc:")) for line in lines):
        return f"it looks like the YAML file of a YOLO data set: {EXPORT}"
    if all(line.count(b",") == lines[0].count(b",") >= 3 for line in lines[:-1] or lines):
        return f"it looks like CSV: {EXPORT}"
    return None


def foreign_content(content: Any) -> str | None:
    """The likely format of JSON that is not a COCO detection file, with the way out; None for an unknown one."""
    if isinstance(content, list):
        first = content[0] if content else None
        if isinstance(first, dict) and {"image_id", "bbox"} <= first.keys():
            return "it looks like detections (COCO results), not annotations"
        if isinstance(first, dict) and "annotations" in first and "data" in first:
            return f"it looks like Label Studio's JSON: {EXPORT}"
        if isinstance(first, dict) and "annotations" in first and ("image" in first or "file_name" in first):
            return f"it looks like one record an image (CreateML or Detectron2's own): {EXPORT}"
        return None
    if not isinstance(content, dict):
        return None
    if {"images", "categories"} & content.keys():
        return _foreign_annotations(content.get("annotations"))
    if "shapes" in content and "imagePath" in content:
        return f"it looks like labelme's JSON of one picture: {EXPORT}"
    records = [value for value in list(content.values())[:5] if isinstance(value, dict)]
    if "_via_img_metadata" in content or any({"filename", "regions"} <= record.keys() for record in records):
        return f"it looks like VIA's own JSON: {EXPORT}"
    return None


def _foreign_annotations(annotations: Any) -> str | None:
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    if not isinstance(first, dict) or "bbox" in first:
        return None
    if "caption" in first:
        return f"it has captions; {INSTANCES}"
    if "segments_info" in first:
        return f"it is of panoptic segmentation; {INSTANCES}"
    return None


def _is_python(text: bytes) -> bool:
    """Whether a text is the ``repr`` of a dictionary."""
    return text[1:].lstrip().startswith(b"'")


def _is_yolo(line: bytes) -> bool:
    parts = line.split()
    try:
        return len(parts) >= 5 and all(abs(float(part)) < 1e6 for part in parts)
    except ValueError:
        return False

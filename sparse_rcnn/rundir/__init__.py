"""The run directory: the contract between what trains runs and what reads them (docs/run_directory.md).

Standard library and filelock alone, so that reading runs needs neither torch nor Hydra. From the bottom up: ``layout``
(file names, schema version, states) and ``metric_keys``; ``file_digest`` and ``own_digest``; ``json_files``;
``provenance`` and ``lock``; ``identity`` and ``changes``; ``digests`` and ``checkpoints``; ``reader`` (`Run`) and
``find``; ``writer`` (`RunDirectory`); ``summary``, ``run_progress`` and ``verification``.
"""

"""Wheels given to spark-submit: Spark brings them to the executors, and PySpark does not put them on the path there."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_shipped: set[tuple[str, str]] = set()
"""Application and name of the wheels that are on the executors' path."""


def ship_wheels(spark: SparkSession) -> None:
    """Add each wheel of `--py-files` once more under a name that PySpark takes: a wheel is a zip file.

    Only .zip, .egg and .jar come on the path of the executors' Python. Spark Connect has no files of spark-submit.
    """
    if not hasattr(spark, "_sc"):
        return
    from pyspark import SparkFiles

    context = spark.sparkContext
    for given in filter(None, context.getConf().get("spark.submit.pyFiles", "").split(",")):
        name = PurePosixPath(given).name
        key = str(context.applicationId), name
        if not name.endswith(".whl") or key in _shipped:
            continue
        wheel = Path(SparkFiles.get(name))
        # In the application's own folder, which Spark removes at its end: executors that come later fetch it as well.
        copy = wheel.with_suffix(".zip")
        shutil.copyfile(wheel, copy)
        context.addPyFile(str(copy))
        _shipped.add(key)

"""Which tables lie in a folder of this machine, where deltalake reads and writes them without Spark."""

from __future__ import annotations

import logging
import os
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from deltalake import DeltaTable

if TYPE_CHECKING:
    from backfill_spark.settings.locations import Location

logger = logging.getLogger(__name__)

_OTHER_FILE_SYSTEMS = {"HADOOP_CONF_DIR", "DATABRICKS_RUNTIME_VERSION"}
_PATH = re.compile(r"[\w ./=@,+~()&'!:;$-]+")
"""Paths that deltalake 1.6 reads as they are; a `%41` is an A to one of its parts, and a `#` ends the process."""
_linking: dict[str, bool] = {}


def local_folder(location: Location) -> Path | None:
    """The folder of a table that lies on this machine, for Spark as for Python; None of any other.

    A plain path means the default file system to Spark, which is another one where Hadoop is configured, and on
    Databricks.
    """
    path = location.path
    if path is None:
        return None
    if path.startswith("file:"):
        return Path("/" + path.removeprefix("file:").lstrip("/"))
    is_elsewhere = ":" in path.split("/", 1)[0] or _OTHER_FILE_SYSTEMS & os.environ.keys()
    return None if is_elsewhere else Path(path)


def is_reached(folder: Path) -> bool:
    """True where deltalake can write a table that is there, or make one."""
    try:
        if not _PATH.fullmatch(str(folder)):
            raise ValueError("deltalake reads its path otherwise")
        if (folder / "_delta_log").is_dir():
            protocol = DeltaTable(str(folder)).protocol()
            if (protocol.min_reader_version, protocol.min_writer_version) > (1, 2):
                raise ValueError(f"the table needs {protocol}")
        return _has_links(str(folder.parent))
    except Exception as error:
        logger.debug("%s is left to Spark: %s", folder, error)
        return False


def _has_links(folder: str) -> bool:
    """True where a file can get a second name: deltalake commits by it, and some file systems have none."""
    if folder not in _linking:
        one = Path(folder, f".link-{secrets.token_hex(8)}")
        two = one.with_suffix(".2")
        try:
            one.parent.mkdir(parents=True, exist_ok=True)
            one.touch()
            os.link(one, two)
            _linking[folder] = True
        except OSError as error:
            logger.debug("%s is left to Spark: it has no links: %s", folder, error)
            _linking[folder] = False
        finally:
            one.unlink(missing_ok=True)
            two.unlink(missing_ok=True)
    return _linking[folder]

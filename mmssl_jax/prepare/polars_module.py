"""polars, which is an extra: imported when a table is read."""

from typing import Any

from mmssl_jax.data.dataset import DatasetError


def import_polars() -> Any:
    """The polars module; raises DatasetError that names the extra to install."""
    try:
        import polars
    except ImportError as error:
        raise DatasetError(
            "reading tables needs polars: install it with pip install 'mmssl_jax[tables]'"
        ) from error
    return polars

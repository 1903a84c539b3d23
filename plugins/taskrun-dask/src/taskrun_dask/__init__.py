"""The backend `dask` of taskrun: tasks on a Dask cluster, an existing one or one of its own."""

from taskrun_dask.backend import DaskBackend

__all__ = ["DaskBackend"]

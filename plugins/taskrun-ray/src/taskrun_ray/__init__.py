"""The backend `ray` of taskrun: tasks on a Ray cluster, an existing one or one of its own."""

from taskrun_ray.backend import RayBackend

__all__ = ["RayBackend"]

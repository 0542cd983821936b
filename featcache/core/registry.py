"""`Registry`: objects found by name. featcache's own are a module each; other packages add theirs by entry points."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Generic, TypeVar

from featcache.core.close_names import closest_names
from featcache.errors import FeatcacheError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries by name.

    A module of `package` calls `register` when it is imported; it is imported when a name is first asked for. A package
    of a user names its entry in its own metadata, and it is loaded when somebody asks for that name:

        [project.entry-points."featcache.heads"]
        my-head = "my_package.heads:MY_HEAD"

    Parameters
    ----------
    kind : what an entry is, in messages, such as "head".
    package : dotted name of the package whose modules register entries; None if there is no such package.
    group : entry point group, such as "featcache.heads".
    error : raised for a name that does not exist, and for an entry point that cannot be loaded.
    """

    def __init__(self, kind: str, package: str | None, group: str, error: type[FeatcacheError]) -> None:
        self.kind, self.package, self.group, self.error = kind, package, group, error
        self._entries: dict[str, T] = {}
        self._own: set[str] = set()
        self._is_complete = package is None

    def register(self, name: str, entry: T) -> T:
        """Add an entry. A second entry of the same name is an error."""
        if self._entries.setdefault(name, entry) is not entry:
            raise self.error(f"two entries register the {self.kind} {name!r}. Give one of them another name.")
        self._own.add(name)
        return entry

    def names(self) -> list[str]:
        """All names: featcache's own, then those of entry points, each sorted."""
        return [*self.registered(), *sorted(self._entry_points())]

    def registered(self) -> list[str]:
        """featcache's own names, sorted. It does not read entry points (20 to 200 ms)."""
        self._import_modules()
        return sorted(self._own)

    def __contains__(self, name: object) -> bool:
        self._import_modules()
        return name in self._entries or name in self._entry_points()

    def get(self, name: str) -> T:
        """The entry of a name. Raises `error`, with the names that exist and those that are close, if there is none."""
        self._import_modules()
        if name not in self._entries:
            point = self._entry_points().get(name)
            if point is None:
                raise self.error(self._unknown(name))
            self._entries[name] = self._load(point)
        return self._entries[name]

    def _import_modules(self) -> None:
        if self._is_complete:
            return
        import pkgutil  # 1 ms, which `--help` does not wait for

        assert self.package is not None
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        self._is_complete = True

    def _entry_points(self) -> dict[str, EntryPoint]:
        """Of installed packages. The name of one that featcache has itself is an error: it would be ignored."""
        from importlib.metadata import entry_points

        points = {point.name: point for point in entry_points(group=self.group)}
        for name in self._own & points.keys():
            raise self.error(
                f"the package {_package_of(points[name])} adds a {self.kind} {name!r}, which featcache has. Uninstall "
                "the package, or give its entry another name."
            )
        return points

    def _load(self, point: EntryPoint) -> T:
        try:
            return point.load()
        except Exception as error:  # code of another package
            package = _package_of(point)
            raise self.error(
                f"the {self.kind} {point.name!r} of the package {package} cannot be loaded ({point.value}): "
                f"{type(error).__name__}: {error}. Update or uninstall {package}."
            ) from error

    def _unknown(self, name: str) -> str:
        names = self.names()
        close = closest_names(name, names)
        return f"there is no {self.kind} {name!r}; there are: {', '.join(names)}." + (
            f" Did you mean {' or '.join(close)}?" if close else ""
        )


def _package_of(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value

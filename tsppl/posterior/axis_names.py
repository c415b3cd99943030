"""Names of the axes of every variable of a tree."""

import numpy as np


class AxisNames:
    """Names of the axes of every variable: the user's, those of sequence sites, or ``<variable>_dim_<i>``."""

    def __init__(self, coords, dims):
        self.coords = {name: np.asarray(labels) for name, labels in (coords or {}).items()}
        if "state" in self.coords:
            self.coords.setdefault("state_to", self.coords["state"])
        self.given = dict(dims or {})
        self.dims = {name: list(axes) for name, axes in (dims or {}).items()}
        self.sizes = {name: len(labels) for name, labels in self.coords.items()}
        self.used, self.refused = set(), {}

    def add(self, dims):
        """Names of the axes of more variables; those of the user come first."""
        self.dims = {name: list(axes) for name, axes in dims.items()} | self.dims

    def add_sequence(self, name, site):
        """Names of the axes of a sequence site: batch, time and channel."""
        axes = site.axes
        plates = {axis: plate for plate, axis in axes.plates.items()}
        batch = ["sequence"] if len(axes.batch) == 1 else [plates.get(i, f"sequence_{i}") for i in axes.batch]
        channel = "channel" if site.observed else "latent"
        channels = [channel] if len(axes.event) == 1 else [f"{channel}_{i}" for i in range(len(axes.event))]
        preferred = [*batch, "time", *channels]
        given = self.dims.get(name, [])
        axes = zip(preferred[len(given) :], site.value.shape[len(given) :], strict=True)
        self.dims[name] = given + [self.claim(axis, size, name) for axis, size in axes]

    def add_points(self, name, site):
        """Names of the axes of the points of a Neyman-Scott process, and of their labels."""
        point = f"{name}_point"
        channels = [self.claim("coordinate", size, name) for size in site.points.shape[1:]]
        self.add({name: [point, *channels], f"{name}_labels": [point]})

    def claim(self, axis, size, owner):
        """``axis``, or ``<owner>_<axis>`` if another axis of that name has another size."""
        if self.sizes.setdefault(axis, size) == size:
            self.used.add(axis)
            return axis
        self.refused[axis] = (owner, size)
        return self.claim(f"{owner}_{axis}", size, owner)

    def check_dims(self, ndims):
        """Raise if the user named axes of a variable that does not exist, or more than it has."""
        for name, axes in self.given.items():
            if name not in ndims:
                raise ValueError(f"dims has {name!r}, which is no variable of the model; these are {sorted(ndims)}")
            if len(axes) > ndims[name]:
                raise ValueError(f"dims[{name!r}] names {len(axes)} axes, and {name!r} has {ndims[name]}")

    def check_coords(self):
        """Raise if the user's labels of an axis fit no site."""
        for axis, (owner, size) in self.refused.items():
            if axis in self.coords and axis not in self.used:
                raise ValueError(
                    f"coords[{axis!r}] has {self.sizes[axis]} labels, and the {axis} axis of {owner!r} has {size} "
                    "entries"
                )

    def of(self, name, ndim):
        """Names of the ``ndim`` axes of a variable, those of the draws excluded."""
        given = self.dims.get(name, [])[:ndim]
        given = given + [None] * (ndim - len(given))
        return [f"{name}_dim_{i}" if axis is None else axis for i, axis in enumerate(given)]

    def labels(self, axis, size):
        """The user's labels of an axis, or numbers."""
        return self.coords.get(axis, np.arange(size))

    def dataset(self, arrays, lead=("chain", "draw")):
        """Dataset of arrays whose first axes are ``lead``."""
        from xarray import Dataset

        variables = {}
        for name, array in arrays.items():
            array = np.asarray(array)
            variables[name] = ([*lead, *self.of(name, array.ndim - len(lead))], array)
        sizes = {axis: size for axes, array in variables.values() for axis, size in zip(axes, array.shape, strict=True)}
        return Dataset(variables, coords={axis: self.labels(axis, size) for axis, size in sizes.items()})

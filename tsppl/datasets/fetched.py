"""Point patterns that are downloaded when they are first asked for, or read from a folder of one's own."""

import gzip
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int32

SONGBIRD = (
    "https://raw.githubusercontent.com/lindermanlab/PPSeq.jl/e89078ccd100be5ddaf7b0ece014b98926f2a40b/demo/data/"
    "songbird_spikes.txt",
    "1c3f700bca66d540fd818c68453b2d436f7e2d9d0b842f5e8c5150c640a4edda",
)
REDWOOD = (
    "https://raw.githubusercontent.com/spatstat/spatstat.data/6a47467b895cc9127555b183aeefccca41f56c12/data/redwood.rda",
    "254d8221ee8b8a8c0512c9fc95ab467980c04bf585cdc06402766cf36dbaffb7",
)
REDWOOD_TABLE = "aa0276851eb14fcfab2fea6e33a39863b03cfa6f083d2f27e2e1e9ffa1fa4d1d"


def songbird_spikes() -> tuple[Float64[np.ndarray, "3336"], Int32[np.ndarray, "3336"]]:
    """Spikes of 75 neurons in the song nucleus HVC of a zebra finch over 22.2 seconds.

    Deconvolved from calcium images at 30 frames a second, so many spikes have equal times; neuron 8 has none. Downloaded once and kept in the
    user's cache; or, where the environment variable ``TSPPL_DATA`` names a folder, ``songbird_spikes.txt`` is read there or
    in its folder ``point-processes``.

    Returns:
        `(times, neurons)`: seconds, sorted, and the neuron of each spike, from 0.

    Raises:
        OSError: if the file can neither be found nor downloaded, or is another one.

    Source:
        E. L. Mackevicius et al., "Unsupervised discovery of temporal sequences in high-dimensional datasets, with
        applications to neuroscience", eLife 8 (2019), e38471; the file is of github.com/lindermanlab/PPSeq.jl (MIT licence).

    Example:
        >>> times, neurons = songbird_spikes()  # doctest: +SKIP
        >>> times[-1], neurons.max()  # doctest: +SKIP
        (np.float64(22.2), np.int32(74))
    """
    neurons, times = np.loadtxt(_path("songbird_spikes.txt", *SONGBIRD)).T
    order = np.argsort(times, kind="stable")
    return times[order], neurons[order].astype(np.int32) - 1


def redwood() -> tuple[Float64[np.ndarray, "62 2"], Float64[np.ndarray, "2 2"]]:
    """Places of 62 redwood seedlings and saplings on a square, in units of its side (about 23 metres).

    Downloaded once and kept in the user's cache; or, where the environment variable ``TSPPL_DATA`` names a folder,
    ``redwood.csv`` (a header and two columns) is read there or in its folder ``point-processes``.

    Returns:
        `(points, window)`: the places, and the lowest and highest corner of the square, [0, 1] x [-1, 0].

    Raises:
        OSError: if the file can neither be found nor downloaded, or is another one.

    Source:
        D. J. Strauss, "A model for clustering", Biometrika 62 (1975), 467-475; the part chosen by B. D. Ripley, "Modelling
        spatial patterns", JRSS B 39 (1977), 172-212. The file is of github.com/spatstat/spatstat.data (GPL, version 2 or
        later), so it is not part of this package.

    Example:
        >>> points, window = redwood()  # doctest: +SKIP
        >>> points[0], window  # doctest: +SKIP
        (array([ 0.36, -0.08]), array([[ 0., -1.], [ 1.,  0.]]))
    """
    window = np.array([[0.0, -1.0], [1.0, 0.0]])
    local = _local_path("redwood.csv")
    if local is not None:
        return np.loadtxt(_checked(local, REDWOOD_TABLE), delimiter=",", skiprows=1), window
    stored = gzip.decompress(_path("redwood.rda", *REDWOOD).read_bytes())
    # The file is one known file: its coordinates are two arrays of big-endian numbers at these places.
    columns = [np.frombuffer(stored, ">f8", count=62, offset=offset) for offset in (452, 956)]
    return np.stack(columns, 1).astype(np.float64), window


def _path(name, url, digest):
    local = _local_path(name)
    if local is not None:
        return _checked(local, digest)
    import pooch  # loaded when it is needed only

    try:
        return Path(pooch.retrieve(url, known_hash=f"sha256:{digest}", fname=name, path=pooch.os_cache("tsppl")))
    except (OSError, ValueError) as error:
        raise OSError(
            f"{name} could not be downloaded from {url} ({error}). Without a network, put the file into a folder and name "
            "that folder in the environment variable TSPPL_DATA"
        ) from error


def _local_path(name):
    folder = os.environ.get("TSPPL_DATA")
    if not folder:
        return None
    for path in (Path(folder) / name, Path(folder) / "point-processes" / name):
        if path.is_file():
            return path
    return None


def _checked(path, digest):
    if sha256(path.read_bytes()).hexdigest() != digest:
        raise OSError(
            f"{path} is not the file that is meant, of SHA-256 {digest}: take it out of TSPPL_DATA, or replace it"
        )
    return path

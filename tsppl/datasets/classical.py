"""Classical series that textbooks fit: facts, with their sources."""

import numpy as np
from jaxtyping import Float64, Int32, Shaped

EARTHQUAKES = """
13 14 8 10 16 26 32 27 18 32 36 24 22 23 22 18 25 21 21 14 8 11 14 23 18 17 19 20 22 19 13 26 13 14 22 24 21 22
26 21 23 24 27 41 31 27 35 26 28 36 39 21 17 22 17 19 15 34 10 15 22 18 15 20 15 22 19 16 30 27 29 23 20 16 21
21 25 16 18 15 18 14 10 15 8 15 6 11 8 7 18 16 13 12 13 20 15 16 12 18 15 16 13 15 16 11 11
"""

HAMILTON_GNP = """
2.59316421 2.20217133 0.45827562 0.9687438 -0.24130757 0.89647478 2.05393219 1.73353648 0.93871289 -0.46477833
-0.80983406 -1.39763689 -0.39886093 1.1918416 1.45620048 2.11808228 1.08957863 1.32390273 0.87296367 -0.19773273
0.45420215 0.07221876 1.1030364 0.82097489 -0.05795795 0.58447772 -1.56192672 -2.05041027 0.53637183 2.33676839
2.34014559 1.2339263 1.8869648 -0.45920792 0.84940469 1.70139849 -0.28756312 0.09594627 -0.86080289 1.03447127
1.23685944 1.42004502 2.22410631 1.30210173 1.03517699 0.9253425 -0.16559951 1.3444382 1.37500131 1.73222184
0.71605635 2.21032143 0.85333031 1.00238776 0.42725441 2.14368343 1.43789184 1.57959926 2.27469826 1.95962656
0.25992399 1.01946914 0.49016398 0.5636338 0.5959546 1.43082857 0.56230122 1.15388393 1.68722844 0.77438205
-0.09647045 1.39600146 0.13646798 0.55223715 -0.39944872 -0.61671102 -0.08722561 1.2101835 -0.90729755
2.64916158 -0.0080694 0.51111895 -0.00401437 2.16821432 1.92586732 1.03504717 1.85897219 2.32004929 0.25570789
-0.09855274 0.89073682 -0.55896485 0.28350255 -1.31155407 -0.88278776 -1.97454941 1.01275265 1.68264723
1.38271284 1.86073637 0.4447377 0.41449001 0.99202275 1.36283576 1.59970522 1.98845816 -0.25684232 0.87786949
3.1095655 0.85324478 1.23337317 0.00314302 -0.09433369 0.89883322 -0.19036628 0.99772376 -2.39120054 0.06649673
1.26136017 1.91637838 -0.3348029 0.44207108 -1.40664911 -1.52129889 0.29919869 -0.80197448 0.15204792 0.98585027
2.13034606 1.34397924 1.61550522 2.70930099 1.24461412 0.50835466 0.14802167
"""

NILE = """
1120 1160 963 1210 1160 1160 813 1230 1370 1140 995 935 1110 994 1020 960 1180 799 958 1140 1100 1210 1150 1250
1260 1220 1030 1100 774 840 874 694 940 833 701 916 692 1020 1050 969 831 726 456 824 702 1120 1100 832 764 821
768 845 864 862 698 845 744 796 1040 759 781 865 845 944 984 897 822 1010 771 676 649 846 812 742 801 1040 860
874 848 890 744 749 838 1050 918 986 797 923 975 815 1020 906 901 1170 912 746 919 718 714 740
"""

BEAVER = """
36.58 36.73 36.93 37.15 37.23 37.24 37.24 36.9 36.95 36.89 36.95 37 36.9 36.99 36.99 37.01 37.04 37.04 37.14 37.07
36.98 37.01 36.97 36.97 37.12 37.13 37.14 37.15 37.17 37.12 37.12 37.17 37.28 37.28 37.44 37.51 37.64 37.51 37.98 38.02
38 38.24 38.1 38.24 38.11 38.02 38.11 38.01 37.91 37.96 38.03 38.17 38.19 38.18 38.15 38.04 37.96 37.84 37.83 37.84
37.74 37.76 37.76 37.64 37.63 38.06 38.19 38.35 38.25 37.86 37.95 37.95 37.76 37.6 37.89 37.86 37.71 37.78 37.82 37.76
37.81 37.84 38.01 38.1 38.15 37.92 37.64 37.7 37.46 37.41 37.46 37.56 37.55 37.75 37.76 37.73 37.77 38.01 38.04 38.07
"""


def beaver() -> tuple[Float64[np.ndarray, "100"], Int32[np.ndarray, "100"], Shaped[np.ndarray, "100"]]:
    """Body temperature of a beaver every ten minutes, and whether it was active outside its retreat.

    Returns:
        `(temperature, active, times)`, all of shape (100,): degrees Celsius by telemetry, 0 or 1, and the time as
        datetime64, from 09:30 on 3 November 1990 to 02:00 on the next day.

    Source:
        P. S. Reynolds, "Time-series analyses of beaver body temperatures", in N. Lange et al. (editors), "Case Studies in
        Biometry" (1994), 211-228; the second of two animals, ``beaver2`` of R.

    Example:
        >>> temperature, active, times = beaver()
        >>> temperature[0], int(active.sum()), times[0]
        (np.float64(36.58), 62, np.datetime64('1990-11-03T09:30'))
    """
    times = np.datetime64("1990-11-03T09:30") + 10 * np.arange(100)
    return _read(BEAVER, np.float64), (np.arange(100) >= 38).astype(np.int32), times


def earthquakes() -> tuple[Int32[np.ndarray, "107"], Int32[np.ndarray, "107"]]:
    """Yearly number of major earthquakes in the world, 1900 to 2006.

    Returns:
        `(counts, years)`, both int32 of shape (107,): the number of earthquakes of magnitude 7 or greater, and the
        calendar year.

    Source:
        Catalogue of the United States Geological Survey, as tabulated in W. Zucchini and I. L. MacDonald, "Hidden
        Markov Models for Time Series" (2009), table 1.1.

    Example:
        >>> counts, years = earthquakes()
        >>> counts[:5], years[0], years[-1]
        (array([13, 14,  8, 10, 16], dtype=int32), np.int32(1900), np.int32(2006))
    """
    return _read(EARTHQUAKES, np.int32), np.arange(1900, 2007, dtype=np.int32)


def hamilton_gnp() -> tuple[Float64[np.ndarray, "135"], Shaped[np.ndarray, "135"]]:
    """Quarterly growth of real gross national product of the United States, 1951Q2 to 1984Q4.

    Returns:
        `(growth, quarters)`, both of shape (135,): 100 times the change of the logarithm (per cent per quarter), and
        the first month of each quarter as datetime64.

    Source:
        J. D. Hamilton, "A new approach to the economic analysis of nonstationary time series and the business
        cycle", Econometrica 57 (1989), 357-384.

    Example:
        >>> growth, quarters = hamilton_gnp()
        >>> growth[:2], quarters[0]
        (array([2.59316421, 2.20217133]), np.datetime64('1951-04'))
    """
    quarters = np.arange(np.datetime64("1951-04"), np.datetime64("1985-01"), np.timedelta64(3, "M"))
    return _read(HAMILTON_GNP, np.float64), quarters


def nile() -> tuple[Float64[np.ndarray, "100"], Int32[np.ndarray, "100"]]:
    """Yearly flow of the Nile at Aswan, 1871 to 1970; its level falls near 1898.

    Returns:
        `(volumes, years)`, both of shape (100,): the volume in 1e8 cubic metres, and the calendar year.

    Source:
        G. W. Cobb, "The problem of the Nile: conditional solution to a change-point problem", Biometrika 65 (1978),
        243-251.

    Example:
        >>> volumes, years = nile()
        >>> volumes[:3], years[0]
        (array([1120., 1160.,  963.]), np.int32(1871))
    """
    return _read(NILE, np.float64), np.arange(1871, 1971, dtype=np.int32)


def _read(table, dtype):
    return np.array(table.split(), dtype=dtype)

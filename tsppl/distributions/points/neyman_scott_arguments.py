"""Arguments of which no Neyman-Scott process can be made."""

import jax.numpy as jnp
import numpyro.distributions as dist

from tsppl.distributions.points.point_process import PointProcess
from tsppl.distributions.points.poisson_process import PoissonLike
from tsppl.distributions.shapes import is_concrete
from tsppl.points import Cluster
from tsppl.points.windows.as_window import as_window


def check_arguments(event_rate, amplitude, cluster, background_rate, window):
    """Raise unless they make a :class:`NeymanScott`; ``window`` is a :class:`Window`."""
    if not isinstance(amplitude, dist.Gamma):
        raise TypeError(f"amplitude is a {type(amplitude).__name__}; pass a numpyro.distributions.Gamma")
    if not isinstance(cluster, Cluster):
        raise TypeError(f"cluster is a {type(cluster).__name__}; pass a Cluster, such as GaussianCluster(scale)")
    if window.position_shape != cluster.position_shape:
        raise ValueError(
            f"window has shape {(2,) + window.position_shape}; a {type(cluster).__name__} of this shape needs "
            f"{(2,) + cluster.position_shape}: the lowest and the highest place"
        )
    if jnp.shape(event_rate):
        raise ValueError(f"event_rate has shape {jnp.shape(event_rate)}; it must be a number, the same everywhere")
    if is_concrete(event_rate) and not event_rate > 0:
        raise ValueError(f"event_rate is {event_rate}; it must be above 0, in events per unit of the window")
    _check_background(background_rate, window)
    if window.boxes is None and cluster.edges != "ignored":
        raise NotImplementedError(
            f"the centre of a cluster cannot be kept inside of a {type(window).__name__} in closed form: pass a cluster "
            'with edges="ignored", or a box'
        )
    if amplitude.batch_shape:
        raise ValueError(f"amplitude has batch shape {amplitude.batch_shape}; all events have the same, of shape ()")


def _check_background(background_rate, window):
    """Raise unless it is a number, or a Poisson process of places on the window."""
    if not isinstance(background_rate, PointProcess):
        if jnp.shape(background_rate):
            raise ValueError(
                f"background_rate has shape {jnp.shape(background_rate)}; it must be a number, the same everywhere, or a "
                "process such as PiecewisePoissonProcess(rates, edges)"
            )
        if is_concrete(background_rate) and not background_rate >= 0:
            raise ValueError(
                f"background_rate is {background_rate}; it must be 0 or above, in points per unit of the window"
            )
        return
    if not isinstance(background_rate, PoissonLike):
        raise TypeError(f"background_rate is a {type(background_rate).__name__}; pass a number or a Poisson process")
    if not as_window(background_rate.window).same_as(window):
        raise ValueError("background_rate has another window than the process: give both the same")

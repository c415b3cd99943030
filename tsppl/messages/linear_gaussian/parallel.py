"""Parallel-in-time linear-Gaussian messages by associative scan (Sarkka and Garcia-Fernandez 2021; roots as in Yaghoobi
et al. 2022).

The element of a stretch of steps holds the law of where it ends given where it starts, and the information that its
observations carry about where it starts. Two stretches join by absorbing the second's information into the first's law:
the same operation as one step of the sequential backward pass. Prefix products give the filter, suffix products the
backward messages. Work is ``O(T)``, depth ``O(log T)``: for accelerators, not for CPUs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tsppl.messages.linear_gaussian.roots import square
from tsppl.messages.linear_gaussian.steps import AffineGaussian, Gaussian, Information, absorb, compose, each_step, tilt


class Element(NamedTuple):
    """``p(x_end | x_start, y)`` and ``p(y | x_start)`` up to a constant, for the observations ``y`` of a stretch."""

    kernel: AffineGaussian
    information: Information


def first_element(initial: Gaussian, information: Information) -> Element:
    """The first step, which does not depend on anything before it."""
    start, _ = tilt(initial, information)
    size = initial.mean.shape[0]
    kernel = AffineGaussian(jnp.zeros((size, size), initial.mean.dtype), start.mean, start.root)
    return Element(kernel, information.nothing())


def step_elements(dynamics: AffineGaussian, arrivals: Information) -> Element:
    """Elements of the steps from ``t`` to ``t + 1``, given the information about each ``x_{t+1}``."""

    def element(step, arrival):
        kernel, information, _ = absorb(step, arrival)
        return Element(kernel._replace(root=square(kernel.root)), information)

    return each_step(element, dynamics, arrivals)


def join(left: Element, right: Element) -> Element:
    """The element of two adjacent stretches."""
    kernel, information, _ = absorb(left.kernel, right.information)
    return Element(compose(kernel, right.kernel), left.information.times(information))


def scan_elements(elements: Element, *, reverse: bool = False) -> Element:
    """All prefix products, or all suffix products."""
    if reverse:
        return lax.associative_scan(jax.vmap(lambda later, earlier: join(earlier, later)), elements, reverse=True)
    return lax.associative_scan(jax.vmap(join), elements)


def scan_kernels(kernels: AffineGaussian) -> AffineGaussian:
    """All prefix products of affine-Gaussian steps."""
    return lax.associative_scan(jax.vmap(compose), kernels)

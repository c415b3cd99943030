"""The hidden Markov model as a distribution over the observed series."""

from tsppl.distributions.hidden_markov.switching_emission import SwitchingEmission
from tsppl.distributions.shapes import check_time_varying


class HiddenMarkov(SwitchingEmission):
    """A series whose steps depend on a hidden Markov state; the states are summed out (Rabiner 1989).

    Each step has one observation. Several streams that share the states are one emission
    (:class:`~tsppl.distributions.Streams`), never two sites: two sites would have two independent state paths.

    Args:
        initial_probs: probabilities of the first state, ``(..., K)``.
        transition_probs: ``(..., K, K)``; row ``i`` holds the probabilities of the state after state ``i``. If it
            varies in time, ``(..., T-1, K, K)``: row ``t`` moves ``z_t`` to ``z_{t+1}``, so that a covariate observed
            on arrival enters as ``covariate[1:]``.
        emission: NumPyro distribution of one observation, any family, with batch ``(..., K)``, ``(..., 1)`` or
            ``()``: the state axis is always last. If it varies in time, batch ``(..., T, K)``.
        num_steps: number of steps ``T``.
        initial_logits: alternative to ``initial_probs``, unnormalised log-probabilities.
        transition_logits: alternative to ``transition_probs``; never turned into probabilities and back.
        time_varying: names of the arguments that carry a time axis, of ``"emission"``, ``"transition_probs"`` and
            ``"transition_logits"``.
        mask: True = observed. ``(..., T)``, or ``(..., T) + emission event`` for entries missing on their own, where
            the emission's components are independent or jointly Gaussian. Masked entries may hold anything.
        lengths: int ``(...,)``, number of steps of each series, where they end before ``T``.
        known_states: int ``(..., T)``: the state where it was observed (an animal that was watched, a labelled recording),
            -1 where it was not. ``log_prob`` is then the density of the observed values and the known states together,
            ``log p(y, z_known)``, and each step's term holds its observation and its label; draws, paths, marginals and
            forecasts are given the known states. Labels of masked steps count; those after the end of a series do not.
        method: ``"auto"``, ``"sequential"``, ``"chunked"`` or ``"parallel"``: how states are summed out, exactly by all.

    Raises:
        ValueError: on shapes that do not fit, probabilities that do not sum to one, lengths outside ``1..T``, known states
            outside ``-1..K-1``.
        TypeError: if ``emission`` is not a distribution.

    >>> import jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> transition_probs = jnp.array([[0.9, 0.1], [0.2, 0.8]])
    >>> model = tsd.HiddenMarkov(jnp.full(2, 0.5), transition_probs, dist.Poisson(jnp.array([2.0, 9.0])), num_steps=4)
    >>> model.latent_mode(jnp.array([1, 3, 8, 10]))["states"].tolist()
    [0, 0, 1, 1]
    """

    def __init__(
        self,
        initial_probs=None,
        transition_probs=None,
        emission=None,
        *,
        num_steps,
        initial_logits=None,
        transition_logits=None,
        time_varying=(),
        mask=None,
        lengths=None,
        known_states=None,
        method="auto",
        validate_args=None,
    ):
        time_varying = check_time_varying(
            "HiddenMarkov", time_varying, ("emission", "transition_probs", "transition_logits")
        )
        num_states, batches, rows, varying = self._store_chain(
            initial_probs, transition_probs, initial_logits, transition_logits, num_steps, time_varying
        )
        steps = {"num_steps": num_steps, "time_varying": varying}
        batch = self._store_emission(emission, num_states, batches, rows, known_states, **steps)
        shape = self.emission.event_shape
        self._initialize(batch, shape, mask=mask, lengths=lengths, method=method, validate_args=validate_args, **steps)

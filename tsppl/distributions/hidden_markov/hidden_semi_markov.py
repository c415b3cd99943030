"""The hidden semi-Markov model: a hidden Markov model whose states last as long as any law says."""

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import CategoricalLogits, CategoricalProbs

from tsppl.distributions.hidden_markov.state_chain import StateChain
from tsppl.distributions.hidden_markov.switching_emission import SwitchingEmission
from tsppl.distributions.shapes import emission_batch, is_concrete
from tsppl.distributions.wrappers import as_distribution
from tsppl.messages.hidden_markov.durations import TAIL_FACTOR, chain_of_ages, log_hazards
from tsppl.messages.log_space import log_normalize

MAX_CHAIN_STATES = 2048


class HiddenSemiMarkov(SwitchingEmission):
    """A series whose steps depend on a hidden state that lasts for a random number of steps (Ferguson 1980).

    A hidden Markov model's states last for geometric times, of which one step is the most likely. Here the number of steps
    is ``1 + d`` with ``d`` drawn from any distribution over ``0, 1, 2, ...``. The state together with its age is
    a Markov chain (Langrock and Zucchini 2011, Comput. Stat. Data Anal. 55), and everything that :class:`HiddenMarkov`
    answers is exact for it.

    Every series starts at the beginning of a stay; its last stay may go on after the end. Durations from
    ``max_duration`` on have a geometric tail, which starts from the law's own probability of ``max_duration``: choose
    it so that few stays are longer. The cost of a step grows with ``(K * max_duration)**2``.

    Args:
        initial_probs: probabilities of the first state, ``(..., K)``.
        transition_probs: ``(..., K, K)``: row ``i`` holds the probabilities of the state entered after state ``i``;
            its diagonal is zero, for how long a state lasts is said by ``durations``.
        durations: NumPyro distribution of the number of steps minus one, with batch ``(..., K)``, ``(..., 1)`` or
            ``()``: ``Poisson``, ``NegativeBinomial2``, ``Categorical`` (entry ``d`` for ``1 + d`` steps), ``Geometric``.
        emission: as in :class:`HiddenMarkov`.
        num_steps: number of steps ``T``.
        max_duration: greatest duration ``M`` that is told apart from longer ones; the number of categories of a
            categorical distribution by default.
        initial_logits: alternative to ``initial_probs``.
        transition_logits: alternative to ``transition_probs``; its diagonal is not looked at.
        time_varying: ``("emission",)`` if the emission has a time axis.
        mask, lengths, known_states, method: as in :class:`HiddenMarkov`.

    Raises:
        ValueError: as :class:`HiddenMarkov`; if the diagonal of ``transition_probs`` is not zero, ``max_duration`` is
            missing or less than 2, or ``K * max_duration`` is above 2048.

    >>> import jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> swap = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    >>> stays, counts = dist.Poisson(jnp.array([2.0, 4.0])), dist.Poisson(jnp.array([2.0, 9.0]))
    >>> model = tsd.HiddenSemiMarkov(jnp.full(2, 0.5), swap, stays, counts, num_steps=6, max_duration=20)
    >>> model.latent_mode(jnp.array([1, 3, 8, 5, 10, 9]))["states"].tolist()
    [0, 0, 1, 1, 1, 1]
    """

    pytree_data_fields = ("durations",)
    pytree_aux_fields = ("max_duration",)

    def __init__(
        self,
        initial_probs=None,
        transition_probs=None,
        durations=None,
        emission=None,
        *,
        num_steps,
        max_duration=None,
        initial_logits=None,
        transition_logits=None,
        time_varying=(),
        mask=None,
        lengths=None,
        known_states=None,
        method="auto",
        validate_args=None,
    ):
        self.durations = as_distribution("durations", durations)
        if self.durations.event_dim or not self.durations.support.is_discrete:
            raise ValueError(
                f"durations is a {type(self.durations).__name__} with event shape {self.durations.event_shape}; it must "
                "be a distribution of one whole number, of steps minus one"
            )
        self.max_duration = _max_duration(self.durations, max_duration)
        if not set(time_varying) <= {"emission"}:
            raise ValueError(
                f"time_varying is {tuple(time_varying)}: only the emission of a HiddenSemiMarkov can vary in time"
            )
        num_states, batches, rows, varying = self._store_chain(
            initial_probs, transition_probs, initial_logits, transition_logits, num_steps, tuple(time_varying)
        )
        batches["durations"] = emission_batch("durations", self.durations, num_states, num_steps=None)
        steps = {"num_steps": num_steps, "time_varying": varying}
        batch = self._store_emission(emission, num_states, batches, rows, known_states, **steps)
        shape = self.emission.event_shape
        self._initialize(batch, shape, mask=mask, lengths=lengths, method=method, validate_args=validate_args, **steps)
        size = num_states * self.max_duration
        if size > MAX_CHAIN_STATES:
            raise ValueError(
                f"{num_states} states of up to {self.max_duration} steps make a chain of {size} states, more than "
                f"{MAX_CHAIN_STATES}: choose a smaller max_duration, beyond which stays have a geometric tail"
            )
        if self.transition_probs is not None and is_concrete(self.transition_probs) and self._validate_args:
            self._check_diagonal(np.diagonal(np.asarray(self.transition_probs), axis1=-2, axis2=-1))

    def _check_diagonal(self, diagonal):
        if (diagonal > 0).any():
            state = int(np.argwhere(diagonal > 0)[0][-1])
            raise ValueError(
                f"transition_probs has {diagonal[diagonal > 0][0]:.6g} on its diagonal, at state {state}: it must be zero, "
                "because durations says how long a state lasts. Set it to zero and divide the row by its sum"
            )

    def state_chain(self, value=None):
        """The Markov chain over states and their ages."""
        return with_ages(super().state_chain(value), self.durations, self.max_duration)


def with_ages(chain, durations, max_duration):
    """The chain over states and their ages, of a chain of the states that are entered.

    Args:
        chain: :class:`~tsppl.distributions.hidden_markov.state_chain.StateChain`; its diagonal is not looked at.
        durations: distribution of the number of steps minus one, with batch ``(..., K)``, ``(..., 1)`` or ``()``.
        max_duration: greatest age ``M`` that is told apart.

    Returns:
        :class:`~tsppl.distributions.hidden_markov.state_chain.StateChain` of ``K * M`` states.
    """
    num_states = chain.log_initial.shape[-1]
    apart = ~np.eye(num_states, dtype=bool)
    log_transition = log_normalize(jnp.where(apart, chain.log_transition, -jnp.inf))[1]
    probs = _duration_probs(durations, num_states, max_duration).astype(log_transition.dtype)
    with_age = jnp.vectorize(chain_of_ages, signature="(k),(k,k),(k,m),(k,m)->(n),(n,n)")
    log_initial, log_transition = with_age(chain.log_initial, log_transition, *log_hazards(probs))
    return StateChain(log_initial, log_transition, np.repeat(np.arange(num_states), max_duration), False)


def _duration_probs(durations, num_states, max_duration):
    """Probabilities of the durations ``1`` to ``TAIL_FACTOR * M``: ``(..., K, TAIL_FACTOR * M)``."""
    steps = jnp.arange(TAIL_FACTOR * max_duration)
    steps = steps.reshape((-1,) + (1,) * len(durations.batch_shape))
    inside = durations.support(steps)
    probs = jnp.exp(durations.log_prob(jnp.where(inside, steps, 0)))
    probs = jnp.moveaxis(jnp.where(inside, probs, 0.0), 0, -1)
    lead = probs.shape[:-2] if durations.batch_shape else ()
    return jnp.broadcast_to(probs, lead + (num_states, probs.shape[-1]))


def _max_duration(durations, max_duration):
    if max_duration is None and isinstance(durations, CategoricalProbs | CategoricalLogits):
        max_duration = durations.probs.shape[-1]
    if max_duration is None or max_duration < 2:
        raise ValueError(
            f"max_duration is {max_duration}: pass the greatest number of steps, 2 or more, of which durations are told "
            "apart"
        )
    return max_duration

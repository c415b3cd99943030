"""Initial and transition probabilities of a Markov chain, as they were given."""

from tsppl.distributions.hidden_markov.state_chain import GivenTransitions, Transitions
from tsppl.distributions.shapes import check_not_nan, check_probabilities, choose_parameter, parameter_batch
from tsppl.messages.log_space import log_normalize, log_of_probabilities


class MarkovChainParameters:
    """Initial and transition probabilities, given as probabilities or as logits and never turned into the other."""

    pytree_data_fields = ("initial_probs", "transition_probs", "initial_logits", "transition_logits")

    def _store_chain(
        self, initial_probs, transition_probs, initial_logits, transition_logits, num_steps, time_varying, rules=()
    ):
        """Store and check the chain's arguments.

        Besides arrays, transitions of the classes ``rules`` are taken; their ``shape`` is that of the transitions out of one
        step, ``(..., K, K)``.

        Returns:
            the number of states, ``name -> batch shape``, ``name -> length of its time axis``, and ``time_varying`` with
            the transitions by the name that they were given under.
        """
        if isinstance(transition_probs, Transitions) and not isinstance(transition_probs, rules):
            raise TypeError(
                f"transition_probs of a {type(self).__name__} is an array, (..., K, K); {type(transition_probs).__name__} are "
                "for SwitchingLinearDynamics"
            )
        initial_name, initial = choose_parameter("initial_probs", initial_probs, "initial_logits", initial_logits)
        if isinstance(transition_probs, rules) and transition_logits is None:
            name, transition = "transition_probs", transition_probs
        else:
            name, transition = choose_parameter(
                "transition_probs", transition_probs, "transition_logits", transition_logits
            )
        self.initial_probs = None if initial_probs is None else initial
        self.initial_logits = None if initial_logits is None else initial
        self.transition_probs = None if transition_probs is None else transition
        self.transition_logits = None if transition_logits is None else transition
        shape = transition.shape
        if len(shape) < 2 or shape[-1] != shape[-2]:
            raise ValueError(f"{name} has shape {shape}; it must end in (K, K), one row for each state")
        num_states = shape[-1]
        if initial.shape[-1:] != (num_states,):
            raise ValueError(
                f"{initial_name} has shape {initial.shape} and {name} has shape {shape}: "
                f"{initial_name} must end in the number of states, {num_states}"
            )
        varying = tuple(name if entry == "transition_probs" else entry for entry in time_varying)
        rows = num_steps - 1
        batch = parameter_batch(
            name, shape, (num_states, num_states), num_steps=num_steps, rows=rows, time_varying=varying
        )
        if getattr(self, "_validate_args", True):
            check_probabilities("initial_probs", self.initial_probs)
            check_not_nan("initial_logits", self.initial_logits)
            check_not_nan("transition_logits", self.transition_logits)
            if not isinstance(transition, rules):
                check_probabilities("transition_probs", self.transition_probs)
        return num_states, {initial_name: initial.shape[:-1], name: batch}, {name: rows}, varying

    @property
    def num_states(self):
        """Number of hidden states ``K``."""
        initial = self.initial_probs if self.initial_logits is None else self.initial_logits
        return initial.shape[-1]

    @property
    def log_initial_probs(self):
        """Log-probabilities of the first state, ``(..., K)``."""
        if self.initial_logits is None:
            return log_of_probabilities(self.initial_probs)
        return log_normalize(self.initial_logits)[1]

    @property
    def log_transition_probs(self):
        """Log transitions ``(..., K, K)``, or ``(..., T-1, K, K)`` where they vary in time.

        Raises:
            NotImplementedError: if they depend on the series.
        """
        if isinstance(self.transition_probs, Transitions):
            raise NotImplementedError(
                "recurrent transitions depend on the trajectory, so there is no table of them: state_chain(value) has those "
                "along a trajectory, and transition_probs.log_probs(previous) those out of one step"
            )
        if self.transition_logits is None:
            return log_of_probabilities(self.transition_probs)
        return log_normalize(self.transition_logits)[1]

    @property
    def transitions_vary(self):
        """Whether the transitions differ from step to step."""
        named = "transition_probs" in self.time_varying or "transition_logits" in self.time_varying
        return named or isinstance(self.transition_probs, Transitions)

    @property
    def transitions(self) -> Transitions:
        """How the chain moves, whatever the transitions were given as."""
        if isinstance(self.transition_probs, Transitions):
            return self.transition_probs
        return GivenTransitions(self.log_transition_probs, self.transitions_vary)

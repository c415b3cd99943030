"""Recurrent cells as pure functions of a dict of arrays: one step, a start for the weights, a cheap part of the Jacobian.

Weights have one block for each gate, in front: ``input_weights`` ``(gates, n, m)``, ``recurrent_weights``
``(gates, n, n)``, ``bias`` ``(gates, n)``, for ``n`` units and ``m`` inputs. The carry and the inputs are those of one
step of one series; batch with ``jax.vmap``.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Params = dict[str, Array]
Units = Float[Array, " n"]
Inputs = Float[Array, " m"]


def init_gru_cell(key, num_inputs: int, num_units: int, *, gain: float = 1.0) -> Params:
    """Untrained weights of a :func:`gru_cell`.

    Input weights have variance ``1 / num_inputs`` (LeCun), the recurrent weights of each gate are a random orthogonal
    matrix times ``gain`` (Saxe et al. 2014), biases are zero. A gain below 1 forgets sooner.

    Args:
        key: random key.
        num_inputs: ``m``.
        num_units: ``n``.
        gain: the spectral norm of every gate's recurrent weights.

    Returns:
        dict: ``input_weights`` ``(3, n, m)``, ``recurrent_weights`` ``(3, n, n)``, ``bias`` ``(3, n)`` (reset, update,
        candidate), ``candidate_recurrent_bias`` ``(n,)``.
    """
    return _init_gates(key, 3, num_inputs, num_units, gain) | {"candidate_recurrent_bias": jnp.zeros(num_units)}


def gru_cell(params: Params, carry: Units, x: Inputs) -> Units:
    """One step of a gated recurrent unit.

    Reset ``r = sigmoid(W_r x + U_r h + b_r)``, update ``z = sigmoid(W_z x + U_z h + b_z)``, candidate
    ``c = tanh(W_c x + b_c + r * (U_c h + d))``, and ``h' = z * h + (1 - z) * c``. This is Cho et al. 2014 with the reset
    gate after the product, as in cuDNN, PyTorch and Flax.

    Args:
        params: those of :func:`init_gru_cell`.
        carry: ``h`` ``(n,)``.
        x: inputs ``(m,)``.

    Returns:
        the next ``h`` ``(n,)``.

    >>> import jax, jax.numpy as jnp, tsppl
    >>> params = tsppl.nn.init_gru_cell(jax.random.key(0), num_inputs=2, num_units=3)
    >>> def step(h, x):
    ...     h = tsppl.nn.gru_cell(params, h, x)
    ...     return h, h
    >>> last, states = jax.lax.scan(step, jnp.zeros(3), jnp.ones((5, 2)))
    >>> states.shape
    (5, 3)
    """
    _, update, candidate, _ = _gru_parts(params, carry, x)
    return update * carry + (1 - update) * candidate


def gru_cell_diagonal(params: Params, carry: Units, x: Inputs) -> Units:
    """Diagonal ``(n,)`` of the Jacobian of :func:`gru_cell` in the carry, at the cost of one more step.

    Takes the arguments of :func:`gru_cell`.
    """
    reset, update, candidate, pushed = _gru_parts(params, carry, x)
    of_reset, of_update, of_candidate = jnp.diagonal(params["recurrent_weights"], axis1=1, axis2=2)
    inner = reset * of_candidate + reset * (1 - reset) * of_reset * pushed
    gate = update * (1 - update) * of_update
    return update + (carry - candidate) * gate + (1 - update) * (1 - candidate**2) * inner


def init_lstm_cell(key, num_inputs: int, num_units: int, *, gain: float = 1.0, forget_bias: float = 1.0) -> Params:
    """Untrained weights of an :func:`lstm_cell`, as for :func:`init_gru_cell`.

    Args:
        key, num_inputs, num_units, gain: as there.
        forget_bias: bias of the forget gate; 1 keeps memories at first (Jozefowicz et al. 2015).

    Returns:
        dict: ``input_weights`` ``(4, n, m)``, ``recurrent_weights`` ``(4, n, n)``, ``bias`` ``(4, n)``; gates are input,
        forget, candidate, output.
    """
    params = _init_gates(key, 4, num_inputs, num_units, gain)
    return params | {"bias": params["bias"].at[1].set(forget_bias)}


def lstm_cell(params: Params, carry: tuple[Units, Units], x: Inputs) -> tuple[Units, Units]:
    """One step of a long short-term memory with forget gate.

    With gates ``i``, ``f``, ``o`` (sigmoid) and the candidate ``g`` (tanh) of ``W x + U h + b``:
    ``c' = f * c + i * g`` and ``h' = o * tanh(c')`` (Hochreiter and Schmidhuber 1997; Gers et al. 2000), no peepholes.

    Args:
        params: those of :func:`init_lstm_cell`.
        carry: cell state and hidden state ``(c, h)``, ``(n,)`` each.
        x: inputs ``(m,)``.

    Returns:
        the next ``(c, h)``.

    >>> import jax, jax.numpy as jnp, tsppl
    >>> params = tsppl.nn.init_lstm_cell(jax.random.key(0), num_inputs=2, num_units=3)
    >>> cell, hidden = tsppl.nn.lstm_cell(params, (jnp.zeros(3), jnp.zeros(3)), jnp.ones(2))
    >>> cell.shape, hidden.shape
    ((3,), (3,))
    """
    entered, forgotten, candidate, output = _lstm_gates(params, carry[1], x)
    cell = forgotten * carry[0] + entered * candidate
    return cell, output * jnp.tanh(cell)


def lstm_cell_pairs(params: Params, carry: tuple[Units, Units], x: Inputs) -> Float[Array, "n 2 2"]:
    """How unit ``i``'s own ``(c, h)`` moves its next ``(c, h)``: ``(n, 2, 2)`` blocks of the Jacobian, next in the rows.

    Takes the arguments of :func:`lstm_cell`.
    """
    entered, forgotten, candidate, output = _lstm_gates(params, carry[1], x)
    own = jnp.diagonal(params["recurrent_weights"], axis1=1, axis2=2)
    bounded = jnp.tanh(forgotten * carry[0] + entered * candidate)
    slope = output * (1 - bounded**2)
    cell_by_hidden = (
        carry[0] * forgotten * (1 - forgotten) * own[1]
        + candidate * entered * (1 - entered) * own[0]
        + entered * (1 - candidate**2) * own[2]
    )
    hidden_by_hidden = slope * cell_by_hidden + bounded * output * (1 - output) * own[3]
    rows = [[forgotten, cell_by_hidden], [slope * forgotten, hidden_by_hidden]]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def lstm_cell_diagonal(params: Params, carry: tuple[Units, Units], x: Inputs) -> tuple[Units, Units]:
    """Diagonal of the Jacobian of :func:`lstm_cell` in the carry, in the carry's form: ``(n,)`` for ``c`` and for ``h``.

    Takes the arguments of :func:`lstm_cell`.
    """
    blocks = lstm_cell_pairs(params, carry, x)
    return blocks[:, 0, 0], blocks[:, 1, 1]


def init_leaky_tanh_cell(key, num_inputs: int, num_units: int, *, gain: float = 1.0, leak: float = 0.5) -> Params:
    """Untrained weights of a :func:`leaky_tanh_cell`, as for :func:`init_gru_cell`.

    Args:
        key, num_inputs, num_units, gain: as there.
        leak: step over time constant, in (0, 1], of every unit.

    Returns:
        dict: ``input_weights`` ``(1, n, m)``, ``recurrent_weights`` ``(1, n, n)``, ``bias`` ``(1, n)``, ``leak``
        ``(n,)``.
    """
    return _init_gates(key, 1, num_inputs, num_units, gain) | {"leak": jnp.full(num_units, leak)}


def leaky_tanh_cell(params: Params, carry: Units, x: Inputs) -> Units:
    """One step of a leaky tanh network, ``h' = (1 - a) * h + a * tanh(W x + U h + b)``.

    The Euler step of a firing-rate network (Jaeger et al. 2007, eq. 2); with leak ``a = 1`` the plain tanh network of
    Elman 1990. A spectral norm of ``U`` below 1 makes it contract, whatever the inputs.

    Args:
        params: those of :func:`init_leaky_tanh_cell`.
        carry: ``h`` ``(n,)``.
        x: inputs ``(m,)``.

    Returns:
        the next ``h`` ``(n,)``.

    >>> import jax, jax.numpy as jnp, tsppl
    >>> params = tsppl.nn.init_leaky_tanh_cell(jax.random.key(0), num_inputs=2, num_units=3)
    >>> tsppl.nn.leaky_tanh_cell(params, jnp.ones(3), jnp.zeros(2)).shape
    (3,)
    """
    leak = params["leak"]
    return (1 - leak) * carry + leak * jnp.tanh(_drive(params, x)[0] + params["recurrent_weights"][0] @ carry)


def leaky_tanh_cell_diagonal(params: Params, carry: Units, x: Inputs) -> Units:
    """Diagonal ``(n,)`` of the Jacobian of :func:`leaky_tanh_cell` in the carry, with the arguments of that."""
    weights, leak = params["recurrent_weights"][0], params["leak"]
    candidate = jnp.tanh(_drive(params, x)[0] + weights @ carry)
    return 1 - leak + leak * (1 - candidate**2) * jnp.diagonal(weights)


def init_minimal_gated_cell(key, num_inputs: int, num_units: int, *, gain: float = 1.0) -> Params:
    """Untrained weights of a :func:`minimal_gated_cell`, as for :func:`init_gru_cell`.

    Returns:
        dict: ``input_weights`` ``(2, n, m)``, ``recurrent_weights`` ``(2, n, n)``, ``bias`` ``(2, n)``; forget gate, then
        candidate.
    """
    return _init_gates(key, 2, num_inputs, num_units, gain)


def minimal_gated_cell(params: Params, carry: Units, x: Inputs) -> Units:
    """One step of a minimal gated unit (Zhou et al. 2016): a GRU whose only gate both forgets and resets.

    ``f = sigmoid(W_f x + U_f h + b_f)``, ``c = tanh(W_c x + U_c (f * h) + b_c)``, ``h' = (1 - f) * h + f * c``.

    Args:
        params: those of :func:`init_minimal_gated_cell`.
        carry: ``h`` ``(n,)``.
        x: inputs ``(m,)``.

    Returns:
        the next ``h`` ``(n,)``.

    >>> import jax, jax.numpy as jnp, tsppl
    >>> params = tsppl.nn.init_minimal_gated_cell(jax.random.key(0), num_inputs=2, num_units=3)
    >>> tsppl.nn.minimal_gated_cell(params, jnp.ones(3), jnp.zeros(2)).shape
    (3,)
    """
    gate, candidate = _minimal_gated_parts(params, carry, x)
    return (1 - gate) * carry + gate * candidate


def minimal_gated_cell_diagonal(params: Params, carry: Units, x: Inputs) -> Units:
    """Diagonal ``(n,)`` of the Jacobian of :func:`minimal_gated_cell` in the carry, with the arguments of that."""
    gate, candidate = _minimal_gated_parts(params, carry, x)
    of_gate, of_candidate = params["recurrent_weights"]
    slope = gate * (1 - gate)
    inner = gate * jnp.diagonal(of_candidate) + jnp.einsum("ij,j,ji->i", of_candidate, carry * slope, of_gate)
    return 1 - gate + (candidate - carry) * slope * jnp.diagonal(of_gate) + gate * (1 - candidate**2) * inner


def _init_gates(key, num_gates, num_inputs, num_units, gain):
    input_key, recurrent_key = jax.random.split(key)
    return {
        "input_weights": jax.random.normal(input_key, (num_gates, num_units, num_inputs)) / num_inputs**0.5,
        "recurrent_weights": gain * jax.random.orthogonal(recurrent_key, num_units, (num_gates,)),
        "bias": jnp.zeros((num_gates, num_units)),
    }


def _drive(params, x):
    return params["input_weights"] @ x + params["bias"]


def _gru_parts(params, carry, x):
    drive, pushed = _drive(params, x), params["recurrent_weights"] @ carry
    reset, update = jax.nn.sigmoid(drive[:2] + pushed[:2])
    pushed = pushed[2] + params["candidate_recurrent_bias"]
    return reset, update, jnp.tanh(drive[2] + reset * pushed), pushed


def _lstm_gates(params, hidden, x):
    total = _drive(params, x) + params["recurrent_weights"] @ hidden
    entered, forgotten, output = jax.nn.sigmoid(total[jnp.array([0, 1, 3])])
    return entered, forgotten, jnp.tanh(total[2]), output


def _minimal_gated_parts(params, carry, x):
    drive = _drive(params, x)
    gate = jax.nn.sigmoid(drive[0] + params["recurrent_weights"][0] @ carry)
    return gate, jnp.tanh(drive[1] + params["recurrent_weights"][1] @ (gate * carry))

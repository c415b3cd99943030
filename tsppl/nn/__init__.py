"""Layers and cells of recurrent networks: pure functions on dicts of arrays."""

from tsppl.nn.cells import (
    gru_cell as gru_cell,
    gru_cell_diagonal as gru_cell_diagonal,
    init_gru_cell as init_gru_cell,
    init_leaky_tanh_cell as init_leaky_tanh_cell,
    init_lstm_cell as init_lstm_cell,
    init_minimal_gated_cell as init_minimal_gated_cell,
    leaky_tanh_cell as leaky_tanh_cell,
    leaky_tanh_cell_diagonal as leaky_tanh_cell_diagonal,
    lstm_cell as lstm_cell,
    lstm_cell_diagonal as lstm_cell_diagonal,
    lstm_cell_pairs as lstm_cell_pairs,
    minimal_gated_cell as minimal_gated_cell,
    minimal_gated_cell_diagonal as minimal_gated_cell_diagonal,
)

"""Functions of sequence models: activations, normalisation, attention, recurrence, losses.

An op with a kernel is given with the composed definition that it equals: that is what to read, what the tests compare
it with, and what gradients of gradients use. Classes and features stand on the last axis: (batch, time, features).
"""

from tinyseq.engine.ops import sigmoid, tanh
from tinyseq.functional.activations import elu, gelu, glu, leaky_relu, log_sigmoid, relu, silu, softplus, swiglu
from tinyseq.functional.normalisation import layer_norm, log_softmax, rms_norm, softmax
from tinyseq.functional.layers import dropout, embedding, linear
from tinyseq.functional.convolution import avg_pool1d, conv1d, max_pool1d, pad
from tinyseq.functional.attention import attention, attention_weights, rotate
from tinyseq.functional.recurrence import gru_cell, lstm_cell, rnn_cell, scan, unroll
from tinyseq.functional.parallel import associative_scan, linear_scan
from tinyseq.functional.losses import (
    binary_cross_entropy, binary_cross_entropy_with_logits, cross_entropy, huber_loss, kl_div, l1_loss, mse_loss,
    nll_loss, smooth_l1_loss,
)

__all__ = [
    "associative_scan", "attention", "attention_weights", "avg_pool1d", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "conv1d", "cross_entropy", "dropout", "elu", "embedding", "gelu", "glu",
    "gru_cell", "huber_loss", "kl_div", "l1_loss", "layer_norm", "leaky_relu", "linear", "linear_scan", "log_sigmoid",
    "log_softmax", "lstm_cell", "max_pool1d", "mse_loss", "nll_loss", "pad", "relu", "rms_norm", "rnn_cell", "rotate",
    "scan", "sigmoid", "silu", "smooth_l1_loss", "softmax", "softplus", "swiglu", "tanh", "unroll",
]

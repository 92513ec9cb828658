"""Layers, under PyTorch's names: modules that own parameters."""

from tinyseq.nn import init
from tinyseq.nn.attention import AdditiveAttention, Attention, DotAttention, FixedContext, MultiheadContext
from tinyseq.nn.layers import (
    ELU, GELU, Activation, Dropout, Embedding, LayerNorm, LeakyReLU, Linear, ReLU, Sequential, Sigmoid, SiLU, Softplus,
    Tanh,
)
from tinyseq.nn.module import Module, Parameter
from tinyseq.nn.multihead import MultiheadAttention, length_mask
from tinyseq.nn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell, Scan
from tinyseq.nn.seq2seq import AttentionDecoder, DecoderState, EncoderDecoder

__all__ = [  # what type checkers let users take from here
    "ELU", "GELU", "GRU", "LSTM", "RNN", "Activation", "AdditiveAttention", "Attention", "AttentionDecoder",
    "DecoderState", "DotAttention", "Dropout", "Embedding", "EncoderDecoder", "FixedContext", "GRUCell", "LSTMCell",
    "LayerNorm", "LeakyReLU", "Linear", "Module", "MultiheadAttention", "MultiheadContext", "Parameter", "RNNCell",
    "ReLU", "Scan", "Sequential", "SiLU", "Sigmoid", "Softplus", "Tanh", "init", "length_mask",
]

"""Layers, under PyTorch's names: modules that own parameters."""

from tinyseq import functional
from tinyseq.nn import convert, init
from tinyseq.nn.contexts import AdditiveAttention, Attention, DotAttention, FixedContext, MultiheadContext
from tinyseq.nn.convolution import AvgPool1d, Conv1d, MaxPool1d
from tinyseq.nn.layers import (
    ELU, GELU, Activation, Dropout, Embedding, LayerNorm, LeakyReLU, Linear, ReLU, RMSNorm, Sequential, Sigmoid, SiLU,
    Softplus, Tanh,
)
from tinyseq.nn.losses import (
    BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, GLU, HuberLoss, Identity, KLDivLoss, L1Loss, LogSigmoid, LogSoftmax,
    MSELoss, NLLLoss, SmoothL1Loss, Softmax,
)
from tinyseq.nn.module import Buffer, Module, Parameter
from tinyseq.nn.multihead import MultiheadAttention, attention_weights
from tinyseq.nn.masks import length_mask
from tinyseq.nn.norms import BatchNorm1d, EmbeddingBag, GroupNorm, PReLU
from tinyseq.nn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell, Scan
from tinyseq.nn.parallel import LRU, MinGRU, MinLSTM
from tinyseq.nn.seq2seq import AttentionDecoder, DecoderState, EncoderDecoder
from tinyseq.nn.structured import CRF, CTCLoss
from tinyseq.nn.language import ConditionalLanguageModel, LanguageModel
from tinyseq.nn.steps import LanguageState
from tinyseq.nn.positions import LearnedPositions, SinusoidalPositions
from tinyseq.nn.rotary import RotaryPositions
from tinyseq.nn.transformer import (
    Transformer, TransformerDecoder, TransformerDecoderLayer, TransformerEncoder, TransformerEncoderLayer,
)

__all__ = [  # what type checkers let users take from here
    "Activation", "AdditiveAttention", "Attention", "AttentionDecoder", "AvgPool1d", "BCELoss", "BCEWithLogitsLoss",
    "BatchNorm1d", "Buffer", "CRF", "CTCLoss", "ConditionalLanguageModel", "Conv1d", "CrossEntropyLoss", "DecoderState",
    "DotAttention", "Dropout", "ELU", "Embedding", "EmbeddingBag", "EncoderDecoder", "FixedContext", "GELU", "GLU",
    "GRU", "GRUCell", "GroupNorm", "HuberLoss", "Identity", "KLDivLoss", "L1Loss", "LRU", "LSTM", "LSTMCell",
    "LanguageModel", "LanguageState", "LayerNorm", "LeakyReLU", "LearnedPositions", "Linear", "LogSigmoid",
    "LogSoftmax", "MSELoss", "MaxPool1d", "MinGRU", "MinLSTM", "Module", "MultiheadAttention", "MultiheadContext",
    "NLLLoss", "PReLU", "Parameter", "RMSNorm", "RNN", "RNNCell", "ReLU", "RotaryPositions", "Scan", "Sequential",
    "SiLU", "Sigmoid", "SinusoidalPositions", "SmoothL1Loss", "Softmax", "Softplus", "Tanh", "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer", "TransformerEncoder", "TransformerEncoderLayer", "attention_weights", "convert",
    "functional", "init", "length_mask",
]

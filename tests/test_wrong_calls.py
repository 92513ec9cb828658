"""Wrong calls: each is an error that names the public function or class, the argument and what was given.

`GOOD` has one right call of every public function and class, its arguments by name. The sweep puts nonsense
(`NONSENSE`), chosen by the kind of argument (`KINDS`), in the place of one argument after the other. `ROWS` are single
calls that the sweep does not reach. What is taken though it looks like nonsense stands in `TAKEN`, with the reason.
"""

import ast
import inspect
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tensors import compare

import tinyseq as ts
from tinyseq import (
    backends,
    checkpoint,
    data,
    decode,
    functional,
    lens,
    logs,
    metrics,
    models,
    nn,
    optim,
    plot,
    random,
    runs,
    testing,
)
from tinyseq.engine import ops
from tinyseq.nn import convert, init

pytest.importorskip("matplotlib")  # for plot

# --- right calls ---------------------------------------------------------------------------------------------------
# X (2, 3) and V (3,) are floats, I (2,) and J (2, 3) integers, S (2, 3, 4) a batch of sequences.

UNARY = """square sqrt exp expm1 log log1p log2 log10 sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf
sigmoid abs sign floor ceil trunc round negative reciprocal logical_not isnan isinf isfinite matrix_transpose
clone count_nonzero nonzero positive signbit unique_all unique_counts unique_inverse unique_values""".split()
BINARY = """add subtract multiply divide pow floor_divide remainder atan2 logaddexp maximum minimum equal not_equal less
less_equal greater greater_equal logical_and logical_or logical_xor copysign hypot nextafter""".split()
BITWISE = ["bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift"]
REDUCING = ["sum", "mean", "prod", "max", "min", "any", "all", "argmax", "argmin", "logsumexp",
            "count_nonzero"]
METHODS = ["abs", "exp", "log", "sqrt", "square", "sin", "cos", "tanh", "sigmoid"]

GOOD = [
    *[f"ts.{name}(x=X)" for name in UNARY], "ts.bitwise_invert(x=J)",
    *[f"ts.{name}(a=X, b=X)" for name in BINARY], *[f"ts.{name}(a=J, b=J)" for name in BITWISE],
    *[f"ts.{name}(x=X, axis=0, keepdims=True)" for name in REDUCING],
    "ts.tensor(data=[1.0], dtype=ts.float32, requires_grad=True)",
    *[f"ts.{name}(x=X, axis=0, keepdims=True, dtype=ts.float64)" for name in ("sum", "prod")],
    "ts.searchsorted(a=V, b=X, side='right', sorter=[0, 1, 2])",
    "ts.isclose(a=X, b=X, rtol=0.1, atol=0.1, equal_nan=True)",
    *[f"ts.{name}(x=X, axis=0, dtype=ts.float64, include_initial=True)" for name in ("cumulative_sum",
                                                                                    "cumulative_prod")],
    "ts.diff(x=X, axis=0, n=1, prepend=X, append=X)", "ts.diagonal(x=X, offset=1)",
    "ts.swapaxes(x=X, axis1=0, axis2=1)",
    "ts.masked_fill(x=X, mask=X > 0.5, value=1.0)", "ts.meshgrid(V, V, indexing='ij')", "ts.broadcast_arrays(X, V)",
    "ts.empty(shape=(2, 3), dtype=ts.float32)", "ts.empty_like(x=X, dtype=ts.float32)",
    "ts.from_dlpack(x=X, copy=True)", "ts.asarray(data=[1.0], dtype=ts.float32, copy=True)",
    "ts.zeros(shape=(2, 3), dtype=ts.float32, requires_grad=True)",
    "ts.ones(shape=(2, 3), dtype=ts.float32, requires_grad=True)",
    "ts.full(shape=(2, 3), fill_value=1.5, dtype=ts.float32, requires_grad=True)",
    "ts.zeros_like(x=X, dtype=ts.float32)",
    "ts.ones_like(x=X, dtype=ts.float32)",
    "ts.full_like(x=X, fill_value=1.5, dtype=ts.float32)",
    "ts.arange(start=0, stop=5, step=2, dtype=ts.int64)",
    "ts.linspace(start=0, stop=5, num=3, dtype=ts.float32, endpoint=True)",
    "ts.eye(n_rows=2, n_cols=3, k=1, dtype=ts.float32)",
    "ts.one_hot(ids=I, num_classes=4, dtype=ts.float32)",
    "ts.clip(x=X, min=0.0, max=1.0)",
    "ts.flatten(x=X, start_axis=0)",
    "ts.where(condition=X > 0, a=X, b=X)",
    "ts.astype(x=X, dtype=ts.float64, copy=True)",
    "ts.var(x=X, axis=0, correction=1, keepdims=True)",
    "ts.std(x=X, axis=0, correction=1, keepdims=True)",
    "ts.argsort(x=X, axis=0, descending=True, stable=True)",
    "ts.sort(x=X, axis=0, descending=True, stable=True)",
    "ts.topk(x=X, k=2, axis=1, largest=True)",
    "ts.set_num_threads(n=1)", "ts.get_num_threads()",
    "ts.matmul(a=X, b=X.T)",
    "ts.vecdot(a=X, b=X, axis=1)",
    "ts.outer(a=V, b=V)",
    "ts.vector_norm(x=X, axis=0, keepdims=True, ord=3)",
    "ts.tensordot(a=X, b=X.T, axes=1)",
    "ts.reshape(x=X, shape=(3, 2))",
    "ts.permute_dims(x=X, axes=(1, 0))",
    "ts.moveaxis(x=X, source=0, destination=1)",
    "ts.expand_dims(x=X, axis=0)",
    "ts.squeeze(x=X[None], axis=0)",
    "ts.broadcast_to(x=V, shape=(2, 3))",
    "ts.concat(tensors=[X, X], axis=0)",
    "ts.stack(tensors=[X, X], axis=0)",
    "ts.unstack(x=X, axis=0)",
    "ts.split(x=X, sections=2, axis=0)",
    "ts.flip(x=X, axis=0)",
    "ts.roll(x=X, shift=1, axis=0)",
    "ts.repeat(x=X, repeats=2, axis=0)",
    "ts.tile(x=X, repetitions=(2, 1))",
    "ts.pad(x=V, pad_width=[(1, 1)], constant_values=1.0)",
    "ts.tril(x=X, k=1)",
    "ts.triu(x=X, k=1)",
    "ts.take(x=X, indices=I, axis=0)",
    "ts.take_along_axis(x=X, indices=J, axis=0)",
    "ts.index_add(x=X, axis=0, indices=I, values=X)",
    "ts.use_backend(name='numpy')",
    "ts.manual_seed(seed=1)", "random.manual_seed(seed=1)",
    "ts.grad(outputs=Y, inputs=W, grad_outputs=X, create_graph=True, retain_graph=True, allow_unused=True)",
    "ts.value_and_grad(fn=ts.sum, argnums=0)",
    "ts.recompute(lambda y: y, X)", "ts.capture(step=ts.sum)",
    "ts.namespace(X)",
    "ts.einsum('ij->ji', X)",
    "ts.op(body=lambda x: (x, None), definition=ts.abs, wide=False)",
    # methods
    *[f"X.{name}()" for name in METHODS],
    *[f"X.{name}(axis=0, keepdims=True)" for name in REDUCING if name not in ("logsumexp", "count_nonzero")],
    *[f"X.{name}(axis=0, correction=1, keepdims=True)" for name in ("var", "std")],
    *[f"X.{name}(axis=0, descending=True)" for name in ("sort", "argsort")],
    "X.clip(min=0.0, max=1.0)", "X.astype(dtype=ts.float64)", "X.to(target=ts.float64)", "X.expand_dims(axis=0)",
    "X.softmax(axis=0, mask=X > 0)", "X[None].squeeze(axis=0)", "X.take(indices=I, axis=0)",
    "Y.backward(grad=X, retain_graph=True, create_graph=True)",
    # functions
    *[f"F.{name}(x=X)" for name in ("relu", "silu", "softplus", "log_sigmoid")],
    "F.swiglu(x=S)",
    "F.leaky_relu(x=X, negative_slope=0.1)",
    "F.elu(x=X, alpha=1.5)",
    "F.gelu(x=X, approximate='tanh')",
    "F.glu(x=S, axis=-1)",
    "F.conv1d(x=S, weight=ts.ones((2, 2, 2)), bias=ts.ones(2), stride=1, padding=1, dilation=1, groups=2)",
    "F.max_pool1d(x=S, kernel_size=2, stride=1, padding=1, dilation=1)",
    "F.avg_pool1d(x=S, kernel_size=2, stride=1, padding=1, count_include_pad=False)",
    "F.pad(x=X, pad_width=[(0, 0), (1, 1)], mode='constant', value=1.0)",
    "F.softmax(x=X, axis=0, mask=X > 0)",
    "F.log_softmax(x=X, axis=0)",
    "F.linear(x=X, weight=X, bias=V[:2])",
    "F.embedding(ids=I, weight=X, padding_idx=0)",
    "F.layer_norm(x=X, normalized_shape=3, weight=V, bias=V, eps=1e-5)",
    "F.rms_norm(x=X, normalized_shape=3, weight=V, eps=1e-5)",
    "F.rotate(x=S, cos=S[..., :2], sin=S[..., :2])",
    "F.dropout(x=X, p=0.5, training=True, generator=None)",
    "F.attention(query=S, key=S, value=S, mask=M, causal=True, scale=1.0, dropout=0.1, bias=T, softcap=2.0,"
    " generator=None)",
    "F.attention_weights(query=S, key=S, mask=M, causal=True, scale=1.0, bias=T, softcap=2.0)",
    "F.rnn_cell(x=X, h=X, w_ih=Q, w_hh=Q, b_ih=V, b_hh=V, nonlinearity='relu')",
    "F.lstm_cell(x=X, h=X, c=X, w_ih=Q4, w_hh=Q4, b_ih=V4, b_hh=V4)",
    "F.gru_cell(x=X, h=X, w_ih=Q3, w_hh=Q3, b_ih=V3, b_hh=V3, reset='before', dropped=X)",
    "F.unroll(step=lambda x, s: s, x=S, state=(X,), lengths=L, reverse=True)",
    "F.linear_scan(a=S, b=S, h0=S[:, 0], lengths=L, reverse=True)",
    "F.associative_scan(combine=ts.maximum, xs=S, axis=1, reverse=True)",
    "F.scan(cell='lstm', x=T, h0=X, c0=X, w_ih=Q4, w_hh=Q4, b_ih=V4, b_hh=V4, lengths=L, reverse=True, h_mask=X)",
    "F.cross_entropy(logits=X, targets=I, weight=V, ignore_index=-1, reduction='sum', label_smoothing=0.1)",
    "F.nll_loss(log_probs=X, targets=I, weight=V, ignore_index=-1, reduction='sum')",
    "F.mse_loss(x=X, target=X, reduction='sum')",
    "F.l1_loss(x=X, target=X, reduction='sum')",
    "F.huber_loss(x=X, target=X, reduction='sum', delta=1.0)",
    "F.smooth_l1_loss(x=X, target=X, reduction='sum', beta=1.0)",
    "F.binary_cross_entropy(probs=X, target=X, weight=V, reduction='sum')",
    "F.binary_cross_entropy_with_logits(x=X, target=X, weight=V, reduction='sum', pos_weight=V)",
    "F.kl_div(log_probs=X, target=X, reduction='sum', log_target=True)",
    # layers
    "nn.Linear(in_features=2, out_features=3, bias=True, dtype=ts.float32)",
    "nn.Conv1d(in_channels=2, out_channels=4, kernel_size=3, stride=1, padding=0, dilation=1, groups=2, bias=True, "
    "padding_mode='zeros', causal=False, dtype=ts.float32)",
    "nn.MaxPool1d(kernel_size=2, stride=1, padding=1, dilation=1)",
    "nn.AvgPool1d(kernel_size=2, stride=1, padding=1, count_include_pad=False)",
    "nn.BatchNorm1d(num_features=3, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True, dtype=ts.float32)",
    "nn.GroupNorm(num_groups=1, num_channels=4, eps=1e-5, affine=True, dtype=ts.float32)",
    "nn.PReLU(num_parameters=3, init=0.25, dtype=ts.float32)",
    "nn.EmbeddingBag(num_embeddings=2, embedding_dim=3, mode='sum', padding_idx=0, dtype=ts.float32)",
    "nn.CrossEntropyLoss(weight=V, ignore_index=1, reduction='sum', label_smoothing=0.1)",
    "nn.NLLLoss(weight=V, ignore_index=1, reduction='sum')",
    *[f"nn.{name}(reduction='sum')" for name in ("MSELoss", "L1Loss")],
    "nn.BCELoss(weight=V, reduction='sum')",
    "nn.HuberLoss(reduction='sum', delta=0.5)", "nn.SmoothL1Loss(reduction='sum', beta=0.5)",
    "nn.BCEWithLogitsLoss(weight=V, reduction='sum', pos_weight=V)", "nn.KLDivLoss(reduction='sum', log_target=True)",
    *[f"nn.{name}(axis=0)" for name in ("Softmax", "LogSoftmax", "GLU")], "nn.LogSigmoid()", "nn.Identity()",
    "nn.Embedding(num_embeddings=2, embedding_dim=3, padding_idx=0, dtype=ts.float32)",
    "nn.LayerNorm(normalized_shape=3, eps=1e-5, elementwise_affine=True, bias=True, dtype=ts.float32)",
    "nn.RMSNorm(normalized_shape=3, eps=1e-5, elementwise_affine=True, dtype=ts.float32)",
    "nn.Dropout(p=0.5)",
    *[f"nn.{name}()" for name in ("ReLU", "SiLU", "Tanh", "Sigmoid", "Softplus")],
    "nn.Sequential(nn.ReLU())",
    "nn.Buffer(data=[1.0], requires_grad=False)",
    "nn.LeakyReLU(negative_slope=0.1)", "nn.ELU(alpha=1.5)", "nn.GELU(approximate='tanh')",
    "nn.Parameter(data=[1.0], requires_grad=True)",
    "nn.RNN(input_size=2, hidden_size=3, num_layers=2, nonlinearity='relu', bias=True, batch_first=True, dropout=0.1, "
    "bidirectional=True, recurrent_dropout=0.1, dtype=ts.float32)",
    "nn.GRU(input_size=2, hidden_size=3, num_layers=2, bias=True, batch_first=True, dropout=0.1, bidirectional=True, "
    "reset='before', recurrent_dropout=0.1, dtype=ts.float32)",
    "nn.LSTM(input_size=2, hidden_size=3, num_layers=2, bias=True, batch_first=True, dropout=0.1, bidirectional=True, "
    "proj_size=1, recurrent_dropout=0.1, dtype=ts.float32)",
    "nn.MinGRU(input_size=2, hidden_size=3, num_layers=2, bias=True, batch_first=True, dropout=0.1, "
    "bidirectional=True, dtype=ts.float32)",
    "nn.MinLSTM(input_size=2, hidden_size=3, num_layers=2, bias=True, batch_first=True, dropout=0.1, "
    "bidirectional=True, dtype=ts.float32)",
    "nn.LRU(input_size=2, hidden_size=3, num_layers=2, dropout=0.1, bidirectional=True, r_min=0.5, r_max=0.9, "
    "max_phase=1.0, dtype=ts.float32)",
    "nn.RNNCell(input_size=2, hidden_size=3, bias=True, nonlinearity='relu', dtype=ts.float32)",
    "nn.GRUCell(input_size=2, hidden_size=3, bias=True, reset='before', dtype=ts.float32)",
    "nn.LSTMCell(input_size=2, hidden_size=3, bias=True, dtype=ts.float32)",
    "nn.Scan(cell=nn.GRUCell, input_size=2, hidden_size=3, num_layers=2, dropout=0.1, bidirectional=True)",
    "nn.MultiheadAttention(embed_dim=4, num_heads=2, dropout=0.1, bias=True, kdim=3, vdim=3, batch_first=True, "
    "dtype=ts.float32, num_kv_heads=1, head_dim=3, window=2, q_norm=nn.RMSNorm(3), k_norm=nn.RMSNorm(3), "
    "softcap=2.0)",
    "nn.AdditiveAttention(query_size=2, memory_size=3, hidden_size=4)",
    "nn.DotAttention(query_size=2, memory_size=3, projected=True, scale=True)",
    "nn.FixedContext(memory_size=4, pool='both', size=3)",
    "nn.MultiheadContext(query_size=4, memory_size=3, num_heads=2)",
    "nn.TransformerEncoderLayer(d_model=4, nhead=2, dim_feedforward=3, dropout=0.1, activation='gelu', "
    "layer_norm_eps=1e-5, batch_first=True, norm_first=True, bias=True, dtype=ts.float32, norm='rms', num_kv_heads=1)",
    "nn.TransformerDecoderLayer(d_model=4, nhead=2, dim_feedforward=3, dropout=0.1, activation='gelu', "
    "layer_norm_eps=1e-5, batch_first=True, norm_first=True, bias=True, dtype=ts.float32, norm='rms', num_kv_heads=1)",
    "nn.TransformerEncoder(encoder_layer=ENCODER, num_layers=2, norm=nn.LayerNorm(4))",
    "nn.TransformerDecoder(decoder_layer=DECODER, num_layers=2, norm=nn.LayerNorm(4))",
    "nn.Transformer(d_model=4, nhead=2, num_encoder_layers=1, num_decoder_layers=1, dim_feedforward=3, dropout=0.1, "
    "activation='gelu', custom_encoder=ENCODER, custom_decoder=DECODER, layer_norm_eps=1e-5, batch_first=True, "
    "norm_first=True, bias=True, dtype=ts.float32, norm='rms', num_kv_heads=1)",
    "nn.SinusoidalPositions(d_model=4)",
    "nn.LearnedPositions(max_length=4, d_model=4, dtype=ts.float32)",
    "nn.RotaryPositions(width=4, base=100.0, rope_type='default')",
    *[f"nn.{name}(vocab_size=5, d_model=4, nhead=2, num_layers=1, dim_feedforward=3, dropout=0.1, positions='rotary', "
      "max_length=6, rotary_base=1e3, tied=True, norm_first=True, last_norm=True, out_bias=True, dtype=ts.float32, "
      "activation='gelu', layer_norm_eps=1e-5, bias=True, norm='rms', num_kv_heads=1)"
      for name in ("LanguageModel", "ConditionalLanguageModel")],
    "nn.AttentionDecoder(vocab_size=5, embedding_dim=2, hidden_size=3, attention=nn.DotAttention(3, 4), memory_size=4, "
    "dropout=0.1, cell=nn.LSTM, feed='context', num_layers=2, order='sc')",
    "nn.EncoderDecoder(embedding=nn.Embedding(5, 2), encoder=nn.GRU(2, 3), decoder=MODEL)",
    "nn.CTCLoss(blank=0, reduction='sum', zero_infinity=True)",
    "nn.CRF(num_tags=3, dtype=ts.float32)",
    "nn.length_mask(lengths=L, steps=5, rows=2, where='length_mask')",
    "nn.attention_weights(model=ENCODER, src=S)",
    "models.Bert(vocab_size=5, d_model=4, nhead=2, num_layers=1, dim_feedforward=3, max_length=6, segments=2, "
    "activation='gelu', layer_norm_eps=1e-5, dropout=0.1, dtype=ts.float32, embedding_size=3, buckets=32)",
    "models.Classifier(model=models.Bert(5, 4, 2, 1, 3), head=nn.Linear(4, 2), each=True, labels=('a', 'b'))",
    # modules' methods
    "nn.Linear(2, 3).to(target=ts.float64)", "nn.Linear(2, 3).load_state_dict(state=STATE, strict=True)",
    "nn.Linear(2, 3).save(path=TMP / 'a.safetensors')", "nn.Linear(2, 3).load(path=TMP / 'w.safetensors', strict=True)",
    # init
    "init.zeros_(tensor=P)", "init.ones_(tensor=P)", "init.constant_(tensor=P, value=1.5)",
    "init.uniform_(tensor=P, low=0.0, high=1.0, generator=None)",
    "init.normal_(tensor=P, mean=0.0, std=1.0, generator=None)",
    *[f"init.{name}(tensor=P, gain=1.0, generator=None)"
      for name in ("xavier_uniform_", "xavier_normal_", "orthogonal_")],
    *[f"init.{name}(tensor=P, gain=1.0, generator=None)" for name in ("kaiming_uniform_", "kaiming_normal_")],
    "init.recurrent_(module=nn.GRU(2, 3), generator=None)",
    "convert.from_onnx(layer=nn.GRU(2, 3, reset='before'), W=np.ones((1, 9, 2)), R=np.ones((1, 9, 3)))",
    "convert.from_gates(layer=nn.LSTM(2, 3), arrays=(np.ones((2, 12)), np.ones((3, 12))), preset=None, prefix='', "
    "order='ifog', forget_bias=1.0, reset=None, update=None, transposed=True, interleaved=False)",
    "convert.from_torch(layer=nn.GRU(2, 3), state=nn.GRU(2, 3).state_dict())",
    # optimizers
    "optim.SGD(parameters=[P], lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True)",
    "optim.Adam(parameters=[P], lr=0.1, betas=(0.9, 0.9), eps=1e-8, weight_decay=0.1)",
    "optim.AdamW(parameters=[P], lr=0.1, betas=(0.9, 0.9), eps=1e-8, weight_decay=0.1)",
    "optim.RMSprop(parameters=[P], lr=0.1, alpha=0.9, eps=1e-8, weight_decay=0.1, momentum=0.9, centered=True)",
    "optim.Adafactor(parameters=[P], lr=0.1, beta2_decay=-0.8, eps=(None, 1e-3), d=1.0, weight_decay=0.1)",
    "optim.Lion(parameters=[P], lr=0.1, betas=(0.9, 0.9), weight_decay=0.1)",
    "optim.clip_grad_norm_(parameters=[G], max_norm=1.0)",
    "optim.clip_grad_value_(parameters=[G], clip_value=1.0)",
    "optim.decay_groups(model=nn.Linear(2, 3), weight_decay=0.1)",
    "schedules.linear(start=0.1, steps=10, end=0.0)",
    "schedules.cosine(start=0.1, steps=10, end=0.0)",
    "schedules.inverse_sqrt(start=0.1, steps=10)",
    "schedules.one_cycle(peak=0.1, steps=10, rise=0.3, start=0.01, end=0.0)",
    "schedules.warmup(steps=10, then=schedules.linear(0.1, 10), start=0.0)",
    "schedules.Plateau(value=0.1, factor=0.1, patience=10, threshold=1e-4, mode='min', cooldown=2, floor=0.0)",
    "optim.divide_grad_(parameters=[G], count=2.0)",
    "optim.LossScaler(scale=8.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=10)",
    "optim.EMA(model=nn.Linear(2, 3), decay=0.9, warmup=True)",
    "optim.SWA(model=nn.Linear(2, 3))",
    # decoding
    "decode.greedy(decoder=MODEL, state=MODEL.start(I[:, None][:, :0]), start=I, end=0, max_length=3)",
    "decode.sample(decoder=MODEL, state=MODEL.start(I[:, None][:, :0]), start=I, end=0, max_length=3, temperature=0.5, "
    "top_k=2, top_p=0.9, min_p=0.1, seed=1, generator=None)",
    "list(decode.stream(decoder=MODEL, state=MODEL.start(I[:, None][:, :0]), start=I, end=0, max_length=3, "
    "temperature=0.5, top_k=2, top_p=0.9, min_p=0.1, seed=1, generator=None))",
    "decode.beam(decoder=MODEL, state=MODEL.start(I[:, None][:, :0]), start=I, end=0, max_length=3, width=2, n_best=2, "
    "length_penalty=0.5, min_length=1, normalize='length', keep_ended=True)",
    "decode.score(decoder=MODEL, state=MODEL.start(I[:, None][:, :0]), start=I, target=J, lengths=L, "
    "align=False)",
    # data, metrics, plot
    "data.Vocabulary(symbols=['a', 'b'], unknown='a')",
    "data.lines(paths=TMP / 'w.safetensors')", "data.json_lines(paths=TMP / 'w.safetensors')",
    "data.pairs(source=TMP / 'w.safetensors', target=TMP / 'w.safetensors')",
    "data.text(paths=TMP / 'w.safetensors', size=3)", "data.items(source=[1, 2])",
    "data.pad(sequences=[[1, 2], [3]])",
    "data.batches(lengths=[3, 1, 2], size=2, seed=1, generator=None)",
    "metrics.token_error_rate(hypotheses=[['a']], references=[[['a']]])",
    "metrics.sequence_error_rate(hypotheses=[['a']], references=[[['a']]])",
    "metrics.span_f1(hypotheses=[['B-x']], references=[['B-x']])",
    *[f"metrics.{name}().update({total}=1.0, {count}=[1, 2])" for name, total, count in (
        ("Mean", "total", "count"), ("Perplexity", "nll", "tokens"), ("BitsPerCharacter", "nll", "characters"))],
    *[f"metrics.{name}()" for name in ("Metric", "Mean", "Perplexity", "BitsPerCharacter", "TokenErrorRate",
                                       "SequenceErrorRate", "SpanF1")],
    "metrics.Accuracy(ignore_index=1)", "metrics.Accuracy().update(predictions=J, targets=J, lengths=L)",
    *[f"metrics.{name}().update(hypotheses=['a'], references=[['a']])"
      for name in ("TokenErrorRate", "SequenceErrorRate", "BLEU", "CHRF")],
    "metrics.SpanF1().update(hypotheses=[['B-x']], references=[['B-x']])",
    "metrics.BLEU(tokenize='intl', lowercase=True, smooth_method='floor', max_ngram_order=3)",
    "metrics.CHRF(char_order=5, word_order=1, beta=3, lowercase=True)",
    *[f"metrics.Mean().{name}" for name in ("merge(other=metrics.Mean())",
                                            "load_state_dict(state=metrics.Mean().state_dict())")],
    "logs.Log(print)", "logs.Terminal(file=None)", "logs.CSV(path=TMP / 'l.csv', start=3)",
    "logs.TensorBoard(folder=TMP / 'board', start=3)", "logs.read(path=TMP / 'log.csv')",
    "logs.progress(iterable=[1], total=1, desc='learning', save=None, initial=0, disable=False)",
    "plot.attention(weights=[[[1.0]]], rows=[['a']], columns=[['b']], path=TMP / 'a.png')",
    "plot.curves(panels={'loss': {'train': ([1, 2], [3, 4])}}, x='seconds', path=TMP / 'a.png')",
    "plot.through_time(models={'gru': ([[1.0]], {})}, path=TMP / 'a.png')",
    "plot.heads(weights=[[[1.0]]], path=TMP / 'a.png')",
    "plot.runs(files={'a': TMP / 'log.csv'}, figures=['loss'], path=TMP / 'a.png')",
    "plot.words(rows=[['a']], values=[[0.5]], title='t', path=TMP / 'a.png')",
    # files
    "checkpoint.save(path=TMP / 'a.safetensors', state={'a': X})",
    "checkpoint.load(path=TMP / 'w.safetensors')",
    "runs.Run(folder=TMP / 'run', keep=2, best='min', writes=True, world=None, model=MODEL)",
    "checkpoint.rename(state={'a': X}, rules={'a': 'b'}, strict=True)",
    # the rest
    "lens.gradients_through_time(layer=nn.GRU(4, 3), x=S, loss=ts.sum, lengths=L)",
    "lens.gate_saturation(layer=nn.GRU(4, 3), x=S, lengths=L)",
    "lens.retained(layer=nn.MinGRU(4, 3), x=S, lengths=L)",
    "testing.check_grad(ts.exp, X, order=1, step=1e-5, tolerance=1e-6, seed=0)",
    "testing.parity(tolerance=200.0)",
    "testing.check_shapes(fn=lambda: X, shape=(2, 3), dtype=ts.float32, wrong=())",
    "random.normal(shape=(2, 3), mean=0.0, std=1.0, dtype=ts.float32, generator=None)",
    "random.uniform(shape=(2, 3), low=0.0, high=1.0, dtype=ts.float32, generator=None)",
    "random.integers(shape=(2, 3), low=0, high=5, generator=None)",
    "random.bernoulli(p=X, shape=(4, 2, 3), generator=None)",
    "random.categorical(probs=[[0.5, 0.5]], generator=None)",
    "random.permutation(n=4, generator=None)", "random.Generator(seed=1)",
    "random.set_state(state=(1, 2))",
    "backends.load(name='numpy')",
]


# --- single calls --------------------------------------------------------------------------------------------------
# (the call, what its error names: the function or class, the argument, what was given)

ROWS = [
    # creation
    ("ts.tensor(['a'])", "tensor", "data", "'a'"),
    ("ts.tensor([[1.0], [1.0, 2.0]])", "tensor", "data", "[1.0, 2.0]"),
    ("ts.tensor([X, X])", "tensor", "data", "float32[2, 3]"),
    ("ts.tensor(1j)", "tensor", "data", "1j"),
    ("ts.tensor([300], dtype=ts.int8)", "tensor", "data", "300"),
    ("ts.tensor([-1], dtype=ts.uint8)", "tensor", "data", "-1"),
    ("ts.tensor([math.nan], dtype=ts.int64)", "tensor", "data", "nan"),
    ("ts.tensor([1e10], dtype=ts.int32)", "tensor", "data", "10000000000.0"),
    ("ts.tensor(np.array([300]), dtype='int8')", "tensor", "data", "int64[1]"),
    ("ts.asarray([2**40], ts.int32)", "asarray", "data", "1099511627776"),
    ("ts.tensor([1], dtype=ts.int64, requires_grad=True)", "tensor", "dtype", "int64"),
    ("ts.zeros((-1,))", "zeros", "shape", "(-1,)"),
    ("ts.ones((2, -1))", "ones", "shape", "(2, -1)"),
    ("ts.ones(3, requires_grad=True, dtype='int32')", "ones", "dtype", "int32"),
    ("ts.full(3, 300, 'int8')", "full", "fill_value", "300"),
    ("ts.full(3, None)", "full", "fill_value", "None"),
    ("ts.arange(0, 10, 0)", "arange", "step", "0"),
    ("ts.arange(math.inf)", "arange", "start", "inf"),
    ("ts.linspace(0, 1, -3)", "linspace", "num", "-3"),
    ("ts.one_hot([0, 1], 2.5)", "one_hot", "num_classes", "2.5"),
    ("ts.one_hot([0, 5], 2)", "one_hot", "ids", "id 5"),
    ("ts.one_hot([0.5], 2)", "one_hot", "ids", "0.5"),
    ("ts.from_dlpack([1])", "from_dlpack", "x", "[1]"),
    # elementwise
    ("X + 'text'", "add", "b", "'text'"),
    ("X + None", "add", "b", "None"),
    ("X * {}", "multiply", "b", "{}"),
    ("X - X[:, :2]", "subtract", "b", "float32[2, 2]"),
    ("X @ 3", "matmul", "b", "3"),
    ("2.0 @ X", "matmul", "a", "2.0"),
    ("X @ X", "matmul", "b", "float32[2, 3]"),
    ("X & X", "bitwise_and", "a", "float32[2, 3]"),
    ("~X", "bitwise_invert", "x", "float32[2, 3]"),
    ("ts.exp(['a'])", "exp", "x", "['a']"),
    ("ts.maximum(X, V[:2])", "maximum", "b", "float32[2]"),
    ("ts.logical_and(X, 'text')", "logical_and", "b", "'text'"),
    ("X < 'text'", "less", "b", "'text'"),
    ("X.clip('low')", "clip", "min", "'low'"),
    ("X.to(None)", "to", "target", "None"),
    ("X.to('cuda')", "to", "target", "'cuda'"),
    ("X.to('complex64')", "to", "target", "'complex64'"),
    ("X.astype(None)", "astype", "dtype", "None"),
    # reductions and sorting
    ("ts.sum(X, 2)", "sum", "axis", "2"),
    ("ts.sum(X, (0, 0))", "sum", "axis", "(0, 0)"),
    ("ts.sum(X, dim=0)", "sum", "axis", "dim"),
    ("X.mean((0, 5))", "mean", "axis", "(0, 5)"),
    ("ts.max(X[:0])", "max", "x", "float32[0, 3]"),
    ("ts.argmax(X, (0, 1))", "argmax", "axis", "(0, 1)"),
    ("ts.sort(X, 'a')", "sort", "axis", "'a'"),
    ("ts.sort(X, 2)", "sort", "axis", "2"),
    ("X.sort(True)", "sort", "axis", "True"),
    ("X.argsort(5)", "argsort", "axis", "5"),
    ("ts.topk(X, 4)", "topk", "k", "4"),
    ("ts.topk(X, -1)", "topk", "k", "-1"),
    ("ts.topk(X, 1, axis=2)", "topk", "axis", "2"),
    ("ts.cumulative_sum(X, None)", "cumulative_sum", "axis", "None"),
    ("ts.vector_norm(X, ord=0)", "vector_norm", "ord", "0"),
    # products
    ("ts.outer(X, V)", "outer", "a", "float32[2, 3]"),
    ("ts.tensordot(X, X, 1)", "tensordot", "axes", "1"),
    ("ts.einsum('ij,jk', X, X)", "einsum", "subscripts", "ij,jk"),
    ("ts.einsum('ijk', X)", "einsum", "subscripts", "ijk"),
    ("ts.einsum(3, X)", "einsum", "subscripts", "3"),
    # shapes
    ("X.reshape(4, 2)", "reshape", "shape", "(4, 2)"),
    ("X.reshape(-2, 3)", "reshape", "shape", "(-2, 3)"),
    ("X.reshape(-1, -1)", "reshape", "shape", "(-1, -1)"),
    ("X.permute_dims(0)", "permute_dims", "axes", "(0,)"),
    ("X.permute_dims(0, 0)", "permute_dims", "axes", "(0, 0)"),
    ("V.T", ".T", "shape", "(3,)"),
    ("V.mT", "matrix_transpose", "x", "float32[3]"),
    ("ts.squeeze(X, 0)", "squeeze", "axis", "0"),
    ("ts.expand_dims(X, 5)", "expand_dims", "axis", "5"),
    ("ts.broadcast_to(X, (3, 2))", "broadcast_to", "shape", "(3, 2)"),
    ("ts.concat([])", "concat", "tensors", "[]"),
    ("ts.concat([X, V])", "concat", "tensors", "float32[3]"),
    ("ts.concat(X, X)", "concat", "axis", "float32[2, 3]"),
    ("ts.stack([])", "stack", "tensors", "[]"),
    ("ts.stack([X, V])", "stack", "tensors", "float32[3]"),
    ("ts.split(X, 2, 1)", "split", "sections", "2"),
    ("ts.split(X, 0)", "split", "sections", "0"),
    ("ts.tile(X, 2)", "tile", "repetitions", "2"),
    ("ts.tile(X, (1, -1))", "tile", "repetitions", "-1"),
    ("ts.pad(X, [(1, 1)])", "pad", "pad_width", "[(1, 1)]"),
    ("ts.pad(X, [(1, 1), (-1, 0)])", "pad", "pad_width", "-1"),
    ("ts.repeat(X, -1, axis=0)", "repeat", "repeats", "-1"),
    ("ts.tril(V)", "tril", "x", "float32[3]"),
    # indexing
    ("X[5]", "getitem", "index", "5"),
    ("X['text']", "getitem", "index", "'text'"),
    ("X[0.5]", "getitem", "index", "0.5"),
    ("X[0, 0, 0]", "getitem", "index", "(0, 0, 0)"),
    ("X[V > 0]", "getitem", "index", "bool[3]"),
    ("ts.take(X, [5])", "take", "indices", "[5]"),
    ("ts.take(X, V)", "take", "indices", "float32[3]"),
    ("ts.take_along_axis(X, I)", "take_along_axis", "indices", "int64[2]"),
    ("ts.index_add(X, 0, [0, 1], V)", "index_add", "values", "float32[3]"),
    # gradients
    ("X.backward()", "backward", "gradient", "(2, 3)"),
    ("X.detach().sum().backward()", "backward", "computed", "()"),
    ("Y.backward()", "backward", "grad", "None"),
    ("Y.backward(ts.ones(4))", "backward", "gradient", "(4,)"),
    ("ts.grad(ts.sum, W)", "grad", "tensor", "function"),
    ("ts.grad(ts.sum(Y), X)", "grad", "input", "(2, 3)"),
    ("ts.value_and_grad(X)", "value_and_grad", "fn", "float32[2, 3]"),
    ("ts.op(3)", "op", "body", "3"),
    # functions
    ("F.glu(X)", "glu", "x", "float32[2, 3]"),
    ("F.swiglu(X)", "swiglu", "x", "float32[2, 3]"),
    ("F.gelu(X, 'exact')", "gelu", "approximate", "'exact'"),
    ("F.gelu(J)", "gelu", "x", "int64[2, 3]"),
    ("F.softmax(J)", "softmax", "x", "int64[2, 3]"),
    ("F.softmax(X, 2)", "softmax", "axis", "2"),
    ("F.linear(X, X[:, :2])", "linear", "weight", "float32[2, 2]"),
    ("F.linear(X, X, V)", "linear", "bias", "float32[3]"),
    ("F.linear(X, X.astype(ts.float64))", "linear", "weight", "float64"),
    ("F.layer_norm(X, 2)", "layer_norm", "normalized_shape", "2"),
    ("F.layer_norm(X, 3, V[:2])", "layer_norm", "weight", "(2,)"),
    ("F.layer_norm(X, 3, eps=-1.0)", "layer_norm", "eps", "-1.0"),
    ("F.dropout(X, 1.0)", "dropout", "p", "1.0"),
    ("F.dropout('text', training=False)", "dropout", "x", "'text'"),
    ("F.attention(S, S, X)", "attention", "value", "float32[2, 3]"),
    ("F.attention(S, S, S, np.ones((2, 3, 3)))", "attention", "mask", "float64"),
    ("F.attention(S, S, S, dropout=1.0)", "attention", "dropout", "1.0"),
    ("F.embedding([5], X)", "embedding", "ids", "5"),
    ("F.embedding([0.5], X)", "embedding", "ids", "float32"),
    ("F.lstm_cell(X, X, X, Q, Q)", "lstm_cell", "w_ih", "float32[3, 3]"),
    ("F.gru_cell(X, X, Q3, Q3, reset='never')", "gru_cell", "reset", "'never'"),
    ("F.scan('gru2', T, X, None, Q3, Q3)", "scan", "cell", "'gru2'"),
    ("F.scan('gru', T, X, None, Q4, Q3)", "scan", "w_ih", "float32[12, 3]"),
    # layers
    ("nn.Linear(-1, 2)", "Linear", "in_features", "-1"),
    ("nn.Linear(2, 3)(S)", "linear", "weight", "float32[3, 2]"),
    ("nn.Linear(2, 3)('text')", "linear", "x", "'text'"),
    ("nn.Linear(2, 3, dtype=ts.int64)", "Linear", "dtype", "int64"),
    ("nn.Linear(2, 3).to(ts.int64)", "Linear", "target", "int64"),
    ("nn.Linear(2, 3).to(None)", "Linear", "target", "None"),
    ("nn.Linear(2, 3).load_state_dict(None)", "load_state_dict", "state", "None"),
    ("nn.Linear(2, 3).load_state_dict({'weight': [[1.0]]}, strict=False)", "load_state_dict", "weight", "list"),
    ("nn.Linear(2, 3).load_state_dict({})", "load_state_dict", "missing", "weight"),
    ("nn.Embedding(4, 3, padding_idx=4)", "Embedding", "padding_idx", "4"),
    ("nn.Embedding(4, 3)([4])", "embedding", "ids", "[4]"),
    ("nn.LayerNorm(())", "LayerNorm", "normalized_shape", "()"),
    ("nn.LayerNorm((2, 'a'))", "LayerNorm", "normalized_shape", "'a'"),
    ("nn.Dropout('a')", "Dropout", "p", "'a'"),
    ("nn.Dropout(1)", "Dropout", "p", "1"),
    ("nn.ReLU(inplace=True)", "ReLU", "inplace", "no argument"),
    ("nn.SiLU(0.5)", "SiLU", "arguments", "too many"),
    ("nn.Softplus(beta=2)", "Softplus", "beta", "no argument"),
    ("nn.LeakyReLU('a')", "LeakyReLU", "negative_slope", "'a'"),
    ("nn.GELU('exact')", "GELU", "approximate", "'exact'"),
    ("nn.Sequential(nn.ReLU)", "Sequential", "layers", "type"),
    ("nn.Sequential(nn.ReLU(), F.relu)", "Sequential", "layer 1", "function"),
    ("nn.Parameter([1, 2])", "Parameter", "data", "[1, 2]"),
    ("nn.GRU(0, 3)", "GRU", "input_size", "0"),
    ("nn.GRU(2, 3, 1, True, False)", "GRU", "batch_first", "permute_dims"),
    ("nn.RNN(2, 3, nonlinearity='gelu')", "RNN", "nonlinearity", "'gelu'"),
    ("nn.GRU(2, 3, dropout=1.0)", "GRU", "dropout", "1.0"),
    ("nn.LSTM(2, 3)(S, X)", "LSTM", "state", "one tensor"),
    ("nn.GRU(2, 3)(S)", "GRU", "x", "(2, 3, 4)"),
    ("nn.GRU(4, 3)(S, X)", "GRU", "state", "(2, 3)"),
    ("nn.GRUCell(2, 3)(S)", "GRUCell", "x", "(2, 3, 4)"),
    ("nn.Scan(nn.GRUCell(2, 3), 2, 3)", "Scan", "cell", "GRUCell(2, 3)"),
    ("nn.MultiheadAttention(6, 4)", "MultiheadAttention", "num_heads", "4"),
    ("nn.MultiheadAttention(6, 0)", "MultiheadAttention", "num_heads", "0"),
    ("nn.MultiheadAttention(8, 4, num_kv_heads=3)", "MultiheadAttention", "num_kv_heads", "3"),
    ("nn.MultiheadAttention(4, 2, add_bias_kv=True)", "MultiheadAttention", "add_bias_kv", "between"),
    ("nn.MultiheadAttention(4, 2)('text')", "MultiheadAttention", "query", "'text'"),
    ("nn.MultiheadAttention(4, 2)(X)", "MultiheadAttention", "query", "(2, 3)"),
    ("nn.MultiheadAttention(4, 2)(S, attn_mask=None)", "MultiheadAttention", "attn_mask", "PyTorch"),
    ("nn.MultiheadContext(4, 3, 3)", "MultiheadContext", "num_heads", "3"),
    ("nn.DotAttention(2, 3, projected=False)", "DotAttention", "query_size", "2"),
    ("nn.DotAttention(4, 4)('text', S)", "DotAttention", "query", "'text'"),
    ("nn.FixedContext(5, 'both')", "FixedContext", "memory_size", "5"),
    ("nn.TransformerEncoderLayer(6, 4)", "TransformerEncoderLayer", "nhead", "4"),
    ("nn.TransformerEncoderLayer(4, 2, activation=nn.ReLU)", "TransformerEncoderLayer", "activation", "ReLU"),
    ("nn.TransformerEncoder(ENCODER, -1)", "TransformerEncoder", "num_layers", "-1"),
    ("nn.TransformerEncoder(nn.TransformerEncoderLayer, 2)", "TransformerEncoder", "encoder_layer",
     "TransformerEncoderLayer"),
    ("nn.TransformerDecoder(None, 2)", "TransformerDecoder", "decoder_layer", "None"),
    ("nn.TransformerEncoder(ENCODER, 2, nn.LayerNorm)", "TransformerEncoder", "norm", "LayerNorm"),
    ("nn.LanguageModel(5, 6, 4, 1)", "LanguageModel", "nhead", "4"),
    ("nn.LanguageModel(5, 3, 1, 1, positions='rotary')", "LanguageModel", "positions", "3"),
    ("nn.AttentionDecoder(5, 2, 3, nn.DotAttention, 4)", "AttentionDecoder", "attention", "DotAttention"),
    ("nn.AttentionDecoder(5, 2, 3, nn.DotAttention(3, 4))", "AttentionDecoder", "memory_size", "0"),
    ("nn.AttentionDecoder(5, 2, 3, None, feed='context')", "AttentionDecoder", "feed", "'context'"),
    ("nn.EncoderDecoder(nn.Embedding, nn.GRU(2, 3), MODEL)", "EncoderDecoder", "embedding", "Embedding"),
    ("nn.CTCLoss(reduction='max')", "CTCLoss", "reduction", "'max'"),
    ("nn.CRF(0)", "CRF", "num_tags", "0"),
    ("nn.CRF(3)(X, J)", "CRF", "scores", "(2, 3)"),
    ("nn.attention_weights(nn.GRU, S)", "attention_weights", "model", "GRU"),
    # initial values
    ("init.xavier_uniform_(V)", "xavier_uniform_", "tensor", "(3,)"),
    ("init.kaiming_uniform_(P, 0.5)", "kaiming_uniform_", "argument", "2"),
    ("init.uniform_(J)", "uniform_", "tensor", "int64[2, 3]"),
    ("init.normal_(P, std=-1.0)", "normal_", "std", "-1.0"),
    ("init.zeros_(np.ones(3))", "zeros_", "tensor", "float64[3]"),
    ("init.recurrent_(nn.Linear(2, 3))", "recurrent_", "weight_hh", "Linear"),
    # optimizers
    ("optim.SGD(nn.Linear(2, 3))", "SGD", "parameters", "Linear"),
    ("optim.SGD([])", "SGD", "parameters", "no"),
    ("optim.SGD([Y])", "SGD", "parameter", "computed Tensor"),
    ("optim.SGD([P, P])", "SGD", "parameter", "twice"),
    ("optim.Adam([P], lr='0.1')", "Adam", "lr", "'0.1'"),
    ("optim.Adam([P], betas=(0.9,))", "Adam", "betas", "(0.9,)"),
    ("optim.Adam([P], betas=(0.9, 1.5))", "Adam", "betas", "1.5"),
    ("optim.SGD([P], lr=math.nan)", "SGD", "lr", "nan"),
    ("optim.SGD([P], lr=-1.0)", "SGD", "lr", "-1.0"),
    ("optim.clip_grad_norm_([G], -1.0)", "clip_grad_norm_", "max_norm", "-1.0"),
    ("optim.clip_grad_value_([G], -1.0)", "clip_grad_value_", "clip_value", "-1.0"),
    ("optim.decay_groups([P], 0.1)", "decay_groups", "model", "["),
    ("optim.Adam([{'params': [P], 'decay': 1}])", "Adam", "group", "'decay'"),
    ("optim.Adam([{'params': [P]}, {'params': [P]}])", "Adam", "parameter", "twice"),
    ("schedules.cosine(0.1, 0)", "cosine", "steps", "0"),
    ("schedules.cosine(0.1, 10)(-1)", "cosine", "step", "-1"),
    ("schedules.Plateau(0.1).update('x')", "Plateau.update", "figure", "'x'"),
    ("optim.divide_grad_([G], -1.0)", "divide_grad_", "count", "-1.0"),
    ("optim.LossScaler(0.0)", "LossScaler", "scale", "0.0"),
    ("optim.LossScaler(growth_interval=0)", "LossScaler", "growth_interval", "0"),
    ("optim.LossScaler().backward(Y)", "LossScaler.backward", "loss", "float32"),
    ("optim.LossScaler().unscale_(nn.Linear(2, 3))", "LossScaler.unscale_", "parameters", "Linear"),
    ("optim.EMA(nn.Linear(2, 3), 1.5)", "EMA", "decay", "1.5"),
    ("optim.SWA([P])", "SWA", "model", "["),
    # the rest
    ("random.set_state((1, 2, 3))", "set_state", "state", "(1, 2, 3)"),
    ("random.set_state((-1, 0))", "set_state", "state", "-1"),
    ("ts.manual_seed(2**64)", "manual_seed", "seed", str(2**64)),
    ("random.integers(3, 5, 5)", "integers", "high", "5"),
    ("ts.use_backend('cuda')", "use_backend", "name", "'cuda'"),
    ("backends.load([])", "load", "name", "[]"),
    ("decode.greedy(MODEL, None, 'text', 0, 3)", "greedy", "start", "text"),
    ("decode.greedy(MODEL, THING, I, 0, 3)", "greedy", "state", "<a thing>"),
    ("decode.score(MODEL, THING, I, J)", "score", "state", "<a thing>"),
    *[(f"decode.{name}(MODEL, {state!r}, I, 0, 3)", "LanguageModel", "state", repr(state))
      for name in ("greedy", "sample", "beam") for state in ("text", None, 7)],
    ("next(decode.stream(MODEL, 'text', I, 0, 3))", "LanguageModel", "state", "'text'"),
    ("decode.score(MODEL, 'text', I, J)", "LanguageModel", "state", "'text'"),
    ("decode.beam(MODEL, MODEL.start(J), I, 0, 3, width=0)", "beam", "width", "0"),
    ("decode.sample(MODEL, MODEL.start(J), I, 0, 3, temperature=-1.0)", "sample", "temperature", "-1.0"),
    ("decode.sample(MODEL, MODEL.start(J), I, 0, 3, top_p=1.5)", "sample", "top_p", "1.5"),
    ("data.pad([['a']])", "pad", "sequences", "'a'"),
    ("data.batches([1, 2], 0)", "batches", "size", "0"),
    ("checkpoint.save(TMP / 'a.safetensors', [1])", "save", "state", "[1]"),
    ("checkpoint.save(TMP / 'a.safetensors', {'a': object})", "save", "a", "type"),
    ("checkpoint.load(TMP / 'none.safetensors')", "load", "path", "none.safetensors"),
    ("testing.check_grad(ts.exp, X, order=3)", "check_grad", "order", "3"),
    ("testing.check_grad(None, X)", "check_grad", "fn", "None"),
    ("testing.check_grad(ts.exp, X, step=0.0)", "check_grad", "step", "0.0"),
    ("testing.check_sequence_layer(nn.Linear(2, 3))", "check_sequence_layer", "features", "None"),
    ("testing.parity('a')", "parity", "tolerance", "'a'"),
    ("logs.CSV(3)", "CSV", "path", "3"), ("logs.TensorBoard(None)", "TensorBoard", "folder", "None"),
    ("logs.progress(3)", "progress", "iterable", "3"), ("logs.progress(desc=3)", "progress", "desc", "3"),
    ("logs.Log(print)(1, loss='low')", "Log", "loss", "'low'"), ("logs.Log(print)(-1)", "Log", "step", "-1"),
    ("logs.Log(3)", "Log", "sinks", "3"), ("metrics.Accuracy().update(X, J)", "update", "predictions", "float32[2, 3]"),
    ("metrics.Accuracy().update(I, J)", "update", "predictions", "(2,)"),
    ("metrics.Accuracy().update(J, J, [4, 0])", "update", "lengths", "4"),
    ("metrics.BLEU(tokenize='words')", "BLEU", "tokenize", "'words'"),
]

# --- nonsense ------------------------------------------------------------------------------------------------------


class Thing:
    """What no argument can be."""

    def __repr__(self) -> str:
        return "<a thing>"


THING = Thing()
NONSENSE: dict[str, list[Any]] = {
    "tensor": ["text", None, THING],
    "axis": ["text", 1.5, 9, THING, True],
    "size": ["text", None, THING, 2.5, -1, True],
    "integer": ["text", None, THING, 2.5],
    "number": ["text", None, THING, [1.0, 2.0]],
    "at least 0": ["text", None, THING, math.nan, -0.1],
    "probability": ["text", None, THING, math.nan, -0.1, 1.5],
    "shape": ["text", None, THING, 2.5, (2, -3), (2, 1.5)],
    "dtype": ["text", THING, "complex64"],
    "choice": ["text", None, THING, 7],
    "function": ["text", None, 7],
    "thing": ["text", None, THING, 7],
    "path": [None, THING, "/no/such/folder/file.safetensors"],
    "folder": [None, THING],
    "seed": ["text", 1.5, -1, THING],
    "flag": [],  # anything is true or false to Python
    "passed on": [],
}
KINDS = {  # of arguments, by name, or by function and name
    "tensor": """x a b values query key value weight F.linear.bias F.layer_norm.bias logits probs log_probs target
        targets condition cos sin h c w_ih w_hh h0 c0 tensor ids indices tensors grad grad_outputs outputs inputs mask
        pos_weight prepend append sorter random.bernoulli.p h_mask lengths b_ih b_hh dropped data start min max
        count nll tokens characters predictions Module.update.total F.attention.bias F.attention_weights.bias""",
    "axis": "axis source destination axes axis1 axis2",
    "size": """proj_size num num_classes n_rows n_cols topk.k in_features out_features num_embeddings embedding_dim
        input_size hidden_size num_layers embed_dim num_heads num_kv_heads head_dim window embedding_size buckets keep
        kdim vdim query_size memory_size d_model nhead dim_feedforward vocab_size num_encoder_layers num_decoder_layers
        max_length num_tags rows steps segments width n_best min_length top_k n batches.size text.size FixedContext.size
        normalized_shape order max_ngram_order char_order beta in_channels out_channels kernel_size stride padding
        dilation groups num_features num_groups num_channels num_parameters CSV.start TensorBoard.start
        growth_interval patience cooldown""",
    "integer": """nn.Softmax.axis nn.LogSoftmax.axis nn.GLU.axis k offset shift repeats padding_idx ignore_index blank
        end random.integers.low random.integers.high sections
        argnums start_axis word_order""",
    "number": """beta2_decay fill_value correction ord negative_slope alpha stop step scale mean low high
        constant_values nn.PReLU.init F.pad.value ts.masked_fill.value init.constant_.value gain length_penalty
        ts.arange.start ts.linspace.start total progress.initial forget_bias""",
    "at least 0": """rtol atol eps softcap layer_norm_eps rotary_base base std lr momentum weight_decay delta max_norm
        temperature tolerance check_grad.step r_min r_max max_phase count growth_factor LossScaler.scale clip_value d
        nn.SmoothL1Loss.beta F.smooth_l1_loss.beta
        schedules.linear.start schedules.linear.end schedules.cosine.start schedules.cosine.end
        schedules.inverse_sqrt.start peak schedules.one_cycle.start schedules.one_cycle.end schedules.warmup.start
        Plateau.value threshold floor""",
    "probability": """p dropout recurrent_dropout label_smoothing top_p min_p backoff_factor decay rise factor
        RMSprop.alpha""",
    "shape": "shape repetitions pad_width",
    "dtype": "dtype",
    "choice": """side indexing approximate nonlinearity reset reduction F.scan.cell pool name positions feed activation
        norm rope_type tokenize smooth_method lowercase best warmup mode padding_mode normalize
        nn.AttentionDecoder.order preset update convert.from_gates.order transposed interleaved""",
    "function": """fn combine then F.unroll.step loss body definition nn.Scan.cell custom_encoder custom_decoder
        save""",
    "thing": """Adafactor.eps xs generator state layer module model parameters encoder_layer decoder_layer betas other
        file files
        cell attention decoder encoder W R q_norm k_norm head labels arrays prefix
        embedding symbols items.source unknown sequences hypotheses references weights columns plot.attention.rows
        plot.words.rows plot.words.values plot.heads.weights panels models rules Module.to.target X.to.target
        plot.runs.figures Run.world""",
    "path": "path paths pairs.source pairs.target",
    "folder": "folder",
    "seed": "seed",
    "flag": """stable copy include_initial equal_nan
        keepdims requires_grad endpoint disable descending largest create_graph retain_graph allow_unused causal
        training reverse log_target bias elementwise_affine batch_first bidirectional projected DotAttention.scale tied
        norm_first last_norm out_bias nesterov centered strict align wide zero_infinity writes count_include_pad
        keep_ended affine track_running_stats each""",
    "passed on": """src nn.length_mask.where config title wrong plot.curves.x testing.check_shapes.shape
        logs.progress.iterable logs.progress.desc logs.CSV.path logs.TensorBoard.folder""",  # texts are; in ROWS
}
BY_NAME = {key: kind for kind, keys in KINDS.items() for key in keys.split()}

TAKEN = {  # the reason: arguments, and the values if not all that are tried
    "anything may be compared, and no number equals it": "ts.equal.a ts.equal.b ts.not_equal.a ts.not_equal.b",
    "None is RMSNorm's own": "nn.TransformerEncoderLayer.layer_norm_eps nn.TransformerDecoderLayer.layer_norm_eps "
        "nn.Transformer.layer_norm_eps nn.LanguageModel.layer_norm_eps nn.ConditionalLanguageModel.layer_norm_eps",
    "a text is a sequence, and a symbol": "data.items.source data.Vocabulary.unknown",
    "a check answers with AssertionError": "testing.check_shapes.dtype",
    "a decoder refuses a state, as in ROWS, in its own name": "decode.greedy.state decode.sample.state "
        "decode.stream.state decode.beam.state decode.score.state",
}
UNSWEPT = """ts.can_cast ts.finfo ts.iinfo ts.isdtype ts.result_type
    ts.Tensor ts.bool ts.debug ts.no_grad ts.enable_grad nn.Module nn.Attention nn.Activation
    nn.DecoderState nn.LanguageState init.skip decode.Hypothesis decode.Step decode.Scores
    data.Stream data.Tokenizer
    decode.take_rows optim.Optimizer checkpoint.CheckpointError models.Architecture models.Headless random.current
    models.load random.get_state
    random.next_stream random.host_generator testing.check_sequence_layer X.numpy
    X.item X.tolist X.detach X.written X.flatten X.reshape X.permute_dims""".split()  # no arguments, inner, or in ROWS
NOT_TRIED = {"self", "device", "add_bias_kv", "add_zero_attn", "enable_nested_tensor", "mask_check"}  # in ROWS, unused
DTYPES = {np.dtype(name).type for name in "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8".split()}


def among(listed: dict[str, str], function: str, argument: str) -> bool:
    """Whether a function, or one argument of it, is listed."""
    words = set(" ".join(listed.values()).split())
    return function in words or f"{function}.{argument}" in words


def kind_of(function: str, argument: str) -> str:
    """The kind of an argument: what is said of it in one function counts before what is said of its name."""
    keys = (f"{function}.{argument}", f"{function.rpartition('.')[2]}.{argument}", argument)
    return next(BY_NAME[key] for key in keys if key in BY_NAME)


def world(folder: Path) -> dict[str, Any]:
    """The names that calls are written with."""
    x = ts.tensor(np.random.default_rng(0).uniform(0.1, 0.9, (2, 3)).astype("float32"))
    w, grown = ts.ones((2, 3), requires_grad=True), nn.Parameter(ts.ones((2, 3)))
    grown.grad = ts.ones((2, 3))
    nn.Linear(2, 3).save(folder / "w.safetensors")
    logs.CSV(folder / "log.csv")(1, {"loss": 2.0})
    return {
        "ts": ts, "np": np, "math": math, "F": functional, "nn": nn, "init": init, "convert": convert, "optim": optim,
        "schedules": optim.schedules,
        "decode": decode, "data": data, "metrics": metrics, "logs": logs, "runs": runs,
        "plot": plot, "checkpoint": checkpoint, "models": models,
        "lens": lens, "testing": testing, "random": random, "backends": backends, "ops": ops, "TMP": folder,
        "X": x, "V": ts.ones(3), "I": ts.tensor([0, 1]), "J": ts.tensor([[0, 1, 0], [1, 0, 1]]),
        "S": ts.ones((2, 3, 4)), "L": np.array([3, 2]), "M": np.ones((2, 3, 3), bool), "T": ts.ones((2, 3, 3)),
        "Q": ts.ones((3, 3)), "Q3": ts.ones((9, 3)), "Q4": ts.ones((12, 3)), "V3": ts.ones(9), "V4": ts.ones(12),
        "P": nn.Parameter(ts.ones((2, 3))), "G": grown, "W": w, "Y": w * 2.0, "STATE": nn.Linear(2, 3).state_dict(),
        "MODEL": nn.LanguageModel(5, 4, 2, 1, 3, max_length=9).eval(), "THING": THING,
        "ENCODER": nn.TransformerEncoderLayer(4, 2, 3), "DECODER": nn.TransformerDecoderLayer(4, 2, 3),
    }


def parts(text: str) -> tuple[str, str, list[str]]:
    """The function of a call as it is written, its name here, and its arguments by name."""
    call: Any = ast.parse(text, mode="eval").body
    call = call.args[0] if ast.unparse(call.func) == "list" else call  # of what is lazy
    written = ast.unparse(call.func)
    owner, _, name = written.rpartition(".")
    known = "X" if owner[0] in "XY" else owner if owner.isidentifier() else "Module"
    return written, f"{known}.{name}", [k.arg for k in call.keywords]


def told(error: Exception, name: str, argument: str, given: set[str]) -> str:
    """What an error lacks: the name of the function, that of the argument, what was given; or nothing."""
    text = str(error)
    if not isinstance(error, (TypeError, ValueError, KeyError, IndexError, OSError)):
        return f"is a {type(error).__name__}"
    if not re.search(rf"(?<!\w){re.escape(name)}\b", text):
        return f"does not name {name}"
    if not re.search(rf"\b{re.escape(argument)}\b" + ("(?=[=:,]| to be)" if argument == "a" else ""), text):
        return f"does not name {argument}"
    return "" if any(g in text for g in given) else f"does not say {min(given, key=len)}"


def wrong_of(text: str, names: dict[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """The wrong calls made of a right one: its function, an argument, and what is put there."""
    written, function, arguments = parts(text)
    parameters = inspect.signature(eval(written, names)).parameters
    for argument in arguments:
        parameter = parameters.get(argument)
        optional = parameter is not None and (parameter.default is None or str(parameter.annotation).endswith("None"))
        for value in NONSENSE[kind_of(function, argument)]:
            if not (value is None and optional) and not among(TAKEN, function, argument):
                yield text, function, argument, value


def failing(text: str, names: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The wrong calls made of a right one that are taken, or not told as they should be: who, which argument, how."""
    for _, function, argument, value in wrong_of(text, names):
        tree = ast.parse(text, mode="eval")
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == argument:
                node.value = ast.copy_location(ast.Name("NONSENSE", ast.Load()), node.value)
        call = ast.unparse(tree).replace("NONSENSE", repr(value))
        try:
            eval(compile(tree, text, "eval"), names | {"NONSENSE": value})
        except Exception as error:
            given = {repr(value), str(value), type(value).__name__} - {"tuple", "list"}
            lack = told(error, function.rpartition(".")[2], argument, given)
            if lack:
                yield function, argument, f"{call}: {type(error).__name__} {lack}: {error}"
        else:
            yield function, argument, f"{call} is taken"


@pytest.fixture(autouse=True)
def _random_state() -> Iterator[None]:
    before = random.get_state()
    yield
    random.set_state(before)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return world(tmp_path_factory.mktemp("calls"))


@pytest.mark.parametrize("text", GOOD, ids=lambda text: parts(text)[1])
@pytest.mark.filterwarnings("ignore")
def test_nonsense_in_the_place_of_each_argument_is_named(text: str, names: dict[str, Any]) -> None:
    eval(text, names)
    found = [how for _, _, how in failing(text, names)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", GOOD, ids=lambda text: parts(text)[1])
@pytest.mark.filterwarnings("ignore")
def test_an_argument_that_is_not_there_is_named(text: str, names: dict[str, Any]) -> None:
    """Also where options are handed on; of a layer when it is made."""
    tree: Any = ast.parse(text, mode="eval")
    call = tree.body.args[0] if ast.unparse(tree.body.func) == "list" else tree.body  # of what is lazy
    call.keywords.append(ast.keyword("inplace", ast.Constant(True)))
    with pytest.raises((TypeError, ValueError), match=r"\binplace\b"):
        eval(compile(ast.fix_missing_locations(tree), text, "eval"), names)


def test_the_sweep_is_wide(names: dict[str, Any]) -> None:
    assert sum(1 for text in GOOD for _ in wrong_of(text, names)) > 2500 and len(ROWS) > 120
    listed = {parts(text)[1] for text in GOOD}
    known = listed | {f"{parts(text)[1]}.{argument}" for text in GOOD for argument in parts(text)[2]}
    assert set(" ".join(TAKEN.values()).split()) <= known


def test_every_public_name_and_argument_is_called() -> None:
    """So that a function that is not yet written, or an argument that is not yet there, comes into the sweep."""
    called: dict[str, set[str]] = {}
    for text in GOOD:
        _, function, arguments = parts(text)
        called.setdefault(function, set()).update(arguments)
    rooms = {"ts": ts, "F": functional, "nn": nn, "init": init, "optim": optim,
             "schedules": optim.schedules, "decode": decode, "data": data,
             "metrics": metrics, "logs": logs, "plot": plot, "checkpoint": checkpoint, "lens": lens, "testing": testing,
             "models": models, "random": random, "runs": runs, "X": ts.Tensor}
    missing = []
    for room, module in rooms.items():
        for name, f in vars(module).items():
            owner = getattr(f, "__module__", "") or ""
            here = name in ts.__all__ if module is ts else owner.startswith((module.__name__, f"tinyseq.{room}")) or (
                module is ts.Tensor)
            if name.startswith("_") or not callable(f) or not here or f"{room}.{name}" in UNSWEPT or f in DTYPES:
                continue
            method = module is ts.Tensor and f is vars(ts).get(name)
            if method or (inspect.isclass(f) and issubclass(f, Exception)):
                continue  # such a method was called as the function that it is
            parameters = [*inspect.signature(f).parameters.values()][module is ts.Tensor :]  # but the Tensor itself
            several = any(p.kind is p.VAR_POSITIONAL for p in parameters)  # what comes before goes by place
            wanted = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY or (
                p.kind is p.POSITIONAL_OR_KEYWORD and not several)} - NOT_TRIED
            given = called.get(f"{room}.{name}")
            if given is None or not wanted <= given:
                missing.append(f"{room}.{name}: {sorted(wanted - (given or set())) or 'not called'}")
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
@pytest.mark.filterwarnings("ignore")
def test_a_wrong_call_is_named(row: tuple[str, str, str, str], names: dict[str, Any]) -> None:
    call, name, argument, given = row
    try:
        eval(call, names)
    except Exception as error:
        lack = told(error, name, argument, {given})
        assert not lack, f"{type(error).__name__} {lack}: {error}"
    else:
        pytest.fail(f"{call} is taken")


# --- right calls with an array in each of its forms ------------------------------------------------------------------

HANDED_ON = {"ts.recompute", "testing.check_grad", "ts.from_dlpack", "ts.namespace",  # arrays are as they are there
             "nn.CrossEntropyLoss", "nn.NLLLoss", "nn.BCELoss", "nn.BCEWithLogitsLoss"}  # in tests/nn/test_losses.py


def check_forms(text: str, names: dict[str, Any], torch: bool) -> None:
    """A right call, with a list, a NumPy array or a PyTorch tensor in the place of each Tensor and array."""
    call: Any = ast.parse(text, mode="eval").body
    lazy = ast.unparse(call.func) == "list"
    call = call.args[0] if lazy else call
    fn = eval(ast.unparse(call.func), names)
    args = [eval(ast.unparse(a), names) for a in call.args]
    named = {k.arg: eval(ast.unparse(k.value), names) for k in call.keywords}
    found = []
    for key, value in [*enumerate(args), *named.items()]:
        if type(value) in (ts.Tensor, np.ndarray) and not getattr(value, "requires_grad", False):

            def run(x: Any, key: Any = key) -> Any:
                given, more = list(args), dict(named)
                (given if isinstance(key, int) else more)[key] = x
                result = fn(*given, **more)
                return list(result) if lazy else result

            x = value.numpy() if isinstance(value, ts.Tensor) else value
            found += compare(run, x, f"{parts(text)[1]}: {key}", torch)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", [t for t in GOOD if parts(t)[1] not in HANDED_ON], ids=lambda text: parts(text)[1])
@pytest.mark.filterwarnings("ignore")
def test_an_argument_is_an_array_in_each_form(text: str, names: dict[str, Any]) -> None:
    check_forms(text, names, False)


@pytest.mark.reference
@pytest.mark.parametrize("text", [t for t in GOOD if parts(t)[1] not in HANDED_ON], ids=lambda text: parts(text)[1])
@pytest.mark.filterwarnings("ignore")
def test_an_argument_is_a_torch_tensor(text: str, names: dict[str, Any]) -> None:
    pytest.importorskip("torch")
    check_forms(text, names, True)

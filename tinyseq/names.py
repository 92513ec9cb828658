"""What the names of PyTorch and NumPy are here. Imported when a name is missing or an argument unknown, never before.

`NAMES` is the one table; the section "Names" of docs/coming-from-pytorch.md shows it. A row has the names of others,
then what to write here, after `#` what to know about it; one with `#` alone is of what is not here. x, y, q and p are
Tensors, p a leaf that requires a gradient, ids integers, mask booleans, a a NumPy array; F is `tinyseq.functional`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from opcode import opname
from types import ModuleType
from typing import Any, NoReturn

NAMES = {
    "tensors": """
cat concatenate hstack vstack dstack column_stack row_stack | ts.concat([x, y], axis=axis)
view view_as reshape_as unflatten atleast_1d atleast_2d atleast_3d | x.reshape(3, 2)
permute | x.permute_dims(1, 0)  # all axes, in their new order
transpose swapdims t adjoint H mH | x.swapaxes(0, 1)  # or x.mT, the last two axes; x.permute_dims(1, 0)
ravel | x.flatten()
unsqueeze | x.expand_dims(axis)  # or x[None]
expand expand_as broadcast broadcast_tensors | x.broadcast_to((4, 2, 3))  # or y.shape
gather take_along_dim | x.take_along_axis(ids[:, None], axis=1)
index_select | x.take(ids, axis=axis)
select narrow | x[:, 0:2]
masked_select compress extract | x[mask]
putmask | x.masked_fill(mask, 0.0)
scatter put index_put scatter_add scatter_reduce index_copy index_fill | x.index_add(0, ids, y)  # or x[ids] = y
argwhere flatnonzero | ts.stack(x.nonzero(), axis=1)
chunk tensor_split array_split hsplit vsplit dsplit | x.split(2, axis=axis)  # equal parts, or places to cut before
unbind | x.unstack(axis=axis)
repeat_interleave | x.repeat(2, axis=axis)
fliplr flipud | x.flip(axis=axis)
rot90 | x.mT.flip(axis=-2)
clamp clamp_min clamp_max | x.clip(0.0, 1.0)
mul | x * y
div true_divide | x / y
sub | x - y
neg | -x
mod fmod | x.remainder(y)  # has the sign of y
float_power power | x ** 2.0
absolute fabs | x.abs()
exp2 | 2.0 ** x
rsqrt | 1 / x.sqrt()
sgn | x.sign()
frac | x - x.trunc()
fix | x.trunc()
rint around | x.round()
lerp | x + 0.5 * (y - x)
erfc | 1 - x.erf()
logit | (x / (1 - x)).log()
arcsin | x.asin()
arccos | x.acos()
arctan | x.atan()
arctan2 | x.atan2(y)
arcsinh | x.asinh()
arccosh | x.acosh()
arctanh | x.atanh()
deg2rad radians rad2deg degrees | x * (np.pi / 180)  # and back, x * (180 / np.pi)
eq | x == y
ne | x != y
lt | x < y
le | x <= y
gt | x > y
ge | x >= y
allclose | x.isclose(y).all()
array_equal | (x == y).all()
bitwise_not invert | ~mask
left_shift right_shift | ids << ids  # and ids >> ids
amax | x.max(axis=axis)
amin | x.min(axis=axis)
aminmax | (x.min(), x.max())
var_mean | (x.var(correction=1), x.mean())
std_mean | (x.std(correction=1), x.mean())
average | x.mean(axis=axis)
nansum | ts.where(x.isnan(), 0.0, x).sum()
ptp | x.max() - x.min()
norm | x.vector_norm(axis=axis)
dist | (x - y).vector_norm()
cumsum | x.cumulative_sum(axis=axis)
cumprod | x.cumulative_prod(axis=axis)
mm bmm mv dot | x @ y.mT
inner vdot | x.vecdot(y)  # of vectors
addmm baddbmm addmv addbmm | x + x @ y.mT @ y
ger | x[0].outer(y[0])
trace | ts.einsum("ii->", x @ y.mT)
diag | x.diagonal()  # of the last two axes; of a vector, v * ts.eye(3)
kron | ts.einsum("ij,kl->ikjl", x, y).reshape(4, 9)
median quantile percentile kthvalue nanmedian | x.sort(axis=1)[:, 1]  # the place in the sorted entries
argpartition partition | x.topk(2, axis=axis)
unique | x.unique_values()  # or unique_counts, unique_inverse, unique_all
digitize bucketize | x[0].sort().searchsorted(y)
bincount histc histogram | np.bincount(ids.numpy())  # NumPy's, without a gradient
cummax cummin logcumsumexp | np.maximum.accumulate(x.numpy(), 1)  # without a gradient
erfinv lgamma digamma sinc cross svd qr inverse inv det cholesky cdist | # is not here: `@ts.op` makes an op of SciPy's
multinomial | ts.random.categorical(F.softmax(x))  # a draw a row; ts.decode.sample takes logits
real imag conj angle view_as_complex view_as_real | # complex numbers are not here: two real Tensors
""",
    "ts": """
array as_tensor | ts.asarray(a)
from_numpy asanyarray ascontiguousarray frombuffer | ts.asarray(a)  # shares memory; ts.tensor(a) copies
identity | ts.eye(3)
tri | ts.ones((3, 3)).tril()
tril_indices triu_indices indices ix_ mgrid ogrid | ts.asarray(np.stack(np.tril_indices(3)))
logspace geomspace | 10.0 ** ts.linspace(0.0, 2.0, 3)
range | ts.arange(5)
rand random_sample | ts.random.uniform((2, 3))
rand_like | ts.random.uniform(x.shape)
randn standard_normal | ts.random.normal((2, 3))
randn_like | ts.random.normal(x.shape)
randint | ts.random.integers((2, 3), 0, 10)
randperm shuffle | ts.random.permutation(5)
bernoulli | ts.random.bernoulli(x / 4)
seed random_seed | ts.manual_seed(0)
get_rng_state initial_seed | ts.random.get_state()
set_rng_state | ts.random.set_state(ts.random.get_state())
Generator | ts.random.Generator(0)
float single FloatTensor float_ | ts.float32
double DoubleTensor | ts.float64
half HalfTensor bfloat16 | ts.float16  # bfloat16 is not here: float16 trains with optim.LossScaler()
long LongTensor int_ int intp | ts.int64
IntTensor | ts.int32
short | ts.int16
byte ByteTensor uint | ts.uint8
bool_ BoolTensor | ts.bool
complex64 complex128 cfloat | # is not here: float16 to float64, int8 to int64, uint8 to uint64, bool are
set_default_dtype get_default_dtype | ts.tensor([1.0], dtype=ts.float64)  # numbers without a dtype are float32
dtype | np.dtype(ts.float32)  # NumPy's: dtypes are its own
promote_types | ts.result_type(ts.float32, ts.float64)
device set_default_device get_default_device cuda mps xpu | ts.use_backend("cupy")  # a device is a backend here
Size size shape ndim numel | x.shape
is_tensor ndarray | isinstance(x, ts.Tensor)
is_floating_point | x.dtype.kind == "f"
set_grad_enabled inference_mode | ts.no_grad()
is_grad_enabled | (p * 1).requires_grad
autograd custom_vjp custom_jvp custom_gradient | ts.grad((p * p).sum(), p)  # a function of your own: `@ts.op`
gradcheck check_grads | ts.testing.check_grad(ts.tanh, x)
autocast amp GradScaler | optim.LossScaler()  # and model.to(ts.float16)
profiler torchinfo torchsummary | ts.profile()  # with ts.profile() as profile: ...; ts.summary(model, x)
set_detect_anomaly | ts.grad((p * p).sum(), p)  # and ts.debug(), which names where a NaN comes from
func vjp jvp vmap jacobian jacfwd jacrev hessian | ts.value_and_grad(lambda p: (p * p).sum())(p)
save savez | ts.checkpoint.save("run.safetensors", model.state_dict())
load load_file | ts.checkpoint.load("run.safetensors")
utils DataLoader | ts.data.items([1, 2]).batch(2)  # ts.logs is torch.utils.tensorboard, ts.recompute its checkpoint
jit compile fx script | # a compiler is not here: call the model, it runs as it is written
CUDAGraph make_graphed_callables graph | ts.capture(ts.tanh)  # a step that a GPU repeats as one launch
multiprocessing parallel DistributedDataParallel | ts.distributed.DataParallel(ts.distributed.mpi(), model)
linalg fft special sparse signal | np.linalg.norm(x.numpy())  # NumPy's has no gradient: `@ts.op` makes an op that has
apply_along_axis vectorize fromfunction piecewise | ts.stack([row.sum() for row in x])
copy | ts.tensor(x)
copyto | nn.init.constant_(p, 0.5)  # p.data = values
printoptions set_printoptions | np.set_printoptions(precision=3)
assert_allclose | np.testing.assert_allclose(x.numpy(), x.numpy())
""",
    "x": """
cuda | x.to("cupy")  # a device is a backend here
cpu | x.to("numpy")
is_cuda get_device | x.device
double | x.astype(ts.float64)
half bfloat16 | x.astype(ts.float16)
int | x.long()
short | x.astype(ts.int16)
byte | x.astype(ts.uint8)
bool | x.astype(ts.bool)
type type_as | x.astype(y.dtype)
copy | x.clone()  # or x.detach() to cut it from the graph: no operation writes into another's array
contiguous is_contiguous stride data_ptr storage strides flags | x.data  # the backend's array knows its layout
numel nelement | x.size
dim ndimension | x.ndim
element_size nbytes itemsize | x.dtype.itemsize * x.size
grad_fn | x.node
retain_grad register_hook | ts.grad((p * p).sum(), p)  # the gradient with respect to any Tensor
requires_grad_ | ts.tensor(x, requires_grad=True)  # or x.requires_grad = True of a leaf
detach_ | x.detach()
new_zeros new_empty | ts.zeros((2, 3), dtype=x.dtype)
new_ones | ts.ones((2, 3), dtype=x.dtype)
new_full | ts.full((2, 3), 0.5, dtype=x.dtype)
new_tensor | ts.tensor([0.5], dtype=x.dtype)
zero_ | nn.init.zeros_(p)  # of gradients: optimizer.zero_grad(), or p.grad = None
fill_ fill copy_ | nn.init.constant_(p, 0.5)  # p.data = values
normal_ | nn.init.normal_(p)
uniform_ | nn.init.uniform_(p)
where | ts.where(mask, x, y)
map apply | ts.stack([row.sum() for row in x])
unfold | ts.stack([x[:, t : t + 2] for t in range(2)], axis=1)
share_memory_ pin_memory is_pinned is_shared | x.detach()  # memory is the backend's
base resize resize_ | x.reshape(3, 2)
""",
    "nn": """
ModuleList | [nn.Linear(3, 3), nn.Tanh()]  # a plain list on an attribute: its modules are found, trained and saved
ModuleDict | {"en": nn.Linear(3, 3)}  # a plain dict on an attribute: its modules are found, trained and saved
ParameterList ParameterDict | [nn.Parameter(x)]  # a plain list or dict on an attribute
Flatten Unflatten | x.flatten(1)  # and x.reshape, in a forward of your own
Softmin | F.softmax(-x, axis=-1)
ReLU6 | x.clip(0.0, 6.0)  # in a forward of your own
Hardtanh | x.clip(-1.0, 1.0)  # in a forward of your own
RReLU | nn.LeakyReLU(0.2)
SELU CELU Mish Hardswish Hardsigmoid | nn.SiLU()  # those are not here, this is near
Softsign | x / (1 + x.abs())
Tanhshrink | x - x.tanh()
Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout | nn.Dropout(0.1)  # of single entries
BatchNorm2d BatchNorm3d SyncBatchNorm | nn.BatchNorm1d(3)  # of (B, C) or (B, T, C)
InstanceNorm1d InstanceNorm2d | nn.GroupNorm(3, 3)  # as many groups as channels
LocalResponseNorm | nn.LayerNorm(3)
MultiLabelSoftMarginLoss | F.binary_cross_entropy_with_logits(x, y)
CosineEmbeddingLoss CosineSimilarity | x.vecdot(y) / (x.vector_norm(axis=1) * y.vector_norm(axis=1))
PairwiseDistance | (x - y).vector_norm(axis=1)
MarginRankingLoss HingeEmbeddingLoss TripletMarginLoss MultiMarginLoss | F.relu(1 - x + y).mean()
PoissonNLLLoss | (x.exp() - y * x).mean()
PositionalEncoding PositionalEmbedding | nn.SinusoidalPositions(4)  # or nn.LearnedPositions
Seq2Seq | nn.EncoderDecoder(nn.Embedding(9, 3), nn.GRU(3, 4), nn.AttentionDecoder(9, 3, 4, nn.DotAttention(4, 4), 4))
Decoder AttnDecoderRNN | nn.AttentionDecoder(9, 3, 4, nn.DotAttention(4, 4), memory_size=4)
Encoder | nn.GRU(3, 4)  # or any other layer with a state, nn.TransformerEncoder
BahdanauAttention | nn.AdditiveAttention(4, 4, 8)
LuongAttention | nn.DotAttention(4, 4)
Bilinear | ts.einsum("bi,kij,bj->bk", x, ts.ones((4, 3, 3)), y)
RNNBase RNNCellBase | nn.Scan(nn.GRUCell, 3, 4)  # runs any cell with lengths, layers and directions
DataParallel DistributedDataParallel | ts.distributed.DataParallel(ts.distributed.mpi(), model)  # docs/distributed.md
utils | optim.clip_grad_norm_(params, 1.0)  # pack_padded_sequence is lengths= of a layer, pad_sequence is ts.data.pad
modules parameter | nn.Module
Conv2d Conv3d ConvTranspose1d ConvTranspose2d LazyConv1d MaxPool2d AvgPool2d Unfold Fold AdaptiveAvgPool1d
  AdaptiveAvgPool2d Upsample PixelShuffle | nn.Conv1d(3, 4, 2)  # layers here go along time
LazyLinear | nn.Linear(3, 4)  # sizes are given when a layer is made
quantized qat intrinsic | # narrow integers are not here: float16 is, model.to(ts.float16)
""",
    "F": """
scaled_dot_product_attention | F.attention(q, q, q, causal=True)
multi_head_attention_forward | nn.MultiheadAttention(4, 2)(q, q, q)
nll | F.nll_loss(F.log_softmax(x), ids)
mse | F.mse_loss(x, y)
bce | F.binary_cross_entropy(x.sigmoid(), y)
logsigmoid | F.log_sigmoid(x)
normalize | x / x.vector_norm(axis=1, keepdims=True)
cosine_similarity cosine_embedding_loss | x.vecdot(y) / (x.vector_norm(axis=1) * y.vector_norm(axis=1))
pairwise_distance | (x - y).vector_norm(axis=1)
relu6 hardtanh | x.clip(0.0, 6.0)
selu celu mish hardswish | F.silu(x)  # those are not here, this is near
prelu rrelu | F.leaky_relu(x, 0.2)  # or nn.PReLU(), whose slope is learnt
softsign tanhshrink | x / (1 + x.abs())
softmin | F.softmax(-x)
gumbel_softmax | F.softmax(x - (-ts.random.uniform(x.shape).log()).log())
ctc_loss | nn.CTCLoss()(F.log_softmax(q), ids[:1, None], [2], [1])
triplet_margin_loss margin_ranking_loss hinge_embedding_loss multi_margin_loss | F.relu(1 - x + y).mean()
poisson_nll_loss gaussian_nll_loss | (x.exp() - y * x).mean()
batch_norm group_norm instance_norm local_response_norm | nn.BatchNorm1d(3)(x)  # or nn.GroupNorm(1, 3)
dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout | F.dropout(x, 0.1)
embedding_bag | nn.EmbeddingBag(10, 3)(ids[None])
bilinear | ts.einsum("bi,kij,bj->bk", x, ts.ones((4, 3, 3)), y)
conv2d conv3d conv_transpose1d max_pool2d avg_pool2d adaptive_avg_pool1d unfold fold adaptive_avg_pool2d interpolate
  pixel_shuffle grid_sample upsample | F.conv1d(q, ts.ones((3, 4, 2)))  # functions here go along time
""",
    "optim": """
Adagrad Adadelta NAdam RAdam Adamax LBFGS ASGD Rprop SparseAdam Muon | optim.AdamW(params)  # is not here
swa_utils AveragedModel ExponentialMovingAverage | optim.SWA(model)  # or optim.EMA(model)
lr_scheduler CosineAnnealingLR CosineAnnealingWarmRestarts | optim.schedules.cosine(1e-3, 100)  # a function of the step
LambdaLR StepLR MultiStepLR ExponentialLR | lambda step: 1e-3 * 0.1 ** (step // 30)  # optimizer.lr = schedule(step)
LinearLR PolynomialLR SequentialLR | optim.schedules.warmup(10, optim.schedules.linear(1e-3, 90))
OneCycleLR CyclicLR | optim.schedules.one_cycle(1e-3, 100)
ReduceLROnPlateau | optim.schedules.Plateau(1e-3)
""",
    "nn.init": """
trunc_normal_ | nn.init.normal_(p, 0.0, 0.02)
eye_ dirac_ sparse_ | ts.eye(3)  # p.data = ts.eye(3)
calculate_gain | nn.init.xavier_uniform_(p, gain=5 / 3)
glorot_uniform | nn.init.xavier_uniform_(p)
glorot_normal | nn.init.xavier_normal_(p)
he_uniform | nn.init.kaiming_uniform_(p)
he_normal | nn.init.kaiming_normal_(p)
""",
    "ts.random": """
rand random random_sample | ts.random.uniform((2, 3))
randn standard_normal | ts.random.normal((2, 3))
randint random_integers | ts.random.integers((2, 3), 0, 10)
randperm shuffle | ts.random.permutation(5)
choice | x[ts.random.integers(2, 0, len(x))]  # with probabilities p: ts.random.categorical(p)
multinomial | ts.random.categorical(F.softmax(x))  # one draw a row, as probable as it says
seed | ts.manual_seed(0)
default_rng RandomState PRNGKey key | ts.random.Generator(0)
get_rng_state | ts.random.get_state()
set_rng_state | ts.random.set_state(ts.random.get_state())
fork_rng split | ts.random.Generator(0)  # `with generator:` draws from it
binomial | ts.random.bernoulli(0.5, (10, 2)).sum(axis=0)
exponential | -ts.random.uniform(x.shape).log()
beta gamma poisson dirichlet laplace truncated_normal gumbel | ts.asarray(np.random.default_rng(0).gamma(2.0, size=3))
""",
    "module": """
cuda to_device | model.to("cupy")  # a device is a backend here
cpu | model.to("numpy")
device | model.parameters()[0].backend
dtype | model.parameters()[0].dtype
float | model.to(ts.float32)
double | model.to(ts.float64)
half bfloat16 | model.to(ts.float16)
register_buffer | nn.Buffer(x)  # self.mean = nn.Buffer(x)
register_parameter | nn.Parameter(x)  # self.weight = nn.Parameter(x)
add_module register_module | nn.Linear(3, 3)  # on an attribute, self.layer = nn.Linear(3, 3), or in a list there
buffers named_buffers | [(name, t) for name, t in model.named_tensors() if isinstance(t, nn.Buffer)]
named_children | list(model.children())  # pairs of name and module
apply | [nn.init.normal_(w) for w in model.parameters()]  # model.modules() has all modules
get_submodule get_parameter get_buffer | dict(model.named_modules())
register_forward_hook register_forward_pre_hook register_full_backward_hook register_hook | # hooks are not here: a
  subclass whose forward calls super().forward
compile share_memory type to_empty | model.to("numpy")
state | model.state_dict()
flatten_parameters | # is not needed: leave it out
summary | ts.summary(model, x)
fit predict evaluate | # a trainer is not here: the loop is yours, README.md has one
backward | ts.grad(model(x).sum(), params)
""",
    "optimizer": """
defaults | optimizer.lr  # and all others are attributes
minimize update apply_gradients | optimizer.step()
""",
    "ts.data": """
DataLoader IterableDataset StatefulDataLoader | ts.data.items([1, 2]).batch(2).prefetch()  # a stream, with a state_dict
Sampler BatchSampler collate_fn default_collate | ts.data.batches([2, 1], 2)  # indices, of lengths and a size
DistributedSampler | ts.data.items([1, 2]).batch(2).shard(0, 2)  # of each batch the rows of rank 0 of 2
Dataset TensorDataset random_split Subset | [([1, 2], 0), ([3], 1)]  # a plain list
Vocab vocab build_vocab_from_iterator | ts.data.Vocabulary("abc")
pad_sequence pad_sequences | ts.data.pad([[1, 2], [3]])
""",
    "vocabulary": """
stoi index token_to_id lookup_indices word2idx get_stoi forward | vocabulary.encode("ab")  # 0, 1, 2: pad, start, end
itos token id_to_token lookup_token lookup_tokens idx2word get_itos | vocabulary.decode([3, 4])
size | len(vocabulary)
""",
    "ts.decode": """
beam_search beam_decode BeamSearch | ts.decode.beam(decoder, state, 1, 2, 5)  # 1 starts, 2 ends
greedy_search greedy_decode argmax | ts.decode.greedy(decoder, state, 1, 2, 5)  # 1 starts, 2 ends
generate sampling top_k top_p nucleus multinomial | ts.decode.sample(decoder, state, 1, 2, 5, top_p=0.9)
""",
    "hypothesis": """
sequence ids text | hypothesis.tokens
log_prob logprob logp | hypothesis.score
attention weights attentions | hypothesis.alignment
""",
    "ts.plot": """
heatmap imshow matshow | ts.plot.attention([[0.9, 0.1]], ["a"], ["b", "c"])
plot loss line history | ts.plot.curves({"loss": [2.0, 1.0]})
""",
    "ts.metrics": """
accuracy accuracy_score MulticlassAccuracy | ts.metrics.Accuracy()  # .update(x.argmax(axis=-1), targets), .compute()
cer wer edit_distance levenshtein WordErrorRate CharErrorRate | ts.metrics.TokenErrorRate()  # or token_error_rate(...)
f1 f1_score seqeval F1Score | ts.metrics.SpanF1()  # or span_f1(...)
perplexity MeanMetric | ts.metrics.Perplexity()  # .update(nll, tokens), .compute(); of any figure ts.metrics.Mean()
bleu BLEUScore SacreBLEUScore chrf CHRFScore | ts.metrics.BLEU  # and CHRF; .update(hypotheses, references), .compute()
""",
    "ts.testing": """
gradcheck gradgradcheck check_grads | ts.testing.check_grad(ts.tanh, x, order=2)
assert_close assert_allclose | np.testing.assert_allclose(x.numpy(), x.numpy())
""",
    "ts.checkpoint": """
checkpoint checkpoint_sequential | ts.recompute(model, x)
save_file savez dump | ts.checkpoint.save("run.safetensors", model.state_dict())
load_file safe_open | ts.checkpoint.load("run.safetensors")
CheckpointManager ModelCheckpoint | ts.runs.Run("runs/a", model=model)  # .resume(), .save(step)
""",
    "ts.logs": """
SummaryWriter TensorBoardLogger | ts.logs.TensorBoard  # and ts.logs.Log(ts.logs.TensorBoard("runs/a"))(step, loss=loss)
CSVLogger WandbLogger | ts.logs.Log(lambda step, figures: None)  # any such function is a sink, and ts.logs.CSV
""",
    "ts.distributed": """
init_process_group get_rank get_world_size | ts.distributed.mpi()  # has rank and size
DistributedDataParallel FullyShardedDataParallel | ts.distributed.DataParallel(ts.distributed.mpi(), model)
all_reduce reduce all_gather broadcast barrier | ts.distributed.mpi().sum(1)  # and gather, broadcast, merge, barrier
""",
}

ARGUMENTS = """
dim dims axis axes | axis axes
keepdim keepdims | keepdims
input self tensor inputs x1 arr ary | 0
other x2 y | 1
unbiased ddof | correction  # correction=1 divides by n - 1
size newshape | shape
target label labels y_true | targets
diagonal | k
shifts | shift
reps | repetitions
split_size_or_sections indices_or_sections split_size chunks | sections
index | indices
src source values | values
min a_min | min
max a_max | max
p | ord
steps | num
end | stop
n N | n_rows
m M | n_cols
value | constant_values fill_value value
pad | pad_width
depth n_classes | num_classes
is_causal | causal
attn_mask | mask  # booleans: True takes part
dropout_p rate | p
tensors arrays | tensors
loc | mean
std scale | std
a from | low
b to | high
betas beta1 beta2 | betas
learning_rate | lr
gradient | grad
start_dim | start_axis
size_average reduce | reduction
hx h_0 state hidden initial_state | h0 state h
set_to_none | # a gradient that is forgotten is None
requires_grad | # after it: x.requires_grad = True
device | # a device is a backend: x.to("cupy"), ts.use_backend("cupy")
out | # no function writes into its argument: y = f(x)
inplace | # no operation works in place
amsgrad maximize foreach fused capturable differentiable dampening | # this option is not here
layout pin_memory memory_format non_blocking order copy subok where initial | # arrays are laid out as the backend does
"""


# Where a thing of another name may be: how it is written, and the module's own name or that of a class
PLACES = {**{place: f"tinyseq{place[2:]}" for place in NAMES if place.startswith("ts.")},
          "ts": "tinyseq", "F": "tinyseq.functional", "nn": "tinyseq.nn", "nn.init": "tinyseq.nn.init",
          "optim": "tinyseq.optim", "ts.random": "tinyseq.engine.random", "x": "Tensor", "module": "Module",
          "optimizer": "Optimizer", "vocabulary": "Vocabulary", "hypothesis": "Hypothesis"}


def rows(table: str) -> list[tuple[list[str], str, str]]:
    """(names, what to write, what to know) of each row; one that goes on begins with blanks."""
    found = []
    for line in table.strip().replace("\n  ", " ").splitlines():
        names, _, answer = line.partition(" | ")
        code, _, remark = answer.partition("# ")
        found.append((names.split(), code.strip(), remark))
    return found


class Missing(AttributeError):
    """A module or an object does not have a name. What to write, or what was perhaps meant, is looked up when the error
    is shown: `hasattr` has no use for it."""

    def __init__(self, owner: object, name: str) -> None:
        super().__init__(name=name)
        self.asked = owner, name

    def __str__(self) -> str:
        owner, name = self.asked
        kinds = [kind.__name__ for kind in type(owner).__mro__]
        text = f"{kinds[0]!r} object has no attribute {name!r}"
        if isinstance(owner, ModuleType):
            public = owner.__name__.replace(".engine", "")
            kinds, text = [owner.__name__], f"module {public!r} has no attribute {name!r}"
        place = next((short for short, kind in PLACES.items() if kind in kinds), "")
        advice = "" if name.startswith("_") else _advice(place, name)
        if not advice:  # Python's own guess does not come in a notebook
            close = get_close_matches(name, [x for x in dir(owner) if not x.startswith("_")], 1, 0.65)
            advice = f"did you mean {close[0]}?" if close else ""
        return f"{text}: {advice}" if advice else text

    def __reduce__(self) -> tuple[Any, ...]:
        return AttributeError, (str(self),)  # in another process nobody has the owner


Missing.__name__ = Missing.__qualname__ = "AttributeError"  # in tracebacks, where another name says nothing
Missing.__module__ = "builtins"


def missing(owner: object, name: str) -> NoReturn:
    """`__getattr__` of modules and classes. A property that failed is asked again, for its own error; what
    `from tinyseq.nn import name` asks for is an ImportError."""
    if not isinstance(owner, ModuleType) and hasattr(type(owner), name):
        object.__getattribute__(owner, name)
    caller: Any = sys._getframe(2)
    caller = caller.f_back if caller.f_code.co_name == "__getattr__" else caller  # that of `tinyseq` itself
    imports = opname[caller.f_code.co_code[caller.f_lasti]] == "IMPORT_FROM"  # whose own error would say no more
    if imports and isinstance(owner, ModuleType) and f"{owner.__name__}.{name}" not in sys.modules:
        raise ImportError(f"cannot import name {name!r}: {Missing(owner, name)}", name=owner.__name__)
    raise Missing(owner, name)


def _advice(place: str, name: str) -> str:
    """What to write where a name is missing; nothing if that is not known."""
    tables = [NAMES.get(place, ""), NAMES["tensors"] if place in ("ts", "x") else ""]
    for names, code, remark in rows("\n".join(tables)):
        if name in names:
            known = [f"write {code}"] * bool(code) + ["F is ts.functional"] * ("F." in code) + [remark] * bool(remark)
            return "; ".join(known)
    if place == "nn.init" and f"{name}_" in vars(sys.modules["tinyseq.nn.init"]):
        return f"write nn.init.{name}_"
    tensor = vars(sys.modules["tinyseq"])["Tensor"]
    if name.endswith("_") and place in ("x", "F"):
        plain = f"write {place}.{name[:-1]}(...)" if hasattr(tensor, name[:-1]) else _advice(place, name[:-1])
        return f"no operation works in place; {plain}" if plain else ""
    if place == "ts" and hasattr(tensor, name):
        return f"write x.{name}, of a Tensor x"
    hasattr(sys.modules["tinyseq"], "optim")  # loads it, as its names are known elsewhere
    for short, module in PLACES.items():
        wanted = ("F", "ts") if place == "x" else () if place in ("module", "optimizer") else PLACES
        found = vars(sys.modules.get(module, tensor)).get(name)
        if short in wanted and module in sys.modules and getattr(found, "__module__", "").startswith("tinyseq"):
            return f"write {short}.{name}" + "; F is ts.functional" * (short == "F")
    return ""


def meant(word: str, takes: Sequence[str]) -> list[str]:
    """What to write in the place of an argument that a function does not have, of those that it `takes`."""
    fits: Sequence[str] = get_close_matches(word, takes, 1, 0.7)
    remark = ""
    for words, ours, known in rows(ARGUMENTS):
        if word in words:
            fits, remark = takes[int(ours):][:1] if ours.isdigit() else ours.split(), known
    return [f"write {w}=" for w in fits if w in takes][:1] + [remark] * bool(remark)


def unknown(word: str, takes: Sequence[str]) -> str:
    """What is wrong with an argument that a function does not have."""
    listed = ", ".join(w for w in takes if w != "self")
    return "; ".join([f"no argument {word!r}", *meant(word, takes), f"it takes {listed or 'nothing'}"])


def by_place(name: str, takes: Sequence[str], args: Sequence[Any]) -> str:
    """What to write where several integers by place were meant as one shape, or axes; nothing if that is not it."""
    first = next((i for i, word in enumerate(takes[:2]) if word in ("shape", "axis", "repetitions", "repeats")), 9)
    given, name = args[first:], {"repeat": "tile"}.get(name, name)
    meant = len(given) > 1 and all(type(n) is int for n in given)
    return f"write {'x.' * first}{name}(({', '.join(map(str, given))}))" if meant else ""

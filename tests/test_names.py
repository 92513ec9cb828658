"""What users of PyTorch and NumPy type: it works, or the error says what to write. The table of that is the page's.

`python3 tests/test_names.py` writes the section "Names" of docs/coming-from-pytorch.md from the table.
"""

import copy
import inspect
import pickle
import re
import subprocess
import sys
import traceback
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyseq as ts
from tinyseq import functional, names, nn, optim
from tinyseq.engine.tensor import Tensor

PAGE = Path(__file__).parents[1] / "docs" / "coming-from-pytorch.md"
TITLES = {"tensors": "functions, `ts.name` and `x.name`", "ts": "of `ts`", "x": "of a Tensor x", "nn": "of `nn`",
          "F": "of `F`, which is `tinyseq.functional`", "optim": "of `optim`", "nn.init": "of `nn.init`",
          "module": "of a module", "optimizer": "of an optimizer",
          "vocabulary": "of a `ts.data.Vocabulary`", "hypothesis": "of a `ts.decode.Hypothesis`",
          **{place: f"of `{place}`" for place in names.NAMES if place.startswith("ts.")}}

# What works, and what it gives: ~ parts the two.
WORK = """
x.shape~(2,3) x.ndim~2 x.size~6 x.dtype~np.float32 len(x)~2 x.T~a.T x.mT~a.T x.tolist()~a.tolist()
x.numpy()~a x.detach()~a x.sum()~a.sum() x.sum(1)~a.sum(1) x.sum(axis=1,keepdims=True)~a.sum(1,keepdims=True)
x.mean(0)~a.mean(0) x.prod(1)~a.prod(1) x.max()~a.max() x.min(1)~a.min(1) x.argmax(1)~a.argmax(1)
x.argmin()~a.argmin() x.var()~a.var() x.std(0)~a.std(0) x.any()~a.any() x.all(1)~a.all(1)
x.abs()~abs(a) x.exp()~np.exp(a) x.log()~np.log(a) x.sqrt()~np.sqrt(a) x.sin()~np.sin(a) x.cos()~np.cos(a)
x.tanh()~np.tanh(a) x.sigmoid()~1/(1+np.exp(-a)) x.floor()~np.floor(a) x.ceil()~np.ceil(a) x.round()~np.round(a)
x.sign()~np.sign(a) x.square()~a*a x.reciprocal()~1/a x.pow(2)~a**2 x.add(y)~a+b x.multiply(y)~a*b x.subtract(y)~a-b
x.divide(y)~a/b x.matmul(y.T)~a@b.T x.maximum(y)~np.maximum(a,b) x.minimum(y)~np.minimum(a,b) x.equal(x)~a==a
x.less(y)~a<b x.greater_equal(y)~a>=b x.logaddexp(y)~np.logaddexp(a,b) x.isnan()~np.isnan(a) x.isfinite()~np.isfinite(a)
x.reshape(3,2)~a.reshape(3,2) x.reshape((3,-1))~a.reshape(3,2) x.flatten()~a.ravel() x.squeeze()~a x[None]~a[None]
x.topk(2)[0]~-np.sort(-a)[:,:2] x.sort()~np.sort(a) x.argsort(axis=0)~np.argsort(a,0)
x.sort(descending=True)~-np.sort(-a)
x.take(ids,axis=0)~a[[1,0]] x.repeat(2,axis=0)~a.repeat(2,0) x.tile((1,2))~np.tile(a,2) x.roll(1,axis=0)~np.roll(a,1,0)
x.flip(axis=0)~a[::-1] x.tril()~np.tril(a) x.triu(1)~np.triu(a,1) x.split(3,axis=1)[0]~a[:,:1] x.unstack()[1]~a[1]
x.clip(0.5,1.5)~np.clip(a,0.5,1.5) x.clip(min=1.0)~np.maximum(a,1) x.astype(ts.float64)~a x.to(ts.int64)~a.astype(int)
x.broadcast_to((2,2,3))~np.stack([a,a]) x.moveaxis(0,1)~a.T x.expand_dims(0)~a[None]
x.cumulative_sum(axis=1)~a.cumsum(1) x.logsumexp(axis=1)~np.log(np.exp(a).sum(1)) x.vecdot(y)~(a*b).sum(1)
x.vector_norm()~np.sqrt((a*a).sum()) x.erf().shape~(2,3) x.log1p()~np.log1p(a) x.expm1()~np.expm1(a)
x+y~a+b x-1~a-1 2*x~2*a x/y~a/b x@y.T~a@b.T x**2~a**2 -x~-a x>y~a>b x==x~a==a ~mask~a<=1 x[0]~a[0] x[:,1:]~a[:,1:]
x[mask]~a[a>1] x[ids]~a[[1,0]] x[...,0]~a[...,0]
ts.tensor([1.0,2.0])~[1,2] ts.asarray(a)~a ts.zeros((2,3))~np.zeros((2,3)) ts.ones(3)~np.ones(3) ts.full((2,),3.0)~[3,3]
ts.arange(5)~range(5) ts.arange(1,7,2)~[1,3,5] ts.linspace(0,1,5)~np.linspace(0,1,5) ts.eye(3)~np.eye(3)
ts.zeros_like(x)~0*a ts.ones_like(x)~0*a+1 ts.full_like(x,2.0)~0*a+2 ts.stack([x,y])~np.stack([a,b])
ts.stack([x,y],axis=1)~np.stack([a,b],1) ts.where(mask,x,0.0)~np.where(a>1,a,0) ts.einsum("ij,kj->ik",x,y)~a@b.T
ts.tensordot(x,y.T,1)~a@b.T ts.exp(x)~np.exp(a) ts.sum(x,0)~a.sum(0) ts.matmul(x,y.T)~a@b.T ts.maximum(x,0.0)~a
ts.sort(x)~np.sort(a) ts.topk(x,1)[1]~a.argmax(1)[:,None] ts.tanh(x)~np.tanh(a) ts.concat([x,y])~np.concatenate([a,b])
ts.flatten(x)~a.ravel() ts.squeeze(x[None])~a ts.tril(x)~np.tril(a) ts.split(x,3,1)[2]~a[:,2:] ts.abs(-x)~a
ts.isnan(x)~np.isnan(a) ts.clip(x,1.0)~np.maximum(a,1) ts.pad(x,[(0,0),(1,0)])~np.pad(a,[(0,0),(1,0)])
ts.logical_and(mask,mask)~a>1 ts.atan2(x,y)~np.arctan2(a,b) ts.one_hot(ids,2)~np.eye(2)[[1,0]] ts.float32~np.float32
ts.bool~np.bool ts.no_grad~ts.no_grad ts.enable_grad~ts.enable_grad ts.manual_seed~ts.manual_seed
ts.random.normal((2,3)).shape~(2,3) ts.random.uniform(3).shape~(3,) ts.random.permutation(4).shape~(4,)
ts.nn.functional~F ts.functional~F ts.data.pad([[1],[2,3]])[1]~[1,2] ts.decode.greedy~ts.decode.greedy
ts.metrics.token_error_rate(["ab"],[["ab"]])~0 ts.models.load~ts.models.load ts.checkpoint.load~ts.checkpoint.load
ts.testing.check_grad~ts.testing.check_grad ts.lens.__name__~"tinyseq.lens" ts.plot.__name__~"tinyseq.plot"
F.relu(x-1)~np.maximum(a-1,0) F.tanh(x)~np.tanh(a) F.sigmoid(x)~1/(1+np.exp(-a)) F.softmax(x,axis=0).sum(0)~[1,1,1]
F.softmax(x,-1).sum(1)~[1,1] F.log_softmax(x).exp().sum(1)~[1,1] F.gelu(x).shape~(2,3) F.silu(x)~a/(1+np.exp(-a))
F.elu(x)~a F.leaky_relu(-x)~-a/100 F.softplus(x)~np.log1p(np.exp(a)) F.mse_loss(x,y)~((a-b)**2).mean()
F.l1_loss(x,y)~abs(a-b).mean() F.cross_entropy(x,ids).shape~() F.nll_loss(x,ids).shape~() F.linear(x,y)~a@b.T
F.embedding(ids,x)~a[[1,0]] F.dropout(x,0.0)~a F.layer_norm(x,3).shape~(2,3) F.glu(x[:,:2]).shape~(2,1)
nn.Linear(3,4)(x).shape~(2,4) nn.Embedding(5,3)(ids).shape~(2,3) nn.Dropout(0.1).p~0.1 nn.LayerNorm(3)(x).shape~(2,3)
nn.Conv1d(3,4,2)(x[None]).shape~(1,1,4) nn.MaxPool1d(2)(x[None]).shape~(1,1,3)
F.pad(x,[(0,0),(1,1)],"reflect")~np.pad(a,[(0,0),(1,1)],"reflect")
nn.MSELoss()(x,y)~((a-b)**2).mean() nn.Softmax(1)(x).sum(1)~[1,1] nn.Identity()(x)~a nn.PReLU()(-x).detach()~-a/4
nn.CrossEntropyLoss()(x,ids).shape~() nn.BatchNorm1d(3)(x).shape~(2,3) nn.LeakyReLU(0.2)(-x)~-a/5
nn.ReLU()(x)~a nn.Tanh()(x)~np.tanh(a) nn.Sequential(nn.ReLU())(x)~a nn.LSTM(3,4)(x[None])[0].shape~(1,2,4)
nn.GRU(3,4,bidirectional=True)(x[None])[0].shape~(1,2,8) nn.Parameter(x).requires_grad~True nn.Module~nn.Module
nn.init.zeros_(p).shape~(2,3) model.state_dict()~model.state_dict() model.training~True len(model.parameters())~2
x.swapaxes(0,1)~a.T ts.swapaxes(x,0,1)~a.T x.float()~a x.long()~a.astype(int) x.clone()~a x.device~x.backend
x.masked_fill(mask,0.0)~np.where(a>1,0,a) x.nonzero()[1]~a.nonzero()[1] x.softmax(-1)~F.softmax(x)
ts.isclose(x,y)~np.isclose(a,b) ts.diff(x)~np.diff(a) ts.diagonal(x)~np.diagonal(a) ts.count_nonzero(x)~6
ts.meshgrid(x[0],y[0])[0]~np.meshgrid(a[0],b[0])[0] ts.searchsorted(y[0].sort(),x)~np.searchsorted(np.sort(b[0]),a)
ts.empty(2).shape~(2,) ts.empty_like(x).shape~(2,3) ts.uint16~np.uint16 ts.inf~np.inf ts.pi~np.pi ts.newaxis~None
ts.nan!=ts.nan~True ts.finfo(ts.float32).bits~32 ts.ones(2,device=x.device)~[1,1] F.smooth_l1_loss(x,x)~0
ts.cumulative_prod(x)~np.cumprod(a,1) x.unique_values()~np.unique(a) ids<<1~[2,0] ts.hypot(x,y)~np.hypot(a,b)
ts.random.bernoulli(1.0).item()~True ts.random.categorical([[0.0,1.0]])~[1] nn.BCELoss(1.0)(x/4,x/4).shape~()
nn.GELU("tanh")(x).shape~(2,3) nn.ELU(0.5)(x)~a nn.LogSoftmax(-1)(x)~F.log_softmax(x) nn.GLU(1)(x[:,:2]).shape~(2,1)
optim.Adam(params,lr=0.1).lr~0.1 optim.SGD(params,0.1,momentum=0.9).lr~0.1 optim.Optimizer~optim.Optimizer
"""

# What is an error that says what to write.
OTHERWISE = """
ts.cat([x,y]) ts.cat([x,y],dim=1) ts.concatenate([x,y]) ts.hstack([x,y]) ts.vstack([x,y]) ts.transpose(x)
ts.permute(x,(1,0))
ts.unsqueeze(x,0) ts.gather(x,1,ids) ts.index_select(x,0,ids) ts.masked_select(x,mask)
ts.clamp(x,0,1) ts.mm(x,y) ts.bmm(x,y) ts.mv(x,y) ts.dot(x,y) ts.inner(x,y) ts.vdot(x,y) ts.norm(x) ts.cumsum(x,0)
ts.cumprod(x,0) ts.mul(x,y) ts.div(x,y) ts.sub(x,y) ts.neg(x) ts.rsqrt(x) ts.power(x,2) ts.float_power(x,2) ts.mod(x,y)
ts.absolute(x) ts.softmax(x,1) ts.relu(x) ts.log_softmax(x,1) ts.from_numpy(a) ts.as_tensor(a) ts.array([1.0])
ts.rand(2,3) ts.randn(2,3) ts.randint(0,5,(2,)) ts.randperm(5) ts.rand_like(x) ts.randn_like(x)
ts.normal(0,1,(2,)) ts.multinomial(x,1) ts.bernoulli(x) ts.range(0,5) ts.logspace(0,1,5)
ts.tril_indices(3,3)
ts.fliplr(x) ts.chunk(x,2) ts.array_split(x,2) ts.narrow(x,0,0,1) ts.unbind(x) ts.expand(x,2) ts.ravel(x) ts.numel(x)
ts.is_tensor(x) ts.allclose(x,y) ts.array_equal(x,y) ts.unique(x) ts.bincount(ids) ts.histc(x)
ts.median(x)
ts.quantile(x,0.5) ts.diag(x) ts.trace(x) ts.kron(x,y) ts.amax(x,1) ts.amin(x,1) ts.nansum(x)
ts.average(x) ts.eq(x,y) ts.ne(x,y) ts.lt(x,y) ts.gt(x,y) ts.le(x,y) ts.ge(x,y) ts.bitwise_not(mask)
ts.arccos(x) ts.arcsin(x) ts.arctan(x) ts.arctan2(x,y) ts.arcsinh(x) ts.deg2rad(x) ts.sgn(x) ts.frac(x) ts.lerp(x,y,0.5)
ts.erfc(x) ts.erfinv(x) ts.lgamma(x) ts.repeat_interleave(x,2) ts.rot90(x) ts.std_mean(x)
ts.var_mean(x)
ts.baddbmm(x,x,y) ts.addmm(x,x,y) ts.ger(x,y) ts.cdist(x,y) ts.float ts.double ts.half ts.long ts.int ts.short ts.byte
ts.bfloat16 ts.complex64 ts.device("cpu") ts.cuda.is_available()
ts.set_default_dtype
ts.set_grad_enabled(False) ts.inference_mode() ts.is_grad_enabled() ts.autograd.grad(x,y) ts.save({},"f") ts.load("f")
ts.jit.script(model) ts.compile(model) ts.seed(0) ts.get_rng_state() ts.Generator() ts.utils.data.DataLoader
ts.multiprocessing
ts.DataLoader([1]) ts.GradScaler() ts.autocast("cuda") ts.amp.GradScaler() ts.profiler.profile() ts.torchinfo
ts.data.DataLoader([1]) ts.data.Dataset ts.data.DistributedSampler([1]) ts.distributed.init_process_group("mpi")
ts.distributed.all_reduce(x) ts.distributed.DistributedDataParallel(model) ts.logs.SummaryWriter("runs")
ts.metrics.WordErrorRate() ts.metrics.BLEUScore() ts.metrics.F1Score() ts.checkpoint.ModelCheckpoint()
ts.func.grad ts.vmap ts.FloatTensor([1.0]) ts.LongTensor([1]) ts.Size([1]) ts.linalg.norm(x)
ts.fft.fft(x)
ts.Linear(3,4) ts.Module ts.Adam(params) ts.detach(x) ts.ndarray ts.identity(3) ts.copy(x) ts.vectorize ts.float_
ts.size(x)
ts.take_along_dim(x,ids) ts.broadcast_tensors(x,y) ts.argwhere(x) ts.zeros(size=(2,3))
ts.arange(3,requires_grad=True) ts.full(size=(2,),fill_value=1.0) ts.tensor([1.0],device="cuda") ts.sum(x,dim=0)
ts.sum(x,dim=0,keepdim=True) ts.mean(input=x) ts.add(x,other=y) ts.add(x,y,alpha=2) ts.add(x,y,out=x) ts.exp(x,out=x)
ts.var(x,unbiased=False) ts.std(x,ddof=1) ts.stack([x,y],dim=1) ts.stack(arrays=[x,y]) ts.reshape(x,newshape=(3,2))
ts.pad(x,pad=(1,1)) ts.topk(x,2,dim=0) ts.sort(x,dim=0) ts.tril(x,diagonal=1) ts.roll(x,shifts=1,axis=0)
ts.flip(x,dims=(0,))
ts.split(x,split_size=1) ts.split(x,indices_or_sections=3,axis=1) ts.clip(x,a_min=0.0) ts.one_hot(ids,n_classes=3)
ts.linspace(0,1,steps=5) ts.eye(n=3) ts.tile(x,dims=(2,)) ts.take(x,index=ids) ts.vector_norm(x,p=1) ts.argmax(x,dim=1)
x.view(3,2) x.view(-1) x.permute(1,0) x.transpose(0,1) x.t() x.unsqueeze(0) x.dim() x.numel()
x.nelement()
x.cpu() x.cuda() x.cpu().numpy() x.double() x.half() x.int() x.bool() x.type(ts.float32) x.type_as(y)
x.copy() x.contiguous() x.is_contiguous() x.stride() x.data_ptr() x.is_cuda x.grad_fn x.retain_grad()
x.register_hook(print) x.requires_grad_() x.detach_() x.expand(2,3) x.expand_as(y) x.chunk(2) x.narrow(0,0,1)
x.select(0,1)
x.unbind() x.gather(1,ids) x.scatter_(1,ids,1.0) x.scatter_add(0,ids,y) x.index_select(0,ids)
x.masked_fill_(mask,0.0) x.masked_select(mask) x.log_softmax(-1) x.relu() x.dot(y) x.mm(y)
x.bmm(y)
x.norm() x.cumsum(0) x.cumprod(0) x.mul(y) x.div(y) x.sub(y) x.neg() x.eq(y) x.ne(y) x.lt(y) x.gt(y) x.amax(1) x.amin(1)
x.new_zeros(3) x.new_ones(3) x.new_tensor([1.0]) x.add_(1) x.mul_(2) x.zero_() x.fill_(1.0) x.copy_(y) x.clamp(0,1)
x.clamp_(0,1)
x.normal_() x.uniform_() x.exp_() x.sub_(y) x.ravel() x.fill(0) x.ptp() x.nbytes x.itemsize x.element_size()
x.where(mask,y)
x.sum(dim=1) x.sum(dim=1,keepdim=True) x.mean(dim=(0,1)) x.max(dim=1) x.argmax(dim=-1) x.var(unbiased=False)
x.std(dim=0)
x.any(dim=1) x.sort(dim=0) x.squeeze(dim=0) x.flatten(start_dim=1) x.flatten(end_dim=1) x.clip(a_max=1.0)
x.astype(dtpe=ts.float32)
x.take(index=ids) x.prod(dim=0) x.unflatten(0,(1,2)) x.backward(gradient=x) x.to(device="cuda")
x.repeat(repeats=2,dim=0)
x.all(axes=1) x.topk(2,dim=1) x.cumulative_sum(dim=0) x.add(other=y) x.permute_dims(dims=(1,0)) x.reshape(size=(3,2))
nn.ModuleList([model]) nn.ModuleDict({}) nn.ParameterList([]) nn.Flatten() nn.Softmax(dim=1)
nn.LogSoftmax(dim=1) nn.MSELoss(size_average=True)
nn.Conv2d(3,4,2) nn.MaxPool2d(2) nn.AdaptiveAvgPool1d(1)
nn.utils.clip_grad_norm_(params,1.0) nn.utils.rnn.pack_padded_sequence nn.utils.rnn.pad_sequence nn.Dropout2d(0.1)
nn.SELU() nn.Mish() nn.Hardtanh() nn.ReLU6() nn.Softsign() nn.Bilinear(3,3,4)
nn.DataParallel(model) nn.DistributedDataParallel(model)
nn.LazyLinear(4) nn.CosineSimilarity() nn.TripletMarginLoss() nn.RNNBase
nn.Upsample()
nn.relu(x) nn.softmax(x) nn.Tensor nn.Adam(params) nn.InstanceNorm1d(3) nn.AlphaDropout() nn.Unfold(2)
F.scaled_dot_product_attention(x,x,x) F.one_hot(ids,2) F.normalize(x) F.cosine_similarity(x,y)
F.conv2d(x,y)
F.max_pool2d(x,2) F.avg_pool2d(x,2) F.logsigmoid(x) F.relu6(x) F.selu(x) F.mish(x) F.hardtanh(x) F.prelu(x,y)
F.softsign(x)
F.softmin(x) F.gumbel_softmax(x) F.ctc_loss(x,y) F.batch_norm(x) F.group_norm(x,1) F.relu_(x)
F.exp(x)
F.embedding_bag(ids,x) F.interpolate(x) F.unfold(x,2) F.softmax(x,dim=-1) F.log_softmax(x,dim=1)
F.softmax(input=x,dim=1)
F.cross_entropy(input=x,target=ids) F.cross_entropy(x,target=ids) F.dropout(x,0.1,inplace=True)
F.gelu(x,inplace=True) F.attention(x,x,x,is_causal=True) F.attention(x,x,x,attn_mask=mask)
F.cross_entropy(x,ids,size_average=True)
F.glu(x,dim=0) F.Linear(3,4) F.multi_head_attention_forward(x) F.triplet_margin_loss(x,x,x) F.bilinear(x,x,x)
optim.Adagrad(params) optim.NAdam(params) optim.RAdam(params) optim.LBFGS(params)
optim.Adamax(params)
optim.Adadelta(params) optim.lr_scheduler.StepLR optim.CosineAnnealingLR(optimizer,100) optim.OneCycleLR(optimizer,1.0)
optim.ReduceLROnPlateau(optimizer) optim.LambdaLR(optimizer,print) optim.swa_utils optim.Muon(params)
nn.init.xavier_uniform(p) nn.init.kaiming_normal(p) nn.init.trunc_normal_(p) nn.init.eye_(p)
nn.init.calculate_gain("relu") nn.init.orthogonal(p) nn.init.normal(p) nn.init.constant(p,0.0) nn.init.ones(p)
nn.init.dirac_(p) nn.init.sparse_(p,0.1)
ts.random.rand(3) ts.random.randn(3) ts.random.randint(5) ts.random.choice(5) ts.random.shuffle(x) ts.random.seed(0)
ts.random.default_rng(0) ts.random.standard_normal(3) ts.random.random(3) ts.random.get_rng_state()
ts.random.randperm(5)
ts.random.fork_rng() ts.random.normal(size=(2,3)) ts.random.uniform(size=3) ts.random.normal(3,loc=0.0)
ts.random.normal(3,scale=1.0)
model.cuda() model.cpu() model.float() model.double() model.half() model.register_buffer("b",x)
model.register_parameter("b",p)
model.buffers() model.named_buffers() model.named_children() model.apply(print) model.add_module("m",model) model.device
model.register_forward_hook(print) model.get_submodule("a") model.compile() model.fit(x) model.share_memory()
optimizer.defaults optimizer.minimize()""".split()


class Count:
    """A decoder that writes n + 1 after n."""

    def step(self, tokens: Any, state: Any) -> Any:
        return ts.one_hot(tokens + 1, 9) * 99.0, state


def world() -> dict[str, Any]:
    """What the expressions are about."""
    a = np.array([[1.0, 2.0, 0.5], [0.25, 3.0, 1.5]], np.float32)
    b = np.array([[0.5, 0.25, 2.0], [1.0, 1.25, 0.75]], np.float32)
    model = nn.Linear(3, 3)
    model(ts.tensor(a)).sum().backward()
    return {"ts": ts, "np": np, "nn": nn, "F": functional, "optim": optim, "a": a, "b": b, "x": ts.tensor(a),
            "y": ts.tensor(b), "q": ts.ones((1, 2, 4)), "p": ts.tensor(a, requires_grad=True),
            "ids": ts.tensor([1, 0]), "mask": ts.tensor(a > 1), "model": model, "params": model.parameters(),
            "optimizer": optim.AdamW(model.parameters()), "axis": 0, "vocabulary": ts.data.Vocabulary("abc"),
            "decoder": Count(), "state": ts.zeros(1), "hypothesis": ts.decode.Hypothesis([4], None, -0.5)}


def test_at_least_as_many_as_were_tried_are_typed() -> None:
    assert len(OTHERWISE) > 400 and len(WORK.split()) > 150 and len(OTHERWISE) == len({*OTHERWISE})


@pytest.mark.parametrize("row", WORK.split())
def test_what_works_gives_what_is_expected(row: str) -> None:
    typed, _, expected = row.rpartition("~") if not row.startswith("~") else ("~mask", "", "a<=1")
    got, wanted = (eval(text, world()) for text in (typed, expected))
    if isinstance(got, (Tensor, np.ndarray, list)):
        np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), rtol=1e-5)
    elif isinstance(got, dict):
        assert [*got] == [*wanted]
    else:
        assert got == wanted


@pytest.mark.parametrize("typed", OTHERWISE)
def test_what_has_another_name_says_which(typed: str) -> None:
    with pytest.raises((AttributeError, TypeError), match=r"write |not here|no argument|no operation") as raised:
        eval(typed, world())
    if "no argument" in str(raised.value):
        assert "it takes" in str(raised.value)


# --- the table -------------------------------------------------------------------------------------------------------

TABLE = [(place, name, code, remark) for place, table in names.NAMES.items()
         for given, code, remark in names.rows(table) for name in given]


def owners(place: str) -> list[Any]:
    """What the names of a table are asked of."""
    return [eval(owner, world()) for owner in ({"tensors": ["ts", "x"], "module": ["model"]}.get(place) or [place])]


def test_every_name_of_the_table_is_missing_and_told() -> None:
    assert len(TABLE) > 450
    for place, name, code, remark in TABLE:
        for owner in owners(place):
            assert not hasattr(owner, name), f"{place}: {name} is there"
            with pytest.raises(AttributeError) as raised:
                getattr(owner, name)
            assert code in str(raised.value) and remark in str(raised.value) and (code or remark), name
    for places in (["ts", "tensors"], ["x", "tensors"], *([place] for place in names.NAMES)):
        told = [name for place, name, *_ in TABLE if place in places]
        assert sorted({name for name in told if told.count(name) > 1}) == [], places


@pytest.mark.parametrize("code", sorted({code for *_, code, _ in TABLE if code}))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_the_table_says_to_write_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ts.checkpoint.save("run.safetensors", {"w": ts.ones(2)})
    with np.printoptions():  # which one of them sets
        eval(code.replace("cupy", "numpy"), world())
    ts.use_backend("numpy")


def test_what_the_table_says_of_arguments_is_there() -> None:
    """Each of our names for an argument is that of some function, and another's is no name of the function's own."""
    modules = [ts, functional, ts.random, nn.init, nn, optim, Tensor, nn.GRU, nn.GRUCell]
    kinds = [f for module in modules for f in vars(module).values() if callable(f) and
             getattr(f, "__module__", "").startswith("tinyseq")]
    taken = set(chain.from_iterable(inspect.signature(f).parameters for f in kinds))
    for given, ours, remark in names.rows(names.ARGUMENTS):
        assert ours or remark
        assert {*ours.split()} - {"0", "1"} <= taken, given


def public_functions() -> dict[str, Any]:
    modules = {"ts": ts, "F": functional, "ts.random": ts.random, "nn.init": nn.init, "x": Tensor}
    return {f"{place}.{name}": f for place, module in modules.items() for name, f in vars(module).items()
            if inspect.isfunction(f) and not name.startswith("_") and f.__module__.startswith("tinyseq")}


@pytest.mark.parametrize("place", public_functions())
def test_an_unknown_argument_is_told_with_what_there_is(place: str) -> None:
    """Of every function, also where arguments that it needs are missing."""
    f = public_functions()[place]
    takes = [name for name in inspect.signature(f).parameters if name != "self"]
    if not takes or place in ("x.reshape", "x.permute_dims", "ts.recompute"):  # which hand them on
        return
    with pytest.raises(TypeError) as raised:
        f(**{"colour": 1})
    lack = [name for name in takes if name not in str(raised.value)]
    plain = "got an unexpected keyword argument 'colour'" in str(raised.value)  # Python's, of what makes no Tensor
    assert (not lack and "no argument 'colour'" in str(raised.value)) or (plain and "x." not in place), raised.value


@pytest.mark.parametrize("typed, meant", [
    ("x.repeat(2, 1)", "write x.tile((2, 1))"), ("ts.repeat(x, 2, 1)", "write x.tile((2, 1))"),
    ("x.tile(2, 1)", "write x.tile((2, 1))"), ("x.flip(0, 1)", "write x.flip((0, 1))"),
    ("ts.zeros(2, 3)", "write zeros((2, 3))"), ("ts.ones(2, 3, 4)", "write ones((2, 3, 4))"),
    ("ts.random.normal(2, 3)", "write normal((2, 3))"), ("ts.random.uniform(2, 3)", "write uniform((2, 3))"),
    ("repr(ts.Tensor([1, 2]))", "ts.tensor makes one"), ("ts.Tensor(2, 3)", "ts.tensor makes"),
    ('x.to("cuda")', "cuda is cupy"), ('model.to("cpu")', "cpu numpy"), ('ts.use_backend("cuda")', "cuda is cupy"),
    ("nn.GRU(3, 4)(x[None], hx=1)", "GRU.forward: no argument 'hx'; write h0=; it takes x, h0, lengths"),
    ("nn.LSTM(3, 4)(x[None], hx=1)", "; write state="), ("nn.GRUCell(3, 4)(x, hx=1)", "; write h="),
    ("nn.GRU(3, 4)(x[None], length=[2])", "; write lengths="), ("nn.GRU(3, 4)()", "lengths=None): missing 1 .* 'x'"),
    ("nn.GRU(3, 4)(x[None], [2])", "lengths are given by name, lengths="),
    ("nn.LSTM(3, 4)(x[None], ids[:1])", "lengths are given by name, lengths="),
    ("nn.LSTM(3, 4)(x[None], None, None, 1)", "LSTM.forward(x, state=None, lengths=None): too many"),
    ("nn.GRU(3, 4, num_layer=2)", "; write num_layers="), ("nn.Linear(3, out_feature=2)", "; write out_features="),
    ("optim.Adam(params, learning_rate=1)", "Adam: no argument 'learning_rate'; write lr="),
    ("optim.SGD(params, 1, nestrov=True)", "; write nesterov="), ("nn.ReLU(True)", "ReLU(): too many"),
    ("nn.LeakyReLU(0.2, inplace=True)", "LeakyReLU: no argument 'inplace'; no operation works in place; it takes neg"),
    ("nn.Dropout(0.1, inplace=True)", "no operation works in place"), ("nn.SiLU(inplace=True)", "in place; it takes n"),
    ("nn.Softmax(dim=1)", "Softmax: no argument 'dim'; write axis="), ("nn.Softplus(1, 20)", "Softplus(): too many"),
    ('ts.ones(2, device="cpu")', "its cpu numpy"), ("x.split(2, dim=0)", "write axis="),
    ("ts.random.categorical(x)", "expected probs to be probabilities from 0 to 1"),
    ("optimizer.zero_grad(set_to_none=True)", "a gradient that is forgotten is None; it takes nothing"),
])
def test_what_does_not_fit_a_call_says_what_to_write(typed: str, meant: str) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        eval(typed, world())
    assert re.search(re.escape(meant).replace(r"\.\*", ".*"), str(raised.value)), raised.value


def test_an_argument_that_a_layer_within_does_not_have_is_told_with_its_path() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            self.rnn = nn.GRU(3, 4)

        def forward(self, x: Any) -> Any:
            return self.rnn(x, hx=x)

    with pytest.raises(TypeError, match=r"^rnn: GRU.forward: no argument 'hx'; write h0=; it takes x, h0, lengths$"):
        Outer()(ts.ones((1, 2, 3)))
    with pytest.raises(TypeError, match=r"^Outer.forward: no argument 'y'; it takes x$"):
        Outer()(1, y=2)


def test_draws_from_probabilities_are_as_probable() -> None:
    p, draws = ts.tensor([0.1, 0.2, 0.7]).broadcast_to((20000, 3)), names.rows(names.NAMES["ts.random"])
    code = next(code for given, code, _ in draws if "multinomial" in given)
    ts.manual_seed(0)
    found = np.bincount(eval(code, world() | {"x": p.log()}).numpy(), minlength=3) / 20000
    np.testing.assert_allclose(found, [0.1, 0.2, 0.7], atol=0.02)


def section() -> str:
    """The page's section, from the table."""
    lines = ["## Names", "",
             "What has another name here, or is not here, says so where it is typed: `ts.cat` is an error that names",
             "`ts.concat`, and `x.sum(dim=1)` one that names `axis=`. The table is in `tinyseq/names.py`, from which",
             "`python3 tests/test_names.py` writes this section; the tests run its right side. x, y and q are Tensors,",
             "p a leaf that requires a gradient, ids integers, mask booleans, a a NumPy array."]
    shown = lambda given: ", ".join(f"`{name}`" for name in given)
    cell = lambda *parts: "; ".join(part for part in parts if part).replace("|", "\\|")
    for place, table in names.NAMES.items():
        lines += ["", f"| {TITLES[place]} | here |", "| --- | --- |"]
        lines += [f"| {shown(given)} | {cell(f'`{code}`' if code else '', remark)} |"
                  for given, code, remark in names.rows(table)]
    lines += ["", "| arguments | here |", "| --- | --- |"]
    places = {"0": "the first, by place", "1": "the second, by place"}
    for given, ours, remark in names.rows(names.ARGUMENTS):
        wanted = ", ".join(places.get(word, f"`{word}`") for word in ours.split())
        lines.append(f"| {shown(word for word in given if word not in ours.split())} | {cell(wanted, remark)} |")
    return "\n".join([*lines, ""])


def test_the_page_shows_the_table() -> None:
    page = PAGE.read_text("utf-8")
    assert page.count("\n## Names\n") == 1 and page.endswith("\n" + section())


# --- what else a missing name does -----------------------------------------------------------------------------------


def test_modules_come_when_they_are_asked_for() -> None:
    lazy = "checkpoint data decode distributed glance lens logs metrics models plot runs testing names".split()
    program = f"""
import sys, tinyseq as ts
print([name for name in {lazy} if f'tinyseq.{{name}}' in sys.modules], 'inspect' in dir(ts), 'difflib' in sys.modules)
assert {{*{lazy[:-1]}}} <= {{*dir(ts)}} and not {{'cat', 'ModuleList'}} & {{*dir(ts), *dir(ts.nn)}}
assert not hasattr(ts, 'cat') and not hasattr(ts.zeros(1), 'view') and 'tinyseq.names' in sys.modules
print(ts.data.pad.__name__, ts.checkpoint is sys.modules['tinyseq.checkpoint'], ts.nn.functional is ts.functional)
import tinyseq.nn.functional as F
from tinyseq.nn import functional
from tinyseq import plot
print(F is functional is ts.functional, len(ts.__version__) > 2)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[] False False", "pad True True", "True True"], done.stderr


def test_copies_and_pickles_are_as_they_were() -> None:
    for thing in (ts.tensor([1.0, 2.0]), nn.Parameter(ts.ones(2)), nn.Buffer(ts.ones(2))):
        for other in (copy.copy(thing), copy.deepcopy(thing), pickle.loads(pickle.dumps(thing))):
            assert type(other) is type(thing) and other.tolist() == thing.tolist()
    model = nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 3))
    for other in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [*other.state_dict()] == [*model.state_dict()]
    optimizer = optim.AdamW(model.parameters())
    assert copy.copy(optimizer).lr == optimizer.lr
    assert np.asarray([ts.ones(2), ts.ones(2)]).shape == (2, 2) and getattr(model, "cuda", None) is None


@pytest.mark.parametrize("call", [lambda: ts.cat, lambda: ts.ones(1).view, lambda: nn.Linear(1, 1).wieght])
def test_a_missing_name_is_an_attribute_error_like_any(call: Any) -> None:
    """In a traceback, and in another process, to which an error goes as a pickle."""
    with pytest.raises(AttributeError) as raised:
        call()
    said = "".join(traceback.format_exception_only(raised.value))
    assert said == f"AttributeError: {raised.value}\n" and repr(type(raised.value)) == "<class 'AttributeError'>"
    other = pickle.loads(pickle.dumps(raised.value))
    assert type(other) is AttributeError and str(other) == str(raised.value)
@pytest.mark.parametrize("line, meant", [
    ("from tinyseq.nn import ModuleList", "write [nn.Linear"), ("from tinyseq import randn", "ts.random.normal"),
    ("from tinyseq.data import DataLoader", "ts.data.items"), ("from tinyseq.nn import Linaer", "mean Linear?"),
    ("from tinyseq.decode import beam_search as search", "ts.decode.beam("),
    ("from tinyseq.optim import NAdam", "AdamW"), ("from tinyseq import engin", "tinyseq"),
])
def test_what_cannot_be_imported_says_what_to_write(line: str, meant: str) -> None:
    for before in ("", "".join(f"name{i} = {i}.0\n" for i in range(300))):  # so many names that their numbers are wide
        with pytest.raises(ImportError, match="cannot import name") as raised:
            exec(before + line, {})
        assert meant in str(raised.value)


def test_a_module_that_is_in_the_making_is_still_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tinyseq.nn.ModuleList", sys)
    found: dict[str, Any] = {}
    exec("from tinyseq.nn import ModuleList", found)
    assert found["ModuleList"] is sys


def test_modules_list_what_is_theirs_alone() -> None:
    """What tab completion shows: nothing that they use."""
    rooms = [nn, functional, nn.init, optim, ts.random, ts.data, ts.decode, ts.plot, ts.metrics, ts.testing, ts.lens,
             ts.models, ts.checkpoint, ts.glance, ts.logs, ts.runs, ts.distributed, ts.export]
    for room in [*rooms, optim.schedules]:
        assert dir(room) == sorted(room.__all__), room
    for room in (optim, nn.init):  # all that is theirs
        own = {name for name, x in vars(room).items() if getattr(x, "__module__", "").startswith(room.__name__)}
        public = {name for name in own if name.islower() or room is optim if name[0] != "_"}
        assert public == {*dir(room)} - {"schedules"}
    asked_for = {room.__name__.partition(".")[2] for room in rooms[5:]}
    assert {*dir(ts)} - {*ts.__all__} == {"__version__", "profile", "summary"} | asked_for


class Own(nn.Module):
    def __init__(self) -> None:
        self.embedding = nn.Embedding(3, 2)

    @property
    def width(self) -> Any:
        return self.embedding.widht

    @property
    def tail(self) -> Any:
        return self.taill


def test_a_propertys_error_is_its_own() -> None:
    for name, lacks in (("width", "'Embedding' object has no attribute 'widht'"), ("tail", "has no attribute 'taill'")):
        with pytest.raises(AttributeError, match=lacks):
            getattr(Own(), name)


@pytest.mark.parametrize("typed, meant", [
    ("ts.tnah", "tanh"), ("ts.chekpoint", "checkpoint"), ("x.reshap", "reshape"), ("x.smu", "sum"),
    ("nn.Linaer", "Linear"), ("F.sofmax", "softmax"), ("optim.AdmaW", "AdamW"), ("nn.init.zero_", "zeros_"),
    ("ts.random.unifrom", "uniform"), ("model.wieght", "weight"), ("model.paramters", "parameters"),
    ("optimizer.stpe", "step"), ("Own().embeding", "embedding"),
])
def test_what_is_misspelt_is_guessed(typed: str, meant: str) -> None:
    with pytest.raises(AttributeError) as raised:
        eval(typed, world() | {"Own": Own})
    assert str(raised.value).endswith(f"has no attribute {raised.value.name!r}: did you mean {meant}?")
    assert "Did you mean" not in "".join(traceback.format_exception(raised.value))  # said once


if __name__ == "__main__":
    before = PAGE.read_text("utf-8").partition("\n## Names\n")[0].rstrip("\n")
    PAGE.write_text(f"{before}\n\n{section()}", "utf-8")

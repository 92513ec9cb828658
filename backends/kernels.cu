// The kernels of the CuPy backend. cupy.py compiles this file for each type T, float and double, and writes above it:
//
//   typedef float T;
//   #define LOWEST the lowest finite T
//   #define MANY   the arrays that one launch of an optimizer takes
//   #define ROWS   of a batch in a block of a recurrent cell's kernel
//   #define WORDS  of a recorded step that one launch puts in their places
//
// Arrays are contiguous unless strides are given; a null pointer stands for an array that is not there. A number comes
// as I, U or double: `kernel` in cupy.py reads the parameters here. Row kernels run one block a row.

typedef long long I;
typedef unsigned long long U;
#define EVERYONE 0xffffffffu
#define NOT_A_NUMBER ((T)__int_as_float(0x7fffffff))
#define ELEMENT (blockIdx.x * (I)blockDim.x + threadIdx.x)
#define ROW(i) for (I i = threadIdx.x; i < n; i += blockDim.x)

template <bool MAX, class V> __device__ V join(V a, V b) { return MAX ? (a > b ? a : b) : a + b; }

template <bool MAX, class V> __device__ V over_warp(V v) {
  for (int o = 16; o > 0; o >>= 1) v = join<MAX>(v, __shfl_xor_sync(EVERYONE, v, o));
  return v;
}

// The sum or the maximum of v over a block, in every thread of it.
template <bool MAX, class V> __device__ V over_block(V v) {
  __shared__ V of_warp[32];
  v = over_warp<MAX>(v);
  if (blockDim.x == 32) return v;
  __syncthreads();                                  // an earlier call may still be reading
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
  __syncthreads();
  v = threadIdx.x % 32 < blockDim.x / 32 ? of_warp[threadIdx.x % 32] : MAX ? (V)LOWEST : (V)0;
  return over_warp<MAX>(v);
}

// ---- softmax and cross-entropy, a block a row of n

// The softmax, or its logarithm. `take`: a boolean array over the rows' indices (.., d1, d2) with strides s0, s1, s2,
// and s3 along a row.
extern "C" __global__ void tinyseq_softmax(const T* x, T* y, I n, I log_of, const bool* take, I d1, I d2,
                                           I s0, I s1, I s2, I s3) {
  const I r = blockIdx.x;
  x += r * n;
  y += r * n;
  if (take) take += r / d2 / d1 * s0 + r / d2 % d1 * s1 + r % d2 * s2;
  T top = (T)LOWEST, sum = 0;
  ROW(i) if (!take || take[i * s3]) top = join<true>(top, x[i]);
  top = over_block<true>(top);
  ROW(i) {
    const T e = !take || take[i * s3] ? exp(x[i] - top) : (T)0;
    if (!log_of) y[i] = e;
    sum += e;
  }
  sum = over_block<false>(sum);
  const T total = sum < 1 ? (T)1 : sum, log_total = log(total);  // an entry that takes part makes it 1 at least
  ROW(i) y[i] = log_of ? x[i] - top - log_total : y[i] / total;
}

extern "C" __global__ void tinyseq_softmax_backward(const T* g, const T* y, T* dx, I n, I log_of) {
  const I start = blockIdx.x * n;
  T sum = 0;
  ROW(i) sum += log_of ? g[start + i] : g[start + i] * y[start + i];
  sum = over_block<false>(sum);
  ROW(i) dx[start + i] = log_of ? g[start + i] - exp(y[start + i]) * sum : y[start + i] * (g[start + i] - sum);
}

// A target that is no class gives a NaN. `saved` (rows, 3): largest logit, sum of exponentials, sum of weights.
extern "C" __global__ void tinyseq_cross_entropy(const T* x, const I* targets, const T* weight, double smoothing,
                                                 I ignored, I n, T* losses, T* weights, T* saved) {
  const I r = blockIdx.x, t = targets[r];
  const T s = smoothing;
  x += r * n;
  if (t == ignored) {
    if (threadIdx.x == 0) losses[r] = weights[r] = 0;
    return;
  }
  T top = (T)LOWEST, sum = 0, spread = 0, along = 0;
  ROW(i) top = join<true>(top, x[i]);
  top = over_block<true>(top);
  ROW(i) {
    sum += exp(x[i] - top);
    const T w = weight ? weight[i] : (T)1;
    if (s) spread += w, along += w * (x[i] - top);
  }
  sum = over_block<false>(sum);
  if (s) spread = over_block<false>(spread), along = over_block<false>(along);
  if (threadIdx.x) return;
  const T w = t < 0 || t >= n ? NOT_A_NUMBER : weight ? weight[t] : (T)1, log_sum = log(sum < 1 ? (T)1 : sum);
  const T picked = t < 0 || t >= n ? NOT_A_NUMBER : x[t] - top;
  losses[r] = (1 - s) * w * (log_sum - picked) + (s ? s / n * (spread * log_sum - along) : (T)0);
  weights[r] = w;
  saved[3 * r] = top;
  saved[3 * r + 1] = sum < 1 ? (T)1 : sum;
  saved[3 * r + 2] = spread;
}

extern "C" __global__ void tinyseq_cross_entropy_backward(
    const T* g, const T* x, const I* targets, const T* weight, const T* weights, const T* saved, double smoothing,
    I ignored, I n, T* dx) {
  const I r = blockIdx.x, t = targets[r];
  const T s = smoothing, flat = t == ignored ? (T)0 : g[r] * s / n, hit = g[r] * weights[r] * (1 - s);
  const T scale = (hit + flat * saved[3 * r + 2]) / saved[3 * r + 1];
  ROW(i) {
    const T d = exp(x[r * n + i] - saved[3 * r]) * scale - (s ? flat * (weight ? weight[i] : (T)1) : (T)0);
    dx[r * n + i] = t == ignored ? (T)0 : i == t ? d - hit : d;
  }
}

// ---- attention of one query and no more, a block a head of a row of the batch: q and y (rows, width), weights (rows, n)

// k and v hold n vectors of each of fewer heads, every one of which serves `shared` heads of q; in them rows of the
// batch are kb and vb apart, heads kh and vh. `take` (batch, n) is True where a key takes part.
extern "C" __global__ void tinyseq_attend(const T* q, const T* k, const T* v, const bool* take, double scale,
                                          double cap, I heads, I shared, I n, I width, I kb, I kh, I vb, I vh, T* weights, T* y) {
  __shared__ T part[32][33];
  const I r = blockIdx.x, row = r / heads, head = r % heads / shared;
  const I lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  q += r * width, k += row * kb + head * kh, v += row * vb + head * vh, weights += r * n;
  if (take) take += row * n;
  for (I s = warp; s < n; s += warps) {             // a warp a key
    T sum = 0;
    for (I d = lane; d < width; d += 32) sum += q[d] * (T)scale * k[s * width + d];
    sum = over_warp<false>(sum);
    if (lane == 0) weights[s] = cap ? (T)cap * tanh(sum / (T)cap) : sum;
  }
  __syncthreads();
  T top = (T)LOWEST, sum = 0;
  ROW(i) if (!take || take[i]) top = join<true>(top, weights[i]);
  top = over_block<true>(top);
  ROW(i) sum += weights[i] = !take || take[i] ? exp(weights[i] - top) : (T)0;
  sum = over_block<false>(sum);
  ROW(i) weights[i] /= sum < 1 ? (T)1 : sum;        // an entry that takes part makes it 1 at least
  for (I start = 0; start < width; start += 32) {   // a warp some of the keys, 32 features at a time
    const I d = start + lane;
    T sum = 0;
    __syncthreads();
    if (d < width) for (I s = warp; s < n; s += warps) sum += weights[s] * v[s * width + d];
    part[warp][lane] = sum;
    __syncthreads();
    if (warp) continue;
    for (I w = 1; w < warps; w++) sum += part[w][lane];
    if (d < width) y[r * width + d] = sum;
  }
}

// ---- layer norm, a block a row of n; `moments` (rows, 2): the mean, and 1 over the standard deviation

// Not `centred` the mean counts as 0: RMS norm.
extern "C" __global__ void tinyseq_layer_norm(const T* x, const T* weight, const T* bias, double eps, I centred, I n,
                                              T* y, T* moments) {
  const I r = blockIdx.x;
  x += r * n;
  T sum = 0, squares = 0;
  if (centred) ROW(i) sum += x[i] - x[0];           // so that the mean of one value is exactly that
  const T mean = centred ? x[0] + over_block<false>(sum) / n : (T)0;
  ROW(i) squares += (x[i] - mean) * (x[i] - mean);
  const T scale = 1 / sqrt(over_block<false>(squares) / n + (T)eps);
  ROW(i) y[r * n + i] = (x[i] - mean) * scale * (weight ? weight[i] : (T)1) + (bias ? bias[i] : (T)0);
  if (threadIdx.x == 0) moments[2 * r] = mean, moments[2 * r + 1] = scale;
}

extern "C" __global__ void tinyseq_layer_norm_backward(const T* g, const T* x, const T* weight, const T* moments,
                                                       I centred, I n, T* dx) {
  const I r = blockIdx.x;
  const T mean = moments[2 * r], scale = moments[2 * r + 1];
  x += r * n;
  g += r * n;
  T sum = 0, along = 0;
  ROW(i) {
    const T d = g[i] * (weight ? weight[i] : (T)1);
    sum += d;
    along += d * (x[i] - mean) * scale;
  }
  sum = centred ? over_block<false>(sum) / n : (T)0;
  along = over_block<false>(along) / n;
  ROW(i) dx[r * n + i] = (g[i] * (weight ? weight[i] : (T)1) - sum - (x[i] - mean) * scale * along) * scale;
}

// Sums of g n and of g over stretches of rows: `sums` (2, stretches, n). Blocks of 32 columns by 8 rows.
extern "C" __global__ void tinyseq_layer_norm_columns(const T* g, const T* x, const T* moments, I rows, I n,
                                                      I stretch, T* sums) {
  __shared__ double part[2][8][32];                 // of many rows, one after another
  const I column = blockIdx.x * 32 + threadIdx.x, first = blockIdx.y * stretch;
  double weight = 0, bias = 0;
  for (I r = first + threadIdx.y; column < n && r < rows && r < first + stretch; r += 8) {
    const T d = g[r * n + column];
    weight += d * (x[r * n + column] - moments[2 * r]) * moments[2 * r + 1];
    bias += d;
  }
  part[0][threadIdx.y][threadIdx.x] = weight;
  part[1][threadIdx.y][threadIdx.x] = bias;
  __syncthreads();
  if (threadIdx.y > 1 || column >= n) return;
  double sum = 0;
  for (int k = 0; k < 8; k++) sum += part[threadIdx.y][k][threadIdx.x];
  sums[(threadIdx.y * (I)gridDim.y + blockIdx.y) * n + column] = sum;
}

// ---- elementwise

__device__ T logistic(T x) {
  const T e = exp(x < 0 ? x : -x);
  return (x < 0 ? e : (T)1) / (1 + e);
}

extern "C" __global__ void tinyseq_erf(const T* x, T* y, I n) { if (ELEMENT < n) y[ELEMENT] = erf(x[ELEMENT]); }

extern "C" __global__ void tinyseq_sigmoid(const T* x, T* y, I n) {
  if (ELEMENT < n) y[ELEMENT] = logistic(x[ELEMENT]);
}

// The normal distribution function, and its approximation by tanh
__device__ T normal(T x, I approximate) {
  const T u = approximate ? tanh(x * (T)0.7978845608028654 * (1 + (T)0.044715 * x * x))
                          : erf(x * (T)0.7071067811865476);
  return (T)0.5 * (1 + u);
}

// Beyond +-100 the function is 0 or 1 and its slope 0, and -inf times 0 must be 0.
extern "C" __global__ void tinyseq_gelu(const T* x, T* y, I n, I approximate) {
  if (ELEMENT >= n) return;
  const T v = x[ELEMENT] < -100 ? (T)-100 : x[ELEMENT];
  y[ELEMENT] = v * normal(v, approximate);
}

extern "C" __global__ void tinyseq_gelu_backward(const T* x, T* dx, I n, const T* g, I approximate) {
  if (ELEMENT >= n) return;
  const T v = x[ELEMENT] < -100 ? (T)-100 : x[ELEMENT] > 100 ? (T)100 : x[ELEMENT], phi = normal(v, approximate);
  const T slope = approximate ? phi * (1 - phi) * (T)1.5957691216057308 * (1 + (T)0.134145 * v * v)
                              : exp(v * v * (T)-0.5) * (T)0.3989422804014327;
  dx[ELEMENT] = g[ELEMENT] * (phi + v * slope);
}

// ---- products of few vectors: y (rows, outs) = x (rows, n) times w (outs, n) and bias, a warp an output of 8 rows

// x is normalised first where `norm` is 1 (RMS norm) or 2 (layer norm), by gain and shift. Of the output a function is
// taken, 1: ReLU, 2: GELU by tanh, 3: SiLU; then `more` (rows, outs) is added.
extern "C" __global__ void tinyseq_linear_few(const T* x, const T* w, const T* bias, T* y, I rows, I n, I outs, I norm,
                                              double eps, const T* gain, const T* shift, I act, const T* more) {
  const I o = blockIdx.x * (I)8 + threadIdx.y, first = blockIdx.y * (I)8;
  T sum[8] = {}, mean[8] = {}, scale[8] = {1, 1, 1, 1, 1, 1, 1, 1};
  for (int r = 0; norm && r < 8 && first + r < rows; r++) {
    const T* const v = x + (first + r) * n;
    T all = 0, squares = 0;
    if (norm == 2) for (I i = threadIdx.x; i < n; i += 32) all += v[i] - v[0];
    if (norm == 2) mean[r] = v[0] + over_warp<false>(all) / n;
    for (I i = threadIdx.x; i < n; i += 32) squares += (v[i] - mean[r]) * (v[i] - mean[r]);
    scale[r] = 1 / sqrt(over_warp<false>(squares) / n + (T)eps);
  }
  for (I i = threadIdx.x; o < outs && i < n; i += 32) {
    const T a = gain ? gain[i] : (T)1, b = shift ? shift[i] : (T)0;
    for (int r = 0; r < 8 && first + r < rows; r++)
      sum[r] += w[o * n + i] * ((x[(first + r) * n + i] - mean[r]) * scale[r] * a + b);
  }
  for (int r = 0; o < outs && r < 8 && first + r < rows; r++) {
    const I at = (first + r) * outs + o;
    const T v = over_warp<false>(sum[r]) + (bias ? bias[o] : (T)0);
    if (threadIdx.x == 0) y[at] = (act == 1 ? (v < 0 ? (T)0 : v) : act == 2 ? v * normal(v < -100 ? (T)-100 : v, 1)
                                   : act == 3 ? v * logistic(v) : v) + (more ? more[at] : (T)0);
  }
}

// ---- random numbers: Philox4x64-10 (Salmon et al. 2011), key (seed, 0), counter (block + 1, 0, stream, 0)

// `there`, if it is not null, has the two of this time: of a step that was recorded (see captured.py).
struct Draw { U seed, stream; const U* there; };

__device__ void philox(const Draw& d, U block, U* c) {
  U k0 = d.there ? d.there[0] : d.seed, k1 = 0;
  c[0] = block + 1, c[1] = 0, c[2] = d.there ? d.there[1] : d.stream, c[3] = 0;
  for (int round = 0; round < 10; round++) {
    const U m0 = 0xD2E7470EE14C6C93ull, m1 = 0xCA5A826395121157ull;
    const U high0 = __umul64hi(m0, c[0]), low0 = m0 * c[0], high1 = __umul64hi(m1, c[2]), low1 = m1 * c[2];
    c[0] = high1 ^ c[1] ^ k0, c[1] = low1, c[2] = high0 ^ c[3] ^ k1, c[3] = low0;
    k0 += 0x9E3779B97F4A7C15ull, k1 += 0xBB67AE8584CAA73Bull;
  }
}

extern "C" __global__ void tinyseq_philox(Draw draw, U skip, U* y, I n) {
  U c[4];
  philox(draw, skip + ELEMENT, c);
  for (int k = 0; k < 4; k++) if (4 * ELEMENT + k < n) y[4 * ELEMENT + k] = c[k];
}

extern "C" __global__ void tinyseq_dropout_mask(Draw draw, U skip, I threshold, bool* keep, I n) {
  U c[4];
  philox(draw, skip + ELEMENT, c);
  for (int k = 0; k < 8; k++)
    if (8 * ELEMENT + k < n) keep[8 * ELEMENT + k] = (I)(c[k / 2] >> 32 * (k % 2) & EVERYONE) >= threshold;
}

// y = x where that is kept, times `scale`: eight numbers a thread, which are eight draws of 32 bits.
extern "C" __global__ void tinyseq_dropout(Draw draw, I threshold, double scale, const T* x, T* y, I n) {
  U c[4];
  philox(draw, ELEMENT, c);
  for (I k = 0, i = 8 * ELEMENT; k < 8 && i < n; k++, i++)
    y[i] = x[i] * ((I)(c[k / 2] >> 32 * (k % 2) & EVERYONE) >= threshold ? (T)scale : (T)0);
}

// ---- attention, 32 queries by 32 keys at a time: a block has 32 lanes by 8 warps of 4 rows

// Query (.., t, d), key (.., s, d) and value (.., s, e) with three leading axes (.., d1, d2), the strides of these and of
// the rows of each, and of `take`, True where a key takes part. A weight is kept where 32 random bits reach `threshold`.
struct Attending {
  I t, s, d, e, d1, d2, causal, threshold;
  Draw draw;
  double scale, kept;
  I q[4], k[4], v[4], y[4], g[4], dq[4], dk[4], dv[4], take[5];
};
#define HEAD(of) (head / a.d2 / a.d1 * a.of[0] + head / a.d2 % a.d1 * a.of[1] + head % a.d2 * a.of[2])
#define WIDEST 4                                    // times 32: a thread has a sum for each 32 features of its 4 rows
#define FOUR(r) for (int r = 0; r < 4; r++)
#define PUT(tile, from, step, rows, column, width) FOUR(r) tile[4 * threadIdx.y + r][threadIdx.x] = \
    4 * threadIdx.y + r < (rows) && (column) < (width) ? from[(4 * threadIdx.y + r) * (step) + (column)] : (T)0

typedef T Tile[32][33];

// e[r]: the product of row 4 warp + r of x with row `lane` of z; from rows n and m on they count as 0.
__device__ void products(const T* x, I x_step, I n, const T* z, I z_step, I m, I width, Tile& left, Tile& right, T* e) {
  FOUR(r) e[r] = 0;
  for (I d = threadIdx.x; d - threadIdx.x < width; d += 32) {
    __syncthreads();                                // an earlier tile may still be read
    PUT(left, x, x_step, n, d, width);
    PUT(right, z, z_step, m, d, width);
    __syncthreads();
    for (int i = 0; i < 32; i++) FOUR(r) e[r] += left[4 * threadIdx.y + r][i] * right[threadIdx.x][i];
  }
}

// sum[r][c] += what the lanes have in w[r], each times entry 32 c + lane of its row of z.
__device__ void gather(const T* w, const T* z, I step, I m, I width, Tile& right, T (*sum)[WIDEST]) {
  _Pragma("unroll") for (int c = 0; c < WIDEST; c++) if (32 * c < width) {
    const I d = 32 * c + threadIdx.x;
    __syncthreads();
    PUT(right, z, step, m, d, width);
    __syncthreads();
    for (int i = 0; i < 32; i++) FOUR(r) sum[r][c] += __shfl_sync(EVERYONE, w[r], i) * right[i][threadIdx.x];
  }
}

__device__ void spread(T* y, I step, I n, I width, const T (*sum)[WIDEST], const T* factor) {
  for (int c = 0; c < WIDEST; c++) FOUR(r)
    if (4 * threadIdx.y + r < n && 32 * c + threadIdx.x < width)
      y[(4 * threadIdx.y + r) * step + 32 * c + threadIdx.x] = sum[r][c] * factor[r];
}

__device__ bool takes(const Attending& a, const bool* take, I head, I t, I s) {
  return t < a.t && s < a.s && (!a.causal || s <= a.s - a.t + t)
      && (!take || take[HEAD(take) + t * a.take[3] + s * a.take[4]]);
}

// What dropout multiplies the weight of key s by.
__device__ T kept(const Attending& a, I head, I t, I s) {
  if (!a.threshold) return 1;
  const I n = (head * a.t + t) * a.s + s;
  U c[4];
  philox(a.draw, n / 8, c);
  return (I)(c[n % 8 / 2] >> 32 * (n % 2) & EVERYONE) >= a.threshold ? (T)(1 / a.kept) : (T)0;
}

// By a running maximum and sum (Milakov & Gimelshein 2018); sizes (heads, t): the logarithm of each query's sum.
extern "C" __global__ void tinyseq_attention(const T* q, const T* k, const T* v, const bool* take, Attending a, T* y,
                                             T* sizes) {
  __shared__ Tile left, right;
  const I head = blockIdx.x, first = blockIdx.y * (I)32, row = first + 4 * threadIdx.y;
  const I seen = a.causal && a.s - a.t + first + 32 < a.s ? a.s - a.t + first + 32 : a.s;
  q += HEAD(q) + first * a.q[3], k += HEAD(k), v += HEAD(v), y += HEAD(y) + first * a.y[3];
  T top[4], total[4] = {}, sum[4][WIDEST] = {}, e[4];
  FOUR(r) top[r] = (T)LOWEST;
  for (I start = 0; start < seen; start += 32) {
    products(q, a.q[3], a.t - first, k + start * a.k[3], a.k[3], a.s - start, a.d, left, right, e);
    FOUR(r) {
      const bool real = takes(a, take, head, row + r, start + threadIdx.x);
      T high = real ? e[r] * (T)a.scale : (T)LOWEST, now = high;
      high = join<true>(over_warp<true>(high), top[r]);
      const T fade = exp(top[r] - high);
      now = real ? exp(now - high) : (T)0;
      total[r] = total[r] * fade + over_warp<false>(now), top[r] = high;
      for (int c = 0; c < WIDEST; c++) sum[r][c] *= fade;
      e[r] = real ? now * kept(a, head, row + r, start + threadIdx.x) : (T)0;
    }
    gather(e, v + start * a.v[3], a.v[3], a.s - start, a.e, right, sum);
  }
  FOUR(r) {
    total[r] = total[r] > 0 ? total[r] : (T)1, e[r] = 1 / total[r];
    if (row + r < a.t && threadIdx.x == 0) sizes[head * a.t + row + r] = log(total[r]) + top[r];
  }
  spread(y, a.y[3], a.t - first, a.e, sum, e);
}

// dq, and along (heads, t): the sums of g y. With weights p = exp(scores - sizes) and d = g v^T, the gradient of the
// scores is p (d - along), that of q its product with k.
extern "C" __global__ void tinyseq_attention_of_query(const T* q, const T* k, const T* v, const bool* take, Attending a,
                                                      const T* g, const T* y, const T* sizes, T* along, T* dq) {
  __shared__ Tile left, right;
  const I head = blockIdx.x, first = blockIdx.y * (I)32, row = first + 4 * threadIdx.y;
  const I seen = a.causal && a.s - a.t + first + 32 < a.s ? a.s - a.t + first + 32 : a.s;
  g += HEAD(g) + first * a.g[3], y += HEAD(y) + first * a.y[3];
  q += HEAD(q) + first * a.q[3], k += HEAD(k), v += HEAD(v), dq += HEAD(dq) + first * a.dq[3];
  T e[4], d[4], gy[4] = {}, factor[4], sum[4][WIDEST] = {};
  FOUR(r) {
    const I i = 4 * threadIdx.y + r;
    for (I c = threadIdx.x; row + r < a.t && c < a.e; c += 32) gy[r] += g[i * a.g[3] + c] * y[i * a.y[3] + c];
    gy[r] = over_warp<false>(gy[r]);
    if (row + r < a.t && threadIdx.x == 0) along[head * a.t + row + r] = gy[r];
    factor[r] = a.scale;
  }
  for (I start = 0; start < seen; start += 32) {
    products(q, a.q[3], a.t - first, k + start * a.k[3], a.k[3], a.s - start, a.d, left, right, e);
    products(g, a.g[3], a.t - first, v + start * a.v[3], a.v[3], a.s - start, a.e, left, right, d);
    FOUR(r) {
      const I s = start + threadIdx.x;
      e[r] = !takes(a, take, head, row + r, s) ? (T)0 : exp(e[r] * (T)a.scale - sizes[head * a.t + row + r])
          * (d[r] * kept(a, head, row + r, s) - gy[r]);
    }
    gather(e, k + start * a.k[3], a.k[3], a.s - start, a.d, right, sum);
  }
  spread(dq, a.dq[3], a.t - first, a.d, sum, factor);
}

// dk and dv: a warp has 4 keys, a lane is a query.
extern "C" __global__ void tinyseq_attention_of_keys(const T* q, const T* k, const T* v, const bool* take, Attending a,
                                                     const T* g, const T* sizes, const T* along, T* dk, T* dv) {
  __shared__ Tile left, right;
  const I head = blockIdx.x, first = blockIdx.y * (I)32, row = first + 4 * threadIdx.y;
  const I behind = first - (a.s - a.t);             // the first query that sees these keys, if they are causal
  g += HEAD(g), q += HEAD(q), k += HEAD(k) + first * a.k[3], v += HEAD(v) + first * a.v[3];
  T e[4], d[4], factor[4], one[4], of_k[4][WIDEST] = {}, of_v[4][WIDEST] = {};
  FOUR(r) factor[r] = a.scale, one[r] = 1;
  for (I start = a.causal && behind > 0 ? behind / 32 * 32 : 0; start < a.t; start += 32) {
    products(k, a.k[3], a.s - first, q + start * a.q[3], a.q[3], a.t - start, a.d, left, right, e);
    products(v, a.v[3], a.s - first, g + start * a.g[3], a.g[3], a.t - start, a.e, left, right, d);
    FOUR(r) {
      const I t = start + threadIdx.x;
      const bool real = takes(a, take, head, t, row + r);
      const T p = real ? exp(e[r] * (T)a.scale - sizes[head * a.t + t]) : (T)0;
      const T keep = real ? kept(a, head, t, row + r) : (T)0;
      e[r] = real ? p * (d[r] * keep - along[head * a.t + t]) : (T)0, d[r] = p * keep;
    }
    gather(e, q + start * a.q[3], a.q[3], a.t - start, a.d, right, of_k);
    gather(d, g + start * a.g[3], a.g[3], a.t - start, a.e, right, of_v);
  }
  spread(dk + HEAD(dk) + first * a.dk[3], a.dk[3], a.s - first, a.d, of_k, factor);
  spread(dv + HEAD(dv) + first * a.dv[3], a.dv[3], a.s - first, a.e, of_v, one);
}

// ---- embedding: rows of a (height, width) table

// An id that is no row gives NaN.
extern "C" __global__ void tinyseq_rows(const T* table, const I* ids, T* y, I n, I height, I width) {
  if (ELEMENT >= n * width) return;
  const I id = ids[ELEMENT / width];
  y[ELEMENT] = id < 0 || id >= height ? NOT_A_NUMBER : table[id * width + ELEMENT % width];
}

// y = the rows of g (n, width) summed by id, in their order. A warp looks for one id and sums 128 columns; 8 warps
// share a tile of ids. The row `skipped` is 0.
extern "C" __global__ void tinyseq_add_rows(const T* g, const I* ids, T* y, I n, I height, I width, I skipped) {
  __shared__ I tile[1024];
  const I row = blockIdx.x * (I)8 + threadIdx.y, first = blockIdx.y * (I)128 + threadIdx.x;
  double sum[4] = {0, 0, 0, 0};                     // of many rows, one after another
  for (I start = 0; start < n; start += 1024) {
    const I size = n - start < 1024 ? n - start : 1024;
    for (I i = threadIdx.y * 32 + threadIdx.x; i < 1024; i += 256) tile[i] = i < size ? ids[start + i] : -1;
    __syncthreads();
    for (I i = 0; i < size; i += 32) {
      unsigned found = __ballot_sync(EVERYONE, tile[i + threadIdx.x] == row && row != skipped);
      for (; found; found &= found - 1) {
        const T* from = g + (start + i + __ffs(found) - 1) * width;
        for (int k = 0; k < 4; k++) if (first + 32 * k < width) sum[k] += from[first + 32 * k];
      }
    }
    __syncthreads();
  }
  for (int k = 0; k < 4; k++)
    if (row < height && first + 32 * k < width) y[row * width + first + 32 * k] = sum[k];
}

// The same for many ids, rows or columns: `keys` are id n + place, sorted; the id `height` is no row; y is 0 before.
extern "C" __global__ void tinyseq_add_sorted(const T* g, const I* keys, T* y, I n, I height, I width) {
  I i = ELEMENT / width, column = ELEMENT % width;
  if (i >= n) return;
  const I id = keys[i] / n;
  if (id == height || (i > 0 && keys[i - 1] / n == id)) return;  // the first of a stretch sums it
  double sum = 0;
  for (; i < n && keys[i] / n == id; i++) sum += g[keys[i] % n * width + column];
  y[id * width + column] = sum;
}

// ---- optimizer steps on up to MANY arrays at once, blockIdx.y says which

struct Arrays { T* p[MANY]; T* g[MANY]; T* m[MANY]; T* v[MANY]; T* b[MANY]; I n[MANY]; };
#define EACH(i) for (I i = ELEMENT; i < all.n[blockIdx.y]; i += gridDim.x * (I)blockDim.x)
#define OF(name) all.name[blockIdx.y][i]

// What a step is told: as it is given or, of a step that was recorded, as it is this time.
struct Numbers { double given[8]; const double* there;
  __device__ double operator[](int i) const { return there ? there[i] : given[i]; } };
struct Words { U w[WORDS]; };
extern "C" __global__ void tinyseq_put(Words all, U* there) { if (ELEMENT < WORDS) there[ELEMENT] = all.w[ELEMENT]; }

extern "C" __global__ void tinyseq_sgd(Arrays all, Numbers a) {
  const double rate = a[0], momentum = a[1], nesterov = a[2], decay = a[3];
  EACH(i) {
    const T g = OF(g) + (T)decay * OF(p);
    T d = g;
    if (momentum) {
      d = OF(m) = (T)momentum * OF(m) + g;
      if (nesterov) d = g + (T)momentum * d;
    }
    OF(p) -= (T)rate * d;
  }
}

extern "C" __global__ void tinyseq_adam(Arrays all, Numbers a) {
  const double rate = a[0], beta1 = a[1], beta2 = a[2], eps = a[3], decay = a[4], shrink = a[5];
  EACH(i) {
    const T p = OF(p) * (T)shrink, g = OF(g) + (T)decay * p;
    const T m = OF(m) = OF(m) * (T)beta1 + (T)(1 - beta1) * g;
    const T v = OF(v) = OF(v) * (T)beta2 + (T)(1 - beta2) * g * g;
    OF(p) = p - (T)rate * (m / (sqrt(v) + (T)eps));
  }
}

extern "C" __global__ void tinyseq_rmsprop(Arrays all, Numbers a) {
  const double rate = a[0], alpha = a[1], eps = a[2], decay = a[3], momentum = a[4], centred = a[5], moving = a[6];
  EACH(i) {
    const T g = OF(g) + (T)decay * OF(p), s = OF(m) = OF(m) * (T)alpha + (T)(1 - alpha) * g * g;
    const T mean = centred ? OF(v) = OF(v) * (T)alpha + (T)(1 - alpha) * g : (T)0, left = s - mean * mean;
    T u = g / (sqrt(left < 0 ? (T)0 : left) + (T)eps);
    if (moving) u = OF(b) = (T)momentum * OF(b) + u;
    OF(p) -= (T)rate * u;
  }
}

extern "C" __global__ void tinyseq_lion(Arrays all, Numbers a) {
  const double rate = a[0], beta1 = a[1], beta2 = a[2], shrink = a[3];
  EACH(i) {
    const T g = OF(g), m = OF(m), c = m * (T)beta1 + g * (T)(1 - beta1);
    OF(p) = OF(p) * (T)shrink - (T)rate * (c > 0 ? (T)1 : c < 0 ? (T)-1 : c);
    OF(m) = m * (T)beta2 + g * (T)(1 - beta2);
  }
}

// Adafactor. Of (.., height, width) m has means of g^2 along rows, v along columns; of what has no height m has g^2.
struct Sizes { int height[MANY], width[MANY]; };
#define SIZES const I n = all.n[blockIdx.y], high = sizes.height[blockIdx.y], wide = sizes.width[blockIdx.y]; \
    T *const g = all.g[blockIdx.y], *const rows = all.m[blockIdx.y], *const columns = all.v[blockIdx.y];

// to[k] += (the mean of g[at(k, i)]^2 over i < n, less to[k]) share: a warp for each of `count`, 32 beside each other
template <class At> __device__ void means(const T* g, T* to, I count, I n, T share, At at) {
  for (I k = blockIdx.x * (I)32 + threadIdx.y; k < count; k += gridDim.x * (I)32) {
    double sum = 0;
    for (I i = threadIdx.x; i < n; i += 32) sum += (double)g[at(k, i)] * g[at(k, i)];
    sum = over_warp<false>(sum);
    if (threadIdx.x == 0) to[k] += ((T)(sum / n) - to[k]) * share;
  }
}

extern "C" __global__ void tinyseq_adafactor_means(Arrays all, Numbers a, Sizes sizes) {
  SIZES
  if (!n) return;
  if (high) means(g, columns, n / high, high, a[0], [=](I k, I i) { return (k / wide * high + i) * wide + k % wide; });
  means(g, rows, high ? n / wide : n, high ? wide : 1, a[0], [=](I k, I i) { return high ? k * wide + i : k; });
}

// each(i, u) for the entries of this thread, u = g / sqrt(rows columns / the mean of rows)
template <class Each> __device__ void updates(const Arrays& all, const Sizes& sizes, T least, Each each) {
  SIZES
  for (I start = 0, area = high ? high * wide : n; start < n; start += area) {
    double sum = 0;
    for (I r = threadIdx.x; r < high; r += blockDim.x) sum += rows[start / wide + r];
    const T of_rows = high ? (T)(over_block<false>(sum) / high) : (T)1, mean = of_rows < least ? least : of_rows;
    for (I i = ELEMENT; i < area; i += gridDim.x * (I)blockDim.x) {
      const T root = sqrt(high ? rows[(start + i) / wide] / mean * columns[start / high + i % wide] : rows[i]);
      each(start + i, g[start + i] / (root < least ? least : root));
    }
  }
}

// The sums of u^2 and of p^2 of each block: `sums` (arrays, blocks, 2).
extern "C" __global__ void tinyseq_adafactor_sums(Arrays all, Numbers a, Sizes sizes, double* sums) {
  double of_u = 0, of_p = 0;
  updates(all, sizes, a[1], [&](I i, T u) {
    of_u += (double)u * u, of_p += (double)all.p[blockIdx.y][i] * all.p[blockIdx.y][i];
  });
  of_u = over_block<false>(of_u), of_p = over_block<false>(of_p), sums += 2 * (blockIdx.y * (I)gridDim.x + blockIdx.x);
  if (threadIdx.x == 0) sums[0] = of_u, sums[1] = of_p;
}

extern "C" __global__ void tinyseq_adafactor(Arrays all, Numbers a, Sizes sizes, const double* sums) {
  double of_u = 0, of_p = 0;
  sums += 2 * blockIdx.y * (I)gridDim.x;
  for (I k = threadIdx.x; k < gridDim.x; k += blockDim.x) of_u += sums[2 * k], of_p += sums[2 * k + 1];
  of_u = sqrt(over_block<false>(of_u) / all.n[blockIdx.y]) / a[4];
  of_p = sqrt(over_block<false>(of_p) / all.n[blockIdx.y]);
  const double size = (of_p < a[2] ? a[2] : of_p) * a[3], shrink = a[5];
  const T rate = size / (of_u < 1 ? 1.0 : of_u);
  updates(all, sizes, a[1], [&](I i, T u) { all.p[blockIdx.y][i] = all.p[blockIdx.y][i] * (T)shrink - rate * u; });
}

extern "C" __global__ void tinyseq_scale(Arrays all, const T* factor) { EACH(i) OF(p) *= *factor; }

extern "C" __global__ void tinyseq_copy(Arrays all) { EACH(i) OF(p) = OF(g); }

// In double, where the squares of large floats have room.
extern "C" __global__ void tinyseq_squares(Arrays all, double* sums) {
  double sum = 0;
  EACH(i) sum += (double)OF(p) * OF(p);
  sum = over_block<false>(sum);
  if (threadIdx.x == 0) sums[blockIdx.y * (I)gridDim.x + blockIdx.x] = sum;
}

extern "C" __global__ void tinyseq_root_of_sum(const double* sums, I n, T* y) {
  double sum = 0;
  ROW(i) sum += sums[i];
  sum = over_block<false>(sum);
  if (threadIdx.x == 0) *y = sqrt(sum);
}

// ---- the recurrent cells, a thread a unit of the state; arrays over time are (B, S, ...)

// A block is 32 units by ROWS rows of the batch. It takes `count` steps, t, t + by, ..: more than one where there is one
// block for all units of its rows, which then goes through them 32 at a time.

// What `unit(b, j, u)` does for each unit j and row b of the batch, where u[g] is the product of row b of x, of which
// those n numbers are `apart` from row to row, with column g H + j of w (n, G H), and 0 without w; x is multiplied by
// `mask` (B, n) before. Each thread of a column sums every ROWS-th of the n products, for all rows of the block.
template <int G, class Unit>
__device__ void over_units(const T* x, I apart, I n, const T* w, const T* mask, I B, I H, Unit unit) {
  __shared__ T part[ROWS][ROWS][32];
  const I first = blockIdx.x * (I)ROWS, b = first + threadIdx.y;
  for (I tile = blockIdx.y * (I)32; tile < H; tile += gridDim.y * (I)32) {
    const I j = tile + threadIdx.x;
    T u[G] = {}, sums[ROWS][G] = {};
    if (w && j < H) for (I k = threadIdx.y; k < n; k += ROWS) for (int r = 0; r < ROWS && first + r < B; r++) {
      const T v = x[(first + r) * apart + k] * (mask ? mask[(first + r) * n + k] : (T)1);
      for (int g = 0; g < G; g++) sums[r][g] += v * w[k * G * H + g * H + j];
    }
    for (int g = 0; w && g < G; g++) {
      for (int r = 0; r < ROWS; r++) part[threadIdx.y][r][threadIdx.x] = sums[r][g];
      __syncthreads();
      for (int i = 0; i < ROWS; i++) u[g] += part[i][threadIdx.y][threadIdx.x];
      __syncthreads();
    }
    if (b < B && j < H) unit(b, j, u);
  }
  __syncthreads();                                  // the next step's products take what other threads wrote
}

// a: this unit's gates in z, H apart: pre-activations come, activations stay. h: its state before the step, kept by a
// sequence that has ended. `hs` holds that of each step; the one after the last goes to `hn`. e1 and e2 are the cell's
// own. Backward, d is the gradient of the state after, da and du are those of the pre-activations, 0 past the end.
// Without w, (H, G H) forward and (G H, H) backward, the recurrent products are elsewhere: forward added into z or, of a
// GRU, in e1; backward in dh.
#define FORWARD T* z, const T* bx, const T* bh, T* hs, T* e1, T* e2, T* y, T* hn, const I* lengths, const T* w, \
    const T* mask, I B, I S, I H, I t, I by, I count
#define BACKWARD const T* z, const T* hs, const T* e1, const T* e2, const T* gy, T* dh, T* dc, T* d_in, T* d_rec, \
    const I* lengths, const T* w, const T* mask, I B, I S, I H, I t, I by, I count
#define STEPS for (; count-- > 0; t += by)
#define AHEAD(gates) STEPS over_units<gates>(hs + t * H, S * H, H, w, mask, B, H, [=](I b, I j, T* u)
// the slopes of the step that was walked back before this one
#define BACK(gates) STEPS over_units<1>(d_rec + (t - by) * gates * H, S * gates * H, gates * H, \
    t - by < 0 || t - by >= S ? (const T*)0 : w, (const T*)0, B, H, [=](I b, I j, T* u)
#define GATES(array, gates) (array + ((b * S + t) * gates) * H + j)
#define UNIT(gates) const I k = b * H + j, here = (b * S + t) * H + j, next = t + by; \
    const bool real = !lengths || t < lengths[b]; \
    auto* const a = GATES(z, gates); \
    T h = hs[here];
#define BIAS(of, gate) (of ? of[gate * H + j] : (T)0)
#define SUM(gate) (a[gate * H] + u[gate] + BIAS(bx, gate) + BIAS(bh, gate))
#define LEAVE y[here] = real ? h : (T)0; (next < 0 || next == S ? hn[k] : hs[(b * S + next) * H + j]) = h;
#define ARRIVE(gates) UNIT(gates) \
    T *const da = GATES(d_in, gates), *const du = GATES(d_rec, gates); \
    const T later = dh[k] + u[0] * (mask ? mask[k] : (T)1), d = later + (gy ? gy[here] : (T)0); \
    if (!real) dh[k] = later; \
    for (I i = 0; !real && i < gates; i++) da[i * H] = du[i * H] = 0; \
    if (!real) return;

extern "C" __global__ void tinyseq_rnn_tanh(FORWARD) {
  AHEAD(1) { UNIT(1) if (real) *a = h = tanh(SUM(0)); LEAVE });
}

extern "C" __global__ void tinyseq_rnn_tanh_backward(BACKWARD) {
  BACK(1) { ARRIVE(1) *da = d * (1 - *a * *a), dh[k] = 0; });
}

extern "C" __global__ void tinyseq_rnn_relu(FORWARD) {
  AHEAD(1) {
    UNIT(1)
    if (real) *a = h = SUM(0) < 0 ? (T)0 : SUM(0);
    LEAVE
  });
}

extern "C" __global__ void tinyseq_rnn_relu_backward(BACKWARD) {
  BACK(1) { ARRIVE(1) *da = *a > 0 ? d : (T)0, dh[k] = 0; });
}

extern "C" __global__ void tinyseq_lstm(FORWARD) {  // e1: c before each step, e2: c after the last
  AHEAD(4) {
    UNIT(4)
    T c = e1[here];
    if (real) {
      const T i = logistic(SUM(0)), f = logistic(SUM(1)), g = tanh(SUM(2)), o = logistic(SUM(3));
      c = f * c + i * g;
      h = o * tanh(c);
      a[0] = i, a[H] = f, a[2 * H] = g, a[3 * H] = o;
    }
    LEAVE
    (next < 0 || next == S ? e2[k] : e1[(b * S + next) * H + j]) = c;
  });
}

extern "C" __global__ void tinyseq_lstm_backward(BACKWARD) {
  BACK(4) {
    ARRIVE(4)
    const T i = a[0], f = a[H], g = a[2 * H], o = a[3 * H], c = e1[here], tanh_c = tanh(f * c + i * g);
    const T e = dc[k] + d * o * (1 - tanh_c * tanh_c);
    da[0] = e * g * i * (1 - i);
    da[H] = e * c * f * (1 - f);
    da[2 * H] = e * i * (1 - g * g);
    da[3 * H] = d * tanh_c * o * (1 - o);
    dc[k] = e * f;
    dh[k] = 0;
  });
}

extern "C" __global__ void tinyseq_gru(FORWARD) {   // e1 (B, 3 H): U h of this step, e2: U_n h + d_n of all
  AHEAD(3) {
    UNIT(3)
    if (real) {
      for (int g = 0; !w && g < 3; g++) u[g] = e1[(b * 3 + g) * H + j];
      const T r = logistic(SUM(0)), v = logistic(SUM(1)), q = u[2] + BIAS(bh, 2);
      const T n = tanh(a[2 * H] + BIAS(bx, 2) + r * q);
      h = n + v * (h - n);
      a[0] = r, a[H] = v, a[2 * H] = n, e2[here] = q;
    }
    LEAVE
  });
}

extern "C" __global__ void tinyseq_gru_backward(BACKWARD) {
  BACK(3) {
    ARRIVE(3)
    const T r = a[0], v = a[H], n = a[2 * H], dn = d * (1 - v) * (1 - n * n);
    da[0] = du[0] = dn * e2[here] * r * (1 - r);
    da[H] = du[H] = d * (h - n) * v * (1 - v);
    da[2 * H] = dn;
    du[2 * H] = dn * r;
    dh[k] = d * v;
  });
}

extern "C" __global__ void tinyseq_gru_before_reset(FORWARD) {  // e1: r h of all steps; these come without w
  AHEAD(3) {
    UNIT(3)
    const T r = logistic(SUM(0));
    a[0] = r, a[H] = logistic(SUM(1)), e1[here] = real ? r * h : (T)0;
  });
}

extern "C" __global__ void tinyseq_gru_before(FORWARD) {
  AHEAD(3) {
    UNIT(3)
    if (real) {
      const T n = a[2 * H] = tanh(SUM(2));
      h = n + a[H] * (h - n);
    }
    LEAVE
  });
}

extern "C" __global__ void tinyseq_gru_before_backward(BACKWARD) {
  BACK(3) {
    ARRIVE(3)
    const T v = a[H], n = a[2 * H];
    da[H] = d * (h - n) * v * (1 - v);
    da[2 * H] = d * (1 - v) * (1 - n * n);
    dh[k] = d * v;
  });
}

extern "C" __global__ void tinyseq_gru_before_unreset(BACKWARD) {  // dc: the gradient of r h
  BACK(3) {
    UNIT(3)
    if (real) *GATES(d_in, 3) = dc[k] * h * *a * (1 - *a), dh[k] += dc[k] * *a;
  });
}

// ---- the linear recurrence

// h_t = a_t h_(t-1) + b_t of `lanes` rows and features (B T H) with strides T H and H. A block takes 32 lanes, and of
// their time CHUNKS stretches of LONG steps at once: each thread puts its stretch together, then goes through it from
// the state in which those before it end. A stretch with an a beyond 1, whose product would overflow or hide what a
// later a makes small again, or with a sum that overflows has a product of NaN: it is stepped through. The order of all
// sums is the same in every run.
#define CHUNKS 16
#define LONG 8
extern "C" __global__ void tinyseq_linear_scan(const T* a, const T* b, const T* h0, T* h, I lanes, I steps, I width,
                                               I reverse) {
  __shared__ T product[CHUNKS][32], share[CHUNKS][32], begin[32];
  const int lane = threadIdx.x, chunk = threadIdx.y;
  const I n = blockIdx.x * 32 + lane, step = reverse ? -width : width;
  const I start = n / width * steps * width + n % width + (reverse ? (steps - 1) * width : 0);
  if (chunk == 0) begin[lane] = n < lanes ? h0[n] : (T)0;
  for (I tile = 0; tile < steps; tile += CHUNKS * LONG) {
    T p[LONG], q[LONG], all = 1, sum = 0;
    for (I i = 0, t = tile + chunk * LONG; i < LONG; i++, t++) {
      const bool real = n < lanes && t < steps;
      p[i] = real ? a[start + t * step] : (T)1, q[i] = real ? b[start + t * step] : (T)0;
      sum = p[i] * sum + q[i], all = p[i] >= -1 && p[i] <= 1 ? all * p[i] : NOT_A_NUMBER;
    }
    product[chunk][lane] = sum - sum == 0 ? all : NOT_A_NUMBER, share[chunk][lane] = sum;
    __syncthreads();
    T state = begin[lane];
    for (I i = 0, t = tile; i < chunk; i++, t += LONG)
      if (product[i][lane] == product[i][lane] && state - state == 0) state = product[i][lane] * state + share[i][lane];
      else for (I k = t; k < t + LONG && k < steps; k++) state = a[start + k * step] * state + b[start + k * step];
    for (I i = 0, t = tile + chunk * LONG; i < LONG; i++, t++) {
      state = p[i] * state + q[i];
      if (n < lanes && t < steps) h[start + t * step] = state;
    }
    __syncthreads();
    if (chunk == CHUNKS - 1) begin[lane] = state;
    __syncthreads();
  }
}

// A mixture of experts with all experts at once (experts.h), for calls of many rows. The device orders the pairs (token, expert) by expert,
// then by token, and nothing comes to the host:
//   X = rows of x in that order;   G, U = X gate^T, X up^T;   H = f(G) * U;   S = H down^T;   y_i += sum over slots s of weight[i, s] S_r
//   back: D = rows of dy;   T = D down;   dweight = T . H;   dG, dU of weight T;   S = dG gate + dU up;   dx_i (+)= sum over slots of S_r
// where r is the position of the pair (i, s). Products are grouped (product.h): a launch takes as many experts as have their weights in a
// panel. A product's row does not depend on the others, and a token adds up its slots in their order: bits repeat, and are the same however
// the tokens are cut into pieces. X, D, G, U, H and gradients of these are of x's type, T and S float32.
#include "kernels/cuda/elements.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/panels.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/weights.h"

namespace {

enum { ORDER_THREADS = 512, ORDER_WARPS = ORDER_THREADS / WARP, PAIRS_A_THREAD = 8 };
constexpr int64_t PANEL_BYTES = 64 << 20, PIECE_BYTES = 512 << 20;

// Block e counts the pairs of the experts before e, and places those of e: each warp has a stretch of the pairs to itself.
__global__ void __launch_bounds__(ORDER_THREADS)
    order_pairs(int32_t *starts, int32_t *order, int32_t *positions, const int32_t *chosen, int pairs, int experts) {
  SHARED(int, lower_of, [ORDER_WARPS]);
  SHARED(int, own_of, [ORDER_WARPS]);
  const int expert = blockIdx.x, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
  const int stretch = (pairs + warps * WARP - 1) / (warps * WARP) * WARP, begin = warp * stretch,
            end = begin + stretch < pairs ? begin + stretch : pairs;
  int lower = 0, own = 0;
  for (int p = begin + lane; p < end; p += WARP) {
    int e = chosen[p];
    lower += e < expert, own += e == expert;
  }
  for (int step = WARP / 2; step; step /= 2) {
    lower += __shfl_xor_sync(0xffffffffu, lower, step);
    own += __shfl_xor_sync(0xffffffffu, own, step);
  }
  if (lane == 0) lower_of[warp] = lower, own_of[warp] = own;
  __syncthreads();
  int first = 0, at = 0;
  for (int w = 0; w < warps; w++) {
    first += lower_of[w];
    if (w < warp) at += own_of[w];
  }
  at += first;
  if (threadIdx.x == 0) {
    starts[expert] = first;
    if (expert + 1 == experts) starts[experts] = pairs;
  }
  for (int base = begin; base < end; base += WARP) {
    int p = base + lane;
    bool is_own = p < end && chosen[p] == expert;
    unsigned mask = __ballot_sync(0xffffffffu, is_own);
    if (is_own) {
      int position = at + __popc(mask & ((1u << lane) - 1));
      order[position] = p;
      positions[p] = position;
    }
    at += __popc(mask);
  }
}

// y of a token (+)= the sum over its slots of weight * row; weights NULL: of rows.
__global__ void __launch_bounds__(THREADS) combine_rows(float *y, int64_t step, const float *rows, const float *weights,
                                                        const int32_t *positions, int used, int columns, bool accumulate, bool is_packed) {
  constexpr int N = PACKET<float>;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * used;
  float *to = y + blockIdx.x * step;
  for (int c = threadIdx.x * N; c < columns; c += blockDim.x * N) {
    float values[N] = {};
    if (accumulate) load_floats<N>(values, to + c, columns - c, is_packed);
    for (int s = 0; s < used; s++) {
      float weight = weights ? weights[first + s] : 1.0f, row[N];
      load_floats<N>(row, rows + static_cast<int64_t>(positions[first + s]) * columns + c, columns - c, is_packed);
      UNROLL for (int k = 0; k < N; k++) values[k] = fmaf(weight, row[k], values[k]);
    }
    store_floats<N>(to + c, values, columns - c, is_packed);
  }
}

// What a piece of tokens has in the scratch. `sums` take the place of what is no longer read by then: of x, gate and up, or of x and dy.
struct PieceBuffers {
  int32_t *starts;  // [experts + 1] the first position of each expert
  int32_t *order;  // [pairs] places in chosen
  int32_t *positions;  // [pairs] of the places
  void *groups;  // row_groups_bytes
  void *x, *dy;  // [pairs, hidden]
  void *gate, *up, *h;  // [pairs, width]
  float *t;  // [pairs, width]
  float *sums;  // [pairs, hidden]
};

// Bytes of the rows of a pair: before `sums` takes their place, and those that are kept.
struct PairBytes {
  int64_t replaced, kept;
};
PairBytes pair_bytes(const ExpertMatrices *experts, FloatType type, bool backward) {
  int64_t hidden = experts->hidden, width = experts->width, size = float_bytes(type), sums = hidden * static_cast<int64_t>(sizeof(float));
  int64_t rows = size * (backward ? 2 * hidden : hidden + 2 * width);
  int64_t kept = backward ? width * (3 * size + static_cast<int64_t>(sizeof(float))) : width * size;
  return {rows > sums ? rows : sums, kept};
}

// Sets the places in block (NULL: none) and returns their bytes.
int64_t lay_out(PieceBuffers *buffers, void *block, int64_t tokens, const ExpertMatrices *experts, FloatType type, bool backward) {
  int64_t pairs = tokens * experts->used, ints = pairs * static_cast<int64_t>(sizeof(int32_t)), total = 0;
  int64_t wide = pairs * experts->hidden * float_bytes(type), narrow = pairs * experts->width * float_bytes(type);
  PairBytes bytes = pair_bytes(experts, type, backward);
  auto take = [&](int64_t size) {
    char *place = block ? static_cast<char *>(block) + total : NULL;
    total += round_up(size, 256);
    return place;
  };
  buffers->starts = reinterpret_cast<int32_t *>(take((experts->experts + 1) * static_cast<int64_t>(sizeof(int32_t))));
  buffers->order = reinterpret_cast<int32_t *>(take(ints)), buffers->positions = reinterpret_cast<int32_t *>(take(ints));
  buffers->groups = take(row_groups_bytes(experts->experts, pairs));
  char *replaced = take(pairs * bytes.replaced), *kept = take(pairs * bytes.kept);
  if (!block) return total;
  buffers->x = replaced, buffers->sums = reinterpret_cast<float *>(replaced);
  if (backward) {
    buffers->dy = replaced + wide;
    buffers->t = reinterpret_cast<float *>(kept), kept += pairs * experts->width * static_cast<int64_t>(sizeof(float));
    buffers->gate = kept, buffers->up = kept + narrow, buffers->h = kept + 2 * narrow;
  } else {
    buffers->gate = replaced + wide, buffers->up = replaced + wide + narrow, buffers->h = kept;
  }
  return total;
}

// Tokens of a piece, whose rows take about PIECE_BYTES at most; pieces are about alike.
int64_t piece_tokens(int64_t n, const ExpertMatrices *experts, FloatType type, bool backward, const Device *device) {
  PairBytes bytes = pair_bytes(experts, type, backward);
  int64_t most =
      (device->thresholds.piece_bytes ? device->thresholds.piece_bytes : PIECE_BYTES) / (experts->used * (bytes.replaced + bytes.kept));
  int64_t pieces = most < 1 ? n : (n + most - 1) / most;
  return (n + pieces - 1) / pieces;
}

// Weights of experts first .. last - 1, rows first_row and the next of each matrix: [expert][matrix][rows][columns].
struct ExpertPanel {
  int64_t first, last, first_row, rows;
  const void *data;
};

// use(panel) for the weights of all experts, `count` matrices of one shape of each. An expert whose matrices are larger than a panel goes
// by rows of them.
template <typename Use>
void for_each_panel(const Matrix *const *matrices, int count, int64_t experts, FloatType type, Device *device, Use use) {
  const Matrix *one = matrices[0];
  int64_t bound = device->thresholds.backward_panel ? device->thresholds.backward_panel : PANEL_BYTES;
  int64_t line = count * one->columns * float_bytes(type), rows = one->rows, at_once = bound / (line * rows);
  if (at_once < 1) at_once = 1, rows = bound / line / 16 * 16 < 16 ? 16 : bound / line / 16 * 16;
  if (rows > one->rows) rows = one->rows;
  if (at_once > experts) at_once = experts;
  int64_t pieces = (one->rows + rows - 1) / rows, panels = (experts + at_once - 1) / at_once * pieces;
  int64_t room = round_up(at_once * rows * line, 256);
  char *places = static_cast<char *>(device_workspace(device, WORKSPACE_WEIGHTS, panels == 1 ? room : 2 * room));
  if (!places) return;
  ExpertPanel made[2];
  int64_t next = 0;
  panels_in_turns(
      panels, device,
      [&](int place, cudaStream_t stream) {
        int64_t first = next / pieces * at_once, row = next % pieces * rows;
        int64_t last = first + at_once < experts ? first + at_once : experts, own = row + rows < one->rows ? rows : one->rows - row;
        char *to = places + place * room;
        made[place] = {first, last, row, own, to};
        for (int64_t e = first; e < last; e++)
          for (int i = 0; i < count; i++, to += own * one->columns * float_bytes(type))
            weights_dequantize(to, type, one->columns, 1, &matrices[i][e], row, own, device, stream);
        next++;
      },
      [&](int place) { use(made[place]); });
}

struct Piece {
  const ExpertCall *call;
  int64_t first, tokens, pairs;
  PieceBuffers buffers;
  RowGroups groups;
};

Rows rows_of(const Piece &piece, void *data, int64_t columns) { return Rows{data, columns, piece.call->x.type}; }

// The piece's tokens of rows[n, hidden].
Rows tokens_of(const Piece &piece, Rows rows) { return rows_from(rows, piece.first * rows.step); }

// y_i = x w_i^T for matrices w_i [experts] of one shape.
void multiply_forward(const Piece &piece, const Rows *y, Rows x, const Matrix *const *w, int count) {
  int64_t columns = w[0]->columns;
  for_each_panel(w, count, piece.call->experts->experts, x.type, piece.call->device, [&](const ExpertPanel &panel) {
    DenseProduct product = product_of(piece.call->x.type, piece.pairs);
    add_term(&product, operand_rows(x), Operand{panel.data, x.type, columns, true}, columns, 1);
    for (int i = 0; i < count; i++) add_output(&product, output_rows(rows_from(y[i], panel.first_row), panel.rows));
    product_run_groups(product, piece.groups, panel.first, panel.last, count * panel.rows * columns, piece.call->device);
  });
}

// dx = sum_i dy_i w_i
void multiply_backward(const Piece &piece, float *dx, const Rows *dy, const Matrix *const *w, int count) {
  int64_t columns = w[0]->columns;
  FloatType type = dy[0].type;
  for_each_panel(w, count, piece.call->experts->experts, type, piece.call->device, [&](const ExpertPanel &panel) {
    DenseProduct product = product_of(piece.call->x.type, piece.pairs);
    Rows weights = {const_cast<void *>(panel.data), columns, type};
    for (int i = 0; i < count; i++)
      add_term(&product, operand_rows(rows_from(dy[i], panel.first_row)), operand_columns(rows_from(weights, i * panel.rows * columns)),
               panel.rows, 1);
    add_output(&product, output_rows(rows_f32(dx, columns), columns));
    product.outputs[0].accumulate = panel.first_row > 0;
    product_run_groups(product, piece.groups, panel.first, panel.last, count * panel.rows * columns, piece.call->device);
  });
}

// X, G, U and H.
void run_gate(const Piece &piece) {
  const ExpertCall &call = *piece.call;
  const ExpertMatrices *experts = call.experts;
  const PieceBuffers &buffers = piece.buffers;
  experts_gather(buffers.x, call.x.type, tokens_of(piece, call.x), buffers.order, piece.pairs, experts, call.device);
  const Rows gated[2] = {rows_of(piece, buffers.gate, experts->width), rows_of(piece, buffers.up, experts->width)};
  const Matrix *const matrices[2] = {experts->gate, experts->up};
  multiply_forward(piece, gated, rows_of(piece, buffers.x, experts->hidden), matrices, 2);
  cuda_gated_forward(buffers.h, buffers.gate, buffers.up, call.x.type, piece.pairs * experts->width, experts->activation, call.backend);
}

void combine(const Piece &piece, Rows to, const float *weights, bool accumulate) {
  int columns = static_cast<int>(piece.call->experts->hidden), used = static_cast<int>(piece.call->experts->used);
  bool is_packed = is_aligned(to.data, piece.buffers.sums) && columns % PACKET<float> == 0 && to.step % PACKET<float> == 0;
  LAUNCH(piece.call->device, combine_rows, static_cast<unsigned>(piece.tokens), whole_warps(blocks_for(columns, PACKET<float>), THREADS), 0,
         static_cast<float *>(to.data), to.step, piece.buffers.sums, weights, piece.buffers.positions, used, columns, accumulate,
         is_packed);
}

void forward_piece(const Piece &piece) {
  const ExpertCall &call = *piece.call;
  const ExpertMatrices *experts = call.experts;
  run_gate(piece);
  const Rows sums = rows_f32(piece.buffers.sums, experts->hidden);
  multiply_forward(piece, &sums, rows_of(piece, piece.buffers.h, experts->width), &experts->down, 1);
  combine(piece, tokens_of(piece, call.y), call.weights + piece.first * experts->used, true);
}

void backward_piece(const Piece &piece) {
  const ExpertCall &call = *piece.call;
  const ExpertMatrices *experts = call.experts;
  const PieceBuffers &buffers = piece.buffers;
  int64_t width = experts->width, place = piece.first * experts->used;
  FloatType type = call.x.type;
  run_gate(piece);
  experts_gather(buffers.dy, type, tokens_of(piece, call.dy), buffers.order, piece.pairs, experts, call.device);
  const Rows dy = rows_of(piece, buffers.dy, experts->hidden);
  multiply_backward(piece, buffers.t, &dy, &experts->down, 1);
  experts_weigh(buffers.h, type, call.dweights + place, buffers.t, buffers.h, call.weights + place, buffers.order, piece.pairs, width,
                call.device);
  cuda_gated_backward(buffers.gate, buffers.up, buffers.h, buffers.gate, buffers.up, type, piece.pairs * width, experts->activation,
                      call.backend);
  const Rows gated[2] = {rows_of(piece, buffers.gate, width), rows_of(piece, buffers.up, width)};
  const Matrix *const matrices[2] = {experts->gate, experts->up};
  multiply_backward(piece, buffers.sums, gated, matrices, 2);
  combine(piece, tokens_of(piece, call.dx), NULL, call.accumulate);
}

void run_pieces(const ExpertCall &call, float *scratch, bool backward) {
  const ExpertMatrices *experts = call.experts;
  int64_t tokens = piece_tokens(call.n, experts, call.x.type, backward, call.device);
  Piece piece = {};
  piece.call = &call;
  lay_out(&piece.buffers, scratch, tokens, experts, call.x.type, backward);
  for (; piece.first < call.n; piece.first += tokens) {
    piece.tokens = call.n - piece.first < tokens ? call.n - piece.first : tokens;
    piece.pairs = piece.tokens * experts->used;
    const PieceBuffers &buffers = piece.buffers;
    LAUNCH(call.device, order_pairs, static_cast<unsigned>(experts->experts),
           whole_warps(blocks_for(piece.pairs, PAIRS_A_THREAD), ORDER_THREADS), 0, buffers.starts, buffers.order, buffers.positions,
           call.chosen + piece.first * experts->used, static_cast<int>(piece.pairs), static_cast<int>(experts->experts));
    int64_t narrowest = experts->width < experts->hidden ? experts->width : experts->hidden;
    piece.groups = row_groups_new(buffers.groups, buffers.starts, experts->experts, piece.pairs, narrowest, call.device);
    if (backward) backward_piece(piece);
    else forward_piece(piece);
  }
}

}  // namespace

void experts_grouped_forward(const ExpertCall &call, float *scratch) { run_pieces(call, scratch, false); }
void experts_grouped_backward(const ExpertCall &call, float *scratch) { run_pieces(call, scratch, true); }

int64_t experts_grouped_floats(int64_t n, const ExpertMatrices *experts, FloatType type, bool backward, const Device *device) {
  PieceBuffers buffers;
  int64_t tokens = piece_tokens(n, experts, type, backward, device);
  return lay_out(&buffers, NULL, tokens, experts, type, backward) / static_cast<int64_t>(sizeof(float));
}

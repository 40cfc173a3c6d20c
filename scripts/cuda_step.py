"""A training step as the tape plans it (autograd/tape.c), for scripts/cuda-roofline: the graph of a dense decoder, its events (forward,
again, backward), and for each buffer the stretch of events in which it must hold its contents. What is planned there in bytes is planned
here alike, so that both can be compared (scripts/cuda-roofline --self-test)."""
import dataclasses
import json
import os
import struct

FORWARD, AGAIN, BACKWARD = "forward", "again", "backward"
LOSS_ROWS = 512  # autograd/tape.h


@dataclasses.dataclass(frozen=True)
class Shape:
    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    ffn: int
    vocabulary: int
    tied: bool = False

    def linears(self):
        """(part, out, in) of a layer."""
        q, kv = self.heads * self.head_size, self.kv_heads * self.head_size
        return [("q", q, self.hidden), ("k", kv, self.hidden), ("v", kv, self.hidden), ("o", self.hidden, q),
                ("gate", self.ffn, self.hidden), ("up", self.ffn, self.hidden), ("down", self.hidden, self.ffn)]

    def adapter_parameters(self, rank):
        return self.layers * sum(rank * (rows + columns) for _, rows, columns in self.linears())


# From the models' config.json.
MODELS = {s.name: s for s in [
    Shape("Llama-3.2-1B", 2048, 16, 32, 8, 64, 8192, 128256, True),
    Shape("Llama-3.2-3B", 3072, 28, 24, 8, 128, 8192, 128256, True),
    Shape("Llama-3.1-8B", 4096, 32, 32, 8, 128, 14336, 128256),
    Shape("Qwen3-8B", 4096, 36, 32, 8, 128, 12288, 151936),
    Shape("Qwen2.5-14B", 5120, 48, 40, 8, 128, 13824, 152064),
    Shape("Qwen2.5-32B", 5120, 64, 40, 8, 128, 27648, 152064),
    Shape("Llama-3.1-70B", 8192, 80, 64, 8, 128, 28672, 128256),
]}


def read_gguf(path):
    """({key: value}, tensor names); of arrays the length."""
    with open(path, "rb") as file:
        def number(form):
            return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))[0]

        def string():
            return file.read(number("Q")).decode("utf-8", "replace")

        scalars = "BbHhIif?  Qqd"

        def value(kind):
            if kind == 8:
                return string()
            if kind != 9:
                return number(scalars[kind])
            of, count = number("I"), number("Q")
            for _ in range(count):
                value(of)
            return count

        if file.read(4) != b"GGUF":
            raise SystemExit(f"{path}: this is no GGUF file")
        number("I")
        tensors, keys = number("Q"), number("Q")
        found = {string(): value(number("I")) for _ in range(keys)}
        names = []
        for _ in range(tensors):
            names.append(string())
            file.read(8 * number("I") + 12)
        return found, names


def shape_of(path):
    """The shape of a GGUF file, of a folder with config.json, or of a name in MODELS."""
    if path in MODELS:
        return MODELS[path]
    name = os.path.basename(path.rstrip("/"))
    if os.path.isdir(path):
        with open(os.path.join(path, "config.json"), encoding="utf-8") as file:
            c = json.load(file)
        heads = c["num_attention_heads"]
        return Shape(name, c["hidden_size"], c["num_hidden_layers"], heads, c.get("num_key_value_heads") or heads,
                     c.get("head_dim") or c["hidden_size"] // heads, c["intermediate_size"], c["vocab_size"],
                     c.get("tie_word_embeddings", False))
    found, names = read_gguf(path)
    get = lambda key, other=None: found.get(f"{found['general.architecture']}.{key}", other)
    heads, hidden = get("attention.head_count"), get("embedding_length")
    return Shape(name, hidden, get("block_count"), heads, get("attention.head_count_kv", heads),
                 get("attention.key_length", hidden // heads), get("feed_forward_length"),
                 found.get("tokenizer.ggml.tokens") or get("vocab_size"),
                 "output.weight" not in names)


# ---- The graph: tensors and nodes, as models/decoder.c builds them ----


class Tensor:
    def __init__(self, rows, columns, size, producer=None):
        self.rows, self.columns, self.size, self.producer = rows, columns, size, producer
        self.needs_gradient = self.keep = False
        self.forward = self.again = self.gradient = self.fetched = None  # lifetimes

    def count(self):
        return self.rows * self.columns

    def bytes(self):
        return self.count() * self.size


class Node:
    def __init__(self, kind, segment, inputs, outputs, saved_inputs=(), saved_outputs=(), parameters=False, backward=True, aliased=None,
                 in_place=False, cheap=False, selective=False, loss=False, no_gradient=(), **attributes):
        self.kind, self.segment, self.inputs, self.outputs = kind, segment, inputs, outputs
        self.saved_inputs, self.saved_outputs, self.aliased = saved_inputs, saved_outputs, aliased
        self.in_place, self.cheap, self.selective, self.loss = in_place, cheap, selective, loss
        self.attributes = attributes
        self.needs_backward = backward and (parameters or any(t.needs_gradient for t in inputs))
        for i, tensor in enumerate(outputs):
            tensor.producer = self
            tensor.needs_gradient = self.needs_backward and i not in no_gradient

    def scratch(self, backward):
        """Bytes, as the op's own function says (autograd/op_*.c)."""
        a = self.attributes
        if self.kind == "linear" and backward:
            x, y = self.inputs[0], self.outputs[0]
            dh = (x.rows * a["rank"] * x.size + 63) // 64 * 64
            return dh + ((y.count() * x.size + 63) // 64 * 64 if y.size != x.size else 0)
        if self.kind == "attention" and backward:
            q = self.inputs[0]
            return 4 * q.rows * a["heads"] * (1 + (0 if q.size == 4 else a["head_size"]))
        if self.kind == "loss" and not backward:
            rows = min(a["chunk"], self.inputs[0].rows)
            return 4 * (cross_entropy_floats(rows, a["vocabulary"], self.inputs[0].columns) + rows)
        return 0


def cross_entropy_floats(n, vocabulary, columns):  # kernels/loss.c
    step = (vocabulary + 31) // 32 * 32 + 32
    return max(n * (step // 2 + step // 32 + (columns + 15) // 16 * 16 + 16), step)


class Tape:
    def __init__(self, shape, documents, rank, activation_size, loss_rows=LOSS_ROWS):
        self.shape, self.rank, self.size, self.loss_rows = shape, rank, activation_size, loss_rows
        self.nodes, self.inputs, self.segments = [], [], 1
        self.tokens, self.documents = sum(documents), documents
        self.rows = self.tokens - len(documents)  # labelled: all but each document's last
        self.seen = sum(n * (n + 1) / 2 for n in documents)  # pairs of query and key
        self.build()

    def input(self, rows, columns=1):
        self.inputs.append(Tensor(rows, columns, 4))
        return self.inputs[-1]

    def node(self, kind, inputs, outputs, **more):
        node = Node(kind, self.segments - 1, inputs, outputs, **more)
        self.nodes.append(node)
        return node.outputs[0]

    def norm(self, x):
        return self.node("norm", [x], [Tensor(x.rows, x.columns, self.size)], saved_inputs=(0,), cheap=True)

    def linears(self, x, parts, residual=None):
        rank = self.rank * len(parts)
        outputs = [Tensor(x.rows, rows, 4 if residual else self.size) for _, rows, _ in parts]
        self.node("linear", [x] + ([residual] if residual else []), outputs + [Tensor(x.rows, rank, x.size)], saved_inputs=(0,),
                  saved_outputs=(len(parts),), parameters=True, aliased=1 if residual else None, selective=True,
                  no_gradient=(len(parts),), rank=rank, parts=parts)
        return outputs

    def rope(self, x, positions):
        return self.node("rope", [x, *positions], [Tensor(x.rows, x.columns, x.size)], aliased=0, in_place=True)

    def gather(self, x, rows):
        return self.node("gather", [x, rows], [Tensor(rows.rows, x.columns, x.size)])

    def layer(self, h, keys, last):
        s, parts = self.shape, self.shape.linears()
        x = self.norm(h)
        if last:
            k, v = self.linears(x, parts[1:3])
            q, = self.linears(self.gather(x, last[0]), parts[:1])
        else:
            q, k, v = self.linears(x, parts[:3])
        q = self.rope(q, last[1] if last else keys)
        k = self.rope(k, keys)
        if last:
            h = self.gather(h, last[0])
        o = self.node("attention", [q, k, v] + ([last[2]] if last else []),
                      [Tensor(q.rows, s.heads * s.head_size, q.size), Tensor(q.rows, s.heads, 4)], saved_inputs=(0, 1, 2),
                      saved_outputs=(0, 1), no_gradient=(1,), heads=s.heads, head_size=s.head_size)
        h, = self.linears(o, parts[3:4], h)
        gate, up = self.linears(self.norm(h), parts[4:6])
        inner = self.node("gated", [gate, up], [Tensor(gate.rows, gate.columns, gate.size)], saved_inputs=(0, 1), cheap=True)
        h, = self.linears(inner, parts[6:], h)
        return h

    def build(self):
        s = self.shape
        ids, positions, frequencies = self.input(self.tokens), self.input(self.tokens), self.input(1, s.head_size // 2)
        rows = self.input(self.rows)
        last = (rows, (self.input(self.rows), self.input(1, s.head_size // 2)), self.input(self.rows))
        h = self.node("embedding", [ids], [Tensor(self.tokens, s.hidden, 4)], backward=False)
        for i in range(s.layers):
            self.segments += 1
            h = self.layer(h, (positions, frequencies), last if i == s.layers - 1 else None)
        self.segments += 1
        x = self.norm(h)
        nll = self.node("loss", [x, self.input(self.rows)], [Tensor(x.rows, 1, 4), Tensor(x.rows, x.columns, x.size)], saved_outputs=(1,),
                        loss=True, chunk=self.loss_rows, vocabulary=s.vocabulary)
        nll.keep = True


# ---- The plan ----


class Life:
    __slots__ = ("first", "last", "bytes", "merged", "offset")

    def __init__(self, event, size):
        self.first = self.last = event
        self.bytes, self.merged, self.offset = max((size + 63) // 64 * 64, 64), None, 0

    def root(self):
        life = self
        while life.merged:
            life = life.merged
        return life


class Plan:
    """checkpointed: how many segments are recomputed (autograd/tape.h). offload: the stream between checkpointed layers leaves the device
    until a layer before its backward pass (no such thing is in the tape yet)."""

    def __init__(self, tape, checkpointed, keeps_cheap=False, offload=False):
        self.tape, self.keeps_cheap, self.offload = tape, keeps_cheap, offload
        self.checkpointed = min(checkpointed, tape.segments - 1)
        self.events, self.lives = [], []
        self.by_segment = [[] for _ in range(tape.segments)]
        for node in tape.nodes:
            self.by_segment[node.segment].append(node)
            for tensor in node.inputs + node.outputs:
                tensor.forward = tensor.again = tensor.gradient = tensor.fetched = None
        for tensor in tape.inputs:
            tensor.forward = self.life(0, tensor.bytes())
        for node in tape.nodes:
            self.plan_forward(node, FORWARD, set(range(len(node.outputs))))
        if offload:
            self.leave()
        self.plan_backward_pass()
        for tensor in [*tape.inputs, *(t for n in tape.nodes for t in n.outputs if t.keep)]:
            self.extend(tensor.forward, len(self.events) - 1)

    def life(self, event, size):
        self.lives.append(Life(event, size))
        return self.lives[-1]

    def extend(self, life, event):
        root = life.root()
        root.last = max(root.last, event)

    def is_recomputed(self, node):
        return node.segment < self.checkpointed or (node.cheap and not self.keeps_cheap)

    def reads_again(self, tensor, segment):
        return tensor.producer and tensor.producer.segment == segment and self.is_recomputed(tensor.producer)

    def add_scratch(self, node, event, backward):
        size = node.scratch(backward)
        if size:
            self.life(event, size)

    def plan_forward(self, node, phase, outputs):
        event = len(self.events)
        self.events.append((node, phase, outputs, frozenset()))
        first = None
        for i, tensor in enumerate(node.inputs):
            life = tensor.again if phase == AGAIN and self.reads_again(tensor, node.segment) else tensor.forward
            if phase == AGAIN and life is tensor.forward and tensor.fetched:
                life = tensor.fetched
            self.extend(life, event)
            first = life if i == 0 else first
        for i in sorted(outputs):
            tensor = node.outputs[i]
            life = self.life(event, tensor.bytes())
            if node.in_place and i == 0:
                life.merged = first
            if phase == AGAIN:
                tensor.again = life
            else:
                tensor.forward = life
        self.add_scratch(node, event, False)

    def plan_backward(self, node):
        event = len(self.events)
        accumulated = set()
        for tensors, saved in ((node.inputs, node.saved_inputs), (node.outputs, node.saved_outputs)):
            for i in saved:
                tensor = tensors[i]
                self.extend(tensor.again if self.reads_again(tensor, node.segment) else tensor.fetched or tensor.forward, event)
        for tensor in node.outputs:
            if tensor.gradient:
                self.extend(tensor.gradient, event)
        for i, tensor in enumerate(node.inputs):
            if not tensor.needs_gradient:
                continue
            if tensor.gradient:
                accumulated.add(i)
            else:
                tensor.gradient = self.life(event, tensor.bytes())
                if node.aliased == i:
                    tensor.gradient.merged = node.outputs[0].gradient
                if node.loss and i == 0:
                    tensor.gradient.merged = node.outputs[1].forward
            self.extend(tensor.gradient, event)
        self.events.append((node, BACKWARD, set(), frozenset(accumulated)))
        self.add_scratch(node, event, True)

    def needed_again(self, nodes):
        """{node: outputs} that a segment's backward pass reads and that were not kept."""
        needed, readers = {}, {}
        for node in nodes:
            for i, tensor in enumerate(node.inputs):
                readers.setdefault(tensor, []).append((node, i))
        for node in reversed(nodes):
            wanted = set()
            for o, tensor in enumerate(node.outputs):
                if not self.is_recomputed(node):
                    break
                saved = node.needs_backward and o in node.saved_outputs
                if saved or any(needed[c] or (c.needs_backward and i in c.saved_inputs) for c, i in readers.get(tensor, [])):
                    wanted.add(o)
            needed[node] = set(range(len(node.outputs))) if wanted and not node.selective else wanted
        return needed

    def plan_backward_pass(self):
        for segment in range(self.tape.segments - 1, -1, -1):
            nodes = self.by_segment[segment]
            if self.offload and segment > 0:
                self.fetch(self.by_segment[segment - 1])
            needed = self.needed_again(nodes)
            for node in nodes:
                if needed[node]:
                    self.plan_forward(node, AGAIN, needed[node])
            for node in reversed(nodes):
                if node.needs_backward and (node.loss or any(t.gradient for t in node.outputs)):
                    self.plan_backward(node)

    def crossing(self, nodes):
        return {t for n in nodes for t in n.inputs if t.producer and t.producer.segment < n.segment < self.checkpointed}

    def leave(self):
        """What crosses into a segment stays until that segment's end, for the copy."""
        ends = {}
        for event, (node, *_) in enumerate(self.events):
            ends[node.segment] = event
        for nodes in self.by_segment:
            for tensor in self.crossing(nodes):
                self.extend(tensor.forward, ends[nodes[0].segment])

    def fetch(self, nodes):
        for tensor in self.crossing(nodes):
            tensor.fetched = self.life(len(self.events), tensor.bytes())

    def live_bytes(self):
        """The most that lives at once: no order of buffers in memory needs less."""
        changes = [0] * (len(self.events) + 1)
        for life in self.lives:
            if life.merged is None:
                changes[life.first] += life.bytes
                changes[life.last + 1] -= life.bytes
        most = now = 0
        for change in changes:
            now += change
            most = max(most, now)
        return most

    def placed_bytes(self):
        """As plan_offsets places them: largest first, each at the lowest offset that is free during its life."""
        order = sorted((i for i, l in enumerate(self.lives) if l.merged is None), key=lambda i: (-self.lives[i].bytes, i))
        placed, total = [], 0
        for i in order:
            life, offset = self.lives[i], 0
            for other in placed:
                if other.last < life.first or life.last < other.first:
                    continue
                if other.offset >= offset + life.bytes:
                    break
                offset = max(offset, other.offset + other.bytes)
            life.offset = offset
            total = max(total, offset + life.bytes)
            at = len(placed)
            while at > 0 and placed[at - 1].offset > offset:
                at -= 1
            placed.insert(at, life)
        return total

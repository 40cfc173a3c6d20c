"""Writes tests/optim/data/methods.json: what every optimiser but AdamW makes of six tensors in twenty steps, by torch, transformers,
schedulefree and bitsandbytes; test_methods.c and test_cuda.c compare with it.
python tests/tools/make_method_reference.py

torch's, transformers' and schedulefree's run in float64, AdEMAMix in float64 by bitsandbytes' plain class, which is held to agree with its
kernel; Lion in float32 by bitsandbytes. Muon is written out here by the published algorithm (github.com/microsoft/dion, spectral_norm), in
float64. States in 8 bits are written out by bitsandbytes' equations with its maps, as make_optim_reference.py has them for AdamW, each
range of neighbours with the same settings with blocks of its own; what bitsandbytes' own code for processors makes of the same is beside it, and how far it is from float32."""
import json, math, os, pathlib
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
import bitsandbytes, numpy, schedulefree, torch, transformers
from bitsandbytes.functional import create_dynamic_map
from bitsandbytes.optim.ademamix import _ReferenceAdEMAMix

OUT = pathlib.Path(__file__).parents[1] / "optim" / "data" / "methods.json"
SHAPES = [(5, 6), (6, 3), (4,), (1, 6), (3, 3), (5, 1)]
DECAYS, MULTIPLIERS = [0.1, 0.1, 0.0, 0.0, 0.01, 0.01], [1.0, 4.0, 1.0, 1.0, 1.0, 0.5]
SIZES = [math.prod(shape) for shape in SHAPES]
STEPS, RATE, KEPT, BLOCK = 20, 0.05, [2, 20], 256
random = numpy.random.default_rng(5)
EXPONENTS = random.integers(-10, -5, sum(SIZES))
NUMBERS = numpy.rint(random.normal(0, 40, sum(SIZES)) + random.normal(0, 60, (STEPS, sum(SIZES)))).astype(int)
NUMBERS *= random.random(NUMBERS.shape) < 0.95
GRADIENTS = NUMBERS * 2.0**EXPONENTS
INITIAL = numpy.rint(random.normal(0, 300, sum(SIZES))) / 1024
RATES = [RATE * (1 - step / 40) for step in range(STEPS)]  # of a schedule


def split(flat):
    return numpy.split(flat, numpy.cumsum(SIZES)[:-1])


def flat(parameters):
    return numpy.concatenate([p.detach().double().numpy().flatten() for p in parameters])


def run(make, dtype=torch.float64, multipliers=True, has_rate=True, average=False):
    parameters = [torch.nn.Parameter(torch.tensor(x, dtype=dtype).reshape(shape)) for x, shape in zip(split(INITIAL), SHAPES)]
    many = MULTIPLIERS if multipliers else [1.0] * len(SHAPES)
    groups = [dict(params=[p], weight_decay=decay) | (dict(lr=RATE * m) if has_rate else {}) for p, decay, m in zip(parameters, DECAYS, many)]
    optimizer = make(groups)
    history, averages = [], []
    if average:
        optimizer.train()
    for step in range(STEPS):
        for group, m in zip(optimizer.param_groups, many):
            if has_rate:
                group["lr"] = RATES[step] * m
        for p, g in zip(parameters, split(GRADIENTS[step])):
            p.grad = torch.tensor(g, dtype=dtype).reshape(p.shape)
        optimizer.step()
        history.append(flat(parameters))
        if average:
            optimizer.eval()
            averages.append(flat(parameters))
            optimizer.train()
    return (numpy.stack(history), numpy.stack(averages)) if average else numpy.stack(history)


COEFFICIENTS = [(4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037), (2.8769, -3.1427, 1.2046), (2.8366, -3.0525, 1.2012)]


class Muon(torch.optim.Optimizer):
    def __init__(self, groups, momentum, nesterov, factor):
        self.factor = factor
        super().__init__(groups, dict(lr=RATE, weight_decay=0.0, momentum=momentum, nesterov=nesterov))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            (p,) = group["params"]
            m = self.state[p].setdefault("m", torch.zeros_like(p))
            m.mul_(group["momentum"]).add_(p.grad)
            u = m * group["momentum"] + p.grad if group["nesterov"] else m.clone()
            u = u.T if p.shape[0] > p.shape[1] else u
            u = u / (u.norm() + 1e-8)
            for a, b, c in COEFFICIENTS:
                gram = u @ u.T
                u = a * u + (b * gram + c * gram @ gram) @ u
            u = u.T if p.shape[0] > p.shape[1] else u
            p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(u * group["lr"] * self.factor(*p.shape))


class Mixed:
    """Muon for matrices and torch's AdamW for the rest."""
    def __init__(self, groups, betas, **arguments):
        is_matrix = lambda group: min(group["params"][0].shape) > 1 and group["params"][0].ndim == 2
        self.parts = [Muon([g for g in groups if is_matrix(g)], **arguments), torch.optim.AdamW([g for g in groups if not is_matrix(g)], betas=betas, eps=1e-8)]
        by_parameter = {id(g["params"][0]): g for part in self.parts for g in part.param_groups}
        self.param_groups = [by_parameter[id(g["params"][0])] for g in groups]

    def step(self):
        for part in self.parts:
            part.step()


MAPS = [create_dynamic_map(signed=signed).numpy() for signed in (True, False)]


def quantized(x, signed):
    """x in 8 bits and back: of its block's levels the nearest, which middles in float32 tell and ties to even, as bitsandbytes' kernels; but
    what is below zero does not become zero, nor without signs what is above."""
    levels, out = MAPS[not signed], []
    middles = (levels[:-1] + levels[1:]) * numpy.float32(0.5)
    for block in numpy.split(x.astype(numpy.float32), range(BLOCK, len(x), BLOCK)):
        scale = numpy.abs(block).max()
        if scale == 0:
            out.append(numpy.zeros_like(block))
            continue
        ratios = block / scale
        codes = numpy.searchsorted(middles, ratios, side="left")
        codes += numpy.isin(ratios, middles) & (codes % 2 == 1)
        zero = levels[codes] == 0
        codes += (zero & (ratios > 0) & (not signed)).astype(int) - (zero & (ratios < 0))
        out.append(levels[codes] * scale)
    return numpy.concatenate(out)


def coded_run(rule, signs):
    history = []
    first = [i for i in range(len(SIZES)) if i == 0 or (DECAYS[i], MULTIPLIERS[i]) != (DECAYS[i - 1], MULTIPLIERS[i - 1])]
    ranges = lambda flat: numpy.split(flat, [sum(SIZES[:i]) for i in first[1:]])  # neighbours of the same settings have blocks in common
    pieces = [(p.astype(numpy.float32), [numpy.zeros(len(p), numpy.float32)] * len(signs)) for p in ranges(INITIAL)]
    for step in range(STEPS):
        after = []
        for (p, states), g, decay, multiplier in zip(pieces, ranges(GRADIENTS[step]), [DECAYS[i] for i in first], [MULTIPLIERS[i] for i in first]):
            p, states = rule(p.astype(numpy.float64), [s.astype(numpy.float64) for s in states], g, RATES[step] * multiplier, decay, step + 1)
            after.append((p.astype(numpy.float32), [quantized(s, sign) for s, sign in zip(states, signs)]))
        pieces = after
        history.append(numpy.concatenate([p for p, _ in pieces]).astype(numpy.float64))
    return numpy.stack(history)


def lion_rule(p, states, g, rate, decay, step):
    (m,) = states
    return p * (1 - rate * decay) - rate * numpy.sign(0.9 * m + (1 - 0.9) * g), [0.99 * m + (1 - 0.99) * g]


def ademamix_rule(p, states, g, rate, decay, step):
    m, slow, v = states
    m, slow, v = 0.9 * m + (1 - 0.9) * g, 0.999 * slow + (1 - 0.999) * g, 0.99 * v + (1 - 0.99) * g * g
    update = (m / (1 - 0.9**step) + 3 * slow) / (numpy.sqrt(v) / math.sqrt(1 - 0.99**step) + 1e-8)
    return p * (1 - rate * decay) - rate * update, [m, slow, v]


def rmsprop_rule(p, states, g, rate, decay, step):
    h, (v,) = g + decay * p, states
    v = 0.9 * v + (1 - 0.9) * h * h
    return p - rate * h / (numpy.sqrt(v) + 1e-8), [v]


def rounded(values):
    return [float(f"{x:.9g}") for x in values.flatten().tolist()]


cases = []


def add(optimizer, history, arguments=None, multipliers=True, **more):
    """`arguments` are optim_args and, as beta1, beta2, beta3, the recipe's own keys."""
    kept = history[[step - 1 for step in KEPT]]
    cases.append(dict(optimizer=optimizer, arguments=arguments or {}, multipliers=multipliers, parameters=rounded(kept)) | more)


def moved(a, b):
    """The mean distance of two ends, to how far the second is from the beginning."""
    return float(numpy.abs(a[-1] - b[-1]).mean() / numpy.abs(b[-1] - INITIAL).mean())


def largest(a, b):
    return float(max(numpy.abs(a[step - 1] - b[step - 1]).max() / numpy.abs(b[step - 1] - INITIAL).max() for step in KEPT))


bnb, plain = bitsandbytes.optim, dict(dtype=torch.float32)
lion = run(lambda groups: bnb.Lion32bit(groups, betas=(0.9, 0.99)), **plain)
add("lion_32bit", lion, dict(beta1=0.9, beta2=0.99))
add("lion_pytorch", lion, dict(beta1=0.9, beta2=0.99))
slow = dict(betas=(0.9, 0.99, 0.999), alpha=3.0)
mixed = run(lambda groups: _ReferenceAdEMAMix(groups, **slow))
assert moved(run(lambda groups: bnb.AdEMAMix(groups, min_8bit_size=10**9, **slow), **plain), mixed) < 1e-6
add("ademamix", mixed, dict(beta1=0.9, beta2=0.99, beta3=0.999, alpha=3))
rising = run(lambda groups: _ReferenceAdEMAMix(groups, t_alpha=15, t_beta3=12, **slow))
assert moved(run(lambda groups: bnb.AdEMAMix(groups, min_8bit_size=10**9, t_alpha=15, t_beta3=12, **slow), **plain), rising) < 1e-6
add("paged_ademamix_32bit", rising, dict(beta1=0.9, beta2=0.99, beta3=0.999, alpha=3, t_alpha=15, t_beta3=12))
add("sgd", run(lambda groups: torch.optim.SGD(groups)))
add("sgd", run(lambda groups: torch.optim.SGD(groups, momentum=0.9, dampening=0.25)), dict(momentum=0.9, dampening=0.25))
add("sgd", run(lambda groups: torch.optim.SGD(groups, momentum=0.8, nesterov=True)), dict(momentum=0.8, nesterov="True"))
add("rmsprop", run(lambda groups: torch.optim.RMSprop(groups)))
add("rmsprop_bnb", run(lambda groups: bnb.RMSprop32bit(groups, alpha=0.9), **plain), dict(alpha=0.9))
add("adagrad", run(lambda groups: torch.optim.Adagrad(groups)))
add("adagrad", run(lambda groups: torch.optim.Adagrad(groups, lr_decay=0.1, eps=1e-6)), dict(lr_decay=0.1, eps=1e-6))
add("adafactor", run(lambda groups: transformers.Adafactor(groups, scale_parameter=False, relative_step=False)))
add("adafactor", run(lambda groups: transformers.Adafactor(groups, scale_parameter=True, relative_step=False, clip_threshold=0.5, decay_rate=-0.6)),
    dict(scale_parameter="true", clip_threshold=0.5, decay_rate=-0.6))
for warmup in (False, True):
    make = lambda groups: transformers.Adafactor(groups, scale_parameter=True, relative_step=True, warmup_init=warmup)
    exact = run(make, multipliers=False, has_rate=False)  # a way so short that float32 shows in it
    error = largest(run(make, multipliers=False, has_rate=False, **plain), exact)
    add("adafactor", exact, dict(scale_parameter="true", relative_step="true", warmup_init=str(warmup)), multipliers=False, float32_error=error)
for warmup, power, weight_power in ((0, 0.0, 2.0), (5, 0.5, 1.0)):
    make = lambda groups: schedulefree.AdamWScheduleFree(groups, betas=(0.9, 0.99), warmup_steps=warmup, r=power, weight_lr_power=weight_power, foreach=False)
    history, averages = run(make, average=True)
    add("schedule_free_adamw", history, dict(beta1=0.9, beta2=0.99, r=power, weight_lr_power=weight_power), warmup_steps=warmup,
        averages=rounded(averages[[step - 1 for step in KEPT]]))
spectral = lambda rows, columns: math.sqrt(rows / columns)
for arguments, factor in ((dict(momentum=0.95, nesterov=True), spectral), (dict(momentum=0.9, nesterov=False), lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)))):
    make = lambda groups: Mixed(groups, (0.9, 0.99), factor=factor, **arguments)
    exact = run(make)
    error = largest(run(make, **plain), exact)
    own = {} if arguments["nesterov"] else dict(mu=0.9, nesterov="false", adjust_lr="rms_norm")
    add("muon", exact, dict(beta1=0.9, beta2=0.99) | own, float32_error=error)
eight = lambda method, **arguments: run(lambda groups: method(groups, min_8bit_size=1, **arguments), **plain)
for name, rule, signs, arguments, theirs, exact in (
        ("lion_8bit", lion_rule, [True], dict(beta1=0.9, beta2=0.99), eight(bnb.Lion8bit, betas=(0.9, 0.99)), lion),
        ("ademamix_8bit", ademamix_rule, [True, True, False], dict(beta1=0.9, beta2=0.99, beta3=0.999, alpha=3), eight(bnb.AdEMAMix8bit, **slow), mixed),
        ("rmsprop_bnb_8bit", rmsprop_rule, [False], dict(alpha=0.9), eight(bnb.RMSprop8bit, alpha=0.9), run(lambda groups: bnb.RMSprop32bit(groups, alpha=0.9), **plain))):
    ours = coded_run(rule, signs)
    distances = {"ours to bitsandbytes": moved(ours, theirs), "bitsandbytes to float32": moved(theirs, exact), "ours to float32": moved(ours, exact)}
    print(name, distances)
    add(name, ours, arguments, bitsandbytes=rounded(theirs[-1]), bitsandbytes_to_float32=distances["bitsandbytes to float32"])

OUT.write_text(json.dumps(dict(
    torch=torch.__version__, transformers=transformers.__version__, bitsandbytes=bitsandbytes.__version__, schedulefree="1.4.1",
    shapes=[list(shape) if len(shape) == 2 else [1, *shape] for shape in SHAPES], decays=DECAYS, multipliers=MULTIPLIERS, rates=RATES, steps=KEPT,
    exponents=EXPONENTS.tolist(), numbers=NUMBERS.flatten().tolist(), initial=(INITIAL * 1024).astype(int).tolist(), cases=cases),
    separators=(",", ":")) + "\n")

"""Writes tests/optim/data/schedules.json, adamw.json and adamw_8bit.json with torch, transformers and bitsandbytes: what
test_schedule.c, test_optimizer.c and test_adamw_8bit.c compare with.
python tests/tools/make_optim_reference.py [schedules] [adamw] [adamw_8bit]"""
import json, os, pathlib, sys
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # bitsandbytes' plain version as it is written
import numpy, torch, transformers
from transformers import optimization as hf

OUT = pathlib.Path(__file__).parents[1] / "optim" / "data"


def rounded(values, digits):
    return [float(f"{x:.{digits}g}") for x in values.flatten().tolist()]


def factors(make, count, rate=1.0, **kwargs):
    """The learning rate that LambdaLR gives an optimiser at each of `count` steps, over its own."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    scheduler = make(optimizer, **kwargs)
    out = []
    for _ in range(count):
        out.append(scheduler.get_last_lr()[0] / rate)
        optimizer.step()
        scheduler.step()
    return out


def one_cycle(steps, warmup, rate, arguments):
    """The factors and the beta1 of torch's OneCycleLR, set up as Axolotl does: pct_start is the warm-up's share."""
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=rate)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps, **(dict(pct_start=warmup / steps) | arguments))
    out, momenta = [], []
    for step in range(steps):
        out.append(scheduler.get_last_lr()[0] / rate)
        momenta.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        if step + 1 < steps:
            scheduler.step()
    return out, momenta


def rex(steps, warmup, count, least):
    """REX (Chen et al. 2021) with alpha = 0.1, beta = 0.9, as Axolotl's RexLR steps: its warm-up begins at step 1."""
    out = []
    for step in range(count):
        after, left = step - warmup, steps - warmup
        if 1 <= step <= warmup:
            out.append(step / warmup)
        elif after >= left or after == -1 or left <= 0:
            out.append(least)
        else:
            z = (left - after % left) / left
            out.append(least + (1 - least) * z / (0.1 + 0.9 * z))
    return out


def further_schedules(add, steps, warmup, count):
    both = dict(num_warmup_steps=warmup, num_training_steps=steps)
    rate = 3e-4
    def of(kind, make, rate=1.0, warm=both, **arguments):
        add(kind, factors(make, count, rate=rate, **warm, **arguments), arguments=arguments, rate=rate)
    for cycles in (1, 3):
        of("cosine_with_restarts", hf.get_cosine_with_hard_restarts_schedule_with_warmup, num_cycles=cycles)
    of("cosine_with_min_lr", hf.get_cosine_with_min_lr_schedule_with_warmup, min_lr_rate=0.1)
    of("cosine_with_min_lr", hf.get_cosine_with_min_lr_schedule_with_warmup, rate, min_lr=1e-5, num_cycles=1.25)
    of("cosine_warmup_with_min_lr", hf.get_cosine_with_min_lr_schedule_with_warmup_lr_rate, min_lr_rate=0.1)
    of("cosine_warmup_with_min_lr", hf.get_cosine_with_min_lr_schedule_with_warmup_lr_rate, rate, min_lr=1e-5, warmup_lr_rate=0.2)
    if warmup < steps:
        of("polynomial", hf.get_polynomial_decay_schedule_with_warmup, rate)
        of("polynomial", hf.get_polynomial_decay_schedule_with_warmup, rate, lr_end=1e-5, power=2.5)
    of("inverse_sqrt", hf.get_inverse_sqrt_schedule, warm=dict(num_warmup_steps=warmup))
    of("inverse_sqrt", hf.get_inverse_sqrt_schedule, warm=dict(num_warmup_steps=warmup), timescale=100)
    wsd = hf.get_wsd_schedule
    of("warmup_stable_decay", wsd, num_decay_steps=10)
    of("warmup_stable_decay", wsd, num_decay_steps=7, num_stable_steps=5, decay_type="1-sqrt", warmup_type="cosine", min_lr_ratio=0.1)
    of("warmup_stable_decay", wsd, num_decay_steps=20, decay_type="linear", warmup_type="1-sqrt")
    for arguments in ({}, dict(anneal_strategy="linear", div_factor=10.0, final_div_factor=100.0, base_momentum=0.8), dict(three_phase=True, pct_start=0.3)):
        if warmup <= steps:
            values, momenta = one_cycle(steps, warmup, rate, arguments)
            add("one_cycle", values, arguments=arguments, rate=rate, momenta=momenta)
    add("rex", rex(steps, warmup, count, 0))
    add("rex", rex(steps, warmup, count, 0.1), min=0.1)
    # Axolotl's lr_quadratic_warmup, which no minimum changes.
    values = factors(hf.get_cosine_schedule_with_warmup, count, **both)
    add("cosine", [value * value if step < warmup else value for step, value in enumerate(values)], quadratic=True, min=0.1)


def adder(cases, steps, warmup):
    return lambda kind, values, **more: cases.append(dict(kind=kind, steps=steps, warmup_steps=warmup, factors=values) | more)


def schedules():
    cases = []
    corners = [(50, 0), (50, 1), (50, 2), (50, 10), (50, 49), (50, 50), (50, 80), (1, 0), (1, 2), (2, 1), (7, 3), (50, 5)]
    for steps, warmup in corners:
        count = max(steps, 50) + 5  # beyond the end as well
        both = dict(num_warmup_steps=warmup, num_training_steps=steps)
        add = adder(cases, steps, warmup)
        add("constant", factors(hf.get_constant_schedule, count))
        add("constant_with_warmup", factors(hf.get_constant_schedule_with_warmup, count, num_warmup_steps=warmup))
        add("linear", factors(hf.get_linear_schedule_with_warmup, count, **both))
        add("cosine", factors(hf.get_cosine_schedule_with_warmup, count, **both))
        add("cosine", factors(hf.get_cosine_schedule_with_warmup, count, **both, num_cycles=1.25), cycles=1.25)
        minimum = hf.get_cosine_with_min_lr_schedule_with_warmup
        add("cosine", factors(minimum, count, **both, min_lr_rate=0.1), min=0.1)
        # Axolotl's cosine_constant_lr_ratio: the schedule of the shorter run, whose last value then stays.
        short = int(steps * 0.75)
        if warmup < short:
            values = factors(minimum, count, num_warmup_steps=warmup, num_training_steps=short, min_lr_rate=0.2)
            add("cosine", values[:short + 1] + [values[short]] * (count - short - 1), min=0.2, constant=0.75)
    for steps, warmup in [(20, 0), (20, 2), (20, 6), (20, 20), (7, 3), (12, 15)]:
        further_schedules(adder(cases, steps, warmup), steps, warmup, steps + 3)
    return dict(transformers=transformers.__version__, torch=torch.__version__, cases=cases)


def adamw_run(dtype, initial, gradients, groups, settings, max_norm):
    parameters = [torch.nn.Parameter(initial[a:b].clone().to(dtype)) for a, b, _, _ in groups]
    optimizer = torch.optim.AdamW(
        [dict(params=[p], weight_decay=wd, lr=settings["lr"] * multiplier) for p, (_, _, wd, multiplier) in zip(parameters, groups)],
        betas=(settings["beta1"], settings["beta2"]), eps=settings["epsilon"])
    scheduler = hf.get_cosine_schedule_with_warmup(optimizer, 3, len(gradients))
    norms, history = [], []
    for gradient in gradients:
        for p, (a, b, _, _) in zip(parameters, groups):
            p.grad = gradient[a:b].clone().to(dtype)
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, max_norm if max_norm > 0 else float("inf"))))
        optimizer.step()
        scheduler.step()
        history.append(torch.cat([p.detach() for p in parameters]).double())
    m, v = (torch.cat([optimizer.state[p][key] for p in parameters]).double() for key in ("exp_avg", "exp_avg_sq"))
    return dict(norms=torch.tensor(norms, dtype=torch.float64), parameters=torch.stack(history), m=m, v=v)


def adamw():
    torch.manual_seed(1)
    count, steps = 40, 20
    initial = torch.randn(count)
    # Gradients over several orders of magnitude, so that some steps are clipped and some are not; one element gets none.
    gradients = torch.randn(steps, count) * torch.logspace(-3, 1, count) * torch.linspace(0.02, 2, steps)[:, None]
    gradients[:, 7] = 0
    groups = [(0, 17, 0.1, 1.0), (17, 30, 0.0, 1.0), (30, 40, 0.01, 16.0)]
    settings = dict(lr=1e-2, beta1=0.9, beta2=0.999, epsilon=1e-8)
    cases = []
    for max_norm in (0.0, 1.0):
        exact = adamw_run(torch.float64, initial, gradients, groups, settings, max_norm)
        plain = adamw_run(torch.float32, initial, gradients, groups, settings, max_norm)
        # What float32 costs torch itself, relative in the max norm: the test allows twice as much.
        error = {key: float((plain[key] - exact[key]).abs().max() / exact[key].abs().max()) for key in exact}
        cases.append(dict(max_grad_norm=max_norm, float32_error=error) | {key: rounded(value, 12) for key, value in exact.items()})
    return dict(torch=torch.__version__, settings=settings, warmup_steps=3, groups=groups, initial=rounded(initial, 9),
                gradients=rounded(gradients, 9), cases=cases)


BLOCK = 256


def search(levels, x, signed):
    """The code of x in float32 as bitsandbytes' blockwise kernels for GPUs find it: seven halvings around code 127, whose steps leave
    only even codes, then that one or its neighbour by the middle between them, and no zero for what is below it."""
    code, below, above = 127, numpy.float32(-1 if signed else 0), numpy.float32(1)
    lower, upper = 0, 255
    for step in (64, 32, 16, 8, 4, 2, 1):
        if x > levels[code]:
            lower, below, code = code, levels[code], code + step
        else:
            upper, above, code = code, levels[code], code - step
    if x > levels[code]:
        found = upper if x > (above + levels[code]) * numpy.float32(0.5) else code
    else:
        found = lower if x < (below + levels[code]) * numpy.float32(0.5) else code
    return found - 1 if signed and x < 0 and levels[found] == 0 else found


def code_of(levels, x, signed):
    """The same, but that no v above zero becomes zero."""
    return 1 if not signed and x > 0 and search(levels, x, signed) == 0 else search(levels, x, signed)


def quantize(x, levels, signed):
    codes, scales = [], []
    for block in numpy.split(x, range(BLOCK, len(x), BLOCK)):
        scale = numpy.abs(block).max()
        scales.append(scale)
        codes += [code_of(levels, value / scale, signed) if scale > 0 else 0 for value in block]
    return numpy.array(codes), numpy.array(scales, numpy.float32)


def stored_run(initial, gradients, settings, decay, rate, maps):
    """AdamW with moments in 8 bits, which are read, updated in float64 and rounded to float32 before they are coded."""
    p, count = initial.copy(), len(initial)
    codes = [numpy.zeros(count, int)] * 2
    scales = [numpy.zeros(-(-count // BLOCK), numpy.float32)] * 2
    beta1, beta2, history = settings["beta1"], settings["beta2"], []
    for step, g in enumerate(gradients.astype(numpy.float64), 1):
        m, v = ((maps[k][codes[k]] * numpy.repeat(scales[k], BLOCK)[:count]).astype(numpy.float64) for k in range(2))
        m = m + (1 - beta1) * (g - m)
        v = beta2 * v + (1 - beta2) * g * g
        decayed = p.astype(numpy.float64) * (1 - rate * decay)
        p = (decayed - rate / (1 - beta1**step) * m / (numpy.sqrt(v) / numpy.sqrt(1 - beta2**step) + settings["epsilon"])).astype(numpy.float32)
        coded = [quantize(x.astype(numpy.float32), maps[k], k == 0) for k, x in enumerate((m, v))]
        codes, scales = [c for c, _ in coded], [s for _, s in coded]
        history.append(p)
    return numpy.stack(history), codes, scales


def torch_run(make, initial, gradients, groups, settings):
    """Parameters after every step of a torch optimiser; each group is a tensor of its own, and so has blocks of its own."""
    parameters = [torch.nn.Parameter(torch.tensor(initial[a:b])) for a, b, _, _ in groups]
    optimizer = make([dict(params=[p], weight_decay=wd, lr=settings["lr"] * multiplier) for p, (_, _, wd, multiplier) in zip(parameters, groups)],
                     betas=(settings["beta1"], settings["beta2"]), eps=settings["epsilon"])
    history = []
    for gradient in gradients:
        for p, (a, b, _, _) in zip(parameters, groups):
            p.grad = torch.tensor(gradient[a:b])
        optimizer.step()
        history.append(torch.cat([p.detach() for p in parameters]).numpy().copy())
    return numpy.stack(history)


def adamw_8bit(spread=0):
    import bitsandbytes
    from bitsandbytes.functional import create_dynamic_map
    from bitsandbytes.backends.triton import kernels_optim
    maps = [create_dynamic_map(signed=signed).numpy() for signed in (True, False)]
    random, steps, count = numpy.random.default_rng(3), 20, 330
    groups = [(0, 290, 0.1, 1.0), (290, 300, 0.0, 1.0), (300, 330, 0.01, 4.0)]  # two blocks, the second short; short ones
    settings = dict(lr=1e-2, beta1=0.9, beta2=0.999, epsilon=1e-8)
    # Gradients as whole numbers times a power of two of their own, over a decade and a half, with a drift; some are zero, one always.
    exponents = random.integers(-11 - spread, -6, count)
    drift = random.normal(0, 40, count)
    numbers = numpy.rint(drift + random.normal(0, 60, (steps, count))).astype(int) * (random.random((steps, count)) < 0.95)
    numbers[:, 7] = 0
    gradients = (numbers * 2.0**exponents).astype(numpy.float32)
    initial = numpy.rint(random.normal(0, 300, count)).astype(numpy.float32) / 1024

    runs = [stored_run(initial[a:b], gradients[:, a:b], settings, wd, settings["lr"] * multiplier, maps) for a, b, wd, multiplier in groups]
    history = numpy.concatenate([run[0] for run in runs], 1)
    make = lambda *arguments, **kwargs: bitsandbytes.optim.AdamW8bit(*arguments, min_8bit_size=1, **kwargs)
    processor = torch_run(make, initial, gradients, groups, settings)
    # The same optimiser by bitsandbytes' plain version, which looks for the nearest of all levels; its code for processors rounds to one of
    # 65,536 steps first, which takes away most of the small levels.
    plain_step = kernels_optim.optimizer_update_8bit_blockwise_pytorch
    def step(name, g, p, *state):
        plain_step(p, g, *state, optimizer_name=name)
    kept = torch.ops.bitsandbytes.optimizer_update_8bit_blockwise
    torch.ops.bitsandbytes.optimizer_update_8bit_blockwise = step
    plain = torch_run(make, initial, gradients, groups, settings)
    torch.ops.bitsandbytes.optimizer_update_8bit_blockwise = kept
    exact = torch_run(torch.optim.AdamW, initial, gradients, groups, settings)

    def distance(a, b):  # to how far float32 AdamW has gone
        return float(numpy.abs(a[-1] - b[-1]).mean() / numpy.abs(exact[-1] - initial).mean())
    distances = {"stored to plain": distance(history, plain), "stored to processor": distance(history, processor),
                 "plain to processor": distance(plain, processor), "stored to float32": distance(history, exact),
                 "plain to float32": distance(plain, exact), "processor to float32": distance(processor, exact)}
    print("gradients from 1 to", 2 ** (4 + spread), distances)
    middles = [(levels[:-1] + levels[1:]) * numpy.float32(0.5) for levels in maps]
    kept_steps = [0, 4, 9, 19]
    return dict(bitsandbytes=bitsandbytes.__version__, settings=settings, groups=groups, exponents=exponents.tolist(),
                numbers=numbers.flatten().tolist(), initial=(initial * 1024).astype(int).tolist(),
                levels=[rounded(torch.tensor(levels), 9) for levels in maps],
                ties=[[code_of(maps[k], x, k == 0) for x in middles[k]] for k in range(2)],
                steps=[step + 1 for step in kept_steps], parameters=rounded(torch.tensor(history[kept_steps]), 9),
                codes=[numpy.concatenate([run[1][k] for run in runs]).tolist() for k in range(2)],
                scales=[rounded(torch.tensor(numpy.concatenate([run[2][k] for run in runs])), 9) for k in range(2)],
                bitsandbytes_plain=rounded(torch.tensor(plain[kept_steps]), 7), bitsandbytes_cpu=rounded(torch.tensor(processor[-1]), 7),
                torch=rounded(torch.tensor(exact[-1]), 7), distances=distances)


makers = dict(schedules=schedules, adamw=adamw, adamw_8bit=adamw_8bit)
for name in sys.argv[1:] or makers:
    if name == "adamw_8bit":
        adamw_8bit(spread=6)  # to see: where small gradients lie beside large ones
    (OUT / f"{name}.json").write_text(json.dumps(makers[name](), separators=(",", ":")) + "\n")

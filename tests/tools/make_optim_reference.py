"""Writes tests/optim/data/schedules.json and adamw.json with torch and transformers: what test_schedule.c and
test_optimizer.c compare with.  python tests/tools/make_optim_reference.py"""
import json, pathlib, torch, transformers
from transformers import optimization as hf

OUT = pathlib.Path(__file__).parents[1] / "optim" / "data"


def rounded(values, digits):
    return [float(f"{x:.{digits}g}") for x in values.flatten().tolist()]


def factors(make, count, **kwargs):
    """The learning rate that LambdaLR gives an optimiser with rate 1 at each of `count` steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer, **kwargs)
    out = []
    for _ in range(count):
        out.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return out


def schedules():
    cases = []
    corners = [(50, 0), (50, 1), (50, 2), (50, 10), (50, 49), (50, 50), (50, 80), (1, 0), (1, 2), (2, 1), (7, 3), (50, 5)]
    for steps, warmup in corners:
        count = max(steps, 50) + 5  # beyond the end as well
        both = dict(num_warmup_steps=warmup, num_training_steps=steps)
        def add(kind, values, **more):
            cases.append(dict(kind=kind, steps=steps, warmup_steps=warmup, factors=values) | more)
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
    return dict(transformers=transformers.__version__, cases=cases)


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


for name, value in (("schedules", schedules()), ("adamw", adamw())):
    (OUT / f"{name}.json").write_text(json.dumps(value, separators=(",", ":")) + "\n")

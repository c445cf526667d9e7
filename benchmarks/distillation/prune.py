"""A narrow network from the most important filters of a wide one.

Importance is Fisher information: the expected change of the loss without the filter (Theis et al., 2018).
"""

import numpy as np
import port as N
import torch


def filter_scores(wide, batches, autocast):
    """Fisher information of every filter by layer, over batches of images and maps."""
    outputs, scores = {}, dict.fromkeys(N.NAMES, 0.0)

    def keep(name):
        def hook(module, inputs, output):
            output.retain_grad()
            outputs[name] = output

        return hook

    hooks = [wide.layer(name).conv.register_forward_hook(keep(name)) for name in N.NAMES]
    for x, y in batches:
        wide.zero_grad(set_to_none=True)
        with autocast():
            loss = N.combined(y, wide(x)).sum()
        loss.backward()
        for name, output in outputs.items():
            share = (output.detach().float() * output.grad.float()).sum((2, 3))  # (B, filters)
            scores[name] = scores[name] + share.pow(2).sum(0)
    for hook in hooks:
        hook.remove()
    wide.zero_grad(set_to_none=True)
    return {name: score.cpu().numpy() for name, score in scores.items()}


@torch.no_grad()
def statistics(wide, batches, autocast):
    """Mean and standard deviation of every filter's output before ReLU, by layer."""
    sums = {name: [0.0, 0.0, 0] for name in N.NAMES}

    def add(name):
        def hook(module, inputs, output):
            output = output.float()
            total = sums[name]
            total[0] = total[0] + output.mean((0, 2, 3))
            total[1] = total[1] + output.pow(2).mean((0, 2, 3))
            total[2] += 1

        return hook

    hooks = [wide.layer(name).conv.register_forward_hook(add(name)) for name in N.NAMES]
    for x, _ in batches:
        with autocast():
            wide(x)
    for hook in hooks:
        hook.remove()
    means = {name: total[0] / total[2] for name, total in sums.items()}
    return {
        name: (mean, (sums[name][1] / sums[name][2] - mean**2).clamp(min=1e-6).sqrt()) for name, mean in means.items()
    }


def prune(wide, narrow, batches, autocast, seed=0, noise=0.3):
    """Fill a narrow network with filters of a wide one, and its normalization with the statistics that they had.

    Args:
        wide, narrow: networks; the wide one without batch normalization.
        batches: pairs of images and maps.
        seed, noise: of factors on the scores, so several seeds choose different filters.
    """
    scores, moments = filter_scores(wide, batches, autocast), statistics(wide, batches, autocast)
    random = np.random.default_rng(seed)
    kept = {}
    for name in N.NAMES:
        filters = narrow.layer(name).conv.out_channels
        score = scores[name] * np.exp(noise * random.standard_normal(scores[name].shape))
        kept[name] = np.sort(np.argsort(-score)[:filters])
    with torch.no_grad():
        for name in N.NAMES:
            offset, inputs = 0, []
            for source in N.SOURCES.get(name, []):
                inputs.append(kept[source] + offset)
                offset += wide.layer(source).conv.out_channels
            source, target = wide.layer(name), narrow.layer(name)
            out = torch.as_tensor(kept[name], device=source.conv.weight.device)
            kernel = source.conv.weight[out]
            if inputs:
                kernel = kernel[:, torch.as_tensor(np.concatenate(inputs), device=out.device)]
            target.conv.weight.copy_(kernel)
            if target.norm is None:
                target.conv.bias.copy_(source.conv.bias[out])
            else:
                target.conv.bias.zero_()
                target.norm.weight.copy_(moments[name][1][out])
                target.norm.bias.copy_(moments[name][0][out])

"""MAE-NAS: search a backbone by maximum entropy, without training and without a forward pass (section 3.1).

Read in this order: `space` (what may be built), `mutate` (a step), `cost` and `latency` (what it costs),
`entropy` (what it is worth), `evolve` (the loop), `pareto` (what to choose). Nothing here imports torch.
"""

"""The information plane of a linear network on a regression, whose exact I(Y;T) is known."""

import jax
import numpy as np
import optax
from flax import linen as nn

import mine_jax


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        hidden = nn.Dense(4, use_bias=False)(x)
        return {"hidden": hidden, "output": nn.Dense(1, use_bias=False)(hidden)}


rng = np.random.default_rng(0)
x = rng.normal(size=(400, 8))
y = x @ rng.normal(size=(8, 1)) + rng.normal(size=(400, 1))
model, optimizer = Network(), optax.adam(1e-2)
params = model.init(jax.random.key(0), x)
state = optimizer.init(params)
gradient = jax.jit(jax.grad(lambda params: ((model.apply(params, x)["output"] - y) ** 2).mean()))
recorder = mine_jax.Recorder(y, name="y = w·x + noise")
for step in range(301):
    if step in (0, 300):
        recorder.add(step, model.apply(params, x))
    updates, state = optimizer.update(gradient(params), state)
    params = optax.apply_updates(params, updates)
print(plane := recorder.plane())

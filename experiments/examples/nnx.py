"""The information plane of a Flax NNX model."""

import numpy as np
import optax
from flax import nnx

import mine_jax


class Model(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(10, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        hidden = nnx.tanh(self.first(x))
        return {"hidden": hidden, "logits": self.second(hidden)}


rng = np.random.default_rng(0)
y = rng.integers(0, 3, 800)
x = (rng.normal(size=(800, 10)) + 1.5 * np.eye(3, 10)[y]).astype(np.float32)
loss = lambda model: optax.softmax_cross_entropy_with_integer_labels(model(x)["logits"], y).mean()
model = Model(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
step = nnx.jit(lambda model, optimizer: optimizer.update(model, nnx.grad(loss)(model)))
recorder = mine_jax.Recorder(y)
for epoch in range(101):
    if epoch in (0, 100):
        recorder.add(epoch, model(x))
    step(model, optimizer)
print(plane := recorder.plane())

"""The information plane of a small transformer on tokens: which token comes twice as often?"""

import jax
import numpy as np
import optax
from flax import linen as nn

import mine_jax


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        h = nn.Embed(6, 16)(tokens) + self.param("at", nn.initializers.normal(0.1), (12, 16))
        attended = h + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(h))
        mixed = attended + nn.Dense(16)(nn.gelu(nn.Dense(32)(nn.LayerNorm()(attended))))
        return {"mixed": mixed, "logits": nn.Dense(6)(mixed.mean(axis=1))}


rng = np.random.default_rng(0)
y = rng.integers(0, 6, 500)  # comes up to six times among twelve tokens
tokens = np.where(rng.random((500, 12)) < 0.3, y[:, None], rng.integers(0, 6, (500, 12)))
model, optimizer = Transformer(), optax.adam(5e-3)
params = model.init(jax.random.key(0), tokens)
log_p = lambda params: nn.log_softmax(model.apply(params, tokens)["logits"])[np.arange(500), y]
gradient = jax.jit(jax.grad(lambda params: -log_p(params).mean()))
state = optimizer.init(params)
recorder = mine_jax.Recorder(y, name="the most frequent token")
for step in range(41):
    if step in (0, 40):
        recorder.add(step, model.apply(params, tokens))
    updates, state = optimizer.update(gradient(params), state)
    params = optax.apply_updates(params, updates)
print(plane := recorder.plane())

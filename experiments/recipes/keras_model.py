"""The information plane of a Keras 3 model: a probe model returns the layers."""

import keras
import numpy as np

import mine_jax

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
y = rng.integers(0, 3, 800)
x = (rng.normal(size=(800, 10)) + 1.5 * np.eye(3, 10)[y]).astype(np.float32)
hidden = keras.layers.Dense(8, activation="relu", name="hidden")
model = keras.Sequential([keras.Input((10,)), hidden, keras.layers.Dense(3, name="logits")])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(1e-2), loss)

# --- The recipe -----------------------------------------------------------------------------------

names = ("hidden", "logits")  # in the order of depth
probe = keras.Model(model.inputs, {name: model.get_layer(name).output for name in names})
recorder = mine_jax.Recorder(y, name="Keras model")


def record(epoch, logs=None):
    if epoch in (0, 20):  # the first and the last
        layers = probe.predict(x, verbose=0)  # in evaluation mode, in batches
        recorder.add(epoch + 1, {name: layers[name] for name in names})


callback = keras.callbacks.LambdaCallback(on_epoch_end=record)
model.fit(x, y, batch_size=80, epochs=21, verbose=0, callbacks=[callback])
plane = recorder.plane()
print(plane)

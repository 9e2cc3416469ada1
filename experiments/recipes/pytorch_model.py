"""The information plane of a PyTorch model: hooks keep the layers of the probed samples."""

import torch

import mine_jax

torch.manual_seed(0)
y = torch.randint(3, (800,))
x = torch.randn(800, 10) + 1.5 * torch.eye(3, 10)[y]
sizes = (torch.nn.Linear(10, 8), torch.nn.ReLU(inplace=True), torch.nn.Linear(8, 3))
model = torch.nn.Sequential(*sizes)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)


def train_one_epoch():
    model.train()
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


# --- The recipe -----------------------------------------------------------------------------------

layers, recorder = {}, mine_jax.Recorder(y, name="PyTorch model")
for name in ("0", "1", "2"):  # names of model.named_modules(), in the order of depth
    keep = lambda module, inputs, output, name=name: layers.update({name: output.detach().clone()})
    model.get_submodule(name).register_forward_hook(keep)  # a copy: ReLU may work in place
for epoch in range(101):
    if epoch in (0, 100):
        model.eval()  # dropout and batch normalization must stand still
        with torch.no_grad():
            model(x)  # the same samples in the same order each time
        recorder.add(epoch, {name: output.cpu() for name, output in layers.items()})
    train_one_epoch()
plane = recorder.plane()
print(plane)

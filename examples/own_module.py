"""Take a layer of your own network apart, and set the result beside its controls: seconds on a laptop, no download.

The tutorial `docs/tutorial/notebook.md` explains each step. Each `# %%` begins a cell for editors that know them.
"""
# ruff: noqa: T201 - an example prints

# %% A network of your own: any torch.nn.Module
import pyarrow.compute as pc
import torch
from torch import nn

import unweave


class SmallCNN(nn.Module):
    """Two convolutions on 8×8 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(32 * 4 * 4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images in [0, 1]."""
        x = torch.relu(self.conv1(x))
        x = torch.relu(self.pool(self.conv2(x)))
        return self.head(x.flatten(1))


# %% Train it as you always do; Unweave has no part in this
train_images = unweave.Digits().load("train")
test_images = unweave.Digits().load("test")

torch.manual_seed(0)
net = SmallCNN()
optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
for _ in range(10):
    for index in torch.randperm(len(train_images)).split(64):
        pixels = train_images.pixels(index).float() / 255
        loss = nn.functional.cross_entropy(net(pixels), train_images.labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

# %% Capture one layer: a row for each place of the feature map
train_rows = unweave.capture(net, train_images, at="conv2", rows="position", out="runs/own-module/train-rows")
test_rows = unweave.capture(net, test_images, at="conv2", rows="position", out="runs/own-module/test-rows")
print(train_rows)
print("the row after the first image:", train_rows.example[64].item(), train_rows.position[64].item())

# %% Train a dictionary of the rows
sae = unweave.train(
    train_rows,
    unweave.TopK(d_sae=128, k=4),
    unweave.Training(epochs=8, learning_rate=2e-3),
    out="runs/own-module/sae",
)
print({name: round(column[-1], 4) for name, column in sae.history.items()})

# %% What was trained is on disk, and reads back with the same bits
again = unweave.load("runs/own-module/sae")
rows = test_rows.rows(0, 64)
print("same codes:", torch.equal(again.encode(rows), sae.encode(rows)))
print("hook point:", again.hook_name, "- directions:", tuple(again.directions().shape))

# %% Judge it on held-out rows
atlas = unweave.analyze(sae, test_rows, images=test_images)
for name in ("dictionary/explained_variance", "dictionary/l0", "dictionary/live", "dictionary/dead"):
    print(f"{name:32} {atlas.metrics[name]:.4g}")

# %% The latents are a table
best = atlas.latents.sort_by([("average_precision", "descending")])
print(f"{'latent':>6} {'rate':>7} {'bits':>7} {'q':>7} {'class':>5} {'precision':>9}")
for row in best.slice(0, 5).to_pylist():
    numbers = f"{row['rate']:7.4f} {row['mutual_information']:7.4f} {row['q']:7.4f}"
    print(f"{row['latent']:6} {numbers} {row['best_class']:5} {row['average_precision']:9.3f}")

# %% One latent at a glance
latent = best["latent"][0].as_py()
atlas.show(latent).savefig("runs/own-module/latent.png")

# %% Where in the images does it fire strongest?
strongest = atlas.examples.filter((pc.field("latent") == latent) & (pc.field("order") == "value"))
for hit in strongest.slice(0, 3).to_pylist():
    print(hit)

# %% The same measurements on the controls, with as many active latents a row
k = round(atlas.metrics["dictionary/l0"])
conditions = {
    "dictionary": atlas,
    "neurons": unweave.analyze(unweave.train(train_rows, unweave.Neurons(k=k)), test_rows),
    "pca": unweave.analyze(unweave.train(train_rows, unweave.PCA(k=k)), test_rows),
    "random": unweave.analyze(unweave.train(train_rows, unweave.RandomDirections(d_sae=128, k=k)), test_rows),
}
measures = (
    "dictionary/explained_variance",
    "labels/mutual_information_mean",
    "labels/top_class_share_median",
    "labels/top_examples_purity_mean",
    "labels/average_precision_mean",
)
print(f"{'':34}" + "".join(f"{name:>11}" for name in conditions))
for measure in measures:
    print(f"{measure:34}" + "".join(f"{each.metrics[measure]:11.3f}" for each in conditions.values()))

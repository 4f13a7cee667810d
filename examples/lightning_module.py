"""Train a video classifier with Lightning, and print its accuracy on held-out videos.

pip install lightning 'st-adapter[demo]'
python examples/lightning_module.py my_videos/
"""

import argparse

import lightning
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import st_adapter


class Classifier(lightning.LightningModule):
    """An image model with adapters; only the adapters and the head are trained."""

    def __init__(self, config, labels):
        super().__init__()
        self.config = config
        self.model = st_adapter.create_model(
            config.backbone, labels, weights=config.weights, clip=config.clip
        )

    def training_step(self, batch, batch_index):
        clips, targets = batch
        loss = cross_entropy(self.model(clips), targets)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_index):
        clips, targets = batch
        correct = (self.model(clips).argmax(1) == targets).float()
        self.log("accuracy", correct.mean(), batch_size=len(targets), prog_bar=True)

    def configure_optimizers(self):
        return st_adapter.make_optimizer(self.model, self.config)


def main(folder, out, epochs, size):
    """Train on a folder with one folder of videos per class; save the adapter in `out`."""
    lightning.seed_everything(0)
    config = st_adapter.TrainConfig(
        backbone="tf_efficientnet_lite0",
        weights="package",  # leave it out to download weights, and for other image models
        size=size,
        batch_size=4,
        lr=3e-3,
    )
    data = st_adapter.read_parts(folder, config)
    transform = st_adapter.TrainTransform(size=size)
    training = st_adapter.ClipDataset(data.train, config.clip, transform)
    held_out = st_adapter.ClipDataset(data.val, config.clip)

    classifier = Classifier(config, data.labels)
    trainer = lightning.Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    trainer.fit(classifier, DataLoader(training, config.batch_size, shuffle=True))
    (measured,) = trainer.validate(classifier, DataLoader(held_out, config.batch_size))
    print(f"accuracy {measured['accuracy']:.1%} on {len(held_out)} held-out videos")
    classifier.model.save_adapter(out)  # for st_adapter.Predictor


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--out", default="my_adapter")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--size", type=int, default=112)
    arguments = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    main(**vars(arguments))

"""Train a video classifier with the Trainer of Hugging Face, and print its accuracy.

pip install transformers 'st-adapter[demo]'
python examples/hf_trainer.py my_videos/
"""

import argparse
import tempfile

import torch
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments, set_seed

import st_adapter


class Classifier(torch.nn.Module):
    """Return the loss and the logits by name, as the Trainer expects."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, clips, labels):
        logits = self.model(clips)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def collate(items):
    """Stack (clip, class) pairs into the arguments of `Classifier.forward`."""
    clips, targets = zip(*items, strict=True)
    return {"clips": torch.stack(clips), "labels": torch.tensor(targets)}


def accuracy(predicted):
    """Compare the logits of the held-out videos with their classes."""
    return {"accuracy": (predicted.predictions.argmax(1) == predicted.label_ids).mean()}


def main(folder, out, epochs, size):
    """Train on a folder with one folder of videos per class; save the adapter in `out`."""
    set_seed(0)
    config = st_adapter.TrainConfig(
        backbone="tf_efficientnet_lite0",
        weights="package",  # leave it out to download weights, and for other image models
        size=size,
        batch_size=4,
        lr=3e-3,
    )
    data = st_adapter.read_parts(folder, config)
    transform = st_adapter.TrainTransform(size=size)
    model = st_adapter.create_model(
        config.backbone, data.labels, weights=config.weights, clip=config.clip
    )
    with tempfile.TemporaryDirectory() as states:
        trainer = Trainer(
            Classifier(model),
            TrainingArguments(
                output_dir=states,
                num_train_epochs=epochs,
                per_device_train_batch_size=config.batch_size,
                remove_unused_columns=False,  # items are pairs, without columns
                save_strategy="no",
                report_to="none",
            ),
            data_collator=collate,
            train_dataset=st_adapter.ClipDataset(data.train, config.clip, transform),
            eval_dataset=st_adapter.ClipDataset(data.val, config.clip),
            compute_metrics=accuracy,
            optimizers=(st_adapter.make_optimizer(model, config), None),
        )
        trainer.train()
        measured = trainer.evaluate()
    print(f"accuracy {measured['eval_accuracy']:.1%} on {len(data.val)} held-out videos")
    model.save_adapter(out)  # for st_adapter.Predictor


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--out", default="my_adapter")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--size", type=int, default=112)
    main(**vars(parser.parse_args()))

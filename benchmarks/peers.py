"""Run other tools that compute features or train classifiers, as their authors document it, each in its own process.

    python benchmarks/peers.py NAME DATA OUT [--network resnet18] [--epochs 10] [--device cpu] [--workers 0]

NAME is one of these:

- thingsvision, img2vec, timm (with torch's DataLoader): write the features of all images of DATA to OUT.npy.
- tutorial-pass: one pass of the PyTorch tutorial's loader and frozen network.
- tutorial-frozen, tutorial-finetune: train ten epochs as the tutorial does. --device and --workers are for these.

Prints one JSON line with images and seconds. The seconds run from the first file to the last byte written or the last
epoch. Imports and building the network are not counted, nor one pass of the network before (the tutorial routes have
no such pass). Weights are random: speed does not depend on them. The Python that runs the script needs the package
that NAME uses; it does not need featcache.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

Job = Callable[[], int]


def thingsvision(data: Path, out: Path, network: str) -> Job:
    """The lines of its README."""
    from thingsvision import get_extractor
    from thingsvision.utils.data import DataLoader as Loader
    from thingsvision.utils.data import ImageDataset
    from thingsvision.utils.storing import save_features

    source = "timm" if network.startswith("tf_") else "torchvision"
    extractor = get_extractor(model_name=network, source=source, device="cpu", pretrained=False)
    with torch.no_grad():
        extractor.model(torch.zeros(32, 3, 224, 224))

    def job() -> int:
        dataset = ImageDataset(
            root=str(data),
            out_path=str(out.parent),
            backend=extractor.get_backend(),
            transforms=extractor.get_transformations(),
        )
        batches = Loader(dataset=dataset, batch_size=32, backend=extractor.get_backend())
        module = "global_pool" if source == "timm" else "avgpool"
        features = extractor.extract_features(
            batches=batches, module_name=module, flatten_acts=True, output_type="ndarray"
        )
        save_features(features, out_path=str(out), file_format="npy")
        return len(features)

    return job


def img2vec(data: Path, out: Path, network: str) -> Job:
    """The lines of its README: one image per call, in newer versions a list of 32 per call."""
    from torchvision.models import ResNet18_Weights, resnet18

    if network != "resnet18":
        raise SystemExit("img2vec is run with resnet18")
    home = Path(tempfile.mkdtemp())  # it downloads weights; random ones under their name do as well
    os.environ["TORCH_HOME"] = str(home)
    (home / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(resnet18().state_dict(), home / "hub" / "checkpoints" / Path(ResNet18_Weights.DEFAULT.url).name)
    from img2vec_pytorch import Img2Vec
    from PIL import Image

    extractor = Img2Vec(cuda=False)
    extractor.get_vec([Image.new("RGB", (224, 224))] * 32)

    def job() -> int:
        files, features = sorted(data.rglob("*.jpg")), []
        for start in range(0, len(files), 32):
            pictures = [Image.open(file).convert("RGB") for file in files[start : start + 32]]
            features.append(extractor.get_vec(pictures))
        np.save(out, np.concatenate(features))
        return len(files)

    return job


def timm_loader(data: Path, out: Path, network: str) -> Job:
    """timm's network and transform, torch's DataLoader with one worker per core."""
    import timm

    model = timm.create_model(network, pretrained=False, num_classes=0).eval()
    with torch.inference_mode():
        model(torch.zeros(32, 3, 224, 224))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))

    def job() -> int:
        images = _folder(data, transform)
        loader = DataLoader(images, batch_size=32, num_workers=os.cpu_count() or 1)
        with torch.inference_mode():
            features = np.concatenate([model(pixels).numpy() for pixels, _ in loader])
        np.save(out, features)
        return len(features)

    return job


def tutorial_pass(data: Path, out: Path, network: str) -> Job:
    """One pass over train: the tutorial's augmentation and loader, a frozen network."""
    model, loaders = _tutorial(data, network)

    def job() -> int:
        count = 0
        with torch.no_grad():
            for pixels, _ in loaders["train"]:
                count += len(model(pixels))
        return count

    return job


def tutorial_frozen(data: Path, network: str, epochs: int, device: str, workers: int) -> Job:
    """ "ConvNet as fixed feature extractor"."""
    return _tutorial_training(data, network, epochs, device, workers, frozen=True)


def tutorial_finetune(data: Path, network: str, epochs: int, device: str, workers: int) -> Job:
    """ "Finetuning the ConvNet"."""
    return _tutorial_training(data, network, epochs, device, workers, frozen=False)


def _folder(data: Path, transform: Any) -> Any:
    from torchvision.datasets import ImageFolder

    return torch.utils.data.ConcatDataset([ImageFolder(str(part), transform) for part in sorted(data.iterdir())])


def _tutorial(data: Path, network: str, workers: int = 0) -> tuple[Any, dict[str, Any]]:
    from torchvision import datasets, models, transforms

    normalise = [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    recipes = {
        "train": [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *normalise],
        "val": [transforms.Resize(256), transforms.CenterCrop(224), *normalise],
    }
    images = {
        split: datasets.ImageFolder(str(data / split), transforms.Compose(recipe)) for split, recipe in recipes.items()
    }
    loaders = {
        split: DataLoader(part, batch_size=4, shuffle=True, num_workers=workers) for split, part in images.items()
    }
    return models.get_model(network, weights=None), loaders


def _tutorial_training(data: Path, network: str, epochs: int, device: str, workers: int, frozen: bool) -> Job:
    """`train_model` of the tutorial, which stores its best weights in a temporary folder."""
    model, loaders = _tutorial(data, network, workers)
    model.requires_grad_(not frozen)
    model.fc = nn.Linear(model.fc.in_features, len(loaders["train"].dataset.classes))
    model = model.to(device)
    learns = model.fc if frozen else model
    optimizer = torch.optim.SGD(learns.parameters(), lr=0.001, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    criterion = nn.CrossEntropyLoss()

    def job() -> int:
        best, shown = -1.0, 0
        with tempfile.TemporaryDirectory() as folder:
            best_path = os.path.join(folder, "best.pt")
            for _ in range(epochs):
                for split in ("train", "val"):
                    model.train(split == "train")
                    right = 0
                    for pixels, labels in loaders[split]:
                        pixels, labels = pixels.to(device), labels.to(device)
                        optimizer.zero_grad()
                        with torch.set_grad_enabled(split == "train"):
                            outputs = model(pixels)
                            predicted = torch.max(outputs, 1)[1]
                            loss = criterion(outputs, labels)
                            if split == "train":
                                loss.backward()
                                optimizer.step()
                        loss.item()
                        right += int(torch.sum(predicted == labels))
                        shown += len(labels)
                    if split == "train":
                        scheduler.step()
                    elif right / len(loaders[split].dataset) > best:
                        best = right / len(loaders[split].dataset)
                        torch.save(model.state_dict(), best_path)
            model.load_state_dict(torch.load(best_path, weights_only=True))
        return shown

    return job


def main() -> None:
    """Parse options, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    paths = (options.data, options.out, options.network)
    training = (options.data, options.network, options.epochs, options.device, options.workers)
    jobs: dict[str, Callable[[], Job]] = {
        "thingsvision": lambda: thingsvision(*paths),
        "img2vec": lambda: img2vec(*paths),
        "timm": lambda: timm_loader(*paths),
        "tutorial-pass": lambda: tutorial_pass(*paths),
        "tutorial-frozen": lambda: tutorial_frozen(*training),
        "tutorial-finetune": lambda: tutorial_finetune(*training),
    }
    job = jobs[options.name]()
    started = time.perf_counter()
    images = job()
    print(json.dumps({"images": images, "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()

"""The bundled architectures keep the contract, in each of their variants."""

from __future__ import annotations

import torch
from zoo_plugins.cnn_architecture import Cnn
from zoo_plugins.gpt_architecture import Gpt
from zoo_plugins.mlp_architecture import Mlp
from zoo_plugins.resnet_architecture import ResNet
from zoo_plugins.vgg_architecture import Vgg
from zoo_plugins.vit_architecture import Vit

from zoo.testing import ArchitectureConformance

MLP = {"inputs": 64, "width": 12, "depth": 2, "classes": 10, "activation": "relu"}
CNN = {"channels": 1, "size": 9, "width": 4, "depth": 2, "hidden": 6, "classes": 10}
VGG = {"channels": 3, "width": 4, "convolutions": [1, 2], "classes": 10}
RESNET = {"channels": 3, "width": 4, "blocks": [1, 2], "classes": 10}
VIT = {"channels": 1, "size": 8, "patch": 4, "width": 8, "depth": 2, "heads": 4, "inner": 12}
VIT |= {"classes": 10}
GPT = {"vocab_size": 11, "context": 7, "width": 8, "depth": 2, "heads": 4, "inner": 12}


def images(channels: int, side: int) -> torch.Tensor:
    return torch.randn(3, channels, side, side, generator=torch.Generator().manual_seed(0))


class TestMlp(ArchitectureConformance):
    architecture = Mlp()
    config = MLP

    def inputs(self) -> torch.Tensor:
        return images(1, 8)


class TestMlpOfTanh(TestMlp):
    config = {**MLP, "activation": "tanh"}


class TestLinearClassifier(TestMlp):
    config = {**MLP, "depth": 0}


class TestCnn(ArchitectureConformance):
    architecture = Cnn()
    config = {**CNN, "norm": "none"}

    def inputs(self) -> torch.Tensor:
        return images(1, 9)


class TestCnnWithBatchNorm(TestCnn):
    config = {**CNN, "norm": "batch"}


class TestCnnWithLayerNorm(TestCnn):
    config = {**CNN, "norm": "layer"}


class TestVgg(ArchitectureConformance):
    architecture = Vgg()
    config = {**VGG, "norm": "batch"}

    def inputs(self) -> torch.Tensor:
        return images(3, 8)


class TestVggWithLayerNorm(TestVgg):
    config = {**VGG, "norm": "layer"}


class TestVggWithoutNorm(TestVgg):
    config = {**VGG, "norm": "none"}


class TestResNet(ArchitectureConformance):
    architecture = ResNet()
    config = {**RESNET, "norm": "batch"}

    def inputs(self) -> torch.Tensor:
        return images(3, 8)


class TestResNetWithLayerNorm(TestResNet):
    config = {**RESNET, "norm": "layer"}


class TestResNetWithoutNorm(TestResNet):
    config = {**RESNET, "norm": "none"}


class TestVit(ArchitectureConformance):
    architecture = Vit()
    config = VIT

    def inputs(self) -> torch.Tensor:
        return images(1, 8)


class TestTiedGpt(ArchitectureConformance):
    architecture = Gpt()
    config = {**GPT, "tie_word_embeddings": True}

    def inputs(self) -> torch.Tensor:
        return torch.randint(11, (3, 7), generator=torch.Generator().manual_seed(0))


class TestUntiedGpt(TestTiedGpt):
    config = {**GPT, "tie_word_embeddings": False}

"""The same training steps in PyTorch, with the same weights: the benchmark's peer.

The only module that imports torch. Submodules carry the names of the Flax layers, so
that weights are exchanged by name.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from flax import linen
from torch import nn
from torch.nn import functional as F

from uronet_jax.models import Remover, ResNet, WideResNet

COMPILE_MODES = ("auto", "off", "default", "reduce-overhead", "max-autotune")

Variables = dict[str, Any]
Batches = dict[str, np.ndarray]


def _conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, bias: bool = True):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=bias)


def _relu(x: torch.Tensor) -> torch.Tensor:
    return F.relu(x, inplace=True)


class _Encoder(nn.Module):
    def __init__(self, channels, widths):
        super().__init__()
        sizes = [channels, *(width for width in widths for _ in range(2))]
        self._count = len(sizes) - 1
        for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            self.add_module(f"Conv_{i}", _conv(inputs, outputs))
        self._pool = nn.MaxPool2d(2)

    def forward(self, x):
        for i in range(self._count):
            x = _relu(self.get_submodule(f"Conv_{i}")(x))
            if i % 2:
                x = self._pool(x)
        return x


class _Decoder(nn.Module):
    def __init__(self, channels, widths):
        super().__init__()
        self._count = len(widths)
        inputs = widths[-1]
        for i, width in enumerate(reversed(widths)):
            self.add_module(
                f"UpsampleConv_{i}",
                nn.ConvTranspose2d(
                    inputs, width, 3, stride=2, padding=1, output_padding=1
                ),
            )
            self.add_module(f"Conv_{i}", _conv(width, width))
            inputs = width
        self.add_module(f"Conv_{self._count}", _conv(inputs, channels))

    def forward(self, x):
        for i in range(self._count):
            x = _relu(self.get_submodule(f"UpsampleConv_{i}")(x))
            x = _relu(self.get_submodule(f"Conv_{i}")(x))
        x = self.get_submodule(f"Conv_{self._count}")(x)
        return torch.sigmoid(x.float())


class _Remover(nn.Module):
    """Returns the clean picture and the code `(noise + 1) / 2` of the pattern."""

    def __init__(self, module: Remover, channels: int):
        super().__init__()
        if module.skips or not module.noise_head:
            raise ValueError("the peer of the remover is its paper variant")
        self.encoder = _Encoder(channels, module.widths)
        self.clean_decoder = _Decoder(channels, module.widths)
        self.noise_decoder = _Decoder(channels, module.widths)

    def forward(self, x):
        code = self.encoder(x)
        return self.clean_decoder(code), self.noise_decoder(code)


class _WideBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.BatchNorm_0 = nn.BatchNorm2d(inputs)
        self.Conv_0 = _conv(inputs, outputs, stride=stride, bias=False)
        self.BatchNorm_1 = nn.BatchNorm2d(outputs)
        self.Conv_1 = _conv(outputs, outputs, bias=False)
        self.shortcut = None
        if inputs != outputs or stride != 1:
            self.shortcut = _conv(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        y = _relu(self.BatchNorm_0(x))
        if self.shortcut is not None:
            x = self.shortcut(y)
        y = _relu(self.BatchNorm_1(self.Conv_0(y)))
        return x + self.Conv_1(y)


class _BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.Conv_0 = _conv(inputs, outputs, stride=stride, bias=False)
        self.BatchNorm_0 = nn.BatchNorm2d(outputs)
        self.Conv_1 = _conv(outputs, outputs, bias=False)
        self.BatchNorm_1 = nn.BatchNorm2d(outputs)
        self._stride, self._missing = stride, outputs - inputs

    def forward(self, x):
        y = _relu(self.BatchNorm_0(self.Conv_0(x)))
        y = self.BatchNorm_1(self.Conv_1(y))
        x = x[:, :, :: self._stride, :: self._stride]
        before = self._missing // 2
        return _relu(F.pad(x, (0, 0, 0, 0, before, self._missing - before)) + y)


class _Classifier(nn.Module):
    """Wide ResNet and ResNet differ in the block, the widths and the last norm."""

    def __init__(self, module: WideResNet | ResNet, channels: int):
        super().__init__()
        wide = isinstance(module, WideResNet)
        blocks = (module.depth - (4 if wide else 2)) // 6
        factor = module.width if wide else 1
        statistics = (
            torch.tensor(values).reshape(1, -1, 1, 1)
            for values in (module.mean, module.std)
        )
        for name, values in zip(("_mean", "_std"), statistics, strict=True):
            self.register_buffer(name, values, persistent=False)
        self.Conv_0 = _conv(channels, 16, bias=False)
        self._blocks, inputs = [], 16
        for group, features in enumerate((16, 32, 64)):
            for block in range(blocks):
                name = f"{'Wide' if wide else 'Basic'}Block_{len(self._blocks)}"
                stride = 2 if group > 0 and block == 0 else 1
                outputs = features * factor
                kind = _WideBlock if wide else _BasicBlock
                self.add_module(name, kind(inputs, outputs, stride))
                self._blocks.append(name)
                inputs = outputs
        self._wide = wide
        self.BatchNorm_0 = nn.BatchNorm2d(inputs if wide else 16)
        self.Dense_0 = nn.Linear(inputs, module.num_classes)

    def forward(self, x):
        x = self.Conv_0((x - self._mean) / self._std)
        if not self._wide:
            x = _relu(self.BatchNorm_0(x))
        for name in self._blocks:
            x = self.get_submodule(name)(x)
        if self._wide:
            x = _relu(self.BatchNorm_0(x))
        return self.Dense_0(x.mean(dim=(2, 3), dtype=torch.float32)).float()


# Flax module -> its twin, made with the number of input channels.
_TWINS: dict[type[linen.Module], Callable[..., nn.Module]] = {
    Remover: _Remover,
    ResNet: _Classifier,
    WideResNet: _Classifier,
}
# Flax's name of an array -> PyTorch's.
_ARRAYS = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def _kernel_axes(layer: str, rank: int) -> tuple[int, ...]:
    """Returns the transposition from a Flax kernel to a PyTorch weight."""
    if rank == 2:
        return (1, 0)
    # [rows, columns, I, O] -> [I, O, ...] where transposed, else [O, I, ...].
    return (2, 3, 0, 1) if layer.startswith("UpsampleConv") else (3, 2, 0, 1)


def _load(module: nn.Module, variables: Variables) -> None:
    """Copies Flax variables into the twin; every array must have its place."""
    state = {}
    for tree in (variables["params"], variables.get("batch_stats", {})):
        for path, array in jax.tree_util.tree_leaves_with_path(tree):
            *layers, name = (entry.key for entry in path)
            array = np.array(array)
            if name == "kernel":
                array = array.transpose(_kernel_axes(layers[-1], array.ndim))
            state[".".join([*layers, _ARRAYS[name]])] = torch.from_numpy(array.copy())
    own = {k for k in module.state_dict() if not k.endswith("num_batches_tracked")}
    if own != state.keys():
        raise ValueError(f"weights without a twin: {sorted(own ^ state.keys())[:5]}")
    module.load_state_dict(state, strict=False)


def _gradients(module: nn.Module, params: Any) -> Any:
    """Returns the twin's gradients as a tree like the Flax parameters."""
    gradients = {name: p.grad for name, p in module.named_parameters()}

    def take(path, array):
        *layers, name = (entry.key for entry in path)
        gradient = gradients[".".join([*layers, _ARRAYS[name]])].cpu().numpy()
        if name != "kernel":
            return gradient
        return gradient.transpose(np.argsort(_kernel_axes(layers[-1], array.ndim)))

    return jax.tree_util.tree_map_with_path(take, params)


def _separation_loss(module, batch):
    clean, code = module(batch["degraded"])
    target = (batch["degraded"] - batch["clean"] + 1) / 2
    return F.mse_loss(clean, batch["clean"]) + F.mse_loss(code, target)


class TorchPeer:
    """PyTorch as a `benchmarking.steps.Peer`: channels last, on one device.

    On a CPU in eager mode (oneDNN); on a GPU compiled, with cuDNN's search for the
    fastest algorithm. bfloat16 is autocast: parameters stay float32, as ours do.
    """

    def __init__(
        self, *, platform: str, dtype: str, threads: int, compile_mode: str = "auto"
    ):
        """Sets PyTorch up.

        Args:
            platform: JAX's name of the device, `cpu` or `gpu`.
            dtype: `float32` or `bfloat16`.
            threads: CPU threads; XLA uses every core that the process may run on.
            compile_mode: Of `torch.compile`, or `off`; `auto` is `default` on a GPU
                and `off` on a CPU.

        Raises:
            ValueError: If PyTorch cannot use that device.
        """
        if platform not in ("cpu", "gpu") or (
            platform == "gpu" and not torch.cuda.is_available()
        ):
            raise ValueError(
                f"PyTorch {torch.__version__} cannot use the {platform} that JAX uses: "
                "install a build for it, or leave the peer out with --skip_peer"
            )
        if compile_mode not in COMPILE_MODES:
            raise ValueError(
                f"unknown compile mode {compile_mode!r}: choose from {COMPILE_MODES}"
            )
        if compile_mode == "auto":
            compile_mode = "default" if platform == "gpu" else "off"
        self.name = f"PyTorch {torch.__version__}"
        self._device = "cuda" if platform == "gpu" else "cpu"
        self._dtype, self._compile_mode = dtype, compile_mode
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = True
        self.settings = {
            "torch_threads": threads,
            "torch_compile": compile_mode,
            "torch_memory_format": "channels_last",
        }

    def _twin(self, module: linen.Module, variables: Variables, channels: int):
        twin = _TWINS[type(module)](module, channels)
        _load(twin, variables)
        return twin.to(self._device, memory_format=torch.channels_last)

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """Returns an array on the device: images channels last, labels as int64."""
        # NHWC memory seen as NCHW is what PyTorch calls channels last.
        tensor = torch.from_numpy(np.array(array)).to(self._device)
        if tensor.ndim == 4:
            return tensor.permute(0, 3, 1, 2)
        return tensor.long()

    def _batches(self, batches: Batches) -> list[dict[str, torch.Tensor]]:
        return [
            {name: self.tensor(x[i]) for name, x in batches.items()}
            for i in range(len(next(iter(batches.values()))))
        ]

    def _precision(self, exact: bool) -> None:
        """Allows TF32, as XLA does by default, or not."""
        torch.backends.cudnn.allow_tf32 = not exact
        torch.backends.cuda.matmul.allow_tf32 = not exact

    def _steps(self, loss_fn, optimizer, batches: Batches, count: int):
        """Returns a function that takes `count` steps and waits for their end."""
        tensors = self._batches(batches)
        if self._compile_mode != "off":
            loss_fn = torch.compile(loss_fn, mode=self._compile_mode)

        def run() -> None:
            self._precision(exact=False)
            for i in range(count):
                with torch.autocast(
                    self._device,
                    torch.bfloat16,
                    enabled=self._dtype == "bfloat16",
                ):
                    loss = loss_fn(tensors[i % len(tensors)])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            if self._device == "cuda":
                torch.cuda.synchronize()

        return run

    def remover_steps(
        self, remover: Remover, variables: Variables, batches: Batches, count: int
    ) -> Callable[[], None]:
        """See `Peer`."""
        module = self._twin(remover, variables, batches["clean"].shape[-1])
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
        return self._steps(
            lambda batch: _separation_loss(module, batch), optimizer, batches, count
        )

    def classifier_steps(
        self,
        classifier: linen.Module,
        variables: Variables,
        batches: Batches,
        count: int,
    ) -> Callable[[], None]:
        """See `Peer`."""
        module = self._twin(classifier, variables, batches["image"].shape[-1])
        optimizer = torch.optim.SGD(
            module.train().parameters(),
            lr=0.1,
            momentum=0.9,
            weight_decay=5e-4,
            nesterov=True,
            fused=True,
        )

        def loss_fn(batch):
            return F.cross_entropy(module(batch["image"] / 255.0), batch["label"])

        return self._steps(loss_fn, optimizer, batches, count)

    def detector_steps(
        self,
        detector: linen.Module,
        variables: Variables,
        remover: Remover,
        remover_variables: Variables,
        batches: Batches,
        count: int,
    ) -> Callable[[], None]:
        """See `Peer`."""
        channels = batches["image"].shape[-1]
        frozen = self._twin(remover, remover_variables, channels).requires_grad_(False)
        module = self._twin(detector, variables, 2 * channels).train()
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)

        def loss_fn(batch):
            # XLA drops the clean decoder too: nobody looks at its picture.
            code = frozen.noise_decoder(frozen.encoder(batch["image"]))
            features = torch.cat([batch["image"], 2 * code - 1], dim=1)
            return F.cross_entropy(module(features), batch["label"])

        return self._steps(loss_fn, optimizer, batches, count)

    def remover_gradients(
        self, remover: Remover, variables: Variables, batch: Batches
    ) -> tuple[float, Any]:
        """See `Peer`."""
        self._precision(exact=True)
        module = self._twin(remover, variables, batch["clean"].shape[-1])
        loss = _separation_loss(module, {k: self.tensor(x) for k, x in batch.items()})
        loss.backward()
        return float(loss.detach()), _gradients(module, variables["params"])

    def logits(
        self, classifier: linen.Module, variables: Variables, images: np.ndarray
    ) -> np.ndarray:
        """See `Peer`."""
        module = self.network(classifier, variables, images.shape[-1])
        with torch.no_grad():
            return module(self.tensor(images)).cpu().numpy()

    def network(
        self, classifier: linen.Module, variables: Variables, channels: int
    ) -> nn.Module:
        """Returns the classifier for inference; from here on without TF32."""
        self._precision(exact=True)
        module = self._twin(classifier, variables, channels).eval()
        return module.requires_grad_(False)

"""The same training steps in PyTorch, with the same weights.

PyTorch is imported where it is used, since it is optional.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from uronet_jax.benchmarking.steps import (
    NUM_BATCHES,
    Batches,
    TrainingWork,
    Variables,
)
from uronet_jax.models import Remover, WideResNet

# Of `torch.compile`; `auto` is `default` on a GPU and `off` on a CPU.
COMPILE_MODES = ("auto", "off", "default", "reduce-overhead", "max-autotune")


@functools.cache
def _twin_class() -> type:
    import torch
    from torch.nn import functional as F

    class Twin(torch.nn.Module):
        """A network in PyTorch, whose tensors have the names of the Flax arrays."""

        def __init__(self, module: nn.Module, variables: Variables):
            super().__init__()
            for path, array in _named(variables["params"]):
                self.register_parameter(path, torch.nn.Parameter(_tensor(path, array)))
            for path, array in _named(variables.get("batch_stats", {})):
                self.register_buffer(path, _tensor(path, array))
            self.separates = isinstance(module, Remover)
            if self.separates:
                self.depth = len(module.widths)
                return
            self.wide = isinstance(module, WideResNet)
            self.depth = (module.depth - (4 if self.wide else 2)) // 6
            for name in ("_mean", "_std"):
                values = torch.tensor(getattr(module, name[1:])).reshape(1, -1, 1, 1)
                self.register_buffer(name, values)

        def forward(self, x):
            """Returns logits, or the clean picture and `(noise + 1) / 2`."""
            if not self.separates:
                return self.classify(x)
            x = self.encode(x)
            return self.decode("clean_decoder", x), self.decode("noise_decoder", x)

        def weights(self, name, *parts):
            return [getattr(self, f"{name}/{part}", None) for part in parts]

        def conv(self, name, x, stride=1):
            kernel, bias = self.weights(name, "kernel", "bias")
            return F.conv2d(x, kernel, bias, stride, kernel.shape[-1] // 2)

        def upsample(self, name, x):
            weights = self.weights(name, "kernel", "bias")
            x = F.conv_transpose2d(x, *weights, stride=2, padding=1, output_padding=1)
            return _relu(x)

        def norm(self, name, x):
            weights = self.weights(name, "mean", "var", "scale", "bias")
            return F.batch_norm(x, *weights, training=self.training)

        def encode(self, x):
            for i in range(2 * self.depth):
                x = _relu(self.conv(f"encoder/Conv_{i}", x))
                if i % 2:
                    x = F.max_pool2d(x, 2)
            return x

        def decode(self, name, x):
            for i in range(self.depth):
                x = self.upsample(f"{name}/UpsampleConv_{i}", x)
                x = _relu(self.conv(f"{name}/Conv_{i}", x))
            return torch.sigmoid(self.conv(f"{name}/Conv_{self.depth}", x).float())

        def classify(self, x):
            x = self.conv("Conv_0", (x - self._mean) / self._std)
            if not self.wide:
                x = _relu(self.norm("BatchNorm_0", x))
            for i in range(3 * self.depth):
                stride = 2 if i in (self.depth, 2 * self.depth) else 1
                x = (self.wide_block if self.wide else self.basic_block)(i, x, stride)
            if self.wide:
                x = _relu(self.norm("BatchNorm_0", x))
            x = x.mean(dim=(2, 3), dtype=torch.float32)
            return F.linear(x, *self.weights("Dense_0", "kernel", "bias")).float()

        def wide_block(self, i, x, stride):
            name = f"WideBlock_{i}"
            y = _relu(self.norm(f"{name}/BatchNorm_0", x))
            if hasattr(self, f"{name}/shortcut/kernel"):
                x = self.conv(f"{name}/shortcut", y, stride)
            y = self.conv(f"{name}/Conv_0", y, stride)
            y = _relu(self.norm(f"{name}/BatchNorm_1", y))
            return x + self.conv(f"{name}/Conv_1", y)

        def basic_block(self, i, x, stride):
            name = f"BasicBlock_{i}"
            y = self.conv(f"{name}/Conv_0", x, stride)
            y = _relu(self.norm(f"{name}/BatchNorm_0", y))
            y = self.norm(f"{name}/BatchNorm_1", self.conv(f"{name}/Conv_1", y))
            x = x[:, :, ::stride, ::stride]
            missing = y.shape[1] - x.shape[1]
            before = missing // 2
            return _relu(F.pad(x, (0, 0, 0, 0, before, missing - before)) + y)

    def _relu(x):
        return F.relu(x, inplace=True)

    def _tensor(path, array):
        array = np.array(array)
        if path.endswith("kernel"):
            array = array.transpose(_kernel_axes(path, array.ndim))
        return torch.from_numpy(array.copy())

    return Twin


def _named(tree: Any) -> list[tuple[str, Any]]:
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), array)
        for path, array in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _kernel_axes(path: str, rank: int) -> tuple[int, ...]:
    """Returns the transposition from a Flax kernel to a PyTorch weight."""
    if rank == 2:
        return (1, 0)
    # [rows, columns, I, O] -> [I, O, ...] where transposed, else [O, I, ...].
    return (2, 3, 0, 1) if "UpsampleConv" in path else (3, 2, 0, 1)


def _separation_loss(twin, batch):
    from torch.nn import functional as F

    clean, code = twin(batch["degraded"])
    target = (batch["degraded"] - batch["clean"] + 1) / 2
    return F.mse_loss(clean, batch["clean"]) + F.mse_loss(code, target)


class TorchPeer:
    """PyTorch as a `steps.TrainingPeer`: channels last, on one device.

    On a CPU in eager mode (oneDNN); on a GPU compiled, with cuDNN's search for the
    fastest algorithm. bfloat16 is autocast: parameters stay float32, as ours do.
    """

    def __init__(
        self, *, platform: str, dtype: str, threads: int, compile_mode: str = "auto"
    ):
        """Sets PyTorch up for JAX's `platform`."""
        import torch

        if platform not in ("cpu", "gpu") or (
            platform == "gpu" and not torch.cuda.is_available()
        ):
            raise ValueError(
                f"PyTorch {torch.__version__} cannot use the {platform} that JAX uses: "
                "install a build for it, or leave the peer out with --skip_peer"
            )
        if compile_mode == "auto":
            compile_mode = "default" if platform == "gpu" else "off"
        self.name = f"PyTorch {torch.__version__}"
        self._torch, self._device = torch, "cuda" if platform == "gpu" else "cpu"
        self._dtype, self._compile_mode = dtype, compile_mode
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = True
        self.settings = {
            "torch_threads": threads,
            "torch_compile": compile_mode,
            "torch_memory_format": "channels_last",
        }

    def _twin(self, module: nn.Module, variables: Variables, channels_last=True):
        torch = self._torch
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return _twin_class()(module, variables).to(self._device, memory_format=layout)

    def tensor(self, array: np.ndarray) -> Any:
        """Returns an array on the device: images channels last, labels as int64."""
        # NHWC memory seen as NCHW is what PyTorch calls channels last.
        tensor = self._torch.from_numpy(np.array(array)).to(self._device)
        return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor.long()

    def _precision(self, exact: bool) -> None:
        """Allows TF32, as XLA does by default, or not."""
        self._torch.backends.cudnn.allow_tf32 = not exact
        self._torch.backends.cuda.matmul.allow_tf32 = not exact

    def _loss_and_optimizer(self, work: TrainingWork) -> tuple[Callable, Any]:
        F, optim = self._torch.nn.functional, self._torch.optim
        twin = self._twin(work.module, work.state.variables).train()
        if work.name == "classifier":

            def loss_fn(batch):
                return F.cross_entropy(twin(batch["image"] / 255.0), batch["label"])

            options = {"lr": 0.1, "fused": True}
            options |= {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}
            return loss_fn, optim.SGD(twin.parameters(), **options)
        adam = optim.Adam(twin.parameters(), lr=1e-3, fused=True)
        if work.name == "remover":
            return functools.partial(_separation_loss, twin), adam
        frozen = self._twin(work.remover, work.frozen).requires_grad_(False)

        def loss_of_pairs(batch):
            # XLA drops the clean decoder too: nobody looks at its picture.
            code = frozen.decode("noise_decoder", frozen.encode(batch["image"]))
            features = self._torch.cat([batch["image"], 2 * code - 1], dim=1)
            return F.cross_entropy(twin(features), batch["label"])

        return loss_of_pairs, adam

    def steps(self, work: TrainingWork, count: int) -> Callable[[], None]:
        """See `TrainingPeer`."""
        torch = self._torch
        loss_fn, optimizer = self._loss_and_optimizer(work)
        if self._compile_mode != "off":
            loss_fn = torch.compile(loss_fn, mode=self._compile_mode)
        batches = [
            {name: self.tensor(x[i]) for name, x in work.batches.items()}
            for i in range(NUM_BATCHES)
        ]
        half = self._dtype == "bfloat16"

        def run() -> None:
            self._precision(exact=False)
            for i in range(count):
                with torch.autocast(self._device, torch.bfloat16, enabled=half):
                    loss = loss_fn(batches[i % len(batches)])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            if self._device == "cuda":
                torch.cuda.synchronize()

        return run

    def gradients(self, module: Remover, variables: Variables, batch: Batches) -> Any:
        """See `TrainingPeer`."""
        self._precision(exact=True)
        twin = self._twin(module, variables)
        loss = _separation_loss(twin, {k: self.tensor(x) for k, x in batch.items()})
        loss.backward()

        def gradient(path, array):
            value = twin.get_parameter(path).grad.cpu().numpy()
            if not path.endswith("kernel"):
                return value
            return value.transpose(np.argsort(_kernel_axes(path, array.ndim)))

        params = variables["params"]
        leaves = [gradient(*named) for named in _named(params)]
        return float(loss.detach()), jax.tree.structure(params).unflatten(leaves)

    def logits(self, module: nn.Module, variables: Variables, images: Any) -> Any:
        """See `TrainingPeer`."""
        network = self.network(module, variables)
        with self._torch.no_grad():
            return network(self.tensor(images)).cpu().numpy()

    def network(
        self, module: nn.Module, variables: Variables, *, channels_last: bool = True
    ) -> Any:
        """Returns the classifier for inference; from here on without TF32."""
        self._precision(exact=True)
        twin = self._twin(module, variables, channels_last).eval()
        return twin.requires_grad_(False)

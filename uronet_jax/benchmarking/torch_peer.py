"""The same training steps in PyTorch, with the same weights.

PyTorch is imported where it is used, since it is optional.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from uronet_jax.benchmarking import torch_networks
from uronet_jax.benchmarking.convolutions import Convolution
from uronet_jax.benchmarking.steps import (
    NUM_BATCHES,
    Batches,
    TrainingWork,
    Variables,
)
from uronet_jax.models import MadryCNN, NoiseGenerator, Remover, WideResNet

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
            self.generates = isinstance(module, NoiseGenerator)
            if self.generates:
                return
            self.pooled = isinstance(module, MadryCNN)
            self.wide = isinstance(module, WideResNet)
            if not self.pooled:
                self.depth = (module.depth - (4 if self.wide else 2)) // 6
            for name in ("_mean", "_std"):
                values = torch.tensor(getattr(module, name[1:])).reshape(1, -1, 1, 1)
                self.register_buffer(name, values)

        def forward(self, x):
            """Returns logits, noise, or the clean picture and `(noise + 1) / 2`."""
            if not self.separates:
                return self.generate(x) if self.generates else self.classify(x)
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
            x = self.conv(f"{name}/Conv_{self.depth}", x)
            # Half precision is widened, float64 stays.
            return torch.sigmoid(x.to(torch.promote_types(x.dtype, torch.float32)))

        def generate(self, z):
            x = z
            for i in range(3):
                x = _relu(self.conv(f"_Convolution_{i}", x))
            return z + self.conv("_Convolution_3", x)

        def pooled_logits(self, x):
            for i in (0, 1):
                x = F.max_pool2d(_relu(self.conv(f"Conv_{i}", x)), 2)
            x = x.permute(0, 2, 3, 1).flatten(1)
            x = _relu(F.linear(x, *self.weights("Dense_0", "kernel", "bias")))
            return F.linear(x, *self.weights("Dense_1", "kernel", "bias")).float()

        def classify(self, x):
            if self.pooled:  # It takes images as they are.
                return self.pooled_logits(x)
            x = (x - self._mean) / self._std
            x = self.conv("Conv_0", x)
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


def _gradient(twin: Any, params: Any) -> Any:
    """Returns the gradient by `params`, in our layouts."""

    def leaf(path, array):
        value = twin.get_parameter(path).grad.cpu().numpy()
        if not path.endswith("kernel"):
            return value
        return value.transpose(np.argsort(_kernel_axes(path, array.ndim)))

    leaves = [leaf(*named) for named in _named(params)]
    return jax.tree.structure(params).unflatten(leaves)


def _noisy(images, noise, epsilon):
    """Returns images with noise of a norm, as foolbox computes it."""
    from foolbox.external.clipping_aware_rescaling import l2_clipping_aware_rescaling

    scale = l2_clipping_aware_rescaling(images, noise, epsilon)
    return (images + scale * noise).clamp(0, 1)


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
        of_library = type(module) in torch_networks.LIBRARIES
        make = torch_networks.library_network if of_library else _twin_class()
        return make(module, variables).to(self._device, memory_format=layout)

    def tensor(self, array: np.ndarray) -> Any:
        """Returns an array on the device: images channels last, labels as int64."""
        # NHWC memory seen as NCHW is what PyTorch calls channels last.
        tensor = self._torch.from_numpy(np.array(array)).to(self._device)
        return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor.long()

    def _precision(self, exact: bool) -> None:
        """Allows TF32, as XLA does by default, or not."""
        self._torch.backends.cudnn.allow_tf32 = not exact
        self._torch.backends.cuda.matmul.allow_tf32 = not exact

    def _autocast(self) -> Any:
        half = self._dtype == "bfloat16"
        return self._torch.autocast(self._device, self._torch.bfloat16, enabled=half)

    def _sgd(self, twin: Any) -> Any:
        options = {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}
        return self._torch.optim.SGD(twin.parameters(), lr=0.1, fused=True, **options)

    def _noise_step(self, work: TrainingWork) -> Callable[[Batches], None]:
        """Returns a step of adversarial noise training, generator then classifier."""
        torch, noise, F = self._torch, work.noise, self._torch.nn.functional
        twin = self._twin(work.module, work.state.variables)
        sizes = [noise.parts["noise"], *noise.parts["replay"]]
        # The first one learns; the others were kept.
        made_by = [self._twin(noise.generator, noise.variables) for _ in sizes]
        learned = [*made_by[0].parameters()]
        adam = torch.optim.Adam(learned, lr=noise.rate, fused=True)
        sgd, classify = self._sgd(twin), twin
        if self._compile_mode != "off":
            classify = torch.compile(twin, mode=self._compile_mode)

        def loss_fn(images, labels):
            with self._autocast():
                return F.cross_entropy(classify(images), labels)

        def compose(images):
            clean, *parts = images.split([noise.parts["clean"], *sizes])
            made = [g(torch.randn_like(x)) for g, x in zip(made_by, parts, strict=True)]
            noisy = _noisy(torch.cat(parts), torch.cat(made), noise.epsilon)
            return torch.cat([clean, noisy])

        def step(batch):
            images, labels = batch["image"] / 255.0, batch["label"]
            twin.eval()
            made = made_by[0](torch.randn_like(images))
            loss = loss_fn(_noisy(images, made, noise.epsilon), labels)
            adam.zero_grad(set_to_none=True)
            # Of the generator alone, or the classifier's weights had gradients too.
            (-loss).backward(inputs=learned)
            adam.step()
            twin.train()
            with torch.no_grad():
                shown = compose(images)
            loss = loss_fn(shown, labels)
            sgd.zero_grad(set_to_none=True)
            loss.backward()
            sgd.step()

        return step

    def _loss_and_optimizer(self, work: TrainingWork) -> tuple[Callable, Any]:
        F, optim = self._torch.nn.functional, self._torch.optim
        twin = self._twin(work.module, work.state.variables).train()
        separates = isinstance(work.module, Remover)
        if not separates and work.remover is None:

            def loss_fn(batch):
                return F.cross_entropy(twin(batch["image"] / 255.0), batch["label"])

            return loss_fn, self._sgd(twin)
        adam = optim.Adam(twin.parameters(), lr=1e-3, fused=True)
        if separates:
            return functools.partial(_separation_loss, twin), adam
        frozen = self._twin(work.remover, work.frozen).requires_grad_(False)

        def loss_of_pairs(batch):
            # XLA drops the clean decoder too: nobody looks at its picture.
            code = frozen.decode("noise_decoder", frozen.encode(batch["image"]))
            features = self._torch.cat([batch["image"], 2 * code - 1], dim=1)
            return F.cross_entropy(twin(features), batch["label"])

        return loss_of_pairs, adam

    def _plain_step(self, work: TrainingWork) -> Callable[[Batches], None]:
        loss_fn, optimizer = self._loss_and_optimizer(work)
        if self._compile_mode != "off":
            loss_fn = self._torch.compile(loss_fn, mode=self._compile_mode)

        def step(batch):
            with self._autocast():
                loss = loss_fn(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        return step

    def steps(self, work: TrainingWork, count: int) -> Callable[[], None]:
        """See `TrainingPeer`."""
        make_step = self._noise_step if work.noise else self._plain_step
        return self._over_batches(make_step(work), work.batches, count)

    def _over_batches(
        self, function: Callable[[Batches], Any], batches: Batches, count: int
    ) -> Callable[[], None]:
        """Returns `run()`: `count` calls over stacked batches in turn."""
        each = [
            {name: self.tensor(x[i]) for name, x in batches.items()}
            for i in range(NUM_BATCHES)
        ]

        def run() -> None:
            self._precision(exact=False)
            for i in range(count):
                function(each[i % len(each)])
            if self._device == "cuda":
                self._torch.cuda.synchronize()

        return run

    def forward(self, work: TrainingWork, count: int) -> Callable[[], None]:
        """See `TrainingPeer`."""
        torch, mode = self._torch, self._compile_mode
        twin = self._twin(work.module, work.state.variables).eval()

        def classify(images):
            return twin(images / 255.0)

        if mode != "off":
            classify = torch.compile(classify, mode=mode, dynamic=False)

        def forward(batch):
            with torch.inference_mode(), self._autocast():
                return classify(batch["image"])

        images = {"image": work.batches["image"]}
        return self._over_batches(forward, images, count)

    def library(self, module: nn.Module) -> str:
        """See `TrainingPeer`; networks of no library are written after ours."""
        of_library = type(module) in torch_networks.LIBRARIES
        return torch_networks.library_version(module) if of_library else self.name

    def gradients(self, module: Remover, variables: Variables, batch: Batches) -> Any:
        """See `TrainingPeer`."""
        twin = self._twin(module, variables).cpu().double()
        batch = {name: self.tensor(x).cpu().double() for name, x in batch.items()}
        loss = _separation_loss(twin, batch)
        loss.backward()
        return float(loss.detach()), _gradient(twin, variables["params"])

    def noise_gradients(self, work: TrainingWork, batch: Batches) -> Any:
        """See `TrainingPeer`."""
        self._precision(exact=True)
        noise = work.noise
        generator = self._twin(noise.generator, noise.variables)
        batch = {name: self.tensor(x) for name, x in batch.items()}
        shown = _noisy(batch["image"], generator(batch["z"]), noise.epsilon)
        (batch["factor"] * shown).sum().backward()
        images = shown.detach().permute(0, 2, 3, 1).cpu().numpy()
        return images, _gradient(generator, noise.variables["params"])

    def convolution(
        self, layer: Convolution, part: int, arrays: Sequence[jax.Array]
    ) -> tuple[Callable[[], None], Callable[[], np.ndarray]]:
        """Returns `run()`, which computes part `PARTS[part]`, and what it finds.

        `arrays` are an input, a kernel and a gradient of the result, in our layouts,
        and so is what is found.
        """
        torch = self._torch
        dtype = getattr(torch, self._dtype)
        x, kernel, gradient = (np.asarray(array, np.float32) for array in arrays)
        x, gradient = (self.tensor(array).to(dtype) for array in (x, gradient))
        axes = _kernel_axes("UpsampleConv" if layer.transposed else "", 4)
        weight = torch.from_numpy(kernel.transpose(axes).copy())
        weight = weight.to(self._device, dtype, memory_format=torch.channels_last)
        stride, padding = (2, 1) if layer.transposed else (layer.strides, layer.padding)
        # Stride, padding, dilation, transposed, padding of the result, groups.
        options = [stride] * 2, [padding] * 2, [1, 1], layer.transposed
        options = *options, [int(layer.transposed)] * 2, 1
        wanted = [part == 1, part == 2, False]

        def compute():
            if part == 0:
                return torch.convolution(x, weight, None, *options)
            backward = torch.ops.aten.convolution_backward
            return backward(gradient, x, weight, None, *options, wanted)[part - 1]

        def run() -> None:
            self._precision(exact=False)
            compute()
            if self._device == "cuda":
                torch.cuda.synchronize()

        def result() -> np.ndarray:
            self._precision(exact=True)
            found = compute().cpu().numpy()
            return found.transpose(np.argsort(axes) if part == 2 else (0, 2, 3, 1))

        return run, result

    def logits(self, module: nn.Module, variables: Variables, images: Any) -> Any:
        """See `TrainingPeer`."""
        network = self.network(module, variables)
        with self._torch.no_grad():
            return network(self.tensor(images)).cpu().numpy()

    def defense(
        self, parts: dict[str, tuple[nn.Module, Variables]]
    ) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """Returns the defence of three networks as a server calls it, without TF32.

        Args:
            parts: `purifier`, `detector` and `classifier` -> module and variables. The
                purifier is of variant `paper`.

        Returns:
            uint8 images `[B, H, W, C]` -> the fields of `defense.Prediction`.
        """
        torch = self._torch
        purifier, detector, classifier = (
            self._twin(*parts[role]).eval().requires_grad_(False)
            for role in ("purifier", "detector", "classifier")
        )

        def defend(images):
            images = images.float() / 255.0
            clean, code = purifier(images)
            noise = 2.0 * code - 1.0
            detected = detector(torch.cat([images, noise], dim=1))
            probability = torch.softmax(detected, dim=1)[:, 1]
            return classifier(clean), probability, clean, noise

        if self._compile_mode != "off":
            defend = torch.compile(defend, mode=self._compile_mode, dynamic=False)

        def run(images: np.ndarray) -> dict[str, np.ndarray]:
            self._precision(exact=True)
            with torch.inference_mode(), self._autocast():
                found = defend(self.tensor(images))
            logits, probability, *pictures = found
            clean, noise = (x.permute(0, 2, 3, 1).cpu().numpy() for x in pictures)
            return {
                "logits": logits.cpu().numpy(),
                "degraded_probability": probability.cpu().numpy(),
                "clean": clean,
                "noise": noise,
            }

        return run

    def network(
        self, module: nn.Module, variables: Variables, *, channels_last: bool = True
    ) -> Any:
        """Returns the classifier for inference; from here on without TF32."""
        self._precision(exact=True)
        twin = self._twin(module, variables, channels_last).eval()
        return twin.requires_grad_(False)

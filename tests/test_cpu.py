"""The convolutions and the max-pool of CPUs against torch's, and the network with them against the network without."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from jaxft.cpu import convolution, patches, winograd
from jaxft.cpu.max_pool import max_pool
from jaxft.resnet import make_resnet

# height, width, kernel, stride, channels, features, images
CONVOLUTIONS = [
    (9, 8, 3, 1, 5, 7, 4),
    (16, 17, 3, 1, 5, 7, 2),
    (15, 14, 3, 1, 2, 3, 3),
    (9, 8, 3, 2, 5, 7, 3),
    (16, 17, 3, 2, 4, 6, 2),
    (8, 7, 3, 2, 16, 4, 3),
    (3, 4, 3, 2, 4, 6, 2),
    (2, 2, 3, 1, 8, 8, 4),
    (2, 1, 3, 2, 8, 4, 4),
    (1, 1, 3, 1, 8, 8, 4),
    (8, 7, 1, 1, 4, 6, 2),
    (8, 7, 1, 2, 4, 6, 2),
    (21, 20, 7, 2, 3, 8, 2),
    (21, 20, 7, 2, 1, 8, 2),
    (10, 9, 3, 2, 2, 7, 3),
    (9, 10, 3, 1, 2, 7, 3),
    (5, 6, 7, 2, 3, 8, 2),
]


LARGE = convolution.LARGE


@pytest.fixture(autouse=True)
def all_large(monkeypatch):
    """Small convolutions, too, take the ways that pay for large ones."""
    monkeypatch.setattr(convolution, "LARGE", 1)


def images(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("winograd_and_single_images", [False, True])
@pytest.mark.parametrize(("height", "width", "size", "stride", "channels", "features", "n"), CONVOLUTIONS)
def test_convolutions_and_their_gradients_are_torchs(
    monkeypatch, height, width, size, stride, channels, features, n, winograd_and_single_images
):
    if winograd_and_single_images:
        monkeypatch.setattr(convolution, "SQUARES", 1)
        monkeypatch.setattr(patches, "ROWS_BYTES", 1)
        monkeypatch.setattr(patches, "PATCHES_BYTES", 1)
        monkeypatch.setattr(winograd, "CHUNK_BYTES", 1)
    rng = np.random.default_rng(0)
    x, kernel = images(rng, n, height, width, channels), images(rng, size, size, channels, features)
    torch_x = torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float64, requires_grad=True)
    torch_kernel = torch.tensor(kernel.transpose(3, 2, 0, 1), dtype=torch.float64, requires_grad=True)
    expected = functional.conv2d(torch_x, torch_kernel, stride=stride, padding=size // 2)
    grad = images(rng, *expected.permute(0, 2, 3, 1).shape)
    expected.backward(torch.tensor(grad.transpose(0, 3, 1, 2), dtype=torch.float64))

    @jax.jit
    def found(x, kernel, grad):
        y, back = jax.vjp(lambda x, kernel: convolution.convolve(x, kernel, stride, size // 2), x, kernel)
        return y, *back(grad)

    y, x_grad, kernel_grad = found(x, kernel, grad)
    assert torch_x.grad is not None
    assert torch_kernel.grad is not None
    np.testing.assert_allclose(y, expected.detach().permute(0, 2, 3, 1), atol=2e-5)
    np.testing.assert_allclose(x_grad, torch_x.grad.permute(0, 2, 3, 1), atol=2e-5)
    np.testing.assert_allclose(kernel_grad, torch_kernel.grad.permute(2, 3, 1, 0), atol=5e-5)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 10), (2, 3), (1, 1)])
def test_the_max_pool_and_its_gradient_are_torchs_also_where_pixels_are_equal(height, width):
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, (3, height, width, 4)).astype(np.float32)
    torch_x = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    expected = functional.max_pool2d(torch_x, 3, 2, 1)
    grad = images(rng, *expected.permute(0, 2, 3, 1).shape)
    expected.backward(torch.tensor(grad.transpose(0, 3, 1, 2)))
    y, back = jax.vjp(max_pool, jnp.asarray(x))
    assert torch_x.grad is not None
    np.testing.assert_array_equal(y, expected.detach().permute(0, 2, 3, 1))
    np.testing.assert_allclose(back(jnp.asarray(grad))[0], torch_x.grad.permute(0, 2, 3, 1), atol=1e-6)


def loss_and_gradients(arch: str, side: int, dtype: str = "float32"):
    """A function of variables and images, and both."""
    model = make_resnet(arch, num_classes=3, width=16, dtype=jnp.dtype(dtype))
    x = jnp.asarray(images(np.random.default_rng(0), 6, side, side, 3))
    variables = jax.jit(lambda key: model.init(key, x, train=False))(jax.random.key(0))

    def loss(params, x):
        both = {"params": params, "batch_stats": variables["batch_stats"]}
        logits, updated = model.apply(both, x, train=True, mutable=["batch_stats"])
        return jnp.square(logits - 1).mean(), updated

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), variables["params"], x


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "side"), [("resnet18", 96), ("resnet18", 32), ("resnet50", 64)])
def test_a_network_has_the_same_loss_statistics_and_gradients(compile_plainly, arch, side):
    function, params, x = loss_and_gradients(arch, side)
    fast = jax.jit(function)(params, x)
    compile_plainly()
    plain = jax.jit(lambda params, x: function(params, x))(params, x)
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True))
    for a, b in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b)


@pytest.mark.parametrize(("platform", "dtype"), [("cuda", "bfloat16"), ("tpu", "float32")])
def test_other_devices_never_enter(compile_plainly, platform, dtype):
    function, params, x = loss_and_gradients("resnet18", 64, dtype)

    def program() -> str:
        return jax.export.export(jax.jit(lambda *args: function(*args)), platforms=[platform])(params, x).mlir_module()

    found = program()
    compile_plainly()
    assert found.count("stablehlo.convolution") == program().count("stablehlo.convolution")
    for each in ("stablehlo.while", "stablehlo.optimization_barrier"):
        assert each not in found
    assert "stablehlo.select_and_scatter" in found


def test_grouped_convolutions_are_xlas():
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 2, 4))
    options = {"padding": [(1, 1)] * 2, "dimension_numbers": convolution.DIMENSIONS, "precision": None}
    grouped = jax.make_jaxpr(
        lambda: convolution.conv_general_dilated(x, kernel, (1, 1), feature_group_count=2, **options)
    )()
    assert "custom_vjp" not in str(grouped)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "side"), [("resnet18", 160), ("resnext50_32x4d", 64)])
def test_half_precision_has_float32s_logits_to_its_digits(arch, side):
    x = jnp.asarray(images(np.random.default_rng(0), 4, side, side, 3))
    single, half = (make_resnet(arch, num_classes=3, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    variables = jax.jit(lambda key: single.init(key, x, train=False))(jax.random.key(0))
    found, expected = (jax.jit(lambda x, n=n: n.apply(variables, x, train=False))(x) for n in (half, single))
    assert np.linalg.norm(found - expected) <= 0.05 * np.linalg.norm(expected)


@pytest.mark.parametrize(("batch", "products"), [(32, 16 / 36), (1, 1)])
def test_large_batches_take_winograds_fewer_products(batch, products):
    x, kernel = jnp.zeros((batch, 4, 4, 64)), jnp.zeros((3, 3, 64, 64))

    def flops(convolve) -> float:
        compiled = jax.jit(lambda x, kernel: convolve(x, kernel, 1, 1)).lower(x, kernel).compile()
        return compiled.cost_analysis()["flops"]  # pyright: ignore[reportOptionalSubscript]

    dense = 2 * batch * 16 * kernel.size
    assert flops(convolution.convolve) == pytest.approx(products * dense, rel=0.3)


@pytest.mark.parametrize(("batch", "loops"), [(7, False), (8, True)])
def test_small_convolutions_and_their_gradients_are_xlas(monkeypatch, batch, loops):
    monkeypatch.setattr(convolution, "LARGE", LARGE)
    x, kernel = jnp.zeros((batch, 16, 16, 64)), jnp.zeros((3, 3, 64, 64))
    gradients = jax.grad(lambda x, kernel: convolution.convolve(x, kernel, 1, 1).sum(), argnums=(0, 1))
    assert ("stablehlo.while" in jax.jit(gradients).lower(x, kernel).as_text()) == loops


def test_networks_side_by_side():
    """As in a sweep: one image batch, many kernels."""
    rng = np.random.default_rng(0)
    x, kernels = jnp.asarray(images(rng, 2, 6, 6, 3)), jnp.asarray(images(rng, 4, 3, 3, 3, 5))
    gradient = jax.grad(lambda kernel: jnp.sin(max_pool(convolution.convolve(x, kernel, 1, 1))).sum())
    together = jax.jit(jax.vmap(gradient))(kernels)
    for kernel, found in zip(kernels, together, strict=True):
        np.testing.assert_allclose(found, jax.jit(gradient)(kernel), atol=1e-4)

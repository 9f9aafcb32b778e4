"""The compiled walk through a whole net: every batch size, cut and layout, its memory.

What a net is to its users is tested in test_nets.py, matrix products in test_products.py.
"""

import copy
import pickle
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from helpers.arrays import LAYOUTS, assert_close, lay_out
from helpers.marks import both, every_dtype
from helpers.processes import run
from numpy.testing import assert_array_equal

import fastopt
from fastopt import _kernels, _pool, reference

SIZES = (240, 120, 80, 10)  # large enough to be cut for threads from 34 rows on
EVERY_BATCH = range(1, 301)

kinds = pytest.mark.parametrize("activation", ["relu", "sigmoid"])


@pytest.fixture(autouse=True)
def threads_as_before():
    before = fastopt.get_num_threads()
    yield
    fastopt.set_num_threads(before)


def net_and_twin(activation="relu", dtype="float32", sizes=SIZES, **settings):
    """Return equal nets whose products are exact.

    Samples and weights are small multiples of powers of two: then every sum is, in any order, the
    same number, and no relu is open in one net and closed in the other. Sigmoid needs smaller
    weights, or all of it is saturated.
    """
    rng = np.random.default_rng(5)
    nets = [
        package.MultiLayerNet(sizes[0], sizes[1:-1], sizes[-1], activation, dtype=dtype, **settings)
        for package in (fastopt, reference)
    ]
    scales = [2**-2 if activation == "relu" else 2**-7] * (len(sizes) - 2) + [2**-12]
    for i, scale in enumerate(scales, start=1):
        W = scale * rng.integers(-2, 3, (sizes[i - 1], sizes[i]))
        b = scale * rng.integers(-2, 3, sizes[i])
        for net in nets:
            net.params[f"W{i}"], net.params[f"b{i}"] = W.astype(dtype), b.astype(dtype)
    return nets


def samples(n, size=SIZES[0], dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    return (rng.integers(-4, 5, (n, size)) / 2).astype(dtype), rng.integers(0, 10, n)


def assert_gradients_close(got, want, dtype):
    assert list(got) == list(want)
    for key, g in want.items():
        assert_close(got[key], g, dtype)


@kinds
@every_dtype
def test_gradients_of_every_batch_size_on_any_number_of_threads(activation, dtype):
    ours, twin = net_and_twin(activation, dtype)
    X, T = samples(300, dtype=dtype)
    strided = lay_out(X, "rows cut")
    out = ours.gradient(X, T)
    for n in EVERY_BATCH if dtype == "float32" else EVERY_BATCH[::7]:
        loss, want = twin.loss_and_gradient(X[:n], T[:n])
        for threads in (1, 2, 3):
            fastopt.set_num_threads(threads)
            x = strided if (n + threads) % 2 else X
            got, _ = ours.loss_and_gradient(x[:n], T[:n], out=out)
            assert_gradients_close(out, want, dtype)
            assert got == pytest.approx(loss, rel=1e-6 if dtype == "float32" else 1e-13)
    assert _pool.count_workers() >= 2  # or nothing was shared out


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n", [1, 40])
def test_samples_and_weights_of_any_layout(layout, n):
    ours, twin = net_and_twin(weight_decay_lambda=0.5)
    x, t = samples(n)
    want = twin.loss_and_gradient(x, t)
    for key, W in ours.params.items():
        if key.startswith("W"):
            ours.params[key] = lay_out(W, layout)
    for given in (lay_out(x, layout), lay_out(x.astype("float64"), layout)):
        loss, grads = ours.loss_and_gradient(given, t)
        assert loss == pytest.approx(want[0], rel=1e-6)
        assert_gradients_close(grads, want[1], "float32")
        assert_close(ours.predict(given), twin.predict(x), "float32")


@both
@pytest.mark.parametrize("dtype", ["intp", "int32", "uint8", "int16", ">i8", "uint64"])
def test_batch_takes_rows_as_indexing_does(package, dtype):
    net = package.MultiLayerNet(20, [30], 10, rng=0)
    x, t = samples(90, 20)
    batch = np.array([3, 88, 3, 0, 41], dtype)
    want = package.MultiLayerNet.loss_and_gradient(net, x[[3, 88, 3, 0, 41]], t[batch])
    one_hot = np.eye(10)[t]
    given = {
        "as they are": (x, t, batch),
        "strided rows": (x, t, np.repeat(batch, 2)[::2]),
        "another dtype": (x.astype("float64"), t.astype("uint8"), batch),
        "Fortran": (np.asfortranarray(x), t, batch),
        "images": (x.reshape(90, 4, 5), t, batch),
        "one-hot": (x, one_hot, batch),
        "lists": (x.tolist(), t.tolist(), batch.tolist()),
    }
    for name, (samples_, labels, rows) in given.items():
        loss, grads = net.loss_and_gradient(samples_, labels, batch=rows)
        assert loss == net.loss(samples_, labels, batch=rows) == want[0], name
        for key, g in want[1].items():
            assert_array_equal(grads[key], g, err_msg=name)


@both
def test_negative_rows_count_from_the_end(package):
    net = package.MultiLayerNet(20, [30], 10, rng=0)
    x, t = samples(9, 20)
    assert net.loss(x, t, batch=[-1, -9]) == net.loss(x, t, batch=[8, 0])


@both
@pytest.mark.parametrize(
    ("batch", "exception", "message"),
    [
        ([0, 9], IndexError, r"\b9\b"),
        ([-10], IndexError, "-10"),
        ([], ValueError, "batch is empty"),
        (np.empty(0, int), ValueError, "batch is empty"),
        ([[0, 1]], ValueError, r"batch has shape \(1, 2\)"),
        (3, ValueError, r"batch has shape \(\)"),
        ([0.0], TypeError, "row numbers, got dtype float64"),
        ([True, False], TypeError, "row numbers, got dtype bool"),
    ],
)
def test_bad_rows_are_refused(package, batch, exception, message):
    net = package.MultiLayerNet(20, [30], 10, rng=0)
    x, t = samples(9, 20)
    out = net.gradient(x, t)
    kept = {key: g.copy() for key, g in out.items()}
    with pytest.raises(exception, match=message):
        net.gradient(x, t, out=out, batch=batch)
    for key, g in kept.items():
        assert_array_equal(out[key], g)


def test_row_number_that_no_index_can_hold():
    net = fastopt.MultiLayerNet(20, [30], 10, rng=0)
    with pytest.raises(IndexError, match="18446744073709551615"):
        net.loss(*samples(9, 20), batch=np.array([2**64 - 1], "u8"))


@both
def test_labels_must_be_as_many_as_samples_where_rows_are_taken(package):
    net = package.MultiLayerNet(20, [30], 10, rng=0)
    x, t = samples(9, 20)
    for labels in (t[:5], np.eye(10)[t][:5], np.append(t, 0)):
        with pytest.raises(ValueError, match="labels have shape"):
            net.loss(x, labels, batch=[0, 1])


def test_label_out_of_range_is_named_by_its_row():
    net = fastopt.MultiLayerNet(20, [30], 10, rng=0)
    x, t = samples(9, 20)
    t[7] = 10
    with pytest.raises(ValueError, match="label 10 of sample 7 is outside 0 to 9"):
        net.loss(x, t, batch=[0, 7])
    assert net.loss(x, t, batch=[0, 6]) > 0


@both
@pytest.mark.parametrize(
    ("key", "value", "exception", "message"),
    [
        ("W1", None, KeyError, "'W1'"),
        ("b2", [0.0] * 10, TypeError, "'b2'.*list"),
        ("W2", np.zeros((30, 10)), TypeError, "'W2'.*float32.*float64"),
        ("b1", np.zeros(31, "f4"), ValueError, r"'b1'.*\(31,\).*\(30,\)"),
        ("W2", np.zeros((10, 30), "f4"), ValueError, r"'W2'.*\(10, 30\).*\(30, 10\)"),
    ],
)
def test_spoiled_parameters_are_named(package, key, value, exception, message):
    net = package.MultiLayerNet(20, [30], 10, rng=0)
    x, t = samples(9, 20)
    out = net.gradient(x, t)
    kept = net.params.pop(key)
    if value is not None:
        net.params[key] = value
    for call in (net.predict, lambda x: net.loss(x, t), lambda x: net.gradient(x, t, out)):
        with pytest.raises(exception, match=message):
            call(x)
    net.params[key] = kept
    net.predict(x)


@every_dtype
def test_gradient_allocates_nothing(dtype):
    net = fastopt.MultiLayerNet(*SIZES[:1], SIZES[1:-1], 10, dtype=dtype, weight_decay_lambda=0.1)
    x, t = samples(300, dtype=dtype)
    rows = np.random.default_rng(0).integers(0, 300, 128)
    out = net.gradient(x, t)
    net.gradient(x, t, out=out, batch=rows)
    tracemalloc.start()
    try:
        for n in (300, 1, 17, 300):
            net.gradient(x[:n], t[:n], out=out)
            net.gradient(x, t, out=out, batch=rows)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4096  # the smallest array between two layers has twice as many bytes


def test_a_smaller_batch_after_a_larger_one():
    net, fresh = (fastopt.MultiLayerNet(20, [30], 10, rng=0) for _ in range(2))
    x, t = samples(700, 20)
    net.gradient(x, t)
    for n in (1, 33, 500):
        for key, g in fresh.gradient(x[:n], t[:n]).items():
            assert_array_equal(net.gradient(x[:n], t[:n])[key], g)


def test_forward_in_several_strides_of_rows():
    net, twin = net_and_twin()
    x, t = samples(1500)
    for threads in (1, 2, 3):
        fastopt.set_num_threads(threads)
        for n in (255, 256, 257, 512, 513, 1500):
            assert_close(net.predict(x[:n]), twin.predict(x[:n]), "float32")
            assert net.loss(x[:n], t[:n]) == pytest.approx(twin.loss(x[:n], t[:n]), rel=1e-6)
        assert net.accuracy(x, t) == twin.accuracy(x, t)
    assert_gradients_close(net.gradient(x, t), twin.gradient(x, t), "float32")


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_are_the_same_in_every_run(threads):
    fastopt.set_num_threads(threads)
    net = fastopt.MultiLayerNet(*SIZES[:1], SIZES[1:-1], 10, rng=0, weight_decay_lambda=0.1)
    x = np.random.default_rng(0).standard_normal((200, SIZES[0])).astype("f4")
    t = np.arange(200) % 10
    want = net.loss_and_gradient(x, t)
    results = []

    def again():
        other = copy.deepcopy(net)
        results.extend(other.loss_and_gradient(x, t) for _ in range(10))

    workers = [threading.Thread(target=again) for _ in range(3)]  # of whom one at most has the pool
    for worker in workers:
        worker.start()
    again()
    for worker in workers:
        worker.join()
    assert len(results) == 40
    for loss, grads in results:
        assert loss == want[0]
        for key, g in want[1].items():
            assert_array_equal(grads[key], g)


def test_several_threads_on_one_net():
    net = fastopt.MultiLayerNet(*SIZES[:1], SIZES[1:-1], 10, rng=0)
    batches = [samples(64 + 10 * i, seed=i) for i in range(4)]
    want = [net.loss_and_gradient(x, t) for x, t in batches]
    wrong = []

    def work(i):
        for _ in range(30):
            loss, grads = net.loss_and_gradient(*batches[i])
            same = all(np.array_equal(grads[key], g) for key, g in want[i][1].items())
            if loss != want[i][0] or not same:
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))]
)
def test_copies_of_a_net(again):
    net = fastopt.MultiLayerNet(20, [30], 10, "sigmoid", rng=0, weight_decay_lambda=0.3)
    x, t = samples(9, 20)
    want = net.loss_and_gradient(x, t)
    loss, grads = again(net).loss_and_gradient(x, t)
    assert loss == want[0]
    for key, g in want[1].items():
        assert_array_equal(grads[key], g)


def test_outputs_may_come_and_go():
    net = fastopt.MultiLayerNet(20, [30], 10, rng=0)
    x, t = samples(9, 20)
    want = net.gradient(x, t)
    first, second = net.gradient(x, t), net.gradient(x, t)
    for out in (first, second, first, {key: g.copy() for key, g in first.items()}):
        net.gradient(x, t, out=out)
        for key, g in want.items():
            assert_array_equal(out[key], g)
    first["W1"] = net.params["W1"]
    with pytest.raises(ValueError, match="overlap"):
        net.gradient(x, t, out=first)
    big = np.zeros((60, 20), "f4")
    first["W1"] = big[:30].reshape(20, 30)
    with pytest.raises(ValueError, match="x overlap"):
        net.gradient(big[25:34], t, out=first)
    assert not big.any()


def test_replaced_parameter_that_lies_in_an_output_is_refused():
    net = fastopt.MultiLayerNet(20, [30], 10, rng=0)
    x, t = samples(9, 20)
    out = net.gradient(x, t)
    net.gradient(x, t, out=out)
    net.params["W2"] = out["W2"]
    with pytest.raises(ValueError, match=r"out\['W2'\] and parameter 'W2' overlap"):
        net.gradient(x, t, out=out)


def units_off(got, want):
    """Return how many units in the last place of `got` lie between it and exact values."""
    return np.abs(got.astype(np.longdouble) - want) / np.spacing(np.abs(got).astype(got.dtype))


@pytest.mark.skipif(np.finfo(np.longdouble).nmant <= 52, reason="no wider type to compare with")
@pytest.mark.parametrize(("dtype", "lowest"), [("float32", -86.5), ("float64", -707.5)])
def test_exponential_is_exact_to_two_units_in_the_last_place(dtype, lowest):
    # sigmoid(x) is exp(x) but for less than a unit where exp(x) is below the precision
    edge = np.log(np.finfo(dtype).eps / 4)
    x = np.linspace(lowest, edge, 400_001).astype(dtype)
    got = fastopt.Sigmoid().forward(x)
    want = 1 / (1 + np.exp(-x.astype(np.longdouble)))
    assert units_off(got, want).max() <= 3  # exp's 2, and the roundings of the sum and quotient
    x = np.linspace(edge, 30, 400_001).astype(dtype)
    want = 1 / (1 + np.exp(-x.astype(np.longdouble)))
    assert units_off(fastopt.Sigmoid().forward(x), want).max() <= 3


@every_dtype
def test_sigmoid_at_the_ends_of_the_range(dtype):
    x = np.array(
        [-np.inf, -1.2e7, -1e4, -800.0, -104, -90, -0.0, 0, 40, 90, 800, 1e4, np.inf, np.nan], dtype
    )
    with np.errstate(over="ignore"):
        want = reference.Sigmoid().forward(x)
    tiny = 2 * np.finfo(dtype).tiny
    np.testing.assert_allclose(fastopt.Sigmoid().forward(x), want, rtol=1e-6, atol=tiny)


def test_passes_are_the_same_bits_in_every_variant():
    code = (
        "import hashlib; from helpers.variants import passes_of_every_kind;"
        "print(hashlib.sha1(passes_of_every_kind()).hexdigest())"
    )
    done = [run(code, FASTOPT_ISA=variant) for variant in _kernels.available]
    assert all(d.stderr == "" for d in done), done[0].stderr
    assert len({d.stdout for d in done}) == 1


def test_network_does_not_hold_on_to_its_arrays():
    net = fastopt.MultiLayerNet(20, [30], 10, rng=0)
    x, t = samples(9, 20)
    out = net.gradient(x, t)
    counts = [sys.getrefcount(a) for a in (x, t, out["W1"], net.params["W1"])]
    net.gradient(x, t, out=out)
    net.gradient(x, t, out=out, batch=[1, 2])
    with pytest.raises(ValueError, match="label"):
        net.gradient(x, t + 10, out=out)
    assert [sys.getrefcount(a) for a in (x, t, out["W1"], net.params["W1"])] == counts

"""Which products take how many threads, where nobody says it, where a variable does, and where the program does."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tinyseq.backends import threads

import tinyseq as ts

LIMIT = 1000    # multiplications that are large in these tests


class Blas:
    """A library of `n` threads, and what it was set to at each product."""

    def __init__(self, n: int = 8) -> None:
        self.n, self.products = n, list[int]()

    def set(self, n: int) -> None:
        self.n = n

    def matmul(self, *arrays: Any) -> Any:
        self.products.append(self.n)
        return np.matmul(*arrays)


@pytest.fixture
def blas(monkeypatch: pytest.MonkeyPatch) -> Iterator[Blas]:
    """A library in the place of NumPy's, of a process in which nobody has said a number."""
    blas = Blas()
    monkeypatch.setattr(threads, "library", lambda: threads.Library("OpenBLAS", blas.set, lambda: blas.n))
    monkeypatch.setattr(threads, "_matmul", blas.matmul)
    monkeypatch.setattr(threads, "large", math.inf)
    monkeypatch.setattr(threads, "many", 1)
    monkeypatch.setattr(threads, "renewed", None)
    monkeypatch.setattr(threads, "LARGE", LIMIT)
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    threads._settle.cache_clear()
    yield blas
    threads._settle.cache_clear()
    threads.settle()


def product(*shapes: tuple[int, ...], **named: Any) -> Any:
    return threads.ProductKernels().matmul(*(np.ones(shape, np.float32) for shape in shapes), **named)


def run(program: str, **variables: str) -> list[str]:
    """What a process prints in which nothing is said but by `variables`, on NumPy's backend."""
    bare = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")} | {"TINYSEQ_BACKEND": "numpy"}
    done = subprocess.run([sys.executable, "-c", program], env=bare | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


sizes = st.integers(1, 30)
stacks = st.sampled_from([(), (1,), (3,), (2, 3)])


@given(sizes, sizes, sizes, stacks, stacks, st.booleans())
@example(10, 10, 10, (), (), False)
@example(9, 10, 10, (2, 3), (1,), True)
def test_large_matrices_take_all_threads_and_others_one(m: int, k: int, n: int, of_a: tuple[int, ...],
                                                       of_b: tuple[int, ...], given_out: bool) -> None:
    """Large are those of LIMIT multiplications: each of a stack counts alone."""
    with pytest.MonkeyPatch.context() as patch:
        blas = Blas(1)
        patch.setattr(threads, "library", lambda: threads.Library("OpenBLAS", blas.set, lambda: blas.n))
        patch.setattr(threads, "_matmul", blas.matmul)
        patch.setattr(threads, "large", LIMIT)
        patch.setattr(threads, "many", 8)
        a, b = np.arange(m * k).reshape(m, k) + np.zeros((*of_a, 1, 1)), np.ones((*of_b, k, n))
        try:
            expected = np.matmul(a, b)
        except ValueError:  # stacks that do not go together
            return
        out = np.empty_like(expected) if given_out else None
        found = threads.ProductKernels().matmul(a, b, out=out)
        assert np.array_equal(found, expected) and (out is None or found is out)
        assert blas.products == [8 if m * k * n >= LIMIT else 1] and blas.n == 1


def test_vectors_take_one_thread(blas: Blas) -> None:
    """A vector times a matrix is over before another thread has begun."""
    threads.settle()
    for shapes in (((2000,), (2000, 3)), ((3, 2000), (2000,)), ((2000,), (2000,))):
        product(*shapes)
    assert blas.products == [1, 1, 1]


def test_a_wrong_product_leaves_one_thread_behind(blas: Blas) -> None:
    threads.settle()
    with pytest.raises(ValueError):
        product((40, 30), (29, 40))
    assert blas.products == [8] and blas.n == 1


def test_a_number_holds_for_products_of_all_sizes(blas: Blas) -> None:
    ts.set_num_threads(3)
    assert ts.get_num_threads() == 3
    threads.settle()                 # as when NumPy's backend is loaded after that
    product((2, 2), (2, 2)), product((20, 20), (20, 20))
    assert blas.products == [3, 3] and blas.n == 3


def test_a_number_said_during_a_product_stays(blas: Blas, monkeypatch: pytest.MonkeyPatch) -> None:
    threads.settle()
    monkeypatch.setattr(threads, "_matmul", lambda *arrays: ts.set_num_threads(5))
    product((20, 20), (20, 20))
    assert blas.n == ts.get_num_threads() == 5


@pytest.mark.parametrize("name", threads.VARIABLES)
def test_a_variable_holds_for_products_of_all_sizes(blas: Blas, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "8")
    threads.settle()
    product((2, 2), (2, 2)), product((20, 20), (20, 20))
    assert blas.products == [8, 8] and ts.get_num_threads() == 8


def test_without_a_word_the_library_is_set_to_one_thread(blas: Blas) -> None:
    assert ts.get_num_threads() == 8 and blas.n == 1
    blas.set(2)                      # by threadpoolctl, say: once chosen, it is not chosen again
    threads.settle()
    assert blas.n == 2


@pytest.mark.parametrize(("name", "n"), [("OpenBLAS", 1), ("MKL", 8), ("BLIS", 8)])
def test_what_was_not_measured_or_has_one_thread_is_left_alone(blas: Blas, name: str, n: int,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    blas.set(n)
    monkeypatch.setattr(threads, "library", lambda: threads.Library(name, blas.set, lambda: blas.n))
    product((20, 20), (20, 20))
    assert ts.get_num_threads() == n and blas.products == [n]


@pytest.mark.parametrize("wrong", [0, -1, np.int64(0)])
def test_numbers_below_one_are_refused(blas: Blas, wrong: Any) -> None:
    with pytest.raises(ValueError, match=rf"set_num_threads: expected an integer of 1 or more, got n=.*{int(wrong)}"):
        ts.set_num_threads(wrong)
    assert blas.n == 8


@pytest.mark.parametrize("wrong", [1.0, True, np.True_, "2", None, [2], np.ones(2)])
def test_what_is_no_integer_is_refused(blas: Blas, wrong: Any) -> None:
    with pytest.raises(TypeError, match="set_num_threads: expected an integer of 1 or more, got n="):
        ts.set_num_threads(wrong)
    assert blas.n == 8


def test_integers_of_other_types_and_sizes_are_taken(blas: Blas) -> None:
    ts.set_num_threads(np.int8(2))
    assert blas.n == 2 and type(blas.n) is int
    ts.set_num_threads(1 << 32)      # 0 as an int of C's
    assert blas.n == threads.MOST


def test_a_library_without_the_call_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "library", lambda: None)
    with pytest.raises(RuntimeError, match=r"no call here that sets threads; before Python starts: export VECLIB.*=2"):
        ts.set_num_threads(2)
    assert ts.get_num_threads() == os.cpu_count()
    assert product((20, 20), (20, 20))[0, 0] == 20


def test_numpys_own_library_is_found() -> None:
    config: Any = np.show_config(mode="dicts")
    if "openblas" not in config["Build Dependencies"]["blas"].get("name", ""):
        pytest.skip("NumPy was built with another library")
    blas = threads.library()
    assert blas is not None and blas.name == "OpenBLAS" and blas.get() >= 1


NUMBERS = """if True:
    import os, numpy
    from tinyseq.backends import threads
    before = threads.library().get() if threads.library() else 1
    import tinyseq as ts
    ts.tensor([1.0])
    print(before, ts.get_num_threads(), threads.library().get() if threads.library() else 1)
"""


def test_in_a_process_of_its_own() -> None:
    before, large, small = map(int, run(NUMBERS))
    assert (large, small) == (before, 1)
    for name in threads.VARIABLES:
        before, large, small = map(int, run(NUMBERS, **{name: "2"}))
        assert before == large == small


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_has_its_parents_number_and_right_products() -> None:
    program = """if True:
        import os, warnings, numpy as np, tinyseq as ts
        warnings.simplefilter("ignore")     # of Python 3.12, about the library's threads
        def right():
            return (ts.full((1024, 512), 2.0) @ ts.full((512, 1024), 0.5)).numpy() == 512
        assert right().all()
        numbers = ts.get_num_threads()
        child = os.fork()
        if not child:
            os._exit(0 if right().all() and ts.get_num_threads() == numbers else 1)
        assert right().all()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert run(program) == ["0"]


def test_threads_of_python_get_right_products_at_once() -> None:
    program = """if True:
        import threading, numpy as np, tinyseq as ts
        from tinyseq.backends import threads
        wrong = []
        def work(rows):
            for _ in range(6):
                y = (ts.full((rows, 512), 2.0) @ ts.full((512, 1024), 0.5)).numpy()
                wrong.extend([rows] * int((y != 512).any()))
        every = [threading.Thread(target=work, args=(rows,)) for rows in (1, 64, 1024, 1056)]
        [t.start() for t in every], [t.join() for t in every]
        print(len(wrong), threads.library().get() if threads.library() else 1)
    """
    assert run(program) == ["0", "1"]


def test_a_recurrent_layers_large_products_take_all_threads(blas: Blas) -> None:
    """Those of all steps at once, forward and back; not those of a step, which are `dot`'s."""
    threads.settle()
    rnn = ts.nn.LSTM(12, 10)
    with ts.use_backend("numpy"):
        y, _ = rnn(ts.tensor(np.ones((2, 9, 12), np.float32), requires_grad=True))
        assert blas.products == [8]
        y.sum().backward()
    assert blas.products[1:] == 3 * [8] and blas.n == 1

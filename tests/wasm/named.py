"""A plugin of pytest: what cannot pass where CPython is compiled to WebAssembly, by name, with the reason."""

import pytest

THREADS = "there are no threads (nor processes) under WebAssembly"
FILES = "Pyodide 0.27 has no safetensors, by which files are read"
NAMED = {
    "test_threads_build_and_run_their_own_graphs": THREADS,
    "test_threads_add_to_the_gradients_of_shared_weights": THREADS,
    "test_threads_have_their_own_modes": THREADS,
    "test_threads_draw_what_the_main_thread_decides_and_none_alike": THREADS,
    "test_manual_seed_in_a_thread_is_that_threads_own": THREADS,
    "test_threads_that_share_a_generator_never_draw_alike": THREADS,
    "test_trainings_in_threads_are_those_that_run_alone": THREADS,
    "test_recompute_beside_a_thread_that_draws": THREADS,
    "test_asyncio_tasks_may_each_have_a_generator": "asyncio.run cannot wait in the loop of JavaScript",
    "test_an_interrupt_at_any_line_of_a_draw_locks_nothing": THREADS,
    "test_a_generators_state_goes_through_a_checkpoint": FILES,
    "test_files_are_written_whole_or_not_at_all": FILES,
    "test_it_is_saved_copied_moved_and_shown_as_other_layers": FILES,
    "test_files_of_mlx_are_alike_and_its_bfloat16_is_told": FILES,
    "test_a_scan_is_saved_and_shown_and_encodes": FILES,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if reason := NAMED.get(item.name) or NAMED.get(getattr(item, "originalname", "")):
            item.add_marker(pytest.mark.skip(reason=reason))

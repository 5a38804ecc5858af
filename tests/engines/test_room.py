"""Memory is taken over when nobody holds it, and not before."""

from __future__ import annotations

import threading

import numpy as np

from skipscope.engines.room import Room, empty


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_is_taken_over_when_the_last_view_is_gone():
    with Room().used():
        array = empty((2, 3, 4), "float32")
        array[...] = 7
        place = address(array)
        view = array[1, ::2].T
        strided = np.lib.stride_tricks.as_strided(view, (2, 2), view.strides)
        del array
        assert address(empty((2, 3, 4), "float32")) != place
        del view
        assert address(empty((4, 6), "float32")) != place
        assert (strided == 7).all()
        del strided
        assert address(empty((24,), "float32")) == place
        again = empty((3, 4), "float64")  # as many bytes
        assert address(again) == place
        assert again.dtype == np.float64
        assert again.shape == (3, 4)
        assert again.flags.writeable
        assert address(empty((3, 4), "float64")) != place


def test_a_room_is_for_its_context_and_its_thread():
    room = Room()
    with room.used():
        place = address(empty((1000,), "float64"))
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(address(empty((1000,), "float64"))))
        thread.start()
        thread.join()
        mine = empty((1000,), "float64")
        assert address(mine) == place
    outside = [empty((1000,), "float64") for _ in range(3)]
    del mine
    with room.used():
        assert address(empty((1000,), "float64")) == place
        with Room().used():
            assert address(empty((1000,), "float64")) != place
    assert place not in {address(each) for each in outside}


def test_an_array_outlives_its_room():
    with Room().used():
        array = empty((5,), "float64")
        array[...] = range(5)

    assert array.tolist() == [0, 1, 2, 3, 4]


def test_nothing_takes_no_memory():
    with Room().used():
        assert empty((0, 3), "float32").shape == (0, 3)

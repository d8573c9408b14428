import pytest

from multiebm.core.progress import listening, task, track


class Recorder:
    def __init__(self):
        self.said = []

    def start(self, what, total):
        self.said.append(("start", what, total))
        return 7

    def advance(self, task, steps):
        self.said.append(("advance", task, steps))

    def end(self, task):
        self.said.append(("end", task))


def test_a_listener_hears_of_every_step_and_of_the_end():
    recorder = Recorder()
    with listening(recorder):
        assert list(track([10, 20], "tens")) == [10, 20]
        with task("open end") as advance:
            advance(3)
    first = [("start", "tens", 2), ("advance", 7, 1), ("advance", 7, 1), ("end", 7)]
    assert recorder.said == [*first, ("start", "open end", None), ("advance", 7, 3), ("end", 7)]


def test_work_that_fails_ends_its_task_and_nobody_listens_outside():
    recorder = Recorder()
    with pytest.raises(ZeroDivisionError), listening(recorder), task("fails", 5):
        raise ZeroDivisionError
    assert recorder.said == [("start", "fails", 5), ("end", 7)]
    assert list(track(iter("ab"), "unheard")) == ["a", "b"]
    assert len(recorder.said) == 2

"""Charts that are redrawn while a run is going on."""

from transformers import TrainerState

from training.view import live
from training.view.live import LiveCharts


def test_charts_are_redrawn_after_an_evaluation_where_the_last_drawing_is_old(tmp_path, monkeypatch):
    drawn, now = [], [0.0]
    monkeypatch.setattr(live, "draw_charts", drawn.append)
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    callback, state = LiveCharts(tmp_path), TrainerState(global_step=5, max_steps=10)
    for second, times in ((19, 0), (20, 1), (39, 1), (40, 2)):
        now[0] = second
        callback.on_evaluate(None, state, None)
        assert len(drawn) == times


def test_charts_that_cannot_be_drawn_are_worth_one_warning(tmp_path, monkeypatch, capsys):
    def broken(folder):
        raise RuntimeError("no\nfont")

    monkeypatch.setattr(live, "draw_charts", broken)
    callback = LiveCharts(tmp_path)
    callback.redraw()
    callback.redraw()
    assert capsys.readouterr().err == "warning: the charts cannot be drawn: no font\n"

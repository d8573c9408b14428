"""What a choice of your own has to do, as test classes to inherit: one for every table that packages can add to.

    from multiebm.testing import DatasetContract

    class TestMine(DatasetContract):
        name, settings = "mine", {"train_items": 20}

pytest then runs each `test_` method. Nothing else is needed: no fixtures, no plugins.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from multiebm.data import DATASETS, MultimodalDataset, Split, load_dataset, settings_problems
from multiebm.evaluation.contract import JudgesContract, MetricContract
from multiebm.experiments.contract import BaselineContract, PhaseContract
from multiebm.modalities.contract import ModalityContract
from multiebm.priors.contract import PriorContract

__all__ = [
    "BaselineContract",
    "DatasetContract",
    "JudgesContract",
    "MetricContract",
    "ModalityContract",
    "PhaseContract",
    "PriorContract",
]


class DatasetContract:
    """Set `name`, the row of `DATASETS` (entry point group `multiebm.datasets`), and `settings` that keep it small."""

    name: str
    settings: ClassVar[Mapping[str, Any]] = {}

    def load(self) -> MultimodalDataset:
        """Return the data set under its settings."""
        return load_dataset(self.name, dict(self.settings))

    def splits(self) -> list[Split]:
        """Return both splits, training first."""
        data = self.load()
        return [data.train, data.test]

    def test_it_is_a_row_of_the_table_that_refuses_settings_it_does_not_know(self) -> None:
        """By `load_dataset`, before anything is read."""
        wrong = settings_problems(self.name, DATASETS[self.name], {**self.settings, "no_such_setting": 1})
        assert len(wrong) == 1
        assert "got unknown setting 'no_such_setting'" in wrong[0]

    def test_splits_have_the_modalities_in_order_and_masks_and_labels_of_their_rows(self) -> None:
        """Views [N, *raw shape], `present` bool [N, M], labels int64 [N] of the classes, -1 where one is unknown."""
        data = self.load()
        assert data.citation
        assert all(name == modality.name for name, modality in data.modalities.items())
        for split in self.splits():
            n = len(split)
            assert n > 0
            assert list(split.views) == list(data.modalities)
            assert all(len(split.at.get(name, view)) == n for name, view in split.views.items())
            assert all(at.min() >= 0 and at.max() < len(split.views[name]) for name, at in split.at.items())
            assert (split.present.dtype, split.present.shape) == (torch.bool, (n, len(split.views)))
            assert (split.labels is None) == (data.n_classes is None)
            if split.labels is not None and data.n_classes is not None:
                assert (split.labels.dtype, split.labels.shape) == (torch.int64, (n,))
                assert split.labels.min() >= -1
                assert split.labels.max() < data.n_classes

    def test_a_batch_has_states_of_its_rows_and_zeros_for_what_is_absent(self) -> None:
        """States are finite float32 [B, *shape], in the order of the indices, whatever else is in the batch."""
        data = self.load()
        every = torch.arange(len(data.test))
        whole, turned = data.batch("test", every), data.batch("test", every.flip(0))
        for i, (name, modality) in enumerate(data.modalities.items()):
            states = whole.views[name]
            assert (states.dtype, states.shape[1:]) == (torch.float32, modality.shape), name
            assert states.isfinite().all(), name
            assert not states[~whole.present[:, i]].any(), name
            assert torch.equal(turned.views[name], states.flip(0)), name

    def test_raw_values_come_back_from_their_states(self) -> None:
        """`to_raw` of `to_state` is what `as_given` returns, to the digits of float32."""
        for split in self.splits():
            for name, modality in self.load().modalities.items():
                view, present = split.of(name)
                given = modality.as_given(view[present])
                scale = float(given.abs().max()) if given.numel() else 0.0
                back = modality.to_raw(modality.to_state(view[present]))
                torch.testing.assert_close(back, given, rtol=1e-5, atol=1e-5 * scale)

    def test_equal_settings_give_equal_data_under_one_fingerprint(self) -> None:
        """What is derived from the data, such as classifiers, is kept under the fingerprint."""
        first, again = self.load(), self.load()
        assert first.fingerprint == again.fingerprint
        assert len(first.fingerprint) == 64
        for one, other in ((first.train, again.train), (first.test, again.test)):
            assert torch.equal(one.present, other.present)
            for name in one.views:
                (view, present), (same, _) = one.of(name), other.of(name)
                assert torch.equal(view[present], same[present]), name

"""The shipped kinds of modalities pass the contract that outside kinds prove themselves by."""

import numpy as np
import torch

from multiebm.testing import ModalityContract

DRAWS = np.random.default_rng(0)


class TestPicture(ModalityContract):
    kind, declared = "picture", {"layout": "hwc"}
    values = DRAWS.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    wrong = (
        np.full((2, 5, 4, 3), 2.0),
        np.full((2, 5, 4, 3), np.nan),
        np.zeros((2, 5, 5, 3)),
        np.zeros((2, 5, 4, 3), int),
    )

    def test_the_likelihood_is_a_density_times_its_weight(self):
        m = self.modality()
        mean = m.to_state(self.raw())[:1].double()
        like = m.likelihood("normal", 0.5, 2.0)
        x = mean + 0.3 * torch.from_numpy(DRAWS.standard_normal(mean.shape))
        expected = torch.distributions.Normal(mean, 0.5).log_prob(x).sum()
        torch.testing.assert_close(like.log_density(x, mean)[0], expected)
        torch.testing.assert_close(like.log_prob(x, mean)[0], 2 * expected)


class TestGreyPixel(ModalityContract):
    """One coordinate, over which a density can be added up; numbers in a declared range."""

    kind, declared = "picture", {"layout": "chw", "range": [-10, 30]}
    values = DRAWS.uniform(-10, 30, (6, 1, 1, 1))
    wrong = (np.full((2, 1, 1, 1), 31.0), np.full((2, 1, 1, 1), np.inf), np.zeros((2, 1)))


class TestVector(ModalityContract):
    kind = "vector"
    values = DRAWS.normal(5, 3, (6, 1))
    wrong = (np.full((2, 1), np.nan), np.full((2, 1), 1e30), np.zeros((2, 2)), np.zeros(2))

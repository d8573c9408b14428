"""The shipped kinds of modalities pass the contract that outside kinds prove themselves by."""

import numpy as np
import torch

from multiebm.core.random import make_generator
from multiebm.core.tokens import ended, one_hot
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

    def test_draws_of_a_likelihood_have_its_density(self):
        """Minus the entropy of 60 coordinates; a normal draw's log density has variance 1/2 for each."""
        mean = self.modality().to_state(self.raw())[:1].expand(4000, 3, 5, 4)
        like = self.modality().likelihood("normal", 0.5, 2.0)
        drawn = like.log_density(like.sample(mean, make_generator(0)), mean).mean().item()
        assert abs(drawn + 60 * (0.5 + 0.5 * np.log(2 * np.pi * 0.25))) < 4 * (60 / 2 / 4000) ** 0.5


class TestGreyPixel(ModalityContract):
    """One coordinate, over which a density can be added up; numbers in a declared range."""

    kind, declared, scores = "picture", {"layout": "chw", "range": [-10, 30]}, ("bernoulli",)
    values = DRAWS.uniform(-10, 30, (6, 1, 1, 1))
    wrong = (np.full((2, 1, 1, 1), 31.0), np.full((2, 1, 1, 1), np.inf), np.zeros((2, 1)))


class TestVector(ModalityContract):
    kind = "vector"
    values = DRAWS.normal(5, 3, (6, 1))
    wrong = (np.full((2, 1), np.nan), np.full((2, 1), 1e30), np.zeros((2, 2)), np.zeros((2, 1, 1)))


class TestVectorWithGaps(ModalityContract):
    kind, declared = "vector", {"missing": "nan"}
    values = DRAWS.normal(5, 3, (6, 1))
    wrong = (np.full((2, 1), np.inf), np.zeros((2, 2)), np.zeros((2, 1, 1)))


class TestCategory(ModalityContract):
    kind = "category"
    values = np.array(["red", "green", "blue", "red", "red", "green"])
    wrong = (["read", "red"], [1.5, 2.0], [None, "red"], np.zeros((2, 2), int), np.full((2, 3), 0.5))

    def grid(self, mean, scale):
        return torch.eye(3, dtype=torch.float64), 1.0


class TestColumnsOfCategories(ModalityContract):
    kind, declared = "category", {"missing": "nan"}
    values = np.array([["yes", 3], ["no", 10], ["yes", 4], ["no", 3]], dtype=object)
    wrong = ([["yes", 5]], [["no"]], [["yes", 1.5]])

    def grid(self, mean, scale):
        yes, number = torch.eye(2, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
        return torch.cat([yes.repeat_interleave(3, 0), number.repeat(2, 1)], 1), 1.0


class TestCounts(ModalityContract):
    kind = "counts"
    values = DRAWS.poisson(4, (9, 1))
    wrong = (np.full((2, 1), -1), np.full((2, 1), 1.5), np.full((2, 1), np.nan), np.full((2, 1), 1e9), np.zeros((2, 2)))

    def grid(self, mean, scale):
        every = torch.arange(2000, dtype=torch.float64)[:, None]
        m = self.modality()
        return (every.log1p() - m.loc[0]) / m.scale[0], 1.0


class TestCountsWithGaps(TestCounts):
    declared = {"missing": "nan"}
    wrong = (np.full((2, 1), -1), np.full((2, 1), 1.5), np.zeros((2, 2)))


class TestText(ModalityContract):
    """Three words in captions of three at most: 40 captions, over which a density can be added up."""

    kind, declared = "text", {"min_count": 1, "length": 4}
    values = ("red cat", "green cat", "", "red", "red green cat", "Green")
    wrong = ([1, 2], [None, "cat"], np.zeros((2, 2)), [["red", "cat"]], [b"red", 3.0])

    def grid(self, mean, scale):
        every = torch.cartesian_prod(*[torch.arange(5)] * 4)
        return one_hot(ended(every).unique(dim=0), 5).double(), 1.0


class TestFrozenText(TestText):
    declared = {"min_count": 1, "length": 4, "text_mode": "frozen", "missing": "nan"}
    values = ("red cat", "green cat", " ", "red", "red green cat", "Green")
    wrong = ([1, 2], np.zeros((2, 2)), [["red", "cat"]])


class TestTextInPieces(ModalityContract):
    """Of 258 tokens; the grid has captions of one piece and those that begin as the mean; others have < 1e-5."""

    kind, declared = "text", {"tokens": "bpe", "vocabulary": 260, "length": 3}
    values = ("a", "b", "", "ab")

    def grid(self, mean, scale):
        every, none = torch.arange(258), torch.zeros(258, dtype=int)
        first = torch.full_like(none, int(mean[0].argmax()))
        captions = torch.cat([torch.stack([every, none, none], 1), torch.stack([first, every, none], 1)])
        return one_hot(ended(captions).unique(dim=0), 258).double(), 1.0

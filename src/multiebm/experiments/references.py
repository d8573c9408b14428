"""BibTeX of the papers whose methods are rows of the table."""

MVAE = """@inproceedings{wu2018mvae,
  title = {Multimodal Generative Models for Scalable Weakly-Supervised Learning},
  author = {Wu, Mike and Goodman, Noah},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2018},
  note = {arXiv:1802.05335}
}"""
MMVAE = """@inproceedings{shi2019mmvae,
  title = {Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models},
  author = {Shi, Yuge and Siddharth, N. and Paige, Brooks and Torr, Philip},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2019},
  note = {arXiv:1911.03393}
}"""
DREG = """@inproceedings{tucker2019dreg,
  title = {Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives},
  author = {Tucker, George and Lawson, Dieterich and Gu, Shixiang and Maddison, Chris J.},
  booktitle = {International Conference on Learning Representations},
  year = {2019},
  note = {arXiv:1810.04152}
}"""
MMJSD = """@inproceedings{sutter2020mmjsd,
  title = {Multimodal Generative Learning Utilizing Jensen-Shannon-Divergence},
  author = {Sutter, Thomas M. and Daunhawer, Imant and Vogt, Julia E.},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020},
  note = {arXiv:2006.08242}
}"""
MOPOE = """@inproceedings{sutter2021mopoe,
  title = {Generalized Multimodal {ELBO}},
  author = {Sutter, Thomas M. and Daunhawer, Imant and Vogt, Julia E.},
  booktitle = {International Conference on Learning Representations},
  year = {2021},
  note = {arXiv:2105.02470}
}"""
MVTCAE = """@inproceedings{hwang2021mvtcae,
  title = {Multi-View Representation Learning via Total Correlation Objective},
  author = {Hwang, HyeongJoo and Kim, Geon-Hyeong and Hong, Seunghoon and Kim, Kee-Eung},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021}
}"""
MMVAE_PLUS = """@inproceedings{palumbo2023mmvaeplus,
  title = {{MMVAE+}: Enhancing the Generative Quality of Multimodal {VAE}s without Compromises},
  author = {Palumbo, Emanuele and Daunhawer, Imant and Vogt, Julia E.},
  booktitle = {International Conference on Learning Representations},
  year = {2023}
}"""
CMVAE = """@inproceedings{palumbo2024cmvae,
  title = {Deep Generative Clustering with Multimodal Diffusion Variational Autoencoders},
  author = {Palumbo, Emanuele and Manduchi, Laura and Laguna, Sonia and Chopard, Daphn{\\'e} and Vogt, Julia E.},
  booktitle = {International Conference on Learning Representations},
  year = {2024}
}"""
MWBVAE = """@inproceedings{qiu2025mwbvae,
  title = {Multimodal Variational Autoencoder: a Barycentric View},
  author = {Qiu, Peijie and Zhu, Wenhui and Kumar, Sayantan and others},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year = {2025},
  note = {arXiv:2412.20487}
}"""
CODEVAE = """@inproceedings{mancisidor2025codevae,
  title = {Aggregation of Dependent Expert Distributions in Multimodal Variational Autoencoders},
  author = {Mancisidor, Rogelio A. and Jenssen, Robert and Yu, Shujian and Kampffmeyer, Michael},
  booktitle = {International Conference on Machine Learning},
  year = {2025},
  note = {arXiv:2505.01134}
}"""
HELVAE = """@misc{vo2026helvae,
  title = {Hellinger Multimodal Variational Autoencoders},
  author = {Vo, Huyen Khanh and Valera, Isabel},
  year = {2026},
  note = {arXiv:2601.06572}
}"""
JMVAE = """@article{suzuki2016jmvae,
  title = {Joint Multimodal Learning with Deep Generative Models},
  author = {Suzuki, Masahiro and Nakayama, Kotaro and Matsuo, Yutaka},
  journal = {arXiv preprint},
  year = {2016},
  note = {arXiv:1611.01891}
}"""
DMVAE = """@inproceedings{lee2021dmvae,
  title = {Private-Shared Disentangled Multimodal {VAE} for Learning of Latent Representations},
  author = {Lee, Mihee and Pavlovic, Vladimir},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops},
  year = {2021},
  note = {arXiv:2012.13024}
}"""
MVEBM = """@inproceedings{yuan2024mvebm,
  title = {Learning Multimodal Latent Generative Models with Energy-Based Prior},
  author = {Yuan, Shiyu and Cui, Jiali and Li, Hanao and Han, Tian},
  booktitle = {European Conference on Computer Vision},
  year = {2024},
  note = {arXiv:2409.19862}
}"""
MVEBM_MCMC = """@article{yuan2024mcmc,
  title = {Learning Multimodal Latent Space with {EBM} Prior and {MCMC} Inference},
  author = {Yuan, Shiyu and Lipizzi, Carlo and Han, Tian},
  journal = {arXiv preprint},
  year = {2024},
  note = {arXiv:2408.10467}
}"""
COOPERATIVE = (
    """@article{multimodalebm2026,
  title = {Learning Multimodal Energy-Based Model with Multimodal Variational Auto-Encoder via {MCMC} Revision},
  author = {Cui, Jiali and Lao, Zhiqiang and Yu, Heather},
  journal = {Transactions on Machine Learning Research},
  year = {2026},
  note = {arXiv:2605.00644}
}""",
    """@inproceedings{cui2023dualmcmc,
  title = {Learning Energy-based Model via Dual-{MCMC} Teaching},
  author = {Cui, Jiali and Han, Tian},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023},
  note = {arXiv:2312.02469}
}""",
)

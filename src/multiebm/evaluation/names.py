"""Names of results, said once. Those of joint samples begin with their source, as in "gen/fcd"."""

# test items, decoder means of prior draws, these after the data chain
REAL, GEN, EBM = SOURCES = ("real", "gen", "ebm")
COHERENCE, ENTROPY, VARIETY, FCD, FID = "joint_coherence", "label_entropy", "variety", "fcd", "fid"
COND, REFINED, CLAMPED = "cond", "cond_refined", "cond_ebm"  # completed by the posterior, latent chain, data chain
KL, ACTIVE, UNITS = "latent/kl", "latent/active_units", "latent/units"
PROBE, LEAKAGE = "latent_classification", "private_leakage"
ACCURACY = "judge/accuracy"

"""The commands of ``qsim``, a module a concern; ``qsim.cli`` gathers them."""

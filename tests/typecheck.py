"""beartype as jaxtyping's hook calls it: an int will do where a float is meant (PEP 484's numeric tower)."""

from beartype import BeartypeConf, beartype

typecheck = beartype(conf=BeartypeConf(is_pep484_tower=True))

"""The claims of the paper, their rules and the verdicts of the records: the ledger."""

from abpn_lib.claims.evidence import DATASETS
from abpn_lib.claims.ledger import Claim, anchor, claim, claims, judge, ledger, to_json
from abpn_lib.claims.page import page
from abpn_lib.claims.shapes import Judgement, Verdict

__all__ = [
    "DATASETS", "Claim", "Judgement", "Verdict", "anchor", "claim", "claims", "judge", "ledger", "page", "to_json",
]

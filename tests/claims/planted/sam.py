"""What the rule of SAM must say of planted figures."""

from steepest.claims.sam import PROBLEMS, VARIANTS

from . import NO, PARTLY, spread

CASES = [f"{name}_{variant.lower()}" for name in PROBLEMS for variant in VARIANTS]
WINNER = {
    "seeds": 5,
    **{k: v for case in CASES for k, v in spread(f"{case}_order_sde", 0.9, 1.1).items()},
    **{k: v for case in CASES for k, v in spread(f"{case}_order_sgd", 0.4, 0.6).items()},
    **{k: v for case in CASES for k, v in spread(f"{case}_log10_error_without_rho", 0.5, 1.0).items()},
    **{f"near_percent_left_{name}": 10.0 for name in ("sgd", "sam", "usam", "dnsam", "sam_sde")},
    **spread("near_points_fewer_left_sam", 80.0, 100.0),
    **spread("near_points_fewer_left_dnsam", 80.0, 100.0),
}

_FREE = spread("near_points_fewer_left_sam", 30.0, 60.0)
_SLOW = spread("quadratic_usam_order_sde", 0.7, 1.0)

#: Each part by itself; nothing but runs that are held; nothing at all.
CHANGES = [
    (_SLOW, PARTLY),
    (_FREE, PARTLY),
    (spread("logistic_dnsam_order_sgd", 0.6, 0.8), PARTLY),
    (spread("logistic_sam_log10_error_without_rho", -0.1, 0.3), PARTLY),
    ({**_SLOW, **_FREE}, PARTLY),
    ({**_SLOW, **spread("logistic_sam_log10_error_without_rho", -0.1, 0.3)}, PARTLY),
    ({**_SLOW, **_FREE, **spread("logistic_sam_log10_error_without_rho", -0.1, 0.3)}, NO),
]

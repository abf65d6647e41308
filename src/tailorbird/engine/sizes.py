"""How much is held at once: what the engine cuts its work by, and the plan counts memory with. No torch."""

LOGIT_ROWS = 128  # positions whose logits are held at once: 128 x 49,152 x 4 bytes = 25 MB, which malloc reuses
LOSS_ROWS = 2 * LOGIT_ROWS  # in the cross entropy: of these logits only WIDE_ROWS are in fp32
WIDE_ROWS = 16  # 16 x 49,152 x 4 bytes = 3 MB, which stay in the cache over the passes
EXPLICIT_WEIGHTS = 4_000_000  # attention weights (rows x heads x queries x keys) up to which they are held

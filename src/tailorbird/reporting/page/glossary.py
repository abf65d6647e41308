"""The words of the page for someone who meets them for the first time."""

from __future__ import annotations

from tailorbird.types import JSON

WORDS = {
    "base": "The language model as it was before anything was done to it.",
    "contestant": "Anything that answers the rows and is compared: a technique, a reference, or what you have today.",
    "technique": "A way to make the base do your task, from a better prompt to training all of its weights.",
    "reference": "A simple method without a language model. A technique that does not beat it is not worth its cost.",
    "imported": "Answers that you brought along, such as those of the system you use today.",
    "row": "One example of your data: an input and the answer that is wanted.",
    "Train": "The rows that techniques learn from.",
    "Tuning": "Rows kept out of Train, used to decide when to stop and which checkpoint or prompt to keep.",
    "Validation": "Rows that no technique learned from. The choice among contestants is made on them.",
    "Test": "Rows that nothing was decided on. They are opened once, after the choice was written down.",
    "95 % interval": "The range that holds the true value in 95 of 100 such comparisons. Two overlapping "
    "intervals do not "
    "mean “equal”.",
    "difference to best": "How far a contestant is from the best technique on the same rows; being paired, it "
    "is sharper than "
    "comparing two intervals.",
    "p": "How often luck alone would give a difference this large if there were none. Adjusted for the number "
    "of comparisons (Holm).",
    "margin": "The loss you accept for something cheaper. A contestant is “as good” when the whole interval of its "
    "difference lies above minus the margin.",
    "smallest detectable difference": "What these rows can show at all. Smaller differences may exist and stay unseen.",
    "accuracy": "The share of rows with the right label.",
    "exact match": "The share of answers that equal the wanted one after case, articles and punctuation are put aside.",
    "ROUGE-L": "How much of the wanted text's word order the answer repeats; 1 is identical. It judges words, not "
    "truth.",
    "macro F1": "Precision and recall averaged over labels, so that rare labels count as much as frequent ones.",
    "calibration error": "How far the stated confidence is from the share that is right. 0 is honest confidence.",
    "forgetting": "How much worse the customized model became at general text that has nothing to do with the task.",
    "bits per byte": "How many bits the model needs to predict one byte of text. Lower is better; an untouched base "
    "changes by exactly 0.",
    "drift": "How far the customized model's next words are from the base's along the base's own answers to general "
    "prompts: mean KL divergence a token, in nats. 0 is the same model; it says how much changed, not whether it got "
    "worse.",
    "latency": "Time to answer one request alone on the machine of this run. p95: 95 of 100 requests are faster.",
    "FLOP": "One arithmetic operation; GFLOP are thousands of millions. A machine-independent measure of what "
    "one request costs.",
    "zero_shot": "The base with the instruction alone.",
    "few_shot": "The base with the instruction and a few examples in the prompt. Nothing is trained.",
    "prompt_tuning": "A few vectors placed before the prompt are trained; the base stays as it is.",
    "p_tuning": "A small network makes the few vectors before the prompt while it is trained; then only they are kept.",
    "prefix_tuning": "In every layer a few keys and values before the text's own are trained; the base stays as it is.",
    "lora": "Small matrices beside the base's weights are trained; the base stays as it is and they can be taken "
    "off again.",
    "sft": "Supervised fine-tuning: all weights of the base are trained on the examples.",
    "majority": "Always answers the most frequent label. Being no better than this means: nothing was learned.",
    "tfidf": "Counts words and word pairs, and weighs them with logistic regression. Fast, small, often hard to beat.",
    "seed": "Where a technique's dice start. Another seed gives another customization from the same rows and settings; "
    "how far their scores lie apart is the noise floor.",
    "supervised tokens": "The part of a row that the model learns to write; the rest is only read.",
}


def used(comparison: JSON) -> list[tuple[str, str]]:
    """Words that this page uses: other techniques and other tasks' metrics are left out."""
    present = {row.get("technique") or row["label"] for row in comparison.get("rows", [])}
    conditional = {
        "zero_shot", "few_shot", "prompt_tuning", "p_tuning", "prefix_tuning", "lora", "sft", "majority", "tfidf",
    }  # fmt: skip
    task = comparison.get("task")
    metrics = {
        "accuracy": "classify",
        "macro F1": "classify",
        "calibration error": "classify",
        "exact match": "answer",
        "ROUGE-L": "write",
    }
    return [
        (word, text)
        for word, text in WORDS.items()
        if (word not in conditional or word in present) and (word not in metrics or metrics[word] == task)
    ]

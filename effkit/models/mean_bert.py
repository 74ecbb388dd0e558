"""BERT as a classifier over the average of its tokens, for encoders that were trained so (sentence-transformers).

BertForSequenceClassification looks at the first token through a pooling layer, which such encoders leave untrained.
Macro-F1 of MiniLM fine-tuned on healthcare with 8 and 32 labels a class, one seed: stored pooler 0.557 and 0.666, first
token without it 0.594 and 0.714, average 0.620 and 0.716. The model type is one of its own, so that a program which does
not know it says so instead of reading the first token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertModel, BertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto.configuration_auto import CONFIG_MAPPING


class MeanBertConfig(BertConfig):
    model_type = "effkit-mean-bert"


class MeanBertForSequenceClassification(BertPreTrainedModel):
    """Logits [batch, classes] from the mean of the last hidden states over the tokens that attention_mask keeps."""

    config_class = MeanBertConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = BertModel(config, add_pooling_layer=False)
        dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **given: Any,
    ) -> Any:
        outputs = self.bert(input_ids, attention_mask=attention_mask, return_dict=True, **given)
        hidden = outputs.last_hidden_state
        if attention_mask is None:
            mean = hidden.mean(dim=1)
        else:
            mask = attention_mask.to(hidden.dtype)[..., None]
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        logits = self.classifier(self.dropout(mean))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        result = SequenceClassifierOutput(
            loss=loss,  # type: ignore[arg-type]
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return result.to_tuple() if return_dict is False else result


CONFIG_MAPPING.register(MeanBertConfig.model_type, MeanBertConfig, exist_ok=True)
OWN = {MeanBertForSequenceClassification.__name__: MeanBertForSequenceClassification}

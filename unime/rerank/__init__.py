"""The reranker: a model that is asked about candidates, one at a time or in lists."""

from unime.models.model_config import RerankConfig
from unime.models.questions import RerankQuestion
from unime.models.rerank_model import RerankModel
from unime.rerank.reranker import Ranking, Reranker

__all__ = ["Ranking", "RerankConfig", "RerankModel", "RerankQuestion", "Reranker"]
